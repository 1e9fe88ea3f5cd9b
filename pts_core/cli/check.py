"""`pts check`: is a data set judged rightly? Its own answers, or given completions, say."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from pts_core.cli.resolve import Options, build_dataset, build_oracle, explained
from pts_core.errors import ProblemError, PtsError
from pts_core.interfaces import Oracle, ReferenceChecker
from pts_core.plugins import discover
from pts_core.records import Record
from pts_core.traces import read_rows
from pts_core.types import Completion, Problem
from pts_core.verdicts import asking, judge

SHOWN = 20  # problems of one kind


def check(
    *,
    dataset: Annotated[str, Parameter(name="--dataset")] = "codelion/optillmbench",
    dataset_options: Annotated[Options, Parameter(name="--dataset")] = None,
    split: str | None = None,
    config: str | None = None,
    query_key: str | None = None,
    answer_key: str | None = None,
    oracle: Annotated[str, Parameter(name="--oracle")] = "auto",
    oracle_options: Annotated[Options, Parameter(name="--oracle")] = None,
    max_problems: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    completions_path: Path | None = None,
) -> int:
    """Judge the reference answers of a data set, which must all be correct; needs no model.

    The exit code is 1 if an answer is not accepted.

    Parameters
    ----------
    dataset
        As in `pts run`; --dataset.NAME sets an option of it.
    split
        Split of a Hub dataset.
    config
        Configuration of a Hub dataset.
    query_key
        Column of the query; detected if not given.
    answer_key
        Column of the answer; detected if not given.
    oracle
        As in `pts run`; --oracle.NAME sets an option.
    max_problems
        Take only the first so many problems.
    completions_path
        Judge the completions in this JSON-lines file instead: dataset_item_id (or query),
        completion and, perhaps, truncated.
    """
    registry = discover()
    judging = build_oracle(registry, oracle, oracle_options)
    columns = {
        "split": split,
        "config": config,
        "query_key": query_key,
        "answer_key": answer_key,
    }
    # Completions are matched with all problems: those of a later one are not strays.
    limit = max_problems if completions_path is None else None
    problems = build_dataset(registry, dataset, dataset_options, columns, limit)
    if problems.note:
        _say(f"{problems.dataset_id}: {problems.note}")
    if completions_path is None:
        chosen = explained(islice(problems, max_problems), oracle, judging, _say)
        verdicts = _judge_references(judging, chosen)
        lines = verdicts.lines("gold answers accepted", "not accepted")
        failed = verdicts.wrong or verdicts.abstained or verdicts.errors
    else:
        given = read_rows(completions_path, loaded := list(problems), _completion)
        chosen = islice((p for p in loaded if p.id in given), max_problems)
        verdicts = _judge_completions(judging, explained(chosen, oracle, judging, _say), given)
        lines = verdicts.lines("completions judged correct", "judged incorrect")
        failed = verdicts.errors
    if not verdicts.count:
        raise PtsError(f"dataset {dataset} has no reference answers to judge")
    print("\n".join(lines))
    return 1 if failed else 0


@dataclass
class Verdicts:
    """The ids of the problems with each verdict; `errors` by what was wrong with them."""

    right: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    abstained: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    errors: dict[str, list[str]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        failed = sum(len(ids) for ids in self.errors.values())
        return len(self.right) + len(self.wrong) + len(self.abstained) + failed

    def add(self, oracle: Oracle, problem: Problem, completion: Completion) -> None:
        try:
            verdict = judge(oracle, problem, completion)
        except ProblemError as error:
            self.fail(problem, str(error))
        else:
            if verdict is None:
                self.abstained.append(problem.id)
            else:
                (self.right if verdict else self.wrong).append(problem.id)

    def fail(self, problem: Problem, reason: str) -> None:
        reason = reason.removeprefix(f"problem {problem.id}: ")
        self.errors.setdefault(reason, []).append(problem.id)

    def lines(self, accepted: str, refused: str) -> list[str]:
        found = [f"{len(self.right)} of {self.count} {accepted}"]
        if self.wrong:
            found.append(f"{len(self.wrong)} {refused}: {_listed(self.wrong)}")
        if self.abstained:
            found.append(f"{len(self.abstained)} could not be judged: {_listed(self.abstained)}")
        if self.without:
            found.append(f"{len(self.without)} have no reference answer: {_listed(self.without)}")
        found += [f"{_listed(ids)}: {reason}" for reason, ids in self.errors.items()]
        return found


def _judge_references(oracle: Oracle, problems: Iterable[Problem]) -> Verdicts:
    """Judges what each oracle says must be correct, or else the answer as the data set has it."""
    verdicts = Verdicts()
    for problem in problems:
        reference: str | None = problem.answer
        if isinstance(oracle, ReferenceChecker):
            try:
                with asking():
                    reference = oracle.reference_completion(problem)
            except ProblemError as error:
                verdicts.fail(problem, str(error))
                continue
        if reference is None:
            verdicts.without.append(problem.id)
        else:
            verdicts.add(oracle, problem, Completion(reference, ()))
    return verdicts


def _judge_completions(
    oracle: Oracle, problems: Iterable[Problem], given: Mapping[str, Sequence[Completion]]
) -> Verdicts:
    verdicts = Verdicts()
    for problem in problems:
        for completion in given[problem.id]:
            verdicts.add(oracle, problem, completion)
    return verdicts


def _completion(row: Record) -> Completion:
    text, truncated = row.get("completion"), row.get("truncated", False)
    if not isinstance(text, str):
        raise ValueError("the row has no 'completion' text")
    if not isinstance(truncated, bool):
        raise ValueError("'truncated' must be true or false")
    return Completion(text, (), truncated)


def _listed(ids: list[str]) -> str:
    names = list(dict.fromkeys(ids))
    if len(names) == 1:
        return f"problem {names[0]}"
    if len(names) > SHOWN:
        return f"problems {', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
    return f"problems {', '.join(names[:-1])} and {names[-1]}"


def _say(line: str) -> None:
    print(line, file=sys.stderr)
