"""`pts export`: pivotal tokens in, a file for training, steering or reading out."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from pts_core.cli.options import build
from pts_core.cli.resolve import (
    Options,
    build_backend,
    build_dataset,
    build_oracle,
    model_source,
)
from pts_core.counterparts import measure_counterparts
from pts_core.errors import PtsError, UsageError
from pts_core.interfaces import Backend, Dataset, Exporter, Oracle
from pts_core.plugins import Offer, Registry, discover
from pts_core.records import Record, read_records
from pts_core.types import ExportReport

FILES = Group.create_ordered("Files")
PAIRS = Group.create_ordered("Pairs (dpo)")
MISSING = Group.create_ordered("Pairs that are missing an alternative (dpo, with --model)")
VECTORS = Group.create_ordered("Vectors (steering)")

CONFIDENCE = 0.95


def export(
    *,
    input_path: Annotated[Path, Parameter(group=FILES)],
    format: Annotated[str, Parameter(name="--format", group=FILES)],
    format_options: Annotated[Options, Parameter(name="--format", group=FILES)] = None,
    output_path: Annotated[Path, Parameter(group=FILES)],
    overwrite: Annotated[bool, Parameter(group=FILES, negative=())] = False,
    min_prob_delta: Annotated[float | None, Parameter(group=PAIRS)] = None,
    max_pairs: Annotated[int | None, Parameter(group=PAIRS, validator=Number(gte=1))] = None,
    balance: Annotated[bool | None, Parameter(group=PAIRS, negative=())] = None,
    text_exact_only: Annotated[bool | None, Parameter(group=PAIRS, negative=())] = None,
    template: Annotated[str | None, Parameter(group=PAIRS)] = None,
    tokenizer: Annotated[str | None, Parameter(group=PAIRS)] = None,
    dataset: Annotated[str | None, Parameter(name="--dataset", group=MISSING)] = None,
    dataset_options: Annotated[Options, Parameter(name="--dataset", group=MISSING)] = None,
    oracle: Annotated[str | None, Parameter(name="--oracle", group=MISSING)] = None,
    oracle_options: Annotated[Options, Parameter(name="--oracle", group=MISSING)] = None,
    num_samples: Annotated[int | None, Parameter(group=MISSING, validator=Number(gte=1))] = None,
    backend: Annotated[str | None, Parameter(name="--backend", group=MISSING)] = None,
    backend_options: Annotated[Options, Parameter(name="--backend", group=MISSING)] = None,
    model: Annotated[str | None, Parameter(group=VECTORS)] = None,
    layer_nums: Annotated[str | None, Parameter(group=VECTORS)] = None,
    steering_format: Annotated[
        Literal["safetensors", "gguf", "jsonl"] | None, Parameter(group=VECTORS)
    ] = None,
) -> int:
    """Turn pivotal tokens into preference pairs, steering vectors or what a plugin writes.

    Formats have options of their own, as --format.confidence 0.9; `pts plugins show exporter dpo`
    lists them. The flags below stand for those of the same name.

    Parameters
    ----------
    input_path
        The pivotal tokens that `pts run` wrote.
    format
        dpo, steering, or another exporter of `pts plugins`; --format.NAME sets an option of it.
    output_path
        The file to write.
    overwrite
        Replace the output if it exists.
    min_prob_delta
        Leave out tokens that move success probability by less.
    max_pairs
        Keep so many pairs, those whose two sides differ most.
    balance
        Keep as many pairs from tokens that lower success probability as from those that raise it.
    text_exact_only
        Keep pairs whose text becomes exactly their token ids when it is tokenized again.
    template
        text or conversational.
    tokenizer
        A folder or Hub id with the tokenizer of the records' model [that model's own].
    dataset
        The problems of the records, as for `pts run`; --dataset.NAME sets an option of it.
    oracle
        What judges, as for `pts run` [auto]; --oracle.NAME sets an option of it.
    num_samples
        Rollouts of each alternative that is measured [50].
    backend
        What generates, as for `pts run` [transformers]; --backend.NAME sets an option of it.
    model
        A Hub id, a folder, or demo: the model of the records. For dpo it measures alternatives
        to tokens that have none in the records.
    layer_nums
        Layers to write, counted from 0, as 19,23,27 [the best one].
    steering_format
        safetensors, gguf or jsonl [what the output's suffix says].
    """
    registry = discover()
    offer = registry.find("exporter", format)
    records = read_records(input_path)
    takes_model = "model" in inspect.signature(offer.factory).parameters
    if model is None or takes_model:
        measuring = {
            **{"--dataset": dataset, "--oracle": oracle, "--backend": backend},
            **{"--dataset.NAME": dataset_options, "--oracle.NAME": oracle_options},
            **{"--backend.NAME": backend_options, "--num-samples": num_samples},
        }
        for flag, given in measuring.items():
            if given is not None:
                raise UsageError(f"{flag} is for measuring alternatives: --format dpo with --model")
    elif dataset is None:
        raise UsageError("--model measures alternatives, which needs the problems: --dataset")
    exporter: Exporter = build(
        offer,
        format_options,
        shorthands={
            "min_prob_delta": min_prob_delta,
            "max_pairs": max_pairs,
            "balance": balance,
            "text_exact_only": text_exact_only,
            "template": template,
            "tokenizer": _tokenizer(registry, offer, tokenizer, records),
            "model": model_source(registry, model) if model and takes_model else None,
            "layer_nums": layer_nums,
            "steering_format": steering_format,
        },
    )
    _check_output(output_path, overwrite=overwrite)
    if model and dataset:
        judge = build_oracle(registry, oracle or "auto", oracle_options)
        problems = build_dataset(registry, dataset, dataset_options, {})
        offered = registry.find("backend", backend or "transformers")
        generator = build_backend(registry, offered, backend_options, model)
        records = _measure(generator, judge, problems, records, num_samples or 50)
    report = _write(exporter, records, output_path)
    for note in report.notes:
        print(note)
    for reason, count in sorted(report.left_out.items(), key=lambda item: -item[1]):
        print(f"{count} left out: {reason}")
    print(f"{report.rows} rows written to {output_path}")
    return 0


def _tokenizer(
    registry: Registry, offer: Offer, given: str | None, records: list[Record]
) -> str | None:
    """The tokenizer to use: that of the records' model where a plugin ships it."""
    model = str(records[0]["model_id"])
    if given is not None:
        return model_source(registry, given)
    takes_one = "tokenizer" in inspect.signature(offer.factory).parameters
    return model_source(registry, model) if takes_one and model in registry.names("model") else None


def _measure(
    backend: Backend, judge: Oracle, problems: Dataset, records: list[Record], rollouts: int
) -> list[Record]:
    measured, passed_over = measure_counterparts(
        backend, judge, problems, records, rollouts=rollouts, confidence=CONFIDENCE
    )
    fresh = sum(new is not old for new, old in zip(measured, records, strict=True))
    print(f"{fresh} tokens got measured alternatives")
    for reason, count in sorted(passed_over.items()):
        print(f"{count} {reason}")
    return measured


def _check_output(output_path: Path, *, overwrite: bool) -> None:
    if output_path.is_dir() or not output_path.absolute().parent.is_dir():
        raise UsageError(f"cannot write {output_path}: give a file in a folder that exists")
    if output_path.exists() and not overwrite:
        raise UsageError(f"{output_path} exists; give another --output-path, or --overwrite")


def _write(exporter: Exporter, records: list[Record], output_path: Path) -> ExportReport:
    """Writes beside the output and puts the file in its place when it is whole."""
    # Of the same suffix, which may tell the exporter what to write.
    partial = output_path.with_name(f".{os.getpid()}.{output_path.name}")
    try:
        report: Any = exporter(records, partial)
        if not isinstance(report, ExportReport):
            raise PtsError(f"the exporter must return an ExportReport, not {report!r}")
        if not report.rows:
            raise PtsError(f"nothing to write: {_reasons(report)}")
        partial.replace(output_path)
    except OSError as error:
        raise PtsError(f"cannot write {output_path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return report


def _reasons(report: ExportReport) -> str:
    reasons = [f"{count} left out because {reason}" for reason, count in report.left_out.items()]
    return "; ".join(reasons) or "no record can be exported"
