"""What each kind of plugin provides. A plugin needs to inherit nothing: the shape is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pts_core.errors import ProblemError
from pts_core.types import (
    Completion,
    Continuation,
    Problem,
    Request,
    Sampling,
    TokenIds,
    TokenScores,
)


class Dataset(Protocol):
    """Problems, in an order that is the same every time. `dataset_id` goes into the records.

    A dataset that knows its size may also define `__len__`; the progress bar then has an end.
    `note` is a line for the user on how the data was read (which columns, say), or "".
    """

    dataset_id: str
    note: str

    def __iter__(self) -> Iterator[Problem]: ...


class Oracle(Protocol):
    """Judges a completion of a problem: True is correct.

    None abstains: this completion cannot be judged (what the sandbox can't run, say). It counts
    as not correct and is shown in the summary. Raises ProblemError where no completion of the
    problem could be judged.
    """

    def __call__(self, problem: Problem, completion: Completion, /) -> bool | None: ...


@runtime_checkable
class ReferenceChecker(Protocol):
    """An oracle that can tell before anything is generated whether a problem can be judged."""

    def reference_completion(self, problem: Problem, /) -> str | None:
        """A completion that must be judged correct; None where the dataset holds none.

        Cheap: it runs nothing. Raises ProblemError where the reference answer cannot be used.
        """
        ...


class Backend(Protocol):
    """A model: token ids in, token ids out. Nothing here assumes that it runs on this machine.

    `end_of_sequence` are the token ids that end a completion, the one to append first;
    `context_length` is the most tokens of prompt and completion together, None if unbounded.
    """

    model_id: str
    end_of_sequence: TokenIds
    context_length: int | None

    def encode_prompt(
        self, query: str, *, system_prompt: str | None = None, chat: bool | None = None
    ) -> TokenIds:
        """The prompt of a query: in the model's chat template if `chat` (None: if it has one)."""
        ...

    def encode(self, text: str) -> TokenIds:
        """The ids of a text as it stands, with no special tokens added."""
        ...

    def decode(self, ids: TokenIds, *, skip_special_tokens: bool = False) -> str: ...

    def score(self, prompt: TokenIds, completion: TokenIds, sampling: Sampling) -> TokenScores:
        """The policy along a completion, computed in the precision in which `generate` samples.

        Raises ProblemError where the model gives no usable probabilities.
        """
        ...

    def generate(
        self, pull: Callable[[], Request | None], sampling: Sampling
    ) -> Iterator[tuple[Request, Continuation | ProblemError]]:
        """Draws a stream of requests and yields each as it finishes, in any order.

        `pull()` gives the next request, or None when there is none *now*: more may come once a
        finished one has been yielded. Ends when nothing is running and `pull()` gives None. A
        request that cannot be drawn (its logits are NaN, say) is yielded with its ProblemError.
        `score` may be called while `pull()` runs.
        """
        ...


class Exporter(Protocol):
    """Turns pivotal-token records into a file; returns how many rows it wrote."""

    def __call__(self, records: Iterable[Mapping[str, Any]], output_path: Path, /) -> int: ...
