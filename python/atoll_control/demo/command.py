"""The command `atoll demo`.

Exit codes: 0 the criterion was met; 1 it was not, or the demo could not run to its end; 2 wrong usage; 130 stopped by
Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from atoll_control.demo.run import Demo, DemoError, DemoSettings, as_json, run_until_signalled
from atoll_control.demo.view import LiveView, PlainView, View, report

MIN_SECONDS = 2.0
STOPPED = 130


class SlowModule(StrEnum):
    """Modules that can be made slow."""

    KV_MANAGER = "KvManager"
    HEALTH_MONITOR = "HealthMonitor"


class SlowKind(StrEnum):
    """How a module is slow."""

    SLEEP = "sleep"
    CPU = "cpu"
    GIL = "gil"


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"atoll demo: {message}", err=True)
    raise typer.Exit(code)


def demo(  # noqa: PLR0917 - typer reads the options from the signature
    nodes: Annotated[int, typer.Option(min=1, max=5000, help="How many nodes join.")] = 200,
    seconds: Annotated[
        float,
        typer.Option(min=MIN_SECONDS, help="How long is measured: one half undisturbed, one half with a slow module."),
    ] = 16.0,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many processes the nodes are spread over.")] = 4,
    slow_module: Annotated[SlowModule, typer.Option(help="The module whose handlers block.")] = SlowModule.KV_MANAGER,
    slow_kind: Annotated[
        SlowKind,
        typer.Option(
            help="How they block: in the operating system, computing in Python, or in one call into C that keeps the "
            "GIL. The last is the one thing that loops can't isolate on a build with a GIL."
        ),
    ] = SlowKind.SLEEP,
    block: Annotated[
        float, typer.Option(min=0.001, max=5.0, metavar="SECONDS", help="How long one call of the slow module blocks.")
    ] = 0.2,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Join a server that runs already instead of starting one. It is slowed down only if it was started "
            "with `atollctl serve --demo-controls`.",
        ),
    ] = None,
    one_loop: Annotated[  # noqa: FBT002 - a flag of the command line
        bool,
        typer.Option("--one-loop", help="Start the server with all modules on one loop, to see the difference."),
    ] = False,
    network_threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Native threads of the server's transport.")
    ] = None,
    json_to: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help='Also write the result as JSON; "-" for standard output.'),
    ] = None,
) -> None:
    """Shows that a slow module does not delay the others' calls.

    Starts the control plane as its own process, then nodes in a few other processes, with stock grpcio clients. Each
    registers, sends heartbeats at the interval that it is told, and writes and reads the store. Halfway one module is
    made slow. The end says whether the heartbeats stayed unaffected and every node alive.

    Exit code 0: while the module was slow 99 of 100 heartbeats were answered within half of the time that it blocks
    (and within 100 ms), none failed, and no node died or had to register again. 1: not so. 2: wrong usage. 130:
    stopped.
    """
    if server is not None and re.fullmatch(r".+:\d{1,5}", server) is None:
        _fail(f"--server: must be HOST:PORT, got {server!r}", 2)
    if server is not None and (one_loop or network_threads is not None):
        _fail("--one-loop and --network-threads are for a server that the demo starts; leave out --server", 2)
    settings = DemoSettings(
        nodes=nodes,
        processes=min(processes, nodes),
        seconds=seconds,
        slow_module=slow_module.value,
        slow_kind=slow_kind.value,
        block=block,
        server=server,
        one_loop=one_loop,
        network_threads=network_threads,
    )
    console = Console(stderr=json_to == Path("-"))
    if not console.is_terminal:
        console = Console(file=console.file, width=120)
    view: View = LiveView(console) if console.is_terminal else PlainView(console)
    try:
        with view:
            outcome = asyncio.run(run_until_signalled(Demo(settings, view)))
    except DemoError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _fail("stopped", STOPPED)
    report(console, outcome.facts, outcome.verdict, outcome.loops)
    exit_code = 0 if outcome.verdict.held else 1
    if json_to is not None:
        text = json.dumps(as_json(settings, outcome, exit_code), indent=2) + "\n"
        if json_to == Path("-"):
            sys.stdout.write(text)
        else:
            json_to.write_text(text)
    raise typer.Exit(exit_code)
