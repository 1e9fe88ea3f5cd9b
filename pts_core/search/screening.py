"""The start that strategies share: is the problem worth searching, and which traces to search."""

from __future__ import annotations

from collections.abc import Sequence

from pts_core.errors import UsageError
from pts_core.estimates import Estimate
from pts_core.search.conversation import Task
from pts_core.types import Rollout, Trace


def reason_to_skip(start: Estimate, min_prob: float, max_prob: float) -> str:
    """Why a problem with this V(0) is not searched; "" if it is."""
    if start.prob < min_prob:
        return "too hard"
    if start.prob > max_prob:
        return "too easy"
    return ""


def choose_traces(task: Task, rollouts: Sequence[Rollout], count: int) -> tuple[Trace, ...]:
    """The given traces, or `count` of the rollouts from the prompt.

    Right and wrong ones take turns, beginning with the verdict of the first rollout, as long as
    there are both: wrong traces have the negative pivots.
    """
    if task.traces is not None:
        return task.traces
    same = [r for r in rollouts if r.correct == rollouts[0].correct]
    other = [r for r in rollouts if r.correct != rollouts[0].correct]
    chosen: list[Rollout] = []
    while len(chosen) < count and (same or other):
        turn = (same, other) if len(chosen) % 2 == 0 else (other, same)
        chosen.append((turn[0] or turn[1]).pop(0))
    return tuple(Trace(str(i), r.ids, r.correct, r.truncated) for i, r in enumerate(chosen))


def check_common_options(
    *,
    prob_threshold: float,
    num_samples: int,
    min_prob: float,
    max_prob: float,
    traces_per_problem: int,
    confidence: float,
) -> None:
    """Raises UsageError for a value that makes no sense, naming the option."""
    if not 0 < prob_threshold <= 1:
        raise UsageError(f"--prob-threshold must be above 0 and at most 1, not {prob_threshold}")
    if num_samples < 1:
        raise UsageError(f"--num-samples must be at least 1, not {num_samples}")
    if not 0 <= min_prob <= max_prob <= 1:
        raise UsageError(
            f"--min-prob {min_prob} and --max-prob {max_prob} must satisfy 0 <= min <= max <= 1"
        )
    if traces_per_problem < 1:
        raise UsageError(f"--traces-per-problem must be at least 1, not {traces_per_problem}")
    if not 0 < confidence < 1:
        raise UsageError(f"--confidence must lie between 0 and 1, not {confidence}")
