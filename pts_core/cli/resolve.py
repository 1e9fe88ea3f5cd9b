"""From what a user typed to the thing it means: an oracle, a dataset, a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from pts_core.cli.options import build
from pts_core.errors import ProblemError, UsageError
from pts_core.interfaces import Backend, Dataset, Explainer, Oracle
from pts_core.plugins import Offer, Registry, is_file_location, load_object
from pts_core.types import Problem
from pts_core.verdicts import asking

FILE_SUFFIXES = {".jsonl", ".json", ".csv", ".parquet"}

Options = dict[str, str] | None
# What --chat means to Prompting.
CHAT = {"auto": None, "on": True, "off": False}
# Flags of `pts run` that stand for the search strategy's option of that name.
SEARCH_FLAGS = (
    *("prob_threshold", "num_samples", "min_prob", "max_prob", "traces_per_problem"),
    *("confidence", "max_rollouts"),
)


def build_oracle(registry: Registry, name: str, options: Options) -> Oracle:
    if not is_file_location(name):
        oracle: Oracle = build(registry.find("oracle", name), options)
        return oracle
    found = load_object(name)
    if isinstance(found, type):  # a class is a factory: its options are those of its constructor
        custom: Oracle = build(Offer("oracle", name, found, name), options)
        return custom
    if not callable(found):
        raise UsageError(f"--oracle {name} is not a function")
    if options:
        raise UsageError(f"--oracle {name} is a function and takes no options; a class may")
    function: Oracle = found
    return function


def build_dataset(
    registry: Registry,
    text: str,
    options: Options,
    shorthands: dict[str, str | None],
    max_problems: int | None = None,
) -> Dataset:
    """The dataset that `--dataset` means: name, adapter:source, local file, or Hub id.

    `max_problems` is for a dataset with an option of that name, which spares it the others.
    """
    adapter, colon, source = text.partition(":")
    subject: str | None
    if text in registry.names("dataset"):
        offer, subject = registry.find("dataset", text), None
    elif colon and adapter in registry.names("dataset"):
        offer, subject = registry.find("dataset", adapter), source
    elif Path(text).exists() or Path(text).suffix.lower() in FILE_SUFFIXES:
        offer, subject = registry.find("dataset", "file"), text
    else:
        offer, subject = registry.find("dataset", "hub"), text
    if max_problems is not None and "max_problems" in inspect.signature(offer.factory).parameters:
        shorthands = {**shorthands, "max_problems": str(max_problems)}
    dataset: Dataset = build(offer, options, subject=subject, shorthands=shorthands)
    return dataset


def model_source(registry: Registry, model: str) -> str:
    """What the backend loads: the folder behind a plugin's short name, or the model as given."""
    if model in registry.names("model"):
        return str(registry.find("model", model).factory())
    return model


def build_backend(
    registry: Registry,
    offer: Offer,
    options: Options,
    model: str,
    shorthands: Mapping[str, str | None] | None = None,
) -> Backend:
    """The backend on the model that `--model` means."""
    subject = model_source(registry, model)
    backend: Backend = build(offer, options, subject=subject, shorthands=shorthands)
    return backend


def explained(
    problems: Iterable[Problem], name: str, oracle: Oracle, say: Callable[[str], None]
) -> Iterator[Problem]:
    """Passes the problems on; the first that is judged in some way brings a line on how and why."""
    said: set[str] = set()
    for problem in problems:
        if isinstance(oracle, Explainer):
            with suppress(ProblemError), asking():
                how = oracle.explain(problem)
                if how not in said:
                    said.add(how)
                    say(f"oracle {name}: {how}")
        yield problem
