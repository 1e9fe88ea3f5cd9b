"""The card of a file, made from what is in it: what it holds, of which model, how to load it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from pts_core.errors import PtsError
from pts_core.records import Record, read_json_lines
from pts_hub.fields import MEANINGS

SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}
SEARCH = "https://arxiv.org/abs/2412.08905"


@dataclass(slots=True)
class Contents:
    """What is in a file: `facts` are lines of a table, `load` is Python that reads it."""

    title: str
    about: str
    tag: str
    facts: dict[str, str]
    load: str
    rows: int | None = None
    fields: dict[str, str] = field(default_factory=dict)


def make_card(path: Path, repository: str, revision: str | None) -> str:
    """The README.md for a file in a repository. Raises PtsError where the file can't be read."""
    contents = _contents(path, repository, revision)
    data = DatasetCardData(tags=["pts", "pivotal-token-search", contents.tag])
    if contents.rows is not None:
        larger = [size for limit, size in SIZES.items() if contents.rows < limit]
        data.size_categories = [larger[0] if larger else "n>1M"]
        data.configs = [{"config_name": "default", "data_files": path.name}]  # type: ignore[attr-defined]
    parts = [f"---\n{data.to_yaml()}\n---", f"# {contents.title}", contents.about]
    parts.append(_table(("", ""), contents.facts))
    parts.append(f"## Load it\n\n```python\n{contents.load}\n```")
    if contents.fields:
        parts.append("## Fields\n\n" + _table(("field", ""), contents.fields))
    parts.append(
        "Made with `pts` (pivotal token search, after the "
        f"[Phi-4 Technical Report]({SEARCH}), section 4.3)."
    )
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    lines += [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows.items()]
    return "\n".join(lines)


def _contents(path: Path, repository: str, revision: str | None) -> Contents:
    if path.suffix == ".safetensors":
        return _of_safetensors(path, repository, revision)
    if path.suffix == ".gguf":
        return _of_gguf(path, repository, revision)
    if path.suffix == ".jsonl":
        return _of_json_lines(path, repository, revision)
    return Contents(
        path.name,
        f"The file `{path.name}`.",
        "file",
        {"bytes": f"{path.stat().st_size:,}"},
        _download(path, repository, revision),
    )


def _of_json_lines(path: Path, repository: str, revision: str | None) -> Contents:
    rows = [row for _, row in read_json_lines(path)]
    if not rows:
        raise PtsError(f"{path} is empty: there is nothing to publish")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    where = f", revision={revision!r}" if revision else ""
    load = (
        "from datasets import load_dataset\n\n"
        f"rows = load_dataset({repository!r}, split='train'{where})"
    )
    title, about, tag, facts = _kind(rows, columns)
    return Contents(
        title,
        about,
        tag,
        {"rows": f"{len(rows):,}", **facts},
        load,
        len(rows),
        {f"`{name}`": MEANINGS.get(name, "") for name in columns},
    )


def _kind(rows: list[Record], columns: list[str]) -> tuple[str, str, str, dict[str, str]]:
    """Title, description, tag and facts of JSON lines, by the columns they have."""
    if "steering_vector" in columns:
        facts = {
            **_origin(rows),
            "layers": _names(row.get("steering_layer") for row in rows),
            "patterns": _counts(row.get("reasoning_pattern") for row in rows),
        }
        about = "Steering vectors, one a pivotal token, each pointing from the worse token to the "
        about += "better one; in the form that optillm's autothink loads."
        return f"Steering vectors of {_model(rows)}", about, "steering-vectors", facts
    if {"prompt", "chosen", "rejected"} <= set(columns):
        metadata = [row["metadata"] for row in rows if isinstance(row.get("metadata"), dict)]
        signs = _counts(_sign(row.get("is_positive")) for row in metadata)
        facts = {**_origin(metadata), "made from": signs, "exact as text": _exact(rows)}
        about = "Preference pairs of single tokens for DPO: both sides were measured by sampling "
        about += "how answers go on after them. Train on the ids (`pts_dpo.trl`): tokenizing the "
        about += "text again, and an end-of-sequence token after it, train something else."
        return f"Preference pairs of {_model(metadata)}", about, "dpo", facts
    if "pivot_token" in columns:
        signs = _counts(_sign(row.get("is_positive")) for row in rows)
        about = "Single tokens that move the probability that an answer comes out right, with the "
        about += "probabilities before and after them, measured by sampling how answers go on."
        return (
            f"Pivotal tokens of {_model(rows)}",
            about,
            "pivotal-tokens",
            {**_origin(rows), "tokens": signs},
        )
    return "Rows", "JSON lines.", "rows", {}


def _of_safetensors(path: Path, repository: str, revision: str | None) -> Contents:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise PtsError(f"{path} is no whole safetensors file: {error}") from error
    load = (
        f"{_download(path, repository, revision)}\n\nfrom safetensors.torch import load_file\n\n"
        "vectors = load_file(path)  # by layer, added to the output of that block"
    )
    tensors = ", ".join(f"`{name}` {shape}" for name, shape in shapes.items())
    return _vectors(metadata, load, {"tensors": tensors})


def _of_gguf(path: Path, repository: str, revision: str | None) -> Contents:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise PtsError("a .gguf file is read with the package gguf: pip install gguf") from error
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise PtsError(f"{path} is no whole GGUF file: {error}") from error
    metadata = {
        name.removeprefix("pts."): str(value.contents())
        for name, value in reader.fields.items()
        if name.startswith("pts.")
    }
    tensors = ", ".join(f"`{t.name}` {[int(n) for n in t.shape]}" for t in reader.tensors)
    load = f"{_download(path, repository, revision)}\n\n# llama-cli --control-vector FILE ..."
    return _vectors(metadata, load, {"tensors": tensors})


def _vectors(metadata: Mapping[str, str], load: str, facts: dict[str, str]) -> Contents:
    told = ("model_id", "policy", "pairs", "queries", "layers", "statistics")
    known = {name: metadata[name] for name in told if name in metadata}
    return Contents(
        f"Steering vectors of {metadata.get('model_id', 'a model')}",
        "Directions from worse tokens to better ones: the mean difference, over pivotal tokens, "
        "of a block's output after the better token and after the worse one on the same prefix.",
        "steering-vectors",
        {**known, **facts},
        load,
    )


def _download(path: Path, repository: str, revision: str | None) -> str:
    where = f", revision={revision!r}" if revision else ""
    return (
        "from huggingface_hub import hf_hub_download\n\n"
        f"path = hf_hub_download({repository!r}, {path.name!r}, repo_type='dataset'{where})"
    )


def _origin(rows: list[Record]) -> dict[str, str]:
    """Where rows come from: only what they say themselves."""
    policies = (row["sampling"] for row in rows if isinstance(row.get("sampling"), dict))
    facts = {
        "model": _names(row.get("model_id") for row in rows),
        "problems of": _names(row.get("dataset_id") for row in rows),
        "problems": str(len({str(row.get("dataset_item_id")) for row in rows})),
        "kinds of task": _counts(row.get("task_type") for row in rows),
        "policy": _names(json.dumps(policy) for policy in policies),
    }
    return {name: value for name, value in facts.items() if value}


def _model(rows: list[Record]) -> str:
    return _names(row.get("model_id") for row in rows) or "a model"


def _names(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values if value is not None}))


def _counts(values: Iterable[Any]) -> str:
    counted = Counter(str(value) for value in values if value is not None)
    return ", ".join(f"{count:,} {name}" for name, count in counted.most_common())


def _sign(is_positive: Any) -> str | None:
    return None if is_positive is None else "raise it" if is_positive else "lower it"


def _exact(rows: list[Record]) -> str:
    known = [row["text_exact"] for row in rows if row.get("text_exact") is not None]
    return f"{sum(known):,} of {len(known):,}" if known else "not known"
