"""Does what `pts` exports help? The demo model trained on pivotal-token pairs, and steered.

    python tests/benchmarks/closing_the_loop.py --seeds 3 4 5

For each seed: problems are drawn and searched, the pairs exported, the model trained on them with
TRL, and its success rate measured on problems that were drawn apart. Against it, with as many
pairs and as many tokens through the model in training: (a) whole right and wrong answers to the
same problems, and (b) a random token of such an answer against another token drawn there. Every
method may choose its beta, and to stop at half of the tokens, on validation problems of their own.
With `--sft 4` each has an SFT term of that weight too, pivotal tokens with their prefixes. Then
the steering vector of the same tokens is measured. A seed takes an hour of one core.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from pts_dpo.trl import TokenDPOTrainer, with_prefixes
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
from trl import DPOConfig

from pts_core.cli.steer import read_vectors
from pts_core.estimates import Estimate
from pts_core.plugins import discover
from pts_core.scheduler import Prompting, Scheduler
from pts_core.search import Draw, Outcome, Task, draw
from pts_core.search.conversation import Search
from pts_core.steering import Arm, compare, success
from pts_core.types import Problem, Rollout, Sampling

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins" / "pts_demo"))
from train import QUESTIONS, draw_chain, solve

REGISTRY = discover()
MODEL = REGISTRY.find("model", "demo").factory()
ORACLE = REGISTRY.find("oracle", "math").factory()
VALIDATION, HELD_OUT, ROLLOUTS, STEERED_ROLLOUTS = 60, 200, 30, 10
BETAS, STEPS = (0.5, 2.0), (320, 640)  # the steps are those of whole answers
BATCH, LEARNING_RATE = 16, 1e-4
COMPLETIONS = 24
COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")

Pairs = list[dict[str, list[int]]]


def draw_problems(seed: int, count: int) -> tuple[list[Problem], list[Problem], list[Problem]]:
    """Different problems to search, to validate on and to measure on."""
    rng = random.Random(f"closing the loop {seed}")
    chains: dict[str, None] = {}
    while len(chains) < count + VALIDATION + HELD_OUT:
        chains[draw_chain(rng)] = None
    problems = [
        Problem(str(i), rng.choice(QUESTIONS).format(chain), str(solve(chain)), "chains")
        for i, chain in enumerate(chains)
    ]
    return problems[:count], problems[count : count + VALIDATION], problems[count + VALIDATION :]


def pts(*arguments: str | Path) -> None:
    command = "from pts_core.cli import main; main()"
    subprocess.run([sys.executable, "-c", command, *map(str, arguments)], check=True)


def search(problems: Sequence[Problem], seed: int, folder: Path) -> tuple[Pairs, int]:
    """Pivotal-token pairs by the commands as users run them, and the tokens generated for them."""
    rows = [{"id": p.id, "query": p.query, "answer": p.answer} for p in problems]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pts(
        *("run", "--model", "demo", "--dataset", folder / "problems.jsonl", "--oracle", "math"),
        *("--prob-threshold", "0.1", "--min-prob", "0.05", "--max-prob", "0.95"),
        *("--max-rollouts", "75", "--fdr", "0.5", "--max-pairs", "10000"),
        *("--seed", str(seed), "--output-path", folder / "tokens.jsonl"),
        *("--summary-path", folder / "summary.json", "--quiet", "--overwrite"),
    )
    pts(
        *("export", "--format", "dpo", "--input-path", folder / "tokens.jsonl"),
        *("--output-path", folder / "pairs.jsonl", "--overwrite"),
    )
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    generated = json.loads((folder / "summary.json").read_text())["generated_tokens"]
    return [json.loads(line) for line in lines], generated


def answers(backend: Any, problems: Iterable[Problem], seed: int) -> dict[str, list[Rollout]]:
    """Whole answers to every problem, by its id."""
    found: dict[str, list[Rollout]] = {}

    def strategy(task: Task) -> Search:
        [drawn] = yield from draw([Draw((), 0, COMPLETIONS)])
        found[task.problem.id] = [r for r in drawn if not r.truncated]
        return Outcome(0.0)

    for _ in Scheduler(backend, ORACLE, strategy, Sampling(seed=seed)).run(problems):
        pass
    return found


def whole_answers(
    backend: Any, problems: Sequence[Problem], said: dict[str, list[Rollout]], count: int
) -> Pairs:
    """(a): a right answer against a wrong one, the problems in turn; no answer is used twice."""
    rounds: list[Pairs] = [[] for _ in range(COMPLETIONS)]
    for problem in problems:
        prompt = list(backend.encode_prompt(problem.query))
        right = [r.ids for r in said[problem.id] if r.correct]
        wrong = [r.ids for r in said[problem.id] if not r.correct]
        for turn, (good, bad) in enumerate(zip(right, wrong, strict=False)):
            row = {"prompt_ids": prompt, "chosen_ids": list(good), "rejected_ids": list(bad)}
            rounds[turn].append(row)
    pairs = [pair for turn in rounds for pair in turn]
    assert len(pairs) >= count, "more COMPLETIONS are needed"
    return pairs[:count]


def random_tokens(
    backend: Any,
    problems: Sequence[Problem],
    said: dict[str, list[Rollout]],
    count: int,
    rng: np.random.Generator,
) -> Pairs:
    """(b): a token of an answer, anywhere, against another that the policy draws there."""
    pairs: Pairs = []
    while len(pairs) < count:
        problem = problems[len(pairs) % len(problems)]
        prompt = backend.encode_prompt(problem.query)
        ids = said[problem.id][rng.integers(len(said[problem.id]))].ids
        at = int(rng.integers(len(ids)))
        scores = backend.score(prompt, ids, Sampling())
        probs = np.where(scores.alternative_ids[at] == ids[at], 0, scores.alternative_probs[at])
        other = int(rng.choice(scores.alternative_ids[at], p=probs / probs.sum()))
        sides = [[ids[at]], [other]] if rng.random() < 0.5 else [[other], [ids[at]]]
        pairs.append(
            {
                "prompt_ids": list(prompt + ids[:at]),
                "chosen_ids": sides[0],
                "rejected_ids": sides[1],
            }
        )
    return pairs


def size(pairs: Pairs) -> float:
    """Tokens of a pair, both sides with their prompt, on average."""
    times = (2, 1, 1)  # of each column: the prompt stands before either side
    return float(
        np.mean([sum(n * len(p[c]) for n, c in zip(times, COLUMNS, strict=True)) for p in pairs])
    )


def train(pairs: Pairs, beta: float, steps: int, seed: int, folder: Path, sft: float) -> str:
    """The folder of the demo model trained on pairs of token ids."""
    weights = {"sigmoid": 1.0, "sft": sft} if sft else {"sigmoid": 1.0}
    trainer = TokenDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
        args=DPOConfig(
            str(folder / "training"),
            **{"loss_type": list(weights), "loss_weights": list(weights.values()), "beta": beta},
            **{"max_length": None, "learning_rate": LEARNING_RATE},
            **{"max_steps": steps, "per_device_train_batch_size": BATCH, "seed": seed},
            **{"save_strategy": "no", "logging_strategy": "no", "report_to": []},
            **{"use_cpu": True, "bf16": False, "activation_checkpointing": False},
            **{"disable_tqdm": True},
        ),
        train_dataset=Dataset.from_list([{name: pair[name] for name in COLUMNS} for pair in pairs]),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
    )
    trainer.train()
    trained = folder / f"trained-{beta}-{steps}"
    trainer.model.save_pretrained(trained)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(trained)
    return str(trained)


def rate(model: str, problems: Sequence[Problem], seed: int) -> Estimate:
    backend = REGISTRY.find("backend", "transformers").factory(model, device="cpu")
    return success(backend, ORACLE, problems, rollouts=ROLLOUTS, sampling=Sampling(seed=seed))


def one_seed(
    seed: int, count: int, folder: Path, sft: float
) -> tuple[dict[str, Estimate], list[Arm]]:
    """Held-out success by method, and the arms of steering."""
    searched, validation, held_out = draw_problems(seed, count)
    pairs, generated = search(searched, seed, folder)
    backend = REGISTRY.find("backend", "transformers").factory(MODEL, device="cpu")
    said = answers(backend, searched, seed)
    spent = sum(len(r.ids) for drawn in said.values() for r in drawn)
    print(f"seed {seed}: {len(pairs)} pairs from {generated:,} tokens; answers {spent:,} tokens")
    rng = np.random.default_rng(seed)
    methods = {
        "pivotal tokens": list(with_prefixes(Dataset.from_list(pairs))) if sft else pairs,
        "(a) whole answers": whole_answers(backend, searched, said, len(pairs)),
        "(b) random tokens": random_tokens(backend, searched, said, len(pairs), rng),
    }
    rates = {"before": rate(MODEL, held_out, seed)}
    for name, rows in methods.items():
        ratio = size(methods["(a) whole answers"]) / size(rows)
        settings = [(beta, round(steps * ratio)) for beta in BETAS for steps in STEPS]
        trained = {setting: train(rows, *setting, seed, folder, sft) for setting in settings}
        tried = {setting: rate(m, validation, seed).prob for setting, m in trained.items()}
        best = max(settings, key=lambda setting: tried[setting])
        rates[name] = rate(trained[best], held_out, seed)
        how = f"beta and steps {best} of {size(rows):.0f} tokens a pair, validation {tried}"
        print(f"seed {seed}: {name}, {how}: {rates[name].prob:.3f}", flush=True)
    pts(
        *("export", "--format", "steering", "--model", "demo", "--overwrite"),
        *("--input-path", folder / "tokens.jsonl", "--output-path", folder / "v.safetensors"),
    )
    arms = compare(
        backend,
        ORACLE,
        held_out,
        read_vectors(folder / "v.safetensors").vectors,
        **{"strengths": (0.5, 1.0, 2.0, 4.0), "random": 3, "rollouts": STEERED_ROLLOUTS},
        **{"sampling": Sampling(seed=seed), "prompting": Prompting()},
    )
    return rates, list(arms)


def print_rates(title: str, seeds: dict[str, list[Estimate]], against: str) -> None:
    """Means over the seeds, and the difference from one row: pairs of the same seed, with the
    standard error over seeds (that of the rollouts alone says nothing of other trainings)."""
    table = Table("held-out success", "mean", "by seed", f"less {against}, points", title=title)
    base = np.array([e.prob for e in seeds[against]])
    for name, estimates in seeds.items():
        rates = np.array([e.prob for e in estimates])
        by_seed = " ".join(f"{r:.3f}" for r in rates)
        difference = f"{100 * (rates - base).mean():+.1f}"
        if len(rates) > 1:
            error = np.std(rates - base, ddof=1) / np.sqrt(len(rates))
            difference += f" ± {100 * error:.1f}"
        table.add_row(name, f"{rates.mean():.3f}", by_seed, difference)
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains and steers the demo model.")
    # The settings above were chosen on the seeds 0 to 2.
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--problems", type=int, default=720, help="to search, a seed")
    parser.add_argument("--sft", type=float, default=0, help="weight of the SFT term")
    parser.add_argument("--output-dir", type=Path)
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    rates: dict[str, list[Estimate]] = {}
    steering: dict[str, list[Estimate]] = {}
    for done, seed in enumerate(given.seeds, start=1):
        folder = (given.output_dir or Path(tempfile.mkdtemp())) / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        found, arms = one_seed(seed, given.problems, folder, given.sft)
        for name, estimate in found.items():
            rates.setdefault(name, []).append(estimate)
        for arm in arms:
            steering.setdefault(f"{arm.name} {arm.strength:g}", []).append(arm.success)
        print_rates(f"trained, {done} seeds", rates, "(a) whole answers")
        print_rates(f"steered, {done} seeds", steering, "none 0")


if __name__ == "__main__":
    main()
