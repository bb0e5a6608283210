"""A process full of nodes, started by `run`.

Reads its task as one line of JSON from standard input, then waits there: the line "leave" lets the nodes unregister and
the process end, and the end of the input, which comes also when the parent is killed, ends it at once. Writes a report
as one line of JSON to standard output every half second and a last one, marked "done".
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import Final

from atoll_control.demo.facts import host_facts
from atoll_control.demo.node import DemoNode, Report

REPORT_INTERVAL: Final = 0.5


@dataclass(frozen=True)
class Task:
    """What one process is told: to run the nodes first, first + step, … below total."""

    server: str
    run_id: str
    first: int
    step: int
    total: int


async def work(task: Task, commands: asyncio.StreamReader) -> None:
    """Runs the nodes until told to leave."""
    report = Report()
    host = host_facts()
    leave = asyncio.Event()

    def write(*, done: bool) -> None:
        sys.stdout.write(json.dumps({"done": done, **asdict(report)}, separators=(",", ":")) + "\n")
        sys.stdout.flush()
        report.clear()

    async def write_regularly() -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            write(done=False)

    async def obey() -> None:
        while line := await commands.readline():
            if line.strip() == b"leave":
                leave.set()
        os._exit(1)

    helpers = [asyncio.create_task(write_regularly()), asyncio.create_task(obey())]
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(task.first, task.total, task.step):
                node = DemoNode(
                    f"demo-{task.run_id}-{number:04}",
                    task.server,
                    host,
                    phase=number / task.total,
                    report=report,
                )
                group.create_task(node.run(leave))
    except* Exception as errors:  # noqa: BLE001 - the parent is told, whatever it is
        report.errors.extend(f"{type(error).__name__}: {error}" for error in errors.exceptions)
    for helper in helpers:
        helper.cancel()
    write(done=True)


async def _main() -> None:
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    await work(Task(**json.loads(await commands.readline())), commands)


if __name__ == "__main__":
    asyncio.run(_main())
    # Nothing is left to do, and grpc's own threads take their time to notice.
    os._exit(0)
