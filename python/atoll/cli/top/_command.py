"""The command `atoll top`.

Exit codes: 0 it was shown; 1 nothing that can be shown answers there; 2 wrong usage; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated, NoReturn

import typer

from atoll.cli.top._client import Client, Unavailable
from atoll.cli.top._once import print_table

STOPPED = 130


class Output(StrEnum):
    """How `--once` prints."""

    TABLE = "table"
    JSON = "json"


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"atoll top: {message}", err=True)
    raise typer.Exit(code)


def top(
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            envvar="ATOLL_OBSERVE",
            help="Where the process is observed: 127.0.0.1:9464 or unix:/run/atoll.sock.",
        ),
    ],
    once: Annotated[bool, typer.Option("--once", help="Print the loops as they are now, and end.")] = False,
    output: Annotated[
        Output | None,
        typer.Option("-o", "--output", help="How --once prints: as a table, or all that is known as JSON."),
    ] = None,
    interval: Annotated[
        float, typer.Option(min=0.1, max=60.0, metavar="SECONDS", help="How often the live view asks.")
    ] = 1.0,
) -> None:
    """Shows what the loops of a running process are doing.

    The process tells it natively: it answers while every loop is stuck and while one call into C keeps the GIL. Start
    it with ATOLL_OBSERVE=127.0.0.1:9464 (or unix:/run/atoll.sock, which only you can read); the provider of its loops
    then serves and logs the address. In code it is atoll.observe.ObserveEndpoint.

    Shown are the loops with the modules that live on them, the lag of each, what waits in its lanes, the handler that
    runs and for how long, how busy it is, its slowest handlers, and where it is stuck: the Python stack of its thread.

    Keys: the arrows choose a loop, s sorts, p pauses, t changes between light and dark, q quits.

    Exit code 0: shown. 1: nothing that can be shown answers there. 2: wrong usage. 130: stopped.
    """
    try:
        client = Client(address)
    except ValueError as error:
        _fail(str(error), 2)
    if output is not None and not once:
        _fail("-o is for --once: the live view has one form only", 2)
    if once:
        _print_once(client, output or Output.TABLE)
        return
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        _fail("the live view needs a terminal; for scripts there are --once -o table and --once -o json", 2)
    try:
        from atoll.cli.top._app import TopApp  # noqa: PLC0415 - takes a second that --once need not wait for
    except ImportError as error:
        if not (error.name or "").startswith("textual"):
            raise
        _fail('textual is missing; install it with: pip install "atoll[top]"', 1)
    TopApp(client, interval).run()


def _print_once(client: Client, output: Output) -> None:
    try:
        if output == Output.JSON:
            sys.stdout.write(json.dumps(client.top(), indent=2) + "\n")
        else:
            print_table(client)
    except Unavailable as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("stopped", STOPPED)
