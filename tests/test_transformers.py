"""The backend "transformers", on tiny random models of real classes and one real small model."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from pts_transformers import load, loading
from pts_transformers.backend import TransformersBackend
from pts_transformers.columns import Columns
from pts_transformers.memory import OutOfMemory
from pts_transformers.policy import RowError, draw, policy
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    MinPLogitsWarper,
    PreTrainedTokenizerFast,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pts_core.errors import ProblemError, PtsError, UsageError
from pts_core.randomness import uniforms
from pts_core.scheduler import Ended, Scheduler
from pts_core.search.conversation import Draw, Outcome, Search, Task
from pts_core.search.conversation import draw as draw_rollouts
from pts_core.types import Completion, Continuation, Problem, Request, Rollout, Sampling

VOCABULARY = 64
END = 62
CONTEXT = 40

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # wide, for a policy that is far from uniform
    "bos_token_id": 61,
    "eos_token_id": END,
}
LLAMA_LIKE = SIZES | {"num_key_value_heads": 2, "intermediate_size": 64}
HYBRID = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**LLAMA_LIKE),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA_LIKE),
    "mistral-sliding": lambda: transformers.MistralConfig(**LLAMA_LIKE, sliding_window=6),
    "gemma3": lambda: transformers.Gemma3TextConfig(**LLAMA_LIKE, head_dim=8, sliding_window=6),
    "phi": lambda: transformers.PhiConfig(**SIZES, intermediate_size=64, partial_rotary_factor=0.5),
    "gpt2": lambda: transformers.GPT2Config(**SIZES),
    "gpt-neo": lambda: transformers.GPTNeoConfig(  # looks at the number of keys
        **{k: v for k, v in SIZES.items() if k != "num_hidden_layers"},
        **{"attention_types": [[["global", "local"], 1]], "window_size": 6, "num_layers": 2},
    ),
    "gemma4-shared-keys": lambda: transformers.Gemma4TextConfig(
        **{**LLAMA_LIKE, "num_hidden_layers": 4, "num_kv_shared_layers": 2},
        **{"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 6},
        **{"head_dim": 8, "global_head_dim": 8},
        **{"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8},
    ),
    "qwen3-next": lambda: transformers.Qwen3NextConfig(
        **LLAMA_LIKE, **HYBRID, layer_types=["linear_attention", "full_attention"]
    ),
    "qwen3.5": lambda: transformers.Qwen3_5TextConfig(
        **LLAMA_LIKE, **HYBRID, layer_types=["linear_attention", "full_attention"]
    ),
    "deepseek-v3.2": lambda: transformers.DeepseekV32Config(
        **{**LLAMA_LIKE, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16},
        **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "index_head_dim": 16},
        **{"index_topk": 8, "index_n_heads": 64},  # with few heads, keys tie for the last place
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        **{"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    ),
}
POLICIES = {
    "whole": Sampling(temperature=0.9, horizon=14, seed=11),
    "filtered": Sampling(temperature=1.2, top_k=30, top_p=0.9, min_p=0.02, horizon=14, seed=12),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and lose minutes where other work has the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(name: str = "llama") -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(MODELS[name](), dtype=torch.float32)


def make_tokenizer(**special: Any) -> Any:
    words = [f"w{i}" for i in range(60)]
    vocab = {word: i for i, word in enumerate([*words, "<unk>", "<s>", "</s>", "<turn>"])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def make_backend(name: str = "llama", *, max_batch: int = 8) -> TransformersBackend:
    model = make_model(name).to(loading.find_device("auto"))
    return TransformersBackend(model, make_tokenizer(), model_id="tiny", max_batch=max_batch)


def generate(
    backend: TransformersBackend, requests: list[Request], sampling: Sampling, *, gaps: bool = False
) -> dict[int, Any]:
    """What is drawn, by stream. With `gaps` half of the requests come only after a yield."""
    waiting, drawn = list(requests), {}
    held = [waiting.pop() for _ in range(len(waiting) // 2)] if gaps else []

    def pull() -> Request | None:
        return waiting.pop(0) if waiting else None

    for request, result in backend.generate(pull, sampling):
        assert request.stream not in drawn
        drawn[request.stream] = result
        if held:
            waiting.append(held.pop())
    return drawn


def mixed_requests(count: int) -> list[Request]:
    """Prompts and starts of many lengths, several rollouts a prefix, some with a forced token."""
    rng = random.Random(3)
    prompts = [tuple(rng.choices(range(60), k=k)) for k in (1, 2, 5, 9, 17)]
    trace = tuple(rng.choices(range(60), k=10))
    return [
        Request(
            rng.choice(prompts),
            trace,
            rng.choice([0, 0, 3, 8]),
            stream,
            first_token=rng.randrange(60) if stream % 4 == 1 else None,
        )
        for stream in range(count)
    ]


@torch.no_grad()
def naive(model: Any, request: Request, sampling: Sampling) -> Continuation:
    """One row, no cache, no padding: the whole sequence through the model for every token."""
    ids: list[int] = []
    limit = min(sampling.horizon - request.start, CONTEXT - len(request.prefix))
    for k, u in enumerate(uniforms(sampling.seed, request.stream, max(limit, 0))):
        prefix = torch.tensor([request.prefix + tuple(ids)], device=model.device)
        probs = policy(model(prefix).logits[:, -1], sampling)[0].double().cpu().numpy()
        if k == 0 and request.excluded_token is not None:
            probs[request.excluded_token] = 0
        cumulative = probs.cumsum()
        ids.append(int(np.searchsorted(cumulative, u * cumulative[-1], side="right")))
        if k == 0 and request.first_token is not None:
            ids[0] = request.first_token
        if ids[-1] == END:
            return Continuation(tuple(ids), truncated=False)
    return Continuation(tuple(ids), truncated=True)


# The policy


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.4, 1.0])
@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 7, 64, 1000])
def test_policy_is_that_of_transformers(top_k: int, top_p: float, min_p: float, ties: bool) -> None:
    logits = torch.randn(9, VOCABULARY, generator=torch.Generator().manual_seed(5)) * 3
    if ties:
        logits = logits.round()
    warpers: list[Any] = [TemperatureLogitsWarper(0.7)]
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    scores = logits
    for warper in warpers:
        scores = warper(torch.zeros(9, 1, dtype=torch.long), scores)
    sampling = Sampling(temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p)
    probs = policy(logits, sampling)
    expected = scores.softmax(dim=-1)
    assert probs.dtype == torch.float32
    if not ties:
        assert torch.equal(probs, expected)
    # Which of two equal tokens top-p keeps is left open by the unstable sort of transformers.
    torch.testing.assert_close(probs.sort().values, expected.sort().values, rtol=1e-6, atol=0)
    differ = (probs > 0) != (expected > 0)
    at_the_edge = logits == logits.masked_fill(expected == 0, math.inf).amin(dim=-1, keepdim=True)
    assert not (differ & ~at_the_edge).any()
    assert torch.equal(probs, torch.cat([policy(row[None], sampling) for row in logits]))


def test_policy_is_in_the_order_of_transformers_generate() -> None:
    config = transformers.GenerationConfig(
        do_sample=True, temperature=0.7, top_k=5, top_p=0.9, min_p=0.1
    )
    processors = make_model()._get_logits_processor(config, device="cpu")
    expected = [TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper]
    assert [type(p) for p in processors] == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_unusable_logits_name_their_row(bad: float) -> None:
    logits = torch.zeros(4, VOCABULARY)
    logits[2, 7] = bad
    for sampling in POLICIES.values():
        with pytest.raises(RowError, match="NaN or infinite") as caught:
            policy(logits, sampling)
        assert caught.value.row == 2


def test_a_forbidden_token_has_no_probability_but_a_row_of_them_is_refused() -> None:
    logits = torch.zeros(2, VOCABULARY)
    logits[0, :10] = -math.inf
    probs = policy(logits, Sampling())
    assert probs[0, :10].sum() == 0
    logits[1] = -math.inf
    with pytest.raises(RowError):
        policy(logits, Sampling())


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.0}, {"temperature": math.nan}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": 2}],
)
def test_a_policy_that_is_none_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        policy(torch.zeros(1, 4), replace(Sampling(), **change))  # type: ignore[arg-type]


def test_draw_inverts_the_cumulative_distribution() -> None:
    probs = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    expected = {0.0: 1, 0.2499: 1, 0.25: 3, 0.7499: 3, 0.75: 4, 1 - 2**-53: 4, 1.0: 4}
    count = len(expected)
    ids = draw(
        probs.expand(count, -1), torch.tensor(list(expected)).double(), torch.full((count,), -1)
    )
    assert ids.tolist() == list(expected.values())


def test_draw_never_takes_a_token_without_probability() -> None:
    generator = torch.Generator().manual_seed(1)
    probs = torch.rand(2000, VOCABULARY, generator=generator) ** 8
    probs[torch.rand(probs.shape, generator=generator) < 0.6] = 0
    probs[:, 5] = 1e-30  # lost in the rounding of the sum, yet positive
    probs[::2, 50:] = 0
    ends = torch.tensor([0.0, 1 - 2**-53, 1.0, 2**-1074]).repeat(500)
    ids = draw(probs, ends.double(), torch.full((2000,), -1))
    assert (probs.gather(1, ids[:, None]) > 0).all()


def test_draw_without_the_excluded_token() -> None:
    probs = torch.tensor([[0.2, 0.6, 0.2]] * 5)
    points = torch.tensor([0.0, 0.49, 0.51, 0.99, 0.5]).double()
    assert draw(probs, points, torch.tensor([1, 1, 1, 1, -1])).tolist() == [0, 0, 2, 2, 1]
    assert torch.equal(probs, torch.tensor([[0.2, 0.6, 0.2]] * 5))
    with pytest.raises(RowError, match="token 2 has all") as caught:
        draw(torch.eye(3), torch.zeros(3).double(), torch.tensor([1, -1, 2]))
    assert caught.value.row == 2


# Generation


@pytest.mark.parametrize("sampling", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("name", MODELS)
def test_rollouts_depend_on_no_batch_and_no_order(name: str, sampling: Sampling) -> None:
    model = make_model(name).to(loading.find_device("auto")).eval()
    requests = [  # every third without the token that it would have taken
        replace(r, excluded_token=naive(model, r, sampling).ids[0]) if r.stream % 3 == 0 else r
        for r in mixed_requests(18)
    ]
    expected = {r.stream: naive(model, r, sampling) for r in requests}
    assert len(set(expected.values())) > len(expected) / 2
    for max_batch, gaps in ((1, False), (3, True), (16, False)):
        backend = make_backend(name, max_batch=max_batch)
        random.Random(max_batch).shuffle(requests)
        assert generate(backend, requests, sampling, gaps=gaps) == expected


def test_the_seed_changes_the_rollouts() -> None:
    backend, requests = make_backend(), [Request((1, 2), (), 0, i) for i in range(8)]
    sampling = POLICIES["whole"]
    first = generate(backend, requests, sampling)
    assert first == generate(backend, requests, sampling)
    assert first != generate(backend, requests, replace(sampling, seed=2**64 - 1))


def test_the_horizon_counts_from_the_prompt() -> None:
    backend, trace = make_backend(), tuple(range(10))
    backend.engine.end_of_sequence = ()
    requests = [Request((1, 2, 3), trace, start, start) for start in range(11)]
    drawn = generate(backend, requests, Sampling(horizon=8))
    assert [len(drawn[start].ids) for start in range(11)] == [8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]
    assert all(c.truncated for c in drawn.values())


def test_the_context_ends_a_rollout() -> None:
    backend = make_backend("gpt2")
    backend.engine.end_of_sequence = ()
    lengths = [1, 30, CONTEXT - 1, CONTEXT, CONTEXT + 5]
    requests = [Request((1,) * length, (), 0, length, first_token=4) for length in lengths]
    drawn = generate(backend, requests, Sampling(horizon=100))
    assert [len(drawn[length].ids) for length in lengths] == [39, 10, 1, 0, 0]
    assert all(c.truncated for c in drawn.values())


def test_an_end_of_sequence_ends_a_rollout_and_belongs_to_it() -> None:
    backend = make_backend()
    forced = Request((1, 2), (), 0, 1, first_token=END)
    at_the_horizon = Request((1, 2), (5, 6), 2, 2, first_token=END)
    drawn = generate(backend, [forced, at_the_horizon], Sampling(horizon=3))
    assert drawn[1] == drawn[2] == Continuation((END,), truncated=False)
    sampled = generate(
        backend, [Request((1, 2), (), 0, i) for i in range(200)], Sampling(horizon=9)
    )
    for continuation in sampled.values():
        assert END not in continuation.ids[:-1]
        assert continuation.truncated == (continuation.ids[-1] != END)


def test_a_stop_ends_a_rollout_and_belongs_to_it() -> None:
    """The text may begin in the prefix; a trace that is ridden ends there too."""
    backend, prompt = make_backend(), (1, 2, 3)
    backend.engine.end_of_sequence = ()
    requests = [Request(prompt, (), 0, i) for i in range(40)]
    free = generate(backend, requests, Sampling(horizon=12))
    stopped = generate(backend, requests, Sampling(horizon=12, stop=("w1", "w40 w")))
    assert any(not c.truncated for c in stopped.values())
    for stream, continuation in stopped.items():
        ids = continuation.ids
        assert ids == free[stream].ids[: len(ids)]
        text = backend.decode(ids)
        assert ("w1" in text or "w40 w" in text) == (not continuation.truncated)
        assert "w1" not in backend.decode(ids[:-1])
    trace = next(c.ids for c in stopped.values() if len(c.ids) > 3 and not c.truncated)
    [ridden] = generate(
        backend,
        [Request(prompt, trace, 2, next(s for s, c in stopped.items() if c.ids == trace))],
        Sampling(horizon=12, stop=("w1", "w40 w")),
    ).values()
    assert "w1" not in backend.decode(ridden.ids[:-1])
    before = Request(prompt, (40,), 1, 5)
    [first] = generate(backend, [before], Sampling(horizon=12, stop=("w40 w",))).values()
    assert len(first.ids) == 1
    assert not first.truncated


class FirstWord:
    """Judges by whichever of w1 to w9 comes first."""

    def __call__(self, problem: Problem, completion: Completion) -> bool:
        words = [word for word in completion.text.split() if len(word) == 2]
        return words[:1] == ["w1"]

    def is_decided(self, problem: Problem, text: str) -> bool:
        if problem.answer == "broken":
            raise KeyError("broken")
        return any(len(word) == 2 for word in text.split())


def test_a_rollout_ends_where_its_oracle_has_decided() -> None:
    """With the verdict that its whole completion gets."""
    kept: dict[bool, list[tuple[Rollout, ...]]] = {}

    def probe(_: Task) -> Search:
        [rollouts] = yield from draw_rollouts([Draw((), 0, 60)])
        [rest] = yield from draw_rollouts([Draw(rollouts[0].ids, 4, 60)])
        kept[decides] = [rollouts, rest]
        return Outcome(0.5)

    drawn = {}
    for decides in (True, False):
        oracle = FirstWord() if decides else FirstWord().__call__
        scheduler = Scheduler(make_backend(), oracle, probe, Sampling(horizon=32, seed=3))
        [ended] = scheduler.run([Problem("0", "w7 w50", "w1", "d")])
        assert isinstance(ended, Ended)
        assert isinstance(ended.outcome, Outcome), ended.outcome
        drawn[decides] = scheduler.statistics.generated_tokens
    assert drawn[True] < 0.6 * drawn[False]
    for early, whole in zip(kept[True][0], kept[False][0], strict=True):
        assert early.ids == whole.ids[: len(early.ids)]
        assert early.correct == whole.correct
        assert len(early.ids) % 8 == 0 or early.ids == whole.ids
    for early in kept[True][1]:
        assert not early.truncated or len(early.ids) == 28


def test_an_oracle_that_fails_to_decide_fails_its_problem_alone() -> None:
    def probe(_: Task) -> Search:
        [rollouts] = yield from draw_rollouts([Draw((), 0, 20)])
        return Outcome(len(rollouts) / 20)

    problems = [Problem(answer, f"{answer} w2", answer, "d") for answer in ("w1", "broken", "w2")]
    scheduler = Scheduler(make_backend(), FirstWord(), probe, Sampling(horizon=32, seed=3))
    outcomes = [event.outcome for event in scheduler.run(problems) if isinstance(event, Ended)]
    assert [type(outcome) for outcome in outcomes] == [Outcome, ProblemError, Outcome]
    assert "the oracle raised KeyError" in str(outcomes[1])


def test_a_request_that_cannot_be_drawn_does_not_stop_the_others() -> None:
    backend = make_backend(max_batch=4)
    backend.engine.model.get_input_embeddings().weight.data[7] = math.nan
    bad = {
        0: Request((1, 7), (), 0, 0),
        3: Request((), (), 0, 3),
        5: Request((1, VOCABULARY), (), 0, 5),
        6: Request((1,), (), 0, 6, first_token=99),
        8: Request((7, 7), (), 0, 8),
    }
    requests = [bad.get(i, Request((1, 2), (), 0, i)) for i in range(10)]
    sampling = Sampling(horizon=5, top_k=1)  # the most probable token, which is not 7
    drawn = generate(backend, requests, sampling)
    assert {i for i, result in drawn.items() if isinstance(result, ProblemError)} == set(bad)
    assert all(one_line(drawn[i]) for i in bad)
    good = [drawn[i] for i in drawn if i not in bad]
    assert good == [good[0]] * 5
    with pytest.raises(ProblemError, match=r"at token \d: the model's logits"):
        backend.score((1, 2), (3, 7, 4), sampling)


def count_forwards(backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The token positions of each forward pass from now on."""
    sizes: list[int] = []
    forward = backend.engine.network.logits

    def counting(ids: Any, *others: Any, **named: Any) -> Any:
        sizes.append(ids.numel())
        return forward(ids, *others, **named)

    monkeypatch.setattr(backend.engine.network, "logits", counting)
    return sizes


@pytest.mark.parametrize("name", [name for name in MODELS if name != "qwen3-next"])
def test_a_rollout_rides_its_trace_until_it_leaves(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the trace that a rollout takes, a nearby one and none: always the same rollout."""
    backend, sampling = make_backend(name), POLICIES["filtered"]
    prompt = (4, 8, 15)
    plain = [Request(prompt, (), 0, i) for i in range(12)]
    expected = generate(backend, plain, sampling)
    positions = count_forwards(backend, monkeypatch)
    for i in (0, 5, 9):
        trace = expected[i].ids
        backend.engine.traces.forget()
        assert generate(backend, [replace(plain[i], trace=trace)], sampling) == {i: expected[i]}
        assert sum(positions) == len(prompt) + len(trace) - 1  # one pass over it and no step
        drawn = generate(backend, [replace(r, trace=trace) for r in plain], sampling)
        assert drawn == expected
        changed = (*trace[:-1], (trace[-1] + 1) % 60)
        assert generate(backend, [replace(plain[i], trace=changed)], sampling) == {i: expected[i]}
        positions.clear()


def test_a_trace_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, trace = make_backend(max_batch=16), tuple(range(20))
    positions = count_forwards(backend, monkeypatch)
    sampling = Sampling(horizon=30)
    backend.score((1, 2), trace, sampling)
    requests = [Request((1, 2), trace, t, t, excluded_token=trace[t]) for t in range(16)]
    drawn = generate(backend, requests, sampling)
    assert sum(positions) == 21 + sum(len(c.ids) for c in drawn.values())


def test_memory_bounds_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column takes 2 layers · 2 heads · 8 numbers · 2 · 4 bytes = 256 bytes."""
    sampling, requests = Sampling(horizon=20), [Request((1, 2), (), 0, i) for i in range(40)]
    expected = generate(make_backend(max_batch=64), requests, sampling)
    backend = make_backend(max_batch=64)
    backend.engine.memory = 10 * 256 * (22 + 64)
    positions = count_forwards(backend, monkeypatch)
    assert generate(backend, requests, sampling) == expected
    assert max(positions) == 8  # a fifth is for traces


def test_keys_and_values_stay_within_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, peak, move = 400_000, [0], Columns._move
    device = loading.find_device("auto")
    backend = TransformersBackend(
        make_model().to(device), make_tokenizer(), model_id="tiny", max_batch=64, memory=budget
    )

    def moved(columns: Columns, *arguments: Any) -> None:
        move(columns, *arguments)
        known = [pair for each in backend.engine.traces._known.values() for pair in each.layers]
        running = [(layer.keys, layer.values) for layer in columns.layers]
        held = sum(x.nbytes for pair in known + running for x in pair)
        peak[0] = max(peak[0], held)

    monkeypatch.setattr(Columns, "_move", moved)
    rng = random.Random(1)
    requests = [
        Request((1, i % 9), tuple(rng.randrange(60) for _ in range(i % 13)), i % 13, i)
        for i in range(200)
    ]
    assert len(generate(backend, requests, Sampling(horizon=30))) == 200
    assert 0.6 * budget < peak[0] <= 1.1 * budget


def test_running_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling, requests = Sampling(horizon=20), [Request((1, 2), (), 0, i) for i in range(40)]
    expected = generate(make_backend(max_batch=64), requests, sampling)
    backend = make_backend(max_batch=64)
    forward = backend.engine.model.forward

    def small(input_ids: Any, **others: Any) -> Any:
        if len(input_ids) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return forward(input_ids=input_ids, **others)

    monkeypatch.setattr(backend.engine.model, "forward", small)
    assert generate(backend, requests, sampling) == expected
    assert backend.engine.max_batch == 10  # 40, 20, 10


def test_running_out_of_memory_with_a_new_trace_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = Sampling(horizon=20)
    requests = [Request((1, 2 + i), (), 0, i) for i in range(20)]
    expected = generate(make_backend(max_batch=64), requests, sampling)
    backend = make_backend(max_batch=64)
    logits, running = backend.engine.network.logits, [0]

    def small(ids: Any, mask: Any, *others: Any, **more: Any) -> Any:
        if ids.shape[1] > 1 and running[0] >= 4:  # a trace is read beside four rows
            running[0] = 0
            raise OutOfMemory("out of memory")
        running[0] += ids.shape[1] > 1
        return logits(ids, mask, *others, **more)

    monkeypatch.setattr(backend.engine.network, "logits", small)
    assert generate(backend, requests, sampling) == expected
    assert backend.engine.max_batch < 20


def test_running_out_of_memory_at_last_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make_backend()
    generate(backend, [Request((1,), (), 0, 0)], Sampling(horizon=1))

    def fail(**_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory\nStack:")

    monkeypatch.setattr(backend.engine.model, "forward", fail)
    with pytest.raises(PtsError, match=r"memory with a single rollout: .* --max-new-tokens"):
        generate(backend, [Request((1,), (), 0, 0)], Sampling(horizon=1))
    with pytest.raises(PtsError, match="memory reading 2 tokens"):
        generate(backend, [Request((1, 2), (), 0, 0)], Sampling())
    with pytest.raises(PtsError, match="memory scoring 2 tokens"):
        backend.score((1,), (2,), Sampling())


# Scoring


@pytest.mark.parametrize("sampling", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("name", MODELS)
def test_score_is_the_softmax_of_the_whole_forward(
    name: str, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(name)
    prompt, completion = (5, 6, 7), tuple(random.Random(1).choices(range(60), k=20))
    ids = torch.tensor([prompt + completion], device=backend.engine.model.device)
    with torch.no_grad():
        probs = policy(backend.engine.model(ids).logits[0, 2:-1], sampling).cpu()
    for cells in (VOCABULARY, 7 * VOCABULARY, 2**24):  # chunks of 1, 7 and all
        monkeypatch.setattr("pts_transformers.traces._SCORED_AT_ONCE", cells)
        scores = backend.score(prompt, completion, sampling)
        own = probs[range(20), completion]
        np.testing.assert_allclose(scores.probs, own, atol=1e-6)
        assert scores.alternative_ids.shape == scores.alternative_probs.shape == (20, 20)
        best, best_ids = probs.topk(20)
        np.testing.assert_allclose(scores.alternative_probs, best, atol=1e-6)
        filled = best > 0
        assert (scores.alternative_ids[~filled] == -1).all()
        assert (scores.alternative_ids[filled] == best_ids.numpy()[filled]).all()


def test_score_of_nothing_and_of_too_much() -> None:
    scores = make_backend().score((1, 2), (), Sampling())
    assert scores.probs.shape == (0,)
    assert scores.alternative_ids.shape == scores.alternative_probs.shape == (0, 20)
    with pytest.raises(ProblemError, match="context of 40"):
        make_backend().score((1,) * 30, (2,) * 11, Sampling())
    with pytest.raises(ProblemError, match="from 1 to 64"):
        make_backend().score((1,), (64,), Sampling())


@pytest.mark.parametrize("excluded", [False, True])
def test_tokens_are_drawn_as_often_as_score_says(excluded: bool) -> None:
    """Chi-square; with a fresh seed it would fail by chance once in 10,000 runs."""
    backend, count = make_backend(max_batch=500), 4000
    sampling = Sampling(temperature=1.0, top_k=12, horizon=1, seed=99)
    scores = backend.score((3, 4), (1,), sampling)
    ids, probs = scores.alternative_ids[0, :12], scores.alternative_probs[0, :12]
    without = int(ids[1]) if excluded else None
    requests = [Request((3, 4), (), 0, i, excluded_token=without) for i in range(count)]
    drawn = [c.ids[0] for c in generate(backend, requests, sampling).values()]
    assert set(drawn) <= set(ids.tolist()) - {without}
    allowed = ids != (-1 if without is None else without)
    expected = count * probs[allowed] / probs[allowed].sum()
    assert expected.min() > 5
    observed = np.array([drawn.count(i) for i in ids[allowed]])
    statistic = float(((observed - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    # The 1 - 1e-4 quantile by Wilson and Hilferty (1931); 3.719 is the normal one.
    spread = 2 / (9 * freedom)
    assert statistic < freedom * (1 - spread + 3.719 * math.sqrt(spread)) ** 3


# Text

CHATML = (
    "{% for m in messages %}<s> {{ m.role }} {{ m.content }} <turn> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no\nsystem') }}{% endif %}"


def with_template(template: str | None, **special: Any) -> TransformersBackend:
    tokenizer = make_tokenizer(additional_special_tokens=["<turn>"], **special)
    tokenizer.chat_template = template
    return TransformersBackend(make_model(), tokenizer, model_id="tiny")


def test_a_prompt_without_a_chat() -> None:
    for backend in (with_template(None), with_template(CHATML)):
        chat = False if backend.tokenizer.chat_template else None
        assert backend.encode_prompt("w1 w2", chat=chat) == (61, 1, 2)
        assert backend.encode_prompt("w1", system_prompt="w3 w4", chat=chat) == (61, 3, 4, 1)


def test_a_prompt_is_not_ended_by_its_tokenizer() -> None:
    backend = with_template(None)
    backend.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 61), ("</s>", 62)]
    )
    assert backend.encode_prompt("w1 w2") == (61, 1, 2)
    assert backend.encode_prompt("w1 </s>") == (61, 1, 62, 62)


def test_a_prompt_in_a_chat() -> None:
    backend = with_template(CHATML)
    unknown = 60  # the names of the roles
    query = (61, unknown, 1, 63, 61, unknown)
    assert backend.encode_prompt("w1") == backend.encode_prompt("w1", chat=True) == query
    assert backend.encode_prompt("w1", system_prompt="w2") == (61, unknown, 2, 63, *query)


@pytest.mark.parametrize(
    ("template", "system_prompt", "kind", "text"),
    [
        (None, None, UsageError, "tiny has no chat template: use --chat off"),
        (NO_SYSTEM + CHATML, "w2", UsageError, "refuses the system prompt (no system)"),
        ("{% for", None, PtsError, "the chat template of tiny fails"),
        ("{{ messages.a.b }}", None, PtsError, "the chat template of tiny fails"),
    ],
)
def test_a_chat_that_is_impossible(
    template: str | None, system_prompt: str | None, kind: type[PtsError], text: str
) -> None:
    with pytest.raises(PtsError) as caught:
        with_template(template).encode_prompt("w1", system_prompt=system_prompt, chat=True)
    assert type(caught.value) is kind
    assert text in one_line(caught.value)


def test_encode_and_decode() -> None:
    backend = make_backend()
    assert backend.encode("w1 w2") == (1, 2)
    assert backend.encode("") == ()
    assert backend.decode((61, 1, 2, 62)) == "<s> w1 w2 </s>"
    assert backend.decode((61, 1, 2, 62), skip_special_tokens=True) == "w1 w2"
    assert backend.decode(()) == ""


def test_end_of_sequence_is_the_union_of_what_ends_one() -> None:
    def ends(*, generation: Any, config: Any, template: str | None = None, **special: Any) -> Any:
        model, tokenizer = make_model(), make_tokenizer(**special)
        model.generation_config.eos_token_id = generation
        model.config.eos_token_id = config
        tokenizer.chat_template = template
        tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
        return TransformersBackend(model, tokenizer, model_id="tiny").end_of_sequence

    assert ends(generation=None, config=None) == (62,)
    assert ends(generation=[3, 62], config=4) == (62, 3, 4)
    assert ends(generation=62, config=62, template=CHATML) == (62, 63)
    assert ends(generation=62, config=62, template="{% for") == (62,)
    assert ends(generation=[5, 6], config=None, eos_token=None) == (5, 6)
    with pytest.raises(PtsError, match="names no end-of-sequence token"):
        ends(generation=None, config=None, eos_token=None)


@pytest.mark.parametrize("name", MODELS)
def test_context_length(name: str) -> None:
    assert make_backend(name).context_length == CONTEXT


# Loading


def one_line(error: object) -> str:
    text = str(error)
    assert text
    assert "\n" not in text
    assert "Traceback" not in text
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model in a folder, to be copied and broken."""
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    make_model().save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def test_a_folder_loads_quietly(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backend = load(str(folder), device="auto", dtype="float32", max_batch=3)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert isinstance(backend, TransformersBackend)
    assert backend.model_id == "tiny-llama"
    assert backend.end_of_sequence == (END,)
    assert backend.context_length == CONTEXT
    request = Request((1, 2, 3), (), 0, 0)
    expected = generate(make_backend(), [request], POLICIES["whole"])
    assert generate(backend, [request], POLICIES["whole"]) == expected


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def drop_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def become_mamba(folder: Path) -> None:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1}
    transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).save_pretrained(folder)


def become(config: Callable[[], Any]) -> Callable[[Path], None]:
    return lambda folder: config().save_pretrained(folder)


TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
CUSTOM = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
BROKEN: dict[str, tuple[Callable[[Path], None], dict[str, Any], type[PtsError], str]] = {
    "no config": (remove("config.json"), {}, PtsError, "has no config.json"),
    "only a gguf": (
        lambda folder: [remove("config.json")(folder), write("a.gguf", b"")(folder)][0],
        {},
        PtsError,
        "use --backend.gguf_file a.gguf",
    ),
    "damaged config": (write("config.json", b"{"), {}, PtsError, "cannot load the configuration"),
    "empty config": (write("config.json", b"{}"), {}, PtsError, "cannot load the configuration"),
    "unknown kind": (edit_config(model_type="zzz"), {}, PtsError, "unknown to transformers"),
    "own code": (edit_config(**CUSTOM), {}, PtsError, "needs code from its repository"),
    "no weights": (remove("model.safetensors"), {}, PtsError, "has no weights"),
    "cut weights": (cut_weights, {}, PtsError, "cannot load the weights"),
    "garbage weights": (
        write("model.safetensors", b"hello" * 99),
        {},
        PtsError,
        "cannot load the weights",
    ),
    "missing tensor": (drop_tensor, {}, PtsError, "lack model.layers.1.mlp.up_proj.weight"),
    "other shapes": (edit_config(intermediate_size=48), {}, PtsError, "do not have the shape"),
    "no tokenizer": (remove(*TOKENIZER), {}, PtsError, "has no tokenizer"),
    "empty tokenizer": (
        lambda folder: [remove(*TOKENIZER)(folder), edit_config(model_type="qwen2")(folder)][0],
        {},
        PtsError,
        "has no tokenizer",
    ),
    "damaged tokenizer": (write("tokenizer.json", b"{"), {}, PtsError, "load the tokenizer"),
    "encoder": (become(transformers.BertConfig), {}, PtsError, "not a causal language model"),
    "encoder-decoder": (become(transformers.T5Config), {}, PtsError, "not a causal language"),
    "no cache": (become_mamba, {}, PtsError, "MambaForCausalLM keeps no key-value cache"),
    "no gguf": (lambda _: None, {"gguf_file": "b.gguf"}, UsageError, "no file b.gguf"),
    "damaged gguf": (
        write("c.gguf", b"GGUF" * 40),
        {"gguf_file": "c.gguf"},
        PtsError,
        "cannot load the configuration",
    ),
    "a file": (lambda _: None, {"model": "config.json"}, UsageError, "is a file"),
    "no folder": (lambda _: None, {"model": "nothing"}, UsageError, "there is no folder"),
    "no device": (lambda _: None, {"device": "tpu"}, UsageError, "'tpu' is not one of auto"),
    "no cuda": (lambda _: None, {"device": "cuda:17"}, UsageError, "cuda devices here"),
    "no batch": (lambda _: None, {"max_batch": 0}, UsageError, "max_batch must be at least 1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_loaded_is_one_line(case: str, folder: Path, tmp_path: Path) -> None:
    change, options, kind, text = BROKEN[case]
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    change(broken)
    model = str(broken / options.get("model", ""))
    with pytest.raises(PtsError) as caught:
        load(model, **{k: v for k, v in options.items() if k != "model"})
    assert type(caught.value) is kind
    assert caught.value.exit_code == (2 if kind is UsageError else 1)
    assert text in one_line(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to\nallocate 9 bytes"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_a_model_that_does_not_fit(
    error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(PtsError) as caught:
        load(str(folder), device="cpu")
    assert "does not fit into the memory of cpu" in one_line(caught.value)


class Hub(BaseHTTPRequestHandler):
    """A hub that answers everything with the error that the path names."""

    def do_GET(self) -> None:
        code = self.path.split("/")[2]
        self.send_response({"GatedRepo": 403, "broken": 500}.get(code, 404))
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    constants = "huggingface_hub.constants"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(f"{constants}.ENDPOINT", endpoint)
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("model", "kind", "text"),
    [
        ("nobody/RepoNotFound", UsageError, "neither a folder here nor a model on the Hub"),
        ("nobody/RevisionNotFound", UsageError, "no such revision"),
        ("nobody/GatedRepo", PtsError, "needs permission"),
        ("nobody/EntryNotFound", PtsError, "cannot load the configuration"),
        ("not an id!", UsageError, "neither a folder here nor a model on the Hub"),
    ],
)
def test_what_the_hub_refuses_is_one_line(model: str, kind: type[PtsError], text: str) -> None:
    with pytest.raises(PtsError) as caught:
        load(model)
    assert type(caught.value) is kind
    assert text in one_line(caught.value)


def test_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PtsError) as caught:
        load("nobody/anything")
    assert type(caught.value) is PtsError
    assert "the Hub cannot be reached" in one_line(caught.value)


def test_devices_and_types(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert loading.find_device("auto") == cuda
    assert loading.find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="finds 2 cuda devices"):
        loading.find_device("cuda:2")
    config = MODELS["llama"]()
    for own, on_cuda in (
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float16),
        (None, torch.float16),
    ):
        config.dtype = own
        for native in (True, False):
            monkeypatch.setattr(loading, "_multiplies_bfloat16", lambda native=native: native)
            half = native and own in (torch.bfloat16, None)
            on_cpu = torch.bfloat16 if half else torch.float32
            assert loading.choose_dtype("auto", cpu, config) == on_cpu
        assert loading.choose_dtype("auto", cuda, config) == on_cuda
        assert loading.choose_dtype("bfloat16", cuda, config) == torch.bfloat16


def test_loading_the_plugin_imports_no_torch() -> None:
    code = (
        "import sys, pts_transformers; assert 'transformers' in pts_transformers.pts_backends(); "
        "print([name for name in ('torch', 'transformers', 'numpy.random') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout
    assert "transformers" not in done.stdout


# A real model


@pytest.fixture(scope="module")
def smollm2(smollm2_file: Path) -> TransformersBackend:
    backend = load(str(smollm2_file), device="auto", dtype="float32")
    assert isinstance(backend, TransformersBackend)
    assert backend.model_id == smollm2_file.name
    return backend


def test_a_real_model_from_a_gguf_file(smollm2: TransformersBackend) -> None:
    (end,) = smollm2.end_of_sequence
    assert smollm2.decode((end,)) == "<|im_end|>"
    assert smollm2.context_length == 8192
    prompt = smollm2.encode_prompt("What is 17 + 25?", system_prompt="Be brief.")
    text = smollm2.decode(prompt)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 17")
    assert text.endswith("<|im_start|>assistant\n")
    sampling = Sampling(temperature=0.6, top_p=0.95, horizon=5)
    requests = [Request(prompt, (), 0, i) for i in range(4)]
    drawn = generate(smollm2, requests, sampling)
    smollm2.engine.max_batch = 3
    assert generate(smollm2, requests[::-1], sampling) == drawn
    assert all(smollm2.decode(c.ids, skip_special_tokens=True).strip() for c in drawn.values())
    for continuation in drawn.values():  # what was drawn has a probability
        assert (smollm2.score(prompt, continuation.ids, sampling).probs > 0).all()


def test_steering_leaves_nothing_behind() -> None:
    """What was read of a trace without the vector must not serve with it, nor the other way."""
    vector = {0: np.full(32, 2.0, dtype=np.float32)}
    trace, sampling = tuple(range(12)), Sampling(horizon=20, seed=4)
    requests = [Request((1, 2, 3), trace, 6, i) for i in range(20)]
    fresh = make_backend()
    with fresh.steered(vector):
        expected = generate(fresh, requests, sampling)
    backend = make_backend()
    plain = generate(backend, requests, sampling)
    with backend.steered(vector):
        assert generate(backend, requests, sampling) == expected
    assert expected != plain
    assert generate(backend, requests, sampling) == plain


def test_the_fingerprint_is_that_of_weights_and_tokenizer() -> None:
    backend = make_backend()
    assert backend.fingerprint == make_backend().fingerprint
    other = make_model()
    other.lm_head.weight.data[0, 0] += 0.01
    changed = TransformersBackend(other, make_tokenizer(), model_id="tiny")
    assert changed.fingerprint != backend.fingerprint
    assert with_template(CHATML).fingerprint != with_template(None).fingerprint
    assert make_backend("qwen2").fingerprint != backend.fingerprint
