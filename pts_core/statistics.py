"""What a run counts: problems, rollouts, tokens, and the time of each phase."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass
class Statistics:
    """What a run has done so far. `seconds` is wall time by phase.

    `rollouts` counts all that stand behind the result, of which `kept_rollouts` come from the
    journal; `lacking_rollouts` were asked for and are not in a closed one.
    """

    problems_seen: int = 0
    problems_searched: int = 0
    problems_skipped: Counter[str] = field(default_factory=Counter)
    problems_failed: int = 0
    traces: int = 0
    rollouts: int = 0
    truncated_rollouts: int = 0
    abstentions: int = 0
    kept_rollouts: int = 0
    lacking_rollouts: int = 0
    generated_tokens: int = 0
    scored_positions: int = 0
    pivotal_tokens: int = 0
    undecided_tokens: int = 0
    excluded_tokens: int = 0
    following: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    seconds: dict[str, float] = field(default_factory=dict)
    _phases: list[str] = field(default_factory=list)
    _since: float = 0.0

    @property
    def following_score(self) -> float:
        """Standard normal score of how often rollouts followed a trace, against its probabilities.

        Far from 0 (by 5, say) the backend does not sample from the probabilities it states.
        """
        followed, mean, variance = self.following
        return float((followed - mean) / np.sqrt(variance)) if variance > 0 else 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time inside as `name`, and not as the phase around it."""
        self._charge()
        self._phases.append(name)
        try:
            yield
        finally:
            self._charge()
            self._phases.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._phases:
            current = self._phases[-1]
            self.seconds[current] = self.seconds.get(current, 0.0) + now - self._since
        self._since = now
