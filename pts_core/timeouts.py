"""A time limit on code of others that runs in this process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeLimit(BaseException):
    """Not an Exception, so that code which catches those does not catch this."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeLimit in the body once it has run that long.

    It interrupts Python code and system calls, not a loop inside a library's C code; and it can do
    so in the main thread alone, where the system has interval timers.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return

    def expire(*_: object) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
