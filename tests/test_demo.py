"""The demo that ships in the package: small, right, and right only some of the time."""

import re

import numpy as np
from conftest import ROOT

from pts_core.plugins import discover
from pts_core.scheduler import Ended, Scheduler
from pts_core.search import Outcome, Task, draw
from pts_core.search.conversation import Draw, Search
from pts_core.types import Completion, Problem, Sampling

FOLDER = ROOT / "plugins" / "pts_demo"
PROBLEMS = list(discover().find("dataset", "demo").factory())


def value(query: str) -> int:
    terms = re.findall(r"[+-]? ?\d+", query)
    return sum(int(term.replace(" ", "")) for term in terms)


def last_number(problem: Problem, completion: Completion) -> bool:
    return re.findall(r"-?\d+", completion.text)[-1:] == [problem.answer]


def test_it_is_small():
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) <= 5_000_000


def test_its_problems_are_fifty_or_more_and_their_answers_right():
    assert len(PROBLEMS) >= 50
    assert len({p.query for p in PROBLEMS}) == len({p.id for p in PROBLEMS}) == len(PROBLEMS)
    assert all(str(value(p.query)) == p.answer for p in PROBLEMS)
    assert all(0.2 <= p.metadata["success_rate"] <= 0.8 for p in PROBLEMS)


def test_the_model_solves_them_as_often_as_was_measured():
    model = discover().find("model", "demo").factory()
    backend = discover().find("backend", "transformers").factory(model, device="cpu")
    problems = PROBLEMS[::6]

    def probe(task: Task) -> Search:
        [rollouts] = yield from draw([Draw((), 0, 64)])
        assert not any(r.truncated for r in rollouts)
        return Outcome(float(np.mean([r.correct for r in rollouts])))

    events = Scheduler(backend, last_number, probe, Sampling(seed=5)).run(problems)
    rates = {
        e.problem.id: e.outcome.success_prob
        for e in events
        if isinstance(e, Ended) and isinstance(e.outcome, Outcome)
    }
    expected = {p.id: p.metadata["success_rate"] for p in problems}
    assert set(rates) == set(expected)
    # Both are means of independent rollouts; the spread of one difference is at most 0.07, of
    # their mean 0.07 / sqrt(10). Five of these: a false alarm once in two million runs.
    differences = np.array([rates[i] - expected[i] for i in rates])
    assert abs(differences.mean()) < 5 * 0.07 / np.sqrt(len(differences))
    assert np.abs(differences).max() < 5 * 0.07
