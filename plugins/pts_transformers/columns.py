"""The keys and values of the rows that run together: one buffer a layer, one write column.

               first                            end    width
                 |                               |       |
    row 0    . . p p p t t t t g g g g g g g g g _ _ _ _       p  prompt
    row 1    . . . . . p p p t t t t t t t t t t _ _ _ _       t  prefix of a trace
    row 2    . . . . . . . . . . p p p p p p t g _ _ _ _       g  generated

All rows end at the same column, so that a step writes one column of the buffer and reads those
from `first` on, under a mask over what lies left of a row (.). A row that joins gets the keys and
values of its prefix pasted in, from those computed once for its trace; when rows leave, the last
ones move into their places. At the right edge everything moves back to the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

# Free columns to the right after a move, so that most steps need none.
STRIDE = 64

Layers = list[tuple[Tensor, Tensor]]  # keys and values of each layer: (1, heads, tokens, size)


class Columns(Cache):  # type: ignore[misc]
    """A cache of transformers whose rows come and go; row i holds `lengths[i]` tokens."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(layers)])
        self.lengths: list[int] = []
        self.end = 0
        self._rows = self._width = 0

    @property
    def first(self) -> int:
        return self.end - max(self.lengths, default=0)

    def reserve(self, rows: int, length: int, like: Layers) -> None:
        """Room for so many rows in all, the longest new one of `length` tokens."""
        if rows > self._rows or length > self.end:
            self._move(max(rows, self._rows), length, like)

    def paste(self, layers: Layers, length: int) -> None:
        """Adds a row with the first `length` tokens of `layers`, for which there is room."""
        row, columns = len(self.lengths), slice(self.end - length, self.end)
        for layer, (keys, values) in zip(self.layers, layers, strict=True):
            layer.keys[row, :, columns] = keys[0, :, :length]
            layer.values[row, :, columns] = values[0, :, :length]
        self.lengths.append(length)

    def keep(self, order: Sequence[int], spoiled: Sequence[int] = ()) -> None:
        """Row i becomes what row order[i] was; order[i] is i or larger than all of `order`.

        What a `spoiled` row leaves behind is wiped: NaN would reach later rows through the mask.
        """
        live = slice(self.first, self.end)
        moves = [(to, origin) for to, origin in enumerate(order) if to != origin]
        for layer in self.layers if moves or spoiled else ():
            for cells in (layer.keys, layer.values):
                for row in spoiled:
                    cells[row] = 0
                for to, origin in moves:
                    cells[to, :, live] = cells[origin, :, live]
        self.lengths = [self.lengths[i] for i in order]

    def mask_and_positions(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What the next step needs: a mask (rows, columns + 1) and positions (rows, 1)."""
        lengths = torch.tensor(self.lengths, device=device)[:, None]
        live = self.end - self.first
        return torch.arange(live + 1, device=device) >= live - lengths, lengths

    def make_room(self) -> None:
        """At least one free column, for a step."""
        if self.end == self._width:
            self._move(self._rows, 0)

    def advance(self) -> None:
        """A step has written its column."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _move(self, rows: int, least_end: int, like: Layers | None = None) -> None:
        """Moves what is there to the left edge of buffers of just the size that is needed."""
        live = slice(self.first, self.end)
        end = max(self.end - self.first, least_end)
        moved, count = slice(end - (live.stop - live.start), end), len(self.lengths)
        for i, layer in enumerate(self.layers):
            shapes = like[i] if layer.keys is None and like else (layer.keys, layer.values)
            for name, old in zip(("keys", "values"), shapes, strict=True):
                new = old.new_zeros(rows, old.shape[1], end + STRIDE, old.shape[3])
                if count:
                    new[:count, :, moved] = old[:count, :, live]
                setattr(layer, name, new)
        self.end, self._rows, self._width = end, rows, end + STRIDE


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """A layer's buffers (rows, heads, columns, size), as attention sees them during a step."""

    is_sliding = False  # the mask does the window: every layer keeps every column

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        self.columns = columns

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        rows, first, end = len(keys), self.columns.first, self.columns.end
        self.keys[:rows, :, end] = keys[:, :, 0]
        self.values[:rows, :, end] = values[:, :, 0]
        return self.keys[:rows, :, first : end + 1], self.values[:rows, :, first : end + 1]

    def get_seq_length(self) -> int:
        return self.columns.end - self.columns.first

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def lazy_initialization(self, *_: Any, **__: Any) -> None:
        """Rows are pasted in before the first step."""
