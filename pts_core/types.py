"""The values that travel between the core and its plugins, all frozen. Token ids are plain ints.

The words are those of the method: a *prefix* t is the prompt followed by the first t tokens of a
trace, a *rollout* is one sampled continuation of a prefix with its verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy is not needed for `pts --help`
    import numpy as np
    import numpy.typing as npt

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """A query with its reference answer: one row of a dataset."""

    id: str
    query: str
    answer: str
    dataset_id: str
    task_type: str = "generic"
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """What an oracle judges: a whole answer, without its prompt.

    `text` has no special tokens; `ids` are the tokens as generated; `truncated` says that the
    horizon came before the end of the answer.
    """

    text: str
    ids: TokenIds
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """The policy and the seed. `top_p=1`, `top_k=0` and `min_p=0` switch that filter off.

    `horizon` is the most tokens a completion may have, counted from the end of the prompt
    whatever prefix a rollout starts from, so that success probability is a martingale along a
    trace. A completion also ends, with it, where one of the texts `stop` appears.
    """

    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    horizon: int = 512
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop))  # JSON has lists


@dataclass(frozen=True, slots=True)
class Request:
    """One continuation to draw, from prefix `start` of `trace`.

    `stream` names the randomness: the same seed and stream give the same continuation. The first
    new token is drawn from the policy; it is `first_token` where that is set, and is drawn from
    the policy renormalized without `excluded_token` where that is set.

    `is_decided` tells from a completion so far, the tokens of the prefix and the new ones, that
    what follows cannot matter. It may raise ProblemError.
    """

    prompt: TokenIds
    trace: TokenIds
    start: int
    stream: int
    first_token: int | None = None
    excluded_token: int | None = None
    is_decided: Callable[[TokenIds], bool] | None = field(default=None, compare=False, repr=False)

    @property
    def prefix(self) -> TokenIds:
        return self.prompt + self.trace[: self.start]


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a backend draws for a request: the new tokens, end-of-sequence included.

    `truncated` means that the horizon (or the model's context) ended it.
    """

    ids: TokenIds
    truncated: bool


@dataclass(frozen=True, slots=True)
class Rollout:
    """A continuation of prefix `start` with its verdict on the whole completion."""

    start: int
    ids: TokenIds
    correct: bool
    truncated: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """A completion that is searched: x_1 … x_T, with its own verdict, which is V(T)."""

    id: str
    ids: TokenIds
    correct: bool
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The policy along a trace of T tokens.

    `probs` has shape (T,): the policy probability of each token of the trace. `alternative_ids`
    and `alternative_probs` have shape (T, K): the K most probable tokens at each position, most
    probable first, the trace's own token among them where it belongs; id -1 fills a row whose
    policy allows fewer than K tokens.
    """

    probs: npt.NDArray[np.float64]
    alternative_ids: npt.NDArray[np.int64]
    alternative_probs: npt.NDArray[np.float64]

    def prob_of(self, position: int, token_id: int) -> float | None:
        """Policy probability of a token at a position; None when it is not among the K."""
        places = (self.alternative_ids[position] == token_id).nonzero()[0]
        return float(self.alternative_probs[position, places[0]]) if len(places) else None


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token the policy may take instead of the trace's, with its own success probability.

    `token_prob` is None where the backend did not report it.
    """

    token_id: int
    token_prob: float | None
    prob: float
    rollouts: int
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class PivotalToken:
    """A token of a trace whose delta reaches the threshold.

    `position` t is its 0-based index in the trace, so `prob_before` is V(t) and `prob_after` is
    V(t+1). `interval` bounds the delta. `rollouts` counts the verdicts behind the two numbers; a
    prob_after that is the trace's own verdict counts as one. `p_value` is that of a delta within
    ±threshold; None where a strategy reports without one.
    """

    trace: Trace
    position: int
    prob_before: float
    prob_after: float
    interval: tuple[float, float]
    rollouts: tuple[int, int]
    token_prob: float
    alternatives: tuple[Alternative, ...] = ()
    p_value: float | None = None

    @property
    def token_id(self) -> int:
        return self.trace.ids[self.position]

    @property
    def delta(self) -> float:
        return self.prob_after - self.prob_before


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an exporter wrote: how many rows, how many it left out by reason, and lines for the
    user on what to know about them. With no rows it has written nothing."""

    rows: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
