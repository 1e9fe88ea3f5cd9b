"""The search against a model whose success probabilities are known exactly."""

import random
from collections.abc import Iterable

import numpy as np
import pytest

from pts_core.errors import ProblemError, UsageError
from pts_core.scheduler import Ended, Found, Scheduler
from pts_core.search import Outcome, Strategy, Task, bisection, draw
from pts_core.search.conversation import Draw, Search
from pts_core.testing import END, FiniteStateModel
from pts_core.types import Completion, Problem, Sampling, TokenScores

SAMPLING = Sampling(horizon=40, seed=7)


def crossroads(**kwargs) -> FiniteStateModel:
    """V is 0.5 at the start; token 1 leads to 0.9, token 2 to 0.1, then five idle tokens."""
    idle = [{3: (1.0, state + 1)} for state in range(1, 6)]
    last = {4: (0.9, 7), 5: (0.1, 8)}
    idle_bad = [{3: (1.0, state + 1)} for state in range(9, 14)]
    last_bad = {4: (0.1, 7), 5: (0.9, 8)}
    end = {END: (1.0, 0)}
    start = {1: (0.5, 1), 2: (0.5, 9)}
    return FiniteStateModel(
        [start, *idle, last, end, end, *idle_bad, last_bad], right={7}, **kwargs
    )


def run(
    model: FiniteStateModel,
    strategy: Strategy,
    problems: Iterable[Problem] | None = None,
    sampling: Sampling = SAMPLING,
    **kwargs,
) -> tuple[list[Found | Ended], Scheduler]:
    scheduler = Scheduler(model, model.judge, strategy, sampling, **kwargs)
    return list(scheduler.run(problems or [model.problem()])), scheduler


def test_exact_values_are_those_of_enumeration():
    model = crossroads()
    assert model.success_prob((0,), (), 40) == pytest.approx(0.5)
    assert model.success_prob((0,), (1,), 40) == pytest.approx(0.9)
    assert model.success_prob((0,), (2, 3, 3), 40) == pytest.approx(0.1)
    assert model.success_prob((0,), (2, 3, 3, 3, 3, 3, 4), 40) == pytest.approx(1.0)
    # Eight tokens are needed; a shorter horizon leaves no right ending.
    assert model.success_prob((0,), (), 8) == pytest.approx(0.5)
    assert model.success_prob((0,), (), 7) == 0


@pytest.mark.parametrize("probs", [[float("nan")] * 8, [0.5] * 3])
def test_bisection_gets_no_unusable_probabilities(probs: list[float]):
    model = crossroads()
    model.score = lambda prompt, ids, sampling: TokenScores(  # type: ignore[method-assign]
        np.array(probs), np.full((8, 1), -1), np.zeros((8, 1))
    )
    events, _ = run(model, bisection())
    assert "probabilities" in str(events[-1].outcome)


def test_a_second_problem_of_the_same_name_fails_alone():
    model = crossroads()
    events, scheduler = run(model, bisection(), [model.problem(), model.problem()])
    ended = [event.outcome for event in events if isinstance(event, Ended)]
    assert isinstance(ended[0], Outcome)
    assert "an earlier problem has the same id" in str(ended[1])
    assert scheduler.statistics.problems_failed == 1


def test_rollouts_of_the_solvable_model_match_its_exact_value():
    model = crossroads()

    def probe(task: Task) -> Search:
        [free, kept, left] = yield from draw(
            [
                Draw((), 0, 2000),
                Draw((1, 3), 2, 2000),
                Draw((1,), 0, 2000, excluded_token=1),
            ]
        )
        for rollouts, truth in ((free, 0.5), (kept, 0.9), (left, 0.1)):
            mean = np.mean([r.correct for r in rollouts])
            # Five standard errors: a false alarm once in 1.7 million.
            assert abs(mean - truth) < 5 * np.sqrt(truth * (1 - truth) / 2000)
        assert all(r.ids[0] == 2 for r in left)
        return Outcome(0.5)

    run(model, probe)


@pytest.mark.parametrize("seed", range(5))
def test_bisection_finds_the_crossroads_and_nothing_idle(seed: int):
    model = crossroads()
    events, scheduler = run(
        model, bisection(num_samples=200), sampling=Sampling(horizon=40, seed=seed)
    )
    found = {e.token.position: e.token for e in events if isinstance(e, Found)}
    assert isinstance(events[-1], Ended)
    assert 0 in found
    assert set(found) <= {0, 6}  # 6 is the last choice: delta is +0.1, -0.9, +0.9 or -0.1
    for token in found.values():
        prefix = token.trace.ids[: token.position]
        before = model.success_prob((0,), prefix, 40)
        after = model.success_prob((0,), token.trace.ids[: token.position + 1], 40)
        assert token.prob_before == pytest.approx(before, abs=0.15)  # over 4 standard errors
        assert token.prob_after == pytest.approx(after, abs=0.15)
        assert token.interval[0] <= token.delta <= token.interval[1]
        assert token.token_prob == pytest.approx(
            model.transitions[model._state((0,), prefix)][token.token_id][0]
        )
    [other] = found[0].alternatives
    assert other.token_id == 3 - found[0].token_id
    assert other.token_prob == pytest.approx(0.5)
    assert scheduler.statistics.problems_searched == 1


def test_the_verdict_of_the_trace_is_its_last_value_and_costs_no_rollout():
    model = crossroads()
    events, scheduler = run(model, bisection(num_samples=50), given={"0": [(2, 3, 3, 3, 3, 3, 4)]})
    found = {e.token.position: e.token for e in events if isinstance(e, Found)}
    assert found[6].prob_after == 1.0  # 4 leads to a certain end: 0.1 -> 1
    assert found[6].delta == pytest.approx(0.9, abs=0.2)
    assert all(e.token.trace.ids[-1] == END for e in events if isinstance(e, Found))
    assert scheduler.statistics.rollouts % 50 == 0


def test_estimates_are_shared_between_the_traces_of_a_problem():
    model = crossroads()
    once = run(model, bisection(num_samples=30), given={"0": [(1, 3, 3, 3, 3, 3, 4)]})[1]
    twice = run(model, bisection(num_samples=30), given={"0": [(1, 3, 3, 3, 3, 3, 4)] * 2})[1]
    assert twice.statistics.rollouts == once.statistics.rollouts
    assert twice.statistics.traces == 2


def test_the_horizon_is_counted_from_the_prompt():
    endless = FiniteStateModel([{1: (1.0, 0)}], right=set())

    def probe(task: Task) -> Search:
        [rollouts] = yield from draw([Draw((1,) * 30, 30, 2)])
        assert [len(r.ids) for r in rollouts] == [10, 10]
        assert all(r.truncated and not r.correct for r in rollouts)
        return Outcome(0.0)

    _, scheduler = run(endless, probe)
    assert scheduler.statistics.truncated_rollouts == 2


def test_problems_too_easy_or_too_hard_are_skipped_and_counted():
    sure = FiniteStateModel([{END: (1.0, 0)}, {1: (1.0, 1)}], right={0})
    _, scheduler = run(sure, bisection(), [sure.problem(0), sure.problem(1)])
    assert scheduler.statistics.problems_skipped == {"too easy": 1, "too hard": 1}
    assert scheduler.statistics.rollouts == 20


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_result_does_not_depend_on_batch_or_order(batch: int):
    reference, _ = run(crossroads(), bisection(traces_per_problem=3), _many())
    shuffled = crossroads(batch=batch, order=random.Random(batch))
    events, _ = run(shuffled, bisection(traces_per_problem=3), _many())
    assert events == reference
    assert sum(isinstance(e, Found) for e in events) > 10


def _many() -> list[Problem]:
    return [Problem(str(i), "0", "", "finite-state") for i in range(10)]


def test_right_and_wrong_traces_take_turns():
    events, _ = run(crossroads(), bisection(traces_per_problem=4))
    traces = {e.token.trace.id: e.token.trace for e in events if isinstance(e, Found)}
    verdicts = [traces[k].correct for k in sorted(traces)]
    assert len(verdicts) == 4
    assert verdicts.count(True) == 2


def test_an_oracle_that_fails_costs_one_problem():
    model = crossroads(batch=8)

    def oracle(problem: Problem, completion: Completion) -> bool:
        if problem.id == "3":
            raise KeyError("no such thing")
        if problem.id == "4":
            return "yes"  # type: ignore[return-value]
        return model.judge(problem, completion)

    scheduler = Scheduler(model, oracle, bisection(), SAMPLING)
    ended = {e.problem.id: e for e in scheduler.run(_many()) if isinstance(e, Ended)}
    assert "KeyError" in str(ended["3"].outcome)
    assert "must return True, False or None, not str" in str(ended["4"].outcome)
    assert scheduler.statistics.problems_failed == 2
    assert all(isinstance(ended[str(i)].outcome, Outcome) for i in (0, 1, 2, 5, 6, 7, 8, 9))
    assert list(ended) == [str(i) for i in range(10)]


def test_a_prompt_that_leaves_no_room_for_the_horizon_is_refused():
    model = crossroads()
    model.context_length = 40
    events, _ = run(model, bisection())
    [ended] = events
    assert isinstance(ended, Ended)
    assert isinstance(ended.outcome, ProblemError)
    assert "context of 40 tokens" in str(ended.outcome)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prob_threshold": 2.0}, "--prob-threshold"),
        ({"prob_threshold": 0.0}, "--prob-threshold"),
        ({"num_samples": 0}, "--num-samples"),
        ({"min_prob": 0.9}, "--min-prob"),
        ({"traces_per_problem": 0}, "--traces-per-problem"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_absurd_options_are_refused_by_name(options: dict[str, float], named: str):
    with pytest.raises(UsageError, match=named):
        bisection(**options)
