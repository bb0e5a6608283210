"""The demo's child processes: started, listened to, and never left behind.

Every child has the reading end of a pipe as its standard input and ends when the pipe closes. The kernel closes it when
the demo ends, however it ends, so that no child outlives it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from atoll_control.demo.node import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from atoll_control.demo.worker import Task

START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 10.0
LINE_LIMIT: Final = 16 << 20
LOG_TAIL_LINES: Final = 5
# Twice as often as by default, to measure more.
SERVER_TIMES: Final = ("--heartbeat-interval", "1", "--dead-after", "6")


class ChildFailedError(Exception):
    """A child process could not start, or ended by itself. The message says which one and what it last said."""


async def _start(
    module: str,
    *arguments: str,
    stdout: int | None = None,
    stderr: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        # A session of its own: Ctrl-C reaches the demo alone, which then ends its children in order.
        start_new_session=True,
        limit=LINE_LIMIT,
        stdout=stdout,
        stderr=stderr,
        env=None if environment is None else {**os.environ, **environment},
    )


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
    except (TimeoutError, asyncio.CancelledError):
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise


class ServerProcess:
    """`atollctl serve` with its demo controls, on a free port of the loopback interface."""

    def __init__(self, log: IO[str]) -> None:
        """Takes the file that gets the server's log."""
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._lines: asyncio.Task[None] | None = None
        self._address: asyncio.Future[str] | None = None

    async def start(self, *arguments: str, environment: Mapping[str, str]) -> str:
        """Starts the server, with `environment` besides the demo's own, and returns its address.

        Raises:
            ChildFailedError: it did not come up.
        """
        self._address = asyncio.get_running_loop().create_future()
        self._process = await _start(
            "atoll_control.cli",
            *("serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--demo-controls", "--exit-with-stdin"),
            *SERVER_TIMES,
            *arguments,
            stderr=asyncio.subprocess.PIPE,
            environment=environment,
        )
        self._lines = asyncio.create_task(self._read(self._process, self._address))
        try:
            return await asyncio.wait_for(asyncio.shield(self._address), START_TIMEOUT)
        except TimeoutError:
            raise ChildFailedError(f"the server did not start within {START_TIMEOUT:g} s") from None

    async def _read(self, process: asyncio.subprocess.Process, address: asyncio.Future[str]) -> None:
        tail: list[str] = []
        assert process.stderr is not None  # noqa: S101 - it was asked for
        while line := (await process.stderr.readline()).decode(errors="replace"):
            self._log.write(line)
            self._log.flush()
            tail = [*tail[-LOG_TAIL_LINES + 1 :], line.rstrip()]
            if not address.done() and '"server_started"' in line:
                address.set_result(json.loads(line)["address"])
        if not address.done():
            code = await process.wait()
            last = "\n".join(tail) or "it said nothing"
            address.set_exception(ChildFailedError(f"the server ended with exit code {code}:\n{last}"))

    @property
    def ended(self) -> bool:
        """The server has ended by itself."""
        return self._process is not None and self._process.returncode is not None

    async def stop(self) -> int | None:
        """Stops the server as an operator would and returns its exit code."""
        process = self._process
        if process is None:
            return None
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await _stop(process)
        finally:
            if self._lines is not None:
                await asyncio.gather(self._lines, return_exceptions=True)
        return process.returncode


class WorkerProcess:
    """A process full of nodes."""

    def __init__(self, on_report: Callable[[Report], None]) -> None:
        """Takes what is called with each report."""
        self._on_report = on_report
        self._process: asyncio.subprocess.Process | None = None
        self._reports: asyncio.Task[None] | None = None

    async def start(self, task: Task) -> None:
        """Starts the process and its nodes."""
        self._process = await _start("atoll_control.demo.worker", stdout=asyncio.subprocess.PIPE)
        await self._write(json.dumps(asdict(task)))
        self._reports = asyncio.create_task(self._read(self._process))

    async def _write(self, line: str) -> None:
        assert self._process is not None  # noqa: S101 - it was started
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        done = False
        while not done:
            line = await process.stdout.readline()
            if not line:
                raise ChildFailedError(f"a process of nodes ended with exit code {await process.wait()}")
            message: dict[str, Any] = json.loads(line)
            done = message.pop("done")
            self._on_report(Report(**message))

    @property
    def ended(self) -> bool:
        """No more reports will come."""
        return self._reports is not None and self._reports.done()

    def check(self) -> None:
        """Raises what ended the reports.

        Raises:
            ChildFailedError: the process ended by itself.
        """
        if self._reports is not None and self._reports.done():
            self._reports.result()

    async def leave(self) -> None:
        """Lets the nodes unregister and waits until they have."""
        if self._reports is not None:
            await self._write("leave")
            await asyncio.wait_for(self._reports, START_TIMEOUT)

    async def stop(self) -> None:
        """Ends the process."""
        if self._reports is not None:
            self._reports.cancel()
            await asyncio.gather(self._reports, return_exceptions=True)
        if self._process is not None:
            await _stop(self._process)


def log_path(run_id: str) -> Path:
    """Where the log of the demo's server goes."""
    return Path(tempfile.gettempdir()) / f"atoll-demo-{run_id}.log"
