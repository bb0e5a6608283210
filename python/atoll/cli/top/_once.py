"""`atoll top --once`: the loops as they are now, for people who read logs and for scripts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from atoll.cli.top import _render as render
from atoll.cli.top._snapshot import State, rows

if TYPE_CHECKING:
    from rich.console import RenderableType

    from atoll.cli.top._client import Client
    from atoll.cli.top._snapshot import Row

# The columns of a log have no end.
WIDTH_OF_A_FILE = 200
BETWEEN_ANSWERS = 0.25


def print_table(client: Client) -> None:
    """Prints the loops, and the stacks of those that are stuck, to standard output.

    It asks twice: how busy a loop is shows between two answers only.

    Raises:
        Unavailable: When there is no answer.
    """
    before = client.top()
    time.sleep(BETWEEN_ANSWERS)
    top = client.top()
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=WIDTH_OF_A_FILE)
    found = rows(top, before)
    parts: list[RenderableType] = [render.title(top["process"], client.address)]
    parts += [_table(found)] if found else [Text("it has no loops")]
    for row in found:
        stall = row.loop["stall"]
        if stall is not None:
            title = Text(
                f"\nloop {render.clean(row.loop['name'])}: {render.stall_title(stall, row, top['at'])}", "bold red"
            )
            parts += [title, render.stack(stall)]
        elif row.state == State.STUCK:
            note = "no monitor watches it, so there is no stack"
            parts.append(Text(f"\nloop {render.clean(row.loop['name'])} seems stuck: {note}", "bold red"))
    console.print(Group(*parts))


def _table(found: list[Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("loop", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("lag", justify="right", no_wrap=True)
    table.add_column("running", overflow="fold")
    table.add_column("for", justify="right", no_wrap=True)
    table.add_column("cpu", justify="right", no_wrap=True)
    table.add_column("busy", justify="right", no_wrap=True)
    table.add_column("queued", justify="right", no_wrap=True)
    for heading in ("handlers", "errors", "stalls"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("modules", overflow="fold")
    for row in found:
        loop, running, health = row.loop, row.loop["running"], row.loop["health"]
        table.add_row(
            Text(render.clean(loop["name"])),
            render.state(row),
            render.duration(row.lag),
            Text(render.clean(running["handler"]) if running else "–"),
            render.duration(running["age"] if running else None),
            render.cpu(row),
            render.percent(row.busy),
            render.queued(row),
            f"{loop['total']:,}",
            f"{loop['errors']:,}",
            f"{health['stalls']:,}" if health else "–",
            Text(render.modules(row)),
        )
    return table
