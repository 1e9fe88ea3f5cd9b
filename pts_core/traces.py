"""Reads given completions: what `pts run --traces-path` searches instead of sampled ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from pts_core.errors import PtsError
from pts_core.records import Record, read_json_lines
from pts_core.types import Problem, TokenIds

T = TypeVar("T")


def read_traces(
    path: Path, problems: Iterable[Problem], encode: Callable[[str], TokenIds]
) -> dict[str, list[TokenIds]]:
    """Completions by problem id.

    A row names its problem by `dataset_item_id` or by `query`, and its completion by
    `completion_ids` or by `completion`, a text, which is encoded as it stands. Raises PtsError
    naming the line where a row lacks one of them, matches no problem or has ids that aren't.
    """
    return read_rows(path, problems, lambda row: _completion(row, encode))


def read_rows(
    path: Path, problems: Iterable[Problem], take: Callable[[Record], T]
) -> dict[str, list[T]]:
    """What `take` makes of the rows of each problem, by problem id; see `read_traces`."""
    ids: set[str] = set()
    queries: dict[str, str] = {}
    for problem in problems:
        ids.add(problem.id)
        queries.setdefault(problem.query, problem.id)
    found: dict[str, list[T]] = {}
    for number, row in read_json_lines(path):
        try:
            found.setdefault(_problem_id(row, ids, queries), []).append(take(row))
        except ValueError as error:
            raise PtsError(f"{path}, line {number}: {error}") from error
    if not found:
        raise PtsError(f"{path} holds no completions")
    return found


def _problem_id(row: Record, ids: set[str], queries: dict[str, str]) -> str:
    if "dataset_item_id" in row:
        if str(row["dataset_item_id"]) in ids:
            return str(row["dataset_item_id"])
        raise ValueError(f"no problem of the dataset has the id {row['dataset_item_id']!r}")
    if "query" in row:
        if str(row["query"]) in queries:
            return queries[str(row["query"])]
        raise ValueError(f"no problem of the dataset has the query {str(row['query'])[:60]!r}")
    raise ValueError("the row has neither 'dataset_item_id' nor 'query'")


def _completion(row: Record, encode: Callable[[str], TokenIds]) -> TokenIds:
    if "completion_ids" in row:
        ids = row["completion_ids"]
        if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
            raise ValueError("'completion_ids' must be a list of token ids")
        return tuple(ids)
    if isinstance(row.get("completion"), str):
        return encode(row["completion"])
    raise ValueError("the row has neither a 'completion' text nor 'completion_ids'")
