"""The errors a user can meet. Each message is one line: what, where, and what to do about it."""


class PtsError(Exception):
    """Something failed for a reason the user can understand; `pts` prints it and exits with 1."""

    exit_code = 1


class UsageError(PtsError):
    """The command, an option or its value is wrong; `pts` prints it and exits with 2."""

    exit_code = 2


class PluginError(PtsError):
    """A plugin is broken, or two plugins clash."""


class ProblemError(PtsError):
    """One problem cannot be searched; it is reported and skipped, and the run goes on."""


def in_one_line(error: BaseException) -> str:
    """What went wrong in foreign code: the kind of the error and the first line it says."""
    if isinstance(error, PtsError):
        return str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0]
