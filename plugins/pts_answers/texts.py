"""The oracles that compare plain text: "exact" and "contains"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pts_answers.reading import without_thinking
from pts_core.errors import ProblemError
from pts_core.types import Completion, Problem


@dataclass(frozen=True)
class Exact:
    """The oracle "exact"."""

    ignore_case: bool

    def __call__(self, problem: Problem, completion: Completion) -> bool:
        gold = self._normal(self.reference_completion(problem))
        said = without_thinking(completion.text)
        return said is not None and self._normal(said) == gold

    def reference_completion(self, problem: Problem) -> str:
        if not problem.answer.strip():
            raise ProblemError(f"problem {problem.id}: its answer is empty; leave the problem out")
        return problem.answer

    def _normal(self, text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text


@dataclass(frozen=True)
class Contains(Exact):
    """The oracle "contains"."""

    def __call__(self, problem: Problem, completion: Completion) -> bool:
        gold = self._normal(self.reference_completion(problem))
        said = without_thinking(completion.text)
        # Whole words: 5 is not in 15 or -5, nor "cat" in "category".
        sign = r"(?<![-−])" if gold[0].isdigit() else ""
        alone = rf"(?<!\w)(?<!\d[.,]){sign}{re.escape(gold)}(?!\w|[.,]\d)"
        return said is not None and re.search(alone, self._normal(said)) is not None
