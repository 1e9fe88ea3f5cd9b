"""What a run shows while it goes on and when it is over: on a terminal with rich, else in lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pts_core.records import Record
from pts_core.statistics import Statistics

SECONDS_BETWEEN_LINES = 10.0


class _Live(ProgressColumn):
    """Reads the statistics each time the bar is drawn."""

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        self.statistics = statistics
        self.started = time.perf_counter()

    def render(self, task: Task) -> Text:  # noqa: ARG002 - part of the interface
        return Text(_figures(self.statistics, time.perf_counter() - self.started))


class Display:
    """Shows the progress of a run on stderr; `advance` counts a problem as done."""

    def __init__(self, statistics: Statistics, total: int | None, quiet: bool) -> None:
        self.statistics = statistics
        self.total = total
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, markup=False)
        self.done = 0
        self._progress: Progress | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        if self.quiet:
            yield
        elif self.console.is_terminal:
            self._progress = Progress(
                TextColumn("problems"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                _Live(self.statistics),
                TimeRemainingColumn(),
                console=self.console,
            )
            with self._progress:
                self._progress.add_task("", total=self.total)
                yield
        else:
            stop = threading.Event()
            ticker = threading.Thread(target=self._print_lines, args=(stop,), daemon=True)
            ticker.start()
            try:
                yield
            finally:
                stop.set()
                ticker.join()

    def advance(self) -> None:
        self.done += 1
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0])

    def say(self, line: str) -> None:
        if not self.quiet:
            self.console.print(line, soft_wrap=True)

    def warn(self, line: str) -> None:
        """A line that `--quiet` does not silence."""
        self.console.print(f"pts: {line}", soft_wrap=True)

    def _print_lines(self, stop: threading.Event) -> None:
        started = time.perf_counter()
        total = f"/{self.total}" if self.total is not None else ""
        while not stop.wait(SECONDS_BETWEEN_LINES):
            figures = _figures(self.statistics, time.perf_counter() - started)
            self.say(f"{self.done}{total} problems · {figures}")


def _figures(counts: Statistics, seconds: float) -> str:
    speed = counts.generated_tokens / max(seconds, 1e-9)
    return (
        f"{counts.rollouts:,} rollouts · {counts.generated_tokens:,} tokens · "
        f"{speed:,.0f} tokens/s · {counts.pivotal_tokens} pivotal"
    )


def print_summary(counts: Statistics, seconds: float) -> None:
    """The run in figures, on stdout."""
    skipped = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.problems_skipped.items()))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_column()
    for name, value, remark in (
        ("problems seen", counts.problems_seen, ""),
        ("problems skipped", counts.problems_skipped.total(), skipped),
        ("problems failed", counts.problems_failed, ""),
        ("problems searched", counts.problems_searched, ""),
        ("traces", counts.traces, ""),
        ("rollouts", counts.rollouts, _remarks(counts)),
        ("generated tokens", counts.generated_tokens, ""),
        ("scored positions", counts.scored_positions, ""),
        ("pivotal tokens", counts.pivotal_tokens, ""),
        ("undecided tokens", counts.undecided_tokens, ""),
        ("excluded by proof", counts.excluded_tokens, ""),
    ):
        table.add_row(name, f"{value:,}", remark)
    table.add_row("seconds", f"{seconds:.1f}", _phases(counts))
    Console(markup=False, highlight=False).print(table)


def _remarks(counts: Statistics) -> str:
    remarks = {
        "truncated": counts.truncated_rollouts,
        "from the journal": counts.kept_rollouts,
        "not judged": counts.abstentions,
        "lacking": counts.lacking_rollouts,
    }
    return ", ".join(f"{n:,} {name}" for name, n in remarks.items() if n or name == "truncated")


def _phases(counts: Statistics) -> str:
    return ", ".join(f"{name} {s:.1f}" for name, s in counts.seconds.items())


def print_lacking(lines: Sequence[str], count: int = 20) -> None:
    """The tokens that a closed journal has too few rollouts of."""
    if not lines:
        return
    print("rollouts that the journal lacks to measure these tokens:")
    for line in lines[:count]:
        print(f"  {line}")
    if len(lines) > count:
        print(f"  and of {len(lines) - count} tokens more")


def print_strongest(records: Sequence[Record], count: int = 10) -> None:
    """The tokens that move success probability most, each with the end of its context."""
    strongest = sorted(records, key=lambda r: -abs(r["prob_delta"]))[:count]
    if not strongest:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("delta", justify="right")
    table.add_column("interval", no_wrap=True)
    table.add_column("context and token", no_wrap=True, overflow="ellipsis")
    for record in strongest:
        # Model text goes in as Text: brackets in it are not markup.
        context = Text(" ".join(record["pivot_context"].split())[-30:])
        style = "bold green" if record["is_positive"] else "bold red"
        context.append(f" ▸{record['pivot_token']!r}", style)
        low, high = record["interval"]
        table.add_row(
            f"{record['prob_before']:.2f}",
            f"{record['prob_after']:.2f}",
            f"{record['prob_delta']:+.2f}",
            f"{low:+.2f} … {high:+.2f}",
            context,
        )
    Console(markup=False, highlight=False).print(table)
