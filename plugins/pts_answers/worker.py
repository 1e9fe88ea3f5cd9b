"""A program that compares LaTeX formulas: a JSON line [gold] or [gold, answer] in, a verdict out.

It says "ready" once math-verify is loaded. [gold] asks whether the formula can be read. A question
that takes more processor time than LIMIT ends the program, by a signal that stops C code too.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

LIMIT = 2.0  # seconds of processor time, so that verdicts don't depend on how busy the machine is
MEMORY = 2 << 30  # bytes of address space


@lru_cache(maxsize=256)
def parsed(formula: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    found: list[Any] = parse(
        rf"\boxed{{{formula}}}",
        # LaTeX alone: the reader of plain expressions would end in Python's eval.
        extraction_config=[LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return found


def verdict(gold: str, answer: str | None = None) -> bool:
    from math_verify import verify

    if answer is None:
        return bool(parsed(gold)) and not has_no_value(parsed(gold)[0])
    return bool(verify(parsed(gold), parsed(answer), timeout_seconds=None))


def has_no_value(expression: Any) -> bool:
    """Is something divided by zero in it? Nothing would be equal to it."""
    from sympy import nan, zoo  # type: ignore[import-untyped]

    return bool(expression.has(nan, zoo))


def main() -> None:
    # The libraries print, too; what they print must not be taken for a verdict.
    verdicts, sys.stdout = sys.stdout, sys.stderr
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        print(error, file=verdicts, flush=True)
        return
    with contextlib.suppress(ValueError, OSError):  # not every system lets it be set
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print("ready", file=verdicts, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            result = verdict(*json.loads(line))
        except Exception:  # whatever it was, the formula could not be handled
            result = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(result), file=verdicts, flush=True)


if __name__ == "__main__":
    main()
