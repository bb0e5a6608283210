"""How commands print: tables for people, JSON for programs, YAML for both."""

from __future__ import annotations

import enum
import json
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, TypeVar

import typer
from google.protobuf import json_format
from rich.console import Console
from rich.table import Table

from atoll_control.api import times
from atoll_control.client import ServerFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

T = TypeVar("T")

# How much of a list is asked for at a time.
PAGE: Final = 1000

# Texts in YAML are not folded.
_YAML_WIDTH: Final = 1 << 30


class Output(enum.StrEnum):
    """What a command prints."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption: TypeAlias = Annotated[Output, typer.Option("--output", "-o", help="For people, or for programs.")]


def page_through(
    page: Callable[[int], tuple[Sequence[T], bool]], limit: int, *, may_be_empty: bool = False
) -> tuple[list[T], bool]:
    """Reads a list page by page until it has `limit` items or its end.

    Args:
        page: asks for the next page of at most this many, and says whether there are more behind it; keeps its place.
        limit: how many are wanted. There may be more of them where a page is longer than what was asked for.
        may_be_empty: a page without items may have others behind it, and `page` sees that it gets on.

    Returns:
        The items, and whether the server has more.

    Raises:
        ServerFailedError: the server says that it has more, and sends nothing after which it could begin.
    """
    found: list[T] = []
    more = True
    while more and len(found) < limit:
        items, more = page(min(PAGE, limit - len(found)))
        if more and not items and not may_be_empty:
            raise no_end()
        found.extend(items)
    return found, more


def no_end() -> ServerFailedError:
    """What to raise where asking for the next page would give the same one for ever."""
    return ServerFailedError("the server says that there is more and goes no further: read its log, or replace it.")


def warn(text: str) -> None:
    """Says on standard error what a list does not show."""
    typer.echo(f"atollctl: {text}", err=True)


def warn_of_more(more: bool, remedy: str) -> None:
    """Says that a list is not whole, if it is not, and what to do."""
    if more:
        warn(f"there are more: {remedy}")


def print_messages(
    output: Output, messages: Sequence[Message], columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """Prints a list: as a JSON or YAML array of the messages, or as a table of `rows`."""
    if output is not Output.TABLE:
        print_data(output, [as_json(message) for message in messages])
        return
    print_table(columns, rows)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # Piped, a table must not be cut to some width.
    width = None if sys.stdout.isatty() else 1000
    Console(width=width, highlight=False, markup=False).print(table)


def print_fields(output: Output, message: Message, fields: Iterable[tuple[str, str]]) -> None:
    """Prints one thing: as a JSON or YAML object, or one line per field."""
    if output is not Output.TABLE:
        print_data(output, as_json(message))
        return
    lines = list(fields)
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        typer.echo(f"{name:<{width}}  {value}")


def print_data(output: Output, value: object) -> None:
    """Prints JSON or YAML, for programs, and for people who look at it."""
    if output is Output.YAML:
        typer.echo(as_yaml(value), nl=False)
    else:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def as_yaml(value: object) -> str:
    """What JSON can say, in YAML; ends with a newline."""
    import yaml  # noqa: PLC0415 - few commands need it

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=_YAML_WIDTH)
    return text


def as_json(message: Message) -> dict[str, Any]:
    """A message with its fields' names as in the protos, those with zero values, too."""
    fields: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return fields


def text_of(value: bytes) -> str:
    """Bytes for people: as text where they are, otherwise as Python writes them."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return repr(value)[2:-1]
    return text if text.isprintable() else repr(value)[2:-1]


def time_of(time: Timestamp) -> str:
    """A time for people, in UTC."""
    return time.ToDatetime().isoformat(sep=" ", timespec="seconds")


def seconds_of(duration: Duration) -> str:
    """A duration for people."""
    seconds = times.seconds(duration)
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.3g} s"
    return str(timedelta(seconds=int(seconds)))
