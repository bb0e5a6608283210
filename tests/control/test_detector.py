"""FailureDetector: heartbeats, suspicion, probes and verdicts. Time is passed in, never waited for."""

from __future__ import annotations

import pytest
from tests.control.detector_model import Cluster, names

from atoll_control.server.detector import (
    Cause,
    DetectorSettings,
    Died,
    FailureDetector,
    Heard,
    Phase,
    Probe,
    Refuted,
    Suspected,
    WouldHaveDied,
)

DEFAULTS = DetectorSettings()


@pytest.fixture
def cluster() -> Cluster:
    """Ten nodes that have been heard for a minute: the grace after the start is over."""
    cluster = Cluster()
    cluster.add(*names(10))
    cluster.advance(60.0)
    return cluster


def test_nodes_that_send_heartbeats_are_neither_suspected_nor_probed(cluster: Cluster) -> None:
    cluster.advance(3600.0)
    assert cluster.actions == []


@pytest.mark.parametrize("phase", [0.0, 0.001, 0.1, 0.124, 0.2499, 0.5, 0.9, 1.3, 1.7, 1.999])
def test_a_killed_node_is_dead_within_twelve_seconds(cluster: Cluster, phase: float) -> None:
    cluster.advance(phase)
    killed_at = cluster.now
    cluster.kill("node-3")
    cluster.advance(20.0)
    assert cluster.dead() == {"node-3"}
    assert cluster.died_at("node-3") - killed_at <= 12.0
    assert cluster.death("node-3").cause is Cause.SILENT


@pytest.mark.parametrize("phase", [0.0, 0.07, 0.2, 0.25, 0.6, 1.1, 1.6, 1.95])
def test_a_node_that_is_cut_off_is_dead_twelve_seconds_after_its_last_heartbeat(cluster: Cluster, phase: float) -> None:
    cluster.advance(phase)
    explanation = cluster.detector.explain("node-7", cluster.now)
    assert explanation is not None
    cluster.cut_off("node-7")
    cluster.advance(20.0)
    assert cluster.dead() == {"node-7"}
    silence = cluster.died_at("node-7") - explanation.heartbeats.heard_at
    assert 11.5 <= silence <= 12.0
    assert silence == pytest.approx(cluster.death("node-7").silence)


def test_a_silent_node_is_suspected_first_then_probed_then_dead(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(20.0)
    kinds = [type(action) for _, action in cluster.actions]
    assert kinds == [Suspected, Probe, Probe, Died]
    (suspected,) = cluster.said(Suspected)
    assert suspected.reason.startswith("no heartbeat for 6.")
    assert suspected.reason.endswith("(suspect after 6 s)")
    probes = cluster.said_at(Probe)
    assert probes[0] == cluster.said_at(Suspected)[0]
    assert probes[1] - probes[0] >= DEFAULTS.heartbeat_interval


def test_a_death_says_why_with_the_numbers(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(20.0)
    reason = cluster.death("node-0").reason
    assert reason.startswith("no heartbeat for 11.")
    assert "(dead after 12 s); probe failed " in reason
    assert "s ago: no answer in time" in reason
    assert "late" not in reason
    cluster.kill("node-1")
    cluster.advance(20.0)
    assert "no connection; it closed its last connection" in cluster.death("node-1").reason


def test_a_suspect_that_is_heard_of_is_alive_and_costs_nothing_later(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(9.0)
    assert cluster.phase("node-0") is Phase.SUSPECT
    cluster.bring_back("node-0")
    cluster.advance(60.0)
    assert cluster.phase("node-0") is Phase.ALIVE
    (refuted,) = cluster.said(Refuted)
    assert (refuted.node, refuted.incarnation, refuted.would_have_died) == ("node-0", 1, False)
    assert 0.0 < refuted.suspected_for < 6.0
    assert refuted.probe_had_failed
    assert "although a probe of it had failed" in refuted.reason
    assert cluster.dead() == set()


def test_a_heartbeat_counts_from_when_the_transport_got_it() -> None:
    detector = FailureDetector(DEFAULTS, 0.0)
    detector.register("a", 1, 20.0)
    detector.heartbeat("a", 1, 21.0)
    for tick in range(100, 108):
        assert detector.sweep(tick / 4, tick / 4) == []
    # Handed over at 27 s, but the node was last heard at 21.5 s.
    detector.heartbeat("a", 1, 21.5)
    assert detector.sweep(27.25, 27.25) == []
    assert [type(action) for action in detector.sweep(27.5, 27.5)] == [Suspected, Probe]


def test_heartbeats_that_overtake_each_other_do_not_set_the_clock_back() -> None:
    detector = FailureDetector(DEFAULTS, 0.0)
    detector.register("a", 1, 20.0)
    detector.heartbeat("a", 1, 25.0)
    detector.heartbeat("a", 1, 23.0)
    explanation = detector.explain("a", 26.0)
    assert explanation is not None
    assert explanation.heartbeats.heard_at == 25.0
    assert explanation.heartbeats.count == 2


def test_a_stamp_from_the_future_does_not_make_a_node_immortal() -> None:
    detector = FailureDetector(DEFAULTS, 0.0)
    detector.register("a", 1, 20.0)
    detector.heartbeat("a", 1, 1e9)
    died: list[float] = []
    for tick in range(80, 400):
        now = tick / 4
        for action in detector.sweep(now, now):
            if isinstance(action, Probe):
                detector.probe_result("a", 1, ok=False, now=now, error="refused")
            if isinstance(action, Died):
                died.append(now)
    assert len(died) == 1
    assert died[0] <= 20.0 + 6.0 + 0.25 + 12.0


def test_a_node_that_answers_probes_lives_on_but_not_for_ever(cluster: Cluster) -> None:
    cluster.mute("node-0")
    cluster.advance(34.0)
    assert cluster.phase("node-0") is Phase.SUSPECT
    cluster.advance(4.0)
    death = cluster.death("node-0")
    assert death.cause is Cause.MUTE
    assert 35.5 <= death.silence <= 36.0
    assert "(dead after 36 s); probe answered" in death.reason


def test_a_mute_node_that_is_killed_is_dead_within_twelve_seconds(cluster: Cluster) -> None:
    cluster.mute("node-0")
    cluster.advance(20.0)
    killed_at = cluster.now
    cluster.kill("node-0")
    cluster.advance(12.0)
    assert cluster.died_at("node-0") - killed_at <= 12.0
    assert cluster.death("node-0").cause is Cause.SILENT


def test_nobody_dies_without_a_probe_that_has_failed() -> None:
    detector = FailureDetector(DEFAULTS, 0.0)
    detector.register("a", 1, 100.0)
    seen: list[tuple[float, object]] = []
    for tick in range(400, 460):
        seen += [(tick / 4, action) for action in detector.sweep(tick / 4, tick / 4)]
    # The outcome was never told: a probe that is owed for a sweep has failed.
    died = [when for when, action in seen if isinstance(action, Died)]
    assert len(died) == 1
    explanation = detector.explain("a", 115.0)
    assert explanation is not None
    assert "no outcome within 2.25 s" in explanation.probes[0].error
    assert died[0] - 100.0 <= 12.0


def test_an_answer_that_comes_after_its_probe_was_given_up_is_a_sign_of_life() -> None:
    detector = FailureDetector(DEFAULTS, 0.0)
    detector.register("a", 1, 100.0)
    died: list[float] = []
    for tick in range(400, 520):
        now = tick / 4
        died += [now for action in detector.sweep(now, now) if isinstance(action, Died)]
        if now == 109.0:
            detector.probe_result("a", 1, ok=True, now=now, round_trip=2.7)
    assert len(died) == 1
    assert 120.5 <= died[0] <= 121.0


def test_a_closed_connection_hastens_the_suspicion_and_not_the_death(cluster: Cluster) -> None:
    cluster.kill("node-0")
    killed_at = cluster.now
    cluster.advance(20.0)
    assert 3.0 <= cluster.said_at(Suspected)[0] - killed_at <= 3.25
    assert "it closed its last connection 3." in cluster.said(Suspected)[0].reason
    assert cluster.death("node-0").silence > 11.5


def test_a_node_that_connects_anew_is_not_suspected(cluster: Cluster) -> None:
    detector = cluster.detector
    detector.connection_closed("node-0", 1, cluster.now, by_peer=True)
    cluster.advance(0.5)
    detector.connection_opened("node-0", 1)
    detector.connection_opened("node-1", 1)
    detector.connection_closed("node-1", 1, cluster.now, by_peer=True)
    cluster.advance(10.0)
    assert cluster.actions == []


def test_a_heartbeat_after_the_close_proves_another_connection(cluster: Cluster) -> None:
    cluster.detector.connection_closed("node-0", 1, cluster.now, by_peer=True)
    cluster.advance(60.0)
    assert cluster.actions == []


def test_a_heartbeat_from_before_the_close_proves_nothing() -> None:
    detector = FailureDetector(DEFAULTS, 0.0)
    detector.register("a", 1, 100.0)
    detector.connection_opened("a", 1)
    detector.connection_closed("a", 1, 101.0, by_peer=True)
    detector.heartbeat("a", 1, 100.9)
    assert detector.sweep(103.75, 103.75) == []
    assert isinstance(detector.sweep(104.0, 104.0)[0], Suspected)


def test_a_connection_that_the_server_closed_says_nothing_of_the_node(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.detector.connection_closed("node-0", 1, cluster.now, by_peer=False)
    cluster.advance(3.9)
    assert cluster.actions == []


def test_death_is_final_for_an_incarnation(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(20.0)
    assert cluster.detector.heartbeat("node-0", 1, cluster.now) is Heard.ENDED
    assert cluster.detector.register("node-0", 1, cluster.now) is Heard.ENDED
    cluster.detector.probe_result("node-0", 1, ok=True, now=cluster.now)
    cluster.advance(60.0)
    assert cluster.phase("node-0") is Phase.DEAD
    assert len(cluster.said(Died)) == 1


def test_a_dead_node_returns_under_a_higher_incarnation(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(20.0)
    cluster.add("node-0")
    cluster.advance(60.0)
    assert cluster.phase("node-0") is Phase.ALIVE
    assert cluster.detector.stats().living == 10


def test_incarnations_that_are_not_watched_are_told_apart() -> None:
    detector = FailureDetector(DEFAULTS, 0.0)
    assert detector.heartbeat("a", 1, 0.0) is Heard.UNKNOWN
    assert detector.register("a", 5, 0.0) is Heard.ACCEPTED
    assert detector.register("a", 5, 0.0) is Heard.ACCEPTED
    assert detector.register("a", 4, 0.0) is Heard.STALE
    assert detector.heartbeat("a", 4, 1.0) is Heard.STALE
    assert detector.heartbeat("a", 6, 1.0) is Heard.AHEAD
    assert detector.register("a", 6, 1.0) is Heard.ACCEPTED
    assert detector.heartbeat("a", 5, 1.0) is Heard.STALE


def test_what_is_told_of_another_incarnation_is_ignored(cluster: Cluster) -> None:
    detector = cluster.detector
    cluster.cut_off("node-0")
    cluster.advance(7.0)
    before = detector.explain("node-0", cluster.now)
    detector.connection_closed("node-0", 2, cluster.now, by_peer=True)
    detector.connection_opened("node-0", 2)
    detector.probe_result("node-0", 2, ok=True, now=cluster.now)
    detector.probe_result("nobody", 1, ok=True, now=cluster.now)
    assert detector.explain("node-0", cluster.now) == before


def test_a_replaced_incarnation_gets_no_verdict(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(8.0)
    cluster.add("node-0")
    cluster.advance(60.0)
    assert cluster.dead() == set()
    assert cluster.detector.stats().suspects == 0


def test_a_forgotten_node_gets_no_verdict(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(8.0)
    cluster.forget("node-0")
    cluster.advance(60.0)
    assert cluster.dead() == set()
    assert cluster.detector.explain("node-0", cluster.now) is None
    assert not cluster.detector.forget("node-0", cluster.now)
    assert cluster.detector.heartbeat("node-0", 1, cluster.now) is Heard.UNKNOWN


def test_a_dead_node_is_remembered_until_it_is_forgotten(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(20.0)
    assert cluster.detector.stats().watched == 10
    assert cluster.detector.forget("node-0", cluster.now)
    assert cluster.detector.stats().watched == cluster.detector.stats().living == 9


def test_nobody_dies_for_one_full_timeout_after_the_start() -> None:
    cluster = Cluster()
    # Another leader knew it; it was dead long before this one started.
    cluster.detector.register("node-0", 1, cluster.now - 11.0)
    cluster.add("node-1")
    cluster.nodes["node-0"] = cluster.nodes["node-1"]
    started_at = cluster.now
    seen: list[tuple[float, Died]] = []
    for _ in range(100):
        now = cluster.now = cluster.now + 0.25
        cluster.detector.heartbeat("node-1", 1, now)
        for action in cluster.detector.sweep(now, now):
            if isinstance(action, Probe):
                cluster.detector.probe_result(action.node, 1, ok=False, now=now, error="refused")
            if isinstance(action, Died):
                seen.append((now - started_at, action))
        if now - started_at == 5.0:
            explanation = cluster.detector.explain("node-0", now)
            assert explanation is not None
            assert "withheld: the server has just started, for 7.00 s more" in explanation.verdict
    assert [(when, death.node) for when, death in seen] == [(12.0, "node-0")]


def test_the_grace_after_the_start_can_be_set() -> None:
    cluster = Cluster(DetectorSettings(start_grace=30.0))
    cluster.add("node-0", "node-1")
    cluster.kill("node-0")
    cluster.advance(29.75)
    assert cluster.dead() == set()
    cluster.advance(0.5)
    assert cluster.dead() == {"node-0"}


def test_observe_only_records_verdicts_and_kills_nobody() -> None:
    cluster = Cluster(DetectorSettings(observe_only=True))
    cluster.add(*names(10))
    cluster.advance(60.0)
    cluster.cut_off("node-0")
    cluster.advance(60.0)
    assert cluster.dead() == set()
    (observed,) = cluster.said(WouldHaveDied)
    assert observed.verdict.node == "node-0"
    assert 11.5 <= observed.verdict.silence <= 12.0
    assert cluster.detector.stats().would_have_died == 1
    explanation = cluster.detector.explain("node-0", cluster.now)
    assert explanation is not None
    assert explanation.verdict.endswith("would have been declared dead (observe-only)")
    cluster.bring_back("node-0")
    cluster.advance(10.0)
    (refuted,) = cluster.said(Refuted)
    assert refuted.would_have_died
    assert "would have been declared dead wrongly" in refuted.reason


def test_verdicts_that_were_only_observed_do_not_trip_the_brake() -> None:
    cluster = Cluster(DetectorSettings(observe_only=True))
    cluster.add(*names(10))
    cluster.advance(60.0)
    for name in names(8):
        cluster.cut_off(name)
        cluster.advance(20.0)
    assert cluster.alarms() == []
    assert len(cluster.said(WouldHaveDied)) == 8


def test_explain_shows_everything_that_a_verdict_depends_on(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(9.0)
    explanation = cluster.detector.explain("node-0", cluster.now)
    assert explanation is not None
    assert (explanation.node, explanation.incarnation, explanation.phase) == ("node-0", 1, Phase.SUSPECT)
    assert explanation.verdict.startswith("suspect for ")
    assert "declared dead in " in explanation.verdict
    heartbeats = explanation.heartbeats
    assert heartbeats.count > 25
    assert len(heartbeats.arrivals) == 8
    assert heartbeats.gaps == pytest.approx([heartbeats.interval] * 7)
    assert heartbeats.arrivals[-1] == heartbeats.heard_at
    assert heartbeats.silence == pytest.approx(cluster.now - heartbeats.heard_at)
    assert explanation.connection.open == 1
    (probe,) = explanation.probes
    assert (probe.ok, probe.error) == (False, "no answer in time")
    assert probe.ended_at - probe.sent_at == pytest.approx(2.0)
    assert explanation.lateness.late_sweeps == 0
    assert explanation.local_health.score == 0
    assert (explanation.brake.suspects, explanation.brake.connected) == (1, 10)
    assert explanation.held_until is None
    assert explanation.thresholds.dead_after == 12.0


def test_explain_tells_of_the_living_and_the_dead(cluster: Cluster) -> None:
    alive = cluster.detector.explain("node-1", cluster.now)
    assert alive is not None
    assert alive.verdict.startswith("alive: no heartbeat for ")
    cluster.kill("node-0")
    cluster.advance(20.0)
    dead = cluster.detector.explain("node-0", cluster.now)
    assert dead is not None
    assert dead.verdict == f"dead: {cluster.death('node-0').reason}"
    assert dead.death == cluster.death("node-0")
    assert cluster.detector.explain("nobody", cluster.now) is None


def test_stats_count_what_has_happened(cluster: Cluster) -> None:
    cluster.kill("node-0")
    cluster.cut_off("node-1")
    cluster.advance(7.0)
    cluster.bring_back("node-1")
    cluster.advance(20.0)
    stats = cluster.detector.stats()
    assert (stats.watched, stats.living, stats.suspects) == (10, 9, 0)
    assert (stats.suspicions, stats.refutations, stats.deaths) == (2, 1, 1)
    assert stats.probes >= stats.probes_failed >= 2


def test_a_node_that_registers_again_and_again_does_not_fill_the_memory() -> None:
    detector = FailureDetector(DEFAULTS, 0.0)
    for incarnation in range(20_000):
        detector.register("a", incarnation, 0.0)
    assert len(detector._table._heap) <= 1_010
    assert detector.stats().living == 1


def test_a_death_that_was_recorded_elsewhere_is_as_final_as_a_verdict(cluster: Cluster) -> None:
    detector = cluster.detector
    assert not detector.died_elsewhere("node-1", 99, "another incarnation", cluster.now)
    assert detector.died_elsewhere("node-1", 1, "an operator said so", cluster.now)
    assert not detector.died_elsewhere("node-1", 1, "once more", cluster.now)
    assert detector.heartbeat("node-1", 1, cluster.now) is Heard.ENDED
    explanation = detector.explain("node-1", cluster.now)
    assert explanation is not None
    assert explanation.verdict == "dead: an operator said so"
    assert explanation.death is not None
    assert explanation.death.cause is Cause.DECLARED
    assert detector.stats().living == 9


def test_the_incarnation_that_is_watched_can_be_asked_for(cluster: Cluster) -> None:
    assert cluster.detector.incarnation_of("node-1") == 1
    assert cluster.detector.incarnation_of("nobody") is None


def test_until_when_verdicts_are_held_and_why_can_be_asked_for() -> None:
    detector = FailureDetector(DEFAULTS, 100.0)
    assert detector.held(104.0) == (112.0, "the server has just started")
    assert detector.held(112.0) is None
