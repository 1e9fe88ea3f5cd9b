"""Rows that share nothing, for models whose layers keep a recurrent state: no prefix of a cache
is the cache of a prefix there. Rows start together, and new ones wait until all have left."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pts_core.types import TokenIds
from pts_transformers.network import Network


class Together:
    """The state of rows that start together: a cache of the model's own kind, and its mask."""

    def __init__(self, prefixes: Sequence[TokenIds], network: Network) -> None:
        """Reads the prefixes, each one once however many rows have it."""
        self._network = network
        unique = {prefix: i for i, prefix in enumerate(dict.fromkeys(prefixes))}
        width = max(map(len, unique))
        ids = torch.zeros(len(unique), width, dtype=torch.long)  # any id does as padding
        mask = torch.zeros_like(ids)
        for prefix, i in unique.items():
            ids[i, width - len(prefix) :] = torch.tensor(prefix)
            mask[i, width - len(prefix) :] = 1
        self.cache = network.cache()
        self.mask = mask.to(network.device)
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        ids = ids.to(network.device)
        self._ready = network.logits(ids, self.mask, positions, self.cache, 1)[:, 0]
        self._is_ready = True
        self.keep([unique[prefix] for prefix in prefixes])

    def logits(self, newest: Tensor) -> Tensor:
        """Of the token after the `newest` (rows, 1) of each row: (rows, vocab)."""
        if not self._is_ready:
            self.mask = torch.cat([self.mask, torch.ones_like(newest)], dim=1)
            positions = self.mask.sum(dim=1, keepdim=True) - 1
            self._ready = self._network.logits(newest, self.mask, positions, self.cache, 1)[:, 0]
        self._is_ready = False
        return self._ready

    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; a row may be kept more than once."""
        where = torch.tensor(order, dtype=torch.long, device=self.mask.device)
        self.cache.reorder_cache(where)
        self.mask = self.mask[where]
        if self._is_ready:
            self._ready = self._ready[where]
