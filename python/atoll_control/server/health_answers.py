"""What `HealthService` answers with: the detector's facts as the protos have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll_control.api.times import duration
from atoll_control.api.v1 import health_pb2
from atoll_control.server.detector import Phase
from atoll_control.server.node_records import state_name

if TYPE_CHECKING:
    from atoll import rpc
    from atoll_control.api.v1 import node_pb2
    from atoll_control.server.detector import Explanation, FailureDetector


def detector_message(detector: FailureDetector, now: float) -> health_pb2.Detector:
    """The detector as a whole."""
    stats = detector.stats()
    message = health_pb2.Detector(
        lag=duration(stats.lateness.last),
        worst_lag=duration(stats.lateness.worst),
        local_health=stats.local_health.score,
        stretch=stats.local_health.stretch,
        suspect_after=duration(stats.thresholds.suspect_after),
        dead_after=duration(stats.thresholds.dead_after),
        nodes=stats.living,
        suspects=stats.suspects,
        observe_only=detector.settings.observe_only,
    )
    reasons = []
    ends = []
    for freeze in stats.brake.freezes:
        reasons.append(f"frozen by {freeze.by}: {freeze.reason}" if freeze.by else freeze.reason)
        ends.append(freeze.until)
    if (hold := detector.held(now)) is not None:
        ends.append(hold[0])
        reasons.append(hold[1])
    message.held = "; ".join(reasons)
    known = [end for end in ends if end is not None]
    if ends and len(known) == len(ends):
        message.held_for.CopyFrom(duration(max(0.0, max(known) - now)))
    return message


def explanation_message(
    explanation: Explanation, detector: FailureDetector, connection: rpc.Connection | None, now: float
) -> health_pb2.ExplainResponse:
    """Everything that the verdict on a node depends on."""
    heartbeats = explanation.heartbeats
    message = health_pb2.ExplainResponse(
        node_id=explanation.node,
        incarnation=explanation.incarnation,
        verdict=explanation.phase.value,
        reason=explanation.verdict,
        heartbeat_interval=duration(heartbeats.interval),
        since_heartbeat=duration(max(0.0, heartbeats.silence)),
        heartbeats=heartbeats.count,
        gaps=[duration(gap) for gap in reversed(heartbeats.gaps)],
        probes=[
            health_pb2.Probe(
                ago=duration(max(0.0, now - probe.ended_at)),
                answered=probe.ok,
                round_trip=None if probe.round_trip is None else duration(probe.round_trip),
                error=probe.error,
            )
            for probe in reversed(explanation.probes)
        ],
        detector=detector_message(detector, now),
    )
    if connection is not None:
        message.connected = not connection.closed
        message.since_received.CopyFrom(duration(max(0.0, now - connection.last_received)))
    if explanation.phase is not Phase.DEAD:
        suspect_in, dead_in = _times_left(explanation, now)
        message.suspect_in.CopyFrom(duration(max(0.0, suspect_in)))
        message.dead_in.CopyFrom(duration(max(0.0, dead_in)))
    return message


def _times_left(explanation: Explanation, now: float) -> tuple[float, float]:
    """In how many seconds the node is suspect, and dead, if nothing is heard of it."""
    times = explanation.thresholds
    silence = explanation.heartbeats.silence - explanation.heartbeats.not_counted
    suspect_in = times.suspect_after - silence
    closed_at = explanation.connection.closed_at
    if closed_at is not None:
        suspect_in = min(suspect_in, times.closed_suspect_after - (now - closed_at))
    answered = [now - probe.ended_at for probe in explanation.probes if probe.ok]
    dead_in = min(times.dead_after - min([silence, *answered]), times.mute_after - silence)
    if explanation.held_until is not None:
        dead_in = max(dead_in, explanation.held_until - now)
    return suspect_in, dead_in


def ended_message(node: node_pb2.Node, detector: FailureDetector, now: float) -> health_pb2.ExplainResponse:
    """A node that is known, and not watched: it has died or left."""
    return health_pb2.ExplainResponse(
        node_id=node.node_id,
        incarnation=node.incarnation,
        verdict=state_name(node).lower(),
        reason=node.state_reason,
        detector=detector_message(detector, now),
    )
