"""Problems from a local file. All of it is read, and checked, before the first problem is used."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pts_core.errors import PtsError, UsageError
from pts_datasets.problems import Problems

Place = str  # where a row is in its file: "line 3"
Row = dict[str, Any]


def load(source: str, query_key: str | None, answer_key: str | None) -> Problems:
    """The problems in a file.

    Raises UsageError for a path that is no file, an unknown suffix or a column that is not there,
    and PtsError for a file that can't be read or has something else in it.
    """
    path = Path(source).expanduser()
    reader = READERS.get(path.suffix.lower())
    if path.is_dir():
        raise UsageError(f"{source} is a folder; give a file, or the folder as hub:{source}")
    if reader is None:
        raise UsageError(f"{source}: unknown kind of file; known are {', '.join(READERS)}")
    if not path.exists():
        raise UsageError(f"{source}: no such file")
    try:
        found = list(reader(path))
    except OSError as error:
        raise PtsError(f"{source} can't be read: {error.strerror or error}") from error
    return Problems(
        [row for _, row in found],
        places=[place for place, _ in found],
        dataset_id=path.name,
        source=source,
        columns=list(dict.fromkeys(column for _, row in found for column in row)),
        query_key=query_key,
        answer_key=answer_key,
    )


def read_jsonl(path: Path) -> Iterator[tuple[Place, Row]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"line {number}"
            text = _decoded(line, path, number)
            if text.strip():
                yield place, _row(_parsed(text, path, place), path, place)


def read_json(path: Path) -> Iterator[tuple[Place, Row]]:
    content = path.read_bytes()
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from read_jsonl(path)
        return
    for index, item in enumerate(_parsed(_decoded(content, path), path)):
        place = f"item {index} (the first is 0)"
        yield place, _row(item, path, place)


def read_csv(path: Path) -> Iterator[tuple[Place, Row]]:
    text = io.StringIO(_decoded(path.read_bytes(), path), newline="")
    reader = csv.DictReader(text, strict=True)
    try:
        header = reader.fieldnames or []
        if len(set(header)) < len(header):
            raise PtsError(f"{path}, line 1: two columns have the same name; rename one")
        for row in reader:
            place = f"line {reader.line_num}"
            if None in row:
                raise PtsError(f"{path}, {place}: more fields than the header has; quote commas")
            yield place, row
    except csv.Error as error:
        raise PtsError(
            f"{path}, after line {reader.line_num}: no proper CSV ({error}); correct it"
        ) from error


def read_parquet(path: Path) -> Iterator[tuple[Place, Row]]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        rows: list[Row] = pyarrow.parquet.ParquetFile(path).read().to_pylist()
    except pyarrow.ArrowException as error:
        cause = str(error).splitlines()[0]
        raise PtsError(f"{path} is no proper Parquet file ({cause}); write it again") from error
    for index, row in enumerate(rows):
        yield f"row {index} (the first is 0)", row


READERS: dict[str, Callable[[Path], Iterator[tuple[Place, Row]]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def _decoded(content: bytes, path: Path, line: int | None = None) -> str:
    """The text of a file, or of one line of it, without a byte-order mark."""
    try:
        return content.decode("utf-8-sig" if line in (None, 1) else "utf-8")
    except UnicodeDecodeError as error:
        line = line or content.count(b"\n", 0, error.start) + 1
        raise PtsError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8; "
            "save the file as UTF-8"
        ) from error


def _parsed(text: str, path: Path, place: Place | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{place}, column {error.colno}" if place else f"line {error.lineno}"
        cause = error.msg
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all measure
        where, cause = place or "somewhere", str(error).partition(";")[0]
    raise PtsError(f"{path}, {where}: no complete JSON ({cause}); correct or remove it")


def _row(value: Any, path: Path, place: Place) -> Row:
    if isinstance(value, dict):
        return value
    kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
    raise PtsError(f'{path}, {place}: {kind}, not an object such as {{"question": …}}; correct it')
