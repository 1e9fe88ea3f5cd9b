"""`pts run`: problems and a model in, pivotal tokens out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sized
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from pts_core.cli import INTERRUPTED
from pts_core.cli.options import build
from pts_core.cli.plugins import describe
from pts_core.cli.progress import Display, print_strongest, print_summary
from pts_core.cli.resolve import Options, build_dataset, build_oracle, model_source
from pts_core.cli.session import Outputs, Session
from pts_core.errors import PtsError, UsageError
from pts_core.interfaces import Backend, Dataset
from pts_core.plugins import Registry, discover
from pts_core.scheduler import Prompting, Scheduler, Statistics
from pts_core.search import Strategy
from pts_core.traces import read_traces
from pts_core.types import Problem, Sampling, TokenIds

# So many standard errors come about by chance once in two million runs.
MISMATCH = 5.0

MODEL = Group.create_ordered("Model and policy")
PROBLEMS = Group.create_ordered("Problems")
SEARCH = Group.create_ordered("Search")
OUTPUT = Group.create_ordered("Output")


def run(
    *,
    model: Annotated[str, Parameter(group=MODEL)],
    backend: Annotated[str, Parameter(name="--backend", group=MODEL)] = "transformers",
    backend_options: Annotated[Options, Parameter(name="--backend", group=MODEL)] = None,
    device: Annotated[str | None, Parameter(group=MODEL)] = None,
    dtype: Annotated[str | None, Parameter(group=MODEL)] = None,
    temperature: Annotated[float, Parameter(group=MODEL, validator=Number(gt=0))] = 0.8,
    top_p: Annotated[float, Parameter(group=MODEL, validator=Number(gt=0, lte=1))] = 1.0,
    top_k: Annotated[int, Parameter(group=MODEL, validator=Number(gte=0))] = 0,
    min_p: Annotated[float, Parameter(group=MODEL, validator=Number(gte=0, lte=1))] = 0.0,
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
    oracle: Annotated[str, Parameter(name="--oracle", group=PROBLEMS)] = "math",
    oracle_options: Annotated[Options, Parameter(name="--oracle", group=PROBLEMS)] = None,
    max_problems: Annotated[int | None, Parameter(group=PROBLEMS, validator=Number(gte=1))] = None,
    traces_path: Annotated[Path | None, Parameter(group=PROBLEMS)] = None,
    search: Annotated[str, Parameter(name="--search", group=SEARCH)] = "branching",
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
        What judges: a plugin's name or path/to/file.py:function; --oracle.NAME sets an option.
    max_problems
        Take only the first so many problems.
    traces_path
        Search the completions in this JSON-lines file instead of sampled ones.
    search
        The search strategy; --search.NAME sets an option of it.
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
        Where the pivotal tokens go: JSON lines.
    overwrite
        Replace the output if it exists.
    summary_path
        Write the run in figures to this JSON file.
    quiet
        Print nothing but warnings and errors.
    """
    started = time.perf_counter()
    if quiet or not sys.stderr.isatty():
        # Before their libraries are imported: their bars draw with control characters.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    registry = discover()
    strategy: Strategy = build(
        registry.find("search", search),
        search_options,
        shorthands={
            "prob_threshold": prob_threshold,
            "num_samples": num_samples,
            "min_prob": min_prob,
            "max_prob": max_prob,
            "traces_per_problem": traces_per_problem,
            "confidence": confidence,
            "max_rollouts": max_rollouts,
        },
    )
    if "{query}" not in prompt_template:
        raise UsageError("--prompt-template must contain {query}")
    backend_offer = registry.find("backend", backend)
    judge = build_oracle(registry, oracle, oracle_options)
    sampling = Sampling(temperature, top_p, top_k, min_p, max_new_tokens, seed)
    prompting = Prompting(
        prompt_template, system_prompt, {"auto": None, "on": True, "off": False}[chat]
    )
    with Outputs.open(output_path, summary_path, overwrite=overwrite) as outputs:
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
        )
        loaded: Backend = build(
            backend_offer,
            backend_options,
            subject=model_source(registry, model),
            shorthands={"device": device, "dtype": dtype},
        )
        _check_context(loaded, sampling)
        given, chosen = _choose(problems, traces_path, loaded, max_problems)
        scheduler = Scheduler(loaded, judge, strategy, sampling, prompting, given, fdr)
        scheduler.statistics.seconds["loading"] = time.perf_counter() - started
        model_id = model if model in registry.names("model") else loaded.model_id
        display = Display(scheduler.statistics, _size(problems, given, max_problems), quiet)
        _announce(display, registry, problems)
        session = Session(scheduler, display, outputs, model_id, max_pairs)
        try:
            with display.running():
                session.search(chosen)
        except KeyboardInterrupt:
            display.warn(f"interrupted: {len(session.records)} pivotal tokens are in {output_path}")
            return INTERRUPTED
        finally:
            seconds = time.perf_counter() - started
            outputs.write_summary(session.summary(seconds, search))
    _check_following(display, scheduler.statistics)
    if not scheduler.statistics.problems_seen:
        raise PtsError(f"dataset {dataset} has no problems")
    if not quiet:
        print_summary(scheduler.statistics, seconds)
        print_strongest(session.records)
        print(f"{len(session.records)} pivotal tokens written to {output_path}")
    return 1 if scheduler.statistics.problems_failed else 0


def _check_context(backend: Backend, sampling: Sampling) -> None:
    limit = backend.context_length
    if limit is not None and sampling.horizon >= limit:
        raise UsageError(
            f"--max-new-tokens {sampling.horizon} leaves no room for a prompt in the model's "
            f"context of {limit} tokens"
        )


def _choose(
    problems: Dataset, traces_path: Path | None, backend: Backend, limit: int | None
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


def _check_following(display: Display, counts: Statistics) -> None:
    if abs(counts.following_score) > MISMATCH:
        followed, mean, _ = counts.following
        display.warn(
            f"WARNING: the backend's probabilities do not match its samples: rollouts took the "
            f"next token of a trace {followed:,.0f} times where {mean:,.0f} were expected "
            f"({counts.following_score:+.1f} standard errors); don't trust the pivotal tokens"
        )


def _announce(display: Display, registry: Registry, problems: Dataset) -> None:
    for plugin in registry.plugins:
        if plugin.status == "broken":
            display.warn(f"plugin {plugin.name} ({plugin.origin}) is {describe(plugin)}")
    if problems.note:
        display.say(f"{problems.dataset_id}: {problems.note}")
