"""The datasets "hub" and "file": problems from the Hugging Face Hub and from local files."""

from __future__ import annotations

from pts_core.hookspecs import Factories, hookimpl
from pts_core.interfaces import Dataset


@hookimpl
def pts_datasets() -> Factories:
    return {"hub": load_hub, "file": load_file}


def load_hub(
    source: str,
    *,
    split: str | None = None,
    config: str | None = None,
    query_key: str | None = None,
    answer_key: str | None = None,
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

    Raises UsageError for an option that doesn't fit the dataset, PtsError where the dataset can't
    be had or a row is no problem.
    """
    from pts_datasets.hub import load

    return load(source, split, config, query_key, answer_key)


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
