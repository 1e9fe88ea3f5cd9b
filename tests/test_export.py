"""`pts export` as a user meets it: options, counts, files, and one line for each kind of error."""

from pathlib import Path

import pytest
from conftest import Pts
from exported import LOWERS, NOT_APART, RAISES, RECORDS, alternative, record
from test_cli import SOLVABLE, one_line, read, write

# What data sets of this kind carried before ours.
OLD_FIELDS = (
    *("model_id", "query", "dataset_id", "dataset_item_id", "task_type", "timestamp"),
    *("pivot_context", "pivot_token", "pivot_token_id"),
    *("prob_before", "prob_after", "prob_delta", "is_positive"),
)


@pytest.fixture
def export(pts: Pts, tmp_path: Path):
    def run(records, *arguments: str, **env: str):
        write(tmp_path / "tokens.jsonl", records)
        defaults = {
            "--input-path": "tokens.jsonl",
            "--format": "dpo",
            "--output-path": "pairs.jsonl",
        }
        needed = [word for pair in defaults.items() if pair[0] not in arguments for word in pair]
        return pts("export", *needed, *arguments, **env)

    return run


def test_what_is_written_and_what_is_left_out_is_counted(export, tmp_path: Path):
    done = export([*RECORDS, RAISES])
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "pairs.jsonl")) == 2
    assert "2 rows written to pairs.jsonl" in done.stdout
    assert "1 left out: no alternative is measured apart" in done.stdout
    assert "1 left out: the same pair from another trace" in done.stdout
    assert "text_exact is null: the tokenizer of toy can't be loaded" in done.stdout


def test_an_output_that_exists_is_kept(export, tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text("mine\n")
    assert "--overwrite" in one_line(export(RECORDS), 2)
    assert (tmp_path / "pairs.jsonl").read_text() == "mine\n"
    assert export(RECORDS, "--overwrite").returncode == 0
    assert len(read(tmp_path / "pairs.jsonl")) == 2


def test_a_failed_export_leaves_what_was_there(export, tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text("mine\n")
    one_line(export([NOT_APART], "--overwrite"), 1)
    assert (tmp_path / "pairs.jsonl").read_text() == "mine\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pairs.jsonl", "tokens.jsonl"]


def test_records_of_another_tool_are_read_and_said_to_hold_no_pair(export):
    old = {name: RAISES[name] for name in OLD_FIELDS}
    line = one_line(export([old, old]), 1)
    assert "2 left out because the record lists no alternatives (another tool's" in line
    done = export([old, LOWERS])
    assert done.returncode == 0
    assert "1 left out: the record lists no alternatives" in done.stdout


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "holds no pivotal tokens"),
        ([NOT_APART], "nothing to write: 1 left out because no alternative is measured apart"),
        ([RAISES, {**LOWERS, "model_id": "other"}], "2 models (other, toy)"),
        ([RAISES, {"question": "x"}], "line 2: no pivotal token: it has no 'model_id'"),
        ([{**RAISES, "prob_delta": "big"}], "'prob_delta' is 'big'"),
        ([{**RAISES, "prob_after": float("nan")}], "'prob_after' is nan"),
        ([{**RAISES, "schema_version": 2}], "upgrade pts"),
        ([{**RAISES, "context_ids": [7, "8"]}], "'context_ids' and 'pivot_token_id' must be ids"),
        ([{**RAISES, "prompt_length": 9}], "'prompt_length' is 9"),
        ([{k: v for k, v in RAISES.items() if k != "prompt_length"}], "'prompt_length' is None"),
        ([{**RAISES, "alternatives": "none"}], "'alternatives' must be a list"),
        ([{**RAISES, "alternatives": [{"token": "x"}]}], "one of its alternatives"),
        ([{**RAISES, "rollouts": [1, 0]}], "'rollouts' is [1, 0]"),
    ],
)
def test_bad_records_get_one_line_and_no_file(export, tmp_path: Path, records, message):
    assert message in one_line(export(records), 1)
    assert not (tmp_path / "pairs.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--format", "dop"), 2, "Did you mean 'dpo'"),
        (("--input-path", "missing.jsonl"), 2, "missing.jsonl"),
        (("--output-path", "no/such/pairs.jsonl"), 2, "no/such"),
        (("--min-prob-delta", "2"), 2, "--min-prob-delta"),
        (("--max-pairs", "0"), 2, "--max-pairs"),
        (("--template", "chatty"), 2, "--format.template"),
        (("--format.confidence", "1.5"), 2, "--format.confidence"),
        (("--format.confidnce", "0.9"), 2, "--format.confidence"),
        (("--layer-nums", "1"), 2, "no option for --layer-nums"),
        (("--tokenizer", "no/such-tokenizer"), 1, "no/such-tokenizer"),
        (("--text-exact-only",), 2, "give --tokenizer"),
        (("--template", "conversational"), 2, "give --tokenizer"),
        (("--tokenizer", "demo"), 1, "doesn't fit the records of toy: token 12 is"),
        (("--format", "steering"), 2, "needs the model of the records: --model"),
        (("--oracle", "math"), 2, "--oracle is for measuring alternatives"),
        (("--backend.dtype", "bfloat16"), 2, "--backend.NAME is for measuring alternatives"),
        (("--num-samples", "9"), 2, "--num-samples is for measuring alternatives"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_options_get_one_line_and_no_file(export, tmp_path: Path, arguments, code, message):
    assert message in one_line(export(RECORDS, *arguments), code)
    assert not (tmp_path / "pairs.jsonl").exists()


def test_min_prob_delta_max_pairs_and_balance(export, tmp_path: Path):
    def pair(i: int, after: float) -> dict[str, object]:
        other = alternative(" b", 50 + i, 1.0 if after < 0.5 else 0.0, 100)
        return record(" a", 20 + i, 0.5, after, other)

    records = [pair(0, 0.8), pair(1, 0.95), pair(2, 0.9), pair(3, 0.3), pair(4, 0.2)]

    def kept(*arguments: str) -> list[int]:
        done = export(records, "--overwrite", *arguments)
        assert done.returncode == 0, done.stderr
        rows = read(tmp_path / "pairs.jsonl")
        return [min(row["chosen_ids"][0], row["rejected_ids"][0]) - 20 for row in rows]

    assert kept() == [0, 1, 2, 3, 4]
    assert kept("--min-prob-delta", "0.35") == [1, 2]
    assert kept("--max-pairs", "2") == [1, 2]
    assert kept("--balance") == [1, 2, 3, 4]
    assert kept("--balance", "--max-pairs", "3") == [1, 4]


def test_an_exporter_of_a_third_party(export, install, tmp_path: Path):
    folder = install(
        "tables",
        "from pts_core import ExportReport, hookimpl\n"
        "@hookimpl\n"
        "def pts_exporters(): return {'table': table, 'number': lambda: lambda records, path: 3}\n"
        "def table(*, mark: str = '|'):\n"
        "    def write(records, path):\n"
        "        path.write_text(mark.join(r['pivot_token'] for r in records))\n"
        "        return ExportReport(len(records))\n"
        "    return write\n",
    )
    done = export(RECORDS, "--format", "table", "--format.mark", "/", PYTHONPATH=folder)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pairs.jsonl").read_text() == " 2/ 3/ 5"
    done = export(RECORDS, "--format", "table", "--balance", PYTHONPATH=folder)
    assert "no option for --balance" in one_line(done, 2)
    done = export(RECORDS, "--format", "number", "--overwrite", PYTHONPATH=folder)
    assert "must return an ExportReport" in one_line(done, 1)


def test_missing_alternatives_are_measured_with_any_backend(pts: Pts, install, tmp_path: Path):
    plugin = (Path(__file__).parent / "solvable_plugin.py").read_text()
    env = {"PYTHONPATH": install("solvable", plugin)}
    write(tmp_path / "problems.jsonl", [{"question": "problem", "answer": "4"}])
    done = pts("run", *SOLVABLE, "--output-path", "found.jsonl", **env)
    assert done.returncode == 0, done.stderr
    bare = [{**found, "alternatives": []} for found in read(tmp_path / "found.jsonl")]
    assert bare
    write(tmp_path / "tokens.jsonl", bare)
    files = ("--input-path", "tokens.jsonl", "--format", "dpo", "--output-path", "pairs.jsonl")
    done = pts("export", *files, *SOLVABLE, **env)
    assert done.returncode == 0, done.stderr
    for pair in read(tmp_path / "pairs.jsonl"):
        assert (pair["chosen_ids"], pair["rejected_ids"]) == ([1], [2])
        assert pair["prob_chosen"] > 0.7
        assert pair["prob_rejected"] < 0.3
    done = pts("export", *files, *SOLVABLE, "--overwrite", "--backend.dies-after", "3", **env)
    assert "the server went away" in one_line(done, 1)
