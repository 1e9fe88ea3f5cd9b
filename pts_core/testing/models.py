"""What to test searches, oracles and backends with: a model whose answers are known exactly."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from pts_core.randomness import uniforms
from pts_core.types import (
    Completion,
    Continuation,
    Problem,
    Request,
    Sampling,
    TokenIds,
    TokenScores,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

END = 0  # the end-of-sequence token of a FiniteStateModel


class FiniteStateModel:
    """A language model with finitely many states, whose success probabilities are exact.

    `transitions[state]` maps a token to (probability, next state); token 0 ends the completion,
    whatever its next state. A completion is correct if it ended in one of the states `right`.
    A problem's query is the number of the state it starts in. The transitions *are* the policy:
    temperature and the filters change nothing.

    It is a Backend; its method `judge` is the Oracle that goes with it. `batch` requests are
    drawn at a time and finish in an order shuffled by `order`, as those of a real backend do.
    """

    model_id = "finite-state"
    end_of_sequence: TokenIds = (END,)
    context_length: int | None = None

    def __init__(
        self,
        transitions: Sequence[Mapping[int, tuple[float, int]]],
        right: set[int],
        *,
        batch: int = 1,
        order: random.Random | None = None,
    ) -> None:
        for state, choices in enumerate(transitions):
            if abs(sum(p for p, _ in choices.values()) - 1) > 1e-9:
                raise ValueError(f"the probabilities of state {state} don't add up to 1")
        self.transitions = [dict(sorted(choices.items())) for choices in transitions]
        self.right = right
        self.batch = batch
        self.order = order
        self._table = [np.zeros(len(transitions))]

    def problem(self, state: int = 0) -> Problem:
        return Problem(id=str(state), query=str(state), answer="", dataset_id="finite-state")

    def judge(self, problem: Problem, completion: Completion) -> bool:
        if completion.truncated or not completion.ids or completion.ids[-1] != END:
            return False
        return self._state((int(problem.query),), completion.ids[:-1]) in self.right

    def success_prob(self, prompt: TokenIds, completion: TokenIds, horizon: int) -> float:
        """V of a prefix, exactly."""
        if completion and completion[-1] == END:
            return float(self._state(prompt, completion[:-1]) in self.right)
        left = horizon - len(completion)
        return float(self._values(left)[self._state(prompt, completion)])

    def encode_prompt(
        self,
        query: str,
        *,
        system_prompt: str | None = None,  # noqa: ARG002 - part of the interface
        chat: bool | None = None,  # noqa: ARG002
    ) -> TokenIds:
        return (int(query),)

    def encode(self, text: str) -> TokenIds:
        return tuple(int(word) for word in text.split())

    def decode(self, ids: TokenIds, *, skip_special_tokens: bool = False) -> str:
        return " ".join(str(i) for i in ids if i != END or not skip_special_tokens)

    def score(
        self,
        prompt: TokenIds,
        completion: TokenIds,
        sampling: Sampling,  # noqa: ARG002
    ) -> TokenScores:
        width = max(len(choices) for choices in self.transitions)
        probs = np.zeros(len(completion))
        ids = np.full((len(completion), width), -1)
        alternative_probs = np.zeros((len(completion), width))
        states = self._along(prompt, completion)
        for t, token in enumerate(completion):
            choices = self.transitions[states[t]]
            probs[t] = choices.get(token, (0.0, 0))[0]
            ranked = sorted(((p, i) for i, (p, _) in choices.items()), reverse=True)
            for k, (p, i) in enumerate(ranked):
                ids[t, k], alternative_probs[t, k] = i, p
        return TokenScores(probs, ids, alternative_probs)

    def generate(
        self, pull: Callable[[], Request | None], sampling: Sampling
    ) -> Iterator[tuple[Request, Continuation]]:
        while batch := [r for r in (pull() for _ in range(self.batch)) if r is not None]:
            if self.order is not None:
                self.order.shuffle(batch)
            yield from zip(batch, self._continue(batch, sampling), strict=True)

    def _continue(self, batch: Sequence[Request], sampling: Sampling) -> list[Continuation]:
        """All requests of a batch, a token at a time."""
        tokens, probs, targets = self._choices
        left = np.array([max(0, sampling.horizon - r.start) for r in batch])
        chances = np.zeros((len(batch), left.max()))
        for row, request in enumerate(batch):
            chances[row, : left[row]] = uniforms(sampling.seed, request.stream, int(left[row]))
        states = np.array([self._along(r.prompt, r.trace)[r.start] for r in batch])
        drawn = np.full(chances.shape, -1)
        running = np.flatnonzero(left > 0)
        for step in range(chances.shape[1]):
            weights = probs[states[running]]
            if step == 0:
                weights = weights * _allowed(
                    tokens[states[running]], [batch[int(i)] for i in running]
                )
            cumulative = weights.cumsum(axis=1)
            goals = chances[running, step] * cumulative[:, -1]
            # Rounding must not reach beyond the last choice that is there.
            choice = np.minimum(
                (cumulative <= goals[:, None]).sum(axis=1), (weights > 0).cumsum(1).argmax(1)
            )
            drawn[running, step] = tokens[states[running], choice]
            states[running] = targets[states[running], choice]
            running = running[(drawn[running, step] != END) & (step + 1 < left[running])]
            if not len(running):
                break
        return [_continuation(row) for row in drawn]

    @cached_property
    def _choices(self) -> tuple[Ints, Floats, Ints]:
        """Tokens, probabilities and next states, each of shape (states, most choices)."""
        shape = (len(self.transitions), max(len(c) for c in self.transitions))
        tokens, probs, targets = np.full(shape, -1), np.zeros(shape), np.zeros(shape, np.int64)
        for state, choices in enumerate(self.transitions):
            for k, (token, (p, target)) in enumerate(choices.items()):
                tokens[state, k], probs[state, k], targets[state, k] = token, p, target
        return tokens, probs, targets

    @lru_cache(maxsize=64)  # noqa: B019 - a model lives as long as its tests
    def _along(self, prompt: TokenIds, trace: TokenIds) -> list[int]:
        """The state at every prefix of a trace."""
        states = [prompt[0]]
        for token in trace:
            if token == END:
                states.append(states[-1])
                break
            states.append(self.transitions[states[-1]][token][1])
        return states

    def _state(self, prompt: TokenIds, completion: TokenIds) -> int:
        state = prompt[0]
        for token in completion:
            state = self.transitions[state][token][1]
        return state

    @cached_property
    def _steps(self) -> tuple[Ints, Ints, Floats, Floats]:
        """The moves from state to state with their probabilities, and the probability of ending
        right at once in each state."""
        moves, reward = [], np.zeros(len(self.transitions))
        for state, choices in enumerate(self.transitions):
            for token, (p, target) in choices.items():
                if token == END:
                    reward[state] += p * (state in self.right)
                else:
                    moves.append((state, target, p))
        sources, targets, probs = np.array(moves or [(0, 0, 0.0)]).T
        return sources.astype(np.int64), targets.astype(np.int64), probs, reward

    def _values(self, left: int) -> Floats:
        """V of each state with `left` tokens to go: v_n = moves · v_{n-1} + reward, v_0 = 0."""
        sources, targets, probs, reward = self._steps
        while len(self._table) <= left:
            weights = probs * self._table[-1][targets]
            self._table.append(np.bincount(sources, weights, len(reward)) + reward)
        return self._table[left]


def _allowed(tokens: Ints, requests: Sequence[Request]) -> npt.NDArray[np.bool_]:
    """Which tokens (rows, choices) each request may begin with."""
    excluded = np.array([-2 if r.excluded_token is None else r.excluded_token for r in requests])
    forced = np.array([-2 if r.first_token is None else r.first_token for r in requests])
    free = (forced == -2)[:, None]
    return np.asarray((tokens != excluded[:, None]) & (free | (tokens == forced[:, None])))


def _continuation(row: Ints) -> Continuation:
    ids = tuple(row[row >= 0].tolist())
    return Continuation(ids, truncated=ids[-1:] != (END,))
