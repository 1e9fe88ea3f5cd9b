"""`pts steer`: what a steering vector does to the success rate, against chance."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from cyclopts import Group, Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

from pts_core.cli.resolve import CHAT, Options, build_backend, build_dataset, build_oracle
from pts_core.errors import PtsError, UsageError
from pts_core.interfaces import Steerable
from pts_core.plugins import discover
from pts_core.scheduler import Prompting
from pts_core.steering import Arm, Vectors, compare
from pts_core.types import Sampling

CONFIDENCE = 0.95

MODEL = Group.create_ordered("Model")
PROBLEMS = Group.create_ordered("Problems")
MEASURE = Group.create_ordered("Measurement")


def steer(
    *,
    input_path: Annotated[Path, Parameter(group=MEASURE)],
    model: Annotated[str, Parameter(group=MODEL)],
    backend: Annotated[str, Parameter(name="--backend", group=MODEL)] = "transformers",
    backend_options: Annotated[Options, Parameter(name="--backend", group=MODEL)] = None,
    device: Annotated[str | None, Parameter(group=MODEL)] = None,
    dtype: Annotated[str | None, Parameter(group=MODEL)] = None,
    system_prompt: Annotated[str | None, Parameter(group=MODEL)] = None,
    prompt_template: Annotated[str, Parameter(group=MODEL)] = "{query}",
    chat: Annotated[Literal["auto", "on", "off"], Parameter(group=MODEL)] = "auto",
    dataset: Annotated[str, Parameter(name="--dataset", group=PROBLEMS)],
    dataset_options: Annotated[Options, Parameter(name="--dataset", group=PROBLEMS)] = None,
    split: Annotated[str | None, Parameter(group=PROBLEMS)] = None,
    config: Annotated[str | None, Parameter(group=PROBLEMS)] = None,
    query_key: Annotated[str | None, Parameter(group=PROBLEMS)] = None,
    answer_key: Annotated[str | None, Parameter(group=PROBLEMS)] = None,
    oracle: Annotated[str, Parameter(name="--oracle", group=PROBLEMS)] = "auto",
    oracle_options: Annotated[Options, Parameter(name="--oracle", group=PROBLEMS)] = None,
    max_problems: Annotated[int | None, Parameter(group=PROBLEMS, validator=Number(gte=1))] = None,
    strengths: Annotated[str, Parameter(group=MEASURE)] = "0.5,1,2,4",
    random_vectors: Annotated[int, Parameter(group=MEASURE, validator=Number(gte=0))] = 3,
    num_samples: Annotated[int, Parameter(group=MEASURE, validator=Number(gte=1))] = 20,
    seed: Annotated[int, Parameter(group=MEASURE, validator=Number(gte=0, lt=2**64))] = 0,
) -> int:
    """Measure what a steering vector does to the success rate.

    On problems that the vector was not made from, under the sampling settings that it was made
    under: without it, with it and with random vectors of the same norm. It is added to the output
    of its layers at every position.

    Parameters
    ----------
    input_path
        The .safetensors that `pts export --format steering` wrote.
    model
        A Hugging Face Hub id, a folder, or demo.
    backend
        What generates; --backend.NAME sets an option of it.
    device
        auto, cpu, cuda, cuda:1, mps (--backend.device).
    dtype
        auto, float32, bfloat16 or float16 (--backend.dtype).
    system_prompt
        As for `pts run`.
    prompt_template
        As for `pts run`.
    chat
        As for `pts run`.
    dataset
        As for `pts run`; --dataset.NAME sets an option of it.
    split
        Split of a Hub dataset.
    config
        Configuration of a Hub dataset.
    query_key
        Column of the query; detected if not given.
    answer_key
        Column of the answer; detected if not given.
    oracle
        What judges, as for `pts run`; --oracle.NAME sets an option of it.
    max_problems
        Take only the first so many problems that the vector was not made from.
    strengths
        What the vector is multiplied by, as 0.5,1,2.
    random_vectors
        How many random vectors are tried at each strength.
    num_samples
        Rollouts of each problem for each vector and strength.
    seed
        The same seed gives the same result.
    """
    steering = read_vectors(input_path)
    factors = _numbers(strengths)
    if "{query}" not in prompt_template:
        raise UsageError("--prompt-template must contain {query}")
    registry = discover()
    judge = build_oracle(registry, oracle, oracle_options)
    keys = {"split": split, "config": config, "query_key": query_key, "answer_key": answer_key}
    rows = build_dataset(registry, dataset, dataset_options, keys)
    unseen = (p for p in rows if (p.dataset_id, p.id) not in steering.problems)
    problems = list(islice(unseen, max_problems))
    if not problems:
        raise PtsError(f"dataset {dataset} has no problem that the vector was not made from")
    offer, placed = registry.find("backend", backend), {"device": device, "dtype": dtype}
    loaded = build_backend(registry, offer, backend_options, model, placed)
    if not isinstance(loaded, Steerable):
        raise UsageError(f"backend {backend!r} can't steer: use --backend transformers")
    prompting = Prompting(prompt_template, system_prompt, CHAT[chat])
    comparison = compare(
        loaded,
        judge,
        problems,
        steering.vectors,
        strengths=factors,
        random=random_vectors,
        rollouts=num_samples,
        sampling=replace(steering.sampling, seed=seed),
        prompting=prompting,
    )
    arms = list(comparison)
    layers = ", ".join(map(str, steering.vectors))
    print(f"layers {layers}; {len(problems)} problems that the vector was not made from")
    _print(arms)
    return 0


@dataclass(frozen=True, slots=True)
class SteeringFile:
    """Vectors by layer, the policy that they were made under, and the (dataset_id, id) of the
    problems that they were made from."""

    vectors: Vectors
    sampling: Sampling
    problems: set[tuple[str, str]]


def read_vectors(path: Path) -> SteeringFile:
    """The tensors `layer.N` of a safetensors file that `pts export --format steering` wrote.

    Raises UsageError where the file can't be opened, PtsError where it is something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        path.open("rb").close()  # says better why it can't be
        with safe_open(path, framework="numpy") as file:
            said = file.metadata() or {}
            layers = {name: int(name.removeprefix("layer.")) for name in file.keys()}  # noqa: SIM118
            vectors = {
                layer: np.asarray(file.get_tensor(name), np.float32).reshape(-1)
                for name, layer in layers.items()
            }
        problems = {(d, i) for d, i in json.loads(said.get("problems", "[]"))}
        policy = json.loads(said.get("policy", "null")) or {}
        found = SteeringFile(vectors, Sampling(**policy), problems)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PtsError(
            f"{path} holds no steering vectors: give the .safetensors of "
            "'pts export --format steering'"
        ) from error
    if not vectors:
        raise PtsError(f"{path} holds no steering vectors")
    return found


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--strengths {text!r} must be numbers, as 0.5,1,2") from error


def _print(arms: list[Arm]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("vector")
    for name in ("strength", "success", f"{CONFIDENCE:.0%} interval", "rollouts"):
        table.add_column(name, justify="right")
    for arm in arms:
        low, high = arm.success.interval(CONFIDENCE)
        table.add_row(
            arm.name,
            f"{arm.strength:g}",
            f"{arm.success.prob:.3f}",
            f"{low:.3f} … {high:.3f}",
            f"{arm.success.rollouts:,}",
        )
    Console(markup=False, highlight=False).print(table)
