"""What the searches find for what they generate, against the truth. Prints a table.

    python tests/benchmarks/search.py [--models 12] [--first-seed 1000] [--kinds "few pivots" …]
    python tests/benchmarks/search.py --make-demo-truth

The truth of the solvable models is exact; that of the demo model comes from 1,000 rollouts at
every prefix (standard error of a delta up to 0.022), kept in demo_truth.json. All strategies
search the same given traces; the rollouts that screen a problem count, and skip none.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import solvable

from pts_core.estimates import Estimate, estimate, score_interval
from pts_core.interfaces import Backend, Oracle
from pts_core.plugins import discover
from pts_core.scheduler import Found, Scheduler
from pts_core.search import Outcome, Strategy, Task, bisection, branching, draw
from pts_core.search.conversation import Draw, Search
from pts_core.testing import FiniteStateModel
from pts_core.types import PivotalToken, Problem, Sampling, TokenIds

DEMO_TRUTH = Path(__file__).parent / "demo_truth.json"
THRESHOLD = 0.2
EVERYTHING = {"min_prob": 0.0, "max_prob": 1.0}  # skip no problem: all search the same


@dataclass
class World:
    """Problems with one given trace each, and the true deltas of its tokens.

    A problem's task_type is the kind of problem that the table shows.
    """

    backend: Backend
    oracle: Oracle
    sampling: Sampling
    problems: list[Problem]
    traces: dict[str, TokenIds]
    deltas: dict[str, np.ndarray]


def every_prefix(num_samples: int) -> Strategy:
    """The dense way: rollouts at every prefix, a report wherever the estimates differ enough."""

    def search(task: Task) -> Search:
        assert task.traces is not None
        for trace in task.traces:
            length = len(trace.ids)
            drawn = yield from draw([Draw(trace.ids, t, num_samples) for t in range(length)])
            values = [estimate(group) for group in drawn]
            values.append(Estimate(int(trace.correct), 1, exact=True))
            for t in range(length):
                before, after = values[t], values[t + 1]
                if abs(after.prob - before.prob) >= THRESHOLD - 1e-9:
                    yield PivotalToken(
                        trace=trace,
                        position=t,
                        prob_before=before.prob,
                        prob_after=after.prob,
                        interval=score_interval(after, before, 0.95),
                        rollouts=(before.rollouts, after.rollouts),
                        token_prob=0.0,
                    )
        return Outcome(values[0].prob, len(task.traces))

    return search


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "bisection n=10": lambda: bisection(num_samples=10, **EVERYTHING),
    "bisection n=50": lambda: bisection(num_samples=50, **EVERYTHING),
    "bisection n=200": lambda: bisection(num_samples=200, **EVERYTHING),
    "every prefix n=200": lambda: every_prefix(200),
    "branching 40": lambda: branching(max_rollouts=40, num_samples=5, **EVERYTHING),
    "branching 60": lambda: branching(max_rollouts=60, num_samples=5, **EVERYTHING),
    "branching 75, fdr .5": lambda: branching(max_rollouts=75, num_samples=5, **EVERYTHING),
    "branching 120": lambda: branching(max_rollouts=120, **EVERYTHING),
    "branching (default)": lambda: branching(**EVERYTHING),
    "branching 600": lambda: branching(max_rollouts=600, **EVERYTHING),
}


def solvable_world(kinds: list[str], seeds: range) -> World:
    """A model of each kind and seed, side by side in one; a first rollout of each is its trace."""
    parts = [(kind, solvable.KINDS[kind](seed)) for seed in seeds for kind in kinds]
    transitions: list[dict[int, tuple[float, int]]] = []
    right, problems = set(), []
    for kind, part in parts:
        offset = len(transitions)
        problems.append(Problem(f"{kind} {offset}", str(offset), "", "solvable", kind))
        right |= {offset + state for state in part.right}
        transitions += [
            {token: (p, offset + target) for token, (p, target) in choices.items()}
            for choices in part.transitions
        ]
    model = FiniteStateModel(transitions, right=right, batch=1024)
    sampling = Sampling(horizon=700)
    traces: dict[str, TokenIds] = {}

    def probe(task: Task) -> Search:
        [[rollout]] = yield from draw([Draw((), 0, 1)])
        traces[task.problem.id] = rollout.ids
        return Outcome(0.0)

    list(Scheduler(model, model.judge, probe, Sampling(horizon=700, seed=99)).run(problems))
    deltas = {
        p.id: np.diff(
            [
                model.success_prob((int(p.query),), traces[p.id][:t], sampling.horizon)
                for t in range(len(traces[p.id]) + 1)
            ]
        )
        for p in problems
    }
    return World(model, model.judge, sampling, problems, traces, deltas)


def demo_world() -> World:
    backend, oracle = _demo()
    rows = {row["id"]: row for row in json.loads(DEMO_TRUTH.read_text())}
    problems = [
        Problem(p.id, p.query, p.answer, p.dataset_id, "demo")
        for p in discover().find("dataset", "demo").factory()
        if p.id in rows
    ]
    traces = {i: tuple(row["trace"]) for i, row in rows.items()}
    deltas = {i: np.diff(row["values"]) for i, row in rows.items()}
    return World(backend, oracle, Sampling(seed=1), problems, traces, deltas)


def make_demo_truth(problems: int = 8, rollouts: int = 1000) -> None:
    """Dense truth: a first rollout as trace, then so many rollouts at each of its prefixes."""
    backend, oracle = _demo()
    rows = []

    def dense(task: Task) -> Search:
        [[trace]] = yield from draw([Draw((), 0, 1)])
        length = len(trace.ids)
        drawn = yield from draw([Draw(trace.ids, t, rollouts) for t in range(length)])
        values = [estimate(group).prob for group in drawn] + [float(trace.correct)]
        rows.append({"id": task.problem.id, "trace": list(trace.ids), "values": values})
        return Outcome(values[0])

    dataset = list(discover().find("dataset", "demo").factory())
    chosen = dataset[:: max(1, len(dataset) // problems)][:problems]
    list(Scheduler(backend, oracle, dense, Sampling(seed=7)).run(chosen))
    DEMO_TRUTH.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def _demo() -> tuple[Backend, Oracle]:
    registry = discover()
    folder = registry.find("model", "demo").factory()
    backend = registry.find("backend", "transformers").factory(folder)
    return backend, registry.find("oracle", "math").factory()


def measure(
    world: World, strategy: Strategy, seed: int = 1, fdr: float = 0.1
) -> dict[str, Counter[str]]:
    """Counts by kind of problem, from one run over all of them."""
    sampling = replace(world.sampling, seed=seed)
    given = {i: [trace] for i, trace in world.traces.items()}
    scheduler = Scheduler(world.backend, world.oracle, strategy, sampling, given=given, fdr=fdr)
    counts: dict[str, Counter[str]] = {p.task_type: Counter() for p in world.problems}
    spent: Counter[str] = Counter()
    receive = scheduler._receive

    def counting(request, result):  # generated tokens of each problem
        slot = scheduler._slots.get(request.stream)
        if slot is not None:
            spent[slot.owner.problem.id] += len(result.ids)
        receive(request, result)

    scheduler._receive = counting  # type: ignore[method-assign]
    found: dict[str, dict[int, PivotalToken]] = {p.id: {} for p in world.problems}
    for event in scheduler.run(world.problems):
        if isinstance(event, Found):
            found[event.problem.id][event.token.position] = event.token
    for problem in world.problems:
        count = counts[problem.task_type]
        count["problems"] += 1
        count["tokens"] += spent[problem.id]
        for t, true in enumerate(world.deltas[problem.id]):
            _compare(count, float(true), found[problem.id].get(t))
    total = sum(counts.values(), Counter())
    total["undecided"] = scheduler.statistics.undecided_tokens
    seconds = scheduler.statistics.seconds
    total["search ms"] = round(1000 * seconds["search"])
    return {**counts, "all": total}


def _compare(count: Counter[str], true: float, token: PivotalToken | None) -> None:
    if abs(abs(true) - THRESHOLD) < 1e-9:
        return  # no sample tells an exact tie from what lies on either side: it counts for nobody
    is_pivotal = abs(true) > THRESHOLD
    count["pivotal"] += is_pivotal
    count["large"] += abs(true) >= 0.3
    if token is None:
        return
    count["found"] += 1
    count["right"] += is_pivotal
    count["large found"] += abs(true) >= 0.3
    count["far off"] += abs(true) < THRESHOLD / 2
    low, high = token.interval
    count["covered"] += low - 1e-9 <= true <= high + 1e-9
    count["square error"] += (token.delta - true) ** 2  # type: ignore[assignment]


def line(name: str, kind: str, c: Counter[str]) -> str:
    precision = c["right"] / max(c["found"], 1)
    recall = c["right"] / max(c["pivotal"], 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    return (
        f"{name:20} {kind:18} {c['tokens'] / c['problems']:9,.0f} {precision:9.2f} {recall:7.2f} "
        f"{f1:6.3f} {c['large found'] / max(c['large'], 1):7.2f} {c['far off']:8} "
        f"{c['covered'] / max(c['found'], 1):9.3f} "
        f"{(c['square error'] / max(c['found'], 1)) ** 0.5:6.3f} "
        f"{c['found']:6} {c['pivotal']:8} {c.get('undecided', ''):>10}"
    )


HEADER = (
    f"{'strategy':20} {'problems':18} {'tokens/pr':>9} {'precision':>9} {'recall':>7} {'F1':>6} "
    f"{'R(.3)':>7} {'<half':>8} {'coverage':>9} {'RMSE':>6} {'found':>6} {'pivotal':>8} "
    f"{'undecided':>10}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the searches against the truth.")
    parser.add_argument("--models", type=int, default=12, help="solvable models of each kind")
    parser.add_argument(
        "--first-seed", type=int, default=1000, help="0 has the models that the search was tuned on"
    )
    parser.add_argument("--kinds", nargs="*", default=list(solvable.KINDS))
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--no-demo", action="store_true")
    parser.add_argument("--make-demo-truth", action="store_true")
    options = parser.parse_args()
    if options.make_demo_truth:
        make_demo_truth()
        return
    seeds = range(options.first_seed, options.first_seed + options.models)
    worlds = [solvable_world(options.kinds, seeds)] if options.kinds else []
    if not options.no_demo:
        worlds.append(demo_world())
    for world in worlds:
        print(HEADER)
        for name in options.strategies:
            dense = name.startswith("every") and any(len(t) > 200 for t in world.traces.values())
            if dense:
                print(f"{name:20} left out: too many tokens on traces this long")
                continue
            started = time.perf_counter()
            counts = measure(world, STRATEGIES[name](), fdr=0.5 if "fdr" in name else 0.1)
            for kind, count in counts.items():
                if kind != "all" or len(counts) > 2:
                    print(line(name, kind, count), flush=True)
            seconds = time.perf_counter() - started
            print(f"{'':20} search {counts['all']['search ms'] / 1000:.2f} s of {seconds:.1f} s")


if __name__ == "__main__":
    main()
