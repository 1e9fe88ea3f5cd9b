"""Records of pivotal tokens of a made-up model, for tests of what is made from records."""

from typing import Any

SAMPLING = {
    **{"temperature": 0.8, "top_p": 1.0, "top_k": 0, "min_p": 0.0},
    **{"horizon": 512, "seed": 0},
}


def alternative(token: str, token_id: int, prob: float, rollouts: int, share: float = 0.3) -> Any:
    interval = [max(0.0, prob - 0.2), min(1.0, prob + 0.2)]
    return {
        **{"token": token, "token_id": token_id, "token_prob": share},
        **{"prob": prob, "rollouts": rollouts, "interval": interval},
    }


def record(
    token: str, token_id: int, before: float, after: float, *alternatives: Any, **changed: Any
) -> dict[str, Any]:
    """A record after the prompt (7, 8) and the answer (9,), changed at will."""
    return {
        "model_id": "toy",
        "query": "1 + 1?",
        "dataset_id": "sums",
        "dataset_item_id": "0",
        "task_type": "arithmetic",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "pivot_context": "1 + 1? so",
        "pivot_token": token,
        "pivot_token_id": token_id,
        "prob_before": before,
        "prob_after": after,
        "prob_delta": after - before,
        "is_positive": after > before,
        "context_ids": [7, 8, 9],
        "prompt_length": 2,
        "position": 1,
        "trace_id": "0/0",
        "trace_success": True,
        "token_prob": 0.4,
        "interval": [after - before - 0.1, after - before + 0.1],
        "rollouts": [100, 50],
        "alternatives": list(alternatives),
        "sampling": SAMPLING,
        "pts_version": "0.1.0",
        "schema_version": 1,
        **changed,
    }


RAISES = record(" 2", 12, 0.5, 0.9, alternative(" 3", 13, 0.1, 40), alternative(" 4", 14, 0.5, 4))
LOWERS = record(
    " 3", 13, 0.5, 0.1, alternative(" 2", 12, 0.9, 40), query="2 + 0?", context_ids=[7, 8, 10]
)
NOT_APART = record(" 5", 15, 0.3, 0.6, alternative(" 6", 16, 0.5, 3), position=2)
RECORDS = [RAISES, LOWERS, NOT_APART]
