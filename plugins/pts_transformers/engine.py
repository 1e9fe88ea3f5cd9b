"""The generation engine: many rollouts from many prefixes of few traces, in one running batch.

A trace goes through the model once (`_know`): its keys and values serve every rollout from any of
its prefixes, and its policy lets a rollout *ride*, that is follow the trace at no cost until its
own random number takes it off. Then it joins the rows that run (see columns.py for the drawing),
with the last token of its prefix as its first step. A row that finishes leaves at once and the
next request takes its place. Requests are small and can be drawn again, so when memory runs out
the batch is halved and what ran starts over.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from pts_core.errors import ProblemError, PtsError
from pts_core.randomness import uniforms
from pts_core.types import Continuation, Request, Sampling, TokenIds, TokenScores
from pts_transformers.columns import STRIDE, Columns, Layers
from pts_transformers.memory import OutOfMemory, free_memory, out_of_memory
from pts_transformers.policy import RowError, draw, intervals, policy
from pts_transformers.unshared import Together

Result = Continuation | ProblemError
# Does a completion end with its last token? From the ids before a rollout and those of it.
IsEnd = Callable[[TokenIds, Sequence[int]], bool]

ALTERNATIVES = 20
_SCORED_AT_ONCE = 2**24  # logits of a chunk of a trace: 64 MiB in float32
# Of the memory for keys and values this share holds traces, the rest rows.
_TRACES_SHARE = 0.2


@dataclass(slots=True)
class _Known:
    """What one pass over a prompt and a trace of T tokens gives.

    `low` and `high`, shape (T,), are the uniforms that draw the trace's next token; they are empty
    where the policy is unusable.
    """

    layers: Layers
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


@dataclass(slots=True)
class _Row:
    """A request that runs: at most `limit` new tokens, the k-th decided by uniforms[k].

    `first` is the next token if that is given, `excluded` one that it must not be, or -1.
    """

    request: Request
    limit: int
    uniforms: npt.NDArray[np.float64]
    known: _Known | None
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
        self.model = model.eval()
        self.end_of_sequence = end_of_sequence
        self.context_length = context_length
        self.max_batch = max_batch
        self.memory = memory or free_memory(model.device)
        self.vocabulary = model.get_input_embeddings().weight.shape[0]
        self._accepted = set(inspect.signature(model.forward).parameters)
        if "past_key_values" not in self._accepted:
            raise PtsError(f"{type(model).__name__} keeps no key-value cache: choose another model")
        layers = DynamicCache(config=model.config).layers
        # A plain DynamicCache keeps every column, in sliding-window layers too (the mask does the
        # window), so any prefix of it is the cache of a prefix.
        self.shares = all(type(x) in (DynamicLayer, DynamicSlidingWindowLayer) for x in layers)
        self._known: OrderedDict[tuple[TokenIds, TokenIds, Sampling], _Known] = OrderedDict()

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
            while len(rows) + len(fresh) < self.max_batch and (self.shares or not rows):
                request = waiting.popleft() if waiting else pull()
                if request is None:
                    break
                row = self._admit(request, sampling, is_end)
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

    def forget(self) -> None:
        """Drops what was read of traces: for a model that is about to change."""
        self._known.clear()

    def score(self, prompt: TokenIds, completion: TokenIds, sampling: Sampling) -> TokenScores:
        """The policy along a completion of T tokens, with K = 20 alternatives at each.

        Over the cache in chunks, so that no more than one chunk's logits are held. Raises
        ProblemError for ids that the model cannot take and for unusable logits.
        """
        size = len(completion)
        if self.context_length is not None and len(prompt) + size > self.context_length:
            raise ProblemError(
                f"its prompt of {len(prompt)} tokens and a completion of {size} do not fit into "
                f"the model's context of {self.context_length}"
            )
        self._refuse(prompt, completion)
        scores = TokenScores(
            np.zeros(size),
            np.full((size, ALTERNATIVES), -1, dtype=np.int64),
            np.zeros((size, ALTERNATIVES)),
        )
        ids = torch.tensor(completion, device=self.model.device)[:, None]
        with out_of_memory(f"out of memory scoring {len(prompt) + size} tokens"):
            for span, probs in self._policies(prompt, completion, sampling):
                if isinstance(probs, RowError):
                    raise ProblemError(f"at token {span.start + probs.row}: {probs}") from probs
                scores.probs[span] = probs.gather(1, ids[span])[:, 0].cpu().numpy()
                best = probs.topk(min(ALTERNATIVES, probs.shape[1]))
                best_probs, best_ids = best.values.cpu().numpy(), best.indices.cpu().numpy()
                kept = slice(best_ids.shape[1])
                scores.alternative_probs[span, kept] = best_probs
                scores.alternative_ids[span, kept] = np.where(best_probs > 0, best_ids, -1)
        return scores

    def _admit(self, request: Request, sampling: Sampling, is_end: IsEnd) -> _Row | Result:
        """The row of a request, or its result where there is no need, room or way to run it."""
        length = len(request.prompt) + request.start
        limit = sampling.horizon - request.start
        if self.context_length is not None:
            limit = min(limit, self.context_length - length)
        if limit <= 0:
            return Continuation((), truncated=True)
        excluded = -1 if request.excluded_token is None else request.excluded_token
        numbers = uniforms(sampling.seed, request.stream, limit)
        row = _Row(request, limit, numbers, None, request.first_token, excluded)
        named = (request.first_token, request.excluded_token)
        try:
            self._refuse(request.prefix, tuple(i for i in named if i is not None))
            if self.shares:
                row.known = self._know(request, sampling)
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

    def _know(self, request: Request, sampling: Sampling) -> _Known:
        """What is known of a request's trace, or of its prefix alone where the whole won't do."""
        key = (request.prompt, request.trace, sampling)
        if key not in self._known:
            whole = len(request.prompt) + len(request.trace)
            try:
                self._refuse(request.prompt, request.trace)
                fits = self.context_length is None or whole <= self.context_length
            except ProblemError:
                fits = False
            trace = request.trace if fits else request.trace[: request.start]
            key = (request.prompt, trace, sampling)
        if key not in self._known:
            with out_of_memory(f"out of memory reading {len(key[0]) + len(key[1])} tokens"):
                for _ in self._policies(*key):
                    pass
        self._known.move_to_end(key)
        return self._known[key]

    def _policies(
        self, prompt: TokenIds, completion: TokenIds, sampling: Sampling
    ) -> Iterator[tuple[slice, Tensor | RowError]]:
        """The policy (tokens, vocab) at a completion's tokens, a span of them at a time; keeps
        what was read."""
        size = len(completion)
        chunk = max(1, _SCORED_AT_ONCE // self.vocabulary) if self.shares else max(1, size)
        ids = torch.tensor([prompt + completion], device=self.model.device)
        cache, seen = self._cache(), 0
        low, high = np.zeros(size), np.zeros(size)
        for start in range(0, max(size, 1), chunk):
            stop = min(start + chunk, size)
            end = len(prompt) + max(stop - 1, 0)  # the logits at a token are those of the next
            mask = torch.ones_like(ids[:, :end])
            positions = torch.arange(seen, end, device=ids.device)[None]
            keep = max(1, stop - start)
            logits = self._forward(ids[:, seen:end], mask, positions, cache, keep)[0]
            seen, span = end, slice(start, stop)
            if not size:
                break
            try:
                probs = policy(logits, sampling)
                if self.shares:
                    low[span], high[span] = intervals(probs, ids[0, len(prompt) :][span])
                yield span, probs
            except RowError as error:
                low, high = low[: start + error.row], high[: start + error.row]
                yield span, error
                break
        if self.shares:
            layers = [(layer.keys, layer.values) for layer in cache.layers]
            self._keep((prompt, completion, sampling), _Known(layers, low, high))

    def _keep(self, key: tuple[TokenIds, TokenIds, Sampling], known: _Known) -> None:
        """Keeps a read trace; the ones not used for longest go when there are too many."""
        self._known[key] = known
        tokens = sum(layers.layers[0][0].shape[2] for layers in self._known.values())
        most = _TRACES_SHARE * self.memory / self._bytes_per_token()
        while tokens > most and len(self._known) > 1:
            _, oldest = self._known.popitem(last=False)
            tokens -= oldest.layers[0][0].shape[2]

    def _bytes_per_token(self) -> int:
        layers = next(iter(self._known.values())).layers
        return sum(x.shape[1] * x.shape[3] * x.element_size() for pair in layers for x in pair)

    def _fits(self, rows: Sequence[_Row]) -> bool:
        """Do these rows fit into the memory at their longest?"""
        if len(rows) == 1 or not self.shares:
            return True
        columns = max(row.reach for row in rows) + STRIDE
        room = (1 - _TRACES_SHARE) * self.memory
        return len(rows) * columns * self._bytes_per_token() <= room

    def _refuse(self, prefix: TokenIds, others: TokenIds) -> None:
        """Raises ProblemError for ids that would make the model fail, and on a GPU the process."""
        if not prefix:
            raise ProblemError("its prompt has no tokens")
        ids = prefix + others
        if not 0 <= min(ids) <= max(ids) < self.vocabulary:
            raise ProblemError(
                f"its token ids run from {min(ids)} to {max(ids)}, but the model's from 0 to "
                f"{self.vocabulary - 1}: the tokenizer is not this model's"
            )

    def _join(self, state: Columns | Together | None, fresh: list[_Row]) -> Columns | Together:
        """The state of the running rows with the fresh ones in it."""
        if not self.shares:
            prefixes = [row.request.prefix for row in fresh]
            return state or Together(prefixes, self.model, self._forward)
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
        newest = torch.tensor([[row.newest] for row in rows], device=self.model.device)
        if isinstance(state, Together):
            return state.logits(newest)
        state.make_room()
        mask, positions = state.mask_and_positions(self.model.device)
        logits = self._forward(newest, mask, positions, state, keep=1)[:, 0]
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

    def _cache(self) -> Any:
        return DynamicCache() if self.shares else DynamicCache(config=self.model.config)

    def _forward(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, keep: int
    ) -> Tensor:
        """Float32 logits (rows, keep, vocab) of the last `keep` of the `ids` (rows, columns).

        `mask` covers the cached columns too. Positions are explicit: padding shifts no position.
        """
        optional = {"position_ids": positions, "logits_to_keep": keep}
        optional = {name: value for name, value in optional.items() if name in self._accepted}
        with torch.inference_mode():
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **optional,
            )
        logits: Tensor = output.logits
        return logits[:, -keep:].float()
