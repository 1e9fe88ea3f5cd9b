"""Preference pairs: which ones there are, what they say, and what TRL makes of them."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import Pts
from datasets import load_dataset
from exported import LOWERS, NOT_APART, RAISES, alternative, record
from pts_dpo.texts import Texts
from pts_dpo.trl import TokenDPOTrainer, with_prefixes
from test_cli import one_line, read, write
from test_export import OLD_FIELDS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from pts_core.errors import PtsError
from pts_core.plugins import discover

MODEL = discover().find("model", "demo").factory()
TOKENIZER = AutoTokenizer.from_pretrained(MODEL)
QUERY = "What is 2 + 3 + 4?"
PROMPT = TOKENIZER.apply_chat_template(
    [{"role": "user", "content": QUERY}], add_generation_prompt=True, return_dict=False
)


def demo_record(answer: list[int], token: int, other: int, after: float = 0.9, **changed):
    """A record of the demo model: its token ids, and what they decode to."""
    text = TOKENIZER.decode
    return record(
        *(text([token]), token, 0.5, after),
        alternative(text([other]), other, 1 - after, 60),
        **{
            "model_id": "demo",
            "query": QUERY,
            "pivot_context": text(PROMPT + answer),
            "context_ids": PROMPT + answer,
            "prompt_length": len(PROMPT),
            **changed,
        },
    )


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False).input_ids


ANSWER = ids("Step by step: 2 + 3 =")
FIVE, SIX = ids(" 5")[0], ids(" 6")[0]
PLAIN = demo_record(ANSWER, FIVE, SIX)
# The same answer in a spelling that the tokenizer would not choose.
SPELT = demo_record(ids("Ste") + ids("p by step: 2 + 3 ="), SIX, FIVE, 0.1)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up model is not looked for on the Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def export(records, path: Path, **options):
    return discover().find("exporter", "dpo").factory(**options)(records, path)


def test_both_signs_give_the_better_token_as_chosen(tmp_path: Path):
    report = export([RAISES, LOWERS, NOT_APART], tmp_path / "p.jsonl")
    raises, lowers = read(tmp_path / "p.jsonl")
    assert report.rows == 2
    for row in (raises, lowers):
        assert (row["chosen"], row["chosen_ids"]) == (" 2", [12])
        assert (row["rejected"], row["rejected_ids"]) == (" 3", [13])
        assert (row["prob_chosen"], row["prob_rejected"]) == (0.9, 0.1)
        assert row["metadata"]["original_query"] in ("1 + 1?", "2 + 0?")
        low, high = row["interval"]
        assert 0.5 < low < 0.8 < high < 1
    assert (raises["rollouts_chosen"], raises["rollouts_rejected"]) == (50, 40)
    assert (lowers["rollouts_chosen"], lowers["rollouts_rejected"]) == (40, 50)
    assert raises["prompt_ids"] == [7, 8, 9]
    assert raises["metadata"]["is_positive"]
    assert not lowers["metadata"]["is_positive"]


def test_the_most_probable_alternative_that_is_apart_is_taken(tmp_path: Path):
    others = [
        alternative(" b", 21, 0.85, 80, 0.5),  # not worse by more than chance
        alternative(" c", 22, 0.0, 60, 0.1),
        alternative(" d", 23, 0.2, 60, 0.3),
        alternative(" e", 24, 0.0, 1, 0.45),  # a single verdict
    ]
    export([record(" a", 20, 0.5, 0.9, *others)], tmp_path / "p.jsonl")
    [row] = read(tmp_path / "p.jsonl")
    assert row["rejected"] == " d"


def test_a_token_that_ends_the_answer_is_known_exactly(tmp_path: Path):
    """The verdict of a finished answer is no sample of one: a small sample beside it suffices."""
    last = record(" a", 20, 0.5, 1.0, alternative(" b", 21, 0.2, 20), rollouts=[40, 1])
    assert export([last], tmp_path / "p.jsonl").rows == 1
    lost = record(" a", 20, 0.5, 0.0, alternative(" b", 21, 0.8, 20), rollouts=[40, 1])
    assert export([lost], tmp_path / "p.jsonl").rows == 1
    [row] = read(tmp_path / "p.jsonl")
    assert row["chosen"] == " b"
    assert row["interval"][0] > 0.5


def test_text_exact_tells_where_tokenizing_again_gives_other_ids(tmp_path: Path):
    report = export([PLAIN, SPELT], tmp_path / "p.jsonl", tokenizer=MODEL)
    plain, spelt = read(tmp_path / "p.jsonl")
    assert plain["text_exact"] is True
    assert TOKENIZER(plain["prompt"] + plain["chosen"]).input_ids == (
        plain["prompt_ids"] + plain["chosen_ids"]
    )
    assert spelt["text_exact"] is False
    assert spelt["prompt"] == plain["prompt"]
    assert "the text of 1 of 2 pairs" in report.notes[0]
    report = export([PLAIN, SPELT], tmp_path / "q.jsonl", tokenizer=MODEL, text_exact_only=True)
    assert read(tmp_path / "q.jsonl") == [plain]
    assert report.left_out == {"text is not exact": 1}


def test_a_begin_token_that_the_tokenizer_adds_is_not_in_the_text(tmp_path: Path):
    """Llama's tokenizers put one before every text: in the prompt's text it would come twice."""
    adding = json.loads((Path(MODEL) / "tokenizer.json").read_text())
    adding["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|bos|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [0], "tokens": ["<|bos|>"]}},
    }
    folder = tmp_path / "adding"
    TOKENIZER.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(adding))
    export([PLAIN], tmp_path / "p.jsonl", tokenizer=str(folder))
    [row] = read(tmp_path / "p.jsonl")
    assert row["prompt"].startswith("<|user|>")
    assert row["text_exact"] is True
    assert AutoTokenizer.from_pretrained(folder)(row["prompt"]).input_ids == row["prompt_ids"]


def test_a_token_keeps_the_space_that_its_decoder_strips_from_a_beginning():
    """As the tokenizers of Llama 2 and Mistral 7B do."""
    core = Tokenizer(models.WordLevel({"▁the": 0, "▁cat": 1, "▁dog": 2, "?": 3}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    texts = Texts(PreTrainedTokenizerFast(tokenizer_object=core), "words")
    assert texts.decode([1]) == "cat"
    pair = {"prompt_ids": [0], "chosen_ids": [1], "rejected_ids": [2], "chosen": "", "rejected": ""}
    texts.make_plain(pair)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("the", " cat", " dog")
    assert pair["text_exact"]


def test_conversational_pairs_are_messages_that_differ_in_the_token(tmp_path: Path):
    export([PLAIN], tmp_path / "p.jsonl", tokenizer=MODEL, template="conversational")
    [row] = read(tmp_path / "p.jsonl")
    assert row["prompt"] == [{"role": "user", "content": QUERY}]
    assert row["chosen"] == [{"role": "assistant", "content": "Step by step: 2 + 3 = 5"}]
    assert row["rejected"] == [{"role": "assistant", "content": "Step by step: 2 + 3 = 6"}]
    assert row["text_exact"] is True


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path):
    with pytest.raises(PtsError, match="doesn't fit the records of toy"):
        export([RAISES], tmp_path / "p.jsonl", tokenizer=MODEL)
    assert not (tmp_path / "p.jsonl").exists()


def test_missing_alternatives_are_measured_with_the_model(pts: Pts, tmp_path: Path):
    """Of a record without any, and of one with the fields of other tools alone."""
    bare = {**PLAIN, "alternatives": []}
    old = {name: PLAIN[name] for name in OLD_FIELDS}
    elsewhere = {**bare, "query": "What is 9 - 1?", "dataset_item_id": "none"}
    write(tmp_path / "t.jsonl", [bare, old, elsewhere])
    write(tmp_path / "problems.jsonl", [{"question": QUERY, "answer": "9"}])
    command = ("export", "--input-path", "t.jsonl", "--format", "dpo")
    assert "nothing to write" in one_line(pts(*command, "--output-path", "p.jsonl"), 1)
    line = one_line(pts(*command, "--output-path", "p.jsonl", "--model", "demo"), 2)
    assert "which needs the problems: --dataset" in line
    model = ("--model", "demo", "--dataset", "problems.jsonl", "--oracle", "math")
    done = pts(*command, "--output-path", "p.jsonl", *model)
    assert done.returncode == 0, done.stderr
    assert "2 tokens got measured alternatives" in done.stdout
    assert "1 not measured: its problem is not in the dataset" in done.stdout
    assert "1 left out: the same pair from another trace" in done.stdout
    [row] = read(tmp_path / "p.jsonl")
    assert row["prompt_ids"] == PLAIN["context_ids"]
    assert row["chosen"] == " 5"
    assert row["rollouts_rejected"] == 50
    assert row["prob_rejected"] < 0.5 < row["prob_chosen"]


@pytest.fixture
def pairs(tmp_path: Path):
    """The data set of an export, as `datasets` loads it."""
    export([PLAIN, SPELT], tmp_path / "p.jsonl", tokenizer=MODEL)
    return load_dataset("json", data_files=str(tmp_path / "p.jsonl"), split="train")


def trainer(kind, pairs, folder: Path, **options):
    options = {"max_length": None, "max_steps": 30, "learning_rate": 1e-4, **options}
    return kind(
        model=AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
        args=DPOConfig(
            str(folder),
            per_device_train_batch_size=2,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **options,
        ),
        train_dataset=pairs,
        processing_class=TOKENIZER,
    )


def trained_ids(batch) -> list[list[int]]:
    rows = zip(batch["input_ids"], batch["completion_mask"], strict=True)
    return [row[mask.bool()].tolist() for row, mask in rows]


def test_our_trainer_trains_one_token_a_side_and_no_end(pairs, tmp_path: Path):
    ours = trainer(TokenDPOTrainer, pairs, tmp_path / "out")
    [batch] = ours.get_train_dataloader()
    assert sorted(trained_ids(batch)) == [[FIVE], [FIVE], [SIX], [SIX]]
    assert TOKENIZER.eos_token_id not in batch["input_ids"]
    inputs = {
        tuple(row[mask.bool()].tolist())
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    }
    expected = {(*r["context_ids"], t) for r in (PLAIN, SPELT) for t in (FIVE, SIX)}
    assert inputs == expected


def test_trls_own_trainer_would_train_on_the_end_too(pairs, tmp_path: Path):
    """Why there is a trainer of ours. If this fails, TRL may have learned to take ids."""
    theirs = trainer(DPOTrainer, pairs, tmp_path / "out")
    [batch] = theirs.get_train_dataloader()
    assert all(row[-1] == TOKENIZER.eos_token_id for row in trained_ids(batch))


def test_training_moves_the_model_from_the_rejected_to_the_chosen_token(pairs, tmp_path: Path):
    ours = trainer(TokenDPOTrainer, pairs, tmp_path / "out")

    def margin() -> float:
        with torch.no_grad():
            logits = ours.model(torch.tensor([PLAIN["context_ids"]])).logits[0, -1]
        return float(logits[FIVE] - logits[SIX])

    before = margin()
    ours.train()
    assert math.isfinite(before)
    assert margin() > before + 1


def test_prefixes_on_both_sides_cancel_in_the_loss_of_dpo_and_count_in_that_of_sft(
    pairs, tmp_path: Path
):
    def loss(rows, *types: str) -> float:
        ours = trainer(TokenDPOTrainer, rows, tmp_path / "out", bf16=False, loss_type=[*types])
        [batch] = ours.get_train_dataloader()
        with torch.no_grad():  # away from the reference model, where every pair's loss is ln 2
            ours.model.get_output_embeddings().weight[SIX] *= 1.5
            return float(ours.compute_loss(ours.model, batch))

    def per_token(rows) -> float:
        """The mean of -log p over the chosen sides, a token at a time."""
        model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
        losses = []
        with torch.no_grad():
            model.get_output_embeddings().weight[SIX] *= 1.5
            for row in rows:
                sequence = torch.tensor([row["prompt_ids"] + row["chosen_ids"]])
                logps = model(sequence).logits[0, :-1].log_softmax(-1)
                own = logps.gather(1, sequence[0, 1:, None])[:, 0]
                losses += own[len(row["prompt_ids"]) - 1 :].neg().tolist()
        return sum(losses) / len(losses)

    moved = with_prefixes(pairs)
    assert moved["prompt_ids"] == [PROMPT] * 2
    assert (*ANSWER, FIVE) in map(tuple, moved["chosen_ids"])
    assert loss(pairs, "sigmoid") != pytest.approx(math.log(2), abs=1e-3)
    assert loss(moved, "sigmoid") == pytest.approx(loss(pairs, "sigmoid"), abs=1e-5)
    for rows in (pairs, moved):
        assert loss(rows, "sft") == pytest.approx(per_token(rows), abs=1e-4)
    bare = pairs.map(lambda row: {"metadata": {**row["metadata"], "prompt_length": None}})
    with pytest.raises(ValueError, match="no prompt_length"):
        with_prefixes(bare)


def test_what_would_cut_the_token_off_is_refused(pairs, tmp_path: Path):
    with pytest.raises(ValueError, match="max_length=None"):
        trainer(TokenDPOTrainer, pairs, tmp_path / "out", max_length=64)
    with pytest.raises(ValueError, match="no 'prompt_ids'"):
        trainer(TokenDPOTrainer, pairs.remove_columns("prompt_ids"), tmp_path / "out")


def test_an_export_of_what_a_run_found_loads(tmp_path: Path):
    write(tmp_path / "t.jsonl", [PLAIN, SPELT])
    export(read(tmp_path / "t.jsonl"), tmp_path / "p.jsonl")
    rows = load_dataset("json", data_files=str(tmp_path / "p.jsonl"), split="train")
    assert rows[0]["prompt_ids"] == PLAIN["context_ids"]
    assert rows[0]["metadata"]["sampling"]["temperature"] == 0.8
