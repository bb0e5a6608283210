"""The command `atoll demo-ha`.

Exit codes: 0 nothing was lost and each change of leaders took 5 s at most; 1 not so, or the demo could not run to its
end; 2 wrong usage; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import shutil
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from atoll_control.demo.failover import MOST_SECONDS, FailoverError, Outcome, run

STOPPED = 130


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"atoll demo-ha: {message}", err=True)
    raise typer.Exit(code)


def demo_ha(
    servers: Annotated[int, typer.Option(min=2, max=9, help="How many servers share the etcd.")] = 3,
    rounds: Annotated[
        int, typer.Option(min=1, max=100, help="How often the leader is ended: killed, paused and stopped in turn.")
    ] = 3,
    etcd: Annotated[
        str | None,
        typer.Option(metavar="PATH", envvar="ETCD", help="The etcd that is run. Default: the one on the PATH."),
    ] = None,
) -> None:
    """Shows that another server takes over when the leader goes, and that nothing is lost.

    Starts an etcd and servers of the control plane, each in a process of its own, on loopback. Clients write, read
    and watch without a pause while the leader is killed (kill -9), paused for longer than its lease, and stopped. At
    the end everything that the clients saw is checked: no acknowledged write may be lost, no read stale, and the watch
    must have been told every change once, in order, over all the leaders.

    Exit code 0: so it was, and a write was acknowledged again within 5 s each time. 1: not so. 2: wrong usage. 130:
    stopped.
    """
    program = etcd or shutil.which("etcd")
    if program is None or not os.access(program, os.X_OK):
        where = "on the PATH" if program is None else f"at {program}"
        _fail(
            f"there is no etcd {where}: name one with --etcd PATH, or install it (apt install etcd-server, "
            "brew install etcd)",
            2,
        )
    console = Console()
    try:
        outcome = run(program, servers, rounds, console.print)
    except FailoverError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("stopped", STOPPED)
    _report(console, outcome)
    raise typer.Exit(0 if outcome.held else 1)


def _report(console: Console, outcome: Outcome) -> None:
    console.print(
        f"\n{outcome.writes:,} writes were acknowledged and {outcome.reads:,} reads answered; the watch was told "
        f"{outcome.watched:,} changes and resumed {outcome.resumed} times."
    )
    for problem in outcome.problems:
        console.print(f"[bold red]wrong[/]: {problem}")
    slow = [change for change in outcome.changes if change.seconds > MOST_SECONDS]
    for change in slow:
        console.print(f"[bold red]slow[/]: {change.seconds:.2f} s until a write, after the leader was {change.how}")
    if outcome.held:
        slowest = max(change.seconds for change in outcome.changes)
        console.print(
            f"[bold green]Nothing was lost, no read was stale, the watch has no gap[/]; the slowest change took "
            f"{slowest:.2f} s, {MOST_SECONDS:.0f} s were allowed."
        )
