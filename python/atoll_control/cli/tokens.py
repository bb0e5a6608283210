"""`atollctl tokens`: who may do what."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from atoll_control.api.times import duration
from atoll_control.api.v1 import rules_pb2, token_pb2, token_pb2_grpc
from atoll_control.cli.calling import (
    DEFAULT_SERVER,
    EXIT_CODES,
    USAGE,
    ServerOption,
    TimeoutOption,
    calling,
    fail,
)
from atoll_control.cli.output import (
    Output,
    OutputOption,
    as_json,
    page_through,
    print_data,
    print_fields,
    print_messages,
    time_of,
)
from atoll_control.client import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.timestamp_pb2 import Timestamp

app = typer.Typer(help="Makes, lists and revokes tokens.", no_args_is_help=True, epilog=EXIT_CODES)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Who has it; the audit names it so.")]


class Role(StrEnum):
    """What a token allows."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    NODE = "node"


@app.command()
def create(
    name: NameArgument,
    role: Annotated[
        Role,
        typer.Option(
            "--role",
            help="read; write, which changes what applications own; admin, which does what operators do; or node, for "
            "an agent, which changes its own node's record only.",
        ),
    ],
    node: Annotated[str, typer.Option("--node", metavar="NODE", help="Of the role node: the one it speaks for.")] = "",
    any_node: Annotated[bool, typer.Option("--any-node", help="Of the role node: it speaks for every node.")] = False,
    expires_after: Annotated[
        float | None,
        typer.Option("--expires-after", metavar="SECONDS", min=1, help="How long it lives; until revoked by default."),
    ] = None,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Makes a token, and prints its secret: it can't be shown again.

    The secret alone goes to standard output: `atollctl tokens create ci --role write > token`.
    """
    if node and any_node:
        fail("--node and --any-node: it speaks for one node or for all, leave one out", USAGE)
    request = token_pb2.CreateTokenRequest(
        name=name, role=rules_pb2.Role.Value(f"ROLE_{role.name}"), node_id=node, any_node=any_node
    )
    if expires_after is not None:
        request.ttl.CopyFrom(duration(expires_after))
    with calling(server) as channel:
        made = token_pb2_grpc.TokenServiceStub(channel).CreateToken(request, timeout=timeout)
    if output is not Output.TABLE:
        print_data(output, as_json(made))
        return
    typer.echo(f"token {name}, role {_role(made.token)}, id {made.token.token_id}; its secret:", err=True)
    typer.echo(made.secret)


@app.command("list")
def list_(
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Lists tokens, without their secrets, which nobody has."""
    request = token_pb2.ListTokensRequest()
    with calling(server) as channel:
        stub = token_pb2_grpc.TokenServiceStub(channel)

        def page(count: int) -> tuple[Sequence[token_pb2.Token], bool]:
            request.limit = count
            listed = stub.ListTokens(request, timeout=timeout)
            if listed.tokens:
                request.start_after = listed.tokens[-1].name
            return listed.tokens, listed.more

        tokens, _ = page_through(page, sys.maxsize)
    rows = [
        (
            token.name,
            _role(token),
            _time(token.created),
            _time(token.expires) if token.HasField("expires") else "never",
            _time(token.last_used) if token.HasField("last_used") else "-",
            token.token_id,
        )
        for token in tokens
    ]
    print_messages(output, tokens, ("NAME", "ROLE", "CREATED", "EXPIRES", "LAST USED", "ID"), rows)


@app.command()
def revoke(
    name: NameArgument,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Ends a token at once; watches that were opened with it end within seconds."""
    with calling(server) as channel:
        request = token_pb2.RevokeTokenRequest(name=name)
        done = token_pb2_grpc.TokenServiceStub(channel).RevokeToken(request, timeout=timeout)
    print_fields(output, done, (("revoked", name), ("role", _role(done.token)), ("id", done.token.token_id)))


def _role(token: token_pb2.Token) -> str:
    role = rules_pb2.Role.Name(token.role).removeprefix("ROLE_").lower()
    if token.role != rules_pb2.ROLE_NODE:
        return role
    return f"{role} {token.node_id}" if token.node_id else f"{role}, any"


def _time(time: Timestamp) -> str:
    return f"{time_of(time)}Z"
