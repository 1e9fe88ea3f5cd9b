"""A run in progress: carries what the scheduler finds to the output files and the display."""

from __future__ import annotations

import json
import platform
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pts_core
from pts_core.cli import INTERRUPTED
from pts_core.cli.progress import Display, print_lacking, print_strongest, print_summary
from pts_core.errors import ProblemError, PtsError, UsageError
from pts_core.records import Output, Record, make_record
from pts_core.scheduler import Event, Found, Scheduler
from pts_core.statistics import Statistics
from pts_core.types import Problem

FAILURES_SHOWN = 5
# So many standard errors come about by chance once in two million runs.
MISMATCH = 5.0


def check_summary_path(path: Path | None) -> None:
    """Raises UsageError, before a run, where its summary could not be written."""
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write {path}: its folder does not exist")


def write_summary(path: Path | None, summary: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise PtsError(f"cannot write {path}: {error.strerror}") from error


@dataclass
class Session:
    """Carries what the scheduler finds to the output and the display."""

    scheduler: Scheduler
    display: Display
    output: Output
    model_id: str
    search_name: str
    max_pairs: int

    def __post_init__(self) -> None:
        self.records: list[Record] = []
        self.lacking: list[str] = []
        self.failures = 0
        self._open: list[Record] = []  # those of the problem whose events come now

    def search(self, problems: Iterable[Problem]) -> None:
        """Searches until the problems are done or there are max_pairs pivotal tokens.

        Whatever ends it, what was found is in the output.
        """
        complete = False
        try:
            for event in self.scheduler.run(problems):
                self._take(event)
                if len(self.records) + len(self._open) >= self.max_pairs:
                    self.display.say(f"stopped at --max-pairs {self.max_pairs}")
                    break
            complete = True
        finally:
            if not complete:
                for event in self.scheduler.held_back():
                    self._take(event)
            self._write()
            self.output.close(complete=complete)

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
            self._open.append(record)
            return
        self._write()
        self.display.advance()
        if isinstance(event.outcome, ProblemError):
            self.failures += 1
            if self.failures <= FAILURES_SHOWN:
                self.display.warn(f"problem {event.problem.id} skipped: {event.outcome}")
            if self.failures == FAILURES_SHOWN:
                self.display.warn("further failures are counted, not shown")
        else:
            self.lacking += [
                f"problem {event.problem.id}, trace {trace}, token {position}: {missing}"
                for trace, position, missing in event.outcome.lacking
            ]

    def _write(self) -> None:
        records, self._open = self._open, []
        self.output.write(records)
        self.records += records

    def summary(self, seconds: float) -> dict[str, Any]:
        counts = self.scheduler.statistics
        return {
            "model": self.model_id,
            "search": self.search_name,
            "policy": asdict(self.scheduler.sampling),
            "seed": self.scheduler.sampling.seed,
            "problems_seen": counts.problems_seen,
            "problems_skipped": dict(counts.problems_skipped),
            "problems_failed": counts.problems_failed,
            "problems_searched": counts.problems_searched,
            "traces": counts.traces,
            "rollouts": counts.rollouts,
            "kept_rollouts": counts.kept_rollouts,
            "lacking_rollouts": counts.lacking_rollouts,
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


def conduct(
    session: Session,
    problems: Iterable[Problem],
    summary_path: Path | None,
    started: float,
    again: str = "",
) -> int:
    """Searches, and says how it went; the exit code. `started` is of time.perf_counter, `again`
    what to add to the command to run it again."""
    display, counts, output = session.display, session.scheduler.statistics, session.output
    try:
        with display.running():
            session.search(problems)
    except KeyboardInterrupt:
        display.warn(
            f"interrupted: {output.size} pivotal tokens are in {output.path}; the same "
            f"command goes on from here{again}"
        )
        return INTERRUPTED
    finally:
        seconds = time.perf_counter() - started
        write_summary(summary_path, session.summary(seconds))
    _check_following(display, counts)
    if not display.quiet:
        print_summary(counts, seconds)
        print_strongest(session.records)
        print_lacking(session.lacking)
        print(f"{len(session.records)} pivotal tokens written to {output.path}")
    return 1 if counts.problems_failed else 0


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_following(display: Display, counts: Statistics) -> None:
    if abs(counts.following_score) > MISMATCH:
        followed, mean, _ = counts.following
        display.warn(
            f"WARNING: the backend's probabilities do not match its samples: rollouts took the "
            f"next token of a trace {followed:,.0f} times where {mean:,.0f} were expected "
            f"({counts.following_score:+.1f} standard errors); don't trust the pivotal tokens"
        )


def _versions() -> dict[str, str]:
    found = {"pts": pts_core.__version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
