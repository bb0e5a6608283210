"""How a command reaches the server and shows who it is: the options of every command that has `--server`.

They are added to the commands in one place, so that none lacks them, and a command's own parameters are its own:
`calling.calling()` asks `current()`.
"""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from atoll_control.agent.link import token_of
from atoll_control.client import Tls

if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll_control.cli.agent_options import AgentOptions


@dataclass(frozen=True, kw_only=True)
class Connection:
    """What the options of a command say. Files are PEM, but for that of the token."""

    tls: Annotated[
        bool,
        typer.Option(
            "--tls", envvar="ATOLL_TLS", help="Use TLS, and trust whom this machine trusts. Implied by the next three."
        ),
    ] = False
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", envvar="ATOLL_TLS_CA", metavar="FILE", help="Who vouches for the server."),
    ] = None
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert", envvar="ATOLL_TLS_CLIENT_CERT", metavar="FILE", help="A certificate to show the server."
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", envvar="ATOLL_TLS_CLIENT_KEY", metavar="FILE", help="The key of that certificate."),
    ] = None
    tls_server_name: Annotated[
        str | None,
        typer.Option(
            "--tls-server-name",
            envvar="ATOLL_TLS_SERVER_NAME",
            metavar="NAME",
            help="The name in the server's certificate, where it is not that of --server.",
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            envvar="ATOLL_TOKEN_FILE",
            metavar="FILE",
            help="The token to show the server; the variable ATOLL_TOKEN may have the token itself.",
        ),
    ] = None


class WrongConnectionError(Exception):
    """Options that can't be used; the message names the flag.

    Attributes:
        problem: what is wrong.
        option: the name of what is wrong; None for a token that no option has.
    """

    def __init__(self, problem: str, option: str | None) -> None:
        """Takes what is wrong with which option."""
        super().__init__(problem if option is None else f"--{option.replace('_', '-')}: {problem}")
        self.problem = problem
        self.option = option


_connection: ContextVar[Connection | None] = ContextVar("_connection", default=None)


def current() -> Connection:
    """What the command that runs was told."""
    return _connection.get() or Connection()


def add_to_commands(app: typer.Typer) -> None:
    """Gives every command with `--server` the options of `Connection`. Once, when all commands are there."""
    for command in app.registered_commands:
        if command.callback is not None and "server" in inspect.signature(command.callback).parameters:
            command.callback = _with_connection(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_to_commands(group.typer_instance)


def _with_connection(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function, eval_str=True)
    hints = get_type_hints(Connection, include_extras=True)
    added = [
        inspect.Parameter(it.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[it.name], default=it.default)
        for it in fields(Connection)
    ]

    @functools.wraps(function)
    def run(**arguments: Any) -> Any:  # noqa: ANN401 - any command's
        _connection.set(Connection(**{it.name: arguments.pop(it.name) for it in fields(Connection)}))
        return function(**arguments)

    parameters = [it.replace(kind=inspect.Parameter.KEYWORD_ONLY) for it in signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=[*parameters, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {it.name: it.annotation for it in [*parameters, *added]}
    return run


def identity(options: Connection | AgentOptions, token: str | None) -> tuple[str | None, Tls | None]:
    """The token to show, and the files of TLS; None for what there is not.

    Args:
        options: what the command was told.
        token: is shown with every call, unless a file of the options has one.

    Raises:
        WrongConnectionError: the options can't be used.
    """
    try:
        token = token_of(token, options.token_file)
    except OSError as problem:
        raise WrongConnectionError(f"{options.token_file} can't be read: {problem.strerror}", "token_file") from None
    except ValueError as problem:
        raise WrongConnectionError(str(problem), None if options.token_file is None else "token_file") from None
    return token, _tls(options)


def _tls(options: Connection | AgentOptions) -> Tls | None:
    files = {name: getattr(options, name) for name in ("tls_ca", "tls_cert", "tls_key")}
    for name, path in files.items():
        if path is not None:
            try:
                path.open("rb").close()
            except OSError as problem:
                raise WrongConnectionError(f"{path} can't be read: {problem.strerror}", name) from None
    if not options.tls and not any(files.values()):
        return None
    if (options.tls_cert is None) != (options.tls_key is None):
        given = "tls_key" if options.tls_cert is None else "tls_cert"
        raise WrongConnectionError("a certificate and its key belong together: give both", given)
    return Tls(
        ca=options.tls_ca, certificate=options.tls_cert, key=options.tls_key, server_name=options.tls_server_name
    )
