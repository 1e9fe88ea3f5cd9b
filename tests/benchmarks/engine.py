"""Tokens a second of the engine, of transformers' generate and of its continuous batching.

    python tests/benchmarks/engine.py MODEL [--dtype bfloat16] [--repeats 3] [--problems 4]

The workload is that of the search: rollouts from several prefixes of one trace of each problem.
All ways draw the same number of rollouts from the same prefixes, in turn within one run; the
table has medians. "positions" are token positions that went through the model, padding included.
transformers' own ways run on the model as it loads it, the engine on the one that the backend has
packed. The GEMM bounds are what the weight matrices alone would allow, each in its own packing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pts_transformers import load
from pts_transformers.packing import PackedLinear
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from pts_core.types import Request, Sampling

QUESTIONS = (
    "A farmer has 12 hens. Each lays 3 eggs a day. How many eggs are there after 5 days?",
    "Tom reads 20 pages a day. How many pages does he read in two weeks?",
    "A shop sells pens at 3 dollars each. What do 17 pens cost?",
    "A train goes 60 miles an hour. How far does it go in 4 and a half hours?",
)
SAMPLING = Sampling(temperature=1.0, horizon=64, seed=1)
Outcome = tuple[int, int]  # generated tokens, positions computed


class Workload:
    """Requests from `prefixes` places in a trace of each problem, `rollouts` from each."""

    def __init__(self, backend: Any, problems: int, prefixes: int, rollouts: int) -> None:
        self.requests: list[Request] = []
        for question in QUESTIONS[:problems]:
            prompt = backend.encode_prompt(question)
            [trace] = drawn(backend, [Request(prompt, (), 0, stream=7)])
            for i in range(prefixes):
                start = i * (len(trace) - 1) // prefixes
                self.requests += [
                    Request(prompt, trace, start, 1000 * len(self.requests) + k)
                    for k in range(rollouts)
                ]


def drawn(backend: Any, requests: list[Request]) -> list[tuple[int, ...]]:
    waiting = list(reversed(requests))
    pull: Callable[[], Request | None] = lambda: waiting.pop() if waiting else None  # noqa: E731
    return [c.ids for _, c in backend.generate(pull, SAMPLING)]


def count_positions(model: Any, counts: list[int]) -> Any:
    def hook(_: Any, args: Any, named: Any) -> None:
        ids = named.get("input_ids", args[0] if args else None)
        counts.append(ids.numel())

    return model.register_forward_pre_hook(hook, with_kwargs=True)


def by_engine(backend: Any, work: Workload, batch: int) -> Outcome:
    counts: list[int] = []
    backend.engine.max_batch = batch
    hook = count_positions(backend.engine.model, counts)
    backend.engine.traces.forget()
    tokens = sum(len(ids) for ids in drawn(backend, work.requests))
    hook.remove()
    return tokens, sum(counts)


def by_generate(backend: Any, model: Any, work: Workload, batch: int, across: bool) -> Outcome:
    """Batches of one prefix at a time, or across prefixes and problems with left padding."""
    counts: list[int] = []
    tokens = 0
    hook = count_positions(model, counts)
    for group in _batches(work.requests, batch, across):
        prefixes = [r.prefix for r in group]
        width = max(map(len, prefixes))
        ids = torch.zeros(len(group), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, prefix in enumerate(prefixes):
            ids[i, width - len(prefix) :] = torch.tensor(prefix)
            mask[i, width - len(prefix) :] = 1
        longest = max(SAMPLING.horizon - r.start for r in group)
        config = GenerationConfig(
            do_sample=True,
            temperature=SAMPLING.temperature,
            top_k=0,
            max_new_tokens=longest,
            eos_token_id=list(backend.end_of_sequence),
            pad_token_id=backend.end_of_sequence[0],
        )
        with torch.inference_mode():
            out = model.generate(
                ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
            )
        for request, row in zip(group, out[:, width:].tolist(), strict=True):
            tokens += _length(row[: SAMPLING.horizon - request.start], backend.end_of_sequence)
    hook.remove()
    return tokens, sum(counts)


def by_continuous_batching(backend: Any, model: Any, work: Workload, batch: int) -> Outcome:
    """transformers' own server loop, with one horizon for all, up to which every token counts."""
    config = GenerationConfig(
        do_sample=True,
        temperature=SAMPLING.temperature,
        top_k=0,
        max_new_tokens=SAMPLING.horizon,
        eos_token_id=backend.end_of_sequence[0],
        pad_token_id=backend.end_of_sequence[0],
    )
    # Unbounded it takes most of the memory, and on a CPU attends over all of it at each step.
    longest = max(len(r.prefix) for r in work.requests) + SAMPLING.horizon
    paging = ContinuousBatchingConfig(
        page_size=32,
        num_blocks=batch * (longest // 32 + 1),
        max_batch_tokens=max(batch, longest),
        max_requests_per_batch=batch,
    )
    implementation = model.config._attn_implementation
    outputs = model.generate_batch(
        inputs=[list(r.prefix) for r in work.requests],
        generation_config=config,
        continuous_batching_config=paging,
    )
    model.set_attn_implementation(implementation)
    rows = [output.generated_tokens for output in outputs.values()]
    return sum(_length(row, backend.end_of_sequence) for row in rows), 0


def _batches(requests: list[Request], batch: int, across: bool) -> Iterator[list[Request]]:
    groups: dict[Any, list[Request]] = {}
    for request in requests:
        groups.setdefault(None if across else request.prefix, []).append(request)
    for group in groups.values():
        for i in range(0, len(group), batch):
            yield group[i : i + batch]


def _length(row: list[int], ends: tuple[int, ...]) -> int:
    return next((i + 1 for i, token in enumerate(row) if token in ends), len(row))


def load_plain(source: str, like: Any) -> Any:
    """The model as transformers itself loads it, of the type and in the place of another."""
    path = Path(source)
    file = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = str(path.parent) if file else source
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=like.dtype, **file)
    return model.eval().to(like.device)


def gemm_bound(model: Any, rows: int) -> float:
    """Tokens a second if a step were its weight matrices' products and nothing else."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear | PackedLinear)]
    widths = {layer.in_features for layer in layers}
    inputs = {w: torch.randn(rows, w, device=model.device, dtype=model.dtype) for w in widths}
    best = float("inf")
    with torch.inference_mode():
        for _ in range(5):
            start = time.perf_counter()
            for layer in layers:
                layer(inputs[layer.in_features])
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
    return rows / best


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the generation engine.")
    parser.add_argument("model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--prefixes", type=int, default=12)
    parser.add_argument("--rollouts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="*", default=None, help="only these rows of the table")
    parser.add_argument("--profile", action="store_true", help="of the engine, by operation")
    options = parser.parse_args()
    backend: Any = load(options.model, dtype=options.dtype, device=options.device)
    plain, default = load_plain(options.model, backend.engine.model), backend.engine.max_batch
    work = Workload(backend, options.problems, options.prefixes, options.rollouts)
    ways: dict[str, Callable[[], Outcome]] = {
        "generate, batch 5, a prefix at a time": lambda: by_generate(
            backend, plain, work, 5, False
        ),
        "generate, batch 32": lambda: by_generate(backend, plain, work, 32, True),
        "generate, batch 64": lambda: by_generate(backend, plain, work, 64, True),
        "continuous batching": lambda: by_continuous_batching(backend, plain, work, 64),
        "engine, batch 64": lambda: by_engine(backend, work, 64),
        f"engine, batch {default} (default)": lambda: by_engine(backend, work, default),
    }
    ways = {k: v for k, v in ways.items() if not options.ways or k.split(",")[0] in options.ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    seen: dict[str, Outcome] = {}
    for _ in range(options.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            seen[name] = way()
            rates[name].append(seen[name][0] / (time.perf_counter() - start))
    print(f"{options.model} as {backend.engine.model.dtype}, {torch.get_num_threads()} threads, ")
    print(f"{len(work.requests)} rollouts; medians of {options.repeats}")
    print(f"{'':40} {'tokens/s':>9} {'tokens':>8} {'positions':>10}")
    for name in ways:
        tokens, positions = seen[name]
        print(f"{name:40} {statistics.median(rates[name]):9.0f} {tokens:8,} {positions:10,}")
    for name, model in {"as loaded": plain, "packed": backend.engine.model}.items():
        for batch in (64, default):
            print(f"{f'GEMM bound of {batch} rows, {name}':40} {gemm_bound(model, batch):9.0f}")
    if options.profile:
        with profile(activities=[ProfilerActivity.CPU]) as measured:
            by_engine(backend, work, 64)
        print(measured.key_averages().table(sort_by="self_cpu_time_total", row_limit=18))


if __name__ == "__main__":
    main()
