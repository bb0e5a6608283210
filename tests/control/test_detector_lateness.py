"""FailureDetector: the server's own lag, and its local health. Time is passed in, never waited for."""

from __future__ import annotations

import pytest
from tests.control.detector_model import Cluster, names

from atoll_control.server.detector import DetectorSettings, Died, FailureDetector, Phase, Probe, Refuted, Suspected


@pytest.fixture
def cluster() -> Cluster:
    """Ten nodes that have been heard for a minute: the grace after the start is over."""
    cluster = Cluster()
    cluster.add(*names(10))
    cluster.advance(60.0)
    return cluster


def score(cluster: Cluster) -> int:
    return cluster.detector.stats().local_health.score


@pytest.mark.parametrize("queued_first", [True, False], ids=["heartbeats-first", "sweep-first"])
@pytest.mark.parametrize("stopped", [True, False], ids=["SIGSTOP", "stuck-loop"])
def test_a_server_that_stalls_for_thirty_seconds_kills_nobody(*, stopped: bool, queued_first: bool) -> None:
    cluster = Cluster()
    cluster.add(*names(40), delay=1.0)
    cluster.advance(60.0)
    cluster.queued_first = queued_first
    cluster.stall(30.0, stopped=stopped)
    cluster.advance(60.0)
    assert cluster.dead() == set()
    assert cluster.said(Suspected) == []


def test_a_silence_during_which_the_server_was_late_does_not_count(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(4.0)
    cluster.stall(1.5)
    cluster.advance(20.0)
    death = cluster.death("node-0")
    assert 1.25 <= death.not_counted <= 1.5
    assert f"of which {death.not_counted:.2f} s do not count because the server itself was late" in death.reason
    assert death.silence - death.not_counted >= 11.5


def test_deadlines_move_by_exactly_what_the_sweep_was_late() -> None:
    detector = FailureDetector(DetectorSettings(local_health_max=0), 0.0)
    detector.register("a", 1, 100.0)
    detector.sweep(100.25, 100.25)
    assert detector.sweep(106.75, 105.75) == []  # silent for 6.75 s, of which 1 s does not count
    assert detector.sweep(106.99, 106.99) == []
    assert [type(action) for action in detector.sweep(107.0, 107.0)] == [Suspected, Probe]


def test_the_worst_lateness_is_that_since_the_start(cluster: Cluster) -> None:
    cluster.stall(3.0)
    cluster.advance(600.0)
    cluster.stall(1.5)
    cluster.advance(600.0)
    lateness = cluster.detector.stats().lateness
    assert lateness.last == 0.0
    assert 2.75 <= lateness.worst <= 3.0


def test_the_jitter_of_timers_is_no_lateness() -> None:
    detector = FailureDetector(DetectorSettings(), 0.0)
    for tick in range(1, 100):
        detector.sweep(tick / 4 + 0.049, tick / 4)
    assert detector.stats().lateness.total == 0.0
    assert detector.stats().lateness.late_sweeps == 0


def test_a_heartbeat_that_arrived_during_a_stall_is_judged_by_the_rest_of_it() -> None:
    detector = FailureDetector(DetectorSettings(local_health_max=0), 0.0)
    detector.register("a", 1, 100.0)
    detector.sweep(130.0, 100.25)
    detector.heartbeat("a", 1, 110.0)  # handed over after the sweep that was late
    explanation = detector.explain("a", 132.0)
    assert explanation is not None
    assert explanation.heartbeats.silence == 22.0
    assert explanation.heartbeats.not_counted == 20.0


def test_after_a_stall_nobody_dies_for_an_interval_and_a_suspicion(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(11.0)
    assert cluster.phase("node-0") is Phase.SUSPECT
    cluster.stall(30.0)
    stalled_until = cluster.now
    explanation = cluster.detector.explain("node-0", cluster.now)
    assert explanation is not None
    assert explanation.held_until == pytest.approx(stalled_until + 8.0)
    assert "s late, for 8.00 s more" in explanation.verdict
    cluster.advance(7.75)
    assert cluster.dead() == set()
    cluster.advance(30.0)
    assert cluster.dead() == {"node-0"}


def test_a_node_that_is_killed_during_a_stall_is_dead_soon_after_it(cluster: Cluster) -> None:
    cluster._at(cluster.now + 10.0, lambda: cluster.kill("node-0"))
    cluster.stall(30.0, stopped=True)
    stalled_until = cluster.now
    cluster.advance(60.0)
    assert cluster.dead() == {"node-0"}
    # The local-health score stretches times by less and less.
    assert cluster.died_at("node-0") - stalled_until <= 24.0


def test_a_server_that_is_always_late_keeps_only_the_lateness_that_matters() -> None:
    detector = FailureDetector(DetectorSettings(), 0.0)
    detector.register("a", 1, 0.0)
    now = 0.0
    for _ in range(10_000):
        due, now = now + 0.25, now + 0.5
        detector.heartbeat("a", 1, now)
        detector.sweep(now, due)
    assert len(detector._judge.lateness._ends) <= 36.0 * 3 / 0.5 + 2
    assert detector.stats().lateness.total == pytest.approx(2_500.0)
    assert detector.stats().deaths == 0


def test_late_sweeps_raise_the_score_by_how_late_they_were(cluster: Cluster) -> None:
    cluster.stall(0.5)
    assert score(cluster) == 0
    cluster.stall(0.8)
    assert score(cluster) == 1
    cluster.advance(10.0)
    cluster.stall(5.0)
    assert score(cluster) == 3
    cluster.stall(300.0)
    assert score(cluster) == 7
    assert "s late" in cluster.detector.stats().local_health.reasons[-1]


def test_each_good_interval_lowers_the_score_by_one(cluster: Cluster) -> None:
    cluster.stall(30.0)
    cluster.advance(0.25)
    for expected in (7, 6, 5, 4, 3, 2, 1, 0, 0):
        assert score(cluster) == expected
        cluster.advance(2.0)


def test_the_score_stretches_all_times_by_a_bounded_factor(cluster: Cluster) -> None:
    assert cluster.detector.thresholds.stretch == 1.0
    cluster.stall(30.0)
    times = cluster.detector.thresholds
    assert (times.stretch, times.suspect_after, times.dead_after) == (3.0, 18.0, 36.0)
    assert (times.closed_suspect_after, times.mute_after, times.probe_timeout) == (9.0, 108.0, 6.0)


def test_a_node_heard_of_after_its_probe_has_failed_raises_the_score(cluster: Cluster) -> None:
    cluster.cut_off("node-0")
    cluster.advance(9.0)
    cluster.bring_back("node-0")
    before = score(cluster)
    cluster.advance(2.0)
    assert cluster.said(Refuted)[0].probe_had_failed
    assert before == 0
    assert (
        "'node-0' sent a heartbeat after a probe of it had failed" in cluster.detector.stats().local_health.reasons[0]
    )


def test_a_node_heard_of_before_its_probe_has_failed_does_not_raise_the_score() -> None:
    detector = FailureDetector(DetectorSettings(), 0.0)
    detector.register("a", 1, 100.0)
    assert [type(action) for action in detector.sweep(106.0, 106.0)] == [Suspected, Probe]
    detector.heartbeat("a", 1, 106.1)
    detector.probe_result("a", 1, ok=False, now=108.0, error="no answer")
    (refuted,) = detector.sweep(108.25, 108.25)
    assert isinstance(refuted, Refuted)
    assert not refuted.probe_had_failed
    assert detector.stats().local_health.score == 0


def test_many_refutations_at_once_raise_the_score_by_one() -> None:
    detector = FailureDetector(DetectorSettings(), 0.0)
    for name in names(7):
        detector.register(name, 1, 100.0)
    for action in detector.sweep(106.0, 106.0):
        if isinstance(action, Probe):
            detector.probe_result(action.node, 1, ok=False, now=106.1, error="no answer")
    for name in names(7):
        detector.heartbeat(name, 1, 106.2)
    assert detector.stats().local_health.score == 1


def test_an_answered_probe_lowers_the_score(cluster: Cluster) -> None:
    cluster.mute("node-0")
    cluster.advance(7.9)
    cluster.stall(3.0)
    before = score(cluster)
    cluster.detector.probe_result("node-0", 1, ok=True, now=cluster.now, round_trip=0.001)
    assert score(cluster) == before - 1


def test_a_stretched_time_ends_with_the_stretch() -> None:
    detector = FailureDetector(DetectorSettings(), 0.0)
    detector.register("a", 1, 100.0)
    detector.sweep(106.25, 100.0)  # 3 points, and 6 s of silence that do not count
    seen: list[tuple[float, str]] = []
    for tick in range(1, 100):
        now = 106.25 + tick / 4
        for action in detector.sweep(now, now):
            seen.append((now, type(action).__name__))
            if isinstance(action, Probe):
                detector.probe_result("a", 1, ok=False, now=now, error="refused")
    first = next(when for when, name in seen if name == Suspected.__name__)
    last = next(when for when, name in seen if name == Died.__name__)
    # Six counted seconds, at most one look per interval while times are stretched.
    assert 112.25 <= first <= 112.25 + 2.25
    assert 118.0 <= last <= 118.5
