"""Rows as problems."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from pts_core.errors import PtsError
from pts_core.types import Problem
from pts_datasets.fields import IDS, TASK_TYPES, choose_pair, find_columns, quoted
from pts_datasets.kinds import kind_of, shaped
from pts_datasets.known import REQUESTS, UNKNOWN, Known


class Rows(Protocol):
    """Rows that can be gone through more than once: a list, or a datasets.Dataset."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...


class Problems:
    """The problems of a dataset. Every row is checked before the first one is used.

    A problem's task type says how it is judged ("math", "code", "choice", "yes-no") where `known`
    or the columns tell, and is the dataset's own word where they don't. `source` names the dataset
    in messages, `places` each row ("line 3"). Rows that are no problems are left out and counted in
    `note` if their user `cannot_mend` them. Raises UsageError where the columns don't fit and
    PtsError for a dataset with no rows, with such a row, or of nothing else.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        dataset_id: str,
        source: str,
        columns: Sequence[str],
        places: Sequence[str] | None = None,
        query_key: str | None = None,
        answer_key: str | None = None,
        known: Known = UNKNOWN,
        cannot_mend: bool = False,
    ) -> None:
        if not len(rows):
            raise PtsError(f"{source} has no problems in it; each row is to be one")
        self.dataset_id = dataset_id
        self._rows, self._source, self._places = rows, source, places
        self._query, self._answer = choose_pair(source, columns, query_key, answer_key)
        self.note = f"query from {quoted(self._query)}, answer from {quoted(self._answer)}"
        others = [column for column in columns if column not in (self._query, self._answer)]
        self._id = _unique_column(rows, find_columns(others, IDS))
        self._task_type = next(iter(find_columns(others, TASK_TYPES)), None)
        self._metadata = [c for c in others if c not in (self._id, self._task_type)]
        self._known, self._kind = known, known.task_type or kind_of(columns)
        self._left_out = dict(self._faults())
        if self._left_out:
            first = next(iter(self._left_out.values()))
            if not cannot_mend or len(self._left_out) == len(rows):
                raise first
            self.note += f"; {len(self._left_out)} of {len(rows)} rows left out, as {first}"

    def __len__(self) -> int:
        return len(self._rows) - len(self._left_out)

    def __iter__(self) -> Iterator[Problem]:
        for index, row in enumerate(self._rows):
            if index not in self._left_out:
                yield self._problem(index, row)

    def _faults(self) -> Iterator[tuple[int, PtsError]]:
        """The rows that are no problems, and why."""
        for index, row in enumerate(self._rows):
            try:
                self._problem(index, row)
            except PtsError as error:
                yield index, error

    def _problem(self, index: int, row: Mapping[str, Any]) -> Problem:
        named = row.get(self._task_type) if self._task_type else None
        own_type = _clean(str(named)) if _is_scalar(named) else None
        kind = self._known.categories.get(own_type or "", self._kind)
        metadata = {
            column: _clean(value) if isinstance(value, str) else value
            for column in self._metadata
            if _is_scalar(value := row.get(column))
        }
        if kind and self._task_type and own_type:
            metadata[self._task_type] = own_type
        problem = Problem(
            id=str(index) if self._id is None else _clean(str(row[self._id])),
            query=self._text(index, row, self._query, "--query-key"),
            answer=self._text(index, row, self._answer, "--answer-key"),
            dataset_id=self.dataset_id,
            task_type=kind or own_type or "generic",
            metadata=metadata,
        )
        problem = shaped(problem, row, row[self._answer])
        if self._known.categories or "choices" in problem.metadata:
            request = REQUESTS.get(problem.task_type)
            problem = (
                replace(problem, query=f"{problem.query}\n\n{request}") if request else problem
            )
        return problem

    def _text(self, index: int, row: Mapping[str, Any], column: str, flag: str) -> str:
        value = row.get(column)
        if not _is_scalar(value):
            fault = "is missing or empty" if value is None or value != value else "is no text"
        elif not str(value).strip():
            fault = "is empty"
        elif str(value) != _clean(str(value)):
            fault = "holds broken characters (half of a surrogate pair)"
        else:
            return str(value)
        place = self._places[index] if self._places else f"row {index} (the first is 0)"
        raise PtsError(
            f"{self._source}, {place}: column {quoted(column)} {fault}; "
            f"correct or remove the row, or choose another column with {flag}"
        )


def _is_scalar(value: Any) -> bool:
    """A text or a number; NaN is how some writers spell a missing value."""
    return isinstance(value, str | int | float) and value == value


def _clean(text: str) -> str:
    """The text as UTF-8 can hold it: JSON may escape half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def _unique_column(rows: Iterable[Mapping[str, Any]], candidates: Sequence[str]) -> str | None:
    """The first of these columns whose values tell the rows apart."""
    for column in candidates:
        values = [row.get(column) for row in rows]
        names = {_clean(str(value)) for value in values if _is_scalar(value)}
        if len(names) == len(values) and "" not in names:
            return column
    return None
