"""The oracle "code" in figures: verdicts a second, HumanEval, and every hostile program.

python tests/benchmarks/code_oracle.py [monty|process ...]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from pts_answers import code
from test_code import ADD, ATTACKS, BOMBS, FORGERIES, TRICKS, hostile, human_eval, mutated

from pts_core.errors import UsageError
from pts_core.interfaces import Oracle
from pts_core.types import Completion, Problem

NAMES = {True: "right", False: "wrong", None: "abstained"}
Row = tuple[Problem, str]


def counted(oracle: Oracle, rows: Sequence[Row]) -> str:
    started = time.perf_counter()
    verdicts = Counter(NAMES[oracle(row, Completion(text, ()))] for row, text in rows)
    rate = len(rows) / (time.perf_counter() - started)
    counts = ", ".join(f"{verdicts[name]} {name}" for name in NAMES.values())
    return f"{len(rows)} cases: {counts}; {rate:,.0f} verdicts/s"


def hostile_programs(folder: str) -> dict[str, str]:
    values = {"HERE": folder, "PORT": 9, "JUDGE": os.getpid()}
    attacks = {name: hostile(attack, values) for name, attack in ATTACKS.items()}
    return attacks | FORGERIES | BOMBS | TRICKS


def main() -> None:
    rows = human_eval()
    references = [(row, row.answer) for row in rows]
    mutants = [(row, mutated(row)) for row in rows]
    additions = [(ADD, f"    return a + b + {i} - {i}\n") for i in range(200)]
    oracles: dict[str, Oracle] = {}
    for sandbox in sys.argv[1:] or ["monty", "process"]:
        try:
            oracle = code(sandbox=sandbox)  # type: ignore[arg-type]
        except UsageError as error:
            print(f"{sandbox}: {error}")
            continue
        print(f"{sandbox}, HumanEval, reference solutions: {counted(oracle, references)}")
        print(f"{sandbox}, HumanEval, mutated solutions: {counted(oracle, mutants)}")
        print(f"{sandbox}, 200 programs, 22 calls each: {counted(oracle, additions)}")
        print(f"{sandbox}, the same again, remembered: {counted(oracle, additions)}")
        oracles[sandbox] = code(sandbox=sandbox, time_limit=1.0, memory_mb=256)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        programs = hostile_programs(folder)
        print(f"\n{'hostile program (time limit 1 s)':40}", *(f"{name:20}" for name in oracles))
        for name, program in programs.items():
            cells = []
            for oracle in oracles.values():
                started = time.perf_counter()
                verdict = NAMES[oracle(ADD, Completion(program, ()))]
                cells.append(f"{verdict:10}{time.perf_counter() - started:5.2f} s   ")
            print(f"{name:40}", *cells)
        print(f"{len(programs)} programs; files left behind: {len(list(Path(folder).iterdir()))}")


if __name__ == "__main__":
    main()
