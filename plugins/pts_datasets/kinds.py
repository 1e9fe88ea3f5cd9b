"""What a row's columns say of its kind: code that is tested, or options to choose from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from pts_core.types import Problem
from pts_datasets.fields import find_columns

# What a judge of code may need besides query and answer: texts, and lists of them.
CODE = (
    *("test", "entry_point", "test_list", "test_setup_code", "test_imports"),
    *("inputs", "outputs", "canonical_solution"),
)
OPTIONS = ("choices", "options")
LETTERS = "ABCDEFGHIJ"

_TESTS = ({"test", "entry_point"}, {"test_list"}, {"inputs", "outputs"})


def kind_of(columns: Sequence[str]) -> str | None:
    """The task type of rows with these columns, where they show it."""
    if any(tests <= set(columns) for tests in _TESTS):
        return "code"
    return "choice" if find_columns(columns, OPTIONS) else None


def is_needed(column: str) -> bool:
    """May a nested value be of use in this column?"""
    return column in CODE or column.lower() in OPTIONS


def shaped(problem: Problem, row: Mapping[str, Any], answer: Any) -> Problem:
    """The problem as its task type needs it, with what its judge reads in the metadata.

    `answer` is the row's, before it became a text.
    """
    if problem.task_type == "code":
        found = {column: row[column] for column in CODE if row.get(column) is not None}
        return replace(
            problem,
            query=_with_tests(problem.query, row.get("test_list")),
            metadata={**problem.metadata, **found},
        )
    if problem.task_type != "choice":
        return problem
    query = problem.query
    options, labels = _options(row)
    if not options:
        query, options = _numbered_options(query)
    if not options:  # a letter can be judged without them, another answer in another way
        lettered = problem.answer.strip().upper() in list(LETTERS)
        problem = problem if lettered else replace(problem, task_type="generic")
        return replace(problem, query=_with_text(query, row))
    return replace(
        problem,
        query=_with_options(query, options),
        answer=_letter(answer, options, labels),
        metadata={**problem.metadata, "choices": options},
    )


def _with_tests(query: str, tests: Any) -> str:
    """The task with its tests, which alone say what the function is called."""
    if not isinstance(tests, list) or not tests:
        return query
    return "\n".join([query, "", "Your code should pass these tests:", "", *map(str, tests)])


def _with_options(query: str, options: Sequence[str]) -> str:
    lettered = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([query, "", *lettered])


def _option_value(row: Mapping[str, Any]) -> Any:
    """What the column of the options holds; None where there is no such column."""
    columns = find_columns(list(row), OPTIONS)
    return row[columns[0]] if columns else None


def _with_text(query: str, row: Mapping[str, Any]) -> str:
    """The question with its options, where these are one text."""
    text = _option_value(row)
    return f"{query}\n\n{text.strip()}" if isinstance(text, str) and text.strip() else query


def _options(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The options of a row and what it calls them; empty lists where it has none to read.

    Four forms are in use: a list of texts, the same with letters ("A)21"), an object with the
    lists `text` and `label`, and one with a text for each label.
    """
    value = _option_value(row)
    labels: list[str] = []
    if isinstance(value, Mapping):
        if "text" in value:
            labels, value = [str(label) for label in value.get("label") or []], value["text"]
        else:  # an object of the Hub has None for what a row does not have
            given = {str(label): text for label, text in value.items() if text is not None}
            labels, value = list(given), list(given.values())
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        return [], []
    options = [str(option) for option in value]
    if not all(isinstance(option, str) for option in value):
        labels = options  # an answer 3 is the option 3, not the fourth
    if all(re.match(rf"\(?{letter}[).:]", o) for letter, o in zip(LETTERS, options, strict=False)):
        options = [re.sub(r"^\(?[A-J][).:]\s*", "", option) for option in options]
    return options, labels


def _numbered_options(query: str) -> tuple[str, list[str]]:
    """A question less the options that stand in it ("… Choices: 0. red 1. blue"), and these."""
    question, mark, rest = query.rpartition(" Choices: 0. ")
    if not mark:
        return query, []
    options = []
    for number in count(1):
        option, mark, rest = rest.partition(f" {number}. ")
        options.append(option)
        if not mark:
            break
    return question, options


def _letter(answer: Any, options: Sequence[str], labels: Sequence[str]) -> str:
    """The letter of the right option, given as such, by its label, its index or its text.

    An answer that is none of these, or the text of two options, is left for the oracle to refuse.
    """
    text = str(answer).strip()
    if text in labels:
        return LETTERS[labels.index(text)]
    if isinstance(answer, int) and 0 <= answer < len(options):
        return LETTERS[answer]
    if text in list(LETTERS[: len(options)]):
        return text
    if options.count(text) == 1:
        return LETTERS[options.index(text)]
    return text
