"""Whether a steering vector helps: success rates with it, without it and with random ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pts_core.errors import ProblemError, PtsError
from pts_core.estimates import Estimate
from pts_core.interfaces import Backend, Oracle, Steerable
from pts_core.scheduler import Ended, Prompting, Scheduler
from pts_core.search.conversation import Draw, Outcome, Search, Task, draw
from pts_core.types import Problem, Sampling

Vectors = dict[int, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of steering and its success rate over all rollouts of all problems."""

    name: str
    strength: float
    success: Estimate


def random_vectors(vectors: Vectors, seed: int) -> Vectors:
    """As many vectors of the same norms, in directions drawn at random."""
    generator = np.random.default_rng(seed)
    drawn = {}
    for layer, vector in vectors.items():
        direction = generator.standard_normal(vector.shape).astype(np.float32)
        drawn[layer] = direction * (np.linalg.norm(vector) / np.linalg.norm(direction))
    return drawn


def compare(
    backend: Steerable,
    oracle: Oracle,
    problems: Sequence[Problem],
    vectors: Vectors,
    *,
    strengths: Sequence[float],
    random: int,
    rollouts: int,
    sampling: Sampling,
    prompting: Prompting,
) -> Iterator[Arm]:
    """Yields the unsteered model, then the vector and `random` random ones at each strength.

    All arms use the same random numbers, so that differences between them are due to the vectors.
    """

    def measured(steering: Vectors) -> Estimate:
        with backend.steered(steering):
            return success(
                backend,
                oracle,
                problems,
                rollouts=rollouts,
                sampling=sampling,
                prompting=prompting,
            )

    yield Arm("none", 0.0, measured({}))
    for strength in strengths:
        yield Arm("vector", strength, measured(_scaled(vectors, strength)))
        others = [
            measured(_scaled(random_vectors(vectors, sampling.seed + i), strength))
            for i in range(random)
        ]
        if others:
            yield Arm("random", strength, sum(others[1:], others[0]))


def _scaled(vectors: Vectors, strength: float) -> Vectors:
    return {layer: vector * np.float32(strength) for layer, vector in vectors.items()}


def success(
    backend: Backend,
    oracle: Oracle,
    problems: Iterable[Problem],
    *,
    rollouts: int,
    sampling: Sampling,
    prompting: Prompting | None = None,
) -> Estimate:
    """The success rate over `rollouts` rollouts of every problem.

    Raises PtsError at a problem that can't be measured.
    """

    def probe(task: Task) -> Search:  # noqa: ARG001 - part of the interface
        [drawn] = yield from draw([Draw((), 0, rollouts)])
        return Outcome(sum(rollout.correct for rollout in drawn) / rollouts)

    rates = []
    scheduler = Scheduler(backend, oracle, probe, sampling, prompting or Prompting())
    for event in scheduler.run(problems):
        assert isinstance(event, Ended)
        if isinstance(event.outcome, ProblemError):
            raise PtsError(f"problem {event.problem.id} can't be measured: {event.outcome}")
        rates.append(event.outcome.success_prob)
    return Estimate(round(sum(rates) * rollouts), len(rates) * rollouts)
