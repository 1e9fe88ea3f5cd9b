"""The record's fields, and the files that go in and out."""

import json
from pathlib import Path

import pytest

from pts_core.errors import PtsError, UsageError
from pts_core.records import Output, make_record, read_json_lines
from pts_core.traces import read_traces
from pts_core.types import Alternative, PivotalToken, Problem, Sampling, Trace

PROBLEM = Problem("7", "What is {1} [bold]?", "1", "demo", "arithmetic")
TOKEN = PivotalToken(
    trace=Trace("0", (5, 6, 0), correct=False),
    position=1,
    prob_before=0.5,
    prob_after=0.25,
    interval=(-0.4, -0.1),
    rollouts=(20, 8),
    token_prob=0.3,
    alternatives=(Alternative(9, None, 0.75, 4, (0.3, 0.95)),),
)


def decode(ids):
    return "".join(f"<{i}>" for i in ids)


def record():
    return make_record(
        PROBLEM, (1, 2), TOKEN, model_id="m", sampling=Sampling(seed=3), decode=decode
    )


def test_a_record_has_the_fields_of_the_format():
    made = record()
    assert made["pivot_context"] == "<1><2><5>"
    assert made["context_ids"] == [1, 2, 5]
    assert made["prompt_length"] == 2
    assert (made["pivot_token"], made["pivot_token_id"]) == ("<6>", 6)
    assert (made["prob_delta"], made["is_positive"]) == (-0.25, False)
    assert made["trace_id"] == "7/0"
    assert made["alternatives"][0]["token"] == "<9>"
    assert json.loads(json.dumps(made["sampling"])) == {
        "temperature": 0.8,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "horizon": 512,
        "seed": 3,
        "stop": [],
    }


def test_records_are_on_disk_as_soon_as_they_are_written(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    output = Output(path, replace=False)
    output.write([record(), record()])
    assert [r for _, r in read_json_lines(path)] == [json.loads(json.dumps(record()))] * 2
    output.close(complete=True)


def test_datasets_reads_what_we_write(tmp_path: Path):
    import datasets

    path = tmp_path / "out.jsonl"
    with Output(path, replace=False) as output:
        output.write([record()])
    rows = datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows[0]["alternatives"][0]["prob"] == 0.75
    assert rows[0]["context_ids"] == [1, 2, 5]


def test_an_output_that_holds_something_is_not_replaced_unasked(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    path.write_text("{}\n")
    with pytest.raises(UsageError, match="--overwrite"):
        Output(path, replace=False)
    with pytest.raises(UsageError, match="cannot write"):
        Output(tmp_path / "no" / "such" / "out.jsonl", replace=False)


def test_an_output_is_replaced_when_as_much_is_there_again(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    path.write_text("{}\n{}\n")
    with Output(path, replace=True) as output:
        output.write([record()])
        assert path.read_text() == "{}\n{}\n"
        output.write([record()])
        assert len(list(read_json_lines(path))) == 2
        assert path.read_text().startswith('{"model_id"')
    with Output(path, replace=True) as output:  # ends early: what was there stays
        output.write([record()])
    assert len(list(read_json_lines(path))) == 2
    output = Output(path, replace=True)
    output.write([record()])
    output.close(complete=True)  # there is no more than this now
    assert len(list(read_json_lines(path))) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_output_that_got_nothing_leaves_no_file(tmp_path: Path):
    with Output(tmp_path / "out.jsonl", replace=False):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": ', "line 2: not JSON"),
        ("[1]\n", "line 1: a JSON object is needed"),
        ("[" * 100_000, "line 1: not JSON"),
        ('{"a": 1}\n\xff', "line 2: not JSON"),
    ],
)
def test_a_torn_line_is_named(text: str, message: str, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PtsError, match=message):
        list(read_json_lines(path))


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(PtsError, match="cannot read"):
        list(read_json_lines(path))


def encode(text: str):
    return tuple(len(word) for word in text.split())


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"dataset_item_id": "7", "completion": "a bb"}, (1, 2)),
        ({"dataset_item_id": 7, "completion_ids": [4, 5]}, (4, 5)),
        ({"query": PROBLEM.query, "completion": "a", "completion_ids": [9]}, (9,)),
    ],
)
def test_given_traces_are_matched_to_problems(row, expected, tmp_path: Path):
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert read_traces(path, [PROBLEM], encode) == {"7": [expected]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completion": "a"}, "neither 'dataset_item_id' nor 'query'"),
        ({"dataset_item_id": "8", "completion": "a"}, "id '8'"),
        ({"query": ["x"], "completion": "a"}, "no problem"),
        ({"dataset_item_id": "7"}, "neither a 'completion' text nor"),
        ({"dataset_item_id": "7", "completion_ids": [1, "2"]}, "list of token ids"),
        ({"dataset_item_id": "7", "completion_ids": [True]}, "list of token ids"),
    ],
)
def test_a_trace_that_fits_nothing_is_named_by_its_line(row, message, tmp_path: Path):
    path = tmp_path / "traces.jsonl"
    path.write_text("\n" + json.dumps(row) + "\n")
    with pytest.raises(PtsError, match="line 2") as caught:
        read_traces(path, [PROBLEM], encode)
    assert message in str(caught.value)
