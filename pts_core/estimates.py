"""Success probabilities from verdicts, and intervals for them and for their differences."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

from pts_core.types import Alternative, Rollout, TokenScores

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A success probability from `successes` of `rollouts` verdicts.

    `exact` marks a value that is known without sampling: V(T) is the trace's own verdict.
    """

    successes: int
    rollouts: int
    exact: bool = False

    @property
    def prob(self) -> float:
        return self.successes / self.rollouts

    def interval(self, confidence: float) -> Interval:
        if self.exact:
            return (self.prob, self.prob)
        return wilson_interval(self.successes, self.rollouts, confidence)


def estimate(rollouts: Iterable[Rollout]) -> Estimate:
    verdicts = [rollout.correct for rollout in rollouts]
    return Estimate(sum(verdicts), len(verdicts))


@lru_cache
def _normal_quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson_interval(successes: int, rollouts: int, confidence: float) -> Interval:
    """Score interval of a binomial proportion (Wilson 1927, JASA 22:209)."""
    if rollouts == 0:
        return (0.0, 1.0)
    z = _normal_quantile(confidence)
    p, shrink = successes / rollouts, 1 + z * z / rollouts
    centre = (p + z * z / (2 * rollouts)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / rollouts + z * z / (4 * rollouts**2))
    # The bound at an extreme count is exactly 0 or 1; rounding must not move it inside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == rollouts else min(1.0, centre + half)
    return (low, high)


def difference_interval(before: Estimate, after: Estimate, confidence: float) -> Interval:
    """Interval of after − before for independent samples.

    The hybrid score method (Newcombe 1998, Statistics in Medicine 17:873, method 10). It holds
    for one pair chosen beforehand, not for the largest of many.
    """
    low_b, high_b = before.interval(confidence)
    low_a, high_a = after.interval(confidence)
    delta = after.prob - before.prob
    return (
        max(-1.0, delta - math.hypot(after.prob - low_a, high_b - before.prob)),
        min(1.0, delta + math.hypot(high_a - after.prob, before.prob - low_b)),
    )


def alternatives_among(
    rollouts: Iterable[Rollout],
    token_id: int,
    scores: TokenScores,
    position: int,
    confidence: float,
) -> tuple[Alternative, ...]:
    """The alternatives to `token_id` that rollouts from prefix `position` took, by token_prob.

    Every rollout that drew another token is a sample of that token's success probability, at no
    cost (Phi-4 Technical Report, footnote 7).
    """
    taken: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        if rollout.ids and rollout.ids[0] != token_id:
            taken.setdefault(rollout.ids[0], []).append(rollout)
    found = [
        _alternative(other, estimate(group), scores.prob_of(position, other), confidence)
        for other, group in taken.items()
    ]
    return tuple(sorted(found, key=lambda a: (-(a.token_prob or 0.0), a.token_id)))


def _alternative(
    token_id: int, value: Estimate, token_prob: float | None, confidence: float
) -> Alternative:
    return Alternative(token_id, token_prob, value.prob, value.rollouts, value.interval(confidence))
