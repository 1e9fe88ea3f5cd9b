"""Measures the other side of pivotal tokens that have none: fresh rollouts, judged as in a run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pts_core.errors import ProblemError, PtsError
from pts_core.estimates import Estimate, alternative
from pts_core.interfaces import Backend, Oracle
from pts_core.pairs import check_tokens, measured_pair
from pts_core.records import Record, alternative_row
from pts_core.types import Completion, Problem, Request, Sampling, TokenIds
from pts_core.verdicts import judge

# So many of the most probable other tokens are tried.
TRIED = 3
NO_PROBLEM = "not measured: its problem is not in the dataset"
_UNMEASURED: Record = {"rollouts": [1, 0], "alternatives": []}
NO_IDS = "not measured: its text does not become the prompt and a single token"


@dataclass(slots=True)
class _Side:
    """A token after the prefix of a record, and the verdicts that it got."""

    record: int
    token_id: int
    token_prob: float
    verdicts: list[bool] = field(default_factory=list)


def measure_counterparts(
    backend: Backend,
    oracle: Oracle,
    problems: Iterable[Problem],
    records: Sequence[Record],
    *,
    rollouts: int,
    confidence: float,
) -> tuple[list[Record], Counter[str]]:
    """The records, those without a measured pair with `rollouts` rollouts of each likely
    alternative, and why some were passed over.

    Records of other tools have no token ids: their text is encoded, and their own token measured
    too. Raises PtsError where records differ in their policy or are of another tokenizer, and
    where a rollout cannot be drawn or judged.
    """
    check_tokens(records, backend.decode, backend.model_id)
    by_id = {problem.id: problem for problem in problems}
    by_query = {problem.query: problem for problem in by_id.values()}
    completed, passed_over = list(records), Counter[str]()
    asked: dict[int, Problem] = {}
    for i, record in enumerate(records):
        if not isinstance(measured_pair(record, confidence), str):
            continue
        problem = by_query.get(record["query"]) or by_id.get(str(record.get("dataset_item_id")))
        found = _UNMEASURED | record if "context_ids" in record else _with_ids(backend, record)
        if problem is None:
            passed_over[NO_PROBLEM] += 1
        elif found is None:
            passed_over[NO_IDS] += 1
        else:
            completed[i], asked[i] = found, problem
    sampling = _policy(list(asked), completed)
    sides = [side for i in asked for side in _sides(backend, i, completed[i], sampling)]
    _draw(backend, oracle, completed, asked, sides, rollouts, sampling)
    for i in asked:
        own = [side for side in sides if side.record == i]
        completed[i] = _with_sides(backend, completed[i], own, confidence)
    return completed, passed_over


def _with_ids(backend: Backend, record: Record) -> Record | None:
    """The record with token ids for its text; None where that is not the same text again."""
    ids, token = backend.encode(record["pivot_context"]), backend.encode(record["pivot_token"])
    for chat in (None, False):
        prompt = backend.encode_prompt(record["query"], chat=chat)
        if len(token) == 1 and len(ids) >= len(prompt) and ids[: len(prompt)] == prompt:
            return {
                **record,
                "context_ids": list(ids),
                "prompt_length": len(prompt),
                "pivot_token_id": token[0],
                **_UNMEASURED,
            }
    return None


def _policy(asked: list[int], records: Sequence[Record]) -> Sampling:
    """The policy that the records name; the default one where none of them does."""
    named = [{**records[i]["sampling"], "seed": 0} for i in asked if records[i].get("sampling")]
    if any(policy != named[0] for policy in named):
        raise PtsError("the records are of several policies: measure those of each apart")
    try:
        return Sampling(**named[0]) if named else Sampling()
    except TypeError as error:
        raise PtsError(f"the records name a policy that is not understood: {named[0]}") from error


def _sides(backend: Backend, i: int, record: Record, sampling: Sampling) -> list[_Side]:
    """The likeliest other tokens at the record's position; its own too if it has no rollouts."""
    prompt, answer = _prefix(record)
    scores = backend.score(prompt, (*answer, record["pivot_token_id"]), sampling)
    at = len(answer)
    likely = zip(scores.alternative_ids[at], scores.alternative_probs[at], strict=True)
    sides = [
        _Side(i, int(t), float(p)) for t, p in likely if t not in (-1, record["pivot_token_id"])
    ]
    if not record["rollouts"][1]:
        sides.insert(TRIED, _Side(i, record["pivot_token_id"], float(scores.probs[at])))
        return sides[: TRIED + 1]
    return sides[:TRIED]


def _prefix(record: Record) -> tuple[TokenIds, TokenIds]:
    """The prompt, and the answer up to the token."""
    ids = tuple(record["context_ids"])
    return ids[: record["prompt_length"]], ids[record["prompt_length"] :]


def _draw(
    backend: Backend,
    oracle: Oracle,
    records: Sequence[Record],
    problems: Mapping[int, Problem],
    sides: Sequence[_Side],
    rollouts: int,
    sampling: Sampling,
) -> None:
    """Adds so many verdicts to every side."""
    waiting = deque((side, n) for side in sides for n in range(rollouts))
    drawn: dict[int, _Side] = {}

    def pull() -> Request | None:
        if not waiting:
            return None
        side, _ = waiting.popleft()
        prompt, answer = _prefix(records[side.record])
        stream = len(drawn)
        drawn[stream] = side
        return Request(prompt, answer, len(answer), stream, first_token=side.token_id)

    for request, result in backend.generate(pull, sampling):
        side = drawn[request.stream]
        problem = problems[side.record]
        if isinstance(result, ProblemError):
            raise PtsError(f"problem {problem.id} can't be measured: {result}") from result
        ids = request.trace + result.ids
        text = backend.decode(ids, skip_special_tokens=True)
        try:
            verdict = judge(oracle, problem, Completion(text, ids, result.truncated))
        except ProblemError as error:
            raise PtsError(f"problem {problem.id} can't be judged: {error}") from error
        side.verdicts.append(bool(verdict))


def _with_sides(
    backend: Backend, record: Record, sides: Sequence[_Side], confidence: float
) -> Record:
    """The record with what was measured, added to what it knew."""
    known: dict[int, dict[str, Any]] = {a["token_id"]: a for a in record["alternatives"]}
    result = dict(record)
    for side in sides:
        fresh = Estimate(sum(side.verdicts), len(side.verdicts))
        if side.token_id == record["pivot_token_id"]:
            result["prob_after"], result["rollouts"] = fresh.prob, [1, fresh.rollouts]
            continue
        if old := known.get(side.token_id):
            fresh += Estimate(round(old["prob"] * old["rollouts"]), old["rollouts"])
        measured = alternative(side.token_id, fresh, side.token_prob, confidence)
        known[side.token_id] = alternative_row(measured, backend.decode)
    result["alternatives"] = sorted(known.values(), key=lambda a: -(a["token_prob"] or 0.0))
    return result
