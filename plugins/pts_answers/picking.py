"""The oracle "auto": chooses for each problem how it is judged, and says which and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache

from pts_answers.choices import letter_in, plain, truth_in
from pts_answers.judging import excerpt, read_reference
from pts_core.errors import ProblemError
from pts_core.interfaces import Oracle, ReferenceChecker
from pts_core.types import Completion, Problem

_OPTIONS = [re.compile(rf"(?<![A-Za-z])\(?{letter}[).:]") for letter in "AB"]
_TESTS = ({"test", "entry_point"}, {"test_list"}, {"inputs", "outputs"})


class Auto:
    """Judges with one of several oracles, each made when the first problem needs it."""

    def __init__(self, oracles: Mapping[str, Callable[[], Oracle]]) -> None:
        self._known = frozenset(oracles)
        self._oracle = cache(lambda kind: oracles[kind]())

    def __call__(self, problem: Problem, completion: Completion) -> bool | None:
        return self._oracle(self._choose(problem)[0])(problem, completion)

    def reference_completion(self, problem: Problem) -> str | None:
        oracle = self._oracle(self._choose(problem)[0])
        if isinstance(oracle, ReferenceChecker):
            return oracle.reference_completion(problem)
        return None

    def explain(self, problem: Problem) -> str:
        """Which oracle judges the problem, and why. Raises ProblemError where none fits."""
        kind, reason = self._choose(problem)
        return f"{kind}, since {reason}"

    def _choose(self, problem: Problem) -> tuple[str, str]:
        kind, answer = problem.task_type, problem.answer
        if kind == "math" and _is_lettered(problem):
            return "choice", "its answer is a letter and its query lists options"
        if kind in self._known:
            return kind, f'its task type is "{kind}"'
        if any(tests <= problem.metadata.keys() for tests in _TESTS):
            return "code", "it comes with tests"
        if problem.metadata.get("choices"):
            return "choice", "it comes with options"
        if truth_in(answer) is not None:
            return "yes-no", "its answer is yes or no"
        if _is_lettered(problem):
            return "choice", "its answer is a letter and its query lists options"
        if read_reference(answer) is not None:
            return "math", "its answer is a number or a formula"
        raise ProblemError(
            f"problem {problem.id}: its answer {excerpt(answer)} is no number, formula, option "
            "or yes or no: say how to judge it, with --oracle exact, contains or FILE.py:FUNCTION"
        )


def _is_lettered(problem: Problem) -> bool:
    if len(problem.answer) > 20 or letter_in(plain(problem.answer), ()) is None:
        return False
    return all(option.search(problem.query) for option in _OPTIONS)
