"""The datasets "hub", "file" and "reasoning-gym": of the Hub, local and generated."""

from __future__ import annotations

from pts_core.errors import UsageError
from pts_core.hookspecs import Factories, hookimpl
from pts_core.interfaces import Dataset


@hookimpl
def pts_datasets() -> Factories:
    return {"hub": load_hub, "file": load_file, "reasoning-gym": generate}


def load_hub(
    source: str,
    *,
    split: str | None = None,
    config: str | None = None,
    query_key: str | None = None,
    answer_key: str | None = None,
    max_problems: int | None = None,
) -> Dataset:
    """A dataset on the Hugging Face Hub, or a local folder laid out like one.

    Parameters
    ----------
    source
        A dataset id (owner/name) or a folder of data files.
    split
        The first of test, validation and train that there is, if not given.
    config
        The configuration, where there are several.
    query_key
        Column of the query; detected if not given.
    answer_key
        Column of the answer; detected if not given.
    max_problems
        Read only so many rows, and download no more than they need (--max-problems sets it).

    Raises UsageError for an option that doesn't fit the dataset, PtsError where the dataset can't
    be had or a row is no problem.
    """
    from pts_datasets.hub import load

    return load(source, split, config, query_key, answer_key, max_problems)


def load_file(
    source: str, *, query_key: str | None = None, answer_key: str | None = None
) -> Dataset:
    """A local .jsonl, .json, .csv or .parquet file.

    Parameters
    ----------
    source
        The file. A .json file is a list of objects, or holds one object a line as .jsonl does.
    query_key
        Column of the query; detected if not given.
    answer_key
        Column of the answer; detected if not given.

    Raises UsageError for a path or an option that doesn't fit, PtsError for bad content.
    """
    from pts_datasets.files import load

    return load(source, query_key, answer_key)


def generate(generator: str, *, size: int = 100, seed: int = 0) -> Dataset:
    """Problems that reasoning-gym generates (an extra: pivotal-token-search[reasoning-gym]).

    Parameters
    ----------
    generator
        Its name, such as chain_sum.
    size
        How many problems.
    seed
        The same seed gives the same problems.

    Raises UsageError for an unknown generator, PtsError where reasoning-gym is not installed.
    """
    from pts_datasets.reasoning import GeneratedProblems

    if size < 1:
        raise UsageError(f"--dataset.size must be at least 1, not {size}")
    return GeneratedProblems(generator, size, seed)
