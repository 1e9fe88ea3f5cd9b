"""The command line: one file a command. Errors end here, as one line and an exit code."""

from __future__ import annotations

import os
import sys
import tomllib
import traceback
from pathlib import Path

from cyclopts import App, CycloptsError
from cyclopts.config import Dict

import pts_core
from pts_core.errors import PtsError, UsageError

INTERRUPTED = 130

app = App(
    name="pts",
    help="Find the single tokens that decide whether a language model's answer is right.",
    help_epilogue="Any command takes --config-file FILE.toml, whose table of the command's name "
    "holds values for its options (flags win), and --debug, which shows where an error came from.",
    version=pts_core.__version__,
    result_action="return_value",
)
# Named by text, so that `pts --help` imports neither them nor what they need.
app.command(
    "pts_core.cli.run:run", name="run", help="Search problems for pivotal tokens of a model."
)
app.command(
    "pts_core.cli.check:check",
    name="check",
    help="Judge the reference answers of a data set, or completions in a file.",
)
app.command(
    "pts_core.cli.export:export",
    name="export",
    help="Turn pivotal tokens into DPO pairs, steering vectors and more.",
)
app.command(
    "pts_core.cli.steer:steer",
    name="steer",
    help="Measure what a steering vector does to the success rate.",
)
app.command("pts_core.cli.push:push", name="push", help="Publish a file on the Hugging Face Hub.")
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
        arguments = _configure(arguments)
        return int(app(arguments, exit_on_error=False, print_error=False) or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # who read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = _explain(error)
        print(f"pts: {' '.join(message.split())}", file=sys.stderr)
        return code


def _configure(arguments: list[str]) -> list[str]:
    """Takes --config-file out of the arguments; the values in it stand behind the flags."""
    path, rest, words = "", list[str](), iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--config-file":
            path = value if equals else next(words, "")
            if not path:
                raise UsageError("--config-file needs a file")
        else:
            rest.append(word)
    if path:
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read --config-file {path}: {error}") from error
        app.config = (Dict(values, source=path),)
    return rest


def _explain(error: Exception) -> tuple[str, int]:
    if isinstance(error, PtsError):
        return str(error), error.exit_code
    if isinstance(error, CycloptsError):
        return f"{error} (see --help)", 2
    return f"{type(error).__name__}: {error} (this is unexpected; --debug shows where)", 1
