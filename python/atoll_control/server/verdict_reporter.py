"""`VerdictReporter`: sees to it that what the detector has found out is recorded, however long that takes."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MAX_AT_ONCE: Final = 64
FIRST_RETRY: Final = 0.1
LONGEST_RETRY: Final = 5.0

_log = structlog.get_logger("atoll_control.health")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be recorded of an incarnation.

    Attributes:
        node_id: the node.
        incarnation: the incarnation that is meant.
        phase: "suspect", "alive" again, or "dead".
        reason: a sentence with the numbers.
    """

    node_id: str
    incarnation: int
    phase: str
    reason: str


class VerdictReporter:
    """Hands findings over until each has been taken. Lives on one loop.

    Findings of one node are handed over in order, one at a time; one that comes while another waits takes its place,
    since a later one holds for the node from then on. So what waits is bounded by the number of nodes.
    """

    def __init__(self, record: Callable[[Finding], Awaitable[object]]) -> None:
        """Takes what records a finding. It may be called again with the same one when it has failed."""
        self._record = record
        self._waiting: dict[str, Finding] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopped = False

    @property
    def unrecorded(self) -> int:
        """How many findings have not been recorded yet."""
        return len(self._waiting) + len(self._tasks)

    def report(self, finding: Finding) -> None:
        """Has a finding recorded."""
        self._waiting.pop(finding.node_id, None)
        self._waiting[finding.node_id] = finding
        if finding.node_id not in self._tasks:
            self._begin(finding.node_id)

    async def stop(self) -> None:
        """Gives up what has not been recorded; whoever is dead will be found to be so by the next server."""
        self._stopped = True
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, node_id: str) -> None:
        if len(self._tasks) < MAX_AT_ONCE and not self._stopped:
            finding = self._waiting.pop(node_id)
            # In a context of its own: the deadline of whoever reports is not the finding's.
            task = asyncio.create_task(self._hand_over(finding), context=contextvars.Context())
            self._tasks[node_id] = task
            task.add_done_callback(lambda _: self._ended(node_id))

    def _ended(self, node_id: str) -> None:
        del self._tasks[node_id]
        following = next((other for other in self._waiting if other not in self._tasks), None)
        if following is not None:
            self._begin(following)

    async def _hand_over(self, finding: Finding) -> None:
        pause = FIRST_RETRY
        while True:
            try:
                await self._record(finding)
            except Exception as error:  # noqa: BLE001 - a verdict is not lost, whatever went wrong
                _log.warning(
                    "finding_not_recorded",
                    node_id=finding.node_id,
                    incarnation=finding.incarnation,
                    phase=finding.phase,
                    error=f"{type(error).__name__}: {error}",
                    again_in=pause,
                )
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_RETRY)
            finding = self._waiting.pop(finding.node_id, finding)
