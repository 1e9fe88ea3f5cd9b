"""The publisher "hub": a file as a data set on the Hugging Face Hub, with a card."""

from __future__ import annotations

from pts_core.hookspecs import Factories, hookimpl
from pts_core.interfaces import Publisher


@hookimpl
def pts_publishers() -> Factories:
    return {"hub": hub}


def hub(repository: str, *, private: bool = False, revision: str | None = None) -> Publisher:
    """A data set repository on the Hugging Face Hub.

    Parameters
    ----------
    repository
        OWNER/NAME; made if it does not exist.
    private
        Make it private, where it does not exist yet.
    revision
        The branch to commit to, made if it does not exist; main if not given.
    """
    from pts_hub.publishing import HubPublisher

    return HubPublisher(repository, private, revision)
