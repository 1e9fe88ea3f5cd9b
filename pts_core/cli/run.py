"""`pts run`: problems and a model in, pivotal tokens out."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from collections.abc import Iterable, Sized
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from pts_core.cli.options import build
from pts_core.cli.plugins import describe
from pts_core.cli.progress import Display
from pts_core.cli.reanalysis import search_again
from pts_core.cli.resolve import (
    CHAT,
    SEARCH_FLAGS,
    Options,
    build_backend,
    build_dataset,
    build_oracle,
    explained,
)
from pts_core.cli.session import Session, check_summary_path, conduct, interruptible
from pts_core.errors import PtsError, UsageError
from pts_core.interfaces import Backend, Dataset, EarlyDecider
from pts_core.journal import has_journal, journal_of, open_journal
from pts_core.plugins import Registry, discover, is_file_location
from pts_core.records import Output
from pts_core.scheduler import Prompting, Scheduler
from pts_core.search import Strategy
from pts_core.traces import read_traces
from pts_core.types import Problem, Sampling, TokenIds

MODEL = Group.create_ordered("Model and policy")
PROBLEMS = Group.create_ordered("Problems")
SEARCH = Group.create_ordered("Search")
OUTPUT = Group.create_ordered("Output")

# What may differ when a run goes on: how it is shown, where it runs, and how far it goes.
FREE = {
    *("device", "fdr", "max_problems", "max_pairs", "output_path", "overwrite", "from_journal"),
    *("summary_path", "quiet"),
}


def run(
    *,
    model: Annotated[str | None, Parameter(group=MODEL)] = None,
    backend: Annotated[str, Parameter(name="--backend", group=MODEL)] = "transformers",
    backend_options: Annotated[Options, Parameter(name="--backend", group=MODEL)] = None,
    device: Annotated[str | None, Parameter(group=MODEL)] = None,
    dtype: Annotated[str | None, Parameter(group=MODEL)] = None,
    temperature: Annotated[float, Parameter(group=MODEL, validator=Number(gt=0))] = 0.8,
    top_p: Annotated[float, Parameter(group=MODEL, validator=Number(gt=0, lte=1))] = 1.0,
    top_k: Annotated[int, Parameter(group=MODEL, validator=Number(gte=0))] = 0,
    min_p: Annotated[float, Parameter(group=MODEL, validator=Number(gte=0, lte=1))] = 0.0,
    stop: Annotated[list[str] | None, Parameter(group=MODEL, negative=())] = None,
    max_new_tokens: Annotated[int, Parameter(group=MODEL, validator=Number(gte=1))] = 512,
    seed: Annotated[int, Parameter(group=MODEL, validator=Number(gte=0, lt=2**64))] = 0,
    system_prompt: Annotated[str | None, Parameter(group=MODEL)] = None,
    prompt_template: Annotated[str, Parameter(group=MODEL)] = "{query}",
    chat: Annotated[Literal["auto", "on", "off"], Parameter(group=MODEL)] = "auto",
    dataset: Annotated[str, Parameter(name="--dataset", group=PROBLEMS)] = "codelion/optillmbench",
    dataset_options: Annotated[Options, Parameter(name="--dataset", group=PROBLEMS)] = None,
    split: Annotated[str | None, Parameter(group=PROBLEMS)] = None,
    config: Annotated[str | None, Parameter(group=PROBLEMS)] = None,
    query_key: Annotated[str | None, Parameter(group=PROBLEMS)] = None,
    answer_key: Annotated[str | None, Parameter(group=PROBLEMS)] = None,
    oracle: Annotated[str | None, Parameter(name="--oracle", group=PROBLEMS)] = None,
    oracle_options: Annotated[Options, Parameter(name="--oracle", group=PROBLEMS)] = None,
    max_problems: Annotated[int | None, Parameter(group=PROBLEMS, validator=Number(gte=1))] = None,
    shuffle: Annotated[bool, Parameter(group=PROBLEMS, negative=())] = False,
    traces_path: Annotated[Path | None, Parameter(group=PROBLEMS)] = None,
    search: Annotated[str | None, Parameter(name="--search", group=SEARCH)] = None,
    search_options: Annotated[Options, Parameter(name="--search", group=SEARCH)] = None,
    prob_threshold: Annotated[float | None, Parameter(group=SEARCH)] = None,
    num_samples: Annotated[int | None, Parameter(group=SEARCH)] = None,
    min_prob: Annotated[float | None, Parameter(group=SEARCH)] = None,
    max_prob: Annotated[float | None, Parameter(group=SEARCH)] = None,
    traces_per_problem: Annotated[int | None, Parameter(group=SEARCH)] = None,
    confidence: Annotated[float | None, Parameter(group=SEARCH)] = None,
    max_rollouts: Annotated[int | None, Parameter(group=SEARCH)] = None,
    fdr: Annotated[float, Parameter(group=SEARCH, validator=Number(gt=0, lte=1))] = 0.1,
    max_pairs: Annotated[int, Parameter(group=SEARCH, validator=Number(gte=1))] = 1000,
    output_path: Annotated[Path, Parameter(group=OUTPUT)] = Path("pivotal_tokens.jsonl"),
    overwrite: Annotated[bool, Parameter(group=OUTPUT, negative=())] = False,
    from_journal: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    summary_path: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    quiet: Annotated[bool, Parameter(group=OUTPUT, negative=())] = False,
) -> int:
    """Search problems for pivotal tokens of a model.

    Plugins have options of their own, as --oracle.tolerance 1e-6; `pts plugins show` lists them.

    Parameters
    ----------
    model
        A Hugging Face Hub id, a folder, or demo.
    backend
        What generates; --backend.NAME sets an option of it.
    device
        auto, cpu, cuda, cuda:1, mps (--backend.device).
    dtype
        auto, float32, bfloat16 or float16 (--backend.dtype).
    temperature
        Divides the logits before sampling.
    top_p
        Keeps the most probable tokens that make up this probability; 1 keeps all.
    top_k
        Keeps the k most probable tokens; 0 keeps all.
    min_p
        Keeps tokens with at least this share of the top token's probability; 0 keeps all.
    stop
        End an answer where this text appears; may be given several times.
    max_new_tokens
        The horizon: the most tokens an answer may have, counted from the end of the prompt.
    seed
        The same seed gives the same result.
    system_prompt
        Put before the query: as a system message in a chat, as text otherwise.
    prompt_template
        What the model is asked; {query} stands for the problem.
    chat
        Use the model's chat template: auto means if it has one.
    dataset
        A plugin's name (demo), a local .jsonl, .json, .csv or .parquet file, a Hub id, or
        adapter:source; --dataset.NAME sets an option of it.
    split
        Split of a Hub dataset.
    config
        Configuration of a Hub dataset.
    query_key
        Column of the query; detected if not given.
    answer_key
        Column of the answer; detected if not given.
    oracle
        What judges: a plugin's name or path/to/file.py:function [auto, which picks what fits each
        problem and says so]; --oracle.NAME sets an option.
    max_problems
        Take only the first so many problems, and download no more of a Hub dataset.
    shuffle
        Take the problems in an order drawn with --seed; needs the whole dataset.
    traces_path
        Search the completions in this JSON-lines file instead of sampled ones.
    search
        The search strategy [branching]; --search.NAME sets an option of it.
    prob_threshold
        A token is pivotal if it moves success probability by this much [0.2].
    num_samples
        Rollouts of the first round, which screens a problem; in bisection, of every estimate [10].
    min_prob
        Skip problems that are solved less often than this [0.2].
    max_prob
        Skip problems that are solved more often than this [0.8].
    traces_per_problem
        Answers to search of each problem, right and wrong ones in turn [2; bisection 1].
    confidence
        Of the intervals [0.95].
    max_rollouts
        Most rollouts for one candidate token [300; not in bisection].
    fdr
        Largest expected share of false ones among the reported tokens; bisection can't hold one.
    max_pairs
        Stop after so many pivotal tokens.
    output_path
        Where the pivotal tokens go: JSON lines. Every rollout is kept in a journal beside it, and
        the same command goes on where an earlier one stopped.
    overwrite
        Start afresh: replace the output and its journal.
    from_journal
        Search again the rollouts in this journal, with no model: with another --prob-threshold,
        --fdr or --oracle, say.
    summary_path
        Write the run in figures to this JSON file.
    quiet
        Print nothing but warnings and errors.
    """
    given = dict(locals())
    if from_journal is not None:
        return search_again(from_journal, given)
    search, oracle = search or "branching", oracle or "auto"
    options = {name: value for name, value in given.items() if name not in FREE}
    options |= {"search": search, "oracle": oracle, **_contents(oracle, traces_path)}
    if model is None:
        raise UsageError("--model is needed: a Hub id, a folder, or demo")
    started = time.perf_counter()
    if quiet or not sys.stderr.isatty():
        # Before their libraries are imported: their bars draw with control characters.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    registry = discover()
    strategy: Strategy = build(
        registry.find("search", search),
        search_options,
        shorthands={name: given[name] for name in SEARCH_FLAGS},
    )
    if "{query}" not in prompt_template:
        raise UsageError("--prompt-template must contain {query}")
    backend_offer = registry.find("backend", backend)
    judge = build_oracle(registry, oracle, oracle_options)
    if "" in (stop or []):
        raise UsageError("--stop needs a text: every answer would end at once")
    sampling = Sampling(temperature, top_p, top_k, min_p, max_new_tokens, seed, tuple(stop or ()))
    prompting = Prompting(prompt_template, system_prompt, CHAT[chat])
    check_summary_path(summary_path)
    folder = journal_of(output_path)
    may_replace = overwrite or has_journal(folder)
    with (
        interruptible(),
        open_journal(folder, options, overwrite=overwrite) as journal,
        Output(output_path, replace=may_replace) as output,
    ):
        problems = build_dataset(
            registry,
            dataset,
            dataset_options,
            {
                "split": split,
                "config": config,
                "query_key": query_key,
                "answer_key": answer_key,
            },
            max_problems if traces_path is None and not shuffle else None,
        )
        placed = {"device": device, "dtype": dtype}
        loaded = build_backend(registry, backend_offer, backend_options, model, placed)
        ends_early = isinstance(judge, EarlyDecider)
        journal.identify(getattr(loaded, "fingerprint", None), ends_early=ends_early)
        _check_context(loaded, sampling)
        order = _shuffled(problems, seed) if shuffle else problems
        traces, chosen = _choose(order, traces_path, loaded, max_problems)
        scheduler = Scheduler(
            loaded, judge, strategy, sampling, prompting, traces, fdr, journal=journal
        )
        scheduler.statistics.seconds["loading"] = time.perf_counter() - started
        model_id = model if model in registry.names("model") else loaded.model_id
        display = Display(scheduler.statistics, _size(problems, traces, max_problems), quiet)
        _announce(display, registry, loaded, problems)
        session = Session(scheduler, display, output, model_id, search, max_pairs)
        chosen = explained(chosen, oracle, judge, display.say)
        code = conduct(session, chosen, summary_path, started)
    if not scheduler.statistics.problems_seen:
        raise PtsError(f"dataset {dataset} has no problems")
    return code


def _contents(oracle: str, traces_path: Path | None) -> dict[str, str]:
    """What the files that give a run its meaning hold, as hashes."""
    code = Path(oracle.rpartition(":")[0]) if is_file_location(oracle) else None
    files = {"oracle_content": code, "traces_path_content": traces_path}
    return {
        name: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for name, path in files.items()
        if path is not None and path.is_file()
    }


def _check_context(backend: Backend, sampling: Sampling) -> None:
    limit = backend.context_length
    if limit is not None and sampling.horizon >= limit:
        raise UsageError(
            f"--max-new-tokens {sampling.horizon} leaves no room for a prompt in the model's "
            f"context of {limit} tokens"
        )


def _shuffled(problems: Iterable[Problem], seed: int) -> list[Problem]:
    order = list(problems)
    random.Random(seed).shuffle(order)
    return order


def _choose(
    problems: Iterable[Problem], traces_path: Path | None, backend: Backend, limit: int | None
) -> tuple[dict[str, list[TokenIds]] | None, Iterable[Problem]]:
    """The given traces, if any, and the problems to search."""
    if traces_path is None:
        return None, islice(problems, limit)
    given = read_traces(traces_path, problems, backend.encode)
    return given, islice((p for p in problems if p.id in given), limit)


def _size(problems: Dataset, given: dict[str, Any] | None, limit: int | None) -> int | None:
    if given is not None:
        size: int | None = len(given)
    else:
        size = len(problems) if isinstance(problems, Sized) else None
    if size is None or limit is None:
        return limit if size is None else size
    return min(size, limit)


def _announce(display: Display, registry: Registry, backend: Backend, problems: Dataset) -> None:
    for plugin in registry.plugins:
        if plugin.status == "broken":
            display.warn(f"plugin {plugin.name} ({plugin.origin}) is {describe(plugin)}")
    if note := getattr(backend, "note", ""):
        display.say(f"{backend.model_id}: {note}")
    if problems.note:
        display.say(f"{problems.dataset_id}: {problems.note}")
