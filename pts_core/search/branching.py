"""The search that draws branches: proof first, then sequential exploration, then confirmation.

1. *Proof.* By delta_t = (1 − p_t) · (V(t+1) − A(t)), abs(delta_t) ≤ 1 − p_t: tokens with a larger
   p_t than 1 − threshold are not pivotal, whatever else is true.
2. *Exploration.* The rest draw branches in small rounds, where they tell most (see chain.py).
   A candidate drops out when it is unlikely to be pivotal, and goes on when it is likely to be.
3. *Confirmation.* A likely pivot gets fresh rollouts, of a number fixed before the first of them:
   branches at t for A(t), and for V(t+1) branches at positions drawn as a rollout from t+1 would
   leave. Only they enter its numbers, so that its selection does not bias them, and no interval
   needs a correction for repeated looks. Its p-value is that of abs(delta) < threshold; what is
   reported is decided over the whole run (see discoveries.py).
4. *Alternatives.* The alternative that makes the better pair with a likely report is measured.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from pts_core.discoveries import CANDIDATE
from pts_core.errors import UsageError
from pts_core.estimates import (
    Estimate,
    alternatives_among,
    binomial_tail,
    difference_score,
    estimate,
    score_interval,
)
from pts_core.search.chain import (
    Beliefs,
    Bools,
    Chain,
    Ints,
    leave_weights,
    left_at,
    systematic,
)
from pts_core.search.conversation import Ask, Draw, Outcome, Search, Strategy, Task, draw, score
from pts_core.search.screening import check_common_options, choose_traces, reason_to_skip
from pts_core.types import PivotalToken, Rollout, TokenIds, TokenScores, Trace

# Screening: a problem outside the bounds is skipped when that much evidence is there, or at last.
SCREENING_ROUNDS, SCREENING_ERROR = 3, 0.15
# Rollouts from the prompt once the trace is known: they show whether the backend follows it as
# often as its probabilities say. Those of the screening can't, for it selects by their verdicts.
RIDERS = 2
# Exploration: rollouts a round for each open candidate, and the chances of being pivotal at which
# it goes on to confirmation. It is dropped where the chance is too small for what it may cost:
# below this number over its --max-rollouts.
ROLLOUTS_A_ROUND, MOST_ROUNDS = 1, 50
LIKELY, WORTH_CONFIRMING = 0.65, 0.25
UNLIKELY_ROLLOUTS, MOST_UNLIKELY = 3.0, 0.1
# Of a candidate's rollouts at most this share explores; confirmation has at least this number.
EXPLORING_SHARE, LEAST_CONFIRMING = 0.15, 12
# A first part of the confirming rollouts shows which tokens are hopeless, by their p-values.
FIRST_LOOK, HOPELESS = 0.25, 0.8
# Confirmation is sized to tell the delta from the threshold by so many standard errors.
POWER = 4.0
# Fresh rollouts of the alternative that a report is to be paired with.
RIVAL_ROLLOUTS = 24


@dataclass(frozen=True, slots=True)
class _Limits:
    threshold: float
    confidence: float
    unlikely: float
    exploring: int
    confirming: int


def branching(
    *,
    prob_threshold: float = 0.2,
    num_samples: int = 10,
    min_prob: float = 0.2,
    max_prob: float = 0.8,
    traces_per_problem: int = 2,
    confidence: float = 0.95,
    max_rollouts: int = 300,
) -> Strategy:
    """Proves most tokens not pivotal, explores the rest by branches, confirms with fresh rollouts.

    Parameters
    ----------
    prob_threshold
        A token is pivotal if it moves success probability by this much.
    num_samples
        Rollouts of the first round, which screens a problem; more are drawn if they leave doubt.
    min_prob
        Skip problems that are solved less often than this.
    max_prob
        Skip problems that are solved more often than this.
    traces_per_problem
        Answers to search of each problem, right and wrong in turn.
    confidence
        Of the intervals.
    max_rollouts
        Most rollouts for one candidate token.
    """
    check_common_options(
        prob_threshold=prob_threshold,
        num_samples=num_samples,
        min_prob=min_prob,
        max_prob=max_prob,
        traces_per_problem=traces_per_problem,
        confidence=confidence,
    )
    if max_rollouts < 20:
        raise UsageError(f"--max-rollouts must be at least 20, not {max_rollouts}")
    exploring = max(4, round(EXPLORING_SHARE * max_rollouts))
    unlikely = min(UNLIKELY_ROLLOUTS / max_rollouts, MOST_UNLIKELY)
    limits = _Limits(prob_threshold, confidence, unlikely, exploring, max_rollouts - exploring)

    def search(task: Task) -> Search:
        rollouts, skipped = yield from _screen(num_samples, min_prob, max_prob)
        start = estimate(rollouts)
        if skipped:
            return Outcome(start.prob, skipped=skipped)
        traces = choose_traces(task, rollouts, traces_per_problem)
        outcome = Outcome(start.prob)
        for trace in traces:
            outcome += yield from _search_trace(task, trace, rollouts, limits)
        return outcome

    return search


def _screen(
    num_samples: int, min_prob: float, max_prob: float
) -> Generator[Ask, Any, tuple[tuple[Rollout, ...], str]]:
    """Rollouts from the prompt until the problem is in or out; they serve the search too.

    It is out when so few (or many) successes had a probability below SCREENING_ERROR at the
    bound itself, or when the last round leaves the estimate outside.
    """
    rollouts: tuple[Rollout, ...] = ()
    for _ in range(SCREENING_ROUNDS):
        [new] = yield from draw([Draw((), 0, num_samples)])
        rollouts += new
        start = estimate(rollouts)
        skipped = reason_to_skip(start, min_prob, max_prob)
        k, n = start.successes, start.rollouts
        if start.prob < min_prob:
            tail = binomial_tail(k, n, min_prob)
        else:
            tail = binomial_tail(n - k, n, 1 - max_prob)
        if not skipped or tail < SCREENING_ERROR:
            break
    return rollouts, skipped


def _search_trace(
    task: Task, trace: Trace, screening: Sequence[Rollout], limits: _Limits
) -> Generator[Ask, Any, Outcome]:
    """Reports a trace's pivotal tokens; the outcome is that of this trace alone."""
    if not trace.ids:
        return Outcome(0.0, traces=1)
    scores = yield from score(trace.ids)
    chain = Chain(np.minimum(scores.probs, 1.0), trace.correct, limits.threshold)
    branches: dict[int, list[Rollout]] = {int(chain.starts[m]): [] for m in chain.candidates}
    [riders] = yield from draw([Draw(trace.ids, 0, RIDERS)], fewer=True)
    _credit(chain, branches, [*screening, *riders], trace.ids)
    # Where a systematic sample starts is luck, but the same luck in every run.
    luck = np.random.default_rng([task.seed, *trace.id.encode()])
    likely, undecided = yield from _explore(chain, trace.ids, branches, limits, luck)
    tokens, lacking = yield from _confirm(chain, trace, scores, likely, branches, limits, luck)
    yield from _report(tokens, branches, scores, limits)
    return Outcome(
        0.0,
        traces=1,
        undecided=undecided + len(lacking),
        lacking=tuple((trace.id, t, missing) for t, missing in lacking.items()),
        excluded=len(trace.ids) - len(chain.candidates),
        following=_following(riders, trace.ids, scores),
    )


def _credit(
    chain: Chain, branches: dict[int, list[Rollout]], rollouts: Sequence[Rollout], ids: TokenIds
) -> None:
    """Counts each rollout where it leaves the trace; keeps those that leave at a candidate."""
    for rollout in rollouts:
        left = left_at(rollout.ids, ids[rollout.start :])
        if left is not None:
            position = rollout.start + left
            chain.credit(int(chain.link_of[position]), [rollout])
            if position in branches and left == 0:
                branches[position].append(rollout)


def _explore(
    chain: Chain,
    ids: TokenIds,
    branches: dict[int, list[Rollout]],
    limits: _Limits,
    luck: np.random.Generator,
) -> Generator[Ask, Any, tuple[list[int], int]]:
    """Draws branches until no candidate is open; the likely links, and how many stay undecided."""
    is_open: Bools = np.zeros(len(chain.starts), dtype=bool)
    is_open[chain.candidates] = True
    likely: Bools = np.zeros_like(is_open)
    undecided = 0
    beliefs = chain.beliefs()
    for rounds_left in range(MOST_ROUNDS, -1, -1):
        if not is_open.any():
            break
        shares = chain.allocate(is_open, ROLLOUTS_A_ROUND * int(is_open.sum()), beliefs)
        positions = [
            chain.leave_positions(int(m), int(shares[m]), luck.random())
            for m in shares.nonzero()[0]
        ]
        drawn = yield from draw(_leave_at(ids, np.concatenate(positions)), fewer=True)
        _credit(chain, branches, [r for group in drawn for r in group], ids)

        beliefs = chain.beliefs()
        spent = (chain.rollouts >= limits.exploring) | (rounds_left == 0)
        promising = (beliefs.pivotal > LIKELY) | (spent & (beliefs.pivotal >= WORTH_CONFIRMING))
        unlikely = beliefs.pivotal < limits.unlikely
        likely |= is_open & promising
        undecided += int((is_open & spent & ~promising & ~unlikely).sum())
        is_open &= ~(promising | unlikely | spent)
    return likely.nonzero()[0].tolist(), undecided


def _leave_at(ids: TokenIds, positions: Ints) -> list[Draw]:
    """A rollout that leaves the trace at each position."""
    where, counts = np.unique(positions, return_counts=True)
    return [
        Draw(ids, int(t), int(n), excluded_token=ids[int(t)])
        for t, n in zip(where, counts, strict=True)
    ]


def _confirm(
    chain: Chain,
    trace: Trace,
    scores: TokenScores,
    likely: Sequence[int],
    branches: dict[int, list[Rollout]],
    limits: _Limits,
    luck: np.random.Generator,
) -> Generator[Ask, Any, tuple[list[PivotalToken], dict[int, int]]]:
    """The tokens of the likely links, measured afresh, in order of position; and by position
    how many rollouts a closed journal lacks of those that it can't measure.

    A first part of the rollouts tells which are hopeless: they get no more. To stop only where
    nothing would be reported makes no false report likelier, so the rest needs no correction.
    """
    beliefs = chain.beliefs()
    sizes = {int(chain.starts[m]): _sizes(chain, m, beliefs, limits) for m in likely}
    first = {
        t: (math.ceil(FIRST_LOOK * own), math.ceil(FIRST_LOOK * later))
        for t, (own, later) in sizes.items()
    }
    own, after, lacking = yield from _measure(chain, trace, first, luck)
    tokens = {t: _token(trace, scores, t, estimate(own[t]), after[t], limits) for t in own}
    rest = {
        t: (sizes[t][0] - first[t][0], sizes[t][1] - first[t][1])
        for t, token in tokens.items()
        if token.p_value is not None and token.p_value <= HOPELESS
    }
    more_own, more_after, more_lacking = yield from _measure(chain, trace, rest, luck)
    for t in own:
        own[t] += more_own.get(t, [])
        branches[t] += own[t]
        if t in more_own:
            after[t] = after[t] + more_after[t]
            tokens[t] = _token(trace, scores, t, estimate(own[t]), after[t], limits)
    lacking |= more_lacking
    return [token for t, token in tokens.items() if t not in lacking], lacking


def _measure(
    chain: Chain, trace: Trace, sizes: Mapping[int, tuple[int, int]], luck: np.random.Generator
) -> Generator[Ask, Any, tuple[dict[int, list[Rollout]], dict[int, Estimate], dict[int, int]]]:
    """For each position t, so many branches at t, and V(t+1) from so many branches at positions
    drawn as a rollout from t+1 would leave; or how many rollouts it lacks."""
    end = len(trace.ids)
    asked: list[Draw] = []
    parts: list[tuple[int, list[Draw], int]] = []  # position, its draws, rides to the end
    for t, (own, later) in sizes.items():
        weights = leave_weights(chain.leave_probs[t + 1 :])
        weights = np.append(weights, max(0.0, 1 - weights.sum()))
        leaves = t + 1 + systematic(weights, later, luck.random())
        draws = [
            Draw(trace.ids, t, own, excluded_token=trace.ids[t]),
            *_leave_at(trace.ids, leaves[leaves < end]),
        ]
        asked += draws
        parts.append((t, draws, int((leaves == end).sum())))
    drawn = iter((yield from draw(asked, fewer=True)) if asked else [])
    branched, after, lacking = {}, {}, {}
    for t, draws, rides in parts:
        groups = [next(drawn) for _ in draws]
        if missing := sum(d.count for d in draws) - sum(map(len, groups)):
            lacking[t] = missing
            continue
        branched[t] = list(groups[0])
        sampled = estimate(r for group in groups[1:] for r in group)
        # A rollout that would follow the trace to its end has the trace's verdict.
        after[t] = (
            Estimate(int(trace.correct), 1, exact=True)
            if t + 1 == end
            else Estimate(sampled.successes + rides * trace.correct, sampled.rollouts + rides)
        )
    return branched, after, lacking


def _sizes(chain: Chain, link: int, beliefs: Beliefs, limits: _Limits) -> tuple[int, int]:
    """How many fresh rollouts each of A(t) and V(t+1) gets: enough to tell delta from the
    threshold if it is what exploration believes, shared by their spreads (Neyman)."""
    after, branch = float(beliefs.after[link]), float(beliefs.branches[link])
    leave = float(chain.leaving[link])
    known = chain.ends[link] == chain.ends[-1]  # V after the last token is the trace's verdict
    spreads = [math.sqrt(p * (1 - p)) for p in (min(max(v, 0.1), 0.9) for v in (branch, after))]
    if known:
        spreads[1] = 0.0
    gap = max(abs(leave * (after - branch)) - limits.threshold, 1e-3)
    total = (POWER * leave * sum(spreads) / gap) ** 2
    most = limits.confirming if known else limits.confirming // 2
    own, later = (
        round(min(max(total * s / sum(spreads), min(LEAST_CONFIRMING, most)), most))
        for s in spreads
    )
    return own, 0 if known else later


def _token(
    trace: Trace,
    scores: TokenScores,
    position: int,
    branch: Estimate,
    after: Estimate,
    limits: _Limits,
) -> PivotalToken:
    """The token by identity (2): delta = (1 − p) · (V(t+1) − A(t))."""
    stay = float(scores.probs[position])
    leave = 1 - stay
    low, high = score_interval(after, branch, limits.confidence)
    edge = min(limits.threshold / leave, 1 - 1e-9)
    if after.prob > branch.prob:
        z = difference_score(after, branch, edge)
    else:
        z = -difference_score(after, branch, -edge)
    return PivotalToken(
        trace=trace,
        position=position,
        prob_before=stay * after.prob + leave * branch.prob,
        prob_after=after.prob,
        interval=(leave * low, leave * high),
        rollouts=(branch.rollouts + after.rollouts, after.rollouts),
        token_prob=stay,
        p_value=1 - NormalDist().cdf(z),
    )


def _report(
    tokens: Sequence[PivotalToken],
    branches: dict[int, list[Rollout]],
    scores: TokenScores,
    limits: _Limits,
) -> Generator[Ask, Any, None]:
    """Yields the tokens with their alternatives; one that matters and is not yet told apart from
    the token gets rollouts of its own first."""
    rivals = {t.position: _rival(t, branches[t.position], limits) for t in tokens}
    asked = [
        Draw(t.trace.ids, t.position, RIVAL_ROLLOUTS, first_token=rival)
        for t in tokens
        if (rival := rivals[t.position]) is not None
    ]
    drawn = iter((yield from draw(asked, fewer=True)) if asked else [])
    for token in tokens:
        rollouts: list[Rollout] = branches[token.position]
        if (rival := rivals[token.position]) is not None:
            # Chosen by its earlier rollouts, it is judged by the fresh ones alone.
            rollouts = [r for r in rollouts if r.ids[0] != rival] + list(next(drawn))
        alternatives = alternatives_among(
            rollouts, token.token_id, scores, token.position, limits.confidence
        )
        low, high = token.interval
        if high >= limits.threshold or low <= -limits.threshold:  # else it is shown not pivotal
            yield replace(token, alternatives=alternatives)


def _rival(token: PivotalToken, rollouts: Sequence[Rollout], limits: _Limits) -> int | None:
    """The alternative that would pair best with a token; None if it needs no more rollouts.

    That is a worse one for a positive token and a better one for a negative token, much sampled
    and far away. Tokens that won't be reported need none.
    """
    assert token.p_value is not None
    if token.p_value > CANDIDATE:
        return None
    sign = 1 if token.delta > 0 else -1
    after = Estimate(round(token.prob_after * token.rollouts[1]), token.rollouts[1])
    best, best_merit = None, 0.0
    for rival in {r.ids[0] for r in rollouts if r.ids}:
        value = estimate(r for r in rollouts if r.ids[:1] == (rival,))
        cautious = (value.successes + 1) / (value.rollouts + 2)
        merit = sign * (after.prob - cautious) * math.sqrt(value.rollouts)
        if merit > best_merit:
            best, best_merit = (rival, value), merit
    if best is None:
        return None
    low, high = score_interval(after, best[1], limits.confidence)
    is_apart = best[1].rollouts >= LEAST_CONFIRMING and (low > 0 or high < 0)
    return None if is_apart else best[0]


def _following(
    riders: Sequence[Rollout], ids: TokenIds, scores: TokenScores
) -> tuple[int, float, float]:
    """How often rollouts from the prompt took the trace's next token, and the mean and variance
    that token probabilities give this number."""
    followed, mean, variance = 0, 0.0, 0.0
    for rider in riders:
        left = left_at(rider.ids, ids)
        passed = scores.probs[: len(rider.ids) if left is None else left + 1]
        followed += len(passed) - (left is not None)
        mean += float(passed.sum())
        variance += float((passed * (1 - passed)).sum())
    return followed, mean, variance
