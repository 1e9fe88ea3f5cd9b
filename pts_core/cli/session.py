"""A run in progress: carries what the scheduler finds to the output files and the display."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import pts_core
from pts_core.cli.progress import Display
from pts_core.errors import ProblemError, PtsError, UsageError
from pts_core.records import Record, append, make_record, open_output
from pts_core.scheduler import Event, Found, Scheduler
from pts_core.types import Problem

FAILURES_SHOWN = 5


@dataclass
class Outputs:
    """The files of a run, opened before anything is generated for them."""

    path: Path
    file: IO[str]
    summary_path: Path | None
    created: bool

    @classmethod
    def open(cls, path: Path, summary_path: Path | None, *, overwrite: bool) -> Outputs:
        if summary_path is not None and not summary_path.absolute().parent.is_dir():
            raise UsageError(f"cannot write {summary_path}: its folder does not exist")
        created = not path.exists()
        return cls(path, open_output(path, overwrite=overwrite), summary_path, created)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self.file.close()
        if failed and self.created and self.path.stat().st_size == 0:
            self.path.unlink()

    def write_summary(self, summary: dict[str, Any]) -> None:
        if self.summary_path is None:
            return
        try:
            self.summary_path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise PtsError(f"cannot write {self.summary_path}: {error.strerror}") from error


@dataclass
class Session:
    """Carries what the scheduler finds to the output and the display."""

    scheduler: Scheduler
    display: Display
    outputs: Outputs
    model_id: str
    max_pairs: int

    def __post_init__(self) -> None:
        self.records: list[Record] = []
        self.failures = 0

    def search(self, problems: Iterable[Problem]) -> None:
        """Searches until the problems are done or there are max_pairs pivotal tokens.

        Whatever ends it, what was found is in the output.
        """
        self.outputs.file.truncate(0)
        try:
            for event in self.scheduler.run(problems):
                self._take(event)
                if len(self.records) >= self.max_pairs:
                    self.display.say(f"stopped at --max-pairs {self.max_pairs}")
                    return
        except BaseException:
            for event in self.scheduler.held_back():
                self._take(event)
            raise

    def _take(self, event: Event) -> None:
        if isinstance(event, Found):
            record = make_record(
                event.problem,
                event.prompt,
                event.token,
                model_id=self.model_id,
                sampling=self.scheduler.sampling,
                decode=self.scheduler.backend.decode,
            )
            append(self.outputs.file, record)
            self.records.append(record)
            return
        self.display.advance()
        if isinstance(event.outcome, ProblemError):
            self.failures += 1
            if self.failures <= FAILURES_SHOWN:
                self.display.warn(f"problem {event.problem.id} skipped: {event.outcome}")
            if self.failures == FAILURES_SHOWN:
                self.display.warn("further failures are counted, not shown")

    def summary(self, seconds: float, search: str) -> dict[str, Any]:
        counts = self.scheduler.statistics
        return {
            "model": self.model_id,
            "search": search,
            "policy": self.scheduler.sampling.as_dict(),
            "seed": self.scheduler.sampling.seed,
            "problems_seen": counts.problems_seen,
            "problems_skipped": dict(counts.problems_skipped),
            "problems_failed": counts.problems_failed,
            "problems_searched": counts.problems_searched,
            "traces": counts.traces,
            "rollouts": counts.rollouts,
            "generated_tokens": counts.generated_tokens,
            "scored_positions": counts.scored_positions,
            "truncated_rollouts": counts.truncated_rollouts,
            "abstentions": counts.abstentions,
            "pivotal_tokens": len(self.records),
            "undecided_tokens": counts.undecided_tokens,
            "excluded_tokens": counts.excluded_tokens,
            "following_score": round(counts.following_score, 2),
            "wall_seconds": round(seconds, 3),
            "seconds_by_phase": {k: round(v, 3) for k, v in counts.seconds.items()},
            "versions": _versions(),
        }


def _versions() -> dict[str, str]:
    found = {"pts": pts_core.__version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
