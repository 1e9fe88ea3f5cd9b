"""How a search strategy talks: it asks for rollouts and scores, and is handed them.

A strategy is a generator over one problem. It knows no backend, clock or disk, so it can be
tested against a model whose success probabilities are known exactly, and replayed from a log.

    def my_search(task: Task) -> Search:
        [rollouts] = yield from draw([Draw((), 0, count=10)])   # ten rollouts from the prompt
        scores = yield from score(trace.ids)                    # the policy along a trace
        yield PivotalToken(...)                                 # reported at once
        return Outcome(...)

Replies come in the order asked, whatever the order in which rollouts finish: given the same
rollouts a strategy does the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pts_core.errors import ProblemError
from pts_core.types import PivotalToken, Problem, Rollout, TokenIds, TokenScores, Trace


@dataclass(frozen=True, slots=True)
class Draw:
    """Asks for `count` rollouts from prefix `start` of `trace`, with a Request's restrictions."""

    trace: TokenIds
    start: int
    count: int
    first_token: int | None = None
    excluded_token: int | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Asks for the policy along a trace."""

    trace: TokenIds


@dataclass(frozen=True, slots=True)
class Task:
    """One problem to search. `traces` are given completions; None lets the strategy sample.

    `seed` is for choices of the strategy's own, which must be the same in every run.
    """

    problem: Problem
    traces: tuple[Trace, ...] | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the search of one problem ended.

    `success_prob` estimates V(0). `skipped` says why a problem was not searched, "" if it was.
    `undecided` counts tokens that were neither shown pivotal nor shown not to be, `excluded`
    those proved not pivotal without a rollout. `following` is how often independent rollouts
    took the next token of a trace, with the mean and the variance that token probabilities give
    this number: a backend whose samples don't match its probabilities is found out by it.
    `lacking` names tokens that a closed journal has too few rollouts of: trace id, position and
    how many are missing.
    """

    success_prob: float
    traces: int = 0
    undecided: int = 0
    excluded: int = 0
    skipped: str = ""
    following: tuple[int, float, float] = (0, 0.0, 0.0)
    lacking: tuple[tuple[str, int, int], ...] = ()

    def __add__(self, other: Outcome) -> Outcome:
        """The counts of both, of the same problem."""
        return replace(
            self,
            traces=self.traces + other.traces,
            undecided=self.undecided + other.undecided,
            excluded=self.excluded + other.excluded,
            following=(
                self.following[0] + other.following[0],
                self.following[1] + other.following[1],
                self.following[2] + other.following[2],
            ),
            lacking=self.lacking + other.lacking,
        )


Ask = list[Draw] | Score | PivotalToken
Search = Generator[Ask, Any, Outcome]
Strategy = Callable[[Task], Search]


def draw(
    draws: Sequence[Draw], *, fewer: bool = False
) -> Generator[Ask, Any, list[tuple[Rollout, ...]]]:
    """The rollouts of each draw, in the order asked.

    A search of a closed journal gets only what is in it. Raises ProblemError where that is too
    little, unless the strategy can do with `fewer`.
    """
    rollouts: list[tuple[Rollout, ...]] = yield list(draws)
    lacking = sum(d.count for d in draws) - sum(map(len, rollouts))
    if lacking and not fewer:
        raise ProblemError(f"needs {lacking} rollouts more than the journal has")
    return rollouts


def score(trace: TokenIds) -> Generator[Ask, Any, TokenScores]:
    """The policy along a trace."""
    scores: TokenScores = yield Score(trace)
    return scores
