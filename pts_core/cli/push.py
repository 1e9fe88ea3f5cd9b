"""`pts push`: a file with a card, in one commit, to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pts_core.cli.options import build
from pts_core.errors import UsageError
from pts_core.interfaces import Publisher
from pts_core.plugins import discover


def push(
    *,
    input_path: Path,
    hf_repo: str,
    private: Annotated[bool | None, Parameter(negative=())] = None,
    revision: str | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Publish pivotal tokens, preference pairs or steering vectors on the Hugging Face Hub.

    Parameters
    ----------
    input_path
        The file: what `pts run` or `pts export` wrote.
    hf_repo
        The data set repository, OWNER/NAME; it is made if it does not exist.
    private
        Make it private, where it does not exist yet.
    revision
        The branch to commit to, made if it does not exist [main].
    dry_run
        Print the card and send nothing.
    """
    if not input_path.is_file():
        raise UsageError(f"cannot read {input_path}: there is no such file")
    publisher: Publisher = build(
        discover().find("publisher", "hub"),
        subject=hf_repo,
        shorthands={"private": private, "revision": revision},
    )
    if dry_run:
        print(publisher.card(input_path))
    else:
        print(f"{input_path} published: {publisher.publish(input_path)}")
    return 0
