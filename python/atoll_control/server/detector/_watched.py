"""`Watched`: what the detector knows of one node."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from atoll_control.server.detector._actions import Died

# How many arrivals and probes are kept per node for people to read. The first is a power of two.
KEPT_ARRIVALS: Final = 8
KEPT_PROBES: Final = 5


class Phase(enum.Enum):
    """What the detector holds a node for."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """One probe, for people to read. Times on the detector's clock, in seconds.

    Attributes:
        sent_at: when the detector asked for it.
        ended_at: when its outcome was known.
        ok: whether it was answered.
        round_trip: seconds to the answer, if it was answered and measured.
        error: why it failed, else empty.
    """

    sent_at: float
    ended_at: float
    ok: bool
    round_trip: float | None
    error: str


@dataclass(slots=True, eq=False)
class Watched:
    """One incarnation of a node. Times on the detector's clock, in seconds.

    Attributes:
        node: its id.
        incarnation: the one that is watched.
        registered_at: since when.
        spread: its place in the stagger.
        heard: when its last heartbeat (or its registration) arrived.
        phase: what it is held for.
        calm: alive and connected as far as is known, so a heartbeat changes nothing but `heard`.
        beats: how many heartbeats have arrived.
        arrivals: the last ones, by number modulo `KEPT_ARRIVALS`.
        entry: which entry of the heap is valid.
        looked_at: when that entry is due.
        connections: how many are open, of those that the detector was told of.
        closed_at: when it closed the last of them by itself, if it has not been heard of since.
        suspected_at: when it became suspect, if it is.
        probe_sent_at: when the probe was sent that is under way, if one is.
        probe_timeout: how long that one may take.
        probed_at: when a probe was last sent.
        probe_failed: whether a probe has failed since the last sign of life.
        answered_at: when a probe was last answered.
        probes: the last ones.
        released: a freeze was ended over its head: it does not trip the brake again.
        would_have_died: its verdict was only observed.
        death: the verdict, if it is dead.
    """

    node: str
    incarnation: int
    registered_at: float
    spread: float
    heard: float
    phase: Phase = Phase.ALIVE
    calm: bool = True
    beats: int = 0
    arrivals: list[float] = field(default_factory=lambda: [0.0] * KEPT_ARRIVALS)
    entry: int = -1
    looked_at: float = 0.0
    connections: int = 0
    closed_at: float | None = None
    suspected_at: float = 0.0
    probe_sent_at: float | None = None
    probe_timeout: float = 0.0
    probed_at: float = float("-inf")
    probe_failed: bool = False
    answered_at: float = float("-inf")
    probes: deque[ProbeOutcome] | None = None
    released: bool = False
    would_have_died: bool = False
    death: Died | None = None

    @property
    def connected(self) -> bool:
        """Whether the node counts among the connected ones: it is not dead and has not hung up."""
        return self.phase is not Phase.DEAD and self.closed_at is None

    @property
    def sign_of_life(self) -> float:
        """When it last sent a heartbeat or answered a probe."""
        return max(self.heard, self.answered_at)

    def recent_arrivals(self) -> tuple[float, ...]:
        """When the last heartbeats arrived, oldest first."""
        count = min(self.beats, KEPT_ARRIVALS)
        return tuple(self.arrivals[number % KEPT_ARRIVALS] for number in range(self.beats - count, self.beats))

    def probe_ended(self, now: float, *, ok: bool, round_trip: float | None, error: str) -> None:
        """Takes note of the outcome of the probe that is under way (or was, and was given up)."""
        if self.probes is None:
            self.probes = deque(maxlen=KEPT_PROBES)
        sent_at = self.probed_at if self.probe_sent_at is None else self.probe_sent_at
        self.probes.append(ProbeOutcome(sent_at, now, ok, round_trip, error))
        self.probe_sent_at = None
        if ok:
            self.answered_at = max(self.answered_at, now)
            self.probe_failed = False
        elif self.phase is Phase.SUSPECT:
            self.probe_failed = True
