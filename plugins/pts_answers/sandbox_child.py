"""The inside of the process sandbox: a script of its own, and how values travel to and from it.

Started by `sandbox_process`, it locks itself in (namespaces, Landlock, a read-only view of all
files), says "ready", and from then on forks one process for each session. That process gives up
the rest (capabilities, new processes, sockets) and runs what it is told. It may become hostile
the moment it runs a program; all it can do then is to send us other plain data.

Imports nothing but the standard library, and only what works before the lock.
"""

from __future__ import annotations

import array
import ctypes
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

LONGEST = 1 << 24  # bytes of a message, and of a file
_SCALARS = (type(None), bool, str, float)
_LISTS = {"tuple": tuple, "set": set, "frozenset": frozenset}

# --- plain data and messages ---


class NotPlain(Exception):
    """A value that can't be carried: an instance of some class, or nested too deeply."""


def encode(value: Any) -> Any:
    """The value as JSON has it. Raises NotPlain."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 63 else {"int": hex(value)}
    if kind is list:
        return [encode(item) for item in value]
    if kind in _LISTS.values():
        return {kind.__name__: [encode(item) for item in value]}
    if isinstance(value, dict) and kind.__module__ in ("builtins", "collections"):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    raise NotPlain(kind.__name__)


def decode(value: Any) -> Any:
    """What was encoded; or some exception, for what nobody has encoded."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind in _LISTS:
        return _LISTS[kind](decode(item) for item in content)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(*content)
    return int(content, 16)


def packed(message: Any) -> bytes:
    """Raises NotPlain for what is too long or nested too deeply."""
    try:
        body = json.dumps(message).encode()
    except (RecursionError, ValueError) as error:
        raise NotPlain("a deeply nested value") from error
    if len(body) > LONGEST:
        raise NotPlain("a value too large to carry")
    return struct.pack("!I", len(body)) + body


# --- the lock ---

_libc = ctypes.CDLL(None, use_errno=True)

_NEWNS, _NEWUTS, _NEWIPC = 0x20000, 0x4000000, 0x8000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_SET_PDEATHSIG, _SET_NO_NEW_PRIVS, _SET_SECCOMP = 1, 38, 22
_MOUNT_SETATTR, _LANDLOCK = 442, 444  # these numbers are the same on every architecture

# What a session may not do, by the numbers of its architecture: start processes, talk to sockets
# (those in the file system know no namespaces), leave memory behind, or reach into the kernel.
_DENIED = {
    "x86_64": (
        0xC000003E,
        [
            *(57, 58, 59, 322),  # fork vfork execve execveat
            *(41, 42, 49, 53, 288),  # socket connect bind socketpair accept4
            *(29, 64, 68, 319, 425, 426, 427),  # shmget semget msgget memfd_create io_uring_*
            *(101, 155, 161, 165, 166, 272, 308),  # ptrace pivot_root chroot (u)mount unshare setns
            *(310, 311, 321, 298, 323),  # process_vm_* bpf perf_event_open userfaultfd
            *(248, 249, 250),  # add_key request_key keyctl
            *(428, 429, 430, 431, 432, 433, 438, 442),  # the new mount calls, pidfd_getfd
        ],
        56,  # clone
    ),
    "aarch64": (  # the same, where it is there
        0xC00000B7,
        [
            *(221, 281),
            *(198, 203, 200, 199, 242),
            *(194, 190, 186, 279, 425, 426, 427),
            *(117, 41, 51, 40, 39, 97, 268),
            *(270, 271, 280, 241, 282),
            *(217, 218, 219),
            *(428, 429, 430, 431, 432, 433, 438, 442),
        ],
        220,
    ),
}
_CLONE3 = 435


def lock_in() -> int:
    """Gives this process its own namespaces and no file but Python's, for good.

    Gives an open file of the process-id namespace that it is in. Raises OSError whose `filename`
    says which step the kernel refused.
    """
    if os.uname().machine not in _DENIED:
        raise OSError(0, f"no system call filter for {os.uname().machine}", "seccomp")
    user, group = os.getuid(), os.getgid()
    spaces = _NEWUSER | _NEWNS | _NEWNET | _NEWIPC | _NEWUTS | _NEWPID
    _check("user, network, mount, PID and IPC namespaces", _libc.unshare(spaces))
    maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    for name, line in maps.items():
        try:
            Path(f"/proc/self/{name}").write_text(line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "user namespaces") from error
    _go_on_as_first_process()
    outer = os.open("/proc/self/ns/pid", os.O_RDONLY)
    _check("mount namespaces", _libc.mount(b"none", b"/", None, 0x44000, None))  # REC | PRIVATE
    read_only = struct.pack("=QQQQ", 1, 0, 0, 0)  # chmod and utime are beyond Landlock
    done = _libc.syscall(_MOUNT_SETATTR, -100, b"/", 0x8000, read_only, len(read_only))
    _check("read-only mounts", done)
    _check("no_new_privs", _libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _allow_only_python()
    return outer


def _go_on_as_first_process() -> None:
    """Forks into the new process-id namespace; the process outside of it stays as its lifeline."""
    if pid := os.fork():
        for file in (0, 1, 2):
            os.close(file)
        os.closerange(3, 100)
        os.waitpid(pid, 0)
        os._exit(0)
    _check("parent", _libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _allow_only_python() -> None:
    """Landlock: reading the standard library is allowed, and nothing else."""
    version = _libc.syscall(_LANDLOCK, None, 0, 1)
    _check("Landlock", version)
    files = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    rules = struct.pack("=QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _libc.syscall(_LANDLOCK, rules, size, 0)
    _check("Landlock", ruleset)
    read_file, read_dir = 4, 8
    for name in ("stdlib", "platstdlib"):
        library = Path(sysconfig.get_path(name))
        _allow(ruleset, library, read_dir)
        for entry in library.iterdir():  # other people's packages may lie among them
            if entry.name not in ("site-packages", "dist-packages"):
                _allow(ruleset, entry, read_file | read_dir if entry.is_dir() else read_file)
    _check("Landlock", _libc.syscall(_LANDLOCK + 2, ruleset, 0))
    os.close(ruleset)


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH)
    except FileNotFoundError:  # a dead link
        return
    rule = struct.pack("=Qi", access, place)
    _check("Landlock", _libc.syscall(_LANDLOCK + 1, ruleset, 1, rule, 0))
    os.close(place)


def give_up_the_rest(time_limit: float, memory_mb: int) -> None:
    """What a session itself can do without: capabilities, resources, system calls."""
    _check("parent", _libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    seconds = int(time_limit) + 2
    for limit, value in (
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NPROC, 64),
        (resource.RLIMIT_FSIZE, LONGEST),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _check("capabilities", _libc.capset(header, none))
    _filter_system_calls()


def _filter_system_calls() -> None:
    arch, denied, clone = _DENIED[os.uname().machine]
    load, equal, at_least, has_bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, unknown, kill = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
    steps = [(load, 0, 0, 4), (equal, 1, 0, arch), (give, 0, 0, kill), (load, 0, 0, 0)]
    steps += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]  # x32
    for number in denied:
        steps += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    steps += [(equal, 0, 1, _CLONE3), (give, 0, 0, unknown)]  # libc then uses clone
    steps += [(equal, 0, 3, clone), (load, 0, 0, 16), (has_bits, 1, 0, 0x10000)]  # CLONE_THREAD
    steps += [(give, 0, 0, refuse), (give, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    _check("seccomp", _libc.prctl(_SET_SECCOMP, 2, program, 0, 0))


def _check(step: str, result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), step)


# --- a session ---


class _Channel:
    """Messages to and from the other side. Its end ends the session."""

    def __init__(self, connection: socket.socket) -> None:
        self.send, self._receive, self._exit = connection.sendall, connection.recv, os._exit
        self._loads = json.loads

    def receive(self) -> Any:
        return self._loads(self._exactly(struct.unpack("!I", self._exactly(4))[0]))

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._receive(count - len(parts))
            if not part:
                self._exit(0)
            parts += part
        return bytes(parts)


def serve(connection: socket.socket, name: str) -> None:
    """Does what it is told, until the other side hangs up."""
    channel = _Channel(connection)
    module = types.ModuleType(name)
    sys.modules[name] = module
    while True:
        what, *details = channel.receive()
        try:
            if what == "run":
                source, functions = details
                for function in functions:
                    setattr(module, function, _forwarding(channel, function))
                _run(source, module)
                answer = packed(["done", None])
            else:
                function, args, kwargs = details
                values = decode(args)
                result = eval(function, module.__dict__)(*values, **decode(kwargs))
                answer = packed(["done", encode([result, list(values)])])
        except NotPlain as error:
            answer = packed(["not plain", str(error)])
        except BaseException as error:
            answer = packed(["raised", *_described(error)])
        channel.send(answer)


def _run(source: str, module: types.ModuleType) -> None:
    try:
        exec(compile(source, f"<{module.__name__}>", "exec"), module.__dict__)
    except SystemExit as error:
        if module.__name__ != "__main__" or error.code not in (None, 0):
            raise
    if module.__name__ == "__main__":
        sys.stdout.flush()


def _described(error: BaseException) -> tuple[str, str]:
    try:
        return type(error).__name__, str(error)[:1000]
    except BaseException:
        return "RuntimeError", "an exception that can't be told"


def _forwarding(channel: _Channel, name: str) -> Any:
    """A function that the other side has."""

    def call(*args: Any, **kwargs: Any) -> Any:
        channel.send(packed(["call", name, encode(args), encode(kwargs)]))
        what, *details = channel.receive()
        if what == "return":
            return decode(details[0])
        kind, message = details
        exception = getattr(__builtins__, kind, RuntimeError)
        raise exception(message)

    return call


# --- starting sessions ---


def main() -> None:
    """Serves requests on file 0: start a session (b"s" with three files) or end one (b"e")."""
    time_limit, memory_mb = float(sys.argv[1]), int(sys.argv[2])
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        _load_extensions()
        outer = lock_in()
    except OSError as error:
        control.sendall(f"{error.filename}: {error.strerror}".encode())
        return
    control.sendall(b"ready")
    room = socket.CMSG_SPACE(3 * 4)
    while True:
        request, ancillary, _, _ = control.recvmsg(5, room)
        if not request:
            return
        kind, pid = struct.unpack("!cI", request)
        if kind == b"e":
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        else:
            files = array.array("i", b"".join(data for _, _, data in ancillary))
            pid = _start_session(control, outer, list(files), (time_limit, memory_mb), pid)
            for file in files:
                os.close(file)
        control.sendall(struct.pack("!I", pid))


def _load_extensions() -> None:
    """The parts of the library that are machine code: they want files from all over the system."""
    folder = sysconfig.get_config_var("DESTSHARED")
    names = {path.name.partition(".")[0] for path in Path(folder).glob("*.so")} if folder else set()
    for name in sorted(names):
        if not name.startswith(("_test", "_xx", "xx", "_tkinter", "_curses", "_ctypes_test")):
            try:
                importlib.import_module(name)
            except ImportError:
                continue
    for name in _WARM:
        importlib.import_module(name)


# Loaded once, here, rather than by each program that wants them.
_WARM = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "hashlib", "heapq", "itertools", "math", "operator", "queue", "random", "re",
    "statistics", "string", "textwrap", "typing",
)  # fmt: skip


def _start_session(
    control: socket.socket, outer: int, files: list[int], limits: tuple[float, int], is_main: int
) -> int:
    """Forks a process that is the first of its own process-id namespace: its end ends all."""
    _check("PID namespaces", _libc.unshare(_NEWPID))
    pid = os.fork()
    if pid:
        _check("PID namespaces", _libc.setns(outer, _NEWPID))
        return pid
    try:
        os.dup2(files[1], 0)
        os.dup2(files[2], 1)
        os.close(outer)
        control.close()
        for file in files[1:]:
            os.close(file)
        sys.stdin = os.fdopen(0, encoding="utf-8", errors="replace")
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace")
        connection = socket.socket(fileno=files[0])
        try:
            give_up_the_rest(*limits)
        except OSError as error:
            connection.sendall(packed(["refused", f"{error.filename}: {error.strerror}"]))
        else:
            connection.sendall(packed(["ready"]))
            serve(connection, "__main__" if is_main else "solution")
    finally:
        os._exit(1)
    raise AssertionError("not reached")


if __name__ == "__main__":
    main()
