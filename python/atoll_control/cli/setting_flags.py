"""Gives a command an option per declared setting, by typer's own means: its signature."""

from __future__ import annotations

import inspect
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, TypeVar

import typer

from atoll_control.cli.configuration import DEFAULT_FILE, FILE_FLAG, FILE_VARIABLE, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll_control.cli.configuration import Setting

F = TypeVar("F", bound="Callable[..., object]")

ConfigOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        FILE_FLAG,
        metavar="FILE",
        help=f"A TOML file of settings. Without it {FILE_VARIABLE} names one, or else {DEFAULT_FILE} is read if it is "
        "there.",
    ),
]
PLACES: Final = (
    "Every option may also stand in the environment (--data-dir as ATOLL_DATA_DIR) and in the file (data_dir). Flags "
    "go before the environment, that before the file. `atollctl config show` tells what holds, and why."
)


def takes_settings(options: type) -> Callable[[F], F]:
    """Adds an option per setting to a command that has `**flags`, which gets None for those that were not given."""

    def with_options(function: F) -> F:
        own = [
            parameter
            for parameter in inspect.signature(function, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        added = [
            inspect.Parameter(
                declared.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(declared)
            )
            for declared in settings_of(options).values()
        ]
        function.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined] # PEP 362
        return function

    return with_options


def _annotation(declared: Setting) -> Any:  # noqa: ANN401 - what annotations are
    extras = declared.extras
    flag = declared.flag
    kind: Any = str
    default = "" if declared.default in {None, False, ()} else f" Default: {_shown(declared.default)}."
    if declared.type is bool:
        kind = bool
        flag = f"{flag}/--no{flag.removeprefix('-')}"
    elif declared.type is tuple:
        kind = list[str]
    elif issubclass(declared.type, (StrEnum, Path)):
        kind = declared.type
    option = typer.Option(
        flag,
        metavar=extras.metavar,
        help=extras.help + default,
        hidden=extras.flag_only,
        show_default=False,
    )
    return Annotated[kind | None, option]


def _shown(default: object) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)
