"""Pivotal token search: the method, and the doors that plugins come through."""

from importlib.metadata import PackageNotFoundError, version

from pts_core.api import find_pivotal_tokens, load
from pts_core.errors import PluginError, ProblemError, PtsError, UsageError
from pts_core.hookspecs import hookimpl
from pts_core.types import (
    Alternative,
    Completion,
    Continuation,
    ExportReport,
    PivotalToken,
    Problem,
    Request,
    Rollout,
    Sampling,
    TokenScores,
    Trace,
)

try:
    __version__ = version("pivotal-token-search")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = [
    "Alternative",
    "Completion",
    "Continuation",
    "ExportReport",
    "PivotalToken",
    "PluginError",
    "Problem",
    "ProblemError",
    "PtsError",
    "Request",
    "Rollout",
    "Sampling",
    "TokenScores",
    "Trace",
    "UsageError",
    "__version__",
    "find_pivotal_tokens",
    "hookimpl",
    "load",
]
