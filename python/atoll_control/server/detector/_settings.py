"""`DetectorSettings`: every time and limit of the failure detector, and what must hold between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# What a sweep may be late by before it counts: the jitter of timers, not worth a word. Seconds.
LATE_TOLERANCE: Final = 0.05

_DURATIONS: Final = (
    "heartbeat_interval",
    "suspect_after",
    "closed_suspect_after",
    "dead_after",
    "mute_after",
    "probe_timeout",
    "sweep_interval",
    "late_threshold",
    "max_freeze",
    "max_heartbeat_interval",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorSettings:
    """How nodes are watched. All times in seconds, at the base heartbeat interval and with a healthy server.

    Times after which something is decided grow with the heartbeat interval that nodes are told
    (`max_heartbeats_per_second`) and with the detector's local-health score (`max_stretch`); `Thresholds` says what is
    in force.

    Attributes:
        heartbeat_interval: how often nodes are told to send a heartbeat while there are few of them.
        suspect_after: without a heartbeat for this long a node is suspect, and probed.
        closed_suspect_after: the same for a node that has closed its last connection, counted from then. It hastens the
            suspicion, never the death.
        dead_after: a node without a sign of life (a heartbeat, an answered probe) for this long is dead. The verdict
            comes up to one sweep interval earlier, so that it is never later than this while sweeps are on time.
        mute_after: a node that answers probes but has sent no heartbeat for this long is dead all the same: its
            connection lives, its agent does not.
        probe_timeout: how long a probe may take. One probe per node is under way at a time, and at most one per
            heartbeat interval.
        sweep_interval: how often `sweep` is to be called.
        late_threshold: a sweep that is late by this much raises the local-health score. (Deadlines move by any lateness
            beyond 0.05 s.)
        brake_share: when this share of the connected nodes is suspect at once, verdicts are withheld.
        brake_minimum: but only when it is at least this many nodes.
        max_freeze: how long the brake withholds verdicts by itself, at most.
        start_grace: for how long nobody dies after the start; one full `dead_after` when None.
        local_health_max: the local-health score's highest value, at which times are stretched by `max_stretch`.
        max_stretch: by how much the score may stretch times.
        max_heartbeats_per_second: of all nodes together. Beyond it, nodes are told a longer interval.
        max_heartbeat_interval: the longest interval that nodes are told, whatever their number.
        stagger: by which share of the interval nodes' own intervals differ, so that they do not beat in step.
        observe_only: verdicts are recorded and reported as `WouldHaveDied`, and nobody dies of them.
    """

    heartbeat_interval: float = 2.0
    suspect_after: float = 6.0
    closed_suspect_after: float = 3.0
    dead_after: float = 12.0
    mute_after: float = 36.0
    probe_timeout: float = 2.0
    sweep_interval: float = 0.25
    late_threshold: float = 0.5
    brake_share: float = 0.55
    brake_minimum: int = 3
    max_freeze: float = 600.0
    start_grace: float | None = None
    local_health_max: int = 7
    max_stretch: float = 3.0
    max_heartbeats_per_second: float = 6_000.0
    max_heartbeat_interval: float = 20.0
    stagger: float = 0.1
    observe_only: bool = False

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_relations()

    @classmethod
    def scaled(cls, *, heartbeat_interval: float, dead_after: float, observe_only: bool = False) -> DetectorSettings:
        """Settings for two of the times, the others in proportion to them as the defaults are.

        Raises:
            ValueError: the two don't go together; the message names them.
        """
        for name, value in (("heartbeat_interval", heartbeat_interval), ("dead_after", dead_after)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name}: must be a positive number of seconds, got {value:g}")
        defaults = cls()
        sweep_interval = min(defaults.sweep_interval, heartbeat_interval / 8)
        least = max(4 * heartbeat_interval, 2 * (heartbeat_interval + 3 * sweep_interval + LATE_TOLERANCE))
        if round(dead_after * 1e6) < round(least * 1e6):
            raise ValueError(
                f"dead_after: must be at least {least:g} s with a heartbeat every {heartbeat_interval:g} s, or one "
                f"late heartbeat kills a node; got {dead_after:g} s"
            )
        return cls(
            heartbeat_interval=heartbeat_interval,
            suspect_after=dead_after / 2,
            closed_suspect_after=dead_after / 4,
            dead_after=dead_after,
            mute_after=3 * dead_after,
            probe_timeout=min(defaults.probe_timeout, heartbeat_interval),
            sweep_interval=sweep_interval,
            late_threshold=min(defaults.late_threshold, heartbeat_interval / 4),
            max_heartbeat_interval=max(defaults.max_heartbeat_interval, heartbeat_interval),
            observe_only=observe_only,
        )

    def _check_ranges(self) -> None:
        for name in _DURATIONS:
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: must be a positive number of seconds, got {getattr(self, name):g}")
        if self.start_grace is not None and not 0 <= self.start_grace < float("inf"):
            raise ValueError(f"start_grace: must be a number of seconds or None, got {self.start_grace:g}")
        if not 0 < self.brake_share <= 1:
            raise ValueError(f"brake_share: must be above 0 and at most 1, got {self.brake_share:g}")
        if self.brake_minimum < 1:
            raise ValueError(f"brake_minimum: must be at least 1, got {self.brake_minimum}")
        if self.local_health_max < 0:
            raise ValueError(f"local_health_max: must be 0 (no stretching) or more, got {self.local_health_max}")
        if not 1 <= self.max_stretch < float("inf"):
            raise ValueError(f"max_stretch: must be 1 (no stretching) or more, got {self.max_stretch:g}")
        if not self.max_heartbeats_per_second > 0:
            raise ValueError(f"max_heartbeats_per_second: must be positive, got {self.max_heartbeats_per_second:g}")
        if not 0 <= self.stagger <= 0.5:  # noqa: PLR2004 - said in the message
            raise ValueError(f"stagger: must be between 0 and 0.5, got {self.stagger:g}")

    def _check_relations(self) -> None:
        """Refuses what would make one lost heartbeat, one late sweep or a cut network kill a node by itself."""
        floors = (
            (
                "heartbeat_interval",
                2 * self.sweep_interval,
                "twice sweep_interval, or verdicts are coarser than heartbeats",
            ),
            (
                "max_heartbeat_interval",
                self.heartbeat_interval,
                "heartbeat_interval",
            ),
            (
                "suspect_after",
                2 * self.heartbeat_interval,
                "twice heartbeat_interval, or one lost heartbeat makes a node suspect",
            ),
            (
                "dead_after",
                self.suspect_after
                + max(self.heartbeat_interval, self.probe_timeout)
                + 3 * self.sweep_interval
                + LATE_TOLERANCE,
                (
                    "suspect_after, plus the longer of heartbeat_interval and probe_timeout, plus three sweeps and "
                    "0.05 s, or a suspect dies before its probe has failed and before the brake has seen the others"
                ),
            ),
            ("mute_after", self.dead_after, "dead_after"),
        )
        for name, floor, meaning in floors:
            # In whole microseconds: a sum of decimals is not always the decimal.
            if round(getattr(self, name) * 1e6) < round(floor * 1e6):
                raise ValueError(f"{name}: must be at least {floor:g} s ({meaning}); got {getattr(self, name):g} s")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The times in force, in seconds: grown with the heartbeat interval, stretched by the local-health score.

    Attributes:
        heartbeat_interval: what nodes are told, less their stagger.
        judged_interval: what nodes are judged by: as long as they may still go by a longer interval that they were told
            before, it is that one.
        stretch: the factor of local health, 1 or more.
        suspect_after: as in the settings, in force.
        closed_suspect_after: likewise.
        dead_after: likewise.
        mute_after: likewise.
        probe_timeout: likewise; it is stretched, but does not grow with the interval.
    """

    heartbeat_interval: float
    judged_interval: float
    stretch: float
    suspect_after: float
    closed_suspect_after: float
    dead_after: float
    mute_after: float
    probe_timeout: float

    @classmethod
    def of(cls, settings: DetectorSettings, *, interval: float, judged: float, stretch: float) -> Thresholds:
        """The settings' times for these intervals and this stretch."""
        factor = judged / settings.heartbeat_interval * stretch
        return cls(
            heartbeat_interval=interval,
            judged_interval=judged,
            stretch=stretch,
            suspect_after=settings.suspect_after * factor,
            closed_suspect_after=settings.closed_suspect_after * factor,
            dead_after=settings.dead_after * factor,
            mute_after=settings.mute_after * factor,
            probe_timeout=settings.probe_timeout * stretch,
        )
