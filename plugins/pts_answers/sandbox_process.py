"""Sessions in CPython processes that the Linux kernel locks in; see `sandbox_child`."""

from __future__ import annotations

import atexit
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pts_answers.programs import Abstained, Failed, Function
from pts_answers.sandbox_child import LONGEST, NotPlain, decode, encode, packed
from pts_core.errors import PtsError, UsageError

OUTPUT = 1 << 20  # bytes that a program may print
_START = 30  # seconds for the starting process to lock itself in, or to answer
_UNAVAILABLE = {"ImportError", "ModuleNotFoundError", "PermissionError"}


class ProcessSandbox:
    """Raises UsageError where the kernel refuses any part of the lock, and says which part."""

    def __init__(self, time_limit: float, memory_mb: int) -> None:
        self._limits = time_limit, memory_mb
        self._starter: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        atexit.register(self.close)
        with self.session():
            pass

    def close(self) -> None:
        """Ends the starting process, and with it all sessions."""
        if self._starter:
            process, control = self._starter
            self._starter = None
            control.close()
            process.kill()
            process.wait()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # Nothing of our environment: hashes, and so the order of sets, are the same each time.
            process = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-s", "-P", "-B"),
                    str(Path(__file__).with_name("sandbox_child.py")),
                    *map(str, self._limits),
                ],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
                cwd="/",
                start_new_session=True,
            )
        self._starter = process, ours
        ours.settimeout(_START)
        try:
            answer = ours.recv(1000).decode() or "its process ended at once"
        except TimeoutError:
            answer = f"its process did not start within {_START} seconds"
        if answer != "ready":
            self.close()
            raise _refused(answer)

    @contextmanager
    def session(self, stdin: str | None = None) -> Iterator[ProcessSession]:
        if self._starter is None or self._starter[0].poll() is not None:
            self.close()
            self._start()
        ours, theirs = socket.socketpair()
        given, printed = os.memfd_create("stdin"), os.memfd_create("stdout")
        try:
            with open(given, "wb", closefd=False) as file:
                file.write((stdin or "").encode("utf-8", "replace"))
            os.lseek(given, 0, os.SEEK_SET)
            pid = self._ask(b"s", int(stdin is not None), [theirs.fileno(), given, printed])
            theirs.close()
            try:
                session = ProcessSession(ours, printed, self._limits[0])
                session.wait_until_ready()
                yield session
            finally:
                self._ask(b"e", pid)
        finally:
            ours.close()
            theirs.close()
            os.close(given)
            os.close(printed)

    def _ask(self, what: bytes, number: int, files: Sequence[int] = ()) -> int:
        assert self._starter
        control = self._starter[1]
        try:
            socket.send_fds(control, [struct.pack("!cI", what, number)], files)
            (answer,) = struct.unpack("!I", control.recv(4))
        except (OSError, struct.error) as error:
            self.close()
            raise PtsError(f"oracle code: its sandbox process was ended ({error})") from error
        return int(answer)


def _refused(reason: str) -> UsageError:
    return UsageError(
        f"--oracle.sandbox process can't be had here ({reason}); use --oracle.sandbox monty, "
        "or a machine whose kernel allows Landlock and unprivileged namespaces"
    )


class ProcessSession:
    def __init__(self, connection: socket.socket, printed: int, time_limit: float) -> None:
        self._connection, self._printed, self._time_left = connection, printed, time_limit

    def wait_until_ready(self) -> None:
        """Raises UsageError if the session could not be locked in."""
        limit, self._time_left = self._time_left, float(_START)
        try:
            what, *details = self._receive(time.monotonic())
        except (Failed, OSError) as error:
            what, details = "ended", [f"a session did not start: {error}"]
        if what != "ready":
            raise _refused(str(details[0]))
        self._time_left = limit

    def run(self, source: str, functions: Mapping[str, Function]) -> str:
        self._ask(["run", source, list(functions)], functions)
        output = os.pread(self._printed, OUTPUT + 1, 0)
        if len(output) > OUTPUT:
            raise Failed("MemoryError", "it printed too much")
        return output.decode("utf-8", "replace")

    def call(
        self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Sequence[Any]]:
        answer = self._ask(["call", function, encode(list(args)), encode(dict(kwargs))], {})
        if type(answer) is not list or len(answer) != 2 or type(answer[1]) is not list:
            raise Failed("RuntimeError", "an answer that can't be read")
        result, after = answer
        return result, after

    def _ask(self, request: list[Any], functions: Mapping[str, Function]) -> Any:
        """Sends a request, answers the calls that come back, and gives the result."""
        while True:
            try:
                what, *details = self._exchange(packed(request))
                if what == "done":
                    return decode(details[0])
                if what == "call":
                    name, args, kwargs = details
                    function, args, kwargs = functions[name], decode(args), decode(kwargs)
            except NotPlain as error:
                raise Abstained(str(error)) from error
            except Failed:
                raise
            except Exception as error:  # whatever hostile data can cause
                raise Failed("RuntimeError", f"an answer that can't be read: {error}") from error
            if what == "call":
                try:
                    request = ["return", encode(function(*args, **kwargs))]
                except NotPlain as error:
                    raise Abstained(str(error)) from error
                except Exception as error:
                    request = ["raise", type(error).__name__, str(error)]
            elif what == "not plain":
                raise Abstained(f"a value that is no plain data: {details}")
            else:
                kind, message = map(str, [*details, "", ""][:2])
                raise (Abstained(message) if kind in _UNAVAILABLE else Failed(kind, message))

    def _exchange(self, message: bytes) -> Any:
        started = time.monotonic()
        try:
            self._wait_at_most(started)
            self._connection.sendall(message)
            return self._receive(started)
        except TimeoutError as error:
            self._time_left = 0
            raise Failed("TimeoutError", "the time of the program is up") from error
        except OSError as error:
            raise Failed("SystemExit", str(error)) from error
        finally:
            self._time_left -= time.monotonic() - started

    def _receive(self, started: float) -> Any:
        (size,) = struct.unpack("!I", self._exactly(4, started))
        if size > LONGEST:
            raise Failed("MemoryError", "an answer too large to carry")
        return json.loads(self._exactly(size, started))

    def _exactly(self, count: int, started: float) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            self._wait_at_most(started)
            part = self._connection.recv(min(count - len(parts), 1 << 16))
            if not part:
                raise Failed("SystemExit", "its process ended")
            parts += part
        return bytes(parts)

    def _wait_at_most(self, started: float) -> None:
        left = self._time_left - (time.monotonic() - started)
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
