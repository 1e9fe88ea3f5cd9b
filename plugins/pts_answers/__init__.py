"""The oracles "math" and "exact": is the answer that a completion gives the reference answer?"""

from __future__ import annotations

from fractions import Fraction

from pts_answers.reading import without_thinking
from pts_core.errors import ProblemError, UsageError
from pts_core.hookspecs import Factories, hookimpl
from pts_core.interfaces import Oracle
from pts_core.types import Completion, Problem


@hookimpl
def pts_oracles() -> Factories:
    return {"math": math, "exact": exact}


def math(*, tolerance: float = 1e-6) -> Oracle:
    r"""Judges numbers and formulas: exactly where it can, with math-verify where it must.

    The answer is the last \boxed{…}, the line after the last ####, what follows the last
    "answer is" or "answer:", or the last number: the first of these that there is. Units and
    currency signs don't count, and 50% is both 50 and 0.5.

    Parameters
    ----------
    tolerance
        Relative difference that is let pass where a number is written as a decimal.

    Raises UsageError for a tolerance outside 0 to 1.
    """
    from pts_answers.judging import judge

    if not 0 <= tolerance < 1:
        raise UsageError(f"the oracle's tolerance must be at least 0 and below 1, not {tolerance}")
    exactly = Fraction(tolerance)

    def oracle(problem: Problem, completion: Completion) -> bool:
        return judge(problem, completion, exactly)

    return oracle


def exact(*, ignore_case: bool = False) -> Oracle:
    """Compares the whole completion with the whole reference answer, whitespace aside.

    Parameters
    ----------
    ignore_case
        Let upper and lower case count as the same.
    """

    def normal(text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if ignore_case else text

    def oracle(problem: Problem, completion: Completion) -> bool:
        expected = normal(problem.answer)
        if not expected:
            raise ProblemError(f"problem {problem.id}: its answer is empty; leave the problem out")
        said = without_thinking(completion.text)
        return said is not None and normal(said) == expected

    return oracle
