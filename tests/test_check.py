"""`pts check`, and what `pts run` does of it: bad reference answers are found before generation."""

import json
from pathlib import Path

import pytest
from conftest import Pts

ROWS = [
    {"id": "a", "question": "1 + 1?", "answer": "2"},
    {"id": "b", "question": "Who?", "answer": r"\text{Evelyn}"},
    {"id": "c", "question": "Half?", "answer": "1/2"},
    {"id": "d", "question": "Who else?", "answer": "Evelyn"},
    {"id": "e", "question": "Is it?", "answer": "yes"},
    {"id": "f", "question": "Which? A) red B) blue", "answer": "B"},
]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def problems(tmp_path: Path) -> None:
    write(tmp_path / "problems.jsonl", ROWS)


def test_gold_answers_that_cannot_be_judged_are_named(pts: Pts):
    done = pts("check", "--dataset", "problems.jsonl")
    assert done.returncode == 1
    first, *others = done.stdout.splitlines()
    assert first == "4 of 6 gold answers accepted"
    assert len(others) == 2
    assert others[0].startswith(r'problem b: its answer "\text{Evelyn}" is no number, formula')
    assert others[1].startswith('problem d: its answer "Evelyn" is no number, formula, option')
    assert done.stderr.splitlines() == [
        'problems.jsonl: query from "question", answer from "answer"',
        "oracle auto: math, since its answer is a number or a formula",
        "oracle auto: yes-no, since its answer is yes or no",
        "oracle auto: choice, since its answer is a letter and its query lists options",
    ]


def test_all_accepted_is_success(pts: Pts):
    done = pts("check", "--dataset", "problems.jsonl", "--oracle", "exact")
    assert (done.returncode, done.stdout) == (0, "6 of 6 gold answers accepted\n")
    done = pts("check", "--dataset", "problems.jsonl", "--max-problems", "1")
    assert (done.returncode, done.stdout) == (0, "1 of 1 gold answers accepted\n")
    done = pts("check", "--dataset", "demo")
    assert (done.returncode, done.stdout) == (0, "54 of 54 gold answers accepted\n")


def test_the_gold_answers_of_code_are_run(pts: Pts, tmp_path: Path):
    row = {
        "prompt": 'def f(x):\n    """Twice."""\n',
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }
    solutions = ["    return 2 * x\n", "    return 3 * x\n"]
    rows = [{**row, "entry_point": "f", "canonical_solution": s} for s in solutions]
    write(tmp_path / "code.jsonl", rows)
    done = pts("check", "--dataset", "code.jsonl")
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["1 of 2 gold answers accepted", "1 not accepted: problem 1"]


def test_an_oracle_of_ones_own_judges_the_answers_as_they_are(pts: Pts, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "def judge(problem, completion):\n"
        "    if problem.id == 'a': return None\n"
        "    if problem.id == 'b': return 1 / 0\n"
        "    return completion.text == problem.answer != 'yes'\n"
    )
    done = pts("check", "--dataset", "problems.jsonl", "--oracle", "mine.py:judge")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "3 of 6 gold answers accepted",
        "1 not accepted: problem e",
        "1 could not be judged: problem a",
        "problem b: the oracle raised ZeroDivisionError: division by zero",
    ]


def test_completions_in_a_file_are_judged(pts: Pts, tmp_path: Path):
    rows = [
        {"dataset_item_id": "a", "completion": "The answer is 2."},
        {"dataset_item_id": "a", "completion": "The answer is 3."},
        {"dataset_item_id": "a", "completion": "The answer is 2", "truncated": True},
        {"query": "Is it?", "completion": "Yes."},
        {"dataset_item_id": "f", "completion": "blue, so (B)"},
    ]
    write(tmp_path / "said.jsonl", rows)
    command = ("check", "--dataset", "problems.jsonl", "--completions-path", "said.jsonl")
    done = pts(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "2 of 5 completions judged correct",
        "3 judged incorrect: problems a and f",
    ]
    done = pts(*command, "--max-problems", "1")
    assert done.stdout.splitlines()[0] == "1 of 3 completions judged correct"
    for row, message in (
        ({"dataset_item_id": "z", "completion": "x"}, "line 1: no problem of the dataset has"),
        ({"dataset_item_id": "a", "completion": 5}, "line 1: the row has no 'completion' text"),
        ({"dataset_item_id": "a", "completion": "", "truncated": 1}, "must be true or false"),
    ):
        write(tmp_path / "said.jsonl", [row])
        done = pts(*command)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--dataset", "nowhere.jsonl"), 2, "nowhere.jsonl: no such file"),
        (("--dataset", "problems.jsonl", "--oracle", "mth"), 2, "Did you mean 'math'"),
        (("--dataset", "problems.jsonl", "--max-problems", "0"), 2, "--max-problems"),
        (("--dataset", "problems.jsonl", "--completions-path", "x.jsonl"), 2, "x.jsonl"),
    ],
)
def test_bad_input_gets_one_line(pts: Pts, arguments: tuple[str, ...], code: int, message: str):
    done = pts("check", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_generated_problems_are_checked_by_name(pts: Pts):
    pytest.importorskip("reasoning_gym")
    source = ("--dataset", "reasoning-gym:chain_sum", "--dataset.size", "7")
    done = pts("check", *source)
    assert (done.returncode, done.stdout) == (0, "7 of 7 gold answers accepted\n")
    done = pts("check", "--dataset", "reasoning-gym")
    assert done.returncode == 2
    assert "reasoning-gym:SOURCE" in done.stderr


# What `pts run` does of it


@pytest.fixture
def solvable(pts: Pts, install):
    """`pts run` on a model that needs no torch, and answers 4 or 5."""
    folder = install("solvable", (Path(__file__).parent / "solvable_plugin.py").read_text())
    model = ("--model", "x", "--backend", "solvable", "--dataset", "problems.jsonl")
    return lambda *arguments: pts("run", *model, *arguments, PYTHONPATH=folder)


def test_a_run_skips_them_before_it_generates(solvable, tmp_path: Path):
    rows = [{"question": f"q{n}", "answer": a} for n, a in enumerate(["4", "Evelyn", "5"])]
    write(tmp_path / "problems.jsonl", rows)
    done = solvable("--summary-path", "s.json")
    assert done.returncode == 1
    assert 'pts: problem 1 skipped: problem 1: its answer "Evelyn" is no number' in done.stderr
    assert done.stderr.count("oracle auto: math, since its answer is a number or a formula") == 1
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["problems_failed"], summary["problems_seen"]) == (1, 3)
    write(tmp_path / "problems.jsonl", rows[1:2])
    done = solvable("--overwrite", "--summary-path", "s.json")
    assert json.loads((tmp_path / "s.json").read_text())["rollouts"] == 0


def test_shuffled_problems_are_the_same_for_the_same_seed(solvable, tmp_path: Path):
    write(tmp_path / "problems.jsonl", [{"question": f"q{n}", "answer": "4"} for n in range(99)])

    def order(*arguments: str) -> list[str]:
        done = solvable("--max-problems", "3", "--overwrite", *arguments)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "pivotal_tokens.jsonl").read_text().splitlines()
        return list(dict.fromkeys(json.loads(line)["dataset_item_id"] for line in lines))

    assert set(order()) <= {"0", "1", "2"}
    drawn = order("--shuffle", "--seed", "1")
    assert drawn == order("--shuffle", "--seed", "1")
    assert drawn != order("--shuffle", "--seed", "2")
    assert not set(drawn) <= {"0", "1", "2"}
