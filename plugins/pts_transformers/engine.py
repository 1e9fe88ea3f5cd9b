"""The generation engine: a stream of requests through one model, many rows at a time.

Rows are right-aligned in one batch over one key-value cache, with left padding that the attention
mask hides. A row leaves as soon as it finishes and new ones join the rows that run, so the batch
stays full. A faster loop goes here; its contract is `Backend.generate` and `Backend.score`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
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
from pts_transformers.memory import out_of_memory
from pts_transformers.policy import RowError, draw, policy

Result = Continuation | ProblemError

ALTERNATIVES = 20
_SCORED_AT_ONCE = 2**24  # logits of a chunk of `score`: 64 MiB in float32


@dataclass(slots=True)
class _Row:
    """A request that runs: at most `limit` new tokens, the k-th decided by uniforms[k]."""

    request: Request
    limit: int
    uniforms: npt.NDArray[np.float64]
    ids: list[int] = field(default_factory=list)

    def take(self, token_id: int, end_of_sequence: TokenIds) -> Continuation | None:
        """Appends a token; the continuation if that ends it."""
        self.ids.append(token_id)
        ended = token_id in end_of_sequence
        if ended or len(self.ids) == self.limit:
            return Continuation(tuple(self.ids), truncated=not ended)
        return None


@dataclass(slots=True)
class _Batch:
    """Rows that run together: `mask` (rows, columns), `logits` (rows, vocab) of the next token.

    `sliceable` says that the cache holds one column of keys and values for each column of the
    mask, in every layer: then columns can be dropped and batches joined.
    """

    rows: list[_Row]
    cache: Any
    mask: Tensor
    logits: Tensor
    sliceable: bool

    def keep(self, index: list[int]) -> None:
        """Keeps the rows of `index`, in that order."""
        if len(index) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in index]
        if index:
            self.select(index)

    def select(self, index: list[int]) -> None:
        """Keeps the sequences of `index`, in that order, repeated where it repeats them."""
        where = torch.tensor(index, device=self.mask.device)
        self.cache.reorder_cache(where)
        self.mask, self.logits = self.mask[where], self.logits[where]
        padding = int(self.mask.argmax(dim=1).min())
        if self.sliceable and padding:
            self.mask = self.mask[:, padding:]
            for layer in self.cache.layers:
                layer.keys = layer.keys[:, :, padding:]
                layer.values = layer.values[:, :, padding:]

    def join(self, other: _Batch) -> _Batch:
        """Takes the rows of another batch too; the narrower of the two is padded."""
        self.rows += other.rows
        self.mask = _stack(self.mask[:, :, None], other.mask[:, :, None])[:, :, 0]
        self.logits = torch.cat([self.logits, other.logits])
        for ours, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            ours.keys = _stack(ours.keys, theirs.keys)
            ours.values = _stack(ours.values, theirs.values)
        return self


def _stack(a: Tensor, b: Tensor) -> Tensor:
    """Two tensors of shape (rows, …, columns, size) as one, zeros left of the narrower."""
    width = max(a.shape[-2], b.shape[-2])
    pad = torch.nn.functional.pad
    return torch.cat([pad(x, (0, 0, width - x.shape[-2], 0)) for x in (a, b)])


class Engine:
    """Continues and scores token ids with a causal language model of transformers.

    `end_of_sequence` are the ids that end a row; no sequence grows beyond `context_length`.
    """

    def __init__(
        self,
        model: Any,
        *,
        end_of_sequence: TokenIds,
        context_length: int | None = None,
        max_batch: int = 64,
    ) -> None:
        self.model = model.eval()
        self.end_of_sequence = end_of_sequence
        self.context_length = context_length
        self.max_batch = max_batch
        self.vocabulary = model.get_input_embeddings().weight.shape[0]
        self._accepted = set(inspect.signature(model.forward).parameters)
        if "past_key_values" not in self._accepted:
            raise PtsError(f"{type(model).__name__} keeps no key-value cache: choose another model")
        # A plain DynamicCache keeps every column, in sliding-window layers too (the mask does the
        # window). Layers with a recurrent state need the cache of their configuration.
        layers = DynamicCache(config=model.config).layers
        self._sliceable = all(type(x) in (DynamicLayer, DynamicSlidingWindowLayer) for x in layers)

    def generate(
        self, pull: Callable[[], Request | None], sampling: Sampling
    ) -> Iterator[tuple[Request, Result]]:
        """Draws a stream of requests; see Backend.generate.

        In float32 a continuation depends on its request and the sampling alone, up to the
        rounding of the model's arithmetic. A prefix that the model cannot take, or that it answers
        with unusable logits, is yielded with its ProblemError and the other rows go on.
        """
        batch: _Batch | None = None
        while True:
            fresh: list[_Row] = []
            free = self.max_batch - (len(batch.rows) if batch else 0)
            # In groups: a prefill for each single row that leaves would cost more than it fills.
            if batch is None or (self._sliceable and 4 * free >= self.max_batch):
                while len(fresh) < free and (request := pull()) is not None:
                    row = self._admit(request, sampling)
                    if isinstance(row, _Row):
                        fresh.append(row)
                    else:
                        yield request, row
            if batch is None and not fresh:
                return
            batch, finished = self._step(batch, fresh, sampling)
            yield from finished

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
                scores.probs[span] = probs.gather(1, ids[span])[:, 0].cpu().numpy()
                best = probs.topk(min(ALTERNATIVES, probs.shape[1]))
                best_probs, best_ids = best.values.cpu().numpy(), best.indices.cpu().numpy()
                kept = slice(best_ids.shape[1])
                scores.alternative_probs[span, kept] = best_probs
                scores.alternative_ids[span, kept] = np.where(best_probs > 0, best_ids, -1)
        return scores

    def _policies(
        self, prompt: TokenIds, completion: TokenIds, sampling: Sampling
    ) -> Iterator[tuple[slice, Tensor]]:
        """The policy (tokens, vocab) at a completion's tokens, a span of them at a time."""
        size = len(completion)
        chunk = max(1, _SCORED_AT_ONCE // self.vocabulary) if self._sliceable else max(1, size)
        ids = torch.tensor([prompt + completion], device=self.model.device)
        cache, seen = self._cache(), 0
        for start in range(0, size, chunk):
            stop = min(start + chunk, size)
            end = len(prompt) + stop - 1  # the logits at a token are those of the next
            mask = torch.ones_like(ids[:, :end])
            logits = self._forward(ids[:, seen:end], mask, cache, keep=stop - start)[0]
            seen = end
            try:
                yield slice(start, stop), policy(logits, sampling)
            except RowError as error:
                raise ProblemError(f"at token {start + error.row}: {error}") from error

    def _admit(self, request: Request, sampling: Sampling) -> _Row | Result:
        """The row of a request, or its result where there is no room or no way to run it."""
        limit = sampling.horizon - request.start
        if self.context_length is not None:
            limit = min(limit, self.context_length - len(request.prefix))
        if limit <= 0:
            return Continuation((), truncated=True)
        named = (request.first_token, request.excluded_token)
        try:
            self._refuse(request.prefix, tuple(i for i in named if i is not None))
        except ProblemError as error:
            return error
        return _Row(request, limit, uniforms(sampling.seed, request.stream, limit))

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

    def _step(
        self, batch: _Batch | None, fresh: list[_Row], sampling: Sampling
    ) -> tuple[_Batch | None, list[tuple[Request, Result]]]:
        """One token for every row, the fresh ones too: the rows that go on, and what finished."""
        rows = len(fresh) + (len(batch.rows) if batch else 0)
        message = f"out of memory with {rows} rollouts at once: lower --backend.max_batch"
        with out_of_memory(f"{message} (now {self.max_batch})"):
            if batch is not None:
                self._advance(batch)
            if fresh:
                joining = self._prefill(fresh)
                batch = joining if batch is None else batch.join(joining)
            assert batch is not None
            finished = self._sample(batch, sampling)
        return (batch if batch.rows else None), finished

    def _prefill(self, rows: list[_Row]) -> _Batch:
        """A batch of new rows; those with the same prefix share one sequence of the forward."""
        prefixes = [row.request.prefix for row in rows]
        unique = {prefix: i for i, prefix in enumerate(dict.fromkeys(prefixes))}
        columns = max(map(len, unique))
        ids = torch.zeros(len(unique), columns, dtype=torch.long)  # any id does as padding
        mask = torch.zeros_like(ids)
        for prefix, i in unique.items():
            ids[i, columns - len(prefix) :] = torch.tensor(prefix)
            mask[i, columns - len(prefix) :] = 1
        ids, mask, cache = ids.to(self.model.device), mask.to(self.model.device), self._cache()
        logits = self._forward(ids, mask, cache, keep=1)[:, 0]
        batch = _Batch(rows, cache, mask, logits, self._sliceable)
        batch.select([unique[prefix] for prefix in prefixes])
        return batch

    def _sample(self, batch: _Batch, sampling: Sampling) -> list[tuple[Request, Result]]:
        """Gives each row its next token; takes out the rows that it ends and returns them."""
        firsts = [None if row.ids else row.request for row in batch.rows]
        forced = [None if first is None else first.first_token for first in firsts]
        excluded = [
            -1 if first is None or first.excluded_token is None else first.excluded_token
            for first in firsts
        ]
        chances = [row.uniforms[len(row.ids)] for row in batch.rows]
        try:
            drawn = draw(
                policy(batch.logits, sampling),
                torch.tensor(chances, dtype=torch.float64),
                torch.tensor(excluded),
            ).tolist()
        except RowError as error:
            unusable = batch.rows[error.row].request
            batch.keep([i for i in range(len(batch.rows)) if i != error.row])
            return [(unusable, error), *(self._sample(batch, sampling) if batch.rows else [])]
        ended = [
            row.take(token if first is None else first, self.end_of_sequence)
            for row, token, first in zip(batch.rows, drawn, forced, strict=True)
        ]
        finished: list[tuple[Request, Result]] = [
            (row.request, continuation)
            for row, continuation in zip(batch.rows, ended, strict=True)
            if continuation is not None
        ]
        batch.keep([i for i, continuation in enumerate(ended) if continuation is None])
        return finished

    def _advance(self, batch: _Batch) -> None:
        """Feeds each row's newest token to the model."""
        ids = torch.tensor([[row.ids[-1]] for row in batch.rows], device=self.model.device)
        batch.mask = torch.cat([batch.mask, torch.ones_like(ids)], dim=1)
        batch.logits = self._forward(ids, batch.mask, batch.cache, keep=1)[:, 0]

    def _cache(self) -> Any:
        return DynamicCache() if self._sliceable else DynamicCache(config=self.model.config)

    def _forward(self, ids: Tensor, mask: Tensor, cache: Any, keep: int) -> Tensor:
        """Float32 logits (rows, keep, vocab) of the last `keep` of the `ids` (rows, columns).

        `mask` covers the cached columns too. Positions are explicit: padding shifts no position.
        """
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
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
