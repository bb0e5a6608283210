"""`atollctl kv`: the key-value store."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated

import typer

from atoll_control.api.times import MAX_DURATION_SECONDS, duration
from atoll_control.api.v1 import kv_pb2, kv_pb2_grpc
from atoll_control.cli.calling import (
    CONFLICT,
    DEFAULT_SERVER,
    EXIT_CODES,
    NOT_FOUND,
    USAGE,
    ServerOption,
    TimeoutOption,
    calling,
    fail,
)
from atoll_control.cli.output import (
    Output,
    OutputOption,
    page_through,
    print_fields,
    print_messages,
    text_of,
    warn_of_more,
)
from atoll_control.client import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.duration_pb2 import Duration

app = typer.Typer(help="Reads and writes the key-value store.", no_args_is_help=True, epilog=EXIT_CODES)

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key, as text.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="The namespace that the key is in.")]


@app.command()
def get(
    key: KeyArgument,
    namespace: NamespaceOption = "",
    raw: Annotated[bool, typer.Option("--raw", help="The value's bytes alone, as they are.")] = False,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Prints the value of a key."""
    with calling(server) as channel:
        request = kv_pb2.GetRequest(namespace=namespace, key=key.encode())
        got = kv_pb2_grpc.KvServiceStub(channel).Get(request, timeout=timeout)
    if raw:
        sys.stdout.buffer.write(got.value)
        sys.stdout.flush()
        return
    owner = f"lease {got.lease_id}" if got.lease_id else f"node {got.node_id}/{got.incarnation}" if got.node_id else "-"
    fields = (
        ("value", text_of(got.value)),
        ("revision", str(got.revision)),
        ("created", f"revision {got.create_revision}"),
        ("version", str(got.version)),
        ("owner", owner),
    )
    print_fields(output, got, fields)


@app.command()
def put(
    key: KeyArgument,
    value: Annotated[
        str | None, typer.Argument(metavar="[VALUE]", help="The value, as text; standard input when left out.")
    ] = None,
    namespace: NamespaceOption = "",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", exists=True, dir_okay=False, help="Take the value from a file.")
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Only if the key does not exist.")] = False,
    expected_revision: Annotated[
        int | None, typer.Option("--expected-revision", min=0, help="Only if the key has this revision now.")
    ] = None,
    ttl: Annotated[
        float | None, typer.Option("--ttl", metavar="SECONDS", help="The key vanishes after this long.")
    ] = None,
    lease: Annotated[int, typer.Option("--lease", min=0, help="The key vanishes with this lease.")] = 0,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Stores a value; replaces the one that is there."""
    if value is not None and file is not None:
        fail("VALUE and --file are two values: leave one out", USAGE)
    if ttl is not None and lease:
        fail("--ttl and --lease are two owners: leave one out", USAGE)
    data = given(value, file)
    request = kv_pb2.PutRequest(namespace=namespace, key=key.encode(), value=data, overwrite=not create)
    if expected_revision is not None:
        request.expected_revision = expected_revision
    if ttl is not None:
        request.ttl.CopyFrom(_ttl(ttl))
    if lease:
        request.lease_id = lease
    with calling(server) as channel:
        done = kv_pb2_grpc.KvServiceStub(channel).Put(request, timeout=timeout)
    if not done.applied:
        there = f"it has revision {done.revision}" if done.revision else "it does not exist"
        fail(f"nothing was stored under {key!r}: {there}", CONFLICT)
    verb = "created" if done.added else "replaced"
    print_fields(output, done, ((verb, key), ("revision", str(done.revision))))


def _ttl(seconds: float) -> Duration:
    if not 0 < seconds <= MAX_DURATION_SECONDS:  # nor is a NaN
        fail(f"--ttl: must be a number of seconds above 0 and not beyond the server's limit, got {seconds:g}", USAGE)
    return duration(seconds)


def given(text: str | None, file: Path | None) -> bytes:
    """What to store or to publish: what a file has, or the text, or standard input."""
    if file is not None:
        return file.read_bytes()
    return sys.stdin.buffer.read() if text is None else text.encode()


@app.command()
def delete(
    key: KeyArgument,
    namespace: NamespaceOption = "",
    prefix: Annotated[bool, typer.Option("--prefix", help="Every key that starts with KEY.")] = False,
    expected_revision: Annotated[
        int | None, typer.Option("--expected-revision", min=0, help="Only if the key has this revision now.")
    ] = None,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Removes a key, or all keys with a prefix."""
    request = kv_pb2.DeleteRequest(namespace=namespace, key=key.encode(), prefix=prefix)
    if expected_revision is not None:
        request.expected_revision = expected_revision
    with calling(server) as channel:
        done = kv_pb2_grpc.KvServiceStub(channel).Delete(request, timeout=timeout)
    if not done.deleted:
        fail(f"there was no such key {key!r}", CONFLICT if expected_revision is not None else NOT_FOUND)
    print_fields(output, done, (("deleted", str(done.count)), ("revision", str(done.revision))))


@app.command(name="list")
def list_keys(
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only keys that start with this.")] = "",
    namespace: NamespaceOption = "",
    values: Annotated[bool, typer.Option("--values", help="With their values.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 1000,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Lists keys in the order of their bytes."""
    request = kv_pb2.ScanRequest(namespace=namespace, prefix=prefix.encode())
    with calling(server) as channel:
        stub = kv_pb2_grpc.KvServiceStub(channel)

        def page(count: int) -> tuple[Sequence[kv_pb2.KeyValue], bool]:
            request.limit = count
            listed = stub.Scan(request, timeout=timeout)
            if listed.entries:
                request.start_after = listed.entries[-1].key
            return listed.entries, listed.more

        entries, more = page_through(page, limit)
    columns = ["KEY", "REVISION", "VERSION", "BYTES", *(["VALUE"] if values else [])]
    rows = (
        [
            text_of(entry.key),
            str(entry.revision),
            str(entry.version),
            str(len(entry.value)),
            *([text_of(entry.value)] if values else []),
        ]
        for entry in entries
    )
    print_messages(output, entries, columns, rows)
    warn_of_more(more, f"name a longer prefix, or raise --limit {limit}")


@app.command()
def namespaces(
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 1000,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Lists the namespaces that have keys."""
    request = kv_pb2.ListNamespacesRequest()
    with calling(server) as channel:
        stub = kv_pb2_grpc.KvServiceStub(channel)

        def page(count: int) -> tuple[Sequence[str], bool]:
            request.limit = count
            listed = stub.ListNamespaces(request, timeout=timeout)
            if listed.namespaces:
                request.start_after = listed.namespaces[-1]
            return listed.namespaces, listed.more

        names, more = page_through(page, limit)
    listed = kv_pb2.ListNamespacesResponse(namespaces=names, more=more)
    print_messages(output, [listed], ["NAMESPACE"], ([repr(name)] for name in names))
    warn_of_more(more, f"raise --limit {limit}")
