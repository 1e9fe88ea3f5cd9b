"""Steering vectors: what they are, that consumers load them, and what `pts steer` measures."""

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import datasets
import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import Pts
from pts_steering.activations import Differences
from pts_steering.layers import best_layer, measure_layers
from pts_steering.patterns import pattern
from safetensors import safe_open
from test_cli import one_line, write
from test_dpo import ANSWER, FIVE, MODEL, PLAIN, PROMPT, SIX, demo_record, ids
from transformers import AutoModelForCausalLM

from pts_core.cli.steer import read_vectors
from pts_core.errors import PtsError, UsageError
from pts_core.plugins import discover
from pts_core.steering import random_vectors, success
from pts_core.types import Sampling

WAIT = demo_record([*ANSWER, SIX, *ids(",")], ids(" wait")[0], ids(" 6")[0], query="What is 2 + 3?")
RECORDS = [PLAIN, {**PLAIN, "query": "another"}, WAIT]


def export(records, path: Path, **options):
    return discover().find("exporter", "steering").factory(model=MODEL, **options)(records, path)


def import_alone(name: str) -> ModuleType:
    """A module of a package whose __init__ is not run: it would need a web server's libraries, or
    an older transformers."""
    parts = name.split(".")[:-1]
    for i in range(1, len(parts) + 1):
        package = ".".join(parts[:i])
        if package not in sys.modules:
            spec = find_spec(package)
            assert spec is not None, f"pip install --no-deps {parts[0].replace('_', '-')}"
            module = ModuleType(package)
            module.__path__ = list(spec.submodule_search_locations)
            sys.modules[package] = module
    return importlib.import_module(name)


def reference(records) -> np.ndarray:
    """The mean differences by layer, taken without hooks where that is right: all but the last
    block's output is a hidden state; the last is what goes into the final norm."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    into_norm: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda m, inputs: into_norm.append(inputs[0]))

    def outputs(prefix, token) -> torch.Tensor:
        with torch.no_grad():
            states = model(
                torch.tensor([[*prefix, token]]), output_hidden_states=True
            ).hidden_states
        return torch.stack([*(s[0, -1] for s in states[1:-1]), into_norm.pop()[0, -1]])

    differences = []
    for record in records:
        [other] = record["alternatives"]
        better, worse = record["pivot_token_id"], other["token_id"]
        prefix = record["context_ids"]
        differences.append(outputs(prefix, better) - outputs(prefix, worse))
    return torch.stack(differences).mean(dim=0).numpy()


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return reference(RECORDS)


def test_safetensors_hold_the_mean_difference_of_each_layer(tmp_path: Path, expected):
    report = export(RECORDS, tmp_path / "v.safetensors", layer_nums="0,1,2")
    assert report.rows == 3
    with safe_open(tmp_path / "v.safetensors", framework="pt") as file:
        for layer in range(3):
            found = file.get_tensor(f"layer.{layer}")
            assert found.dtype == torch.float32
            np.testing.assert_allclose(found.numpy(), expected[layer], atol=1e-4)
        metadata = file.metadata()
    assert (metadata["model_id"], metadata["pairs"], metadata["queries"]) == ("demo", "3", "3")
    assert json.loads(metadata["policy"])["temperature"] == 0.8
    assert [s["layer"] for s in json.loads(metadata["statistics"])] == [0, 1, 2]
    found = read_vectors(tmp_path / "v.safetensors")
    assert set(found.vectors) == {0, 1, 2}
    assert found.sampling == Sampling()
    assert found.problems == {("sums", "0")}


def test_a_token_that_lowers_success_points_the_same_way(tmp_path: Path):
    """The same two tokens, found from either side, give the same vector."""
    lowers = demo_record(ANSWER, SIX, FIVE, 0.1)
    export([PLAIN], tmp_path / "a.safetensors", layer_nums="1")
    export([lowers], tmp_path / "b.safetensors", layer_nums="1")
    a, b = (read_vectors(tmp_path / f"{n}.safetensors").vectors[1] for n in "ab")
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_gguf_is_a_control_vector(tmp_path: Path, expected):
    export(RECORDS, tmp_path / "v.gguf", layer_nums="1,2")
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == "controlvector"
    assert said["controlvector.model_hint"] == "llama"
    assert said["controlvector.layer_count"] == 2
    for tensor, layer in zip(reader.tensors, (1, 2), strict=True):
        assert tensor.name == f"direction.{layer}"
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert tensor.data.shape == (96,)
        np.testing.assert_allclose(tensor.data, expected[layer], atol=1e-4)


def test_optillm_loads_the_json_lines(tmp_path: Path, expected):
    folder = tmp_path / "data"
    folder.mkdir()
    report = export(RECORDS, folder / "v.jsonl", layer_nums="2")
    assert report.rows == 3
    rows = datasets.load_dataset("json", data_files=str(folder / "v.jsonl"), split="train")
    assert len(rows) == 3
    module = import_alone("optillm.autothink.steering")
    manager = module.SteeringVectorManager(str(folder), target_layer=2)
    assert set(manager.pattern_to_vectors) == {"numerical_accuracy", "self_correction"}
    loaded = np.array([v["steering_vector"] for v in manager.steering_vectors])
    np.testing.assert_allclose(loaded.mean(axis=0), expected[2], atol=1e-4)
    assert [v["steering_layer"] for v in manager.steering_vectors] == [2, 2, 2]
    assert [v["cluster_id"] for v in manager.steering_vectors] == [0, 0, 1]
    np.testing.assert_allclose(
        manager.steering_vectors[0]["cluster_vector"], loaded[:2].mean(axis=0), atol=1e-5
    )


def test_steering_vectors_and_our_backend_steer_alike(tmp_path: Path):
    """The class of the package steering-vectors, loaded with our file, against our own hooks."""
    export(RECORDS, tmp_path / "v.safetensors", layer_nums="0,2")
    vectors = read_vectors(tmp_path / "v.safetensors").vectors
    package = import_alone("steering_vectors.steering_vector")
    backend = discover().find("backend", "transformers").factory(MODEL, device="cpu")
    model, given = backend.engine.model, torch.tensor([PROMPT])
    with torch.no_grad():
        plain = model(given).logits
        with backend.steered(vectors):
            ours = model(given).logits
        theirs_too = package.SteeringVector({n: torch.tensor(v) for n, v in vectors.items()})
        with theirs_too.apply(model):
            theirs = model(given).logits
        again = model(given).logits
    assert (ours - plain).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(again, plain)


def test_the_layer_is_chosen_by_what_it_does_on_other_queries():
    """Layer 0 agrees only within a query, layer 1 across queries, layer 2 not at all."""
    generator = np.random.default_rng(0)
    queries = [f"q{i // 4}" for i in range(40)]
    own = {query: 10 * generator.standard_normal(16) for query in set(queries)}
    shared = generator.standard_normal(16)
    vectors = generator.standard_normal((40, 3, 16))
    vectors[:, 0] += [own[query] for query in queries]
    vectors[:, 1] += 2 * shared
    statistics = measure_layers(
        Differences(vectors.astype(np.float32), np.full((40, 3), 10, np.float32)), queries
    )
    assert best_layer(statistics) == 1
    assert statistics[1].separated == 1.0
    assert statistics[1].cosine > 0.6
    assert abs(statistics[2].cosine) < 0.1
    assert statistics[2].separated < 0.7
    assert statistics[1].norm == pytest.approx(10 * statistics[1].relative_norm, rel=1e-5)


@pytest.mark.parametrize(
    ("token", "name"),
    [
        (" 5", "numerical_accuracy"),
        ("+", "numerical_accuracy"),
        (" wait", "self_correction"),
        (" No", "self_correction"),
        ("First,", "organization"),
        (" maybe", "exploration"),
        ("Therefore", "depth_and_thoroughness"),
        (",", "unknown"),
        ("<|eos|>", "unknown"),
        ("", "unknown"),
    ],
)
def test_patterns_are_read_from_the_token(token: str, name: str):
    assert pattern(token) == name


@pytest.mark.parametrize(
    ("options", "file", "kind", "message"),
    [
        ({"layer_nums": "19,23,27"}, "v.safetensors", UsageError, "no layer 19.* has 0 to 2"),
        ({"layer_nums": "0"}, "v.gguf", UsageError, "no layer 0 in a .gguf control vector"),
        ({"layer_nums": "one"}, "v.gguf", UsageError, "as 19,23,27"),
        ({}, "v.bin", UsageError, "safetensors, gguf, jsonl"),
        ({"device": "nowhere"}, "v.gguf", UsageError, "nowhere"),
    ],
)
def test_bad_options_say_what_there_is(tmp_path: Path, options, file, kind, message):
    with pytest.raises(kind, match=message):
        export(RECORDS, tmp_path / file, **options)
    assert not list(tmp_path.iterdir())


def test_records_that_do_not_fit_are_refused(tmp_path: Path):
    with pytest.raises(PtsError, match="doesn't fit the records"):
        export([{**PLAIN, "pivot_token": " x"}], tmp_path / "v.gguf", layer_nums="1")
    with pytest.raises(PtsError, match="all pairs are of one query"):
        export([PLAIN], tmp_path / "v.gguf")
    long = {**PLAIN, "context_ids": [9999, *PLAIN["context_ids"]]}
    with pytest.raises(PtsError, match="can't read a record"):
        export([long], tmp_path / "v.gguf", layer_nums="1")


def test_random_vectors_have_the_norm_and_no_direction():
    vectors = {1: np.arange(1000, dtype=np.float32)}
    [drawn] = random_vectors(vectors, seed=3).values()
    norm = np.linalg.norm(vectors[1])
    assert np.linalg.norm(drawn) == pytest.approx(norm, rel=1e-5)
    assert abs(drawn @ vectors[1]) / norm**2 < 0.2


def test_a_vector_that_must_change_the_answers_does(tmp_path: Path):
    """Towards the token that every answer ends with, the model says nothing and is never right."""
    backend = discover().find("backend", "transformers").factory(MODEL, device="cpu")
    oracle = discover().find("oracle", "math").factory()
    problems = list(discover().find("dataset", "demo").factory())[:4]
    end = backend.engine.model.lm_head.weight[backend.end_of_sequence[0]].detach().numpy()
    how = {"rollouts": 20, "sampling": Sampling()}
    before = success(backend, oracle, problems, **how)
    with backend.steered({2: 1000 * end}):
        steered = success(backend, oracle, problems, **how)
    assert before.prob > 0.2
    assert steered.prob == 0
    assert success(backend, oracle, problems, **how) == before


def test_pts_steer_prints_every_arm_on_unseen_problems(pts: Pts, tmp_path: Path):
    seen = {**PLAIN, "dataset_id": "demo", "dataset_item_id": "demo/0"}
    write(tmp_path / "t.jsonl", [seen, WAIT])
    command = ("--model", "demo", "--format", "steering", "--output-path", "v.safetensors")
    done = pts("export", "--input-path", "t.jsonl", *command)
    assert done.returncode == 0, done.stderr
    command = ("steer", "--input-path", "v.safetensors", "--model", "demo", "--dataset", "demo")
    small = ("--max-problems", "3", "--num-samples", "4")
    done = pts(*command, *small, "--strengths=1,2", "--random-vectors", "2")
    assert done.returncode == 0, done.stderr
    assert "3 problems that the vector was not made from" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [(r[0], r[1], r[-1]) for r in rows] == [
        ("none", "0", "12"),
        *(("vector", "1", "12"), ("random", "1", "24")),
        *(("vector", "2", "12"), ("random", "2", "24")),
    ]
    assert pts(*command, *small, "--strengths=1,2", "--random-vectors", "2").stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--input-path", "missing.safetensors"), 2, "missing.safetensors"),
        (("--input-path", "."), 2, "cannot read .: Is a directory"),
        (("--input-path", "rows.jsonl"), 1, "holds no steering vectors"),
        (("--input-path", "eighths.safetensors"), 1, "holds no steering vectors"),
        (("--input-path", "wide.safetensors"), 2, "is it of another model?"),
        (("--input-path", "deep.safetensors"), 2, "no layer 9: the model has 0 to 2"),
        (("--strengths", "much"), 2, "--strengths"),
    ],
)
def test_pts_steer_gets_bad_input_in_one_line(pts: Pts, tmp_path: Path, arguments, code, message):
    from safetensors.numpy import save_file

    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    save_file({"layer.1": np.zeros(5, np.float32)}, tmp_path / "wide.safetensors")
    eighths = {"layer.1": torch.zeros(96).to(torch.float8_e4m3fn)}
    safetensors.torch.save_file(eighths, tmp_path / "eighths.safetensors")
    save_file({"layer.9": np.zeros(96, np.float32)}, tmp_path / "deep.safetensors")
    save_file({"layer.1": np.zeros(96, np.float32)}, tmp_path / "good.safetensors")
    given = {"--input-path": "good.safetensors", **dict([arguments])}
    words = [word for pair in given.items() for word in pair]
    done = pts("steer", *words, "--model", "demo", "--dataset", "demo", "--max-problems", "1")
    assert message in one_line(done, code)
    assert not done.stdout
