"""The journal: every rollout of a run, kept as it finishes, so that none is ever drawn twice.

A folder next to the output. `run.json` holds the options that give the run its meaning and the
fingerprint of the model, and every problem has a file of its own: going on takes the memory of the
problems that are open, whatever else there is. A file is JSON lines, each with its `kind`:

    problem  the dataset's row, its place in the run and the prompt's ids; always the first line
    trace    a completion that rollouts start from: `n` numbers them within the file
    rollout  `ids` drawn from prefix `start` of trace `trace`; `correct` is null for an abstention
    score    the policy along a trace, its arrays in base64
    end      the outcome and the pivotal tokens: this problem is done

A line without its end, from a run that was killed, is dropped. The random stream of a rollout is
its name: a search that is run again asks for the same streams and is answered from the file.
"""

from __future__ import annotations

import base64
import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

import pts_core
from pts_core.errors import PtsError, UsageError
from pts_core.search.conversation import Outcome
from pts_core.types import (
    Alternative,
    Continuation,
    PivotalToken,
    Problem,
    Request,
    TokenIds,
    TokenScores,
    Trace,
)

VERSION = 1
HEAD = "run.json"
LOCK = "lock"
# An option that may differ where a fingerprint says that the model is the same.
BACKEND = "backend_options"


class Judged(NamedTuple):
    """A continuation with its verdict on the whole completion; None is an abstention."""

    continuation: Continuation
    correct: bool | None


@dataclass
class Log:
    """The journal of one problem: what earlier runs left in it, and where to write.

    Without a `file` nothing is written; `is_closed` says that nothing can be drawn any more.
    """

    problem: Problem
    prompt: TokenIds = ()
    traces: dict[TokenIds, int] = field(default_factory=dict)
    drawn: dict[int, Judged] = field(default_factory=dict)
    scores: dict[TokenIds, TokenScores] = field(default_factory=dict)
    result: tuple[Outcome, list[PivotalToken]] | None = None
    rollouts: int = 0
    is_closed: bool = False
    size: int = 0  # bytes of whole lines that are there
    file: IO[str] | None = None

    def write(self, kind: str, **fields: Any) -> None:
        """Appends a line and hands it to the operating system."""
        if self.file is None:
            return
        try:
            self.file.write(json.dumps({"kind": kind, **fields}, separators=(",", ":")) + "\n")
            self.file.flush()
        except OSError as error:
            raise PtsError(
                f"cannot write the journal {self.file.name}: {error.strerror}; make space and run "
                "the same command again, it goes on from here"
            ) from error

    def rollout(self, request: Request, judged: Judged) -> None:
        self.rollouts += 1
        if self.file is not None:
            self.write(
                "rollout",
                stream=request.stream,
                trace=self._trace(request.trace),
                start=request.start,
                ids=judged.continuation.ids,
                truncated=judged.continuation.truncated,
                correct=judged.correct,
            )

    def score(self, trace: TokenIds, scores: TokenScores) -> None:
        if self.file is not None:
            arrays = {name: _packed(getattr(scores, name)) for name in TokenScores.__slots__}
            self.write("score", trace=self._trace(trace), **arrays)

    def end(self, outcome: Outcome, tokens: list[PivotalToken]) -> None:
        if self.file is not None:
            found = [{**asdict(t), "trace": self._kept(t.trace)} for t in tokens]
            self.write("end", rollouts=self.rollouts, outcome=asdict(outcome), tokens=found)
        self.close()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def _trace(self, ids: TokenIds) -> int:
        """The number of a trace, which is written when it is new."""
        if ids not in self.traces:
            self.traces[ids] = len(self.traces)
            self.write("trace", n=self.traces[ids], ids=ids)
        return self.traces[ids]

    def _kept(self, trace: Trace) -> dict[str, Any]:
        return {**asdict(trace), "ids": self._trace(trace.ids)}


class Journal:
    """The journals of all problems of a run, in `folder`. One that `is_closed` is only read.

    What an earlier run has left there is there until this one begins, if it is to `overwrite` it.
    """

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, Any],
        *,
        overwrite: bool = False,
        is_closed: bool = False,
    ) -> None:
        self.folder = folder
        self.options = options
        self.is_closed = is_closed
        self._overwrite = overwrite
        self._count = 0
        self._fingerprint: str | None = None
        self.ends_early = is_closed and bool(read_head(folder).get("ends_early"))

    def identify(self, fingerprint: str | None, *, ends_early: bool = False) -> None:
        """Says which model this is, and whether its oracle may end a rollout (EarlyDecider).
        Raises UsageError where the journal is of another model.

        Backends that can tell have a `fingerprint`; None is one that can't.
        """
        self._fingerprint, self.ends_early = fingerprint, ends_early
        if has_journal(self.folder) and not self._overwrite:
            head = read_head(self.folder)
            if head.get("fingerprint") != fingerprint:
                raise UsageError(
                    f"{self.folder} was made with another model of this name, tokenizer or dtype: "
                    "use that, give another --output-path, or --overwrite to start afresh"
                )
            if fingerprint is None:
                _compare(self.folder, head["options"], self.options, [BACKEND])

    def open(self, problem: Problem, prompt: TokenIds) -> Log:
        """The log of a problem, with what is in it already; further lines go to its end.

        Raises UsageError where it is of another problem of that name, PtsError where it is damaged
        or can't be written.
        """
        if not self._count and not self.is_closed:
            self._begin()
        self._count += 1
        path = self.folder / _file_name(problem)
        log = read_log(path) if path.exists() else None
        if log is not None:
            if _row(log.problem) != _row(problem) or log.prompt != prompt:
                raise UsageError(
                    f"problem {problem.id} is not the one in {self.folder}: the dataset, the "
                    "tokenizer or the prompt has changed; give another --output-path, or "
                    "--overwrite"
                )
            log.is_closed = self.is_closed
            if log.result is None and not self.is_closed:
                log.file = _open(path, "a")
                log.file.truncate(log.size)
            return log
        log = Log(problem, prompt, is_closed=self.is_closed)
        if not self.is_closed:
            log.file = _open(path, "w")
            log.write("problem", place=self._count, prompt=prompt, **_row(problem))
        return log

    def problems(self) -> list[Problem]:
        """Those that have a file, in the order of the run."""
        lines = [_first_line(path) for path in self.folder.glob("*.jsonl")]
        heads = sorted((head for head in lines if head), key=lambda head: int(head["place"]))
        return [_problem(head) for head in heads]

    def _begin(self) -> None:
        if self._overwrite:
            for path in (self.folder / HEAD, *self.folder.glob("*.jsonl")):
                path.unlink(missing_ok=True)
            self._overwrite = False
        if not (self.folder / HEAD).exists():
            head = {"version": VERSION, "pts_version": pts_core.__version__}
            head |= {"fingerprint": self._fingerprint, "ends_early": self.ends_early}
            head |= {"options": self.options}
            text = json.dumps(head, indent=1, default=str)
            _write_atomically(self.folder / HEAD, text + "\n")


def journal_of(output_path: Path) -> Path:
    """The folder of the journal that belongs to an output."""
    return output_path.parent / f"{output_path.stem}.journal"


@contextmanager
def open_journal(folder: Path, options: Mapping[str, Any], *, overwrite: bool) -> Iterator[Journal]:
    """The journal to write: an earlier one of the same options, or a new one. Locked meanwhile.

    Raises UsageError where another process has it, or where an option has another value in it.
    """
    options = json.loads(json.dumps(dict(options), default=str))
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}") from error
    with _locked(folder):
        try:
            if has_journal(folder) and not overwrite:
                kept = read_head(folder)["options"]
                _compare(folder, kept, options, sorted({*kept, *options} - {BACKEND}))
            yield Journal(folder, options, overwrite=overwrite)
        finally:
            if not has_journal(folder):  # nothing has begun
                with suppress(OSError):
                    (folder / LOCK).unlink()
                    folder.rmdir()


def has_journal(folder: Path) -> bool:
    return (folder / HEAD).exists()


def read_journal(folder: Path) -> Journal:
    """A journal to search again without drawing anything."""
    return Journal(folder, read_head(folder)["options"], is_closed=True)


def read_head(folder: Path) -> dict[str, Any]:
    try:
        head: dict[str, Any] = json.loads((folder / HEAD).read_text())
        version = head["version"]
    except OSError as error:
        raise UsageError(f"{folder} is no journal of a run: it has no {HEAD}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PtsError(f"{folder / HEAD} is damaged: {error}") from error
    if version != VERSION:
        raise PtsError(f"{folder} has journal version {version}; this pts reads {VERSION}")
    return head


def read_log(path: Path) -> Log | None:
    """What a problem's file says; None if not even its first line is whole.

    A torn last line is left out; any other damage is an error.
    """
    good, log = 0, None
    traces: list[TokenIds] = []
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                if log is None:
                    log = Log(_problem(entry), tuple(entry["prompt"]))
                else:
                    _take(log, traces, entry)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise PtsError(f"the journal {path} is damaged at byte {good}: {error}") from error
            good += len(line)
    if log is None:
        return None
    log.size = good
    log.traces = {ids: n for n, ids in enumerate(traces)}
    return log


def _take(log: Log, traces: list[TokenIds], entry: dict[str, Any]) -> None:
    kind = entry["kind"]
    if kind == "trace":
        traces.append(tuple(entry["ids"]))
    elif kind == "rollout":
        continuation = Continuation(tuple(entry["ids"]), entry["truncated"])
        log.drawn[entry["stream"]] = Judged(continuation, entry["correct"])
        log.rollouts += 1
    elif kind == "score":
        arrays = {name: _unpacked(entry[name]) for name in TokenScores.__slots__}
        log.scores[traces[entry["trace"]]] = TokenScores(**arrays)
    elif kind == "end":
        outcome = entry["outcome"]
        outcome["following"] = tuple(outcome["following"])
        outcome["lacking"] = ()
        log.result = Outcome(**outcome), [_token(token, traces) for token in entry["tokens"]]
        log.rollouts = entry["rollouts"]
    else:
        raise ValueError(f"unknown kind {kind!r}")


def _token(entry: dict[str, Any], traces: list[TokenIds]) -> PivotalToken:
    kept = entry["trace"]
    alternatives = [
        Alternative(**{**other, "interval": tuple(other["interval"])})
        for other in entry["alternatives"]
    ]
    changes = {
        "trace": Trace(**{**kept, "ids": traces[kept["ids"]]}),
        "interval": tuple(entry["interval"]),
        "rollouts": tuple(entry["rollouts"]),
        "alternatives": tuple(alternatives),
    }
    return PivotalToken(**{**entry, **changes})


def _problem(head: dict[str, Any]) -> Problem:
    return Problem(**{name: head[name] for name in Problem.__slots__})


def _first_line(path: Path) -> dict[str, Any] | None:
    """None where it is torn."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        head: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
    except ValueError as error:
        raise PtsError(f"the journal {path} is damaged: {error}") from error
    return head


def _row(problem: Problem) -> Any:
    """A problem as JSON keeps it."""
    return json.loads(json.dumps(asdict(problem), default=str))


def _file_name(problem: Problem) -> str:
    name = f"{problem.dataset_id}\0{problem.id}".encode()
    return f"{blake2b(name, digest_size=12).hexdigest()}.jsonl"


def _packed(array: Any) -> dict[str, Any]:
    text = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": array.shape, "data": text}


def _unpacked(packed: dict[str, Any]) -> Any:
    data = np.frombuffer(base64.b64decode(packed["data"]), dtype=packed["dtype"])
    return data.reshape(packed["shape"])


def _compare(
    folder: Path, kept: Mapping[str, Any], options: Mapping[str, Any], names: Iterable[str]
) -> None:
    for name in names:
        then, now = kept.get(name), options.get(name)
        if then == now:
            continue
        flag = "--" + name.removesuffix("_content").removesuffix("_options").replace("_", "-")
        if name.endswith("_content"):
            judged = "; --from-journal judges its rollouts by the new one" * (flag == "--oracle")
            raise UsageError(
                f"the file of {flag} has changed since {folder} was made: give another "
                f"--output-path, or --overwrite to start afresh{judged}"
            )
        raise UsageError(
            f"{folder} was made with {flag} {_said(then)}, not {_said(now)}: use that, give "
            "another --output-path, or --overwrite to start afresh"
        )


def _said(value: Any) -> str:
    return "unset" if value is None else str(value)


def _open(path: Path, mode: str) -> IO[str]:
    try:
        return path.open(mode, encoding="utf-8")
    except OSError as error:
        raise PtsError(f"cannot write the journal {path}: {error.strerror}") from error


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        raise PtsError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process at a time; the lock goes with the process, however it ends."""
    with _open(folder / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"another process is writing {folder}: wait for it, or give another --output-path"
            ) from error
        yield
