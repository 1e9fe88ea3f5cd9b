"""Search strategies, and the plugin that offers the built-in ones."""

from pts_core.hookspecs import Factories, hookimpl
from pts_core.search.bisection import bisection
from pts_core.search.branching import branching
from pts_core.search.conversation import Draw, Outcome, Score, Search, Strategy, Task, draw, score

__all__ = [
    "Draw",
    "Outcome",
    "Score",
    "Search",
    "Strategy",
    "Task",
    "bisection",
    "branching",
    "draw",
    "score",
]


@hookimpl
def pts_searches() -> Factories:
    return {"bisection": bisection, "branching": branching}
