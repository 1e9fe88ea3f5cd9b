"""A real pretrained model through the whole command: SmolLM2-135M-Instruct, from a package."""

import json
from pathlib import Path

from conftest import Pts

from pts_core.records import read_json_lines

SUMS = {"What is 8 + 5?": "13", "What is 6 + 3?": "9", "What is 5 * 3?": "15"}


def test_smollm2_on_three_sums(pts: Pts, tmp_path: Path, smollm2_file: Path):
    rows = [json.dumps({"question": q, "answer": a}) for q, a in SUMS.items()]
    (tmp_path / "sums.jsonl").write_text("\n".join(rows))
    done = pts(
        *("run", "--model", str(smollm2_file.parent), "--backend.gguf-file", smollm2_file.name),
        *("--dataset", "sums.jsonl", "--max-new-tokens", "48", "--summary-path", "summary.json"),
        *("--min-prob", "0.05", "--max-prob", "0.95", "--num-samples", "8"),
        *("--max-rollouts", "24", "--traces-per-problem", "1"),
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["problems_seen"] == 3
    assert summary["problems_searched"] >= 1
    assert summary["scored_positions"] > 0
    assert summary["excluded_tokens"] > 0
    assert abs(summary["following_score"]) < 5
    for _, record in read_json_lines(tmp_path / "pivotal_tokens.jsonl"):
        assert abs(record["prob_delta"]) <= 1 - record["token_prob"] + 1e-9
        assert record["context_ids"][: record["prompt_length"]]
