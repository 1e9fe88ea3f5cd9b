"""Problems that reasoning-gym generates: as many as wanted, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from pts_core.errors import PtsError, UsageError, in_one_line
from pts_core.types import Problem

REQUEST = "Give the final answer between <answer> and </answer>."


class GeneratedProblems:
    """The problems of one generator, each made when it is asked for."""

    def __init__(self, generator: str, size: int, seed: int) -> None:
        self.dataset_id = f"reasoning-gym:{generator}"
        self.note = f"{size} generated problems of {generator}, seed {seed}"
        self._entries, self._seed = _create(generator, size, seed), seed

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Problem]:
        for index in range(len(self._entries)):
            entry = self._entries[index]
            yield Problem(
                id=f"{self._seed}-{index}",
                query=f"{entry['question']}\n\n{REQUEST}",
                answer="" if entry["answer"] is None else str(entry["answer"]),
                dataset_id=self.dataset_id,
                task_type="reasoning-gym",
                metadata={"entry": entry},
            )


def _create(generator: str, size: int, seed: int) -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise PtsError(
            "dataset reasoning-gym: the package is not installed; "
            "pip install 'pivotal-token-search[reasoning-gym]'"
        ) from error
    known = sorted(reasoning_gym.factory.DATASETS)
    if generator not in known:
        close = get_close_matches(generator, known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}"
        raise UsageError(f"reasoning-gym has no generator {generator!r}. {hint}")
    try:
        return reasoning_gym.create_dataset(generator, size=size, seed=seed)
    except Exception as error:
        raise PtsError(
            f"reasoning-gym can't make problems of {generator}: {in_one_line(error)}"
        ) from error
