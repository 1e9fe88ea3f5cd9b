"""Kills a run of the demo at random moments, lets it go on, and compares with an undisturbed one.

    python tests/benchmarks/kills.py [--kills 100] [--problems 12]

Prints the rollouts lost and drawn twice (both should be 0), and whether the records are the same.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def start(output: Path, problems: int) -> subprocess.Popen[bytes]:
    call = [sys.executable, "-c", "from pts_core.cli import main; main()", "run", "--quiet"]
    what = ["--model", "demo", "--dataset", "demo", "--max-problems", str(problems)]
    return subprocess.Popen([*call, *what, "--output-path", str(output)])


def streams(output: Path) -> list[int]:
    """The rollouts in a journal, as often as they are there; a torn last line is no rollout."""
    found = []
    for file in output.with_suffix(".journal").glob("*.jsonl"):
        for line in file.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n") and (entry := json.loads(line))["kind"] == "rollout":
                found.append(entry["stream"])
    return found


def records(output: Path) -> list[str]:
    return [
        json.dumps({**json.loads(line), "timestamp": ""})
        for line in output.read_text().splitlines()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills a run and lets it go on.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--problems", type=int, default=12)
    options = parser.parse_args()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole.jsonl"), Path(folder, "killed.jsonl")
        started = time.monotonic()
        assert start(whole, options.problems).wait() == 0
        seconds = time.monotonic() - started
        lost = hit = 0
        before: set[int] = set()
        for _ in range(options.kills):
            process = start(killed, options.problems)
            # Mostly in the loading, so that there is something left to kill to the end.
            time.sleep(seconds * chance.uniform(0.1, 0.6))
            hit += process.poll() is None
            process.kill()
            process.wait()
            now = set(streams(killed))
            lost += len(before - now)
            before = now
        assert start(killed, options.problems).wait() == 0
        kept = streams(killed)
        print(f"{options.kills} kills, {hit} of a run that had not ended")
        print(f"rollouts {len(set(kept))}, lost {lost + len(set(streams(whole)) - set(kept))}, ")
        print(f"drawn twice {len(kept) - len(set(kept))}")
        print("records", "the same" if records(killed) == records(whole) else "DIFFER")


if __name__ == "__main__":
    main()
