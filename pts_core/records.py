"""The pivotal-token record: one JSON object a line. Its schema, writing, and reading JSON lines.

The fields from `model_id` to `is_positive` carry the names of the data sets of this kind that are
already published, so that their readers work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pts_core
from pts_core.errors import PtsError, UsageError
from pts_core.types import PivotalToken, Problem, Sampling, TokenIds

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
        "alternatives": [
            {
                "token": decode((a.token_id,)),
                "token_id": a.token_id,
                "token_prob": a.token_prob,
                "prob": a.prob,
                "rollouts": a.rollouts,
                "interval": list(a.interval),
            }
            for a in token.alternatives
        ],
        "sampling": sampling.as_dict(),
        "pts_version": pts_core.__version__,
        "schema_version": SCHEMA_VERSION,
    }


def open_output(path: Path, *, overwrite: bool) -> IO[str]:
    """Opens a file for records without yet emptying it, before anything is generated for it.

    Raises UsageError where it holds something already (and not `overwrite`) or can't be written.
    """
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    if not overwrite and path.stat().st_size > 0:
        file.close()
        raise UsageError(f"{path} exists; give another --output-path, or --overwrite")
    return file


def append(file: IO[str], record: Record) -> None:
    """Writes a record and hands it to the operating system. Raises PtsError (disk full, say)."""
    try:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
    except OSError as error:
        raise PtsError(f"cannot write {file.name}: {error.strerror}") from error


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
