"""The published search (Phi-4 Technical Report, arXiv 2412.08905, section 4.3), as a reference.

A segment of the trace whose ends differ in success probability by the threshold is split where
its cumulative log-probability is halved, until single tokens are left. The success probability
at each end is estimated from independent rollouts. It cannot see two pivotal tokens that cancel
inside one segment, and its intervals are those of a single token, not of the largest of many.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pts_core.estimates import Estimate, alternatives_among, estimate, score_interval
from pts_core.search.conversation import Ask, Draw, Outcome, Search, Strategy, Task, draw, score
from pts_core.search.screening import check_common_options, choose_traces, reason_to_skip
from pts_core.types import PivotalToken, Rollout, TokenIds, Trace

Segment = tuple[int, int]
# Rollouts by the tokens of their prefix: traces of a problem share what they have in common.
Drawn = dict[TokenIds, tuple[Rollout, ...]]


def bisection(
    *,
    prob_threshold: float = 0.2,
    num_samples: int = 10,
    min_prob: float = 0.2,
    max_prob: float = 0.8,
    traces_per_problem: int = 1,
    confidence: float = 0.95,
) -> Strategy:
    """The published algorithm: bisect each trace, num_samples rollouts per estimate."""
    check_common_options(
        prob_threshold=prob_threshold,
        num_samples=num_samples,
        min_prob=min_prob,
        max_prob=max_prob,
        traces_per_problem=traces_per_problem,
        confidence=confidence,
    )

    def search(task: Task) -> Search:
        drawn: Drawn = {}
        [drawn[()]] = yield from draw([Draw((), 0, num_samples)])
        start = estimate(drawn[()])
        if skipped := reason_to_skip(start, min_prob, max_prob):
            return Outcome(start.prob, skipped=skipped)
        traces = choose_traces(task, drawn[()], traces_per_problem)
        for trace in traces:
            yield from _search_trace(trace, drawn, prob_threshold, num_samples, confidence)
        return Outcome(start.prob, traces=len(traces))

    return search


def _search_trace(
    trace: Trace, drawn: Drawn, threshold: float, num_samples: int, confidence: float
) -> Generator[Ask, Any, None]:
    """Bisects one trace, all open segments of a level at once; reports in order of position."""
    length = len(trace.ids)
    if length == 0:
        return
    scores = yield from score(trace.ids)
    surprise = -np.log(np.maximum(scores.probs, np.finfo(np.float64).tiny))
    values = {0: estimate(drawn[()]), length: Estimate(int(trace.correct), 1, exact=True)}

    segments, pivots = [(0, length)], []
    while segments := [s for s in segments if _reaches(threshold, values, s)]:
        pivots += [start for start, end in segments if end - start == 1]
        open_segments = [s for s in segments if s[1] - s[0] > 1]
        splits = [_split(surprise, segment) for segment in open_segments]
        yield from _draw_at(trace.ids, splits, drawn, num_samples)
        values |= {t: estimate(drawn[trace.ids[:t]]) for t in splits}
        segments = [
            half
            for (start, end), middle in zip(open_segments, splits, strict=True)
            for half in ((start, middle), (middle, end))
        ]

    for t in sorted(pivots):
        before, after = values[t], values[t + 1]
        yield PivotalToken(
            trace=trace,
            position=t,
            prob_before=before.prob,
            prob_after=after.prob,
            interval=score_interval(after, before, confidence),
            rollouts=(before.rollouts, after.rollouts),
            token_prob=float(scores.probs[t]),
            alternatives=alternatives_among(
                drawn[trace.ids[:t]], trace.ids[t], scores, t, confidence
            ),
        )


def _reaches(threshold: float, values: dict[int, Estimate], segment: Segment) -> bool:
    gap = abs(values[segment[1]].prob - values[segment[0]].prob)
    return gap >= threshold - 1e-9  # 0.7 - 0.5 is a hair below 0.2 in floating point


def _split(surprise: npt.NDArray[np.float64], segment: Segment) -> int:
    """The inner prefix of a segment that comes nearest to halving its log-probability."""
    start, end = segment
    cumulative = np.cumsum(surprise[start:end])
    if cumulative[-1] == 0:  # certain throughout: nothing to halve but the length
        return (start + end) // 2
    return start + 1 + int(np.argmin(np.abs(cumulative[:-1] - cumulative[-1] / 2)))


def _draw_at(
    ids: TokenIds, prefixes: Sequence[int], drawn: Drawn, num_samples: int
) -> Generator[Ask, Any, None]:
    new = [t for t in prefixes if ids[:t] not in drawn]
    if new:
        rollouts = yield from draw([Draw(ids, t, num_samples) for t in new])
        drawn.update({ids[:t]: found for t, found in zip(new, rollouts, strict=True)})
