"""Intervals, tests and false discoveries, against published figures and exact sums."""

import math
from itertools import product

import numpy as np
import pytest

from pts_core.discoveries import FalseDiscoveryControl
from pts_core.estimates import (
    Estimate,
    binomial_tail,
    difference_score,
    score_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("after", "before", "published"),
    [
        # Newcombe 1998, Statistics in Medicine 17:873, table II, column 5.
        ((56, 70), (48, 80), (0.0528, 0.3382)),
        ((9, 10), (3, 10), (0.1700, 0.8406)),
        ((5, 56), (0, 29), (-0.0326, 0.1933)),
    ],
)
def test_intervals_of_a_difference_are_the_published_ones(after, before, published):
    a, b = Estimate(*after), Estimate(*before)
    assert score_interval(a, b, 0.95) == pytest.approx(published, abs=6e-5)


def test_wilson_is_the_published_one():
    # Newcombe 1998, Statistics in Medicine 17:857, table I.
    assert wilson_interval(81, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=6e-5)
    assert wilson_interval(0, 20, 0.95) == pytest.approx((0.0, 0.1611), abs=6e-5)
    assert wilson_interval(0, 0, 0.95) == (0.0, 1.0)


def test_the_score_interval_covers_at_every_truth():
    """Exact coverage, by summing over all outcomes of 20 and 20 rollouts."""
    n = 20
    intervals = {
        (k, j): score_interval(Estimate(k, n), Estimate(j, n), 0.95)
        for k, j in product(range(n + 1), repeat=2)
    }
    coverages = []
    for p, q in product((0.05, 0.3, 0.5, 0.8, 0.95), repeat=2):
        mass = {
            (k, j): math.comb(n, k) * p**k * (1 - p) ** (n - k)
            * math.comb(n, j) * q**j * (1 - q) ** (n - j)
            for k, j in intervals
        }  # fmt: skip
        coverages.append(
            sum(m for o, m in mass.items() if intervals[o][0] <= p - q <= intervals[o][1])
        )
    assert min(coverages) > 0.93
    assert np.mean(coverages) > 0.945


def test_an_exact_estimate_adds_no_variance():
    known = Estimate(1, 1, exact=True)
    low, high = score_interval(known, Estimate(10, 20), 0.95)
    wilson = wilson_interval(10, 20, 0.95)
    assert (low, high) == pytest.approx((1 - wilson[1], 1 - wilson[0]), abs=1e-5)
    assert difference_score(known, Estimate(20, 20), 0.0) == 0.0


@pytest.mark.parametrize("counts", [(0, 5, 0, 5), (5, 5, 5, 5), (5, 5, 0, 5), (0, 1, 1, 1)])
def test_extreme_counts_give_finite_bounds(counts):
    low, high = score_interval(Estimate(*counts[:2]), Estimate(*counts[2:]), 0.95)
    assert -1 <= low <= high <= 1


def test_binomial_tail():
    assert binomial_tail(0, 10, 0.2) == pytest.approx(0.8**10)
    assert binomial_tail(10, 10, 0.2) == pytest.approx(1)


def _false_share(level: float, null_share: float, seed: int) -> tuple[float, int]:
    """False discoveries per discovery in a stream where nulls sit exactly on the boundary."""
    rng = np.random.default_rng(seed)
    control, false, found = FalseDiscoveryControl(level), 0, 0
    for _ in range(300):
        is_null = rng.random() < null_share
        p_value = rng.random() if is_null else rng.random() ** 8
        if control.is_discovery(p_value):
            found += 1
            false += is_null
    return false / max(found, 1), found


@pytest.mark.parametrize("null_share", [0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("level", [0.05, 0.1])
def test_false_discoveries_stay_below_the_level(level: float, null_share: float):
    """The worst nulls there are: uniform p-values. Mean over 400 runs, 5 standard errors."""
    shares = [_false_share(level, null_share, seed)[0] for seed in range(400)]
    assert np.mean(shares) < level + 5 * np.std(shares) / np.sqrt(len(shares))


def test_a_stream_of_real_discoveries_is_found():
    found = [_false_share(0.1, 0.2, seed)[1] for seed in range(50)]
    assert np.mean(found) > 150  # of 240 that are there


def test_a_longer_stream_agrees_with_a_shorter_one():
    p_values = np.random.default_rng(0).random(50) ** 4
    short, long = FalseDiscoveryControl(0.1), FalseDiscoveryControl(0.1)
    first = [short.is_discovery(p) for p in p_values[:20]]
    assert [long.is_discovery(p) for p in p_values][:20] == first
