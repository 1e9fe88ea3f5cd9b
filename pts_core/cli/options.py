"""Turns `--oracle math --oracle.tolerance 1e-6` into an oracle: a factory's parameters are its
options, converted by their annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from pts_core.errors import PluginError, PtsError, UsageError, in_one_line
from pts_core.plugins import Offer

# The flag that names a plugin of a kind, where it is not the kind itself.
FLAGS = {"exporter": "format"}


def option_parser(offer: Offer, subject: str | None = None) -> App:
    """A parser of a factory's options, named `--oracle.tolerance`; its result is the product.

    `subject` is what the factory is about (a dataset's source, a backend's model): the value of
    its first parameter if that has no default.
    """
    flag = FLAGS.get(offer.kind, offer.kind)
    return App(
        name=offer.name,
        usage="",
        default_command=_with_types(offer, subject),
        default_parameter=Parameter(name_transform=lambda n: f"{flag}.{n}", negative=()),
        help_flags=(),
        version_flags=(),
        result_action="return_value",
    )


def _with_types(offer: Offer, subject: str | None) -> Callable[..., Any]:
    """The factory, function or class, as a function whose annotations are types and not text."""
    try:
        signature = inspect.signature(offer.factory, eval_str=True)
    except Exception as error:  # whatever an annotation of theirs raises
        raise PluginError(
            f"{offer.kind} {offer.name!r} of {offer.owner} has an option whose type is unknown "
            f"here: {in_one_line(error)}"
        ) from error
    parameters = list(signature.parameters.values())
    given = () if subject is None else (subject,)

    def factory(*arguments: Any, **options: Any) -> Any:
        return offer.factory(*given, *arguments, **options)

    parameters = parameters[len(given) :]
    factory.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    factory.__annotations__ = {
        p.name: p.annotation for p in parameters if p.annotation is not p.empty
    }
    factory.__doc__ = offer.factory.__doc__
    return factory


def build(
    offer: Offer,
    options: Mapping[str, str] | None = None,
    *,
    subject: str | None = None,
    shorthands: Mapping[str, Any] | None = None,
) -> Any:
    """What the factory makes of the options.

    `shorthands` are flags of the command that stand for options of the same name, as --split for
    --dataset.split; None is one that was not given. Raises UsageError for an option the factory
    does not have, or whose value its annotation refuses.
    """
    wanted = {name.replace("-", "_"): value for name, value in (options or {}).items()}
    known = inspect.signature(offer.factory).parameters
    for name, value in (shorthands or {}).items():
        if value is None:
            continue
        if name not in known:
            flag = name.replace("_", "-")
            raise UsageError(f"{offer.kind} {offer.name!r} has no option for --{flag}")
        wanted.setdefault(name, str(value))
    _check_subject(offer, subject)
    flag = FLAGS.get(offer.kind, offer.kind)
    tokens = [f"--{flag}.{name}={value}" for name, value in wanted.items()]
    try:
        command, bound, _ = option_parser(offer, subject).parse_args(
            tokens, exit_on_error=False, print_error=False
        )
    except CycloptsError as error:
        raise UsageError(
            f"{error} ('pts plugins show {offer.kind} {offer.name}' lists the options)"
        ) from error
    try:
        return command(*bound.args, **bound.kwargs)
    except PtsError:
        raise
    except Exception as error:  # a factory is anybody's code
        raise PluginError(
            f"{offer.kind} {offer.name!r} of {offer.owner} failed: {in_one_line(error)}"
        ) from error


def takes_subject(factory: Callable[..., Any]) -> bool:
    """Does its first parameter stand for a source or a model, rather than for an option?"""
    first = next(iter(inspect.signature(factory).parameters.values()), None)
    return (
        first is not None
        and first.default is first.empty
        and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
    )


def _check_subject(offer: Offer, subject: str | None) -> None:
    if offer.kind not in ("dataset", "backend"):
        return
    if subject is None and takes_subject(offer.factory):
        raise UsageError(f"dataset {offer.name!r} needs a source: --dataset {offer.name}:SOURCE")
    if offer.kind == "backend" and not takes_subject(offer.factory):
        raise PluginError(
            f"backend {offer.name!r} of {offer.owner} takes no model: its factory's first "
            "parameter must stand for it"
        )
    if subject is not None and not takes_subject(offer.factory):
        raise UsageError(f"{offer.kind} {offer.name!r} takes none: write just {offer.name}")
