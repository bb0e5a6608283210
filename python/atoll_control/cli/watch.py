"""`atollctl watch`: what changes, as it changes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from atoll_control.cli.calling import (
    DEFAULT_SERVER,
    EXIT_CODES,
    USAGE,
    ServerOption,
    TimeoutOption,
    connected,
    fail,
)
from atoll_control.cli.nodes import conditions_of, state_of
from atoll_control.cli.output import Output, OutputOption, as_json, as_yaml, text_of
from atoll_control.client import (
    DEFAULT_TIMEOUT,
    Changed,
    Deleted,
    Position,
    Published,
    Reset,
    SnapshotComplete,
    SnapshotEntry,
    TopicPosition,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from atoll_control.client import Watch

app = typer.Typer(
    help="Prints what changes, as it changes: over restarts of the server, until Ctrl-C.",
    no_args_is_help=True,
    epilog=EXIT_CODES,
)

AfterOption = Annotated[
    str | None,
    typer.Option(
        "--after",
        metavar="POSITION",
        help="Go on where a watch before ended: it said so at its end, and says so in each event.",
    ),
]
OnceOption = Annotated[bool, typer.Option("--once", help="End when everything that is there by now has been printed.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="End after so many events.")]
PreviousOption = Annotated[bool, typer.Option("--previous", help="Also print what was there before.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="The namespace that the keys are in.")]

_P = TypeVar("_P", Position, TopicPosition)


@app.command()
def kv(
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only keys that start with this.")] = "",
    namespace: NamespaceOption = "",
    exact: Annotated[bool, typer.Option("--exact", help="Only the key PREFIX itself.")] = False,
    after: AfterOption = None,
    once: OnceOption = False,
    limit: LimitOption = None,
    previous: PreviousOption = False,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Watches keys: those that are there, then every change."""
    position = _position(after, Position)
    with connected(server, timeout) as client:
        watch = client.watch.kv(
            namespace,
            key=prefix if exact else None,
            prefix="" if exact else prefix,
            after=position,
            previous_values=previous,
            follow=not once,
            patience=timeout,
        )
        _print(watch, output, limit, f"{'REVISION':>10}  KEY  VALUE", lambda entry: [text_of(entry.key), _value(entry)])


@app.command()
def nodes(
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="Only this node.")] = "",
    after: AfterOption = None,
    once: OnceOption = False,
    limit: LimitOption = None,
    previous: PreviousOption = False,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Watches nodes: those that are known, then every change."""
    position = _position(after, Position)
    with connected(server, timeout) as client:
        watch = client.watch.nodes(node, after=position, previous_values=previous, follow=not once, patience=timeout)
        _print(
            watch,
            output,
            limit,
            f"{'REVISION':>10}  NODE  STATE  CONDITIONS  REASON",
            lambda found: [found.node_id, state_of(found), conditions_of(found), found.state_reason],
        )


@app.command()
def topic(
    name: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic; it need not exist yet.")],
    key: Annotated[str, typer.Option("--key", "-k", help="Only events with this key.")] = "",
    after: AfterOption = None,
    from_oldest: Annotated[
        bool, typer.Option("--from-oldest", help="Begin with the oldest event that is kept; as --once does.")
    ] = False,
    once: OnceOption = False,
    limit: LimitOption = None,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Watches a topic: the events from now on."""
    position = _position(after, TopicPosition)
    if position is not None and from_oldest:
        fail("--after and --from-oldest are two beginnings: leave one out", USAGE)
    with connected(server, timeout) as client:
        watch = client.watch.topic(
            name,
            key=key,
            after=position,
            from_oldest=from_oldest or (once and position is None),
            follow=not once,
            patience=timeout,
        )
        _print(
            watch,
            output,
            limit,
            f"{'SEQUENCE':>10}  KEY  EVENT",
            lambda event: [text_of(event.key), text_of(event.payload)],
        )


def _position(text: str | None, kind: type[_P]) -> _P | None:
    if text is None:
        return None
    try:
        return kind.parse(text)
    except ValueError as wrong:
        fail(f"--after: {wrong}", USAGE)


def _value(entry: Any) -> str:  # noqa: ANN401 - as it comes out of an event
    return text_of(entry.value)


def _print(watch: Watch[Any], output: Output, limit: int | None, columns: str, row: Callable[[Any], list[str]]) -> None:
    """Prints events to the end of the watch, or until Ctrl-C."""
    if output is Output.TABLE:
        typer.echo(f"{'EVENT':<9}{columns}")
    printed = 0
    try:
        for event in _patiently(watch):
            typer.echo(_text(event, output, row))
            printed += not isinstance(event, SnapshotComplete | Reset)
            if printed == limit:
                break
    except KeyboardInterrupt:
        # How one ends it.
        pass
    finally:
        watch.close()
    if watch.position is not None:
        typer.echo(f"atollctl: to go on from here: --after {watch.position}", err=True)


def _patiently(watch: Watch[Any]) -> Iterator[Any]:
    """The events, also when the server is away for longer than the watch has patience, which is said."""
    while True:
        try:
            yield from watch
        except UnreachableError as error:
            if not watch.was_opened:
                raise
            typer.echo(f"atollctl: {error} Waiting for it", err=True)
        else:
            return


def _text(event: Any, output: Output, row: Callable[[Any], list[str]]) -> str:  # noqa: ANN401 - of any watch
    if output is Output.JSON:
        return json.dumps(described(event), ensure_ascii=False)
    if output is Output.YAML:
        return "---\n" + as_yaml(described(event)).rstrip("\n")
    return _line(event, row)


def _line(event: Any, row: Callable[[Any], list[str]]) -> str:  # noqa: ANN401 - of any watch
    if isinstance(event, Reset):
        return f"{'reset':<9}{'':>10}  {event.message}"
    if isinstance(event, SnapshotComplete):
        return f"{'complete':<9}{event.position.revision:>10}"
    fields = "  ".join(field for field in row(event.item) if field)
    if isinstance(event, Published):
        return f"{'event':<9}{event.item.sequence:>10}  {fields}"
    revision = event.item.revision if isinstance(event, SnapshotEntry) else event.revision
    line = f"{_NAMES[type(event)]:<9}{revision:>10}  {fields}"
    before = None if isinstance(event, SnapshotEntry) else event.previous
    return line if before is None else f"{line}  (was: {'  '.join(field for field in row(before)[1:] if field)})"


_NAMES: dict[type, str] = {
    SnapshotEntry: "there",
    SnapshotComplete: "complete",
    Changed: "changed",
    Deleted: "deleted",
    Published: "event",
    Reset: "reset",
}


def described(event: Any) -> dict[str, Any]:  # noqa: ANN401 - of any watch
    """An event for programs: what it is, where to resume after it, and what the protos name."""
    told: dict[str, Any] = {
        "event": _NAMES[type(event)],
        "position": None if event.position is None else str(event.position),
    }
    if isinstance(event, Changed | Deleted):
        told |= {"revision": str(event.revision), "coalesced": event.coalesced}
    if isinstance(event, Reset):
        told |= {"reason": event.reason.value, "message": event.message, "lost": str(event.lost)}
    elif not isinstance(event, SnapshotComplete):
        told["item"] = as_json(event.item)
    if isinstance(event, Changed | Deleted) and event.previous is not None:
        told["previous"] = as_json(event.previous)
    return told
