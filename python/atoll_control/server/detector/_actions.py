"""What the detector wants done: the values that its methods return. Each is said once."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias


class Heard(enum.Enum):
    """What became of a registration or a heartbeat."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    """No such node is watched: it has to register."""
    STALE = "stale"
    """A higher incarnation of the node is watched."""
    AHEAD = "ahead"
    """A lower incarnation of the node is watched: this one has to register first."""
    ENDED = "ended"
    """This incarnation is dead, for good: the node has to register under a higher one."""


class Cause(enum.Enum):
    """Why a node is dead."""

    SILENT = "silent"
    """Neither heartbeats nor answers to probes."""
    MUTE = "mute"
    """Its connection answers probes, but its agent sends no heartbeats."""
    DECLARED = "declared"
    """An operator said so."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Send a ping on the node's live connection, and give its outcome to `probe_result` exactly once.

    Attributes:
        node: the node's id.
        incarnation: its incarnation, to be handed back.
        timeout: give up after so many seconds, with `ok=False`. Without a connection fail at once.
    """

    node: str
    incarnation: int
    timeout: float


@dataclass(frozen=True, slots=True)
class Suspected:
    """A node has been silent for too long; it is being probed.

    Attributes:
        node: the node's id.
        incarnation: its incarnation.
        reason: a sentence with the numbers.
    """

    node: str
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refuted:
    """A suspect has sent a heartbeat: it is alive.

    Attributes:
        node: the node's id.
        incarnation: its incarnation.
        reason: a sentence with the numbers.
        suspected_for: seconds from the suspicion to the heartbeat's arrival, not below 0.
        probe_had_failed: whether a probe had failed meanwhile, which speaks against the prober.
        would_have_died: whether `WouldHaveDied` was said of it, wrongly then.
    """

    node: str
    incarnation: int
    reason: str
    suspected_for: float
    probe_had_failed: bool
    would_have_died: bool


@dataclass(frozen=True, slots=True)
class Died:
    """A node is dead: final for this incarnation.

    Attributes:
        node: the node's id.
        incarnation: the incarnation that has ended.
        cause: why, for programs.
        reason: why, a sentence with the numbers.
        silence: seconds since its last heartbeat arrived.
        not_counted: how many of those did not count, because the server itself was late.
    """

    node: str
    incarnation: int
    cause: Cause
    reason: str
    silence: float
    not_counted: float


@dataclass(frozen=True, slots=True)
class WouldHaveDied:
    """With `observe_only`: the verdict that is not carried out. The node stays suspect, and may refute it.

    Attributes:
        verdict: the death that would have been.
    """

    verdict: Died


@dataclass(frozen=True, slots=True)
class BrakeOn:
    """Verdicts are withheld from now on: an alarm.

    Attributes:
        by: the operator who froze them, or empty when the brake did it by itself.
        reason: a sentence with the numbers.
        until: when it ends by itself, on the detector's clock; None if only `resume` ends it.
    """

    by: str
    reason: str
    until: float | None


@dataclass(frozen=True, slots=True)
class BrakeOff:
    """A freeze has ended.

    Attributes:
        by: the operator who resumed, or empty when it ended by itself.
        reason: a sentence with the numbers.
        brakes_own: whether it was the brake's own freeze, else an operator's.
        still_frozen: whether another freeze goes on: an operator's beside the brake's, or the other way round.
    """

    by: str
    reason: str
    brakes_own: bool
    still_frozen: bool


Action: TypeAlias = Probe | Suspected | Refuted | Died | WouldHaveDied | BrakeOn | BrakeOff
