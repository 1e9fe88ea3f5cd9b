"""The demo: a small real model and its problems, shipped in the package. `train.py` made both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pts_core.hookspecs import Factories, hookimpl
from pts_core.types import Problem

FOLDER = Path(__file__).parent


@hookimpl
def pts_datasets() -> Factories:
    return {"demo": DemoProblems}


@hookimpl
def pts_models() -> Factories:
    return {"demo": model_folder}


class DemoProblems:
    """Sums that the demo model gets right about half of the time."""

    dataset_id = "demo"
    note = ""

    def __init__(self) -> None:
        lines = (FOLDER / "problems.jsonl").read_text(encoding="utf-8").splitlines()
        self._rows = [json.loads(line) for line in lines]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Problem]:
        for index, row in enumerate(self._rows):
            yield Problem(
                id=f"demo/{index}",
                dataset_id=self.dataset_id,
                task_type="arithmetic",
                **row,
            )


def model_folder() -> str:
    """A llama of 0.4 million parameters that adds and subtracts digits, rightly or wrongly."""
    return str(FOLDER / "model")
