"""The pivotal-token record: one JSON object a line. Its schema, writing, and reading JSON lines.

The fields from `model_id` to `is_positive` carry the names of the data sets of this kind that are
already published, so that their readers work.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pts_core
from pts_core.errors import PtsError, UsageError
from pts_core.types import Alternative, PivotalToken, Problem, Sampling, TokenIds

SCHEMA_VERSION = 1

Record = dict[str, Any]


def make_record(
    problem: Problem,
    prompt: TokenIds,
    token: PivotalToken,
    *,
    model_id: str,
    sampling: Sampling,
    decode: Callable[[TokenIds], str],
) -> Record:
    """The record of a pivotal token. `decode` must keep special tokens: they are context too."""
    context = prompt + token.trace.ids[: token.position]
    return {
        "model_id": model_id,
        "query": problem.query,
        "dataset_id": problem.dataset_id,
        "dataset_item_id": problem.id,
        "task_type": problem.task_type,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "pivot_context": decode(context),
        "pivot_token": decode((token.token_id,)),
        "pivot_token_id": token.token_id,
        "prob_before": token.prob_before,
        "prob_after": token.prob_after,
        "prob_delta": token.delta,
        "is_positive": token.delta > 0,
        "context_ids": list(context),
        "prompt_length": len(prompt),
        "position": token.position,
        "trace_id": f"{problem.id}/{token.trace.id}",
        "trace_success": token.trace.correct,
        "token_prob": token.token_prob,
        "interval": list(token.interval),
        "rollouts": list(token.rollouts),
        "alternatives": [alternative_row(a, decode) for a in token.alternatives],
        "sampling": asdict(sampling),
        "pts_version": pts_core.__version__,
        "schema_version": SCHEMA_VERSION,
    }


def alternative_row(alternative: Alternative, decode: Callable[[TokenIds], str]) -> Record:
    """One of the `alternatives` of a record."""
    return {"token": decode((alternative.token_id,)), **asdict(alternative)}


# What every pivotal-token data set of this kind has; the rest of a record is checked if there.
_NEEDED = {
    "model_id": str,
    "query": str,
    "pivot_context": str,
    "pivot_token": str,
    "prob_before": float,
    "prob_after": float,
    "prob_delta": float,
}


def read_records(path: Path) -> list[Record]:
    """The pivotal tokens of a file. Those of other tools may lack the fields from `context_ids` on.

    Raises UsageError where the file can't be opened, PtsError where it holds none, at a line that
    is no pivotal token and at one that a newer version of pts wrote.
    """
    records = []
    for number, record in read_json_lines(path):
        try:
            _check_record(record)
        except ValueError as error:
            raise PtsError(f"{path}, line {number}: {error}") from error
        records.append(record)
    if not records:
        raise PtsError(f"{path} holds no pivotal tokens")
    return records


def common_model(records: Sequence[Mapping[str, Any]]) -> str:
    """The model that all records are of. Raises PtsError where there are several: their token
    ids and their probabilities don't belong together."""
    models = sorted({str(record["model_id"]) for record in records})
    if not models:
        raise PtsError("there are no pivotal tokens")
    if len(models) > 1:
        raise PtsError(
            f"the records are of {len(models)} models ({', '.join(models[:4])}): "
            "export the records of each model from a file of their own"
        )
    return models[0]


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one object a line. Raises PtsError (disk full, say)."""
    try:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise PtsError(f"cannot write {path}: {error.strerror}") from error


def _check_record(record: Record) -> None:
    """Raises ValueError for what is no pivotal token, or one that is not understood here."""
    if record.get("schema_version", 0) not in range(SCHEMA_VERSION + 1):
        raise ValueError(
            f"its schema_version is {record['schema_version']!r}, and this pts knows "
            f"{SCHEMA_VERSION}: upgrade pts"
        )
    for name, kind in _NEEDED.items():
        if name not in record:
            raise ValueError(f"no pivotal token: it has no {name!r}")
        value = float(record[name]) if type(record[name]) is int else record[name]
        if not isinstance(value, kind) or value != value:
            raise ValueError(f"no pivotal token: {name!r} is {record[name]!r}")
    if "context_ids" in record:
        ids = [*_list(record, "context_ids"), record.get("pivot_token_id")]
        if not all(type(i) is int and i >= 0 for i in ids):
            raise ValueError("no pivotal token: 'context_ids' and 'pivot_token_id' must be ids")
        if record.get("prompt_length") not in range(1, len(ids)):
            raise ValueError(
                f"no pivotal token: 'prompt_length' is {record.get('prompt_length')!r}"
            )
    if "alternatives" in record:
        counts = _list(record, "rollouts")
        if len(counts) != 2 or not all(type(n) is int and n > 0 for n in counts):
            raise ValueError(f"no pivotal token: 'rollouts' is {counts!r}")
        for other in _list(record, "alternatives"):
            _check_alternative(other)


def _list(record: Record, name: str) -> list[Any]:
    value = record.get(name)
    if not isinstance(value, list):
        raise ValueError(f"no pivotal token: {name!r} must be a list, not {value!r}")
    return value


def _check_alternative(other: Any) -> None:
    if not (
        isinstance(other, dict)
        and isinstance(other.get("token"), str)
        and type(other.get("token_id")) is int
        and type(other.get("rollouts")) is int
        and other["rollouts"] > 0
        and type(other.get("token_prob")) in (int, float, type(None))
        and type(other.get("prob")) in (int, float)
        and 0 <= other["prob"] <= 1
    ):
        raise ValueError(f"no pivotal token: one of its alternatives is {str(other)[:60]}")


class Output:
    """A file of records that grows by whole problems, so that no reader ever sees half of one.

    What the file holds already (`replace`) stays until as much has been written again, beside it.
    Raises UsageError where it may not be replaced or can't be written, PtsError (disk full, say)
    when writing.
    """

    def __init__(self, path: Path, *, replace: bool) -> None:
        self.path = path
        self.count = 0
        try:
            self._is_new = not path.exists()
            self._before = 0 if self._is_new else path.read_bytes().count(b"\n")
            if self._before and not replace:
                raise UsageError(f"{path} exists; give another --output-path, or --overwrite")
            self._beside = path.with_name(path.name + ".partial") if self._before else None
            self._file = open(self._beside or path, "wb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error

    def write(self, records: Sequence[Record]) -> None:
        """Appends records in one piece."""
        if not records:
            return
        data = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()
        size = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.truncate(size)
            raise PtsError(f"cannot write {self.path}: {error.strerror}") from error
        self.count += len(records)
        if self.count >= self._before:
            self._put_in_place()

    @property
    def size(self) -> int:
        """How many records are in the file when it is closed before its run is complete."""
        return max(self.count, self._before)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(complete=False)

    def close(self, *, complete: bool) -> None:
        """`complete` says that what was written is all there is to be."""
        if self._file.closed:
            return
        if complete or self.count >= self._before:
            self._put_in_place()
        self._file.close()
        if self._beside is not None:
            self._beside.unlink()
        if not complete and not self.count and self._is_new:
            self.path.unlink()

    def _put_in_place(self) -> None:
        if self._beside is not None:
            self._beside.replace(self.path)
            self._beside = None


def read_json_lines(path: Path) -> Iterator[tuple[int, Record]]:
    """The objects of a JSON-lines file with their line numbers; empty lines are passed over.

    Raises UsageError where the file can't be opened, PtsError at a line that is no JSON object.
    """
    try:
        file = path.open(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    with file:
        lines = enumerate(file, 1)
        while True:
            try:
                number, line = next(lines, (0, ""))
            except (OSError, UnicodeDecodeError) as error:
                raise PtsError(f"cannot read {path}: {error}") from error
            if not number:
                return
            if line.strip():
                yield number, _object(path, number, line)


def _object(path: Path, number: int, line: str) -> Record:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PtsError(f"{path}, line {number}: not JSON ({error}); is the line torn?") from error
    if not isinstance(value, dict):
        raise PtsError(f"{path}, line {number}: a JSON object is needed, not {line.strip()[:40]}")
    return value
