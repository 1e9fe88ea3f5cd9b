"""The generation engine: many rollouts from many prefixes of few traces, in one running batch.

A trace goes through the model once (traces.py): its keys and values serve every rollout from any of
its prefixes, and its policy lets a rollout *ride*, that is follow the trace at no cost until its
own random number takes it off. Then it joins the rows that run (see columns.py for the drawing),
with the last token of its prefix as its first step. A row that finishes leaves at once and the
next request takes its place. Requests are small and can be drawn again, so when memory runs out
the batch is halved and what ran starts over.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pts_core.errors import ProblemError
from pts_core.randomness import uniforms
from pts_core.types import Continuation, Request, Sampling, TokenIds
from pts_transformers.columns import STRIDE, Columns
from pts_transformers.memory import OutOfMemory, free_memory, out_of_memory
from pts_transformers.network import Network
from pts_transformers.policy import RowError, draw, policy
from pts_transformers.traces import Known, Traces
from pts_transformers.unshared import Together

Result = Continuation | ProblemError
# Does a completion end with its last token? From the ids before a rollout and those of it.
IsEnd = Callable[[TokenIds, Sequence[int]], bool]

# Of the memory for keys and values this share holds traces, the rest rows.
_TRACES_SHARE = 0.2


@dataclass(slots=True)
class _Row:
    """A request that runs: at most `limit` new tokens, the k-th decided by uniforms[k].

    `first` is the next token if that is given, `excluded` one that it must not be, or -1.
    """

    request: Request
    limit: int
    uniforms: npt.NDArray[np.float64]
    known: Known | None
    first: int | None
    excluded: int
    ids: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.request.prompt) + self.request.start + len(self.ids)

    @property
    def reach(self) -> int:
        """The most tokens it can come to."""
        return len(self.request.prompt) + self.request.start + self.limit

    @property
    def newest(self) -> int:
        return self.ids[-1] if self.ids else self.request.prefix[-1]

    def take(self, token_id: int, is_end: IsEnd) -> Continuation | None:
        """Appends a token; the continuation if that ends it."""
        self.ids.append(token_id if self.first is None else self.first)
        self.first, self.excluded = None, -1
        before, is_decided = self.request.trace[: self.request.start], self.request.is_decided
        ended = is_end(before, self.ids)
        if not ended and is_decided is not None:
            ended = is_decided((*before, *self.ids))
        if ended or len(self.ids) == self.limit:
            return Continuation(tuple(self.ids), truncated=not ended)
        return None


class Engine:
    """Continues and scores token ids with a causal language model of transformers.

    `end_of_sequence` are the ids that end a row; no sequence grows beyond `context_length`.
    `memory` bounds the bytes of keys and values; by default it follows from what is free.
    `traces` scores completions, and holds what is known of them.
    """

    def __init__(
        self,
        model: Any,
        *,
        end_of_sequence: TokenIds,
        context_length: int | None = None,
        max_batch: int = 64,
        memory: int | None = None,
    ) -> None:
        self.model = model
        self.network = Network(model, context_length)
        self.end_of_sequence = end_of_sequence
        self.max_batch = max_batch
        self.memory = memory or free_memory(model.device)
        self.traces = Traces(self.network, _TRACES_SHARE * self.memory)

    def generate(
        self,
        pull: Callable[[], Request | None],
        sampling: Sampling,
        is_stop: IsEnd | None = None,
    ) -> Iterator[tuple[Request, Result]]:
        """Draws a stream of requests; see Backend.generate. `is_stop` ends a completion where no
        end of sequence does.

        In float32 a continuation depends on its request and the sampling alone, up to the
        rounding of the model's arithmetic. A prefix that the model cannot take, or that it answers
        with unusable logits, is yielded with its ProblemError and the other rows go on.
        """

        def is_end(before: TokenIds, ids: Sequence[int]) -> bool:
            return ids[-1] in self.end_of_sequence or (is_stop is not None and is_stop(before, ids))

        rows: list[_Row] = []
        state: Columns | Together | None = None
        waiting: deque[Request] = deque()
        while True:
            fresh: list[_Row] = []
            while len(rows) + len(fresh) < self.max_batch and (self.network.shares or not rows):
                request = waiting.popleft() if waiting else pull()
                if request is None:
                    break
                try:
                    row = self._admit(request, sampling, is_end)
                except OutOfMemory:  # reading its trace; when rows have left there is more room
                    if not rows and not fresh:
                        raise
                    self.max_batch = len(rows) + len(fresh)
                    waiting.appendleft(request)
                    break
                if not isinstance(row, _Row):
                    yield request, row
                elif self._fits([*rows, *fresh, row]):
                    fresh.append(row)
                else:
                    waiting.appendleft(request)
                    break
            rows += fresh
            if not rows:
                return
            try:
                with out_of_memory(
                    "out of memory with a single rollout: use a smaller model, --backend.dtype "
                    "bfloat16 or a lower --max-new-tokens"
                ):
                    state = self._join(state, fresh)
                    logits = self._logits(state, rows)
                    order, finished = self._sample(rows, logits, sampling, is_end)
            except OutOfMemory:
                if len(rows) == 1:
                    raise
                self.max_batch = len(rows) // 2
                waiting.extendleft(row.request for row in reversed(rows))
                rows, state = [], None
                continue
            spoiled = [
                i for i, (_, result) in finished.items() if not isinstance(result, Continuation)
            ]
            rows = [rows[i] for i in order]
            if not rows:
                state = None
            elif isinstance(state, Columns):
                state.keep(order, spoiled)
            elif len(finished):
                state.keep(order)
            yield from finished.values()

    def _admit(self, request: Request, sampling: Sampling, is_end: IsEnd) -> _Row | Result:
        """The row of a request, or its result where there is no need, room or way to run it."""
        length = len(request.prompt) + request.start
        limit = sampling.horizon - request.start
        if self.network.context_length is not None:
            limit = min(limit, self.network.context_length - length)
        if limit <= 0:
            return Continuation((), truncated=True)
        excluded = -1 if request.excluded_token is None else request.excluded_token
        numbers = uniforms(sampling.seed, request.stream, limit)
        row = _Row(request, limit, numbers, None, request.first_token, excluded)
        named = (request.first_token, request.excluded_token)
        try:
            self.network.refuse(request.prefix, tuple(i for i in named if i is not None))
            if self.network.shares:
                row.known = self.traces.know(request, sampling)
                return self._ride(row, is_end) or row
        except ProblemError as error:
            return error
        return row

    def _ride(self, row: _Row, is_end: IsEnd) -> Continuation | None:
        """Follows the trace for as long as the row's numbers draw its tokens.

        Where they don't, the same number draws another token: it is rescaled to what is left
        without the trace's.
        """
        known, trace = row.known, row.request.trace
        assert known is not None
        while row.first is None and row.excluded < 0:
            t = row.request.start + len(row.ids)
            if t >= len(known.low):
                break
            u, low, high = row.uniforms[len(row.ids)], known.low[t], known.high[t]
            if low <= u < high:
                if (ended := row.take(trace[t], is_end)) is not None:
                    return ended
                continue
            rest = (u if u < low else u - (high - low)) / (1 - (high - low))
            row.uniforms[len(row.ids)] = min(rest, math.nextafter(1, 0))
            row.excluded = trace[t]
        return None

    def _fits(self, rows: Sequence[_Row]) -> bool:
        """Do these rows fit into the memory at their longest?"""
        if len(rows) == 1 or not self.network.shares:
            return True
        columns = max(row.reach for row in rows) + STRIDE
        room = (1 - _TRACES_SHARE) * self.memory
        return len(rows) * columns * self.traces.bytes_per_token() <= room

    def _join(self, state: Columns | Together | None, fresh: list[_Row]) -> Columns | Together:
        """The state of the running rows with the fresh ones in it."""
        if not self.network.shares:
            prefixes = [row.request.prefix for row in fresh]
            return state or Together(prefixes, self.network)
        if fresh:
            assert fresh[0].known is not None
            like = fresh[0].known.layers
            state = state or Columns(len(like))
            assert isinstance(state, Columns)
            rows = len(state.lengths) + len(fresh)
            state.reserve(rows, max(row.length for row in fresh) - 1, like)
            for row in fresh:
                assert row.known is not None
                state.paste(row.known.layers, row.length - 1)
                row.known = None
        assert state is not None
        return state

    def _logits(self, state: Columns | Together, rows: Sequence[_Row]) -> Tensor:
        """Feeds each row's newest token to the model; the logits (rows, vocab) of the next."""
        newest = torch.tensor([[row.newest] for row in rows], device=self.network.device)
        if isinstance(state, Together):
            return state.logits(newest)
        state.make_room()
        mask, positions = state.mask_and_positions(self.network.device)
        logits = self.network.logits(newest, mask, positions, state, keep=1)[:, 0]
        state.advance()
        return logits

    def _sample(
        self, rows: Sequence[_Row], logits: Tensor, sampling: Sampling, is_end: IsEnd
    ) -> tuple[list[int], dict[int, tuple[Request, Result]]]:
        """Gives each row its next token. Returns the order of the rows that go on (see
        Columns.keep), and what finished by index."""
        finished: dict[int, tuple[Request, Result]] = {}
        alive = list(range(len(rows)))
        while alive:
            chances = torch.tensor([rows[i].uniforms[len(rows[i].ids)] for i in alive])
            excluded = torch.tensor([rows[i].excluded for i in alive])
            try:
                chosen = logits if len(alive) == len(rows) else logits[alive]
                drawn = draw(policy(chosen, sampling), chances, excluded).tolist()
                break
            except RowError as error:
                unusable = alive.pop(error.row)
                finished[unusable] = rows[unusable].request, error
        for i, token in zip(alive, drawn if alive else [], strict=True):
            try:
                ended: Result | None = rows[i].take(token, is_end)
            except ProblemError as error:  # of an oracle that was asked whether it is decided
                ended = error
            if ended is not None:
                finished[i] = rows[i].request, ended
        order = list(range(len(rows)))
        for i in sorted(finished, reverse=True):
            order[i] = order[-1]
            order.pop()
        return order, finished
