"""Solvable models of several kinds, to measure a search against exact success probabilities.

All are layered: a state is a place in the answer and a *quality*, which is the probability of
ending right. Tokens move along the places; some change the quality. Tokens from 10 on are
paraphrases, 1 and 2 are decisions.
"""

from collections.abc import Callable

import numpy as np

from pts_core.testing import END, FiniteStateModel

Choices = dict[int, tuple[float, int]]
# choose(place, quality) -> (token, probability, next quality) for each token
Layer = Callable[[int, int], list[tuple[int, float, int]]]


def layered(length: int, qualities: list[float], start: int, choose: Layer) -> FiniteStateModel:
    """`length` places, then a last token that is right with the probability of the quality."""
    count = len(qualities)
    right, wrong = count * length + count, count * length + count + 1
    transitions: list[Choices] = []
    # State 0 is where problems start, so qualities are numbered from the start's on.
    order = [start] + [q for q in range(count) if q != start]
    index = {q: i for i, q in enumerate(order)}
    for place in range(length):
        for q in order:
            transitions.append(
                {
                    token: (p, (place + 1) * count + index[to])
                    for token, p, to in choose(place, q)
                    if p > 0
                }
            )
    for q in order:
        transitions.append({3: (qualities[q], right), 4: (1 - qualities[q], wrong)})
    transitions += [{END: (1.0, 0)}] * 2
    return FiniteStateModel(transitions, right={right}, batch=64)


def paraphrase(rng: np.random.Generator, q: int, sharp: float) -> list[tuple[int, float, int]]:
    """Several ways to say the same: the quality stays."""
    if rng.random() < 0.5:
        return [(10, 1.0, q)]
    weights = rng.dirichlet(np.full(4, sharp))
    return [(10 + i, float(w), q) for i, w in enumerate(weights)]


def few_pivots(seed: int, length: int = 30, decisions: int = 3) -> FiniteStateModel:
    """Paraphrases, and a few places that decide between much better and much worse."""
    rng = np.random.default_rng(seed)
    qualities = [0.05, 0.3, 0.6, 0.9]
    places = set(rng.choice(length, decisions, replace=False).tolist())
    fixed = {i: rng.uniform(0.3, 0.7) for i in places}
    say = {i: paraphrase(rng, 0, 0.5) for i in range(length)}

    def choose(place: int, q: int) -> list[tuple[int, float, int]]:
        if place in places:
            up = fixed[place]
            return [(1, up, min(q + 1, 3)), (2, 1 - up, max(q - 1, 0))]
        return [(t, p, q) for t, p, _ in say[place]]

    return layered(length, qualities, 2, choose)


def many_small(seed: int, length: int = 30) -> FiniteStateModel:
    """Every other place moves success a little: none of them is pivotal alone, or just so."""
    rng = np.random.default_rng(seed)
    qualities = np.linspace(0.02, 0.98, 13).tolist()
    up = {i: rng.uniform(0.3, 0.7) for i in range(0, length, 2)}

    def choose(place: int, q: int) -> list[tuple[int, float, int]]:
        if place not in up:
            return [(10, 1.0, q)]
        step = 1 + place % 4 // 2
        return [(1, up[place], min(q + step, 12)), (2, 1 - up[place], max(q - step, 0))]

    return layered(length, qualities, 6, choose)


def cancelling(seed: int, length: int = 30) -> FiniteStateModel:
    """Slips that are repaired two tokens later half of the time: pivots that cancel."""
    rng = np.random.default_rng(seed)
    slips = set((3 + rng.choice((length - 6) // 4, 3, replace=False) * 4).tolist())
    say = {i: paraphrase(rng, 0, 0.5) for i in range(length)}

    def choose(place: int, q: int) -> list[tuple[int, float, int]]:
        if place in slips and q == 1:
            return [(1, 0.6, 1), (2, 0.4, 0)]
        if place - 2 in slips and q == 0:
            return [(1, 0.5, 1), (2, 0.5, 0)]
        return [(t, p, q) for t, p, _ in say[place]]

    return layered(length, [0.05, 0.85], 1, choose)


def near_deterministic(seed: int, length: int = 60) -> FiniteStateModel:
    """Nearly certain tokens with rare slips, and two real decisions."""
    rng = np.random.default_rng(seed)
    places = set(rng.choice(length, 2, replace=False).tolist())

    def choose(place: int, q: int) -> list[tuple[int, float, int]]:
        if place in places:
            return [(1, 0.65, q), (2, 0.35, max(q - 1, 0))]
        return [(10, 0.985, q), (11, 0.01, q), (12, 0.005, 0)]

    return layered(length, [0.1, 0.5, 0.95], 2, choose)


def high_entropy(seed: int, length: int = 25) -> FiniteStateModel:
    """Eight tokens everywhere; now and then they differ in what they do to success."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(8, 1.0), length)
    moves = rng.choice([-2, -1, 0, 0, 1, 2], (length, 8)) * (rng.random((length, 1)) < 0.25)

    def choose(place: int, q: int) -> list[tuple[int, float, int]]:
        return [
            (10 + i, float(weights[place, i]), int(np.clip(q + moves[place, i], 0, 5)))
            for i in range(8)
        ]

    return layered(length, [0.05, 0.2, 0.4, 0.6, 0.8, 0.95], 3, choose)


def long_trace(seed: int) -> FiniteStateModel:
    """Five hundred tokens, five decisions."""
    return few_pivots(seed, length=500, decisions=5)


def no_pivots(seed: int, length: int = 120) -> FiniteStateModel:
    """A null model: every token moves success by less than 0.15; the end alone is left to luck.

    The last token is drawn in many small steps, so that none of them decides.
    """
    rng = np.random.default_rng(seed)
    levels = 61
    qualities = np.linspace(0, 1, levels).tolist()
    up = {i: rng.uniform(0.45, 0.55) for i in range(length)}

    def choose(place: int, q: int) -> list[tuple[int, float, int]]:
        if q in (0, levels - 1):
            return [(10, 1.0, q)]
        step = min(q, levels - 1 - q, 8)
        return [(1, up[place], q + step), (2, 1 - up[place], q - step)]

    return layered(length, qualities, levels // 2, choose)


KINDS: dict[str, Callable[[int], FiniteStateModel]] = {
    "few pivots": few_pivots,
    "many small": many_small,
    "cancelling": cancelling,
    "near-deterministic": near_deterministic,
    "high entropy": high_entropy,
    "long": long_trace,
}
