"""The conformance kit: the built-in plugins pass it, and what breaks a promise does not."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pts_core.interfaces import Backend
from pts_core.plugins import Registry, discover
from pts_core.search import bisection, branching
from pts_core.testing import (
    END,
    FiniteStateModel,
    check_backend,
    check_dataset,
    check_exporter,
    check_oracle,
    check_search,
    sample_records,
)
from pts_core.types import ExportReport, Problem, TokenScores

TRANSITIONS = [
    {1: (0.5, 1), 2: (0.3, 2), END: (0.2, 0)},
    {1: (0.25, 0), 3: (0.7, 2), END: (0.05, 1)},
    {4: (0.6, 0), END: (0.4, 2)},
]


def solvable(**changes) -> FiniteStateModel:
    model = FiniteStateModel(TRANSITIONS, right={2}, batch=16, order=random.Random(3))
    model.encode_prompt = lambda *_, **__: (0,)
    for name, change in changes.items():
        setattr(model, name, change(getattr(model, name)))
    return model


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.fixture(scope="module")
def demo(registry: Registry) -> Backend:
    model = registry.find("model", "demo").factory()
    return registry.find("backend", "transformers").factory(model, device="cpu")


def test_backends(demo: Backend):
    check_backend(solvable())
    check_backend(demo, "What is 5 + 7 - 3?", rollouts=600)


def test_datasets(registry: Registry):
    check_dataset(registry.find("dataset", "demo").factory())


ORACLES = {
    "math": ("4", ["So it is 4.", r"\boxed{4}"], ["5", r"\boxed{40}"]),
    "exact": ("blue", ["blue"], ["blue.", "red"]),
    "choice": ("B", ["The answer is B.", "(B)"], ["(A)", "A or B"]),
    "yes-no": ("yes", ["Yes.", "The answer is yes"], ["No.", "perhaps"]),
    "contains": ("blue", ["it is blue"], ["it is red"]),
    "auto": ("4", ["So it is 4."], ["5"]),
}


@pytest.mark.parametrize("name", ORACLES)
def test_oracles(name: str, registry: Registry):
    answer, right, wrong = ORACLES[name]
    choices = {"choices": ["one", "two", "three"]} if name == "choice" else {}
    problem = Problem("0", "?", answer, "d", metadata=choices)
    check_oracle(registry.find("oracle", name).factory(), problem, right=right, wrong=wrong)


def test_searches():
    check_search(branching(num_samples=20))
    check_search(bisection(num_samples=100))


def test_exporters(registry: Registry, demo: Backend, tmp_path: Path):
    tokenizer = registry.find("model", "demo").factory()
    exporter = registry.find("exporter", "dpo").factory(tokenizer=tokenizer)
    report = check_exporter(exporter, tmp_path, sample_records(demo.decode))
    assert report.rows == 2


def fails(message: str):
    return pytest.raises(AssertionError, match=message)


def test_a_backend_that_breaks_a_promise():
    def flatter(score):
        def scores(*arguments) -> TokenScores:
            told = score(*arguments)
            probs = told.alternative_probs**1.5
            probs /= np.maximum(probs.sum(axis=1, keepdims=True), 1e-9)
            return TokenScores(told.probs, told.alternative_ids, probs)

        return scores

    def ignore_prefix(generate):
        def drawn(pull, sampling):
            for request, continuation in generate(pull, sampling):
                yield request, type(continuation)(continuation.ids[::-1], continuation.truncated)

        return drawn

    def unseeded(generate):
        counter = iter(range(10**6))
        return lambda pull, s: generate(pull, replace(s, seed=next(counter)))

    with fails("as alternative"):
        check_backend(solvable(score=flatter))
    with fails("goes on after the end|truncated"):
        check_backend(solvable(generate=ignore_prefix))
    with fails("the same seed gives other rollouts"):
        check_backend(solvable(generate=unseeded))


def test_a_dataset_that_breaks_a_promise():
    class Rows(list):
        dataset_id, note = "rows", ""

    row = Problem("0", "?", "1", "rows")
    check_dataset(Rows([row]))
    with fails("several problems have the id '0'"):
        check_dataset(Rows([row, row]))
    with fails("it has no problems"):
        check_dataset(Rows())
    with fails("does not go into JSON"):
        check_dataset(Rows([Problem("0", "?", "1", "rows", metadata={"when": object()})]))
    with fails("answer of problem 0 must be a string"):
        check_dataset(Rows([Problem("0", "?", 1, "rows")]))


def test_an_oracle_that_breaks_a_promise():
    problem = Problem("0", "?", "4", "d")
    with fails("judged True, not False"):
        check_oracle(lambda *_: True, problem, right=["4"], wrong=["5"])
    with fails("makes it raise"):
        check_oracle(lambda _, c: c.text[0] == "4", problem, right=["4"], wrong=["5"])
    with fails("judged 1, not True"):
        check_oracle(lambda _, c: c.text.count("4"), problem, right=["4"], wrong=["5"])


def test_an_oracle_that_decides_too_early():
    class LastWord:
        def __init__(self, decided):
            self.is_decided = lambda _, text: len(text.split()) >= decided

        def __call__(self, problem, completion):
            return completion.text.split()[-1:] == [problem.answer]

    problem, right, wrong = Problem("0", "?", "4", "d"), ["5 and 4"], ["4 and 5"]
    check_oracle(LastWord(4), problem, right=right, wrong=wrong)
    with fails("is not decided: '5 and 4'"):
        check_oracle(LastWord(1), problem, right=right, wrong=wrong)


def test_a_search_that_breaks_a_promise():
    with fails("misses a token"):
        check_search(branching(prob_threshold=0.9))
    with fails("decides nothing"):
        check_search(bisection(num_samples=2, min_prob=0.0, max_prob=1.0))


def test_an_exporter_that_breaks_a_promise(tmp_path: Path):
    with fails("must return an ExportReport"):
        check_exporter(lambda records, path: len(records), tmp_path)
    with fails("2 rows reported"):
        check_exporter(lambda records, path: ExportReport(len(records)), tmp_path)
