r"""The oracle "reasoning-gym": a generated problem is judged by the verifier of its generator.

The answer is what the last <answer>…</answer> holds; else the last \boxed{…}; else the rest of the
line after the last "answer is" or "answer:". Some verifiers take the first number that they find:
so a text that marks no answer is right only if all of it is the reference answer.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any

from pts_answers.reading import boxed, without_thinking
from pts_core.errors import ProblemError, PtsError
from pts_core.types import Completion, Problem

RIGHT = 0.99  # of a score that is 1 for a right answer, and above 0 for some wrong ones
LONGEST = 20_000  # characters of an answer

# A verifier that calls one of these may run the answer as Python.
_RUNNING = {"eval", "exec", "parse_expr", "sympify"}
_RUNS_ITS_OWN = {"number_sorting"}  # what it evaluates is the reference answer

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_MARK = re.compile(r"\banswer\s*(?::|\bis\b(?!\s+not\b))[\s:]*", re.IGNORECASE)

Score = Callable[[str, dict[str, Any]], float]


class ReasoningGym:
    """A score below RIGHT is a wrong answer."""

    def __call__(self, problem: Problem, completion: Completion) -> bool:
        score, entry = _verifier(problem)
        answer = answer_in(completion.text, truncated=completion.truncated)
        if answer is None and not completion.truncated:
            return bool(without_thinking(completion.text.strip()) == entry["answer"])
        if answer is None or len(answer) > LONGEST:
            return False
        try:
            return float(score(answer, entry)) >= RIGHT
        except Exception:  # the verifier can make nothing of it
            return False

    def reference_completion(self, problem: Problem) -> str | None:
        _, entry = _verifier(problem)
        return f"<answer>{entry['answer']}</answer>" if entry["answer"] is not None else None


def answer_in(text: str, *, truncated: bool = False) -> str | None:
    """The answer that a completion marks as such."""
    said = without_thinking(text)
    if said is None:
        return None
    if tagged := _TAGGED.findall(said):
        return str(tagged[-1]).strip()
    if (content := boxed(said)) is not None or truncated:
        return content
    marks = list(_MARK.finditer(said))
    if not marks:
        return None
    line = said[marks[-1].end() :].partition("\n")[0]
    return line.strip(" *`").removesuffix(".")


def _verifier(problem: Problem) -> tuple[Score, dict[str, Any]]:
    """Raises ProblemError where the problem has none that may be used."""
    entry = problem.metadata.get("entry")
    if not isinstance(entry, dict) or "source_dataset" not in entry.get("metadata", {}):
        raise ProblemError(
            f"problem {problem.id}: it is not one of reasoning-gym's; choose another --oracle"
        )
    name = entry["metadata"]["source_dataset"]
    score = _score(name)
    if score is None:
        raise ProblemError(
            f"problem {problem.id}: the verifier of {name} may run an answer as Python, which is "
            "not safe; choose another generator"
        )
    return score, entry


@cache
def _score(name: str) -> Score | None:
    """The scoring function of a generator; None for one that may run what a model wrote."""
    try:
        from reasoning_gym import get_score_answer_fn
    except ImportError as error:
        raise PtsError(
            "oracle reasoning-gym: the package is not installed; "
            "pip install 'pivotal-token-search[reasoning-gym]'"
        ) from error
    score: Score = get_score_answer_fn(name)
    source = ast.parse(textwrap.dedent(inspect.getsource(score)))
    called = {
        getattr(node.func, "id", getattr(node.func, "attr", None))
        for node in ast.walk(source)
        if isinstance(node, ast.Call)
    }
    return None if called & _RUNNING and name not in _RUNS_ITS_OWN else score
