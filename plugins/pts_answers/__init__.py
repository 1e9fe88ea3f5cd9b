"""The built-in oracles. Is the answer that a completion gives the reference answer?"""

from __future__ import annotations

import sys
from fractions import Fraction
from typing import Literal

from pts_core.errors import UsageError
from pts_core.hookspecs import Factories, hookimpl
from pts_core.interfaces import Oracle


@hookimpl
def pts_oracles() -> Factories:
    return {
        "auto": auto,
        "math": math,
        "choice": choice,
        "yes-no": yes_no,
        "code": code,
        "reasoning-gym": reasoning_gym,
        "exact": exact,
        "contains": contains,
    }


def auto(*, tolerance: float = 1e-6) -> Oracle:
    """Judges each problem with the oracle that fits it, and says which and why.

    By the problem's task type if it is the name of an oracle; else "code" for one with tests,
    "choice" for one with options, and otherwise by its answer: "yes-no" for yes, no, true and
    false, "choice" for the letter of an option listed in the query, "math" for a number or a
    formula. Never "contains". A problem that none fits is skipped with a message.

    Parameters
    ----------
    tolerance
        That of the oracle "math".
    """
    from pts_answers.picking import Auto

    exactly = math(tolerance=tolerance)
    return Auto(
        {
            "math": lambda: exactly,
            "choice": choice,
            "yes-no": yes_no,
            "code": code,
            "reasoning-gym": reasoning_gym,
            "exact": exact,
        }
    )


def math(*, tolerance: float = 1e-6) -> Oracle:
    r"""Judges numbers and formulas: exactly where it can, with math-verify where it must.

    The answer is the last \boxed{…}, the line after the last ####, what follows the last
    "answer is" or "answer:", or the last number: the first of these that there is. Units and
    currency signs don't count, and 50% is both 50 and 0.5.

    Parameters
    ----------
    tolerance
        Relative difference that is let pass where a number is written as a decimal.

    Raises UsageError for a tolerance outside 0 to 1.
    """
    from pts_answers.judging import Mathematics

    if not 0 <= tolerance < 1:
        raise UsageError(f"the oracle's tolerance must be at least 0 and below 1, not {tolerance}")
    return Mathematics(Fraction(tolerance))


def code(
    *,
    sandbox: Literal["monty", "process"] = "monty",
    time_limit: float = 5.0,
    memory_mb: int = 512,
) -> Oracle:
    """Judges Python programs by the problem's tests, run in a sandbox.

    The program is the last fenced block that defines what is tested, or the whole completion: a
    program, or what follows the prompt. Tests are those of HumanEval (columns test, entry_point),
    of MBPP (test_list), or inputs and outputs. Abstains where the sandbox can't run the program.

    Parameters
    ----------
    sandbox
        "monty" is an interpreter of its own, for a part of Python. "process" is all of Python and
        its standard library, locked in by the kernel; for Linux.
    time_limit
        Seconds that a program may take for its tests, or for each input.
    memory_mb
        Megabytes that a program may use.

    Raises UsageError for a limit that is none, and where the kernel can't lock a process in.
    """
    from pts_answers.programs import CodeOracle, Sandbox

    if not 0 < time_limit < float("inf"):
        raise UsageError(f"the oracle's time_limit must be seconds above 0, not {time_limit}")
    if not 64 <= memory_mb <= 1 << 20:
        raise UsageError(f"the oracle's memory_mb must be from 64 to 1048576, not {memory_mb}")
    chosen: Sandbox
    if sandbox == "process":
        if sys.platform != "linux":
            raise UsageError(
                f"--oracle.sandbox process needs Linux, and this is {sys.platform}; "
                "use --oracle.sandbox monty"
            )
        from pts_answers.sandbox_process import ProcessSandbox

        chosen = ProcessSandbox(time_limit, memory_mb)
    else:
        from pts_answers.sandbox_monty import MontySandbox

        chosen = MontySandbox(time_limit, memory_mb)
    return CodeOracle(chosen)


def choice() -> Oracle:
    r"""Judges which option is chosen, of up to ten: A to J.

    Reads the letter in \boxed{C}, "the answer is C", "option C is correct", "(C)" or "C) a dog",
    and the text of an option where the dataset lists the options.
    """
    from pts_answers.choices import Choice

    return Choice()


def yes_no() -> Oracle:
    """Judges a yes or no (true, false): the one marked as the answer, or the last one stated.

    A sentence states one if it is "Yes.", "No, it …" or "So it is not true.", not by having a
    "no" in it.
    """
    from pts_answers.choices import YesNo

    return YesNo()


def reasoning_gym() -> Oracle:
    """Judges problems of the dataset reasoning-gym by their verifier: a score of at least 0.99.

    Reads the answer between <answer> and </answer> if they are there.
    """
    from pts_answers.reasoning import ReasoningGym

    return ReasoningGym()


def exact(*, ignore_case: bool = False) -> Oracle:
    """Compares the whole completion with the whole reference answer, whitespace aside.

    Parameters
    ----------
    ignore_case
        Let upper and lower case count as the same.
    """
    from pts_answers.texts import Exact

    return Exact(ignore_case)


def contains(*, ignore_case: bool = False) -> Oracle:
    """Looks for the reference answer anywhere in the completion, as whole words.

    Parameters
    ----------
    ignore_case
        Let upper and lower case count as the same.
    """
    from pts_answers.texts import Contains

    return Contains(ignore_case)
