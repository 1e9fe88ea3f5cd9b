"""A preference pair from a pivotal-token record: the row that is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pts_core.pairs import measured_pair

Pair = dict[str, Any]

_PROVENANCE = (
    *("prob_before", "prob_after", "prob_delta", "is_positive", "token_prob", "interval"),
    *("task_type", "model_id", "dataset_id", "dataset_item_id", "trace_id", "position"),
    *("prompt_length", "sampling"),
)


def make_pair(record: Mapping[str, Any], confidence: float) -> Pair | str:
    """The row of a record, or the reason why there is none. Its `text_exact` is yet unknown."""
    pair = measured_pair(record, confidence)
    if isinstance(pair, str):
        return pair
    return {
        "prompt": record["pivot_context"],
        "chosen": pair.better.token,
        "rejected": pair.worse.token,
        "prompt_ids": record["context_ids"],
        "chosen_ids": [pair.better.token_id],
        "rejected_ids": [pair.worse.token_id],
        "text_exact": None,
        "prob_chosen": pair.better.prob,
        "prob_rejected": pair.worse.prob,
        "rollouts_chosen": pair.better.rollouts,
        "rollouts_rejected": pair.worse.rollouts,
        "interval": list(pair.interval),
        "metadata": {
            "original_query": record["query"],
            **{name: record.get(name) for name in _PROVENANCE},
        },
    }
