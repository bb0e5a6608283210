"""The failure detector under whatever happens: a state machine over a cluster in virtual time."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis", reason="has no wheel for this Python")

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.control.detector_model import Cluster, Fate, names

from atoll_control.server.detector import DetectorSettings, Phase, Thresholds

# Small enough that a dozen nodes make the interval grow.
GROWING = DetectorSettings(max_heartbeats_per_second=3.0, max_heartbeat_interval=6.0)
SILENT = {Fate.KILLED, Fate.CUT_OFF, Fate.MUTE}


class AnythingHappens(RuleBasedStateMachine):
    """Every verdict is checked where the cluster takes it: none on a healthy node, none twice, none while frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(GROWING)
        self.added = 0

    @initialize(seed=st.integers(0, 1 << 32), count=st.integers(0, 14), delay=st.floats(0, 5.9))
    def begin(self, seed: int, count: int, delay: float) -> None:
        self.cluster = Cluster(GROWING, seed=seed)
        self.add(count, delay)

    @rule(count=st.integers(1, 8), delay=st.floats(0, 5.9))
    def add(self, count: int, delay: float) -> None:
        if self.added < 60:
            self.cluster.add(*names(count, f"node-{self.added}"), delay=delay)
            self.added += count

    @rule(seconds=st.floats(0.01, 40))
    def time_passes(self, seconds: float) -> None:
        self.cluster.advance(seconds)

    @rule(seconds=st.floats(0.1, 90), stopped=st.booleans(), queued_first=st.booleans())
    def the_server_stalls(self, seconds: float, *, stopped: bool, queued_first: bool) -> None:
        self.cluster.queued_first = queued_first
        self.cluster.stall(seconds, stopped=stopped)

    @rule(count=st.integers(2, 8), seconds=st.floats(0.1, 4), between=st.floats(0.01, 3), stopped=st.booleans())
    def the_server_stalls_again_and_again(self, count: int, seconds: float, between: float, *, stopped: bool) -> None:
        for _ in range(count):
            self.cluster.stall(seconds, stopped=stopped)
            self.cluster.advance(between)

    def some(self, data: st.DataObject, *fates: Fate, dead: bool = False) -> list[str]:
        candidates = sorted(
            name
            for name, node in self.cluster.nodes.items()
            if node.fate in fates and (dead or (name, node.incarnation) not in self.cluster.deaths)
        )
        if not candidates:
            return []
        return data.draw(st.lists(st.sampled_from(candidates), unique=True, min_size=1, max_size=20))

    @rule(data=st.data(), fate=st.sampled_from(sorted(SILENT, key=lambda fate: fate.name)))
    def nodes_fall_silent(self, data: st.DataObject, fate: Fate) -> None:
        chosen = self.some(data, Fate.HEALTHY)
        {Fate.KILLED: self.cluster.kill, Fate.CUT_OFF: self.cluster.cut_off, Fate.MUTE: self.cluster.mute}[fate](
            *chosen
        )

    @rule(data=st.data())
    def nodes_are_heard_again(self, data: st.DataObject) -> None:
        self.cluster.bring_back(*self.some(data, Fate.CUT_OFF, Fate.MUTE))

    @rule(data=st.data())
    def nodes_reconnect(self, data: st.DataObject) -> None:
        for name in self.some(data, Fate.HEALTHY):
            node = self.cluster.nodes[name]
            self.cluster.detector.connection_closed(name, node.incarnation, self.cluster.now, by_peer=True)
            if data.draw(st.booleans()):
                self.cluster.detector.connection_opened(name, node.incarnation)

    @rule(data=st.data())
    def nodes_register_anew(self, data: st.DataObject) -> None:
        for name in self.some(data, *Fate, dead=True):
            self.cluster.add(name, delay=data.draw(st.floats(0, 5.9)))

    @rule(data=st.data())
    def nodes_leave(self, data: st.DataObject) -> None:
        for name in self.some(data, *Fate, dead=True):
            self.cluster.forget(name)

    @rule(lost=st.booleans())
    def probes_are_lost_or_not(self, *, lost: bool) -> None:
        self.cluster.probes_are_lost = lost

    @rule(seconds=st.none() | st.floats(1, 100))
    def an_operator_freezes(self, seconds: float | None) -> None:
        self.cluster.detector.freeze("ann", "work on the network", self.cluster.now, seconds=seconds)

    @rule()
    def an_operator_resumes(self) -> None:
        self.cluster.detector.resume("ann", self.cluster.now)

    @precondition(lambda self: self.cluster.nodes)
    @rule(data=st.data())
    def an_operator_declares_a_node_dead(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.cluster.nodes)))
        node = self.cluster.nodes[name]
        if (name, node.incarnation) not in self.cluster.deaths:
            self.cluster.declare_dead(name)

    @invariant()
    def the_counts_are_those_of_the_nodes(self) -> None:
        stats = self.cluster.detector.stats()
        facts = [self.cluster.detector.explain(name, self.cluster.now) for name in self.cluster.nodes]
        living = [fact for fact in facts if fact is not None and fact.phase is not Phase.DEAD]
        suspects = [fact for fact in living if fact.phase is Phase.SUSPECT]
        assert (stats.watched, stats.living, stats.suspects) == (len(facts), len(living), len(suspects))
        assert stats.brake.connected == sum(fact.connection.closed_at is None for fact in living)
        assert stats.brake.suspects <= sum(fact.connection.closed_at is None for fact in suspects)

    def teardown(self) -> None:
        """When the server is on time again and an operator resumes, whoever is silent for good dies."""
        longest = Thresholds.of(GROWING, interval=6.0, judged=6.0, stretch=GROWING.max_stretch)
        self.cluster.advance(longest.suspect_after + longest.judged_interval)
        self.cluster.detector.resume("ann", self.cluster.now)
        # Those that have tripped the brake are decided; the mute take the longest.
        self.cluster.advance(longest.mute_after)
        self.cluster.detector.resume("ann", self.cluster.now)
        self.cluster.advance(2 * GROWING.sweep_interval)
        for name, node in self.cluster.nodes.items():
            assert (name, node.incarnation) in self.cluster.deaths or node.fate not in SILENT, (name, node)


AnythingHappens.TestCase.settings = settings(database=None, deadline=None, max_examples=40, stateful_step_count=25)
TestAnythingHappens = AnythingHappens.TestCase
