"""`FailureDetector`: who is alive, as pure logic. What nodes and operators do comes in here; the `Judge` sweeps."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from atoll_control.server.detector import _wording
from atoll_control.server.detector._actions import Cause, Died, Heard, Refuted
from atoll_control.server.detector._explanation import (
    BrakeFacts,
    ConnectionFacts,
    DetectorStats,
    Explanation,
    HealthFacts,
    HeartbeatFacts,
    LatenessFacts,
)
from atoll_control.server.detector._judge import Judge
from atoll_control.server.detector._pace import Pace
from atoll_control.server.detector._watched import KEPT_ARRIVALS, Phase, Watched

if TYPE_CHECKING:
    from atoll_control.server.detector._actions import Action, BrakeOff, BrakeOn
    from atoll_control.server.detector._settings import DetectorSettings, Thresholds

_ARRIVALS_MASK: Final = KEPT_ARRIVALS - 1


class FailureDetector:
    """Watches the heartbeats of nodes and says which of them are suspect, and which are dead.

    Everything is told to it, the time included: seconds on one clock that never goes back. One loop may enter it.
    Actions are to be carried out in their order. How to drive it is in the package's first lines.
    """

    def __init__(self, settings: DetectorSettings, now: float) -> None:
        """Begins without nodes. After a failover the new leader makes one and registers the nodes that it knows."""
        self._settings = settings
        self._judge = judge = Judge(settings, now)
        self._table = judge.table
        self._nodes = judge.table.nodes
        # What heartbeats have brought about, for the next sweep to return.
        self._queued: list[Action] = []

    @property
    def settings(self) -> DetectorSettings:
        """What it was made with."""
        return self._settings

    @property
    def thresholds(self) -> Thresholds:
        """The times in force since the last sweep."""
        return self._judge.times

    # -- what nodes do -------------------------------------------------------------------------------------------------

    def register(self, node: str, incarnation: int, now: float) -> Heard:
        """Begins to watch an incarnation of a node, which counts as alive at `now`.

        A higher incarnation replaces the one that is watched, without a verdict on it. The same one again is a retry
        and counts as a heartbeat. ACCEPTED, STALE or ENDED.
        """
        watched = self._nodes.get(node)
        if watched is not None and incarnation <= watched.incarnation:
            return self.heartbeat(node, incarnation, now)
        watched = Watched(node, incarnation, registered_at=now, spread=Pace.spread_of(node), heard=now)
        self._table.add(watched)
        self._judge.pace.resize(self._table.living, now)
        self._judge.first_look(watched)
        return Heard.ACCEPTED

    def heartbeat(self, node: str, incarnation: int, arrived_at: float) -> Heard:
        """Takes a heartbeat that the transport got at `arrived_at`, which may be long before it is handed over here.

        A suspect that is heard of is alive; the next sweep says `Refuted`.
        """
        watched = self._nodes.get(node)
        if watched is None:
            return Heard.UNKNOWN
        if watched.incarnation != incarnation:
            return Heard.STALE if incarnation < watched.incarnation else Heard.AHEAD
        if watched.death is not None:
            return Heard.ENDED
        watched.arrivals[watched.beats & _ARRIVALS_MASK] = arrived_at
        watched.beats += 1
        if arrived_at > watched.heard:
            watched.heard = arrived_at
            if not watched.calm:
                self._heard_again(watched, arrived_at)
        return Heard.ACCEPTED

    def _heard_again(self, watched: Watched, arrived_at: float) -> None:
        if watched.closed_at is not None and arrived_at <= watched.closed_at:
            return  # it was sent before the node hung up
        self._table.count(watched, -1)
        watched.closed_at = None
        if watched.phase is Phase.SUSPECT:
            self._refute(watched, arrived_at)
        watched.calm = True
        self._table.count(watched, 1)

    def _refute(self, watched: Watched, arrived_at: float) -> None:
        suspected_for = max(0.0, arrived_at - watched.suspected_at)
        refuted = Refuted(
            watched.node,
            watched.incarnation,
            _wording.refuted(watched, suspected_for),
            suspected_for,
            watched.probe_failed,
            watched.would_have_died,
        )
        self._queued.append(refuted)
        self._judge.counts["refutations"] += 1
        if watched.probe_failed:
            self._judge.health.contradicted(watched.node, arrived_at)
        watched.phase = Phase.ALIVE
        watched.released = watched.would_have_died = watched.probe_failed = False
        del self._table.suspects[watched.node]

    def connection_opened(self, node: str, incarnation: int) -> None:
        """A connection of the node's has been opened. Other incarnations than the one that is watched are ignored."""
        if (watched := self._table.current(node, incarnation)) is None:
            return
        watched.connections += 1
        if watched.closed_at is not None:
            self._table.count(watched, -1)
            watched.closed_at = None
            watched.calm = watched.phase is Phase.ALIVE
            self._table.count(watched, 1)

    def connection_closed(self, node: str, incarnation: int, now: float, *, by_peer: bool) -> None:
        """A connection of the node's has been closed.

        Args:
            node: the node's id.
            incarnation: its incarnation; others than the one that is watched are ignored.
            now: when.
            by_peer: whether the node's side closed it, by FIN, RST or GOAWAY, as the operating system does for a
                process that dies. False for what the server closed, be it for a keepalive that was not answered: that
                proves nothing of the node.
        """
        if (watched := self._table.current(node, incarnation)) is None:
            return
        watched.connections = max(0, watched.connections - 1)
        if watched.connections == 0 and by_peer and watched.closed_at is None:
            self._table.count(watched, -1)
            watched.closed_at = now
            watched.calm = False
            self._table.count(watched, 1)
            self._judge.look_after_close(watched, now)

    def forget(self, node: str, now: float) -> bool:
        """Stops watching a node that has left, or drops the memory of one that died. False if there is none."""
        if (watched := self._nodes.get(node)) is None:
            return False
        self._table.remove(watched)
        self._judge.pace.resize(self._table.living, now)
        return True

    def interval_for(self, node: str) -> float:
        """After how many seconds the node is to send its next heartbeat: for the reply to each heartbeat."""
        watched = self._nodes.get(node)
        return self._judge.pace.interval_for(Pace.spread_of(node) if watched is None else watched.spread)

    def first_interval_for(self, node: str) -> float:
        """After how many seconds the node is to send its first heartbeat: for the reply to its registration.

        Spreads nodes that register at once, as they do after a failover, over one interval.
        """
        return self._judge.pace.first_interval_for(node)

    # -- sweeps and probes ---------------------------------------------------------------------------------------------

    def sweep(self, now: float, due: float) -> list[Action]:
        """Looks at the nodes whose time has come, and returns what is to be done, in order.

        Args:
            now: the time.
            due: when this sweep was to run: one `sweep_interval` after the last one ran. By what it is late, deadlines
                move. Heartbeats that were queued before `now` are to be handed over first.
        """
        actions, self._queued = self._queued, []
        self._judge.sweep(now, due, actions)
        return actions

    def probe_result(
        self,
        node: str,
        incarnation: int,
        *,
        ok: bool,
        now: float,
        round_trip: float | None = None,
        error: str = "",
    ) -> None:
        """Takes the outcome of a `Probe`.

        An answer is a sign of life and postpones the verdict as a heartbeat would, but not beyond `mute_after`. It does
        not end the suspicion: the node's HTTP/2 stack answers, its agent may be stuck.

        Args:
            node: the node's id.
            incarnation: as the action had it; others than the one that is watched are ignored.
            ok: whether the node answered in time.
            now: when the answer came, or the probe failed.
            round_trip: seconds to the answer.
            error: why it failed, for people: "connection refused", "no answer within 2 s".
        """
        watched = self._table.current(node, incarnation)
        if watched is None or (watched.probe_sent_at is None and not ok):
            return
        watched.probe_ended(now, ok=ok, round_trip=round_trip, error=error)
        if ok:
            self._judge.health.confirmed()
        else:
            self._judge.counts["probes_failed"] += 1

    # -- what operators do ---------------------------------------------------------------------------------------------

    def freeze(self, by: str, reason: str, now: float, *, seconds: float | None = None) -> BrakeOn:
        """An operator withholds all verdicts until `resume`, or for so many seconds. Replaces his last freeze."""
        return self._judge.brake.freeze(by, reason, now, None if seconds is None else now + seconds)

    def resume(self, by: str, now: float) -> list[BrakeOff]:
        """An operator ends all freezes, the brake's own included: what is due is decided in the next sweep.

        The nodes that are suspect now do not trip the brake again. A grace after a start, or after the server was late,
        goes on. Returns nothing when nothing was frozen.
        """
        ended = self._judge.brake.resume(by, now)
        self._judge.let_suspects_go(ended, now)
        return ended

    def died_elsewhere(self, node: str, incarnation: int, reason: str, now: float) -> bool:
        """The death of an incarnation has been recorded, and not by a verdict from here: by an operator's, for one.

        It is final, whatever is frozen, held or only observed. False if the incarnation is not watched, or dead.
        """
        if (watched := self._table.current(node, incarnation)) is None:
            return False
        silence = max(0.0, now - watched.heard)
        verdict = Died(node, incarnation, Cause.DECLARED, reason, silence, self._judge.lateness.since(watched.heard))
        self._judge.end(watched, verdict, now)
        return True

    # -- for people ----------------------------------------------------------------------------------------------------

    def incarnation_of(self, node: str) -> int | None:
        """The incarnation of a node that is watched, dead or alive; None if none is."""
        watched = self._nodes.get(node)
        return None if watched is None else watched.incarnation

    def held(self, now: float) -> tuple[float, str] | None:
        """Until when nobody is declared dead, freezes apart, and why; None if verdicts may be pronounced."""
        return self._judge.hold(now)

    def explain(self, node: str, now: float) -> Explanation | None:
        """Everything that the verdict on a node depends on; None if it is not watched."""
        if (watched := self._nodes.get(node)) is None:
            return None
        judge = self._judge
        hold = judge.hold(now)
        brake = self._brake_facts()
        withheld = [freeze.reason for freeze in brake.freezes]
        if hold is not None:
            withheld.append(f"{hold[1]}, for {hold[0] - now:.2f} s more")
        not_counted = judge.lateness.since(watched.heard)
        arrivals = watched.recent_arrivals()
        return Explanation(
            node=node,
            incarnation=watched.incarnation,
            phase=watched.phase,
            verdict=_wording.verdict(
                watched,
                now,
                not_counted,
                judge.verdict_in(watched, now),
                "; ".join(withheld),
                observe_only=self._settings.observe_only,
            ),
            death=watched.death,
            heartbeats=HeartbeatFacts(
                count=watched.beats,
                heard_at=watched.heard,
                silence=now - watched.heard,
                not_counted=not_counted,
                arrivals=arrivals,
                gaps=tuple(later - earlier for earlier, later in itertools.pairwise(arrivals)),
                interval=judge.pace.interval_for(watched.spread),
            ),
            connection=ConnectionFacts(open=watched.connections, closed_at=watched.closed_at),
            probes=tuple(watched.probes or ()),
            probe_under_way_since=watched.probe_sent_at,
            lateness=self._lateness_facts(),
            local_health=self._health_facts(),
            brake=brake,
            held_until=None if hold is None else hold[0],
            held_because="" if hold is None else hold[1],
            thresholds=judge.times,
            observe_only=self._settings.observe_only,
        )

    def stats(self) -> DetectorStats:
        """The whole detector in numbers."""
        counts = self._judge.counts
        return DetectorStats(
            watched=len(self._nodes),
            living=self._table.living,
            suspects=len(self._table.suspects),
            suspicions=counts["suspicions"],
            refutations=counts["refutations"],
            deaths=counts["deaths"],
            would_have_died=counts["would_have_died"],
            probes=counts["probes"],
            probes_failed=counts["probes_failed"],
            lateness=self._lateness_facts(),
            local_health=self._health_facts(),
            brake=self._brake_facts(),
            thresholds=self._judge.times,
        )

    def _lateness_facts(self) -> LatenessFacts:
        late = self._judge.lateness
        return LatenessFacts(late.last, late.worst, late.total, late.sweeps, late.late_sweeps, late.latest)

    def _health_facts(self) -> HealthFacts:
        health = self._judge.health
        return HealthFacts(health.score, health.stretch, tuple(health.reasons))

    def _brake_facts(self) -> BrakeFacts:
        brake = self._judge.brake
        return BrakeFacts(brake.frozen, brake.freezes, brake.connected, brake.suspects, brake.share)
