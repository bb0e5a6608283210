"""`CheckProcess`: one run of a check's command. One loop only.

The command is the leader of a process group of its own: what it has started is killed with it, and when it has ended
what still holds its output; what does not goes on. Its output is read as it comes, and only the beginning is kept. The
pipes are our own rather than asyncio's, whose processes have not ended for it as long as some grandchild holds a pipe
open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from atoll_control.api.v1 import node_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll_control.agent.settings import CheckSettings

TRUE: Final = node_pb2.CONDITION_STATUS_TRUE
FALSE: Final = node_pb2.CONDITION_STATUS_FALSE
UNKNOWN: Final = node_pb2.CONDITION_STATUS_UNKNOWN

# Of what a command prints so much is kept, and so much read until it is killed.
KEPT_OUTPUT_BYTES: Final = 4096
MAX_OUTPUT_BYTES: Final = 1 << 20
# What the server takes.
MAX_REASON_BYTES: Final = 1024
# Seconds that a killed process gets until the check is answered without its end.
KILLED_AFTER: Final = 1.0
_READ_BYTES: Final = 1 << 16
# What a shell ends with that could not start the command.
_NOT_RUN: Final = (126, 127)
_THROUGH_SHELL: Final = ("/bin/sh", "-c", 'exec "$@"', "check")
# Not the command's business: the token, and the agent's line to systemd.
_OWN_VARIABLES: Final = frozenset({"ATOLL_TOKEN", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has found out: the condition's status, and why."""

    status: node_pb2.ConditionStatus.ValueType
    reason: str


class CheckProcess:
    """One run; `outcome`, then `ended`."""

    def __init__(self, check: CheckSettings) -> None:
        """Starts nothing yet."""
        self._check = check
        self._process: asyncio.subprocess.Process | None = None
        self._outputs: list[_Output] = []
        self._flooded = False

    @property
    def has_ended(self) -> bool:
        """Whether nothing runs any more."""
        return self._process is None or self._process.returncode is not None

    async def outcome(self) -> Outcome:
        """Runs the command, and returns soon after its time is over whatever it does. Cancelled, it is killed."""
        try:
            await self._start()
        except OSError as error:
            return Outcome(UNKNOWN, _line(f"no process could be started: {error.strerror or error}"))
        process = self._process
        assert process is not None  # noqa: S101 - it has been started
        try:
            async with asyncio.timeout(self._check.timeout):
                await process.wait()
        except TimeoutError:
            self._kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILLED_AFTER):
                    await process.wait()
            left = "" if self.has_ended else ", which it does not heed: it is in the kernel's hands"
            return Outcome(UNKNOWN, f"did not end within {self._check.timeout:g} s, and was killed{left}")
        except asyncio.CancelledError:
            self._kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILLED_AFTER / 2):
                    await process.wait()
            raise
        finally:
            self._close()
        return self._read(process.returncode)

    async def ended(self) -> None:
        """Waits for a process that was killed, as long as that takes."""
        if self._process is not None:
            await self._process.wait()

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        ends = [os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe() for _ in range(2)]
        try:
            self._outputs = [_Output(loop, reading, self._flood) for reading, _ in ends]
            environment = {name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES}
            self._process = await asyncio.create_subprocess_exec(
                *_THROUGH_SHELL,
                *self._check.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=ends[0][1],
                stderr=ends[1][1],
                start_new_session=True,
                env=environment,
            )
        except BaseException:
            self._close()
            raise
        finally:
            for _, writing in ends:
                os.close(writing)

    def _flood(self) -> None:
        self._flooded = True
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _close(self) -> None:
        """Ends what still runs, and what the command has left behind."""
        for output in self._outputs:
            output.read()
        # Somebody else has a pipe, or the process still runs: a group with this number is there.
        if not (self.has_ended and all(output.is_at_end for output in self._outputs)):
            self._kill()
        for output in self._outputs:
            output.close()

    def _read(self, code: int | None) -> Outcome:
        if self._flooded:
            return Outcome(UNKNOWN, f"printed more than {MAX_OUTPUT_BYTES:,} bytes, and was killed")
        printed = next((line for output in self._outputs if (line := _line(output.text()))), "")
        if code is None or code < 0:
            ended_by = "an unknown signal" if code is None else _signal_name(-code)
            return Outcome(UNKNOWN, _line(f"was ended by {ended_by}" + (f": {printed}" if printed else "")))
        if code in _NOT_RUN and not {code} & (self._check.true_codes | self._check.false_codes):
            return Outcome(UNKNOWN, _line(f"{self._check.command[0]} can't be run: {printed}"))
        reason = printed or f"exit code {code}"
        if code in self._check.true_codes:
            return Outcome(TRUE, reason)
        if code in self._check.false_codes:
            return Outcome(FALSE, reason)
        return Outcome(UNKNOWN, reason)


class _Output:
    """The reading end of a pipe."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reading: int, flood: Callable[[], None]) -> None:
        self.is_at_end = False
        self._loop = loop
        self._reading = reading
        self._flood = flood
        self._kept = bytearray()
        self._size = 0
        os.set_blocking(reading, False)
        loop.add_reader(reading, self.read)

    def text(self) -> str:
        return self._kept.decode(errors="replace")

    def read(self) -> None:
        """Reads what is there."""
        while not self.is_at_end and self._size <= MAX_OUTPUT_BYTES:
            try:
                data = os.read(self._reading, _READ_BYTES)
            except BlockingIOError:
                return
            self._kept += data[: max(0, KEPT_OUTPUT_BYTES - len(self._kept))]
            self._size += len(data)
            self.is_at_end = not data
        self._loop.remove_reader(self._reading)
        if not self.is_at_end:
            self._flood()

    def close(self) -> None:
        self._loop.remove_reader(self._reading)
        os.close(self._reading)


def _line(text: str) -> str:
    """The first line that says something, as a reason."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    plain = "".join(letter if letter.isprintable() else " " for letter in first).strip()
    return plain.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
