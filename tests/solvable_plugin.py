"""A plugin with a backend, a dataset and an oracle that need no torch: for tests of the command.

Its model answers in two tokens: the first, 1 or 2, decides whether 4 (right) follows nearly
always or nearly never.
"""

import time

from pts_core import ProblemError, hookimpl
from pts_core.testing import END, FiniteStateModel

START, GOOD, BAD, RIGHT, WRONG = range(5)


class Crossroads(FiniteStateModel):
    def encode_prompt(self, query, *, system_prompt=None, chat=None):
        if query == "unreadable":
            raise ProblemError("its query cannot be encoded")
        return (START,)


def backend(model: str, *, delay: float = 0.0, dies_after: int = 0):
    transitions = [
        {1: (0.5, GOOD), 2: (0.5, BAD)},
        {4: (0.9, RIGHT), 5: (0.1, WRONG)},
        {4: (0.1, RIGHT), 5: (0.9, WRONG)},
        {END: (1.0, 0)},
        {END: (1.0, 0)},
    ]
    solvable = Crossroads(transitions, right={RIGHT}, batch=4)
    generate = solvable.generate

    def slowly(pull, sampling):
        for n, finished in enumerate(generate(pull, sampling), 1):
            time.sleep(delay)
            if n == dies_after:
                raise RuntimeError("the server went away")
            yield finished

    solvable.generate = slowly
    return solvable


def oracle(*, word: str = "4"):
    """Right if the answer has a word."""
    return lambda problem, completion: word in completion.text.split()


@hookimpl
def pts_backends():
    return {"solvable": backend}


@hookimpl
def pts_oracles():
    return {"has": oracle}
