"""`pts push`: against a server on loopback that speaks the Hub's protocol, then loaded back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hub
import pytest
from conftest import Pts
from exported import RECORDS
from test_cli import one_line, write


@pytest.fixture
def push(pts: Pts, tmp_path: Path):
    """`pts push` to a Hub of our own; `created` holds its repositories, `env` says where it is."""
    created = tmp_path / "hub"
    created.mkdir()
    with hub.serve({}, created) as url:
        env = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": hub.WRITING_TOKEN,
        }

        def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
            return pts("push", *arguments, **{**env, **extra})

        run.created, run.env = created, env
        yield run


def commits(push) -> list[dict[str, object]]:
    log = push.created / "commits.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def load(push, tmp_path: Path, repository: str, revision: str = "main") -> list[dict[str, object]]:
    """The rows that `datasets` finds in a repository, in a process of its own."""
    code = (
        "import datasets, json\n"
        f"rows = datasets.load_dataset({repository!r}, split='train', revision={revision!r})\n"
        "open('loaded.jsonl', 'w').writelines(json.dumps(r, default=str) + '\\n' for r in rows)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **push.env},
        check=True,
        capture_output=True,
    )
    return [json.loads(line) for line in (tmp_path / "loaded.jsonl").read_text().splitlines()]


def test_pivotal_tokens_arrive_in_one_commit_and_load(push, tmp_path: Path):
    write(tmp_path / "tokens.jsonl", RECORDS)
    done = push("--input-path", "tokens.jsonl", "--hf-repo", "me/tokens", "--private")
    assert done.returncode == 0, done.stderr
    assert "/datasets/me/tokens/commit/" in done.stdout
    [commit] = commits(push)
    assert commit == {
        "repository": "me/tokens",
        "revision": "main",
        "files": ["README.md", "tokens.jsonl"],
    }
    assert json.loads((push.created / "visibility.json").read_text())["visibility"] == "private"
    rows = load(push, tmp_path, "me/tokens")
    for name in ("pivot_token", "context_ids", "interval", "alternatives", "sampling"):
        assert [row[name] for row in rows] == [record[name] for record in RECORDS]
    card = (push.created / "datasets" / "me" / "tokens" / "README.md").read_text()
    assert "- pts\n" in card
    assert "| rows | 3 |" in card
    assert "| model | toy |" in card
    assert '"temperature": 0.8' in card
    assert all(f"`{name}`" in card for name in RECORDS[0])
    assert "load_dataset('me/tokens'" in card


def test_a_branch_is_made_and_pushed_to_again(push, tmp_path: Path):
    write(tmp_path / "tokens.jsonl", RECORDS)
    command = ("--input-path", "tokens.jsonl", "--hf-repo", "me/tokens", "--revision", "v2")
    assert push(*command).returncode == 0
    write(tmp_path / "tokens.jsonl", RECORDS[:2])
    assert push(*command).returncode == 0
    assert [c["revision"] for c in commits(push)] == ["v2", "v2"]
    assert len(load(push, tmp_path, "me/tokens", "v2")) == 2
    assert "revision='v2'" in (push.created / "datasets/me/tokens/README.md").read_text()


def test_the_card_of_other_files_is_not_replaced(push, tmp_path: Path):
    write(tmp_path / "tokens.jsonl", RECORDS)
    write(tmp_path / "more.jsonl", RECORDS)
    assert push("--input-path", "tokens.jsonl", "--hf-repo", "me/tokens").returncode == 0
    line = one_line(push("--input-path", "more.jsonl", "--hf-repo", "me/tokens"), 1)
    assert "me/tokens holds tokens.jsonl, and its card would be replaced" in line
    assert len(commits(push)) == 1


def test_a_dry_run_prints_the_card_and_needs_no_token(push, tmp_path: Path):
    write(tmp_path / "tokens.jsonl", RECORDS)
    done = push(
        *("--input-path", "tokens.jsonl", "--hf-repo", "me/tokens", "--dry-run"),
        HF_TOKEN="",
        HF_HUB_OFFLINE="1",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("---\n")
    assert "# Pivotal tokens of toy" in done.stdout
    assert not commits(push)


@pytest.mark.parametrize(
    ("arguments", "env", "code", "message"),
    [
        ((), {"HF_TOKEN": ""}, 1, "no Hugging Face token"),
        ((), {"HF_HUB_OFFLINE": "1"}, 1, "HF_HUB_OFFLINE is set"),
        ((), {"HF_TOKEN": "hf_stale"}, 1, "refuses the token"),
        ((), {"HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "can't be reached"),
        (("--hf-repo", "somebody-else/x"), {}, 1, "may not write to somebody-else/x"),
        (("--hf-repo", "nameless"), {}, 2, "OWNER/NAME"),
        (("--hf-repo", "a/b/c"), {}, 2, "OWNER/NAME"),
        (("--input-path", "missing.jsonl"), {}, 2, "missing.jsonl"),
        (("--input-path", "empty.jsonl"), {}, 1, "empty"),
        (("--input-path", "torn.jsonl"), {}, 1, "line 2"),
        (("--input-path", "torn.safetensors"), {}, 1, "no whole safetensors"),
        (("--input-path", "torn.gguf"), {}, 1, "no whole GGUF"),
    ],
)
def test_bad_input_gets_one_line_and_nothing_is_sent(
    push, tmp_path: Path, arguments, env, code, message
):
    write(tmp_path / "tokens.jsonl", RECORDS)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "torn.jsonl").write_text(json.dumps(RECORDS[0]) + '\n{"pivot')
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\0\0\0")
    (tmp_path / "torn.gguf").write_bytes(b"GGUF")
    defaults = {"--input-path": "tokens.jsonl", "--hf-repo": "me/tokens"}
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    words = [word for pair in {**defaults, **given}.items() for word in pair]
    assert message in one_line(push(*words, **env), code)
    assert not commits(push)
