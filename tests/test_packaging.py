"""What an installation puts on the import path: our packages, no `plugins` and no `tests`."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

from conftest import ROOT

PACKAGES = {
    *("pts_core", "pts_answers", "pts_datasets", "pts_demo", "pts_dpo", "pts_hub"),
    *("pts_steering", "pts_transformers"),
}


def pip(*arguments: str, python: str | Path = sys.executable) -> None:
    subprocess.run([python, "-m", "pip", *arguments], check=True, capture_output=True)


def test_the_wheel_holds_our_packages_and_the_demo_model(tmp_path: Path):
    pip("wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT))
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {t for t in top if not t.endswith(".dist-info")} == PACKAGES
    assert any(name.endswith(".safetensors") for name in names)
    assert any(name.endswith("LICENSE") for name in names)
    assert wheel.stat().st_size < 6_000_000


def test_an_editable_install_exposes_neither_plugins_nor_tests(tmp_path: Path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    # What the core needs at import, and `editables`, which an editable install runs on.
    pip("install", "--no-deps", "pluggy", "numpy", "editables", python=python)
    pip("install", "--no-deps", "--editable", str(ROOT), python=python)
    check = (
        "from importlib.util import find_spec\n"
        "assert find_spec('plugins') is None and find_spec('tests') is None\n"
        f"assert all(find_spec(name) for name in {PACKAGES!r})\n"
        "from pts_core.plugins import discover\n"
        "assert discover().names('backend') == ['transformers'], discover().plugins\n"
    )
    done = subprocess.run([python, "-c", check], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
