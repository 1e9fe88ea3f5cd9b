"""The command line: one file a command. Errors end here, as one line and an exit code."""

from __future__ import annotations

import sys
import traceback

from cyclopts import App, CycloptsError

import pts_core
from pts_core.errors import PtsError

INTERRUPTED = 130

app = App(
    name="pts",
    help="Find the single tokens that decide whether a language model's answer is right.",
    help_epilogue="Any command takes --debug, which shows where an error came from.",
    version=pts_core.__version__,
    result_action="return_value",
)
# Named by text, so that `pts --help` imports neither them nor what they need.
app.command(
    "pts_core.cli.run:run", name="run", help="Search problems for pivotal tokens of a model."
)
app.command(
    "pts_core.cli.plugins:app",
    name="plugins",
    help="List the installed plugins; show their options.",
)


def main() -> None:
    """The `pts` command."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    sys.exit(_run(arguments, debug="--debug" in sys.argv[1:]))


def _run(arguments: list[str], debug: bool) -> int:
    try:
        return int(app(arguments, exit_on_error=False, print_error=False) or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = _explain(error)
        print(f"pts: {' '.join(message.split())}", file=sys.stderr)
        return code


def _explain(error: Exception) -> tuple[str, int]:
    if isinstance(error, PtsError):
        return str(error), error.exit_code
    if isinstance(error, CycloptsError):
        return f"{error} (see --help)", 2
    return f"{type(error).__name__}: {error} (this is unexpected; --debug shows where)", 1
