"""How commands reach the server, and what they say when a call fails."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import grpc
import typer

from atoll_control.cli.connection import WrongConnectionError, current, identity
from atoll_control.client import DEFAULT_TIMEOUT, Client, ClientError, UnknownOutcomeError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Exit codes, stable for scripts.
COULD_NOT: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
CONFLICT: Final = 4
UNREACHABLE: Final = 5
NOT_ALLOWED: Final = 6

CODES: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: USAGE,
    grpc.StatusCode.NOT_FOUND: NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: CONFLICT,
    grpc.StatusCode.UNAVAILABLE: UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: UNREACHABLE,
    grpc.StatusCode.UNAUTHENTICATED: NOT_ALLOWED,
    grpc.StatusCode.PERMISSION_DENIED: NOT_ALLOWED,
}
EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 could not do it, or nobody knows whether it was done, 2 wrong usage, 3 not found, 4 "
    "something else is there already or has changed, 5 the server can't be reached, 6 the token does not allow it."
)

ServerOption = Annotated[
    list[str],
    typer.Option(
        "--server",
        envvar="ATOLL_SERVER",
        metavar="HOST:PORT",
        help="Where the server listens. Of several servers name each, repeated or with commas between: the one that "
        "leads is found.",
    ),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="How long to wait for the server.")
]
DEFAULT_SERVER: Final = ["127.0.0.1:50051"]


def fail(message: str, code: int = COULD_NOT) -> NoReturn:
    """Ends the command with a message on standard error."""
    typer.echo(f"atollctl: {message}", err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def connected(server: list[str], timeout: float = DEFAULT_TIMEOUT) -> Iterator[Client]:
    """A client; a call that fails in the block ends the command with the server's words."""
    try:
        token, tls = identity(current(), os.environ.get("ATOLL_TOKEN"))
        client = Client(server, token=token, tls=tls, timeout=timeout, wait_for_server=False)
    except WrongConnectionError as wrong:
        fail(str(wrong), USAGE)
    except ValueError as wrong:
        fail(f"--server: {str(wrong).removeprefix('endpoints: ')}", USAGE)
    with client:
        try:
            yield client
        except UnreachableError as error:
            hint = "" if tls else "; if it speaks TLS, name who vouches for it with --tls-ca"
            fail(f"{error} Name another with --server{hint}", UNREACHABLE)
        except UnknownOutcomeError as error:
            # Whatever its status: a script that tries again where nobody was reached must not do so here.
            fail(str(error))
        except ClientError as error:
            fail(str(error), COULD_NOT if error.status is None else CODES.get(error.status, COULD_NOT))


@contextlib.contextmanager
def calling(server: list[str]) -> Iterator[grpc.Channel]:
    """A channel for stubs, whose calls go to the server that leads; otherwise as `connected`."""
    with connected(server) as client:
        yield client.channel
