"""Asks an oracle, which may be anybody's code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from pts_core.errors import ProblemError, in_one_line
from pts_core.interfaces import Oracle
from pts_core.timeouts import TimeLimit, time_limit
from pts_core.types import Completion, Problem

# The longest that an oracle may take over one question.
ORACLE_SECONDS = 60


@contextmanager
def asking() -> Iterator[None]:
    """Whatever an oracle raises inside, and taking too long, is a ProblemError."""
    try:
        with time_limit(ORACLE_SECONDS):
            yield
    except TimeLimit as error:
        raise ProblemError(f"the oracle took more than {ORACLE_SECONDS} s") from error
    except ProblemError:
        raise
    except Exception as error:
        raise ProblemError(f"the oracle raised {in_one_line(error)}") from error


def judge(oracle: Oracle, problem: Problem, completion: Completion) -> bool | None:
    """The oracle's verdict. Raises ProblemError where it gives none, or something else."""
    with asking():
        verdict: object = oracle(problem, completion)
    if verdict is None:
        return None
    if not isinstance(verdict, bool | np.bool_):
        raise ProblemError(
            f"the oracle must return True, False or None, not {type(verdict).__name__}"
        )
    return bool(verdict)
