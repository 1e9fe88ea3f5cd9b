"""A trace as a chain of places where a rollout can leave it, and what is believed about each.

By V(t) = p_t · V(t+1) + (1 − p_t) · A(t), every success probability along a trace follows from
the branch values A and the known verdict of the trace. The token probabilities p are known too,
so how many rollouts *follow* the trace carries no information: a rollout that leaves at j is a
sample of A(j), and through A(j) of V at every position it passed. So all rollouts are drawn as
branches, and each is credited once, to the link where it leaves.

The chain has a link for every candidate token and one for each stretch of tokens between two
candidates. A stretch has one branch value, that of leaving it anywhere, and is sampled by drawing
the position at which to leave in proportion to its probability: no position goes unsampled.

Beliefs are those of a hidden Markov model along the chain: V after a link and the branch value of
the link give V before it. Their prior says that most branch values lie near V, since most tokens
decide nothing. It guides where to sample; no reported number depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pts_core.types import Rollout, TokenIds

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

VALUES = np.linspace(0, 1, 33)  # the grid of V
BRANCHES = (np.arange(25) + 0.5) / 25  # the grid of A
LOG_BRANCHES, LOG_REST = np.log(BRANCHES), np.log1p(-BRANCHES)
# The prior of a branch value: a share is uniform, the rest lies within this width of V. A long
# trace has more candidates, but hardly more tokens that decide: so many may lie anywhere.
SHARE_ANYWHERE, MOST_ANYWHERE, WIDTH_NEAR = 0.1, 5, 0.06
# Leaving with less than this probability is rounding: a backend may have no token left to take.
NEVER = 1e-6
ROUNDING = 1e-9  # 1 - 0.8 is a hair below 0.2 in floating point


def _branch_prior(candidates: int) -> Floats:
    """P(A | V after the link), shape (33, 25), in a trace of so many candidates."""
    share = min(SHARE_ANYWHERE, MOST_ANYWHERE / max(candidates, 1))
    near = np.exp(-((BRANCHES - VALUES[:, None]) ** 2) / (2 * WIDTH_NEAR**2))
    near /= near.sum(axis=1, keepdims=True)
    return share / len(BRANCHES) + (1 - share) * near


DISTANCE = np.abs(VALUES[:, None] - BRANCHES)


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What the rollouts so far say of each of the M links; all have shape (M,).

    `after` is the mean of V after the link, `branches` and `branch_variances` are of its A, and
    `pivotal` is the probability that its abs(delta) reaches the threshold.
    """

    after: Floats
    branches: Floats
    branch_variances: Floats
    pivotal: Floats


class Chain:
    """The M links of a trace of T tokens, and the verdicts of the rollouts that left in each.

    `starts` and `ends` bound a link's positions, `leaving` is the probability that a rollout at
    its start leaves within it, `candidates` are the links that may hold a pivotal token: those
    with 1 − p ≥ threshold, since abs(delta) ≤ 1 − p.
    """

    def __init__(self, probs: Floats, verdict: bool, threshold: float) -> None:
        self.verdict = verdict
        self.threshold = threshold
        self.leave_probs = np.where(1 - probs < NEVER, 0.0, 1 - probs)
        is_candidate = self.leave_probs >= threshold - ROUNDING
        begins = is_candidate.copy()  # a link begins at every candidate and right after it
        begins[1:] |= is_candidate[:-1]
        begins[:1] = True
        self.starts: Ints = np.flatnonzero(begins)
        self.ends: Ints = np.append(self.starts[1:], len(probs))
        self.candidates: Ints = np.flatnonzero(is_candidate[self.starts])
        self._prior = _branch_prior(len(self.candidates))
        self.link_of: Ints = np.cumsum(begins) - 1
        self.leaving = np.array([self._leave_weights(m).sum() for m in range(len(self.starts))])
        self.rollouts = np.zeros(len(self.starts))
        self.successes = np.zeros(len(self.starts))
        self._places = [self._place(leave) for leave in self.leaving]

    def _leave_weights(self, link: int) -> Floats:
        return leave_weights(self.leave_probs[self.starts[link] : self.ends[link]])

    def credit(self, link: int, rollouts: Sequence[Rollout]) -> None:
        """Counts rollouts that left in this link."""
        self.rollouts[link] += len(rollouts)
        self.successes[link] += sum(r.correct for r in rollouts)

    def leave_positions(self, link: int, count: int, offset: float) -> Ints:
        """Where `count` rollouts that leave in this link do so."""
        positions: Ints = self.starts[link] + systematic(self._leave_weights(link), count, offset)
        return positions

    def beliefs(self) -> Beliefs:
        """The forward-backward algorithm along the chain, from the verdict and back."""
        count = len(self.starts)
        failures = self.rollouts - self.successes
        logs = np.outer(self.successes, LOG_BRANCHES) + np.outer(failures, LOG_REST)
        evidence = np.exp(logs - logs.max(axis=1, keepdims=True, initial=-np.inf))
        later = np.zeros((count + 1, len(VALUES)))  # P(V at the end of the link | later links)
        later[count, -1 if self.verdict else 0] = 1
        for m in range(count - 1, -1, -1):
            joint = self._prior * evidence[m] * later[m + 1][:, None]
            later[m] = self._spread(m, joint)
        result = Beliefs(*(np.zeros(count) for _ in range(4)))
        earlier = np.ones(len(VALUES))  # likelihood of earlier links given V at the link's start
        for m in range(count):
            place, rest = self._places[m]
            message = (
                self._prior
                * evidence[m]
                * (earlier[place] * (1 - rest) + earlier[place + 1] * rest)
            )
            self._summarize(m, message * later[m + 1][:, None], result)
            earlier = message.sum(axis=1)
            earlier /= earlier.max()
        return result

    def _place(self, leave: float) -> tuple[Ints, Floats]:
        """Where V before a link falls on the grid, for each V after it and each A: (33, 25)."""
        exact = ((1 - leave) * VALUES[:, None] + leave * BRANCHES) * (len(VALUES) - 1)
        place = np.minimum(exact.astype(np.int64), len(VALUES) - 2)
        return place, exact - place

    def _spread(self, link: int, joint: Floats) -> Floats:
        """The distribution of V before a link from that of V after it and A."""
        place, rest = self._places[link]
        size = len(VALUES)
        before = np.bincount(place.ravel(), (joint * (1 - rest)).ravel(), size)
        before += np.bincount(place.ravel() + 1, (joint * rest).ravel(), size)
        return np.asarray(before / before.sum())

    def _summarize(self, link: int, joint: Floats, result: Beliefs) -> None:
        joint = joint / joint.sum()
        branch = joint.sum(axis=0)
        mean = branch @ BRANCHES
        result.after[link] = joint.sum(axis=1) @ VALUES
        result.branches[link] = mean
        result.branch_variances[link] = branch @ (BRANCHES - mean) ** 2
        result.pivotal[link] = joint[
            self.leaving[link] * DISTANCE >= self.threshold - ROUNDING
        ].sum()

    def allocate(self, is_open: Bools, count: int, beliefs: Beliefs) -> Ints:
        """How `count` further rollouts go to the links, so that open links gain most.

        Neyman allocation: in proportion to what a link contributes to the variance of the open
        deltas and to one over the root of a rollout's length, less what the link has already.
        `is_open` and the result have shape (M,).
        """
        spread = np.maximum(beliefs.branch_variances * (self.rollouts + 3), 0.02)
        length = self.ends[-1] - (self.starts + self.ends) / 2
        desire = np.sqrt(self._influence(is_open) * spread / np.maximum(length, 1))
        return fill_up(self.rollouts, desire, count)

    def _influence(self, is_open: Bools) -> Floats:
        """Sum over the open links of the squared derivative of their delta to each A."""
        influence, upstream = np.zeros(len(is_open)), 0.0
        for m, leave in enumerate(self.leaving):
            influence[m] = leave**2 * (upstream + is_open[m])
            upstream = upstream * (1 - leave) ** 2 + leave**2 * is_open[m]
        return influence


def leave_weights(leave_probs: Floats) -> Floats:
    """Probability of leaving first at each position, of a rollout that starts at the first."""
    stay = np.cumprod(1 - leave_probs)
    weights: Floats = leave_probs * np.concatenate([[1.0], stay[:-1]])
    return weights


def systematic(weights: Floats, count: int, offset: float) -> Ints:
    """`count` indices: each gets its expected number by weight, rounded up or down.

    Systematic sampling by an offset uniform in [0, 1): unbiased, and never more variable than
    independent draws would be in a mean over ordered strata.
    """
    cumulative = np.cumsum(weights)
    points = (np.arange(count) + offset) / count * cumulative[-1]
    indices: Ints = np.searchsorted(cumulative, points, side="right")
    return indices


def left_at(rollout: TokenIds, trace: TokenIds) -> int | None:
    """Where a rollout from the prompt leaves the trace; None if it never does."""
    differing = (t for t, (a, b) in enumerate(zip(rollout, trace, strict=False)) if a != b)
    return next(differing, None)


def fill_up(have: Floats, desire: Floats, count: int) -> Ints:
    """`count` whole units, so that the totals come as near to the desired proportions as they can
    without taking anything away."""
    active = desire > 0
    added = np.zeros(len(have))
    while active.any():
        target = (have[active].sum() + count) * desire / desire[active].sum()
        over = active & (target < have)
        if not over.any():
            added[active] = (target - have)[active]
            break
        active &= ~over
    whole = np.floor(added).astype(np.int64)
    rest = np.argsort(-(added - whole), kind="stable")[: max(0, count - whole.sum())]
    whole[rest[active[rest]]] += 1
    return whole
