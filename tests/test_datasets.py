"""The datasets "hub" and "file": what they detect, and one clear line for every bad input."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pts_datasets import load_file as file
from pts_datasets import load_hub as hub

from pts_core.errors import PtsError, UsageError
from pts_core.types import Problem

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


def test_a_bad_row_of_a_hub_dataset(hub_folder: Path):
    (hub_folder / "test.jsonl").write_text(ROW + '{"question": "x", "answer": null}\n')
    with pytest.raises(PtsError, match=r"row 1 \(the first is 0\): column \"answer\" is missing"):
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


def test_the_plugin_is_light(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(ROW)
    code = (
        "import sys, pts_datasets; assert set(pts_datasets.pts_datasets()) == {'hub', 'file'}\n"
        "assert len(pts_datasets.load_file('rows.jsonl')) == 1\n"
        "assert not {'datasets', 'pyarrow', 'torch', 'huggingface_hub'} & set(sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=env)
