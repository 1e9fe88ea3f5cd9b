"""Steering vectors as files: safetensors, a GGUF control vector, and optillm's JSON lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pts_core.errors import PtsError
from pts_core.records import write_json_lines
from pts_steering.activations import Floats, Found
from pts_steering.patterns import pattern


def write_safetensors(path: Path, means: Mapping[int, Floats], metadata: dict[str, str]) -> None:
    """Tensors `layer.N`, float32 of the model's width."""
    from safetensors.numpy import save_file

    save_file({f"layer.{n}": np.ascontiguousarray(v) for n, v in means.items()}, path, metadata)


def write_gguf(
    path: Path, means: Mapping[int, Floats], metadata: Mapping[str, str], *, hint: str
) -> None:
    """A control vector as llama.cpp reads it: tensors `direction.N`, added to block N."""
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise PtsError("a .gguf file is written with the package gguf: pip install gguf") from error
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(means))
    for name, value in metadata.items():
        writer.add_string(f"pts.{name}", value)
    for layer, vector in means.items():
        writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(vector))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_jsonl(path: Path, found: Found, vectors: Floats, layers: Sequence[int]) -> int:
    """One row a pair and layer, as optillm's autothink loads them; returns their number.

    optillm adds every vector that it loads, so each points from the worse token to the better.
    """
    patterns = [pattern(pair.better.token) for _, pair in found]
    clusters = {name: i for i, name in enumerate(sorted(set(patterns)))}
    rows = []
    for layer in layers:
        of_layer = vectors[:, layer]
        means = {
            name: of_layer[[p == name for p in patterns]].mean(axis=0).tolist() for name in clusters
        }
        for (record, pair), name, vector in zip(found, patterns, of_layer, strict=True):
            rows.append(
                {
                    "pivot_context": record["pivot_context"],
                    "pivot_token": record["pivot_token"],
                    "pivot_token_id": record["pivot_token_id"],
                    "prob_before": record["prob_before"],
                    "prob_after": record["prob_after"],
                    "prob_delta": record["prob_delta"],
                    "better_token": pair.better.token,
                    "worse_token": pair.worse.token,
                    "model_id": record["model_id"],
                    "task_type": record.get("task_type"),
                    "dataset_id": record.get("dataset_id"),
                    "dataset_item_id": record.get("dataset_item_id"),
                    "sampling": record.get("sampling"),
                    "reasoning_pattern": name,
                    "cluster_id": clusters[name],
                    "steering_layer": layer,
                    "steering_vector": vector.tolist(),
                    "cluster_vector": means[name],
                }
            )
    write_json_lines(path, rows)
    return len(rows)
