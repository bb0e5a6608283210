"""`LocalHealth`: how far the detector trusts itself (Lifeguard's local health awareness)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from atoll_control.server.detector._settings import DetectorSettings

# How many of the last reasons for a higher score are kept for people to read.
_KEPT_REASONS: Final = 8


class LocalHealth:
    """A score from 0, healthy, to `local_health_max`. What raises it is evidence against the server, not its nodes.

    Raised: by a late sweep, once and once more for each heartbeat interval that it was late; by a node that sends a
    heartbeat after the server's own probe of it had failed, once per heartbeat interval at most, so that a few nodes
    with a bad network do not slow the judgement of all others.

    Lowered, by one: by an answered probe; by each heartbeat interval in which nothing raised it.
    """

    def __init__(self, settings: DetectorSettings, now: float) -> None:
        """Begins at score 0."""
        self.score = 0
        self.reasons: deque[str] = deque(maxlen=_KEPT_REASONS)
        self._max = settings.local_health_max
        self._stretch_per_point = (settings.max_stretch - 1) / max(1, self._max)
        self._interval = settings.heartbeat_interval
        self._late_threshold = settings.late_threshold
        self._good_since = now
        self._contradicted_at = float("-inf")

    @property
    def stretch(self) -> float:
        """The factor by which times are stretched."""
        return 1.0 + self.score * self._stretch_per_point

    def swept(self, now: float, late: float) -> None:
        """A sweep ran, late by so many seconds."""
        if late >= self._late_threshold:
            self._raise(1 + int(late / self._interval), now, f"a sweep was {late:.2f} s late")
            return
        while self.score and now - self._good_since >= self._interval:
            self.score -= 1
            self._good_since += self._interval

    def contradicted(self, node: str, now: float) -> None:
        """A node sent a heartbeat although a probe of it had failed."""
        if now - self._contradicted_at >= self._interval:
            self._contradicted_at = now
            self._raise(1, now, f"node {node!r} sent a heartbeat after a probe of it had failed")

    def confirmed(self) -> None:
        """A probe was answered in time."""
        self.score = max(0, self.score - 1)

    def _raise(self, points: int, now: float, reason: str) -> None:
        self.score = min(self._max, self.score + points)
        self._good_since = now
        self.reasons.append(f"{reason} (at {now:.2f} s)")
