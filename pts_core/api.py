"""The method from Python, without the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pts_core.types import Problem, Sampling

if TYPE_CHECKING:  # imported when they are used: the package itself stays light
    from pts_core.interfaces import Backend, Oracle
    from pts_core.scheduler import Found
    from pts_core.search import Strategy


def load(kind: str, name: str, /, *arguments: Any, **options: Any) -> Any:
    """What a plugin's factory makes: load("oracle", "math", tolerance=1e-3).

    `kind` is dataset, oracle, backend, search, exporter, publisher or model. Raises UsageError for
    an unknown name, PluginError where two plugins offer it, and what the factory raises.
    """
    from pts_core.plugins import discover

    return discover().find(kind, name).factory(*arguments, **options)


def find_pivotal_tokens(
    problems: Iterable[Problem],
    backend: Backend,
    oracle: Oracle,
    *,
    strategy: Strategy | None = None,
    sampling: Sampling | None = None,
    fdr: float = 0.1,
) -> Iterator[Found]:
    """Searches problems and yields each pivotal token as soon as the order of problems allows.

    `strategy` is `branching()` of pts_core.search if not given. A Found has the `problem`, the
    `prompt` as token ids and the `token`. Raises what the backend raises, and the ProblemError of
    a problem that can't be searched.
    """
    from pts_core.errors import ProblemError
    from pts_core.scheduler import Found, Scheduler
    from pts_core.search import branching

    scheduler = Scheduler(backend, oracle, strategy or branching(), sampling or Sampling(), fdr=fdr)
    for event in scheduler.run(problems):
        if isinstance(event, Found):
            yield event
        elif isinstance(event.outcome, ProblemError):
            raise event.outcome
