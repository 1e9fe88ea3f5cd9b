"""Finds plugins at run time, keeps the broken ones apart, and looks up what they offer by name.

Plugins are modules (or objects) under the entry-point group `pts`. `PTS_DISABLE_PLUGINS` holds
names, separated by commas, that are not even imported; `PTS_STRICT_PLUGINS=1` turns a broken or
clashing plugin into an error.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy

from pts_core import hookspecs
from pts_core.errors import PluginError, UsageError, in_one_line

GROUP = "pts"
KINDS = {
    "dataset": "pts_datasets",
    "oracle": "pts_oracles",
    "backend": "pts_backends",
    "search": "pts_searches",
    "exporter": "pts_exporters",
    "publisher": "pts_publishers",
    "model": "pts_models",
}


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed plugin: where it comes from, and whether it works. `detail` says why not,
    `seconds` how long it took to load."""

    name: str
    distribution: str
    version: str
    status: Literal["ok", "broken", "blocked"]
    detail: str = ""
    seconds: float = 0.0

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True, slots=True)
class Offer:
    """A name that a plugin offers, and the factory behind it."""

    kind: str
    name: str
    factory: Callable[..., Any]
    owner: str


@dataclass(frozen=True, slots=True)
class Registry:
    """All plugins, and what the working ones offer."""

    plugins: tuple[Plugin, ...]
    offers: tuple[Offer, ...]

    def names(self, kind: str) -> list[str]:
        return sorted({offer.name for offer in self.offers if offer.kind == kind})

    def clashes(self) -> list[list[Offer]]:
        """The offers of each name that more than one plugin gives."""
        by_name = defaultdict(list)
        for offer in self.offers:
            by_name[offer.kind, offer.name].append(offer)
        return [offers for offers in by_name.values() if len(offers) > 1]

    def find(self, kind: str, name: str) -> Offer:
        """The offer of that name.

        Raises UsageError for an unknown name, with the nearest one and the list, and PluginError
        where two plugins offer it.
        """
        offers = [offer for offer in self.offers if (offer.kind, offer.name) == (kind, name)]
        if len(offers) > 1:
            raise PluginError(_describe_clash(offers))
        if not offers:
            raise UsageError(_describe_unknown(kind, name, self.names(kind)))
        return offers[0]


def discover(installed: Iterable[EntryPoint] | None = None) -> Registry:
    """Loads every plugin that is not blocked. Raises PluginError in strict mode only."""
    found = entry_points(group=GROUP) if installed is None else installed
    blocked = {n.strip() for n in os.environ.get("PTS_DISABLE_PLUGINS", "").split(",")}
    plugins: list[Plugin] = []
    offers: list[Offer] = []
    for entry in sorted(found, key=lambda e: (e.name, e.value)):
        dist = entry.dist
        owner = (entry.name, dist.name if dist else "", dist.version if dist else "")
        if entry.name in blocked:
            plugins.append(Plugin(*owner, "blocked", "named in PTS_DISABLE_PLUGINS"))
            continue
        started = time.perf_counter()
        try:
            offers += _offers(entry.name, _load(entry), Plugin(*owner, "ok").origin)
            plugins.append(Plugin(*owner, "ok", seconds=time.perf_counter() - started))
        except (Exception, SystemExit) as error:
            # Anything can go wrong in foreign code; one plugin must not take the others along.
            plugins.append(Plugin(*owner, "broken", in_one_line(error)))
    registry = Registry(tuple(plugins), tuple(offers))
    if os.environ.get("PTS_STRICT_PLUGINS", "") not in ("", "0"):
        _insist(registry)
    return registry


def _load(entry: EntryPoint) -> Any:
    """Imports a plugin. What it prints goes to stderr: stdout is for the command's own output."""
    with contextlib.redirect_stdout(sys.stderr):
        return entry.load()


def load_object(location: str) -> Any:
    """The object behind `path/to/file.py:name`. Raises UsageError where there is none."""
    path_text, _, name = location.rpartition(":")
    path = Path(path_text)
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give FILE.py:FUNCTION")
    module = _import_file(path)
    if not hasattr(module, name):
        defined = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UsageError(_describe_unknown("function", name, defined, where=f" in {path}"))
    return getattr(module, name)


def is_file_location(text: str) -> bool:
    """Is this `something.py:name`, rather than the name of a plugin's offer?"""
    path, _, name = text.rpartition(":")
    return path.endswith(".py") and name.isidentifier()


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickle look themselves up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{path} could not be imported: {in_one_line(error)}") from error
    return module


def _offers(name: str, plugin: object, owner: str) -> list[Offer]:
    """What one plugin offers. Raises where a hook is unknown or returns something else."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    implemented = [caller.name for caller in manager.get_hookcallers(plugin) or []]
    unknown = [hook for hook in implemented if hook not in KINDS.values()]
    if unknown:
        raise PluginError(_describe_unknown("hook", unknown[0], list(KINDS.values())))
    if not implemented:
        raise PluginError("it implements no hook (is @hookimpl missing?)")
    offers = []
    for kind, hook in KINDS.items():
        if hook in implemented:
            # What returns None has no result to pluggy.
            for offered in getattr(manager.hook, hook)() or [None]:
                offers += _checked(kind, hook, offered, owner)
    return offers


def _checked(kind: str, hook: str, offered: Any, owner: str) -> list[Offer]:
    if not isinstance(offered, dict):
        raise PluginError(f"{hook} must return a dict of name -> factory, not {offered!r}")
    for name, factory in offered.items():
        if not isinstance(name, str) or not name:
            raise PluginError(f"{hook} must name its factories with strings, not {name!r}")
        if not callable(factory):
            raise PluginError(f"{hook}: the factory of {name!r} is not callable: {factory!r}")
    return [Offer(kind, name, factory, owner) for name, factory in offered.items()]


def _insist(registry: Registry) -> None:
    for plugin in registry.plugins:
        if plugin.status == "broken":
            raise PluginError(f"plugin {plugin.name} ({plugin.origin}): {plugin.detail}")
    for offers in registry.clashes():
        raise PluginError(_describe_clash(offers))


def _describe_clash(offers: list[Offer]) -> str:
    owners = " and ".join(offer.owner for offer in offers)
    return (
        f"{offers[0].kind} {offers[0].name!r} is offered by {owners}; "
        "uninstall one, or block its plugin with PTS_DISABLE_PLUGINS"
    )


def _describe_unknown(what: str, name: str, known: list[str], where: str = "") -> str:
    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(sorted(known)) or "none"
    return f"there is no {what} {name!r}{where}.{hint} Known: {listed}"
