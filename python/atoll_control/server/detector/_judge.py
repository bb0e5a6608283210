"""`Judge`: what a sweep does. Who is suspect, who is probed, whose verdict is due, and whether it may be pronounced."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from atoll_control.server.detector import _wording
from atoll_control.server.detector._actions import Cause, Died, Probe, Suspected, WouldHaveDied
from atoll_control.server.detector._brake import Brake
from atoll_control.server.detector._hold import Hold
from atoll_control.server.detector._lateness import Lateness
from atoll_control.server.detector._local_health import LocalHealth
from atoll_control.server.detector._pace import Pace
from atoll_control.server.detector._settings import LATE_TOLERANCE, Thresholds
from atoll_control.server.detector._table import Table
from atoll_control.server.detector._watched import Phase

if TYPE_CHECKING:
    from atoll_control.server.detector._actions import Action, BrakeOff
    from atoll_control.server.detector._settings import DetectorSettings
    from atoll_control.server.detector._watched import Watched

# The soonest that a node is looked at again: later than now, whatever rounding does. Seconds.
_SOON: Final = 0.001


class Judge:
    """Judges the nodes of a table. Owns what that depends on besides the nodes themselves.

    Attributes:
        table: the nodes.
        lateness: when the detector itself was late.
        health: how far it trusts itself.
        brake: whether too many seem to fail at once.
        pace: what heartbeat interval nodes go by.
        times: the thresholds in force since the last sweep.
        counts: how often each thing has happened.
    """

    def __init__(self, settings: DetectorSettings, now: float) -> None:
        """Begins without nodes."""
        self.lateness = Lateness(now)
        self.health = LocalHealth(settings, now)
        self.brake = Brake(settings)
        self.pace = Pace(settings)
        self.table = Table(self.brake)
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._hold = Hold(now)
        # How much before its time a verdict comes, so that the sweeps' grain does not make it late.
        self._margin = settings.sweep_interval + LATE_TOLERANCE
        self._actions: list[Action] = []
        self._ready: list[tuple[Watched, Cause]] = []
        self.times = self._thresholds()

    def sweep(self, now: float, due: float, actions: list[Action]) -> None:
        """Looks at the nodes whose time has come and adds what is to be done to `actions`."""
        self._actions = actions
        self._account_for_lateness(now, due)
        self.times = self._thresholds()
        ended = self.brake.expire(now)
        actions += ended
        self.let_suspects_go(ended, now)
        while (watched := self.table.next_due(now)) is not None:
            self._examine(watched, now)
        self._apply_brake(now)
        ready, self._ready = self._ready, []
        for watched, cause in ready:
            self._decide(watched, cause, now)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _account_for_lateness(self, now: float, due: float) -> None:
        late = self.lateness.record(now, due)
        self.health.swept(now, late)
        self.pace.swept(now)
        if late >= self._settings.heartbeat_interval:
            self._hold_verdicts(now, f"a sweep was {late:.2f} s late")
        # Silences that are judged are no longer than this.
        self.lateness.forget_before(now - late - self._settings.mute_after * self._growth * self._settings.max_stretch)

    @property
    def _growth(self) -> float:
        return self.pace.judged / self._settings.heartbeat_interval

    def _thresholds(self) -> Thresholds:
        return Thresholds.of(
            self._settings,
            interval=self.pace.interval,
            judged=self.pace.judged,
            stretch=self.health.stretch,
        )

    def _hold_verdicts(self, now: float, because: str) -> float:
        """No verdicts before every node could have been heard of: an interval, and what makes a suspect."""
        return self._hold.extend(now + self.pace.judged + self._settings.suspect_after * self._growth, because)

    def hold(self, now: float) -> tuple[float, str] | None:
        """Until when nobody is declared dead, and why; None if verdicts may be pronounced."""
        grace = self._settings.start_grace
        return self._hold.in_force(now, self._settings.dead_after * self._growth if grace is None else grace)

    # -- suspicion -----------------------------------------------------------------------------------------------------

    def first_look(self, watched: Watched) -> None:
        """Enters a node that has registered: sooner than it could be suspect, by its place in the stagger.

        Thousands that register at once are so not looked at in one sweep, and have sent their first heartbeats by then.
        """
        interval = self.pace.judged
        latest = self._settings.suspect_after * self._growth
        self.table.look(watched, watched.heard + interval + (latest - interval) * watched.spread)

    def look_after_close(self, watched: Watched, now: float) -> None:
        """A node has closed its last connection: it may be suspect sooner."""
        if watched.phase is Phase.ALIVE:
            self.table.look_sooner(watched, now + self.times.closed_suspect_after / self.times.stretch)

    def _examine(self, watched: Watched, now: float) -> None:
        """Looks at one node: has it turned suspect, is its verdict due, when to look again."""
        # A stamp from the future would make a node immortal.
        watched.heard = min(watched.heard, now)
        if watched.phase is Phase.ALIVE:
            left = self._until(self.times.suspect_after, now, watched.heard)
            if watched.closed_at is not None:
                left = min(left, self._until(self.times.closed_suspect_after, now, watched.closed_at))
            if left > 0:
                self.table.look(watched, now + max(left, _SOON))
                return
            self._suspect(watched, now)
        self._pursue(watched, now)

    def _counted(self, now: float, since: float) -> float:
        """How many seconds have passed, without those in which the server itself was late."""
        return now - since - self.lateness.since(since)

    def _until(self, limit: float, now: float, since: float) -> float:
        """In how many seconds to look whether `limit` seconds have passed since then; 0 or less when they have.

        While times are stretched, that is not long after the unstretched time: the stretch may be over by then.
        """
        passed = self._counted(now, since)
        left = limit - passed
        if left > 0 and self.times.stretch > 1:
            return min(left, max(limit / self.times.stretch - passed, self._settings.heartbeat_interval))
        return left

    def _suspect(self, watched: Watched, now: float) -> None:
        self.table.count(watched, -1)
        watched.phase = Phase.SUSPECT
        watched.calm = False
        watched.suspected_at = now
        watched.probe_failed = False
        self.table.count(watched, 1)
        self.table.suspects[watched.node] = watched
        self.counts["suspicions"] += 1
        reason = _wording.suspected(watched, now, self.lateness.since(watched.heard), self.times)
        self._actions.append(Suspected(watched.node, watched.incarnation, reason))

    def _pursue(self, watched: Watched, now: float) -> None:
        """Looks at a suspect: gives up its probe, finds that its verdict is due, or sends another probe."""
        self._give_up_probe(watched, now)
        until_silent, until_mute = self._until_verdicts(watched, now)
        if not watched.would_have_died:
            if until_silent <= 0 and watched.probe_failed:
                self._ready.append((watched, Cause.SILENT))
                return
            if until_mute <= 0:
                self._ready.append((watched, Cause.MUTE))
                return
        verdict_in = min(until_silent, until_mute)
        # A probe that can't end before the verdict would only come too late.
        if verdict_in <= 0 or verdict_in >= self.times.probe_timeout:
            self._probe(watched, now)
        step = self._next_step(watched, now)
        self.table.look(watched, now + max(_SOON, min(step, verdict_in) if verdict_in > 0 else step))

    def _until_verdicts(self, watched: Watched, now: float) -> tuple[float, float]:
        """In how many seconds the node is dead: for want of signs of life, and for want of heartbeats."""
        silent = self.times.dead_after - self._margin - self._counted(now, watched.sign_of_life)
        mute = self.times.mute_after - self._margin - self._counted(now, watched.heard)
        return silent, mute

    def verdict_in(self, watched: Watched, now: float) -> float:
        """In how many seconds a suspect's verdict is due if nothing happens; 0 or less when it is."""
        return min(self._until_verdicts(watched, now))

    # -- probes --------------------------------------------------------------------------------------------------------

    def _next_step(self, watched: Watched, now: float) -> float:
        """In how many seconds a suspect's probe is to be given up, or the next one sent."""
        if watched.probe_sent_at is not None:
            end = watched.probe_sent_at + watched.probe_timeout + self._settings.sweep_interval
            return min(self.pace.judged, max(end - now, _SOON))
        wait = watched.probed_at + self.pace.judged - now
        return wait if wait > 0 else self.pace.judged

    def _probe(self, watched: Watched, now: float) -> None:
        """Sends a probe unless one is under way, or was sent less than an interval ago."""
        if watched.probe_sent_at is None and now - watched.probed_at >= self.pace.judged:
            watched.probe_sent_at = watched.probed_at = now
            watched.probe_timeout = self.times.probe_timeout
            self.counts["probes"] += 1
            self._actions.append(Probe(watched.node, watched.incarnation, watched.probe_timeout))

    def _give_up_probe(self, watched: Watched, now: float) -> None:
        """Counts a probe as failed when the caller has owed its outcome for a sweep."""
        if (sent_at := watched.probe_sent_at) is None:
            return
        passed = self._counted(now, sent_at)
        if passed >= watched.probe_timeout + self._settings.sweep_interval - _SOON:
            self.counts["probes_failed"] += 1
            watched.probe_ended(now, ok=False, round_trip=None, error=f"no outcome within {passed:.2f} s")

    # -- verdicts ------------------------------------------------------------------------------------------------------

    def _apply_brake(self, now: float) -> None:
        if self.brake.own is None:
            if self.brake.tripped:
                self._actions.append(self.brake.engage(now))
        elif not self.brake.tripped:
            # The others may be about to be heard, too: they get the time for it.
            hold_until = self._hold_verdicts(now, "the brake has let go")
            self._actions.append(self.brake.let_go(now, hold_until=hold_until))

    def let_suspects_go(self, ended: list[BrakeOff], now: float) -> None:
        """Freezes have ended over the suspects' heads: they are looked at at once.

        If the brake's own freeze was among them, today's suspects don't trip it again.
        """
        if not ended:
            return
        for watched in self.table.suspects.values():
            if any(each.brakes_own for each in ended):
                self.table.count(watched, -1)
                watched.released = True
                self.table.count(watched, 1)
            self.table.look(watched, now)

    def _decide(self, watched: Watched, cause: Cause, now: float) -> None:
        """A verdict is due: pronounces it, or withholds it and looks again."""
        hold = self.hold(now)
        if self.brake.frozen or hold is not None:
            self._probe(watched, now)
            step = self._next_step(watched, now)
            self.table.look(watched, now + (step if hold is None else max(_SOON, min(step, hold[0] - now))))
            return
        not_counted = self.lateness.since(watched.heard)
        reason = _wording.died(watched, now, cause, not_counted, self.times)
        verdict = Died(watched.node, watched.incarnation, cause, reason, now - watched.heard, not_counted)
        if self._settings.observe_only:
            self.table.count(watched, -1)
            watched.would_have_died = watched.released = True
            self.table.count(watched, 1)
            self.counts["would_have_died"] += 1
            self._actions.append(WouldHaveDied(verdict))
            self.table.look(watched, now + self.pace.judged)
        else:
            self.end(watched, verdict, now)
            self._actions.append(verdict)

    def end(self, watched: Watched, verdict: Died, now: float) -> None:
        """The node is dead, for good."""
        self.table.retire(watched)
        watched.phase = Phase.DEAD
        watched.calm = False
        watched.death = verdict
        self.counts["deaths"] += 1
        self.pace.resize(self.table.living, now)
