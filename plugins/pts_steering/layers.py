"""How well the mean difference of a layer stands for the differences it is the mean of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pts_steering.activations import Differences, Floats

FOLDS = 5


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """The mean difference of one layer.

    `relative_norm` is its norm over that of the block's output; `cosine` the mean cosine between
    the differences of two pairs. `separated` is the share of pairs whose difference points along
    the mean difference of *other* queries, and `effect` the mean of these projections over their
    standard deviation; None with fewer than two queries.
    """

    layer: int
    norm: float
    relative_norm: float
    cosine: float
    separated: float | None
    effect: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)

    def __str__(self) -> str:
        held_out = ""
        if self.separated is not None:
            held_out = f", held-out pairs separated {self.separated:.0%} (effect {self.effect:.2f})"
        return (
            f"layer {self.layer}: norm {self.norm:.3g} ({self.relative_norm:.0%} of the residual), "
            f"cosine between pairs {self.cosine:.2f}{held_out}"
        )


def measure_layers(differences: Differences, queries: Sequence[str]) -> list[LayerStatistics]:
    """The statistics of every layer. `queries` names the query of each pair."""
    return [
        _measure(layer, differences.vectors[:, layer], differences.norms[:, layer], queries)
        for layer in range(differences.vectors.shape[1])
    ]


def best_layer(statistics: Sequence[LayerStatistics]) -> int:
    """The layer whose vector does best on queries that it was not made from."""
    return max(statistics, key=lambda s: (s.effect or 0.0, -s.layer)).layer


def _measure(layer: int, vectors: Floats, norms: Floats, queries: Sequence[str]) -> LayerStatistics:
    mean = vectors.mean(axis=0)
    norm = float(np.linalg.norm(mean))
    held_out = _held_out_projections(vectors, queries)
    spread = float(held_out.std()) if len(held_out) else 0.0
    return LayerStatistics(
        layer,
        norm,
        norm / float(norms.mean()),
        _mean_cosine(vectors),
        float((held_out > 0).mean()) if len(held_out) else None,
        float(held_out.mean()) / spread if spread else None,
    )


def _mean_cosine(vectors: Floats) -> float:
    """The mean cosine between two different rows, from the length of the sum of unit rows."""
    count = len(vectors)
    if count < 2:
        return 1.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.maximum(lengths, 1e-12)
    return float((np.linalg.norm(units.sum(axis=0)) ** 2 - count) / (count * (count - 1)))


def _held_out_projections(vectors: Floats, queries: Sequence[str]) -> Floats:
    """Each pair's difference along the unit mean difference of other folds of queries."""
    folds = {query: i % FOLDS for i, query in enumerate(sorted(set(queries)))}
    fold = np.array([folds[query] for query in queries])
    if len(folds) < 2:
        return np.zeros(0, np.float32)
    projections = np.zeros(len(vectors), np.float32)
    for held_out in np.unique(fold):
        mean = vectors[fold != held_out].mean(axis=0)
        inside = fold == held_out
        projections[inside] = vectors[inside] @ (mean / max(float(np.linalg.norm(mean)), 1e-12))
    return projections
