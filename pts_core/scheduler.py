"""Interleaves the searches of many problems over one backend, so that its batch is always full.

The backend pulls requests; a pull that finds none waiting opens the next problem. So there are
just as many open searches as the backend has room for, and nobody sets their number. Events come
out in the order of the problems, so that a run's result does not depend on the batch size.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from pts_core.discoveries import FalseDiscoveryControl
from pts_core.errors import ProblemError
from pts_core.interfaces import Backend, EarlyDecider, Oracle, ReferenceChecker
from pts_core.journal import Journal, Judged, Log
from pts_core.search.conversation import Ask, Draw, Outcome, Score, Search, Strategy, Task
from pts_core.statistics import Statistics
from pts_core.types import (
    Completion,
    Continuation,
    PivotalToken,
    Problem,
    Request,
    Rollout,
    Sampling,
    TokenIds,
    TokenScores,
    Trace,
)
from pts_core.verdicts import asking, judge

# How often, in tokens, an oracle that can tell is asked whether a completion is decided.
DECIDED_EVERY = 8


@dataclass(frozen=True, slots=True)
class Prompting:
    """How a problem's query becomes a prompt. `chat` None: a chat template if there is one."""

    template: str = "{query}"
    system_prompt: str | None = None
    chat: bool | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A pivotal token was found in an answer to a problem."""

    problem: Problem
    prompt: TokenIds
    token: PivotalToken


@dataclass(frozen=True, slots=True)
class Ended:
    """The search of a problem ended: with an outcome, or because of an error."""

    problem: Problem
    outcome: Outcome | ProblemError


Event = Found | Ended


@dataclass(eq=False)
class _OpenSearch:
    """A search in progress: the replies it waits for, and what it has found."""

    problem: Problem
    prompt: TokenIds = ()
    is_decided: Callable[[TokenIds], bool] | None = None
    log: Log | None = None
    search: Search | None = None
    replies: list[list[Rollout | None]] = field(default_factory=list)
    missing: int = 0
    drawn: Counter[bytes] = field(default_factory=Counter)
    found: list[PivotalToken] = field(default_factory=list)
    events: deque[Event] = field(default_factory=deque)
    ended: bool = False


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where the rollout of a request belongs."""

    owner: _OpenSearch
    draw: int
    place: int


@dataclass(eq=False)
class Scheduler:
    """Runs a strategy over problems; `statistics` is up to date at every moment.

    `given` maps the id of every problem to the completions to search instead of sampled ones.
    Tokens with a p-value are reported under control of false discoveries at level `fdr`.
    A rollout that is in the `journal` is not drawn again; `judge_again` asks the oracle for its
    verdict anew. Where the journal is closed nothing is drawn at all: what a search asks for and
    isn't there, it doesn't get.
    """

    backend: Backend
    oracle: Oracle
    strategy: Strategy
    sampling: Sampling
    prompting: Prompting = Prompting()
    given: Mapping[str, Sequence[TokenIds]] | None = None
    fdr: float = 0.1
    journal: Journal | None = None
    judge_again: bool = False
    statistics: Statistics = field(default_factory=Statistics, init=False)

    def __post_init__(self) -> None:
        self._discoveries = FalseDiscoveryControl(self.fdr)
        self._problems: Iterator[Problem] = iter(())
        self._open: deque[_OpenSearch] = deque()
        self._waiting: deque[Request] = deque()
        self._slots: dict[int, _Slot] = {}
        self._names: set[tuple[str, str]] = set()

    def run(self, problems: Iterable[Problem]) -> Iterator[Event]:
        """Searches the problems; yields what is found as soon as order allows.

        Raises what the dataset or the backend raises; what fails for one problem only is an
        `Ended` with its ProblemError.
        """
        self._problems = iter(problems)
        generated = self.backend.generate(self._pull, self.sampling)
        while True:
            with self.statistics.phase("generation"):
                finished = next(generated, None)
            if finished is not None:
                self._receive(*finished)
            yield from self._in_order()
            if finished is None:
                if not self._open:
                    return
                raise RuntimeError("the backend stopped before all its requests were finished")

    def held_back(self) -> Iterator[Event]:
        """What later problems have found while an earlier one is still searched: for a run that
        ends early and must lose nothing."""
        for search in self._open:
            yield from self._reported(search)

    def _in_order(self) -> Iterator[Event]:
        while self._open:
            first = self._open[0]
            yield from self._reported(first)
            if not first.ended:
                return
            self._open.popleft()

    def _reported(self, search: _OpenSearch) -> Iterator[Event]:
        while search.events:
            event = search.events.popleft()
            if isinstance(event, Found):
                p_value = event.token.p_value
                if p_value is not None and not self._discoveries.is_discovery(p_value):
                    self.statistics.undecided_tokens += 1
                    continue
                self.statistics.pivotal_tokens += 1
            yield event

    def _pull(self) -> Request | None:
        with self.statistics.phase("search"):
            while True:
                while self._waiting:
                    request = self._waiting.popleft()
                    if request.stream in self._slots:
                        return request
                problem = next(self._problems, None)
                if problem is None:
                    return None
                self._start(problem)

    def _start(self, problem: Problem) -> None:
        self.statistics.problems_seen += 1
        opened = _OpenSearch(problem)
        self._open.append(opened)
        try:
            self._check_name(problem)
            self._check_reference(problem)
            opened.prompt = self._prompt(problem)
            opened.is_decided = self._decision(problem)
            opened.log = Log(problem)
            if self.journal is not None:
                opened.log = self.journal.open(problem, opened.prompt)
            if opened.log.result is not None and not opened.log.is_closed:
                self._end_again(opened, opened.log)
                return
            seed = _stream(problem, b"", self.sampling.seed)
            opened.search = self.strategy(Task(problem, self._given_traces(problem), seed))
        except ProblemError as error:
            self._end(opened, error)
        else:
            self._advance(opened, None)

    def _check_name(self, problem: Problem) -> None:
        """Raises ProblemError for a second problem of a name: rollouts are kept by it."""
        name = problem.dataset_id, problem.id
        if name in self._names:
            raise ProblemError("an earlier problem has the same id; ids must differ")
        self._names.add(name)

    def _check_reference(self, problem: Problem) -> None:
        """Raises ProblemError, before anything is generated, where nothing could be judged."""
        if isinstance(self.oracle, ReferenceChecker):
            with self.statistics.phase("judging"), asking():
                self.oracle.reference_completion(problem)

    def _decision(self, problem: Problem) -> Callable[[TokenIds], bool] | None:
        """Tells of a completion whether its verdict is fixed, where the oracle can."""
        if not isinstance(self.oracle, EarlyDecider):
            return None
        is_decided = self.oracle.is_decided

        def ask(ids: TokenIds) -> bool:
            if len(ids) % DECIDED_EVERY:
                return False
            text = self.backend.decode(ids, skip_special_tokens=True)
            with self.statistics.phase("judging"), asking():
                return is_decided(problem, text)

        return ask

    def _prompt(self, problem: Problem) -> TokenIds:
        # Not str.format: braces in a template or a query are mathematics, not fields.
        query = self.prompting.template.replace("{query}", problem.query)
        prompt = self.backend.encode_prompt(
            query, system_prompt=self.prompting.system_prompt, chat=self.prompting.chat
        )
        limit, horizon = self.backend.context_length, self.sampling.horizon
        if not prompt:
            raise ProblemError("its prompt has no tokens")
        if limit is not None and len(prompt) + horizon > limit:
            raise ProblemError(
                f"its prompt of {len(prompt)} tokens and --max-new-tokens {horizon} exceed the "
                f"model's context of {limit} tokens; lower --max-new-tokens"
            )
        return prompt

    def _given_traces(self, problem: Problem) -> tuple[Trace, ...] | None:
        if self.given is None:
            return None
        traces = []
        for i, ids in enumerate(self.given[problem.id]):
            if not ids or ids[-1] not in self.backend.end_of_sequence:
                # A given completion is a finished one.
                ids = (*ids, self.backend.end_of_sequence[0])
            if len(ids) > self.sampling.horizon:
                raise ProblemError(
                    f"a given completion has {len(ids)} tokens, more than --max-new-tokens "
                    f"{self.sampling.horizon}"
                )
            traces.append(Trace(str(i), ids, bool(self._judge(problem, ids, truncated=False))))
        return tuple(traces)

    def _advance(self, opened: _OpenSearch, reply: Any) -> None:
        """Hands a search its reply and acts on what it asks, until it waits for rollouts."""
        assert opened.search is not None
        while not opened.ended:
            try:
                with self.statistics.phase("search"):
                    ask: Ask = opened.search.send(reply)
                reply = self._answer(opened, ask)
            except StopIteration as stop:
                self._end(opened, stop.value)
                return
            except ProblemError as error:
                self._end(opened, error)
                return
            if opened.missing:
                return

    def _answer(self, opened: _OpenSearch, ask: Ask) -> Any:
        """The reply to an ask. For draws that is None: their rollouts are on their way."""
        if isinstance(ask, PivotalToken):
            opened.found.append(ask)
            opened.events.append(Found(opened.problem, opened.prompt, ask))
            return None
        if isinstance(ask, Score):
            return self._score(opened, ask.trace)
        opened.replies = [[None] * d.count for d in ask]
        for i, wanted in enumerate(ask):
            self._submit(opened, i, wanted)
        return None if opened.missing else _complete(opened.replies)

    def _score(self, opened: _OpenSearch, trace: TokenIds) -> TokenScores:
        """The policy along a trace, from the journal if it is there."""
        assert opened.log is not None
        if trace not in opened.log.scores:
            if opened.log.is_closed:
                raise ProblemError("its journal has no token probabilities of a trace")
            self.statistics.scored_positions += len(trace)
            with self.statistics.phase("scoring"):
                scores = self.backend.score(opened.prompt, trace, self.sampling)
            _check_scores(scores, len(trace))
            opened.log.score(trace, scores)
            return scores
        return opened.log.scores[trace]

    def _submit(self, opened: _OpenSearch, index: int, wanted: Draw) -> None:
        """Queues the requests of a draw, each with a random stream of its own."""
        prefix = np.array(
            [-1 if t is None else t for t in (wanted.first_token, wanted.excluded_token)]
            + list(wanted.trace[: wanted.start]),
            dtype=np.int64,
        ).tobytes()
        for place in range(wanted.count):
            number = opened.drawn[prefix]
            opened.drawn[prefix] += 1
            request = Request(
                prompt=opened.prompt,
                trace=wanted.trace,
                start=wanted.start,
                stream=_stream(opened.problem, prefix, number),
                first_token=wanted.first_token,
                excluded_token=wanted.excluded_token,
                is_decided=opened.is_decided,
            )
            self._draw(opened, request, _Slot(opened, index, place))

    def _draw(self, opened: _OpenSearch, request: Request, slot: _Slot) -> None:
        """Takes a rollout from the journal if it is there; else the backend is asked for it."""
        assert opened.log is not None
        judged = opened.log.drawn.get(request.stream)
        if judged is None:
            if opened.log.is_closed:
                self.statistics.lacking_rollouts += 1
                return
            opened.missing += 1
            self._slots[request.stream] = slot
            self._waiting.append(request)
            return
        if self.judge_again:
            correct = self._judge_rollout(opened, request, judged.continuation)
            judged = Judged(judged.continuation, correct)
        self.statistics.kept_rollouts += 1
        self._deliver(slot, request, judged)

    def _receive(self, request: Request, result: Continuation | ProblemError) -> None:
        """Takes a rollout from the backend: it is judged, kept and handed to its search."""
        slot = self._slots.pop(request.stream, None)
        if slot is None:  # its problem has failed meanwhile
            return
        opened = slot.owner
        if isinstance(result, ProblemError):
            self._end(opened, result)
            return
        self.statistics.generated_tokens += len(result.ids)
        try:
            judged = Judged(result, self._judge_rollout(opened, request, result))
        except ProblemError as error:
            self._end(opened, error)
            return
        assert opened.log is not None
        opened.log.rollout(request, judged)
        self._deliver(slot, request, judged)
        opened.missing -= 1
        if not opened.missing:
            self._advance(opened, _complete(opened.replies))

    def _deliver(self, slot: _Slot, request: Request, judged: Judged) -> None:
        continuation, correct = judged
        self.statistics.rollouts += 1
        self.statistics.truncated_rollouts += continuation.truncated
        self.statistics.abstentions += correct is None
        slot.owner.replies[slot.draw][slot.place] = Rollout(
            request.start, continuation.ids, bool(correct), continuation.truncated
        )

    def _judge_rollout(
        self, opened: _OpenSearch, request: Request, continuation: Continuation
    ) -> bool | None:
        ids = request.trace[: request.start] + continuation.ids
        return self._judge(opened.problem, ids, continuation.truncated)

    def _judge(self, problem: Problem, ids: TokenIds, truncated: bool) -> bool | None:
        """The oracle's verdict on a completion. Raises ProblemError where it gives none."""
        text = self.backend.decode(ids, skip_special_tokens=True)
        with self.statistics.phase("judging"):
            return judge(self.oracle, problem, Completion(text, ids, truncated))

    def _end_again(self, opened: _OpenSearch, log: Log) -> None:
        """A problem that an earlier run has finished: what it found, from the journal."""
        assert log.result is not None
        outcome, tokens = log.result
        opened.events.extend(Found(opened.problem, opened.prompt, token) for token in tokens)
        self.statistics.rollouts += log.rollouts
        self.statistics.kept_rollouts += log.rollouts
        opened.log = None
        self._end(opened, outcome)

    def _end(self, opened: _OpenSearch, outcome: Outcome | ProblemError) -> None:
        opened.ended = True
        opened.drawn.clear()
        if opened.log is not None and isinstance(outcome, Outcome):
            opened.log.end(outcome, opened.found)
        elif opened.log is not None:
            opened.log.close()  # to be tried again by the next run
        opened.log = None
        counts = self.statistics
        if isinstance(outcome, ProblemError):
            counts.problems_failed += 1
            self._slots = {k: s for k, s in self._slots.items() if s.owner is not opened}
        elif outcome.skipped:
            counts.problems_skipped[outcome.skipped] += 1
        else:
            counts.problems_searched += 1
            counts.traces += outcome.traces
            counts.undecided_tokens += outcome.undecided
            counts.excluded_tokens += outcome.excluded
            counts.following += outcome.following
        opened.events.append(Ended(opened.problem, outcome))


def _check_scores(scores: TokenScores, length: int) -> None:
    if scores.probs.shape != (length,):
        raise ProblemError(
            f"the backend gave probabilities of shape {scores.probs.shape} for {length} tokens"
        )
    if not ((scores.probs >= 0) & (scores.probs <= 1 + 1e-6)).all():  # NaN fails both
        raise ProblemError("the backend gave token probabilities that are not between 0 and 1")


def _complete(replies: list[list[Rollout | None]]) -> list[tuple[Rollout, ...]]:
    """The rollouts of each draw; fewer than asked for where a closed journal lacks some."""
    return [tuple(r for r in reply if r is not None) for reply in replies]


def _stream(problem: Problem, prefix: bytes, number: int) -> int:
    """The random stream of the number-th rollout from a prefix: the same in every run."""
    digest = blake2b(digest_size=8)
    for part in (problem.dataset_id.encode(), problem.id.encode(), prefix, b"%d" % number):
        digest.update(len(part).to_bytes(8, "little") + part)
    return int.from_bytes(digest.digest(), "little")
