"""`pts plugins`: what is installed, where it comes from, whether it works, and its options."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from pts_core.cli.options import option_parser, takes_subject
from pts_core.errors import UsageError
from pts_core.plugins import KINDS, Plugin, discover

app = App(name="plugins", help="List the installed plugins; show their options.")


@app.default
def list_plugins(*, timings: Annotated[bool, Parameter(negative=())] = False) -> None:
    """List kind, name, owner and status of everything that plugins offer.

    Parameters
    ----------
    timings
        List instead how long each plugin takes to load; every command waits for all of them.
    """
    registry = discover()
    if timings:
        for plugin in sorted(registry.plugins, key=lambda p: -p.seconds):
            print(f"{1000 * plugin.seconds:8.1f} ms  {plugin.name} ({plugin.origin})")
        return
    clashing = {offer for offers in registry.clashes() for offer in offers}
    table = Table("kind", "name", "from", "status", box=None, pad_edge=False)
    for offer in sorted(registry.offers, key=lambda o: (list(KINDS).index(o.kind), o.name)):
        table.add_row(offer.kind, offer.name, offer.owner, "clash" if offer in clashing else "ok")
    for plugin in registry.plugins:
        if plugin.status != "ok":
            table.add_row("plugin", plugin.name, plugin.origin, describe(plugin))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:  # a reader of a pipe wants whole lines
        console.width = 1000
    console.print(table)


@app.command
def show(kind: str, name: str, /) -> None:
    """Print the options of one offer.

    Parameters
    ----------
    kind
        dataset, oracle, backend, search, exporter, publisher or model.
    name
        A name from `pts plugins`.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no kind {kind!r}; known: {', '.join(KINDS)}")
    offer = discover().find(kind, name)
    console = Console(markup=False, highlight=False)
    console.print(f"{offer.kind} {offer.name}, from {offer.owner}")
    subject = "" if takes_subject(offer.factory) else None
    option_parser(offer, subject).help_print([], console=console)


def describe(plugin: Plugin) -> str:
    return f"{plugin.status}: {plugin.detail}"
