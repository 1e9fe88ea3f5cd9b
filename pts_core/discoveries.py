"""Which confirmed tokens are reported: control of false discoveries over a whole run.

ADDIS (Tian and Ramdas, NeurIPS 2019): hypotheses come one after the other, each is decided at
once and for good, and at every moment the expected share of false discoveries among the reported
is below the level, for independent p-values that are uniformly conservative, as those of a bound
on delta are: a token that is far from pivotal has a p-value near 1. Such ones are discarded at no
cost; the discoveries earn level for those that follow. Decisions depend on earlier ones only, so
a longer run agrees with a shorter one as far as that went.
"""

from __future__ import annotations

import math

DISCARD = 0.8  # tau in the paper: p-values above it are not tested at all
CANDIDATE = 0.5  # lambda: p-values between it and tau use up the level
ZETA = 2.285766  # the sum of j^-1.6


class FalseDiscoveryControl:
    """Decides a stream of hypotheses at a false discovery rate of `level`."""

    def __init__(self, level: float) -> None:
        self.level = level
        # What each share of level was worth at first, and how much it has been used up since:
        # the start's, then that of every discovery.
        self._shares: list[tuple[float, int]] = [(level / 2, 0)]

    def test_level(self) -> float:
        """The level of the next test."""
        worth = sum(share * _gamma(age + 1) for share, age in self._shares)
        return min(CANDIDATE, (DISCARD - CANDIDATE) * worth)

    def is_discovery(self, p_value: float) -> bool:
        discovered = p_value <= self.test_level()
        if CANDIDATE < p_value <= DISCARD:
            self._shares = [(share, age + 1) for share, age in self._shares]
        if discovered:
            earned = self.level / 2 if len(self._shares) == 1 else self.level
            self._shares.append((earned, 0))
        return discovered


def _gamma(j: int) -> float:
    """The share of level that the j-th use gets, j from 1; sums to 1.

    Half goes soon, to what comes among other discoveries; half lasts, by the paper's j^-1.6.
    """
    return 0.5 * 0.5**j + 0.5 * math.pow(j, -1.6) / ZETA
