"""One commit of a file and its card to a data set repository on the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from pts_core.errors import PtsError, UsageError, in_one_line
from pts_hub.cards import make_card


@dataclass(frozen=True, slots=True)
class HubPublisher:
    """The publisher of pts_hub.hub, with its options."""

    repository: str
    private: bool
    revision: str | None

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repository)
        except HFValidationError as error:
            raise UsageError(
                f"--hf-repo {self.repository!r} must be OWNER/NAME: {error}"
            ) from error
        if "/" not in self.repository:
            raise UsageError(f"--hf-repo {self.repository!r} must be OWNER/NAME")

    def card(self, path: Path, /) -> str:
        return make_card(path, self.repository, self.revision)

    def publish(self, path: Path, /) -> str:
        card = self.card(path)
        if constants.HF_HUB_OFFLINE:
            raise PtsError("HF_HUB_OFFLINE is set: unset it to publish, or look with --dry-run")
        if not huggingface_hub.get_token():
            raise PtsError(
                "there is no Hugging Face token: log in with 'hf auth login' or set HF_TOKEN "
                "(a token that may write), or look with --dry-run"
            )
        try:
            return self._commit(path, card)
        except PtsError:
            raise
        except HfHubHTTPError as error:
            raise PtsError(self._explained(error)) from error
        except Exception as error:  # which one depends on the HTTP client of huggingface_hub
            raise PtsError(f"the Hub can't be reached: {in_one_line(error)}") from error

    def _commit(self, path: Path, card: str) -> str:
        hub = huggingface_hub.HfApi()
        add = huggingface_hub.CommitOperationAdd
        hub.create_repo(
            self.repository, repo_type="dataset", private=self.private or None, exist_ok=True
        )
        if self.revision is not None:
            hub.create_branch(
                self.repository, repo_type="dataset", branch=self.revision, exist_ok=True
            )
        there = hub.list_repo_files(self.repository, repo_type="dataset", revision=self.revision)
        others = sorted(set(there) - {"README.md", ".gitattributes", path.name})
        if others:
            raise PtsError(
                f"{self.repository} holds {others[0]}, and its card would be replaced by that of "
                f"{path.name}: give another --hf-repo"
            )
        done = hub.create_commit(
            self.repository,
            [add("README.md", card.encode()), add(path.name, path)],
            repo_type="dataset",
            revision=self.revision,
            commit_message=f"Add {path.name}",
        )
        return done.commit_url

    def _explained(self, error: HfHubHTTPError) -> str:
        status = error.response.status_code
        if status == 401 or isinstance(error, RepositoryNotFoundError):
            return (
                f"the Hub refuses the token for {self.repository} ({status}): "
                "log in with 'hf auth login'"
            )
        if status == 403:
            return (
                f"the token may not write to {self.repository}: use one that may, or your own name"
            )
        return f"the Hub refuses {self.repository} ({status}): {error.server_message or error}"
