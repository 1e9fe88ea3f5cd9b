"""Sessions in pydantic-monty: a Python interpreter that has no files, network or processes at all.

It knows a part of Python and of its library. What it can't run is told apart from what is wrong
by the error; where that could be either, it counts as what can't be run.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from pts_answers.programs import Abstained, Failed, Function, parsed

OUTPUT = 1 << 20  # characters that a program may print
_GRACE = 0.5  # seconds that a worker has to end by itself

# Monty hands out a lambda as its text, a range too: what is not plain has to be told inside.
_PLAIN = """
def _pts_is_plain(
    value, scalars=(type(None), bool, int, float, str, bytes, complex),
    lists=(list, tuple, set, frozenset), type=type, dict=dict, isinstance=isinstance,
):
    kind = type(value)
    if kind in scalars:
        return True
    if kind in lists:
        for item in value:
            if not _pts_is_plain(item):
                return False
        return True
    if isinstance(value, dict):
        for key, item in value.items():
            if not _pts_is_plain(key) or not _pts_is_plain(item):
                return False
        return True
    return False

def _pts_result(value):
    return (True, value) if _pts_is_plain(value) else (False, str(type(value)))
"""
_FORWARD = """
def {name}(*args, **kwargs):
    if not _pts_is_plain((args, kwargs)):
        raise NotImplementedError("monty: only plain data can be carried to the program")
    return _pts_host_{name}(*args, **kwargs)
"""
_MODULE_NAME = re.compile(r"(?<![.\w])__name__\b")  # monty has "__main__", for good
_LAZY = {"map", "filter", "zip", "enumerate", "reversed"}
_UNKNOWN = re.compile(r"(?i)\bmonty\b|not yet supported|not (yet )?implemented|in this environment")
_ATTRIBUTE = re.compile(r"(?:type object )?'([\w.]+)' (?:object )?has no attribute '(\w+)'")
_NAME = re.compile(r"name '(\w+)' is not defined")
_ARGUMENTS = re.compile(
    r"(\w+)\(\) (?:got an unexpected|takes|expected|missing|does not|argument)|(\w+) expected "
)


class MontySandbox:
    def __init__(self, time_limit: float, memory_mb: int) -> None:
        self._time_limit, self._memory = time_limit, memory_mb << 20

    @contextmanager
    def session(self, stdin: str | None = None) -> Iterator[MontySession]:
        checkout = _pool(os.getpid()).checkout(
            limits={
                "max_feed_duration_secs": self._time_limit,
                "max_memory": self._memory,
                "max_suspensions": 1 << 20,
            },
            os_policy={"sleep": "zero", "random_start": {"seed": 0}},
            assert_message_annotations=False,
        )
        with checkout as monty:
            yield MontySession(monty, self._time_limit, stdin)


@lru_cache(maxsize=1)
def _pool(_process_id: int) -> Any:
    """The workers, which all sessions share; one pool a process, as it doesn't outlive a fork."""
    import pydantic_monty

    pool = pydantic_monty.Monty(
        min_processes=2, max_processes=2, feed_duration_limit_grace=_GRACE
    ).__enter__()
    atexit.register(pool.__exit__, None, None, None)
    return pool


class MontySession:
    def __init__(self, monty: Any, time_limit: float, stdin: str | None) -> None:
        self._monty, self._time_left, self._ended = monty, time_limit, False
        self._stdin = iter((stdin or "").splitlines())
        self._is_main = stdin is not None
        self._source = ""

    def run(self, source: str, functions: Mapping[str, Function]) -> str:
        from pydantic_monty import CollectString

        if (tree := parsed(source)) is not None and _keeps_an_iterator(tree):
            raise Abstained("monty has lists in place of iterators")
        self._source = source
        host = {f"_pts_host_{name}": function for name, function in functions.items()}
        forwards = "".join(_FORWARD.format(name=name) for name in functions)
        printed = CollectString(OUTPUT)
        self._feed(_PLAIN + forwards, printed)
        if not self._is_main:
            source = _MODULE_NAME.sub("'solution'", source)
        self._feed(f"{source}\nNone", printed, external_lookup={**host, "input": self._input})
        return printed.output

    def call(
        self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Sequence[Any]]:
        from pydantic_monty import CollectString

        answer = self._feed(
            f"_pts_result(({function}(*_pts_args, **_pts_kwargs), _pts_args))",
            CollectString(OUTPUT),
            inputs={"_pts_args": tuple(args), "_pts_kwargs": dict(kwargs)},
            external_lookup={"input": self._input},
        )
        # The program may have put its own function in place of ours.
        if not _is_plain(answer) or type(answer) is not tuple or len(answer) != 2:
            raise Abstained("a value that is no plain data")
        if not answer[0]:
            raise Abstained("a value that is no plain data, returned or put into an argument")
        if type(answer[1]) is not tuple or len(answer[1]) != 2 or type(answer[1][1]) is not tuple:
            raise Abstained("a value that is no plain data")
        result, after = answer[1]
        return result, after

    def _input(self, _prompt: object = "") -> str:
        line = next(self._stdin, None)
        if line is None:
            raise EOFError("EOF when reading a line")
        return line

    def _feed(self, code: str, printed: Any, **options: Any) -> Any:
        from pydantic_monty import MontyError, MontyRuntimeError, MontySyntaxError

        if self._ended or self._time_left <= 0:
            raise Failed("TimeoutError", "the time of the program is up")
        started = time.monotonic()
        try:
            return self._monty.feed_run(code, print_callback=printed, **options)
        except (MontyRuntimeError, MontySyntaxError) as error:
            raised = error.exception()
            kind, message = type(raised).__name__, str(raised)
            self._ended = kind in ("TimeoutError", "MemoryError")
            if cannot_run(kind, message, self._source):
                raise Abstained(f"{kind}: {message}") from error
            raise Failed(kind, message) from error
        except MontyError as error:  # the worker is gone
            self._ended = True
            raise Failed("MemoryError", str(error)) from error
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise Abstained(f"a value that can't be carried: {error}") from error
        finally:
            self._time_left -= time.monotonic() - started


def cannot_run(kind: str, message: str, source: str) -> bool:
    """Does an error come of what monty lacks, rather than of the program?"""
    if kind in ("ImportError", "ModuleNotFoundError", "SyntaxError", "PermissionError"):
        return True  # CPython has parsed it
    if kind in ("NotImplementedError", "RuntimeError", "TypeError", "ValueError"):
        if _UNKNOWN.search(message):
            return True
        if kind == "TypeError" and (called := _ARGUMENTS.search(message)):
            return f"def {called[1] or called[2]}(" not in source
    if kind == "NameError" and (name := _NAME.search(message)):
        return hasattr(builtins, name[1])
    if kind == "AttributeError":
        if message.startswith("module "):
            return True
        if missing := _ATTRIBUTE.search(message):
            owner = getattr(builtins, missing[1], None)
            if isinstance(owner, type):
                return hasattr(owner, missing[2])
            return f"class {missing[1]}" not in source
    return False


def _keeps_an_iterator(tree: ast.Module) -> bool:
    """Is there an iterator that is not used up where it is made? In monty it would be a list."""
    for parent in ast.walk(tree):
        match parent:
            case ast.Call() | ast.For() | ast.comprehension() | ast.Starred() | ast.Compare():
                continue
            case ast.Assign(targets=[ast.Tuple() | ast.List()]) | ast.YieldFrom() | ast.keyword():
                continue
        for child in ast.iter_child_nodes(parent):
            match child:
                case ast.GeneratorExp():
                    return True
                case ast.Call(func=ast.Name(id=name)) if name in _LAZY:
                    return True
    return False


def _is_plain(value: Any, depth: int = 200) -> bool:
    kind = type(value)
    if kind in (type(None), bool, int, float, str, bytes, complex):
        return True
    if depth == 0:
        return False
    if kind is dict:
        value = [*value, *value.values()]
    elif kind not in (list, tuple, set, frozenset):
        return False
    return all(_is_plain(item, depth - 1) for item in value)
