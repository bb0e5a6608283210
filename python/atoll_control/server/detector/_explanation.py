"""What `explain` and `stats` return: frozen, for people and metrics. Times in seconds on the detector's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atoll_control.server.detector._actions import Died
    from atoll_control.server.detector._brake import Freeze
    from atoll_control.server.detector._settings import Thresholds
    from atoll_control.server.detector._watched import Phase, ProbeOutcome


@dataclass(frozen=True, slots=True)
class HeartbeatFacts:
    """What was heard of a node.

    Attributes:
        count: heartbeats of this incarnation.
        heard_at: when the last one arrived, or the node registered.
        silence: seconds since then.
        not_counted: how many of those don't count, because the server itself was late.
        arrivals: when the last few arrived, in the order in which they were handed over.
        gaps: the seconds between those.
        interval: after how many seconds the node is told to send the next one.
    """

    count: int
    heard_at: float
    silence: float
    not_counted: float
    arrivals: tuple[float, ...]
    gaps: tuple[float, ...]
    interval: float


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    """A node's connections, as far as the detector was told.

    Attributes:
        open: how many are open.
        closed_at: when the node closed the last one, if it has not been heard of since.
    """

    open: int
    closed_at: float | None


@dataclass(frozen=True, slots=True)
class LatenessFacts:
    """The detector's own lag.

    Attributes:
        last: by how many seconds the last sweep was late; 0 below 0.05.
        worst: the most by which any sweep was late since the detector was made.
        total: of all together: by how much deadlines have moved since the start.
        sweeps: how many there were.
        late_sweeps: how many of those were late.
        latest: from when to when a sweep was last late, if that is remembered.
    """

    last: float
    worst: float
    total: float
    sweeps: int
    late_sweeps: int
    latest: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """How far the detector trusts itself.

    Attributes:
        score: from 0, healthy, to `local_health_max`.
        stretch: the factor by which that stretches times.
        reasons: what last raised it.
    """

    score: int
    stretch: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BrakeFacts:
    """Whether verdicts are withheld because too many nodes are suspect, or an operator said so.

    Attributes:
        frozen: whether they are.
        freezes: why.
        connected: living nodes that have not closed their last connection themselves.
        suspects: how many of those are suspect, without those over whose heads a freeze was ended.
        share: the latter's share of the former.
    """

    frozen: bool
    freezes: tuple[Freeze, ...]
    connected: int
    suspects: int
    share: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that the verdict on a node depends on.

    Attributes:
        node: the node's id.
        incarnation: its incarnation.
        phase: what it is held for.
        verdict: a sentence: what it is held for, what comes next and when, what stands in the way.
        death: the verdict, if it is dead.
        heartbeats: what was heard of it.
        connection: its connections.
        probes: the last ones that ended.
        probe_under_way_since: when the probe was sent that is under way, if one is.
        lateness: the detector's own lag.
        local_health: how far the detector trusts itself.
        brake: whether verdicts are frozen.
        held_until: until when nobody is declared dead for other reasons: a start, lateness, a brake that has let go.
        held_because: which of them.
        thresholds: the times in force.
        observe_only: whether verdicts are only observed.
    """

    node: str
    incarnation: int
    phase: Phase
    verdict: str
    death: Died | None
    heartbeats: HeartbeatFacts
    connection: ConnectionFacts
    probes: tuple[ProbeOutcome, ...]
    probe_under_way_since: float | None
    lateness: LatenessFacts
    local_health: HealthFacts
    brake: BrakeFacts
    held_until: float | None
    held_because: str
    thresholds: Thresholds
    observe_only: bool


@dataclass(frozen=True, slots=True)
class DetectorStats:
    """The whole detector in numbers. Counts are since it was made.

    Attributes:
        watched: nodes in the table, dead ones that were not forgotten included.
        living: how many of those are not dead.
        suspects: how many of those are suspect.
        suspicions: how often a node turned suspect.
        refutations: how often a suspect was heard of.
        deaths: verdicts, operators' included.
        would_have_died: verdicts that were only observed.
        probes: how many were sent.
        probes_failed: how many of those failed.
        lateness: the detector's own lag.
        local_health: how far it trusts itself.
        brake: whether verdicts are frozen.
        thresholds: the times in force.
    """

    watched: int
    living: int
    suspects: int
    suspicions: int
    refutations: int
    deaths: int
    would_have_died: int
    probes: int
    probes_failed: int
    lateness: LatenessFacts
    local_health: HealthFacts
    brake: BrakeFacts
    thresholds: Thresholds
