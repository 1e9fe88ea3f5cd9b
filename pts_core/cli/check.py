"""`pts check`: is a data set judged rightly? Its own answers, or given completions, say."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from pts_core.cli.resolve import Options, build_dataset, build_oracle, explained
from pts_core.errors import ProblemError, PtsError, in_one_line
from pts_core.interfaces import Oracle, ReferenceChecker
from pts_core.plugins import discover
from pts_core.records import Record
from pts_core.traces import read_rows
from pts_core.types import Completion, Problem

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
    judge = build_oracle(registry, oracle, oracle_options)
    columns = {
        "split": split,
        "config": config,
        "query_key": query_key,
        "answer_key": answer_key,
    }
    problems = build_dataset(registry, dataset, dataset_options, columns, max_problems)
    if problems.note:
        _say(f"{problems.dataset_id}: {problems.note}")
    chosen = explained(islice(problems, max_problems), oracle, judge, _say)
    if completions_path is None:
        verdicts = _judge_references(judge, chosen)
        lines = verdicts.lines("gold answers accepted", "not accepted")
        failed = verdicts.wrong or verdicts.abstained or verdicts.errors
    else:
        loaded = list(chosen)
        verdicts = _judge_completions(judge, loaded, completions_path)
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

    def add(self, judge: Oracle, problem: Problem, completion: Completion) -> None:
        try:
            verdict = judge(problem, completion)
        except ProblemError as error:
            self.fail(problem, str(error))
        except Exception as error:  # anything can go wrong in foreign code
            self.fail(problem, f"the oracle raised {in_one_line(error)}")
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


def _judge_references(judge: Oracle, problems: Iterable[Problem]) -> Verdicts:
    """Judges what each oracle says must be correct, or else the answer as the data set has it."""
    verdicts = Verdicts()
    for problem in problems:
        reference: str | None = problem.answer
        if isinstance(judge, ReferenceChecker):
            try:
                reference = judge.reference_completion(problem)
            except ProblemError as error:
                verdicts.fail(problem, str(error))
                continue
        if reference is None:
            verdicts.without.append(problem.id)
        else:
            verdicts.add(judge, problem, Completion(reference, ()))
    return verdicts


def _judge_completions(judge: Oracle, problems: list[Problem], path: Path) -> Verdicts:
    verdicts = Verdicts()
    given = read_rows(path, problems, _completion)
    for problem in problems:
        for completion in given.get(problem.id, ()):
            verdicts.add(judge, problem, completion)
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
