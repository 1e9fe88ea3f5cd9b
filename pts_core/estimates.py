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

    def __add__(self, other: Estimate) -> Estimate:
        """From both samples of the same probability."""
        if self.exact:
            return self
        return Estimate(self.successes + other.successes, self.rollouts + other.rollouts)

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
        alternative(other, estimate(group), scores.prob_of(position, other), confidence)
        for other, group in taken.items()
    ]
    return tuple(sorted(found, key=lambda a: (-(a.token_prob or 0.0), a.token_id)))


def alternative(
    token_id: int, value: Estimate, token_prob: float | None, confidence: float
) -> Alternative:
    """A token with the success probability that was estimated of it."""
    return Alternative(token_id, token_prob, value.prob, value.rollouts, value.interval(confidence))


def difference_score(after: Estimate, before: Estimate, difference: float) -> float:
    """Standard normal score of the observed after − before against a true `difference`.

    The score test with maximum-likelihood estimates under that difference (Miettinen and
    Nurminen 1985, Statistics in Medicine 4:213). An exact estimate adds no variance.
    """
    observed = after.prob - before.prob - difference
    variance = _constrained_variance(after, before, difference)
    if variance < 1e-12:
        return 0.0 if abs(observed) < 1e-9 else math.copysign(math.inf, observed)
    return observed / math.sqrt(variance)


def score_interval(after: Estimate, before: Estimate, confidence: float) -> Interval:
    """The differences that the score test does not reject: an interval for after − before.

    It holds for one pair of independent samples chosen beforehand, not for the largest of many.
    """
    z = _normal_quantile(confidence)
    observed = after.prob - before.prob

    def bound(limit: float, sign: float) -> float:
        if abs(difference_score(after, before, limit)) <= z:
            return limit
        inside, outside = observed, limit
        while abs(outside - inside) > 1e-6:
            middle = (inside + outside) / 2
            if sign * difference_score(after, before, middle) <= z:
                inside = middle
            else:
                outside = middle
        return (inside + outside) / 2

    edge = 1 - 1e-9
    return (bound(-edge, 1.0), bound(edge, -1.0))


def _constrained_variance(after: Estimate, before: Estimate, difference: float) -> float:
    if after.exact:
        p = min(max(after.prob - difference, 0.0), 1.0)
        return p * (1 - p) / before.rollouts
    n1, n0 = after.rollouts, before.rollouts
    p0 = _constrained_proportion(after, before, difference)
    p1 = p0 + difference
    total = n1 + n0
    return (p1 * (1 - p1) / n1 + p0 * (1 - p0) / n0) * total / (total - 1)


def _constrained_proportion(after: Estimate, before: Estimate, difference: float) -> float:
    """The likeliest p_before given p_after = p_before + difference: the root of a cubic that lies
    between 0 and 1 (Miettinen and Nurminen 1985, appendix I)."""
    n1, n0, k1, k0 = after.rollouts, before.rollouts, after.successes, before.successes
    l3 = n1 + n0
    l2 = (n1 + 2 * n0) * difference - l3 - (k1 + k0)
    l1 = (n0 * difference - l3 - 2 * k0) * difference + k1 + k0
    l0 = k0 * difference * (1 - difference)
    q = l2**3 / (3 * l3) ** 3 - l1 * l2 / (6 * l3**2) + l0 / (2 * l3)
    p = math.copysign(math.sqrt(max(0.0, (l2 / (3 * l3)) ** 2 - l1 / (3 * l3))), q)
    angle = (math.pi + math.acos(max(-1.0, min(1.0, q / p**3 if p else 0.0)))) / 3
    root = 2 * p * math.cos(angle) - l2 / (3 * l3)
    return min(max(root, 0.0, -difference), 1.0, 1 - difference)


def binomial_tail(successes: int, rollouts: int, prob: float) -> float:
    """Probability of at most `successes` in that many rollouts."""
    return sum(
        math.comb(rollouts, k) * prob**k * (1 - prob) ** (rollouts - k)
        for k in range(successes + 1)
    )
