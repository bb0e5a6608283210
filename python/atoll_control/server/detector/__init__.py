"""The failure detector: which nodes are alive, suspect or dead. Pure logic, without gRPC, I/O or a clock.

    _detector  →  _judge  →  _table | _brake | _hold | _lateness | _local_health | _pace  →  _settings | _actions

The rules, each with its reason in docs/design/2026-11-28-failure-detector.md:

1. A heartbeat counts from when the transport got it, not from when it is handed over.
2. Silent for `suspect_after`: suspect, and probed. No sign of life for `dead_after`, and a probe has failed: dead.
   Probes answered but no heartbeat for `mute_after`: dead as well.
3. Time in which a sweep was late counts for nobody. After a sweep that was late by a heartbeat interval or more, nobody
   dies for an interval and a suspicion, since heartbeats may still be in the operating system's buffers.
4. A score of local health stretches all times: late sweeps, and nodes that send a heartbeat after a probe of theirs had
   failed, speak against the server.
5. When many of the connected nodes are suspect at once, verdicts are withheld: the brake.
6. Nobody dies for one full `dead_after` after the start.
7. Death is final for an incarnation.

How to drive it, from one loop:

    detector = FailureDetector(DetectorSettings(), loop.now())
    detector.register(node, incarnation, loop.now())        # reply with first_interval_for(node)
    detector.connection_opened(node, incarnation)           # and connection_closed(..., by_peer=...)
    detector.heartbeat(node, incarnation, arrived_at)       # reply with interval_for(node), or a status by `Heard`

Each `sweep_interval`, at `due`, a timer posts the sweep behind the heartbeats that wait in the mailbox:

    for action in detector.sweep(loop.now(), due):
        match action:
            case Probe():          # ping the node's connection; then probe_result(node, incarnation, ok=..., now=...)
            case Suspected() | Refuted():   # a condition of the node's
            case Died():           # record it, publish it; forget(node) when it is to be forgotten
            case WouldHaveDied():  # with observe_only: record it
            case BrakeOn() | BrakeOff():    # raise and clear the alarm
    due = loop.now() + settings.sweep_interval

`freeze` and `resume` return their actions at once instead. A death that was recorded elsewhere, an operator's verdict
for one, is told with `died_elsewhere`. A node of which no connection was ever
reported counts as connected. A probe of a node without a connection is to fail at once. An outcome that does not come
is a failure.
"""

from atoll_control.server.detector._actions import (
    Action,
    BrakeOff,
    BrakeOn,
    Cause,
    Died,
    Heard,
    Probe,
    Refuted,
    Suspected,
    WouldHaveDied,
)
from atoll_control.server.detector._brake import Freeze
from atoll_control.server.detector._detector import FailureDetector
from atoll_control.server.detector._explanation import (
    BrakeFacts,
    ConnectionFacts,
    DetectorStats,
    Explanation,
    HealthFacts,
    HeartbeatFacts,
    LatenessFacts,
)
from atoll_control.server.detector._settings import DetectorSettings, Thresholds
from atoll_control.server.detector._watched import Phase, ProbeOutcome

__all__ = [
    "Action",
    "BrakeFacts",
    "BrakeOff",
    "BrakeOn",
    "Cause",
    "ConnectionFacts",
    "DetectorSettings",
    "DetectorStats",
    "Died",
    "Explanation",
    "FailureDetector",
    "Freeze",
    "HealthFacts",
    "Heard",
    "HeartbeatFacts",
    "LatenessFacts",
    "Phase",
    "Probe",
    "ProbeOutcome",
    "Refuted",
    "Suspected",
    "Thresholds",
    "WouldHaveDied",
]
