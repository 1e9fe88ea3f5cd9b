"""What each kind of plugin provides. A plugin needs to inherit nothing: the shape is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pts_core.errors import ProblemError
from pts_core.types import (
    Completion,
    Continuation,
    ExportReport,
    Problem,
    Request,
    Sampling,
    TokenIds,
    TokenScores,
)

if TYPE_CHECKING:  # numpy is not needed for `pts --help`
    import numpy as np
    import numpy.typing as npt


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


@runtime_checkable
class Explainer(Protocol):
    """An oracle that judges one problem in one way and another in another."""

    def explain(self, problem: Problem, /) -> str:
        """How it judges the problem, and why. Raises ProblemError where it can't."""
        ...


@runtime_checkable
class EarlyDecider(Protocol):
    """An oracle whose verdict may be fixed before a completion ends: by its first answer, say."""

    def is_decided(self, problem: Problem, text: str, /) -> bool:
        """Do all completions that begin with this text get the verdict that it gets itself, as a
        completion that is not truncated? A rollout of which that is known may end there."""
        ...


class Backend(Protocol):
    """A model: token ids in, token ids out. Nothing here assumes that it runs on this machine.

    `end_of_sequence` are the token ids that end a completion, the one to append first;
    `context_length` is the most tokens of prompt and completion together, None if unbounded.
    A `note`, where a backend has one, is a line for the user on how it runs the model, and a
    `fingerprint` is a text that differs where the model or its tokenizer does.
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
        A completion may end where the request `is_decided`; a backend need not look.
        `score` may be called while `pull()` runs.
        """
        ...


@runtime_checkable
class Listenable(Backend, Protocol):
    """A backend that tells what the decoder blocks of its model put out. `architecture` is the
    kind of model, as transformers names it."""

    architecture: str

    def block_outputs(self, prefix: TokenIds, tokens: Sequence[int], /) -> npt.NDArray[np.float32]:
        """Shape (tokens, blocks, width): what each block puts out at each of these tokens, if it
        comes after the prefix. Raises ProblemError for ids that the model cannot take."""
        ...


@runtime_checkable
class Steerable(Backend, Protocol):
    """A backend that can add vectors to what the decoder blocks of its model put out."""

    def steered(
        self, vectors: Mapping[int, npt.NDArray[np.float32]], /
    ) -> AbstractContextManager[None]:
        """Inside, vectors[n] is added to the output of block n, counted from 0, at every position.
        Raises UsageError for a vector that does not fit the model."""
        ...


class Exporter(Protocol):
    """Turns pivotal-token records (pts_core.records) into a file, and says what became of them.

    Writes nothing where no record can be exported.
    """

    def __call__(
        self, records: Sequence[Mapping[str, Any]], output_path: Path, /
    ) -> ExportReport: ...


class Publisher(Protocol):
    """Publishes a file in a repository, with a card that describes it."""

    def card(self, path: Path, /) -> str:
        """The card of a file, made from what is in it. Raises PtsError where it can't be read."""
        ...

    def publish(self, path: Path, /) -> str:
        """Puts the file and its card there, both or neither; where they can be seen.

        Raises PtsError where that is not possible, before anything is sent if it can tell.
        """
        ...
