"""Checks that an implementation keeps what its protocol in pts_core.interfaces promises.

Each takes what a factory returns and raises AssertionError with what is wrong, so that one line in
a test does it. They need no pytest.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from pts_core.errors import ProblemError, PtsError
from pts_core.interfaces import (
    Backend,
    Dataset,
    EarlyDecider,
    Exporter,
    Listenable,
    Oracle,
    ReferenceChecker,
    Steerable,
)
from pts_core.records import make_record
from pts_core.scheduler import Ended, Event, Found, Scheduler
from pts_core.search import Strategy
from pts_core.testing.models import END, FiniteStateModel
from pts_core.types import (
    Alternative,
    Completion,
    Continuation,
    ExportReport,
    PivotalToken,
    Problem,
    Request,
    Sampling,
    TokenIds,
    Trace,
)

# Texts that a model may well come up with, and that trip up what reads them.
ODD_TEXTS = (
    "",
    " \n\t",
    "\x00",
    "\\boxed{",
    "```python\n",
    "é漢🙂\u202e",
    "9" * 5000,
    "a " * 20_000,
)


def check_dataset(dataset: Dataset) -> None:
    """Its problems can be told apart, judged, and kept in the journal; they are always the same."""
    problems = list(dataset)
    assert problems, "it has no problems"
    assert isinstance(dataset.dataset_id, str), "dataset_id must be a string"
    assert dataset.dataset_id, "dataset_id must not be empty"
    assert isinstance(dataset.note, str), "note must be a string, empty if there is nothing to say"
    assert list(dataset) == problems, "going through it again must give the same problems"
    if isinstance(dataset, Sized):
        assert len(dataset) == len(problems), f"its length is {len(dataset)}, not {len(problems)}"
    for problem in problems:
        assert isinstance(problem, Problem), f"{problem!r} is no Problem"
        for name in ("id", "query", "answer", "dataset_id", "task_type"):
            value = getattr(problem, name)
            assert isinstance(value, str), f"{name} of problem {problem.id} must be a string"
        assert problem.query.strip(), f"problem {problem.id} asks nothing"
        try:
            json.dumps(asdict(problem))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"problem {problem.id} does not go into JSON: {error}") from error
    doubles = [i for i, n in Counter(problem.id for problem in problems).items() if n > 1]
    assert not doubles, f"several problems have the id {doubles[0]!r}"


def check_oracle(
    oracle: Oracle, problem: Problem, *, right: Sequence[str], wrong: Sequence[str]
) -> None:
    """It judges these completions so, the same way each time, and odd ones without failing."""
    for text, expected in [*((t, True) for t in right), *((t, False) for t in wrong)]:
        for _ in range(2):
            verdict = oracle(problem, Completion(text, ()))
            assert verdict is expected, f"{text[:60]!r} is judged {verdict}, not {expected}"
    for text in ODD_TEXTS:
        for truncated in (False, True):
            try:
                verdict = oracle(problem, Completion(text, (), truncated))
            except Exception as error:
                raise AssertionError(f"the completion {text[:20]!r} makes it raise") from error
            assert verdict in (True, False, None), f"{verdict!r} is no verdict"
            assert verdict is not True or text in right, f"{text[:20]!r} is judged right"
    if isinstance(oracle, ReferenceChecker):
        completion = oracle.reference_completion(problem)
        if completion is not None:
            verdict = oracle(problem, Completion(completion, ()))
            assert verdict is not False, "it judges its own reference completion wrong"
    if isinstance(oracle, EarlyDecider):
        for text in (*right, *wrong):
            for i in range(len(text)):
                if oracle.is_decided(problem, text[:i]):
                    early = oracle(problem, Completion(text[:i], ()))
                    assert early is (text in right), f"{text[:i]!r} is not decided: {text[:60]!r}"


def check_backend(backend: Backend, query: str = "What is 2 + 3?", *, rollouts: int = 1000) -> None:
    """Its samples follow its own stated probabilities, from the very prefixes that are asked for.

    The statistical part draws `rollouts` continuations and fails by chance once in 10,000 times
    for a right backend and a fresh seed; the seed is fixed.
    """
    prompt = backend.encode_prompt(query)
    assert prompt, "the prompt has no tokens"
    assert all(type(i) is int for i in prompt), "token ids must be plain ints"
    assert backend.end_of_sequence, "no token ends a completion"
    sampling = Sampling(temperature=1.0, horizon=12, seed=5)
    first = _generate(backend, _requests(prompt, (), 0, 24), sampling)
    _check_continuations(backend, first, sampling)
    _check_seeds(backend, prompt, first, sampling)
    trace = max((c.ids for c in first.values()), key=len)
    assert len(trace) > 1, "every continuation ends at once"
    _check_scores(backend, prompt, trace, sampling)
    _check_restrictions(backend, prompt, trace, sampling)
    for start in (0, len(trace) // 2):
        _check_frequencies(backend, prompt, trace, start, rollouts)
    if isinstance(backend, Steerable) and isinstance(backend, Listenable):
        _check_steering(backend, prompt, trace)


def check_search(strategy: Strategy) -> None:
    """It finds the token that decides a solvable model, and nothing where nothing decides.

    Its result depends on its problem alone, not on the order in which rollouts come back.
    """
    deciding = FiniteStateModel(_crossroads(0.95, 0.05), {3}, batch=32, order=random.Random(1))
    events = _search(strategy, deciding)
    again = _search(
        strategy, FiniteStateModel(_crossroads(0.95, 0.05), {3}, batch=7, order=random.Random(2))
    )
    assert events == again, "another order of rollouts gives another result"
    found = [event.token for event in events if isinstance(event, Found)]
    assert any(token.position == 0 for token in found), "it misses a token of delta 0.45"
    for token in found:
        _check_token(token)
    ended = [event for event in events if isinstance(event, Ended)]
    assert len(ended) == 4, "not every problem ended"
    for event in ended:
        assert not isinstance(event.outcome, ProblemError), f"a problem failed: {event.outcome}"
    indifferent = FiniteStateModel(_crossroads(0.5, 0.5), {3}, batch=32)
    false = [e.token for e in _search(strategy, indifferent) if isinstance(e, Found)]
    assert not any(t.position == 0 for t in false), "it reports a token that decides nothing"
    for certain in (1.0, 0.0):  # nothing to search: every answer is right, or none
        model = FiniteStateModel(_crossroads(certain, certain), {3}, batch=32)
        assert not [e for e in _search(strategy, model) if isinstance(e, Found)]
    for length in (0, 1):  # given traces that end at once
        given = {str(i): [(END,)[:length]] for i in range(4)}
        _search(strategy, FiniteStateModel(_crossroads(0.9, 0.1, ends=0.1), {3}), given)


def check_exporter(
    exporter: Exporter, folder: Path, records: Sequence[dict[str, Any]] | None = None
) -> ExportReport:
    """It exports records (sample ones if not given) into `folder`, says what became of each, and
    writes nothing where there is nothing to export. Returns the report."""
    records = sample_records() if records is None else records
    before = copy.deepcopy(records)
    report = exporter(records, folder / "export")
    assert isinstance(report, ExportReport), f"it must return an ExportReport, not {report!r}"
    assert records == before, "it changes the records that it is given"
    written = list(folder.iterdir())
    assert bool(report.rows) == bool(written), f"{report.rows} rows reported, {written} written"
    with suppress(PtsError):  # or it says so
        assert not exporter([], folder / "nothing").rows, "it exports rows from no records"
    assert list(folder.iterdir()) == written, "it writes a file with nothing in it"
    return report


def _spelled(ids: TokenIds) -> str:
    return "".join(f" w{i}" for i in ids)


def sample_records(decode: Callable[[TokenIds], str] = _spelled) -> list[dict[str, Any]]:
    """A positive and a negative pivotal token with measured alternatives, as records of token ids
    up to 21."""
    trace = Trace("0", (11, 12, 13, END), correct=True)
    rival = Alternative(21, 0.4, 0.1, 40, (0.04, 0.23))
    token = PivotalToken(
        trace=trace,
        position=1,
        prob_before=0.5,
        prob_after=0.9,
        interval=(0.25, 0.52),
        rollouts=(80, 40),
        token_prob=0.5,
        alternatives=(rival,),
    )
    negative = replace(
        token,
        position=2,
        prob_before=0.9,
        prob_after=0.3,
        interval=(-0.7, -0.45),
        alternatives=(replace(rival, prob=0.95, interval=(0.83, 0.99)),),
    )
    problem = Problem("0", "What is 2 + 3?", "5", "sample", "math")
    made = [
        make_record(
            problem,
            (1, 2, 3),
            each,
            model_id="sample",
            sampling=Sampling(),
            decode=decode,
        )
        for each in (token, negative)
    ]
    records: list[dict[str, Any]] = json.loads(json.dumps(made))
    return records


def _check_steering(backend: Any, prompt: TokenIds, trace: TokenIds) -> None:
    plain = backend.block_outputs(prompt, trace[:2])
    assert plain.ndim == 3, "block_outputs has not the shape (tokens, blocks, width)"
    assert len(plain) == 2, f"block_outputs of 2 tokens are of {len(plain)}"
    vector = np.linspace(-1, 1, plain.shape[2], dtype=np.float32)
    for layer in range(plain.shape[1]):
        with backend.steered({layer: vector}):
            steered = backend.block_outputs(prompt, trace[:2])
        assert (steered[:, :layer] == plain[:, :layer]).all(), f"layer {layer} changes earlier ones"
        added = steered[:, layer] - plain[:, layer]
        near = 0.02 * (1 + np.abs(plain[:, layer]))  # bfloat16 has 8 bits
        assert (np.abs(added - vector) < near).all(), f"layer {layer} adds something else"
    assert (backend.block_outputs(prompt, trace[:2]) == plain).all(), "steering leaves traces"


def _requests(
    prompt: TokenIds, trace: TokenIds, start: int, count: int, **restriction: Any
) -> list[Request]:
    return [Request(prompt, trace, start, 1000 + i, **restriction) for i in range(count)]


def _generate(
    backend: Backend, requests: Sequence[Request], sampling: Sampling, *, late: bool = False
) -> dict[int, Continuation]:
    """What is drawn, by stream. With `late` half of the requests come only after a result."""
    waiting = list(requests)
    held = [waiting.pop() for _ in range(len(waiting) // 2)] if late else []
    drawn: dict[int, Continuation] = {}

    def pull() -> Request | None:
        return waiting.pop(0) if waiting else None

    for request, result in backend.generate(pull, sampling):
        assert request.stream not in drawn, "a request is answered twice"
        assert isinstance(result, Continuation), f"a plain request fails: {result}"
        drawn[request.stream] = result
        waiting += [held.pop()] if held else []
    assert set(drawn) == {r.stream for r in requests}, "not every request is answered"
    return drawn


def _check_continuations(
    backend: Backend, drawn: Mapping[int, Continuation], sampling: Sampling
) -> None:
    for continuation in drawn.values():
        ids, ends = continuation.ids, backend.end_of_sequence
        assert 0 < len(ids) <= sampling.horizon, f"{len(ids)} tokens, beyond the horizon"
        assert not set(ids[:-1]) & set(ends), "it goes on after the end of sequence"
        assert continuation.truncated == (ids[-1] not in ends), "truncated says the wrong thing"
        if continuation.truncated and backend.context_length is None:
            assert len(ids) == sampling.horizon, "it is truncated before the horizon"
        text = backend.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str), "decode must give a string"


def _check_seeds(
    backend: Backend, prompt: TokenIds, first: Mapping[int, Continuation], sampling: Sampling
) -> None:
    requests = _requests(prompt, (), 0, len(first))
    assert _generate(backend, requests, sampling) == first, "the same seed gives other rollouts"
    assert _generate(backend, requests, sampling, late=True).keys() == first.keys()
    other = _generate(backend, requests, replace(sampling, seed=6))
    assert other != first, "another seed gives the same rollouts"
    assert len(set(first.values())) > 1, "every stream gives the same rollout"


def _check_scores(backend: Backend, prompt: TokenIds, trace: TokenIds, sampling: Sampling) -> None:
    scores = backend.score(prompt, trace, sampling)
    size = len(trace)
    assert scores.probs.shape == (size,), f"probs has shape {scores.probs.shape}, not ({size},)"
    assert scores.alternative_ids.shape == scores.alternative_probs.shape
    assert scores.alternative_ids.shape[0] == size
    assert (scores.probs > 0).all(), "a token that was sampled has no probability"
    assert (scores.probs <= 1 + 1e-6).all()
    assert (np.diff(scores.alternative_probs, axis=1) <= 1e-9).all(), "alternatives out of order"
    assert (scores.alternative_probs.sum(axis=1) <= 1 + 1e-4).all(), "probabilities beyond 1"
    for t, token in enumerate(trace):
        listed = scores.prob_of(t, token)
        agrees = listed is None or math.isclose(listed, scores.probs[t], abs_tol=1e-5)
        assert agrees, f"a token has probability {scores.probs[t]}, and {listed} as alternative"
    shorter = backend.score(prompt, trace[:-1], sampling)
    assert np.allclose(shorter.probs, scores.probs[:-1], atol=0.02), "later tokens change earlier"


def _check_restrictions(
    backend: Backend, prompt: TokenIds, trace: TokenIds, sampling: Sampling
) -> None:
    """First tokens, excluded tokens, prefixes and the horizon are honoured."""
    token = trace[0]
    for continuation in _generate(
        backend, _requests(prompt, trace, 0, 16, first_token=token), sampling
    ).values():
        assert continuation.ids[0] == token, "the first token is not the one asked for"
    scores = backend.score(prompt, trace, sampling)
    if scores.probs[0] < 1 - 1e-6:
        requests = _requests(prompt, trace, 0, 48, excluded_token=token)
        for continuation in _generate(backend, requests, sampling).values():
            assert continuation.ids[0] != token, "an excluded token is drawn"
    start = len(trace) - 1
    for continuation in _generate(backend, _requests(prompt, trace, start, 8), sampling).values():
        room = sampling.horizon - start
        assert len(continuation.ids) <= room, "the horizon counts from the prefix, not the prompt"


def _check_frequencies(
    backend: Backend, prompt: TokenIds, trace: TokenIds, start: int, rollouts: int
) -> None:
    """Pearson's chi-square test of first tokens against what score says of them."""
    sampling = Sampling(temperature=1.0, horizon=start + 1, seed=9)
    scores = backend.score(prompt, trace, sampling)
    stated = {
        int(i): float(p)
        for i, p in zip(scores.alternative_ids[start], scores.alternative_probs[start], strict=True)
        if i >= 0 and p * rollouts >= 5
    }
    drawn = _generate(backend, _requests(prompt, trace, start, rollouts), sampling)
    observed = Counter(c.ids[0] for c in drawn.values())
    cells = [(observed[i], p * rollouts) for i, p in stated.items()]
    rest = rollouts * (1 - sum(stated.values()))
    if rest >= 5:
        cells.append((rollouts - sum(n for n, _ in cells), rest))
    statistic = sum((n - expected) ** 2 / expected for n, expected in cells)
    freedom = max(len(cells) - 1, 1)
    # The 1 - 1e-4 quantile by Wilson and Hilferty (1931, PNAS 17:684); 3.719 is the normal one.
    spread = 2 / (9 * freedom)
    limit = freedom * (1 - spread + 3.719 * math.sqrt(spread)) ** 3
    assert statistic < limit, (
        f"after {start} tokens its samples don't follow its probabilities: chi-square "
        f"{statistic:.1f}, at most {limit:.1f} expected"
    )


def _crossroads(up: float, down: float, ends: float = 0.0) -> list[dict[int, tuple[float, int]]]:
    """A first token, 1 or 2, after which success has probability `up` or `down`."""
    first = {1: ((1 - ends) / 2, 1), 2: ((1 - ends) / 2, 2), END: (ends, 4)}
    return [
        {token: choice for token, choice in first.items() if choice[0]},
        {token: (p, to) for token, p, to in ((5, up, 3), (6, 1 - up, 4)) if p},
        {token: (p, to) for token, p, to in ((5, down, 3), (6, 1 - down, 4)) if p},
        {END: (1.0, 3)},
        {END: (1.0, 4)},
    ]


def _search(
    strategy: Strategy, model: FiniteStateModel, given: Mapping[str, list[TokenIds]] | None = None
) -> list[Event]:
    problems = [replace(model.problem(), id=str(i)) for i in range(4)]
    sampling = Sampling(horizon=8, seed=3)
    return list(Scheduler(model, model.judge, strategy, sampling, given=given).run(problems))


def _check_token(token: PivotalToken) -> None:
    assert 0 <= token.position < len(token.trace.ids), f"position {token.position}"
    for value in (token.prob_before, token.prob_after, token.token_prob):
        assert 0 <= value <= 1, f"{value} is no probability"
    low, high = token.interval
    assert -1 <= low <= high <= 1, f"{token.interval} is no interval of a delta"
    assert all(count > 0 for count in token.rollouts), "no rollouts stand behind it"
    if token.position == len(token.trace.ids) - 1:
        assert token.prob_after == token.trace.correct, "V(T) is the trace's own verdict"
    for alternative in token.alternatives:
        assert alternative.token_id != token.token_id, "the token is its own alternative"
        assert alternative.rollouts > 0, "an alternative without rollouts"
