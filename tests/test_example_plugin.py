"""The example plugin as a stranger's package: built, installed and used by name."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import ROOT

EXAMPLE = ROOT / "tests" / "example_plugin"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the example's wheel in it, beside pts and what it needs."""
    folder = tmp_path_factory.mktemp("example")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, EXAMPLE]
    subprocess.run(build, check=True)
    venv.create(folder / "venv", with_pip=True)
    [site] = (folder / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    python = folder / "venv" / "bin" / "python"
    [wheel] = folder.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    return folder


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    python = place / "venv" / "bin" / "python"
    return subprocess.run(
        [python, *arguments], cwd=place, capture_output=True, text=True, timeout=200,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", "NO_COLOR": "1"},
    )  # fmt: skip


def pts(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(place, "-c", "from pts_core.cli import main; main()", *arguments)


def test_it_is_listed_with_its_options(place: Path):
    assert "pts-example 0.1.0" in pts(place, "plugins").stdout
    shown = pts(place, "plugins", "show", "backend", "coin")
    assert "--backend.tosses" in shown.stdout
    assert "Probability of heads" in shown.stdout


def test_all_of_it_is_used_by_name(place: Path):
    done = pts(
        place,
        *("run", "--model", "coin", "--backend", "coin", "--backend.bias", "0.4"),
        *("--dataset", "coins", "--dataset.size", "4", "--oracle", "parity"),
        *("--output-path", "found.jsonl"),
    )
    assert done.returncode == 0, done.stderr
    assert "pivotal tokens written to found.jsonl" in done.stdout
    done = pts(
        place,
        *("export", "--input-path", "found.jsonl", "--output-path", "found.csv"),
        *("--format", "csv", "--format.columns", "pivot_token,prob_delta"),
    )
    assert done.returncode == 0, done.stderr
    lines = (place / "found.csv").read_text().splitlines()
    assert lines[0] == "pivot_token,prob_delta"
    # After two tosses of three, parity hangs on the last one alone: its delta is 0.6 or 0.4.
    assert len(lines) > 4


def test_its_own_tests_pass(place: Path):
    done = run(place, "-m", "pytest", "-q", str(EXAMPLE), "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
