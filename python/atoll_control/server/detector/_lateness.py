"""`Lateness`: when the detector itself was late, and how much of a node's silence that explains."""

from __future__ import annotations

import bisect

from atoll_control.server.detector._settings import LATE_TOLERANCE


class Lateness:
    """The times at which no sweep ran although one was due, newest last.

    While a sweep is late, the loop that runs it is stuck, or the whole process was stopped: heartbeats may have waited
    just as long, in the mailbox or in the operating system's socket buffers. So that time is taken off every node's
    silence, which moves every deadline by it, at the cost of one entry here however many nodes there are.
    """

    def __init__(self, now: float) -> None:
        """Begins at `now`, on time."""
        self.last = 0.0
        self.worst = 0.0
        self.total = 0.0
        self.sweeps = 0
        self.late_sweeps = 0
        self._begun = now
        self._starts: list[float] = []
        self._ends: list[float] = []
        # The total up to and with the entry.
        self._totals: list[float] = []

    @property
    def latest(self) -> tuple[float, float] | None:
        """From when to when a sweep was last late, if that is remembered."""
        return (self._starts[-1], self._ends[-1]) if self._ends else None

    def record(self, now: float, due: float) -> float:
        """Takes note of a sweep, and returns by how many seconds it is late: 0 for the jitter of timers."""
        start = max(due, self._begun)
        late = now - start
        self.sweeps += 1
        self._begun = max(self._begun, now)
        self.last = late = late if late >= LATE_TOLERANCE else 0.0
        if late:
            self.late_sweeps += 1
            self.worst = max(self.worst, late)
            self.total += late
            self._starts.append(start)
            self._ends.append(now)
            self._totals.append(self.total)
        return late

    def since(self, start: float) -> float:
        """How many seconds since `start` were lateness."""
        position = bisect.bisect_right(self._ends, start)
        if position == len(self._ends):
            return 0.0
        first = self._ends[position] - max(self._starts[position], start)
        return self._totals[-1] - self._totals[position] + first

    def forget_before(self, limit: float) -> None:
        """Drops what ended before `limit`, so that a server that is always late does not collect entries for ever."""
        if self._ends and self._ends[0] < limit:
            count = bisect.bisect_left(self._ends, limit)
            del self._starts[:count], self._ends[:count], self._totals[:count]
