"""Whether two LaTeX formulas are equal, asked of math-verify in a process of its own.

A formula can keep a computer algebra system busy, or growing, for ever: 9^{9^{9^9}}. Only a process
can be stopped for certain, in whatever thread the question was asked.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

from pts_core.errors import PtsError

# Its time limit, and crashes in C code. Any other end is not the formula's doing: no verdict.
ENDED_BY_FORMULA = {signal.SIGPROF, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT}


@lru_cache(maxsize=1 << 16)
def equal(gold: str, answer: str) -> bool:
    """False too where math-verify can't read the answer, or doesn't finish in its limits.

    Not symmetric: a gold `x = 3` takes the answer 3. Raises PtsError if math-verify can't run.
    """
    return _worker(os.getpid()).ask(gold, answer)


@lru_cache(maxsize=4096)
def readable(gold: str) -> bool:
    """Can math-verify make something of the formula? Raises PtsError if it can't run."""
    return _worker(os.getpid()).ask(gold)


@lru_cache(maxsize=1)
def _worker(_process_id: int) -> _Worker:
    """One for each process: after a fork, two would read each other's verdicts from one pipe."""
    worker = _Worker()
    atexit.register(worker.stop)
    return worker


class _Worker:
    """A process that answers one question after another, and is replaced when it dies."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None

    def ask(self, *formulas: str) -> bool:
        with self.lock:
            try:
                if self.process is None or self.process.poll() is not None:
                    self.process = self._start()
                self._send(formulas)
                return self._receive()
            except OSError as error:
                self.stop()
                raise PtsError(f"oracle math: no process for math-verify ({error})") from error
            except BaseException:
                self.stop()  # an interrupted question would leave its verdict to the next one
                raise

    def _start(self) -> subprocess.Popen[str]:
        program = Path(__file__).with_name("worker.py")
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(program)],  # -P: our modules must not hide the library's
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for `pts` to handle
        )
        assert self.process.stdout is not None
        greeting = self.process.stdout.readline().strip()
        if greeting != "ready":
            raise PtsError(
                f"oracle math: math-verify could not be loaded ({greeting or 'it ended at once'}); "
                "reinstall it with: pip install 'math-verify[antlr4_13_2]'"
            )
        return self.process

    def _send(self, formulas: tuple[str, ...]) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(formulas) + "\n")
        self.process.stdin.flush()

    def _receive(self) -> bool:
        """The verdict; False if the formula ended the worker."""
        assert self.process is not None
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return bool(json.loads(line))
        code = self.process.wait()
        self.stop()
        if -code not in ENDED_BY_FORMULA:
            raise PtsError(f"oracle math: its math-verify process was ended (exit code {code})")
        return False

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.kill()
        self.process.communicate()
        self.process = None
