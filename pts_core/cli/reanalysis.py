"""`pts run --from-journal`: searches kept rollouts again, with no model."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pts_core.cli.options import build
from pts_core.cli.progress import Display
from pts_core.cli.resolve import CHAT, SEARCH_FLAGS, build_backend, build_oracle, explained
from pts_core.cli.session import Session, check_summary_path, conduct, interruptible
from pts_core.errors import UsageError
from pts_core.interfaces import Backend
from pts_core.journal import read_journal
from pts_core.plugins import Registry, discover
from pts_core.records import Output
from pts_core.scheduler import Prompting, Scheduler
from pts_core.search import Strategy
from pts_core.types import Sampling

OTHERS = {"oracle", "oracle_options", "search", "search_options", "fdr", "max_pairs"}
FILES = {"from_journal", "output_path", "overwrite", "summary_path", "quiet"}


def search_again(folder: Path, given: Mapping[str, Any]) -> int:
    """The command, from the options `given` to it, by name; the exit code.

    What the rollouts were drawn with comes from the journal. Raises UsageError for an option that
    would have changed them.
    """
    started = time.perf_counter()
    journal = read_journal(folder)
    kept = journal.options
    _refuse_fixed(folder, given)
    registry = discover()
    # Another strategy has other options: those of the journal's are not meant for it.
    asked = given if given["search"] else {n: _either(given, kept, n) for n in given}
    search = asked["search"]
    strategy: Strategy = build(
        registry.find("search", search),
        asked["search_options"],
        shorthands={name: asked[name] for name in SEARCH_FLAGS},
    )
    judge_again = given["oracle"] is not None or given["oracle_options"] is not None
    judging = given if judge_again else kept
    oracle = given["oracle"] or kept["oracle"]
    judge = build_oracle(registry, oracle, judging["oracle_options"])
    sampling = Sampling(
        **{key: kept[key] for key in ("temperature", "top_p", "top_k", "min_p", "seed")},
        horizon=kept["max_new_tokens"],
        stop=tuple(kept["stop"] or ()),
    )
    prompting = Prompting(
        kept["prompt_template"],
        kept["system_prompt"],
        CHAT[kept["chat"]],
    )
    check_summary_path(given["summary_path"])
    with interruptible(), Output(given["output_path"], replace=given["overwrite"]) as output:
        backend = _without_weights(registry, kept)
        scheduler = Scheduler(
            backend,
            judge,
            strategy,
            sampling,
            prompting,
            fdr=given["fdr"],
            journal=journal,
            judge_again=judge_again,
        )
        problems = journal.problems()
        display = Display(scheduler.statistics, len(problems), given["quiet"])
        if judge_again and journal.ends_early:
            display.warn(
                f"the rollouts in {folder} end where {kept['oracle']} had decided: another oracle "
                "may judge answers that are not whole"
            )
        model_id = kept["model"] if kept["model"] in registry.names("model") else backend.model_id
        session = Session(scheduler, display, output, model_id, search, given["max_pairs"])
        judged = explained(problems, oracle, judge, display.say)
        return conduct(session, judged, given["summary_path"], started, " with --overwrite")


def _without_weights(registry: Registry, kept: Mapping[str, Any]) -> Backend:
    """The backend, to encode and decode with; one that can is built without its weights."""
    offer = registry.find("backend", kept["backend"])
    shorthands = {"dtype": kept["dtype"]}
    if "weights" in inspect.signature(offer.factory).parameters:
        shorthands["weights"] = "false"
    return build_backend(registry, offer, kept["backend_options"], kept["model"], shorthands)


def _refuse_fixed(folder: Path, given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name not in {*SEARCH_FLAGS, *OTHERS, *FILES} and value != _default(name):
            flag = name.removesuffix("_options").replace("_", "-")
            raise UsageError(
                f"--{flag} does not go with --from-journal: the rollouts in {folder} are drawn"
            )


def _either(given: Mapping[str, Any], kept: Mapping[str, Any], name: str) -> Any:
    """The value that was given, or else the one of the journal."""
    return kept.get(name) if given[name] == _default(name) else given[name]


def _default(name: str) -> Any:
    from pts_core.cli.run import run

    return inspect.signature(run).parameters[name].default
