"""From records to vectors: which pairs, which layers, which file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pts_core
from pts_core.errors import PtsError, UsageError
from pts_core.interfaces import Listenable
from pts_core.pairs import check_tokens, measured_pair
from pts_core.records import common_model
from pts_core.types import ExportReport
from pts_steering.activations import Found, differences
from pts_steering.formats import write_gguf, write_jsonl, write_safetensors
from pts_steering.layers import LayerStatistics, best_layer, measure_layers

FORMATS = ("safetensors", "gguf", "jsonl")


@dataclass(frozen=True, slots=True)
class SteeringExporter:
    """The exporter of pts_steering.steering, with its options; `layers` None takes the best."""

    model: str
    layers: tuple[int, ...] | None
    steering_format: str | None
    confidence: float
    device: str

    def __call__(self, records: Sequence[Mapping[str, Any]], output_path: Path, /) -> ExportReport:
        kind = self._format(output_path)
        model_id = common_model(records)
        left_out: Counter[str] = Counter()
        found: Found = []
        for record in records:
            pair = measured_pair(record, self.confidence)
            if isinstance(pair, str):
                left_out[pair] += 1
            else:
                found.append((record, pair))
        if not found:
            return ExportReport(0, left_out)
        backend: Listenable = pts_core.load(
            "backend", "transformers", self.model, device=self.device, dtype="float32"
        )
        check_tokens(records, backend.decode, self.model)
        measured = differences(backend, found)
        statistics = measure_layers(measured, [record["query"] for record, _ in found])
        layers = self._choose(statistics, kind)
        notes = [*map(str, statistics)]
        if kind == "jsonl":
            rows = write_jsonl(output_path, found, measured.vectors, layers)
            if len(layers) > 1:
                notes.append(
                    "optillm adds every row at its own target_layer: filter steering_layer"
                )
        else:
            means = {layer: measured.vectors[:, layer].mean(axis=0) for layer in layers}
            metadata = _metadata(model_id, found, statistics, layers, self.confidence)
            if kind == "gguf":
                write_gguf(output_path, means, metadata, hint=backend.architecture)
            else:
                write_safetensors(output_path, means, metadata)
            rows = len(layers)
        notes.append(f"from {len(found)} pairs; written: layers {', '.join(map(str, layers))}")
        return ExportReport(rows, left_out, tuple(notes))

    def _format(self, output_path: Path) -> str:
        kind = self.steering_format or output_path.suffix.removeprefix(".")
        if kind not in FORMATS:
            raise UsageError(
                f"steering vectors are written as {', '.join(FORMATS)}: give --output-path such a "
                "suffix, or --steering-format"
            )
        return kind

    def _choose(self, statistics: Sequence[LayerStatistics], kind: str) -> tuple[int, ...]:
        # A control vector of llama.cpp numbers blocks from 0 and has no tensor for the first.
        possible = [s for s in statistics if kind != "gguf" or s.layer > 0]
        if self.layers is None:
            if possible and possible[0].effect is None:
                raise PtsError(
                    "all pairs are of one query, so no layer can be tried on others: "
                    "give --layer-nums"
                )
            return (best_layer(possible),)
        known = [s.layer for s in possible]
        for layer in self.layers:
            if layer not in known:
                where = " in a .gguf control vector" if kind == "gguf" else ""
                raise UsageError(
                    f"there is no layer {layer}{where}: {self.model} has {known[0]} to {known[-1]}"
                )
        return self.layers


def read_layers(text: str) -> tuple[int, ...]:
    """The layers of "19,23,27". Raises UsageError for what is no list of numbers."""
    try:
        layers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        layers = ()
    if not layers or min(layers) < 0:
        raise UsageError(f"--layer-nums {text!r} must be layers counted from 0, as 19,23,27")
    return layers


def _metadata(
    model_id: str,
    found: Found,
    statistics: Sequence[LayerStatistics],
    layers: Sequence[int],
    confidence: float,
) -> dict[str, str]:
    """What a file of vectors says about itself, all of it as text."""
    records = [record for record, _ in found]
    problems = sorted({(str(r.get("dataset_id")), str(r.get("dataset_item_id"))) for r in records})
    chosen = [s.as_dict() for s in statistics if s.layer in layers]
    return {
        "format": "pts-steering",
        "pts_version": pts_core.__version__,
        "model_id": model_id,
        "added_to": "output of decoder block, counted from 0",
        "layers": ",".join(map(str, layers)),
        "pairs": str(len(found)),
        "queries": str(len({record["query"] for record in records})),
        "confidence": str(confidence),
        "policy": json.dumps(records[0].get("sampling")),
        "statistics": json.dumps(chosen),
        "problems": json.dumps(problems),
    }
