"""The command as a user meets it: a process, its output, its files and its exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Pts

from pts_core.records import read_json_lines

SOLVABLE = (
    *("--model", "x", "--backend", "solvable"),
    *("--oracle", "has", "--dataset", "problems.jsonl"),
)


@pytest.fixture
def solvable(pts: Pts, install, tmp_path: Path):
    """`pts run` on a model that needs no torch, over twelve problems in a file."""
    folder = install("solvable", (Path(__file__).parent / "solvable_plugin.py").read_text())
    rows = [{"question": f"problem {i}", "answer": "4"} for i in range(12)]
    write(tmp_path / "problems.jsonl", rows)

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        defaults = zip(SOLVABLE[::2], SOLVABLE[1::2], strict=True)
        needed = [word for pair in defaults if pair[0] not in arguments for word in pair]
        return pts("run", *needed, *arguments, PYTHONPATH=folder, **env)

    return run


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path) -> list[dict[str, object]]:
    return [record for _, record in read_json_lines(path)]


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The error of a command that failed as it should: one line on stderr, no traceback."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("pts: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_a_run_writes_records_a_summary_and_a_table(solvable, tmp_path: Path):
    done = solvable("--summary-path", "summary.json", "--num-samples", "50", "--seed", "3")
    assert done.returncode == 0, done.stderr
    records = read(tmp_path / "pivotal_tokens.jsonl")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert 12 <= len(records) == summary["pivotal_tokens"]
    assert {r["position"] for r in records} <= {0, 1}
    assert summary["problems_searched"] == 12
    assert summary["rollouts"] >= 12 * 50
    assert summary["policy"]["seed"] == 3
    assert set(summary["seconds_by_phase"]) >= {"loading", "generation", "judging", "search"}
    assert "pivotal tokens written to pivotal_tokens.jsonl" in done.stdout
    assert 'query from "question"' in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_the_same_command_gives_the_same_records(solvable, tmp_path: Path):
    runs = []
    for name in ("a.jsonl", "b.jsonl"):
        assert solvable("--output-path", name).returncode == 0
        runs.append([{**r, "timestamp": ""} for r in read(tmp_path / name)])
    assert runs[0] == runs[1]
    assert solvable("--output-path", "c.jsonl", "--seed", "1").returncode == 0
    assert [{**r, "timestamp": ""} for r in read(tmp_path / "c.jsonl")] != runs[0]


def test_it_stops_after_max_pairs_and_max_problems(solvable, tmp_path: Path):
    assert solvable("--max-pairs", "3").returncode == 0
    assert len(read(tmp_path / "pivotal_tokens.jsonl")) == 3
    done = solvable("--overwrite", "--max-problems", "2", "--summary-path", "s.json")
    assert done.returncode == 0
    assert json.loads((tmp_path / "s.json").read_text())["problems_seen"] == 2


def test_quiet_prints_nothing(solvable):
    done = solvable("--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_given_completions_are_searched(solvable, tmp_path: Path):
    write(
        tmp_path / "traces.jsonl",
        [
            {"query": "problem 3", "completion": "2 4"},
            {"dataset_item_id": "5", "completion_ids": [1, 4, 0]},
        ],
    )
    done = solvable("--traces-path", "traces.jsonl", "--num-samples", "100")
    assert done.returncode == 0, done.stderr
    records = read(tmp_path / "pivotal_tokens.jsonl")
    assert {r["dataset_item_id"] for r in records} == {"3", "5"}
    by_position = {r["position"]: r for r in records if r["dataset_item_id"] == "3"}
    assert by_position[0]["prob_delta"] < -0.2
    assert by_position[1]["prob_delta"] > 0.7
    assert by_position[1]["prob_after"] == 1.0


def test_an_oracle_in_a_file(solvable, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "def judge(problem, completion): return '4' in completion.text\n"
        "class Has:\n"
        "    def __init__(self, *, word: str = '9'): self.word = word\n"
        "    def __call__(self, problem, completion): return self.word in completion.text\n"
        "def shrug(problem, completion): return 0.5\n"
        "def fail(problem, completion): return 1 / 0\n"
    )
    assert solvable("--oracle", "mine.py:judge").returncode == 0
    assert len(read(tmp_path / "pivotal_tokens.jsonl")) > 5
    options = ("--oracle.word", "4", "--overwrite")
    assert solvable("--oracle", "mine.py:Has", *options).returncode == 0
    assert len(read(tmp_path / "pivotal_tokens.jsonl")) > 5
    one_line(solvable("--oracle", "mine.py:judge", *options), 2)
    for name, cause in (("shrug", "not float"), ("fail", "ZeroDivisionError")):
        done = solvable("--oracle", f"mine.py:{name}", "--overwrite")
        assert done.returncode == 1
        assert cause in done.stderr
        assert "problem 0 skipped" in done.stderr
        assert "Traceback" not in done.stderr


def test_what_was_found_is_kept_when_the_backend_dies(solvable, tmp_path: Path):
    done = solvable("--backend.dies-after", "200", "--num-samples", "20")
    assert "the server went away" in one_line(done, 1)
    assert len(read(tmp_path / "pivotal_tokens.jsonl")) >= 2


def test_one_bad_problem_is_reported_and_the_run_goes_on(solvable, tmp_path: Path):
    rows = [{"question": q, "answer": "4"} for q in ("a", "unreadable", "b")]
    write(tmp_path / "problems.jsonl", rows)
    done = solvable("--summary-path", "s.json")
    assert "problem 1 skipped: its query cannot be encoded" in one_line(done, 1)
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["problems_failed"], summary["problems_searched"]) == (1, 2)


def test_ctrl_c_ends_cleanly_and_says_what_is_on_disk(install, tmp_path: Path):
    folder = install("solvable", (Path(__file__).parent / "solvable_plugin.py").read_text())
    write(
        tmp_path / "problems.jsonl", [{"question": "q", "answer": "4", "id": i} for i in range(99)]
    )
    arguments = (*SOLVABLE, "--backend.delay", "0.01")
    process = subprocess.Popen(
        [sys.executable, "-c", "from pts_core.cli import main; main()", "run", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": folder},
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    output = tmp_path / "pivotal_tokens.jsonl"
    deadline = time.time() + 60
    while time.time() < deadline and not (output.exists() and output.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"{len(read(output))} pivotal tokens are in pivotal_tokens.jsonl" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--temperature", "-1"), 2, "--temperature"),
        (("--temperature", "0"), 2, "--temperature"),
        (("--top-p", "1.5"), 2, "--top-p"),
        (("--num-samples", "0"), 2, "--num-samples"),
        (("--prob-threshold", "2"), 2, "--prob-threshold"),
        (("--min-prob", "0.9"), 2, "--min-prob"),
        (("--max-new-tokens", "0"), 2, "--max-new-tokens"),
        (("--max-pairs", "many"), 2, "--max-pairs"),
        (("--chat", "maybe"), 2, "--chat"),
        (("--tempertaure", "1"), 2, "--temperature"),
        (("--oracle", "mth"), 2, "Did you mean 'math'"),
        (("--oracle", "nowhere.py:judge"), 2, "nowhere.py"),
        (("--oracle.wrod", "x"), 2, "--oracle.word"),
        (("--backend", "transformer"), 2, "Did you mean 'transformers'"),
        (("--search", "bisect"), 2, "Did you mean 'bisection'"),
        (("--split", "test"), 2, "--split"),
        (("--dtype", "float32"), 2, "--dtype"),
        (("--dataset", "missing.jsonl"), 2, "missing.jsonl"),
        (("--dataset", "file"), 2, "file:SOURCE"),
        (("--dataset", "demo:x"), 2, "demo"),
        (("--query-key", "qestion"), 2, "question"),
        (("--prompt-template", "no place"), 2, "{query}"),
        (("--output-path", "no/such/folder/out.jsonl"), 2, "no/such/folder"),
        (("--output-path", "."), 2, "cannot write"),
        (("--summary-path", "no/such/s.json"), 2, "no/such"),
        (("--traces-path", "nothing.jsonl"), 2, "nothing.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_gets_one_line(solvable, tmp_path: Path, arguments, code, message):
    assert message in one_line(solvable(*arguments), code)
    assert not (tmp_path / "pivotal_tokens.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no problems"),
        ('{"question": "a", "answer": "4"}\n{"question": "b", "ans', "line 2"),
        ('{"question": "a", "answer": "4"}\n{"question": "b"}\n', "answer"),
        ('{"ask": "a", "reply": "4"}\n', "--query-key"),
    ],
)
def test_bad_problem_files_get_one_line(solvable, tmp_path: Path, content: str, message: str):
    (tmp_path / "problems.jsonl").write_text(content)
    done = solvable()
    assert done.returncode in (1, 2)
    assert message in one_line(done, done.returncode)


def test_an_output_that_exists_is_kept(solvable, tmp_path: Path):
    (tmp_path / "pivotal_tokens.jsonl").write_text("{}\n")
    assert "--overwrite" in one_line(solvable(), 2)
    assert (tmp_path / "pivotal_tokens.jsonl").read_text() == "{}\n"


def test_a_broken_plugin_is_one_warning_and_the_run_goes_on(solvable, pts: Pts, install):
    broken = install("broken", "import nothing_like_this")
    done = pts("plugins", PYTHONPATH=broken)
    assert done.returncode == 0
    assert "broken: ModuleNotFoundError" in done.stdout
    assert "broken-dist 1.0" in done.stdout
    done = pts("plugins", PYTHONPATH=broken, PTS_DISABLE_PLUGINS="broken")
    assert "blocked: named in PTS_DISABLE_PLUGINS" in done.stdout


def test_plugins_show_prints_options(pts: Pts):
    done = pts("plugins", "show", "oracle", "math")
    assert done.returncode == 0
    assert "--oracle.tolerance" in done.stdout
    assert "Did you mean 'math'" in one_line(pts("plugins", "show", "oracle", "maths"), 2)
    assert "oracle" in one_line(pts("plugins", "show", "oracles", "math"), 2)


def test_debug_shows_where_an_error_came_from(solvable):
    done = solvable("--debug", "--oracle", "mth")
    assert "Traceback" in done.stderr
    assert done.returncode == 2


def test_unreadable_models_get_one_line(pts: Pts, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for model in ("empty", "nobody/nothing-like-this"):
        line = one_line(pts("run", "--model", model, "--dataset", "demo"), 1)
        assert model in line
    assert not (tmp_path / "pivotal_tokens.jsonl").exists()


def test_a_config_file_stands_behind_the_flags(solvable, tmp_path: Path):
    (tmp_path / "run.toml").write_text(
        '[run]\nmax-problems = 2\nseed = 4\n"oracle.word" = "4"\nnum-samples = 20\n'
    )
    done = solvable("--config-file", "run.toml", "--seed", "5", "--summary-path", "s.json")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["problems_seen"] == 2
    assert summary["seed"] == 5
    (tmp_path / "wrong.toml").write_text("[run]\ntempertaure = 1\n")
    assert "Did you mean --temperature" in one_line(solvable("--config-file", "wrong.toml"), 2)
    (tmp_path / "torn.toml").write_text("[run\n")
    assert "cannot read --config-file torn.toml" in one_line(
        solvable("--config-file", "torn.toml"), 2
    )
    assert "nowhere.toml" in one_line(solvable("--config-file=nowhere.toml"), 2)
