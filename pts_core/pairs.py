"""The better and the worse of two tokens on one prefix, both measured: what exports are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pts_core.errors import PtsError
from pts_core.estimates import Estimate, Interval, score_interval
from pts_core.types import TokenIds

NO_ALTERNATIVES = "the record lists no alternatives (another tool's, or an older file)"
NONE_TAKEN = "no alternative was measured"
NOT_APART = "no alternative is measured apart from the token"


@dataclass(frozen=True, slots=True)
class Side:
    """A token with its success probability, from so many rollouts."""

    token: str
    token_id: int
    prob: float
    rollouts: int

    @property
    def estimate(self) -> Estimate:
        # One rollout is a value known without sampling: the verdict of the finished answer.
        return Estimate(round(self.prob * self.rollouts), self.rollouts, exact=self.rollouts == 1)


@dataclass(frozen=True, slots=True)
class TokenPair:
    """Two tokens after the same prefix; `interval` bounds how much better the better one is."""

    better: Side
    worse: Side
    interval: Interval


def measured_pair(record: Mapping[str, Any], confidence: float) -> TokenPair | str:
    """The pivotal token of a record and an alternative, or the reason why there is no pair.

    The alternative is the most probable one whose success probability differs from the token's,
    in the direction of its delta, by an interval without 0.
    """
    if "alternatives" not in record or "context_ids" not in record:
        return NO_ALTERNATIVES
    if not record["alternatives"]:
        return NONE_TAKEN
    pivot = Side(
        record["pivot_token"], record["pivot_token_id"], record["prob_after"], record["rollouts"][1]
    )
    for listed in sorted(record["alternatives"], key=lambda a: -(a.get("token_prob") or 0.0)):
        other = Side(listed["token"], listed["token_id"], listed["prob"], listed["rollouts"])
        if other.rollouts == 1:
            continue
        low, high = score_interval(pivot.estimate, other.estimate, confidence)
        if record["prob_delta"] > 0 and low > 0:
            return TokenPair(pivot, other, (low, high))
        if record["prob_delta"] < 0 and high < 0:
            return TokenPair(other, pivot, (-high, -low))
    return NOT_APART


def check_tokens(
    records: Sequence[Mapping[str, Any]], decode: Callable[[TokenIds], str], source: str
) -> None:
    """Raises PtsError where the ids of the records mean other tokens to a model's tokenizer."""
    for record in records:
        if "context_ids" not in record:
            continue
        token_id = record["pivot_token_id"]
        try:
            said = decode((token_id,))
        except (OverflowError, IndexError, TypeError, ValueError):
            said = ""
        if said != record["pivot_token"]:
            raise PtsError(
                f"the tokenizer of {source} doesn't fit the records of {record['model_id']}: "
                f"token {token_id} is {said!r} to it and {record['pivot_token']!r} in the records; "
                "give the model that they are of"
            )
