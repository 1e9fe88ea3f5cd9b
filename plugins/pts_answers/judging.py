"""Is a completion's answer the reference answer? Numbers are compared here, formulas elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from pts_answers.equivalence import equal, readable
from pts_answers.notation import latex
from pts_answers.quantities import Quantity, quantity, same
from pts_answers.reading import answer_in, reference_in
from pts_core.errors import ProblemError
from pts_core.types import Completion, Problem


class Reference(NamedTuple):
    """A reference answer: as a number if it is one, and as a formula."""

    number: Quantity | None
    latex: str


@dataclass(frozen=True)
class Mathematics:
    """The oracle "math". Its reference answers are read before a completion is."""

    tolerance: Fraction

    def __call__(self, problem: Problem, completion: Completion) -> bool:
        readable_reference(problem)
        answer = answer_in(completion.text, truncated=completion.truncated)
        return answer is not None and is_same(problem.answer, answer, self.tolerance)

    def reference_completion(self, problem: Problem) -> str:
        readable_reference(problem)
        return rf"\boxed{{{reference_in(problem.answer).strip()}}}"


def readable_reference(problem: Problem) -> Reference:
    """Raises ProblemError where the problem's answer is no mathematics: every completion would be
    judged wrong."""
    reference = read_reference(problem.answer)
    if reference is None:
        raise ProblemError(
            f"problem {problem.id}: its answer {excerpt(problem.answer)} can't be read as "
            "mathematics; use --oracle exact, or leave the problem out"
        )
    return reference


@lru_cache(maxsize=1 << 16)
def is_same(gold: str, answer: str, tolerance: Fraction) -> bool:
    """Is what a completion gives as its answer the reference answer? Nonsense is not."""
    reference = read_reference(gold)
    assert reference is not None
    number = quantity(answer)
    if number and reference.number:
        return same(reference.number, number, tolerance)
    expression = number.latex if number else latex(answer)
    if expression is None or (reference.number and "=" in expression):
        return False  # math-verify takes 2x = 6 for the number 6
    return expression == reference.latex or equal(reference.latex, expression)


@lru_cache(maxsize=4096)
def read_reference(answer: str) -> Reference | None:
    text = reference_in(answer)
    number = quantity(text)
    if number:
        return Reference(number, number.latex)
    expression = latex(text)
    if expression is None or not readable(expression):
        return None
    return Reference(None, expression)


def excerpt(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f'"{line if len(line) <= 60 else line[:59] + "…"}"'
