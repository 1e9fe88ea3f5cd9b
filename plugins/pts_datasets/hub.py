"""Problems from the Hugging Face Hub, or from a local folder laid out like a Hub dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from pts_core.errors import PtsError, UsageError
from pts_datasets.kinds import is_needed
from pts_datasets.known import UNKNOWN, Known, known
from pts_datasets.problems import Problems

PREFERRED_SPLITS = ("test", "validation", "train")


def load(
    source: str,
    split: str | None,
    config: str | None,
    query_key: str | None,
    answer_key: str | None,
    max_problems: int | None,
) -> Problems:
    """The problems of one split, or the first `max_problems` of them.

    Raises UsageError for a source that can be none, a configuration, split or column that is not
    there or must be chosen, and PtsError where the dataset can't be had or no row is a problem.
    """
    folder = Path(source).expanduser()
    if folder.is_file():
        raise UsageError(f"{source} is a file; give it as file:{source}")
    if not folder.is_dir() and _is_file_format(source):
        raise UsageError(f"{source} is a kind of file; give the path of a file")
    entry = UNKNOWN if folder.is_dir() else known(source)
    location = str(folder) if folder.is_dir() else entry.hub_id or source
    with _explaining(source):
        config = config or _config(source, location, entry)
        rows = _rows(source, location, config, split, max_problems)
        rows = _without_nested_columns(rows, (query_key, answer_key))
        columns = rows.column_names
        if max_problems is not None:
            rows = list(islice(rows, max_problems))
    problems = Problems(
        rows,
        dataset_id=folder.resolve().name if folder.is_dir() else location,
        source=f"dataset {source}",
        columns=columns,
        query_key=query_key,
        answer_key=answer_key,
        known=entry,
        cannot_mend=True,
    )
    if entry.config is not None:
        problems.note += f"; configuration {config}"
    return problems


def _rows(
    source: str, location: str, config: str | None, split: str | None, limit: int | None
) -> Any:
    """A split's rows: of a limited number, those that are not wanted are not even downloaded."""
    import datasets

    part = split is not None and ("[" in split or "+" in split)  # test[:100], say
    offline = datasets.config.HF_HUB_OFFLINE
    streaming = limit is not None and not part and not offline and not Path(location).is_dir()
    splits = datasets.load_dataset(location, config, streaming=streaming)
    rows = _chosen_split(source, splits, split)
    if rows is None:
        rows = datasets.load_dataset(location, config, split=split)
    if rows.features is None:  # streamed from a format that doesn't state them
        rows = rows._resolve_features()
    return rows


def _is_file_format(source: str) -> bool:
    """Is it what `datasets` calls a builder? That would take whatever lies in this folder."""
    return source.isidentifier() and bool(find_spec(f"datasets.packaged_modules.{source}"))


def _config(source: str, location: str, entry: Known) -> str | None:
    """The configuration of a known dataset; None leaves it to a dataset that has one to offer."""
    import datasets

    configs = datasets.get_dataset_config_names(location)
    if entry.config in configs:
        return entry.config
    if len(configs) > 1 and datasets.get_dataset_default_config_name(location) is None:
        raise UsageError(
            f"dataset {source} has several configurations; choose one with --config: "
            + ", ".join(configs)
        )
    return None


def _chosen_split(source: str, splits: Mapping[str, Any], wanted: str | None) -> Any:
    """The rows of a split; None for what only `datasets` can work out."""
    names = list(splits)
    if wanted is None:
        return splits[next((split for split in PREFERRED_SPLITS if split in names), names[0])]
    if wanted in names:
        return splits[wanted]
    if "[" in wanted or "+" in wanted:
        return None
    close = get_close_matches(wanted, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UsageError(
        f"dataset {source} has no split {wanted} (--split).{hint} Splits: {', '.join(names)}"
    )


def _without_nested_columns(rows: Any, keep: Sequence[str | None]) -> Any:
    """Lists, images and the like are seldom part of a problem, and slow to decode."""
    from datasets import features

    # Json, of newer versions, is a column with both texts and numbers.
    flat = (features.Value, features.ClassLabel, getattr(features, "Json", features.Value))

    def wanted(column: str, kind: Any) -> bool:
        return isinstance(kind, flat) or column in keep or is_needed(column)

    return rows.select_columns([c for c, kind in rows.features.items() if wanted(c, kind)])


@contextmanager
def _explaining(source: str) -> Iterator[None]:
    """Says whatever goes wrong in `datasets` in one line."""
    try:
        yield
    except PtsError:
        raise
    except Exception as error:  # it lets the exceptions of everything beneath it through
        raise _explained(source, error) from error


def _explained(source: str, error: Exception) -> PtsError:
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    # What generated the dataset failed at is in the cause.
    cause = (isinstance(error, DatasetGenerationError) and error.__cause__) or error
    text = " ".join(str(cause).split())
    if isinstance(error, HFValidationError):
        return UsageError(f"{source!r} is neither a dataset id (owner/name) nor a file or folder")
    if isinstance(error, DatasetNotFoundError) and "gated" in text:
        return PtsError(
            f"dataset {source} is gated: accept its terms on "
            f"https://huggingface.co/datasets/{source}, then log in with `hf auth login`"
        )
    if isinstance(error, DatasetNotFoundError):
        return PtsError(
            f"dataset {source} is not on the Hub, or is private: check how the id is written, "
            "or log in with `hf auth login`"
        )
    if (
        isinstance(error, ConnectionError | TimeoutError)
        or LocalEntryNotFoundError.__name__ in text
    ):
        offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE")
        return PtsError(
            f"dataset {source} is not in the local cache, and the Hub can't be reached"
            + (" (HF_HUB_OFFLINE is set)" if offline else "")
            + ": go online, or give the path of a local file"
        )
    if isinstance(error, ValueError) and "config" in text.lower():
        return UsageError(f"dataset {source}: {text}; choose one with --config")
    if isinstance(error, ValueError) and ("split" in text.lower() or "instruction" in text):
        return UsageError(f"dataset {source}: {text}; choose another with --split")
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{source}: no such dataset, and no file or folder with data ({text})")
    return PtsError(f"dataset {source} can't be loaded: {type(cause).__name__}: {text}")
