"""`Checks`: runs commands, and reports what they say of the node. Only its own loop enters it.

Each check is a task, so that none waits for another, and none runs twice at the same time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from atoll import IoContext
from atoll_control.agent.check_process import CheckProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from atoll_control.agent.check_process import Outcome
    from atoll_control.agent.settings import CheckSettings

# Seconds that killed commands get when the agent ends.
STOP_TIMEOUT: Final = 1.0

_log = structlog.get_logger("atoll_control.agent")


class Checks:
    """The checks of a node."""

    def __init__(self, checks: Iterable[CheckSettings], report: Callable[[str, Outcome], None]) -> None:
        """Takes the checks, and whom to tell: the name of the condition and what was found out."""
        self._checks = tuple(checks)
        self._report = report
        self._io_context = IoContext.current()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Runs each check at once, and then at its interval."""
        self._tasks = [asyncio.create_task(self._repeat(check)) for check in self._checks]

    async def stop(self) -> None:
        """Kills what runs."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT)

    async def _repeat(self, check: CheckSettings) -> None:
        due = self._io_context.now()
        while True:
            process = CheckProcess(check)
            self._report(check.name, await process.outcome())
            if not process.has_ended:
                _log.warning("check_does_not_end", check=check.name, remedy="it is not run again until it has ended")
                await process.ended()
            due = max(due + check.interval, self._io_context.now())
            await asyncio.sleep(due - self._io_context.now())
