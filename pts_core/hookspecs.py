"""The plugin doors: each hook takes nothing and returns a mapping of name -> factory.

A factory is any callable. Its keyword parameters are the options that users set (`--oracle.k v`),
with their types and defaults; the first line of its docstring is its help. Keep heavy imports in
its body: every plugin is loaded for every command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pluggy

hookspec = pluggy.HookspecMarker("pts")
hookimpl = pluggy.HookimplMarker("pts")

Factories = Mapping[str, Callable[..., Any]]


@hookspec
def pts_datasets() -> Factories:  # type: ignore[empty-body]
    """Datasets by name: `factory(source, **options) -> Dataset`, or without `source`."""


@hookspec
def pts_oracles() -> Factories:  # type: ignore[empty-body]
    """Oracles by name: `factory(**options) -> Oracle`."""


@hookspec
def pts_backends() -> Factories:  # type: ignore[empty-body]
    """Backends by name: `factory(model, **options) -> Backend`."""


@hookspec
def pts_searches() -> Factories:  # type: ignore[empty-body]
    """Search strategies by name: `factory(**options) -> Strategy` (see pts_core.search)."""


@hookspec
def pts_exporters() -> Factories:  # type: ignore[empty-body]
    """Exporters by name: `factory(**options) -> Exporter`."""


@hookspec
def pts_publishers() -> Factories:  # type: ignore[empty-body]
    """Where files are published, by name: `factory(repository, **options) -> Publisher`."""


@hookspec
def pts_models() -> Factories:  # type: ignore[empty-body]
    """Short names for models that a plugin ships: `factory() -> str`, what the backend loads."""
