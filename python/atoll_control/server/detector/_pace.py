"""`Pace`: how often nodes are told to send heartbeats, and what they are judged by."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from atoll_control.server.detector._settings import DetectorSettings

# The smallest share of an interval after which a node may be told to send its first heartbeat.
_FIRST_AFTER: Final = 0.1


class Pace:
    """The heartbeat interval for a number of nodes.

    It grows when there would be more than `max_heartbeats_per_second`. Each node's own interval is shorter than it by
    up to `stagger`, by a hash of the node's id: the same on every server, and no two nodes stay in step.

    A node learns of a longer interval with the reply to its next heartbeat, and is judged by the longer one at once.
    When the interval gets shorter, nodes still go by the one they were told before, so they are judged by it for one
    dead timeout more.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        """Begins without nodes."""
        self.interval = settings.heartbeat_interval
        self.judged = settings.heartbeat_interval
        self._settings = settings
        # When the judged interval falls, and to what: the longest that has been in force since that was settled.
        self._falls_at: float | None = None
        self._falls_to = self.interval

    @staticmethod
    def spread_of(node: str) -> float:
        """Where the node stands among all: a number from 0 to 1 (exclusive) from its id alone."""
        return _fraction(node, b"spread")

    def resize(self, count: int, now: float) -> None:
        """There are now so many living nodes."""
        settings = self._settings
        # The mean of the staggered intervals keeps the promised rate.
        needed = count / settings.max_heartbeats_per_second / (1 - settings.stagger / 2)
        interval = min(max(needed, settings.heartbeat_interval), settings.max_heartbeat_interval)
        if interval == self.interval:
            return
        self.interval = interval
        if interval >= self.judged:
            self.judged = interval
            self._falls_at = None
        elif self._falls_at is None:
            self._fall_later(now)
        else:
            self._falls_to = max(self._falls_to, interval)

    def swept(self, now: float) -> None:
        """Lets the judged interval follow the one in force when no node can be going by the longer one any more."""
        if self._falls_at is not None and now >= self._falls_at:
            self.judged = self._falls_to
            self._falls_at = None
            if self.interval < self.judged:
                self._fall_later(now)

    def _fall_later(self, now: float) -> None:
        self._falls_at = now + self._settings.dead_after * self.judged / self._settings.heartbeat_interval
        self._falls_to = self.interval

    def interval_for(self, spread: float) -> float:
        """After how many seconds a node that has sent a heartbeat is to send the next one."""
        return self.interval * (1 - self._settings.stagger * spread)

    def first_interval_for(self, node: str) -> float:
        """After how many seconds a node that has registered is to send its first heartbeat."""
        # Independent of the spread. By the same number, nodes that begin later would have shorter intervals, and after
        # some beats (nine with the defaults) they would all beat at once.
        return self.interval * (_FIRST_AFTER + (1 - _FIRST_AFTER) * _fraction(node, b"first"))


def _fraction(node: str, purpose: bytes) -> float:
    digest = hashlib.blake2b(node.encode(), digest_size=4, person=purpose).digest()
    return int.from_bytes(digest, "big") / 2**32
