"""Nothing is lost: runs that are killed, starved of disk space or let down, and then go on."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pts_core.errors import PtsError, UsageError
from pts_core.journal import Judged, Log, journal_of, open_journal, read_journal, read_log
from pts_core.search import Outcome
from pts_core.types import (
    Alternative,
    Continuation,
    PivotalToken,
    Problem,
    Request,
    TokenScores,
    Trace,
)

PROBLEM = Problem("7", "What is {1}?", "1", "demo", "sums", {"level": 2})
TRACE = Trace("0", (5, 6, 0), correct=True)
SCORES = TokenScores(
    np.array([0.1, 1 / 3, 1.0]), np.array([[5, -1]] * 3), np.array([[0.7, 0.0]] * 3)
)
TOKEN = PivotalToken(
    trace=TRACE,
    position=1,
    prob_before=1 / 3,
    prob_after=0.9,
    interval=(0.4, 0.7),
    rollouts=(20, 8),
    token_prob=0.3,
    alternatives=(Alternative(9, None, 0.75, 4, (0.3, 0.95)),),
    p_value=0.01,
)
PROMPT = (1, 2)


def write(folder: Path) -> None:
    with open_journal(folder, {"seed": 1}, overwrite=False) as journal:
        log = journal.open(PROBLEM, PROMPT)
        log.score(TRACE.ids, SCORES)
        for stream, correct in enumerate((True, False, None)):
            request = Request(PROMPT, TRACE.ids, 1, stream)
            log.rollout(request, Judged(Continuation((8, stream), truncated=False), correct))
        log.close()


def only_file(folder: Path) -> Path:
    [path] = folder.glob("*.jsonl")
    return path


def test_what_is_written_is_read_back(tmp_path: Path):
    folder = tmp_path / "a.journal"
    write(folder)
    with open_journal(folder, {"seed": 1}, overwrite=False) as journal:
        log = journal.open(PROBLEM, PROMPT)
        assert {s: j.correct for s, j in log.drawn.items()} == {0: True, 1: False, 2: None}
        assert log.drawn[2].continuation == Continuation((8, 2), truncated=False)
        scores = log.scores[TRACE.ids]
        for name in TokenScores.__slots__:
            np.testing.assert_array_equal(getattr(scores, name), getattr(SCORES, name))
        log.end(Outcome(0.4, traces=1, following=(1, 2.5, 0.5)), [TOKEN])
    log = read_log(only_file(folder))
    assert log.result == (Outcome(0.4, traces=1, following=(1, 2.5, 0.5)), [TOKEN])
    assert log.rollouts == 3
    assert read_journal(folder).problems() == [PROBLEM]


def test_a_torn_line_is_dropped_and_writing_goes_on(tmp_path: Path):
    folder = tmp_path / "a.journal"
    write(folder)
    whole = only_file(folder).read_bytes()
    for size in range(1, len(whole) + 1):
        only_file(folder).write_bytes(whole[:size])
        kept = len(whole[:size].splitlines()) - (whole[:size][-1:] != b"\n")
        with open_journal(folder, {"seed": 1}, overwrite=False) as journal:
            log = journal.open(PROBLEM, PROMPT)
            assert len(log.drawn) + len(log.scores) + len(log.traces) == max(kept - 1, 0)
            log.score(TRACE.ids, SCORES)
            log.close()
        assert TRACE.ids in read_log(only_file(folder)).scores


def test_a_journal_that_is_only_read_stays_as_it_is(tmp_path: Path):
    """It may be one that is being written."""
    folder = tmp_path / "a.journal"
    write(folder)
    torn = only_file(folder).read_bytes()[:-5]
    only_file(folder).write_bytes(torn)
    assert read_journal(folder).open(PROBLEM, PROMPT).drawn
    assert only_file(folder).read_bytes() == torn


def test_a_journal_is_overwritten_when_a_run_begins(tmp_path: Path):
    folder = tmp_path / "a.journal"
    write(folder)
    with open_journal(folder, {"seed": 2}, overwrite=True):
        pass  # its model, say, was not found
    assert read_log(only_file(folder)).rollouts
    with open_journal(folder, {"seed": 2}, overwrite=True) as journal:
        journal.identify("another")
        journal.open(PROBLEM, PROMPT).close()
    assert not read_log(only_file(folder)).rollouts
    with open_journal(tmp_path / "b.journal", {}, overwrite=False):
        assert (tmp_path / "b.journal").is_dir()
    assert not (tmp_path / "b.journal").exists()


def test_options_of_the_backend_may_change_where_the_model_can_be_told(tmp_path: Path):
    folder = tmp_path / "a.journal"
    for fingerprint in ("x", None):
        before, after = ({"backend_options": {"max-batch": n}} for n in "48")
        with open_journal(folder, before, overwrite=True) as journal:
            journal.identify(fingerprint)
            journal.open(PROBLEM, PROMPT).close()
        with open_journal(folder, after, overwrite=False) as journal:
            if fingerprint:
                journal.identify(fingerprint)
            else:
                with pytest.raises(UsageError, match=r"made with --backend \{'max-batch': '4'\}"):
                    journal.identify(fingerprint)


def test_damage_is_one_line(tmp_path: Path):
    folder = tmp_path / "a.journal"
    write(folder)
    path = only_file(folder)
    path.write_text(path.read_text().replace('"rollout"', '"rolling"', 1))
    with pytest.raises(PtsError, match=r"is damaged at byte \d+: unknown kind 'rolling'"):
        read_log(path)
    (folder / "run.json").write_text("{")
    with pytest.raises(PtsError, match="damaged"):
        read_journal(folder)
    (folder / "run.json").write_text('{"version": 99}')
    with pytest.raises(PtsError, match="version 99"):
        read_journal(folder)
    with pytest.raises(UsageError, match="is no journal"):
        read_journal(tmp_path)


def test_another_run_is_refused(tmp_path: Path):
    folder = tmp_path / "a.journal"
    write(folder)
    with (
        pytest.raises(UsageError, match="made with --seed 1, not 2"),
        open_journal(folder, {"seed": 2}, overwrite=False),
    ):
        pass
    with open_journal(folder, {"seed": 1}, overwrite=False) as journal:
        with pytest.raises(UsageError, match="problem 7 is not the one"):
            journal.open(PROBLEM, (1, 2, 3))
        with (
            pytest.raises(UsageError, match="another process"),
            open_journal(folder, {"seed": 1}, overwrite=False),
        ):
            pass
    with open_journal(folder, {"seed": 2}, overwrite=True) as journal:
        journal.identify("a model")
        assert not journal.open(PROBLEM, PROMPT).drawn
        journal.identify("a model")
        with pytest.raises(UsageError, match="another model of this name"):
            journal.identify("another")


def test_a_problem_is_read_in_memory_of_its_own_and_in_time(tmp_path: Path):
    """A problem of 10,000 rollouts of 30 tokens; a million rollouts are a hundred of these."""
    with open_journal(tmp_path / "a.journal", {}, overwrite=False) as journal:
        log = journal.open(PROBLEM, PROMPT)
        for stream in range(10_000):
            ids = tuple(range(stream, stream + 30))
            log.rollout(
                Request(PROMPT, TRACE.ids, 1, stream), Judged(Continuation(ids, False), True)
            )
        log.close()
    started = time.process_time()
    assert len(read_log(only_file(tmp_path / "a.journal")).drawn) == 10_000
    assert time.process_time() - started < 6  # measured: 0.1


# The whole command


def command(folder: Path, *arguments: str, **options) -> subprocess.Popen:
    call = [sys.executable, "-c", "from pts_core.cli import main; main()", "run"]
    env = {**os.environ, "PYTHONPATH": str(folder / "plugins"), "HF_HUB_OFFLINE": "1"}
    oracle = () if "--oracle" in arguments else ("--oracle", "has")
    return subprocess.Popen(
        [*call, "--model", "none", "--backend", "solvable", *oracle, *arguments],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture
def folder(tmp_path: Path, install) -> Path:
    source = (Path(__file__).parent / "solvable_plugin.py").read_text()
    shutil.copytree(install("solvable_plugin", source), tmp_path / "plugins")
    rows = [json.dumps({"question": f"problem {i}", "answer": "4"}) for i in range(25)]
    (tmp_path / "problems.jsonl").write_text("\n".join(rows))
    return tmp_path


def run(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    process = command(folder, *arguments, **options)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def records(path: Path) -> list[str]:
    return [
        json.dumps({**json.loads(line), "timestamp": ""}) for line in path.read_text().splitlines()
    ]


def streams(path: Path) -> list[int]:
    """The rollouts in a journal, as often as they are there."""
    return [
        entry["stream"]
        for file in journal_of(path).glob("*.jsonl")
        for entry in map(json.loads, file.read_text().splitlines())
        if entry["kind"] == "rollout"
    ]


ARGUMENTS = ("--dataset", "problems.jsonl", "--max-rollouts", "60", "--traces-per-problem", "1")
SLOWLY = (*ARGUMENTS, "--backend.delay", "0.0005")


def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(folder: Path):
    assert run(folder, *SLOWLY, "--output-path", "whole.jsonl").returncode == 0
    chance, kills = random.Random(5), 0
    while kills < 25:
        process = command(folder, *SLOWLY, "--output-path", "killed.jsonl")
        time.sleep(chance.uniform(0.3, 0.9))
        process.kill()
        process.communicate()
        if process.returncode == 0:  # it had ended: a fresh start for the other kills
            assert records(folder / "killed.jsonl") == records(folder / "whole.jsonl")
            (folder / "killed.jsonl").unlink()
            shutil.rmtree(folder / "killed.journal")
        kills += 1
    done = run(folder, *SLOWLY, "--output-path", "killed.jsonl")
    assert done.returncode == 0, done.stderr
    assert records(folder / "killed.jsonl") == records(folder / "whole.jsonl")
    kept = streams(folder / "killed.jsonl")
    assert len(kept) == len(set(kept))
    assert set(kept) == set(streams(folder / "whole.jsonl"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_goes_on(folder: Path, how: int):
    # A shell that runs the tests in the background has them ignore SIGINT.
    process = command(
        folder,
        *ARGUMENTS,
        *("--backend.delay", "0.003"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not (folder / "pivotal_tokens.journal").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(how)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "pivotal tokens are in pivotal_tokens.jsonl; the same command goes on" in err
    done = run(folder, *ARGUMENTS, "--backend.delay", "0.003", "--summary-path", "s.json")
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "s.json").read_text())
    assert 0 < summary["kept_rollouts"] < summary["rollouts"]


def test_a_finished_run_draws_nothing_more_and_can_be_extended(folder: Path):
    assert run(folder, *ARGUMENTS, "--max-problems", "5").returncode == 0
    first = records(folder / "pivotal_tokens.jsonl")
    again = run(folder, *ARGUMENTS, "--max-problems", "5", "--summary-path", "s.json")
    assert again.returncode == 0
    assert json.loads((folder / "s.json").read_text())["generated_tokens"] == 0
    assert records(folder / "pivotal_tokens.jsonl") == first
    assert run(folder, *ARGUMENTS, "--max-problems", "8").returncode == 0
    longer = records(folder / "pivotal_tokens.jsonl")
    assert longer[: len(first)] == first
    assert len(longer) > len(first)
    refused = run(folder, *ARGUMENTS, "--seed", "5")
    assert refused.returncode == 2
    assert "was made with --seed 0, not 5" in refused.stderr
    assert run(folder, *ARGUMENTS, "--seed", "5", "--overwrite").returncode == 0


def test_a_backend_that_dies_loses_nothing(folder: Path):
    dying = (*ARGUMENTS, "--output-path", "a.jsonl", "--backend.dies-after")
    died = run(folder, *dying, "700")
    assert died.returncode == 1
    assert "the server went away" in died.stderr
    assert len(streams(folder / "a.jsonl")) == 699
    # What kills the backend is an option of it here, so the journal is told to forget it.
    head = folder / "a.journal" / "run.json"
    head.write_text(head.read_text().replace('"700"', '"0"'))
    assert run(folder, *dying, "0").returncode == 0
    assert run(folder, *dying[:-3], "--output-path", "b.jsonl").returncode == 0
    assert records(folder / "a.jsonl") == records(folder / "b.jsonl")


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(folder: Path):
    limit = 20_000

    def starve() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    starved = run(folder, *ARGUMENTS, "--output-path", "a.jsonl", preexec_fn=starve)
    assert starved.returncode == 1
    assert "cannot write" in starved.stderr
    assert starved.stderr.count("\n") <= 3
    assert "Traceback" not in starved.stderr
    done = run(folder, *ARGUMENTS, "--output-path", "a.jsonl")
    assert done.returncode == 0, done.stderr
    assert run(folder, *ARGUMENTS, "--output-path", "b.jsonl").returncode == 0
    assert records(folder / "a.jsonl") == records(folder / "b.jsonl")


def test_a_changed_oracle_is_not_taken_for_the_old_one(folder: Path):
    mine = folder / "mine.py"
    mine.write_text("def four(problem, completion): return '4' in completion.text.split()\n")
    command = (*ARGUMENTS, "--oracle", "mine.py:four", "--max-problems", "2")
    assert run(folder, *command).returncode == 0
    assert run(folder, *command).returncode == 0
    mine.write_text("def four(problem, completion): return '5' in completion.text.split()\n")
    done = run(folder, *command)
    assert done.returncode == 2
    assert "the file of --oracle has changed since pivotal_tokens.journal was made" in done.stderr
    again = ("--from-journal", "pivotal_tokens.journal", "--output-path", "b.jsonl")
    assert run_journal(folder, *again, "--oracle", "mine.py:four").returncode == 0


def test_a_journal_is_searched_with_the_strategy_and_the_oracle_that_are_named(folder: Path):
    options = ("--num-samples", "30", "--traces-per-problem", "1", "--max-problems", "2")
    summary = ("--summary-path", "s.json", "--overwrite")
    dataset = ("--dataset", "problems.jsonl")
    done = run(folder, *dataset, "--search", "bisection", *options)
    assert done.returncode == 0, done.stderr
    again = ("--from-journal", "pivotal_tokens.journal", "--output-path", "b.jsonl", *summary)
    for given, search in ((), "bisection"), (("--search", "branching"), "branching"):
        done = run_journal(folder, *again, *given)  # what one has drawn may not do for the other
        assert done.returncode == 0 or "its journal has no token probabilities" in done.stderr
        assert json.loads((folder / "s.json").read_text())["search"] == search
    done = run_journal(folder, *again, "--oracle", "auto")
    assert "oracle auto: math" in done.stderr + done.stdout


def test_two_runs_that_start_together(folder: Path):
    """One of them gets the journal, the other one line."""
    both = [command(folder, *ARGUMENTS, "--backend.delay", "0.01") for _ in range(2)]
    deadline = time.monotonic() + 60
    while all(process.poll() is None for process in both) and time.monotonic() < deadline:
        time.sleep(0.02)
    codes = [process.poll() for process in both]
    refused = both[codes.index(2)]
    assert codes.count(None) == 1
    for process in both:
        process.kill()
    assert "another process is writing" in refused.communicate()[1]
    both[codes.index(None)].communicate()


def test_two_runs_on_one_output(folder: Path):
    first = command(folder, *ARGUMENTS, "--backend.delay", "0.01")
    while first.poll() is None and not list(folder.glob("*.journal/*.jsonl")):
        time.sleep(0.02)
    second = run(folder, *ARGUMENTS, "--backend.delay", "0.01")
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "another process is writing pivotal_tokens.journal" in second.stderr


def test_kept_rollouts_are_searched_again(folder: Path):
    assert run(folder, *ARGUMENTS, "--output-path", "a.jsonl").returncode == 0
    again = ("--from-journal", "a.journal", "--summary-path", "s.json")
    done = run_journal(folder, *again, "--output-path", "b.jsonl")
    assert done.returncode == 0, done.stderr
    assert records(folder / "b.jsonl") == records(folder / "a.jsonl")
    assert json.loads((folder / "s.json").read_text())["generated_tokens"] == 0

    # The opposite oracle: every success probability p becomes 1 - p.
    (folder / "mine.py").write_text(
        "def no_four(problem, completion): return '4' not in completion.text.split()\n"
    )
    done = run_journal(folder, *again, "--output-path", "c.jsonl", "--oracle", "mine.py:no_four")
    assert done.returncode == 0, done.stderr
    turned = {
        (r["dataset_item_id"], tuple(r["context_ids"])): r["prob_delta"]
        for r in map(json.loads, records(folder / "c.jsonl"))
    }
    both = [
        (r["prob_delta"], turned[key])
        for r in map(json.loads, records(folder / "a.jsonl"))
        if (key := (r["dataset_item_id"], tuple(r["context_ids"]))) in turned
    ]
    assert len(both) > 5
    assert all(before * after < 0 for before, after in both)

    done = run_journal(folder, *again, "--output-path", "d.jsonl", "--max-rollouts", "400")
    assert done.returncode == 0, done.stderr
    assert "rollouts that the journal lacks to measure these tokens" in done.stdout
    done = run_journal(folder, *again, "--output-path", "e.jsonl", "--temperature", "0.3")
    assert done.returncode == 2
    assert "--temperature does not go with --from-journal" in done.stderr


def test_rollouts_that_ended_early_are_not_whole_for_another_oracle(folder: Path):
    (folder / "early.py").write_text(
        "class Early:\n"
        "    def __call__(self, problem, completion): return '4' in completion.text.split()\n"
        "    def is_decided(self, problem, text): return '4 ' in text\n"
        "early = Early()\n"
    )
    done = run(folder, *ARGUMENTS, "--oracle", "early.py:early", "--output-path", "a.jsonl")
    assert done.returncode == 0, done.stderr
    again = ("--from-journal", "a.journal", "--output-path")
    done = run_journal(folder, *again, "b.jsonl")
    assert done.returncode == 0, done.stderr
    assert "end where" not in done.stderr
    done = run_journal(folder, *again, "c.jsonl", "--oracle", "exact")
    assert "end where early.py:early had decided" in done.stderr


def run_journal(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(folder / "plugins"), "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, "-c", "from pts_core.cli import main; main()", "run", *arguments]
    return subprocess.run(call, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def test_an_oracle_that_hangs_fails_its_problem_alone(folder: Path):
    (folder / "mine.py").write_text(
        "def judge(problem, completion):\n"
        "    while problem.id == '1':\n"
        "        try: pass\n"
        "        except Exception: pass\n"
        "    return '4' in completion.text.split()\n"
        "import pts_core.verdicts\n"
        "pts_core.verdicts.ORACLE_SECONDS = 0.5\n"
    )
    done = run(folder, *ARGUMENTS, "--max-problems", "4", "--oracle", "mine.py:judge")
    assert done.returncode == 1
    assert "problem 1 skipped: the oracle took more than 0.5 s" in done.stderr
    searched = {json.loads(r)["dataset_item_id"] for r in records(folder / "pivotal_tokens.jsonl")}
    assert searched
    assert "1" not in searched


def test_an_unlogged_problem_writes_nothing(tmp_path: Path):
    log = Log(PROBLEM)
    log.rollout(Request(PROMPT, (), 0, 1), Judged(Continuation((1,), False), True))
    log.end(Outcome(0.5), [])
    assert not list(tmp_path.iterdir())
