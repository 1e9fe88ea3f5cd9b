"""The branching search against models whose success probabilities are known exactly."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import solvable

from pts_core.errors import ProblemError, UsageError
from pts_core.scheduler import Ended, Found, Scheduler, _stream
from pts_core.search import Outcome, Task, branching, draw
from pts_core.search.branching import _following
from pts_core.search.chain import Chain, fill_up, leave_weights, systematic
from pts_core.search.conversation import Draw, Search
from pts_core.testing import END, FiniteStateModel
from pts_core.types import PivotalToken, Problem, Rollout, Sampling, TokenScores

HORIZON = 700
KINDS = [kind for kind in solvable.KINDS if kind != "long"]


def search(model: FiniteStateModel, problems: int = 1, seed: int = 1, **options):
    """Found tokens, scheduler, and the traces that were searched."""
    traces: list[tuple[int, ...]] = []
    score = model.score

    def spy(prompt, ids, sampling):
        traces.append(ids)
        return score(prompt, ids, sampling)

    model.score = spy  # type: ignore[method-assign]
    sampling = Sampling(horizon=HORIZON, seed=seed)
    scheduler = Scheduler(model, model.judge, branching(**options), sampling)
    tasks = [Problem(str(i), "0", "", "solvable") for i in range(problems)]
    events = list(scheduler.run(tasks))
    model.score = score  # type: ignore[method-assign]
    return [e.token for e in events if isinstance(e, Found)], scheduler, traces


def deltas(model: FiniteStateModel, trace: tuple[int, ...]) -> np.ndarray:
    values = [model.success_prob((0,), trace[:t], HORIZON) for t in range(len(trace) + 1)]
    return np.diff(values)


@pytest.mark.parametrize("kind", KINDS)
def test_proof_never_excludes_a_pivotal_token(kind: str):
    for seed in range(10):
        model = solvable.KINDS[kind](seed)
        _, _, traces = search(model, max_rollouts=20)
        for trace in traces:
            probs = model.score((0,), trace, Sampling()).probs
            chain = Chain(probs, True, 0.2)
            kept = {int(chain.starts[m]) for m in chain.candidates}
            assert set(np.flatnonzero(np.abs(deltas(model, trace)) >= 0.2)) <= kept


def test_reported_numbers_are_honest_after_selection():
    """Over all reported tokens of 60 searches: intervals cover, estimates are not inflated."""
    covered, errors, false = [], [], 0
    for kind in KINDS:
        for seed in range(12):
            model = solvable.KINDS[kind](seed)
            for token in search(model)[0]:
                truth = deltas(model, token.trace.ids)[token.position]
                low, high = token.interval
                covered.append(low - 1e-9 <= truth <= high + 1e-9)
                errors.append(abs(token.delta) - abs(truth))
                false += abs(truth) < 0.2 - 1e-9
    assert len(covered) > 60
    # 95 % less 5 standard errors.
    assert np.mean(covered) > 0.95 - 5 * np.sqrt(0.05 * 0.95 / len(covered))
    assert abs(np.mean(errors)) < 0.02
    assert false <= 0.1 * len(covered)


def test_on_null_models_there_is_hardly_a_report():
    """No token is pivotal: in at most 10 % of the runs may there be any report at all."""
    runs, alarms = 60, 0
    for seed in range(runs):
        model = solvable.no_pivots(seed)
        tokens, _, traces = search(model, max_rollouts=60, traces_per_problem=1)
        assert all(np.abs(deltas(model, t)).max() < 0.2 for t in traces)
        alarms += bool(tokens)
    # 5 standard errors above the level: a false alarm of this test once in 3 million.
    assert alarms <= runs * 0.1 + 5 * np.sqrt(runs * 0.1 * 0.9)


def test_alternatives_are_measured():
    measured = 0
    for seed in range(12):
        model = solvable.few_pivots(seed)
        for token in search(model)[0]:
            prefix = token.trace.ids[: token.position]
            assert token.alternatives
            for other in token.alternatives:
                assert other.token_id != token.token_id
                truth = model.success_prob((0,), (*prefix, other.token_id), HORIZON)
                low, high = other.interval
                measured += other.rollouts >= 16
                if other.rollouts >= 16:  # 99.9 % intervals would be 1.7 times as wide
                    assert low - 0.35 * (high - low) <= truth <= high + 0.35 * (high - low)
    assert measured > 10


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_result_does_not_depend_on_the_order_of_rollouts(batch: int):
    def fresh() -> FiniteStateModel:
        return solvable.few_pivots(3)

    expected = search(fresh(), problems=5)[0]
    model = fresh()
    model.batch, model.order = batch, random.Random(batch)
    assert search(model, problems=5)[0] == expected
    assert expected


def test_a_replayed_search_ends_the_same():
    """A search given the same rollouts asks the same and ends the same, wherever it is cut."""
    model = solvable.few_pivots(3)
    log: list[object] = []

    def recorded(task: Task) -> Search:
        inner = branching()(task)
        ask = next(inner)
        while True:
            reply = yield ask
            log.append((ask, reply))
            try:
                ask = inner.send(reply)
            except StopIteration as stop:
                log.append(stop.value)
                return stop.value

    problem = model.problem()
    scheduler = Scheduler(model, model.judge, recorded, Sampling(horizon=HORIZON, seed=1))
    list(scheduler.run([problem]))
    *steps, outcome = log
    again = branching()(Task(problem, None, _stream(problem, b"", 1)))  # the scheduler's seed
    ask = next(again)
    for expected, reply in steps[:-1]:
        assert ask == expected
        ask = again.send(reply)
    assert ask == steps[-1][0]
    with pytest.raises(StopIteration) as stop:
        again.send(steps[-1][1])
    assert stop.value.value == outcome


def test_credit_of_rollouts_is_unbiased():
    """Beliefs from many branches are the exact values, at every link."""
    model = solvable.few_pivots(1, length=12)
    [trace] = search(model, traces_per_problem=1)[2][:1]
    chain = Chain(
        model.score((0,), trace, Sampling()).probs, bool(model.success_prob((0,), trace, 99)), 0.2
    )

    def probe(task: Task) -> Search:
        for link in range(len(chain.starts)):
            if chain.leaving[link] == 0:
                continue
            positions = chain.leave_positions(link, 2000, 0.37)
            where, counts = np.unique(positions, return_counts=True)
            drawn = yield from draw(
                [
                    Draw(trace, int(t), int(n), excluded_token=trace[t])
                    for t, n in zip(where, counts, strict=True)
                ]
            )
            for group in drawn:
                chain.credit(link, group)
        return Outcome(0.5)

    list(Scheduler(model, model.judge, probe, Sampling(horizon=HORIZON)).run([model.problem()]))
    after = chain.beliefs().after
    exact = [model.success_prob((0,), trace[:end], HORIZON) for end in chain.ends]
    # Standard error of one branch value: 0.011; the grid of beliefs is 0.03 wide.
    assert np.abs(after - exact).max() < 0.06


def test_rollouts_follow_the_trace_as_often_as_its_probabilities_say():
    model = solvable.high_entropy(2)
    _, scheduler, _ = search(model, problems=40, max_rollouts=20)
    assert abs(scheduler.statistics.following_score) < 5


def test_a_backend_that_misstates_its_probabilities_is_found_out():
    model = solvable.high_entropy(2)
    honest = model.score

    def flattering(prompt, ids, sampling):
        scores = honest(prompt, ids, sampling)
        return TokenScores(scores.probs**0.5, scores.alternative_ids, scores.alternative_probs**0.5)

    model.score = flattering  # type: ignore[method-assign]
    _, scheduler, _ = search(model, problems=40, max_rollouts=20)
    assert scheduler.statistics.following_score < -5


def test_a_rollout_that_ends_on_the_trace_says_nothing_of_what_comes_after():
    """A stop text, or an oracle that has decided, ends it before a given trace ends."""
    rider = Rollout(0, (1, 2), correct=True, truncated=False)
    scores = TokenScores(np.array([0.5, 0.5, 0.1, 0.1]), np.zeros((4, 1)), np.zeros((4, 1)))
    assert _following([rider], (1, 2, 3, 4), scores) == (2, 1.0, 0.5)


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.5])
def test_impossible_probabilities_end_the_problem_with_a_reason(value: float):
    model = solvable.few_pivots(1)
    model.score = lambda prompt, ids, sampling: TokenScores(  # type: ignore[method-assign]
        np.full(len(ids), value), np.full((len(ids), 1), -1), np.zeros((len(ids), 1))
    )
    sampling = Sampling(horizon=HORIZON)
    [ended] = Scheduler(model, model.judge, branching(), sampling).run([model.problem()])
    assert isinstance(ended, Ended)
    assert isinstance(ended.outcome, ProblemError)
    assert "not between 0 and 1" in str(ended.outcome)


@pytest.mark.parametrize(
    "transitions",
    [
        [{END: (0.5, 0), 1: (0.5, 1)}, {END: (1.0, 0)}],  # traces of length 1 and 2
        [{END: (0.5, 0), 1: (0.5, 1)}, {1: (1.0, 1)}],  # wrong ones run to the horizon
        [{1: (0.5, 1), 2: (0.5, 2)}, {END: (1.0, 0)}, {END: (1.0, 0)}],
    ],
)
def test_very_short_and_endless_traces(transitions):
    right = {0} if END in transitions[0] else {1}
    model = FiniteStateModel(transitions, right=right, batch=16)
    tokens, scheduler, _ = search(model, problems=10)
    assert scheduler.statistics.problems_searched > 5
    assert {t.position for t in tokens} == {0}
    for token in tokens:
        assert token.prob_before == pytest.approx(0.5, abs=0.35)
        assert token.prob_after == float(token.trace.correct)


def test_given_traces_off_the_policy_are_searched():
    model = FiniteStateModel(
        [{1: (0.5, 1), 2: (0.5, 2), 3: (0.0, 1)}, {END: (1.0, 0)}, {END: (1.0, 0)}], right={1}
    )
    scheduler = Scheduler(
        model, model.judge, branching(), Sampling(horizon=9), given={"0": [(3, END), ()]}
    )
    tokens = [e.token for e in scheduler.run([model.problem()]) if isinstance(e, Found)]
    assert [(t.position, t.token_prob) for t in tokens][:1] == [(0, 0.0)]
    assert all(isinstance(t, PivotalToken) for t in tokens)


def test_too_easy_and_too_hard_problems_are_skipped_by_evidence():
    sure = FiniteStateModel([{END: (1.0, 0)}], right={0})
    _, scheduler, _ = search(sure)
    assert scheduler.statistics.problems_skipped == {"too easy": 1}
    assert scheduler.statistics.rollouts == 10
    never = FiniteStateModel([{END: (1.0, 0)}], right=set())
    assert search(never)[1].statistics.problems_skipped == {"too hard": 1}


def test_absurd_options_are_refused():
    with pytest.raises(UsageError, match="--max-rollouts"):
        branching(max_rollouts=3)


def test_systematic_sampling_gives_each_its_share():
    weights = leave_weights(np.array([0.2, 0.5, 0.1]))
    assert weights == pytest.approx([0.2, 0.4, 0.04])
    mean = np.mean(
        [np.bincount(systematic(weights, 7, u), minlength=3) for u in np.linspace(0, 0.999, 500)],
        axis=0,
    )
    assert mean == pytest.approx(7 * weights / weights.sum(), abs=0.02)


def test_filling_up_takes_nothing_away():
    have, desire = np.array([10.0, 0.0, 3.0, 5.0]), np.array([1.0, 1.0, 2.0, 0.0])
    added = fill_up(have, desire, 6)
    assert added.sum() == 6
    assert added.tolist() == [0, 3, 3, 0]
