"""The plugin door: foreign code is found, blocked, kept apart, and clashes are named."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pts_core.cli.options import build
from pts_core.errors import PluginError, UsageError
from pts_core.plugins import Offer, Registry, discover, load_object

GOOD = """
from pts_core import hookimpl

@hookimpl
def pts_oracles():
    return {"loud": loud}

def loud(word: str = "yes", *, times: int = 1, strict: bool = False):
    "Right if a word occurs so many times."
    return lambda problem, completion: completion.text.count(word) >= times
"""

BROKEN = {
    "import_error": ("import nothing_like_this", "ModuleNotFoundError"),
    "syntax_error": ("def f(:", "SyntaxError"),
    "exits": ("raise SystemExit(3)", "SystemExit"),
    "no_hook": ("x = 1", "no hook"),
    "unknown_hook": (
        "from pts_core import hookimpl\n@hookimpl\ndef pts_oracle(): return {}",
        "Did you mean 'pts_oracles'",
    ),
    "wrong_type": (
        "from pts_core import hookimpl\n@hookimpl\ndef pts_oracles(): return ['math']",
        "dict of name -> factory",
    ),
    "forgets_return": (
        "from pts_core import hookimpl\n@hookimpl\ndef pts_oracles(): {'a': print}",
        "pts_oracles must return a dict of name -> factory, not None",
    ),
    "not_callable": (
        "from pts_core import hookimpl\n@hookimpl\ndef pts_oracles(): return {'a': 3}",
        "not callable",
    ),
    "wants_arguments": (
        "from pts_core import hookimpl\n@hookimpl\ndef pts_oracles(config): return {}",
        "PluginValidationError",
    ),
    "raises": (
        "from pts_core import hookimpl\n@hookimpl\ndef pts_oracles(): raise ValueError('x')",
        "ValueError: x",
    ),
}

Install = Callable[..., str]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry]]:
    installed: list[str] = []

    def discover_with(*folders: str) -> Registry:
        for folder in folders:
            monkeypatch.syspath_prepend(folder)
            installed.append(folder)
        return discover()

    yield discover_with
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(tuple(installed) or "-"):
            del sys.modules[name]


def test_the_built_in_plugins_come_through_entry_points(found):
    registry = found()
    assert {p.name for p in registry.plugins if p.status == "ok"} >= {
        "answers",
        "datasets",
        "demo",
        "search",
        "transformers",
    }
    assert registry.names("oracle") == [
        *("auto", "choice", "code", "contains", "exact", "math", "reasoning-gym", "yes-no")
    ]
    assert registry.names("dataset") == ["demo", "file", "hub", "reasoning-gym"]


def test_the_built_in_plugins_stay_what_they_are_once_used(found, tmp_path: Path):
    (tmp_path / "p.jsonl").write_text('{"question": "q", "answer": "1"}')
    build(found().find("dataset", "file"), subject=str(tmp_path / "p.jsonl"))
    build(found().find("dataset", "hub"), subject=str(tmp_path))
    for name in found().names("oracle"):
        build(found().find("oracle", name))
    assert all(plugin.status == "ok" for plugin in found().plugins)


def test_a_third_party_plugin_is_found_by_name(found, install: Install):
    registry = found(install("loud", GOOD))
    offer = registry.find("oracle", "loud")
    assert offer.owner == "loud-dist 1.0"
    assert callable(build(offer, {"times": "2", "strict": "true"}))


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_reported_and_skipped(case: str, found, install: Install):
    source, cause = BROKEN[case]
    registry = found(install(case, source), install("loud", GOOD))
    [plugin] = [p for p in registry.plugins if p.name == case]
    assert plugin.status == "broken"
    assert cause in plugin.detail
    assert plugin.origin == f"{case}-dist 1.0"
    assert "\n" not in plugin.detail
    assert registry.find("oracle", "loud")


def test_strict_mode_makes_a_broken_plugin_an_error(found, install: Install, monkeypatch):
    monkeypatch.setenv("PTS_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"syntax_error \(syntax_error-dist 1.0\)"):
        found(install("syntax_error", "def f(:"))


def test_a_blocked_plugin_is_not_imported(found, install: Install, monkeypatch, tmp_path: Path):
    trace = tmp_path / "imported"
    monkeypatch.setenv("PTS_DISABLE_PLUGINS", "other, sneaky")
    registry = found(install("sneaky", f"open({str(trace)!r}, 'w').write('x')"))
    [plugin] = [p for p in registry.plugins if p.name == "sneaky"]
    assert plugin.status == "blocked"
    assert not trace.exists()


def test_two_plugins_with_one_name_are_both_named(found, install: Install, monkeypatch):
    folders = install("loud", GOOD), install("louder", GOOD, "2.0")
    registry = found(*folders)
    with pytest.raises(PluginError, match=r"loud-dist 1\.0 and louder-dist 2\.0"):
        registry.find("oracle", "loud")
    assert registry.find("oracle", "exact")  # the others still work
    monkeypatch.setenv("PTS_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="louder-dist"):
        found(*folders)


def test_an_unknown_name_gets_a_suggestion_and_the_list(found):
    with pytest.raises(
        UsageError, match=r"no oracle 'mth'. Did you mean 'math'\? Known: auto, choice"
    ):
        found().find("oracle", "mth")


def _factory(source, *, times: int = 1, kind="a", strict: bool = False):
    return source, times, kind, strict


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"times": "3"}, ("s", 3, "a", False)),
        ({"strict": "true", "kind": "b"}, ("s", 1, "b", True)),
    ],
)
def test_options_are_converted_by_their_annotations(options, expected):
    assert build(Offer("dataset", "x", _factory, "me"), options, subject="s") == expected


@pytest.mark.parametrize(
    ("options", "subject", "message"),
    [
        ({"tims": "3"}, "s", "--dataset.tims. Did you mean --dataset.times?"),
        ({"times": "many"}, "s", "--dataset.times"),
        ({}, None, "--dataset x:SOURCE"),
    ],
)
def test_wrong_options_are_named(options, subject, message):
    with pytest.raises(UsageError) as caught:
        build(Offer("dataset", "x", _factory, "me"), options, subject=subject)
    assert message in str(caught.value)


def test_a_flag_that_a_plugin_does_not_know_is_refused():
    offer = Offer("dataset", "x", _factory, "me")
    assert build(offer, subject="s", shorthands={"times": 4, "split": None})[1] == 4
    with pytest.raises(UsageError, match=r"'x' has no option for --split"):
        build(offer, subject="s", shorthands={"split": "test"})


def test_an_object_in_a_file_needs_no_packaging(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("def judge(problem, completion): return True\n")
    assert load_object(f"{path}:judge")(None, None) is True
    with pytest.raises(UsageError, match="Did you mean 'judge'"):
        load_object(f"{path}:jugde")
    with pytest.raises(UsageError, match="no such file"):
        load_object(f"{tmp_path}/other.py:judge")
    path.write_text("import nothing_like_this")
    with pytest.raises(PluginError, match="ModuleNotFoundError"):
        load_object(f"{path}:judge")


def test_a_plugin_for_a_newer_hook_is_set_aside(found, install: Install):
    source = "from pts_core import hookimpl\n@hookimpl\ndef pts_samplers(): return {}"
    [plugin] = [p for p in found(install("newer", source)).plugins if p.name == "newer"]
    assert plugin.status == "broken"
    assert "no hook 'pts_samplers'" in plugin.detail


def test_what_a_plugin_prints_stays_out_of_the_output(found, install: Install, capsys):
    registry = found(install("chatty", GOOD + "\nprint('hello from chatty')"))
    assert registry.find("oracle", "loud")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello from chatty" in captured.err


UNTYPED = GOOD.replace("times: int = 1", "times=1").replace("word: str", "word")
UNKNOWN_TYPE = GOOD.replace('word: str = "yes"', "word: 'Nothing' = 0")


def test_an_option_without_a_type_has_that_of_its_default(found, install: Install):
    offer = found(install("untyped", UNTYPED)).find("oracle", "loud")
    oracle = build(offer, {"word": "no", "times": "2"})
    completion = type("C", (), {"text": "no, no"})
    assert oracle(None, completion) is True


def test_an_option_of_an_unknown_type_is_one_line(found, install: Install):
    offer = found(install("odd", UNKNOWN_TYPE)).find("oracle", "loud")
    with pytest.raises(PluginError, match=r"of odd-dist 1\.0 has an option whose type is unknown"):
        build(offer)


TYPES = """
from __future__ import annotations
from pathlib import Path
from typing import Literal
from pts_core import hookimpl

@hookimpl
def pts_oracles():
    return {"typed": Typed}

class Typed:
    "Says what it was given."
    def __init__(self, *, mode: Literal["fast", "slow"] = "fast", where: Path | None = None,
                 names: list[str] = [], rate: float = 0.5, deep: bool = False) -> None:
        self.given = (mode, where, names, rate, deep)
    def __call__(self, problem, completion):
        return True
"""


def test_options_of_every_type(found, install: Install):
    offer = found(install("typed", TYPES)).find("oracle", "typed")
    assert build(offer).given == ("fast", None, [], 0.5, False)
    options = {"mode": "slow", "where": "a/b", "names": "x", "rate": "2", "deep": "true"}
    assert build(offer, options).given == ("slow", Path("a/b"), ["x"], 2.0, True)
    with pytest.raises(UsageError, match="mode"):
        build(offer, {"mode": "medium"})


def test_slow_plugins_are_named_by_their_time(found, install: Install):
    slow = found(install("sleepy", "import time; time.sleep(0.3)\n" + GOOD))
    [plugin] = [p for p in slow.plugins if p.name == "sleepy"]
    assert plugin.seconds > 0.3
    assert all(p.seconds < 0.3 for p in slow.plugins if p.name != "sleepy")


def test_fifty_plugins_cost_the_help_nothing(install: Install, tmp_path: Path):
    """They are not even looked at: each would leave a mark and take a second."""
    source = f"import time; time.sleep(1)\nopen({str(tmp_path / 'mark')!r}, 'w').close()\n" + GOOD
    folders = [install(f"heavy{i}", source) for i in range(50)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    call = [sys.executable, "-c", "from pts_core.cli import main; main()", "--help"]
    for env in (dict(os.environ), environment):
        done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0
        assert "run" in done.stdout
    assert not (tmp_path / "mark").exists()
