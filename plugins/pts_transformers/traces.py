"""What one pass over a trace gives: its policy, and the keys and values of all its prefixes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pts_core.errors import ProblemError
from pts_core.types import Request, Sampling, TokenIds, TokenScores
from pts_transformers.columns import Layers
from pts_transformers.memory import out_of_memory
from pts_transformers.network import Network
from pts_transformers.policy import RowError, intervals, policy

ALTERNATIVES = 20
_SCORED_AT_ONCE = 2**24  # logits of a chunk of a trace: 64 MiB in float32


@dataclass(slots=True)
class Known:
    """What one pass over a prompt and a trace of T tokens gives.

    `low` and `high`, shape (T,), are the uniforms that draw the trace's next token; they end where
    the policy is unusable.
    """

    layers: Layers
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    @property
    def tokens(self) -> int:
        return self.layers[0][0].shape[2]


class Traces:
    """Reads traces; what it knows of those used last it keeps, up to `memory` bytes of them."""

    def __init__(self, network: Network, memory: float) -> None:
        self._network = network
        self._memory = memory
        self._known: OrderedDict[tuple[TokenIds, TokenIds, Sampling], Known] = OrderedDict()

    def forget(self) -> None:
        self._known.clear()

    def know(self, request: Request, sampling: Sampling) -> Known:
        """What is known of a request's trace, or of its prefix alone where the whole won't do."""
        key = (request.prompt, request.trace, sampling)
        if key not in self._known:
            whole, limit = len(request.prompt) + len(request.trace), self._network.context_length
            try:
                self._network.refuse(request.prompt, request.trace)
                fits = limit is None or whole <= limit
            except ProblemError:
                fits = False
            trace = request.trace if fits else request.trace[: request.start]
            key = (request.prompt, trace, sampling)
        if key not in self._known:
            with out_of_memory(f"out of memory reading {len(key[0]) + len(key[1])} tokens"):
                for _ in self._policies(*key):
                    pass
        self._known.move_to_end(key)
        known = self._known[key]
        if known.tokens < len(request.prompt) + request.start - 1:  # it was read no further
            raise ProblemError("the model's logits are NaN or infinite: try dtype float32")
        return known

    def score(self, prompt: TokenIds, completion: TokenIds, sampling: Sampling) -> TokenScores:
        """The policy along a completion of T tokens, with K = 20 alternatives at each.

        Over the cache in chunks, so that no more than one chunk's logits are held. Raises
        ProblemError for ids that the model cannot take and for unusable logits.
        """
        size, limit = len(completion), self._network.context_length
        if limit is not None and len(prompt) + size > limit:
            raise ProblemError(
                f"its prompt of {len(prompt)} tokens and a completion of {size} do not fit into "
                f"the model's context of {limit}"
            )
        self._network.refuse(prompt, completion)
        scores = TokenScores(
            np.zeros(size),
            np.full((size, ALTERNATIVES), -1, dtype=np.int64),
            np.zeros((size, ALTERNATIVES)),
        )
        ids = torch.tensor(completion, device=self._network.device)[:, None]
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

    def bytes_per_token(self) -> int:
        """Of keys and values in all layers, once a trace has been read."""
        layers = next(iter(self._known.values())).layers
        return sum(x.shape[1] * x.shape[3] * x.element_size() for pair in layers for x in pair)

    def _policies(
        self, prompt: TokenIds, completion: TokenIds, sampling: Sampling
    ) -> Iterator[tuple[slice, Tensor | RowError]]:
        """The policy (tokens, vocab) at a completion's tokens, a span of them at a time; keeps
        what was read."""
        network, size = self._network, len(completion)
        chunk = max(1, _SCORED_AT_ONCE // network.vocabulary) if network.shares else max(1, size)
        ids = torch.tensor([prompt + completion], device=network.device)
        cache, seen = network.cache(), 0
        low, high = np.zeros(size), np.zeros(size)
        for start in range(0, max(size, 1), chunk):
            stop = min(start + chunk, size)
            end = len(prompt) + max(stop - 1, 0)  # the logits at a token are those of the next
            mask = torch.ones_like(ids[:, :end])
            positions = torch.arange(seen, end, device=ids.device)[None]
            keep = max(1, stop - start)
            logits = network.logits(ids[:, seen:end], mask, positions, cache, keep)[0]
            seen, span = end, slice(start, stop)
            if not size:
                break
            try:
                probs = policy(logits, sampling)
                if network.shares:
                    low[span], high[span] = intervals(probs, ids[0, len(prompt) :][span])
                yield span, probs
            except RowError as error:
                low, high = low[: start + error.row], high[: start + error.row]
                yield span, error
                break
        if network.shares:
            layers = [(layer.keys, layer.values) for layer in cache.layers]
            self._keep((prompt, completion, sampling), Known(layers, low, high))

    def _keep(self, key: tuple[TokenIds, TokenIds, Sampling], known: Known) -> None:
        """The ones not used for longest go when there are too many."""
        self._known[key] = known
        tokens = sum(each.tokens for each in self._known.values())
        most = self._memory / self.bytes_per_token()
        while tokens > most and len(self._known) > 1:
            _, oldest = self._known.popitem(last=False)
            tokens -= oldest.tokens
