"""`atollctl topics`: events for whoever watches."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

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
from atoll_control.cli.kv import given
from atoll_control.cli.output import Output, OutputOption, print_fields, print_messages
from atoll_control.client import DEFAULT_TIMEOUT

app = typer.Typer(help="Lists topics and publishes events.", no_args_is_help=True, epilog=EXIT_CODES)


@app.command(name="list")
def list_topics(
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Lists topics in the order of their names."""
    with connected(server) as client:
        topics = list(client.topics.list(timeout=timeout))
    rows = (
        [
            topic.name,
            f"{topic.newest_sequence - topic.oldest_sequence + 1:,}",
            f"{topic.bytes:,}",
            str(topic.watchers),
            f"{topic.epoch}:{topic.newest_sequence}",
        ]
        for topic in topics
    )
    print_messages(output, topics, ["TOPIC", "EVENTS", "BYTES", "WATCHERS", "POSITION"], rows)


@app.command()
def publish(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic; its first event makes it.")],
    payload: Annotated[
        str | None, typer.Argument(metavar="[PAYLOAD]", help="The event, as text; standard input when left out.")
    ] = None,
    key: Annotated[str, typer.Option("--key", "-k", help="By which watchers choose events.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", exists=True, dir_okay=False, help="Take the event from a file.")
    ] = None,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Appends an event to a topic. Events are kept in memory, within a window."""
    if payload is not None and file is not None:
        fail("PAYLOAD and --file are two events: leave one out", USAGE)
    data = given(payload, file)
    with connected(server) as client:
        done = client.topics.publish(topic, data, key=key, timeout=timeout)
    print_fields(output, done, (("published", topic), ("position", f"{done.epoch}:{done.sequence}")))
