"""Which columns of a dataset hold what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches

from pts_core.errors import UsageError

# The first pair that fits wholly is taken: problem and answer come before problem and solution,
# since a solution beside an answer is a derivation.
PAIRS = (
    ("question", "answer"),
    ("problem", "answer"),
    ("query", "answer"),
    ("prompt", "answer"),
    ("instruction", "answer"),
    ("question", "final_answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("query", "response"),
    ("prompt", "response"),
    ("problem", "solution"),
    ("question", "solution"),
    ("prompt", "canonical_solution"),
    ("prompt", "completion"),
    ("input", "target"),
    ("input", "output"),
    ("prompt", "code"),
    ("text", "code"),
    ("question", "answerkey"),
    ("question", "correct"),
)
IDS = ("id", "task_id", "unique_id", "problem_id", "question_id", "uuid", "uid")
TASK_TYPES = ("task_type", "category", "subject", "type")


def choose_pair(
    source: str, columns: Sequence[str], query_key: str | None, answer_key: str | None
) -> tuple[str, str]:
    """The columns of query and answer: those given, and the others as detected.

    Raises UsageError where a given one is no column, or nothing fits.
    """
    for key, flag in ((query_key, "--query-key"), (answer_key, "--answer-key")):
        if key is not None and key not in columns:
            raise UsageError(_describe_unknown(source, columns, key, flag))
    query, answer = query_key, answer_key
    if query is None or answer is None:
        query, answer = _detect(source, columns, query_key, answer_key)
    if query == answer:
        raise UsageError(f"{source}: query and answer can't both come from {quoted(query)}")
    return query, answer


def find_columns(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns of these names, in the names' order, whatever their case."""
    by_name = {column.lower(): column for column in reversed(columns)}
    return [by_name[name] for name in names if name in by_name]


def quoted(name: str) -> str:
    """A column's name for a message; it comes from outside and may hold anything."""
    return json.dumps(name, ensure_ascii=not name.isprintable())


def _detect(
    source: str, columns: Sequence[str], query_key: str | None, answer_key: str | None
) -> tuple[str, str]:
    pairs = [found for pair in PAIRS if len(found := find_columns(columns, pair)) == 2]
    if query_key is not None or answer_key is not None:
        # A given column need not be one that is known; the other must be.
        queries = [query_key] if query_key else find_columns(columns, [q for q, _ in PAIRS])
        answers = [answer_key] if answer_key else find_columns(columns, [a for _, a in PAIRS])
        given = [[q, a] for q in queries for a in answers if q != a]
        pairs = [pair for pair in pairs if pair in given] or given
    if not pairs:
        raise UsageError(
            f"{source}: no known pair of query and answer among its columns "
            f"{_listed(columns)}; name them with --query-key and --answer-key"
        )
    query, answer = pairs[0]
    return query, answer


def _describe_unknown(source: str, columns: Sequence[str], key: str, flag: str) -> str:
    lower = {column.lower(): column for column in columns}
    close = get_close_matches(key.lower(), lower, n=1)
    hint = f" Did you mean {quoted(lower[close[0]])}?" if close else ""
    return f"{source} has no column {quoted(key)} ({flag}).{hint} Columns: {_listed(columns)}"


def _listed(columns: Sequence[str]) -> str:
    shown = [quoted(column) for column in columns[:30]]
    return ", ".join([*shown, f"and {len(columns) - 30} more"] if len(columns) > 30 else shown)
