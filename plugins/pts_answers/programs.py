"""Is a program right? Which program a completion gives, which tests a problem has, the verdict.

The program and its tests never share an interpreter. The program runs in one sandbox session, the
tests in another, and each call that a test makes to the program is carried across as plain data
and so is its result. So a program can neither see its tests nor reach what judges it: whatever it
patches, prints, compares or exits with, only the values that it returns count.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from pts_answers.reading import without_thinking
from pts_core.errors import ProblemError
from pts_core.types import Completion, Problem

LONGEST = 100_000  # characters of a program
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.M)
_PYTHON = {"", "python", "python3", "py"}
# These would end a loop or a whole process where they come out, instead of failing a test.
_CONTROL = {"StopIteration", "StopAsyncIteration"}

Function = Callable[..., object]


class Failed(Exception):
    """The code raised, crashed or went beyond a limit. `kind` is the name of the exception."""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message

    def as_exception(self) -> Exception:
        """The exception for the test that made the call; RuntimeError for what is no built-in."""
        kind = getattr(builtins, self.kind, None)
        if isinstance(kind, type) and issubclass(kind, Exception) and self.kind not in _CONTROL:
            try:
                return kind(self.message)
            except TypeError:  # UnicodeDecodeError and the like want more
                pass
        return RuntimeError(str(self))


class Abstained(Exception):
    """This sandbox can't run the code, or can't carry a value: that says nothing about the code."""


class Session(Protocol):
    """A fresh interpreter in a sandbox. Its time limit counts what runs inside of it.

    Every method raises Failed or Abstained, and nothing else that the code could cause.
    """

    def run(self, source: str, functions: Mapping[str, Function]) -> str:
        """Runs a module, for which `functions` of ours are global names; gives what it printed."""
        ...

    def call(
        self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Sequence[Any]]:
        """Calls a function of what was run: its result, and what has become of its positional
        arguments. All of these are plain data."""
        ...


class Sandbox(Protocol):
    def session(self, stdin: str | None = None) -> AbstractContextManager[Session]:
        """With `stdin` what is run is the main program, and reads this; else it is a module."""
        ...


@dataclass(frozen=True)
class Asserts:
    """Tests in Python, which call `functions` of the program; the first is what was asked for.

    `prompt` is the code that a completion goes on from, or "".
    """

    source: str
    functions: tuple[str, ...]
    prompt: str = ""


@dataclass(frozen=True)
class Pairs:
    """Inputs with their outputs: of a function, as JSON; of the whole program, as text."""

    pairs: tuple[tuple[str, str], ...]
    function: str | None = None
    prompt: str = ""


Tests = Asserts | Pairs


class CodeOracle:
    """The oracle "code". Verdicts are kept: the same program is not run twice."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._verdict = lru_cache(maxsize=1 << 14)(self._run)

    def __call__(self, problem: Problem, completion: Completion) -> bool | None:
        """Raises ProblemError where the problem has no tests that can be read."""
        tests = tests_of(problem)
        text = without_thinking(completion.text)
        program = program_in(text, tests) if text is not None else None
        if program is None or len(program) > LONGEST or parsed(program) is None:
            return False
        return self._verdict(tests, program)

    def reference_completion(self, problem: Problem) -> str | None:
        tests_of(problem)
        known = (problem.metadata.get(name) for name in ("canonical_solution", "code"))
        solution = next((text for text in known if isinstance(text, str) and text.strip()), None)
        if solution is None and problem.answer not in (problem.metadata.get("test"), ""):
            solution = problem.answer
        return solution

    def _run(self, tests: Tests, program: str) -> bool | None:
        try:
            if isinstance(tests, Asserts):
                return _passes_asserts(self._sandbox, tests, program)
            return _passes_pairs(self._sandbox, tests, program)
        except Abstained:
            return None
        except Failed:
            return False


# A test may pass a list and look at what the program has done to it.
_SHIM = """
def {name}(*args, **kwargs):
    result, after = _pts_call_{name}(*args, **kwargs)
    for before, now in zip(args, after):
        if type(before) is list:
            before[:] = now
        elif type(before) is dict or type(before) is set:
            before.clear()
            before.update(now)
    return result
"""


def _passes_asserts(sandbox: Sandbox, tests: Asserts, program: str) -> bool:
    with sandbox.session() as candidate, sandbox.session() as tester:
        faults: list[Abstained | Failed] = []

        def forwarding(name: str) -> Function:
            def call(*args: Any, **kwargs: Any) -> Any:
                try:
                    return candidate.call(name, args, kwargs)
                except Abstained as error:
                    faults.insert(0, error)
                    raise RuntimeError(str(error)) from error
                except Failed as error:
                    faults.append(error)
                    raise error.as_exception() from error

            return call

        candidate.run(program, {})
        try:
            shims = "".join(_SHIM.format(name=name) for name in tests.functions)
            calls = {f"_pts_call_{name}": forwarding(name) for name in tests.functions}
            tester.run(shims + tests.source, calls)
        except (Abstained, Failed) as error:
            # What came out of the tests may be what went wrong in the program.
            raise faults[0] if faults else error from None
        if faults and isinstance(faults[0], Abstained):  # whatever the tests made of it
            raise faults[0]
        return True


def _passes_pairs(sandbox: Sandbox, tests: Pairs, program: str) -> bool:
    if tests.function is None:
        for stdin, expected in tests.pairs:
            with sandbox.session(stdin) as session:
                if _lines(session.run(program, {})) != _lines(expected):
                    return False
        return True
    function = tests.function
    if (
        (tree := parsed(program))
        and function not in _defined(tree)
        and "Solution" in _defined(tree)
    ):
        function = f"Solution().{function}"
    for given, expected in tests.pairs:
        with sandbox.session() as session:
            session.run(program, {})
            result, _ = session.call(function, json.loads(given), {})
        if not _same(result, json.loads(expected)):
            return False
    return True


def _lines(text: str) -> list[str]:
    """What was printed, blanks and empty lines at the end aside."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _same(result: Any, expected: Any) -> bool:
    """JSON has no tuples, and its keys are texts."""
    if isinstance(result, list | tuple) and isinstance(expected, list):
        return len(result) == len(expected) and all(map(_same, result, expected))
    if isinstance(result, dict) and isinstance(expected, dict):
        named = {str(key): value for key, value in result.items()}
        return named.keys() == expected.keys() and all(
            _same(value, expected[key]) for key, value in named.items()
        )
    return bool(type(result) is type(expected) or _are_numbers(result, expected)) and bool(
        result == expected
    )


def _are_numbers(*values: Any) -> bool:
    return all(type(value) in (int, float) for value in values)


# --- the tests of a problem ---


def tests_of(problem: Problem) -> Tests:
    """Raises ProblemError where there are none, or they are no Python."""
    data = problem.metadata
    entry, test = data.get("entry_point"), data.get("test")
    if entry and not test and "def check" in problem.answer:
        test = problem.answer
    try:
        if entry and isinstance(test, str):
            return _human_eval(problem.query, test, str(entry))
        if tests := _texts(data.get("test_list")):
            before = [*_texts(data.get("test_imports")), *_texts(data.get("test_setup_code"))]
            return _asserts("\n".join(before), "\n".join(tests))
        if pairs := _pairs(data):
            return pairs
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ProblemError(
            f"problem {problem.id}: its tests can't be read ({error}); leave the problem out"
        ) from error
    raise ProblemError(
        f"problem {problem.id} has no tests to run: the code oracle needs the columns test and "
        "entry_point, or test_list, or inputs and outputs, or input_output"
    )


@lru_cache(maxsize=4096)
def _human_eval(prompt: str, test: str, entry: str) -> Asserts:
    ast.parse(test)
    if not entry.isidentifier():
        raise ValueError(f"entry_point {entry!r} is no name")
    whole = _with_a_body(prompt)
    is_code = (tree := parsed(whole)) is not None and entry in _defined(tree)
    helpers = _without(whole, entry) if is_code else ""
    return Asserts(f"{helpers}\n{test}\n\ncheck({entry})\n", (entry,), prompt if is_code else "")


@lru_cache(maxsize=4096)
def _asserts(before: str, tests: str) -> Asserts:
    """What the tests call and nobody else defines is the program's."""
    source = f"{before}\n{tests}\n"
    tree = ast.parse(source)
    bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and type(n.ctx) is ast.Store}
    known = _defined(tree) | bound | set(dir(builtins))
    functions = tuple(name for name in dict.fromkeys(_called(tree)) if name not in known)
    if not functions:
        raise ValueError("they call no function of the program")
    return Asserts(source, functions)


def _called(node: ast.AST) -> Iterator[str]:
    """The functions that are called by name, in the order of the text."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        yield node.func.id
    for child in ast.iter_child_nodes(node):
        yield from _called(child)


def _pairs(data: Mapping[str, Any]) -> Pairs | None:
    both = data.get("input_output") or data
    if isinstance(both, str):
        both = json.loads(both)
    inputs, outputs = both.get("inputs"), both.get("outputs")
    if not inputs or not outputs:
        return None
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs but {len(outputs)} outputs")
    prompt = str(data.get("starter_code") or "")
    if function := both.get("fn_name"):
        if not str(function).isidentifier():
            raise ValueError(f"fn_name {function!r} is no name")
        if all(isinstance(output, list) and len(output) == 1 for output in outputs):
            outputs = [output[0] for output in outputs]  # so it is in APPS and TACO
        texts = tuple((json.dumps(i), json.dumps(o)) for i, o in zip(inputs, outputs, strict=True))
        return Pairs(texts, str(function), prompt)
    return Pairs(tuple((_joined(i), _joined(o)) for i, o in zip(inputs, outputs, strict=True)))


def _joined(text: Any) -> str:
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _texts(value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else (value or [])
    return [text for text in found if text.strip()]


# --- the program of a completion ---


def program_in(text: str, tests: Tests) -> str:
    """The last fenced block of Python that defines what is tested, else the last one there is.

    A text with no such block is the program, or what follows the prompt.
    """
    wanted = tests.functions[0] if isinstance(tests, Asserts) else tests.function
    names = {wanted} if isinstance(tests, Asserts) else {wanted, "Solution"}
    blocks = [code for language, code in _FENCE.findall(text) if language.lower() in _PYTHON]
    for code in reversed(blocks):
        if _defines(code, names):
            return _with_prompt(code, tests.prompt, wanted)
    if not blocks and _defines(text, names):
        return _with_prompt(text, tests.prompt, wanted)
    if tests.prompt and wanted:
        # What was completed ends at the latest where a fence closes that the prompt opened.
        for body in (text, text.partition("\n```")[0], *blocks[-1:]):
            program = _longest_continuation(tests.prompt, body)
            if program is not None:
                return program
    return blocks[-1] if blocks else text


def _defines(code: str, names: set[str | None]) -> bool:
    """Does it define one of these? None is anything."""
    tree = parsed(code)
    return tree is not None and (None in names or bool(names & _defined(tree)))


def _with_prompt(code: str, prompt: str, wanted: str | None) -> str:
    """The program, with what the prompt has before it: imports and other functions."""
    whole = _with_a_body(prompt)
    if not prompt or not wanted or parsed(whole) is None or "from __future__" in code:
        return code
    return f"{_without(whole, wanted)}\n{code}"


def _with_a_body(prompt: str) -> str:
    """A prompt that ends with a function's first line is Python once something follows it."""
    return prompt if parsed(prompt) is not None else f"{prompt.rstrip()}\n    pass\n"


def _longest_continuation(prompt: str, body: str) -> str | None:
    """The prompt with the body; less what comes after the function where that is no Python.

    None where the body adds nothing to the function.
    """
    lines = body.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None or not lines[first][0].isspace():
        return None
    ends = (i for i in range(first, len(lines)) if lines[i].strip() and not lines[i][0].isspace())
    for end in (len(lines), next(ends, len(lines))):
        program = prompt + "".join(lines[:end])
        if parsed(program) is not None:
            return program
    return None


@lru_cache(maxsize=64)  # a tree takes a hundred times the memory of its text
def parsed(code: str) -> ast.Module | None:
    """None for what is no Python, or is nested so deeply that no interpreter takes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _defined(tree: ast.Module) -> set[str]:
    """The names that the statements of a module bind."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(a.asname or a.name).partition(".")[0] for a in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _without(code: str, name: str) -> str:
    """The statements of a module less the function of this name."""
    tree = parsed(code)
    assert tree is not None
    kept = [node for node in tree.body if getattr(node, "name", None) != name]
    return "\n".join(ast.get_source_segment(code, node) or "" for node in kept)
