"""A causal language model of transformers, as the engine calls it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from pts_core.errors import ProblemError, PtsError
from pts_core.types import TokenIds


class Network:
    """The model, and what it takes. No sequence may be longer than `context_length`.

    It `shares` if a prefix of a cache is the cache of a prefix. A plain DynamicCache keeps every
    column, in sliding-window layers too (the mask does the window), and so does; layers with a
    recurrent state don't. Raises PtsError for a model without a key-value cache.
    """

    def __init__(self, model: Any, context_length: int | None) -> None:
        self.model = model.eval()
        self.context_length = context_length
        self.vocabulary = model.get_input_embeddings().weight.shape[0]
        self._accepted = set(inspect.signature(model.forward).parameters)
        if "past_key_values" not in self._accepted:
            raise PtsError(f"{type(model).__name__} keeps no key-value cache: choose another model")
        layers = DynamicCache(config=model.config).layers
        self.shares = all(type(x) in (DynamicLayer, DynamicSlidingWindowLayer) for x in layers)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def cache(self) -> Any:
        """An empty cache."""
        return DynamicCache() if self.shares else DynamicCache(config=self.model.config)

    def logits(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, keep: int) -> Tensor:
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

    def refuse(self, prefix: TokenIds, others: TokenIds) -> None:
        """Raises ProblemError for ids that would make the model fail, and on a GPU the process."""
        if not prefix:
            raise ProblemError("its prompt has no tokens")
        ids = prefix + others
        if not 0 <= min(ids) <= max(ids) < self.vocabulary:
            raise ProblemError(
                f"its token ids run from {min(ids)} to {max(ids)}, but the model's from 0 to "
                f"{self.vocabulary - 1}: the tokenizer is not this model's"
            )
