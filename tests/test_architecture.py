"""Who may import whom, and what a light command may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

CORE = sorted((ROOT / "pts_core").rglob("*.py"))
PLUGINS = sorted(p.name for p in (ROOT / "plugins").iterdir() if (p / "__init__.py").exists())
HEAVY = {"torch", "transformers", "datasets", "huggingface_hub"}
TERMINAL = {"cyclopts", "rich"}
ONLY_IN_CLI = TERMINAL | {"safetensors"}  # of the core: plugins may have files too


def imported(path: Path) -> set[str]:
    """The top-level names of every import in a file, those in functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_imports_no_plugin_and_nothing_heavy(path: Path):
    forbidden = HEAVY | set(PLUGINS)
    if "cli" not in path.parts:
        forbidden |= ONLY_IN_CLI
    allowed = set(sys.stdlib_module_names) | {"numpy", "pluggy", "pts_core"} | ONLY_IN_CLI
    assert not imported(path) & forbidden
    assert imported(path) <= allowed


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugins_do_not_import_each_other(plugin: str):
    for path in (ROOT / "plugins" / plugin).rglob("*.py"):
        assert not imported(path) & (set(PLUGINS) - {plugin})
        assert not imported(path) & TERMINAL


@pytest.mark.parametrize(
    "code",
    [
        "from pts_core.plugins import discover; assert discover().offers",
        "import sys; sys.argv = ['pts', '--help']\n"
        "from pts_core.cli import main\n"
        "try: main()\nexcept SystemExit as e: assert e.code == 0",
    ],
    ids=["loading every plugin", "pts --help"],
)
def test_light_commands_import_nothing_heavy(code: str):
    check = f"{code}\nimport sys; loaded = {HEAVY!r} & set(sys.modules); assert not loaded, loaded"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
