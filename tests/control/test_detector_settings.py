"""DetectorSettings, and the heartbeat interval that nodes are told."""

from __future__ import annotations

from typing import Any

import pytest
from tests.control.detector_model import Cluster, names

from atoll_control.server.detector import DetectorSettings, FailureDetector


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = DetectorSettings()
    assert (settings.heartbeat_interval, settings.suspect_after, settings.dead_after) == (2.0, 6.0, 12.0)
    assert (settings.brake_share, settings.brake_minimum, settings.local_health_max) == (0.55, 3, 7)
    assert settings.start_grace is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heartbeat_interval": 0}, "heartbeat_interval: must be a positive number of seconds, got 0"),
        ({"sweep_interval": float("nan")}, "sweep_interval: must be a positive number of seconds, got nan"),
        ({"max_freeze": float("inf")}, "max_freeze: must be a positive number of seconds, got inf"),
        ({"start_grace": -1}, "start_grace: must be a number of seconds or None, got -1"),
        ({"brake_share": 0}, "brake_share: must be above 0 and at most 1, got 0"),
        ({"brake_share": 55}, "brake_share: must be above 0 and at most 1, got 55"),
        ({"brake_minimum": 0}, "brake_minimum: must be at least 1, got 0"),
        ({"local_health_max": -1}, r"local_health_max: must be 0 \(no stretching\) or more, got -1"),
        ({"max_stretch": 0.9}, r"max_stretch: must be 1 \(no stretching\) or more, got 0.9"),
        ({"max_heartbeats_per_second": 0}, "max_heartbeats_per_second: must be positive, got 0"),
        ({"stagger": 0.6}, "stagger: must be between 0 and 0.5, got 0.6"),
        ({"sweep_interval": 1.5}, r"heartbeat_interval: must be at least 3 s \(twice sweep_interval"),
        ({"max_heartbeat_interval": 1}, r"max_heartbeat_interval: must be at least 2 s \(heartbeat_interval\)"),
        ({"suspect_after": 3.9}, r"suspect_after: must be at least 4 s .*one lost heartbeat makes a node suspect"),
        ({"dead_after": 8.7}, r"dead_after: must be at least 8.8 s .*the brake has seen the others\); got 8.7 s"),
        ({"probe_timeout": 6}, "dead_after: must be at least 12.8 s .*dies before its probe has failed"),
        ({"mute_after": 11}, r"mute_after: must be at least 12 s \(dead_after\); got 11 s"),
    ],
)
def test_settings_that_would_kill_healthy_nodes_are_refused_with_the_remedy(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DetectorSettings(**changes)


def test_settings_at_their_limits_are_accepted() -> None:
    DetectorSettings(suspect_after=4.0, dead_after=6.8, mute_after=6.8)
    DetectorSettings(
        heartbeat_interval=0.2,
        suspect_after=0.6,
        closed_suspect_after=0.3,
        dead_after=2.0,
        probe_timeout=0.2,
        sweep_interval=0.1,
    )


def detector_of(count: int, **settings: Any) -> FailureDetector:
    detector = FailureDetector(DetectorSettings(**settings), 0.0)
    for name in names(count):
        detector.register(name, 1, 0.0)
    detector.sweep(0.25, 0.25)
    return detector


@pytest.mark.parametrize(("count", "interval"), [(100, 2.0), (10_000, 2.0), (22_800, 4.0)])
def test_the_interval_grows_with_the_number_of_nodes(count: int, interval: float) -> None:
    detector = detector_of(count)
    assert detector.thresholds.heartbeat_interval == pytest.approx(interval)
    assert detector.thresholds.suspect_after == pytest.approx(3 * interval)
    assert detector.thresholds.dead_after == pytest.approx(6 * interval)


def test_all_nodes_together_send_no_more_heartbeats_per_second_than_allowed() -> None:
    detector = detector_of(1_500, max_heartbeats_per_second=100.0)
    rate = sum(1 / detector.interval_for(name) for name in names(1_500))
    assert rate == pytest.approx(100.0, rel=0.02)


def test_the_interval_does_not_grow_without_bound() -> None:
    detector = detector_of(2_000, max_heartbeats_per_second=10.0)
    assert detector.thresholds.heartbeat_interval == 20.0


def test_nodes_are_told_intervals_staggered_by_their_ids_alone() -> None:
    one, other = detector_of(50), detector_of(0)
    intervals = [one.interval_for(name) for name in names(50)]
    assert intervals == [other.interval_for(name) for name in names(50)]
    assert all(1.8 < interval <= 2.0 for interval in intervals)
    assert max(intervals) - min(intervals) > 0.15
    assert one.interval_for("node-0") == pytest.approx(1.867, abs=0.0005)


def test_nodes_that_register_at_once_are_spread_over_an_interval() -> None:
    detector = detector_of(1_000)
    first = sorted(detector.first_interval_for(name) for name in names(1_000))
    assert first[0] >= 0.2
    assert first[-1] <= 2.0
    # In every tenth of the interval about as many.
    counts = [sum(low <= delay < low + 0.18 for delay in first) for low in (0.2 + 0.18 * step for step in range(10))]
    assert min(counts) > 60
    assert max(counts) < 140


def test_nodes_that_have_registered_at_once_never_beat_in_step() -> None:
    detector = detector_of(1_000)
    delays = [(detector.first_interval_for(name), detector.interval_for(name)) for name in names(1_000)]
    for beat in range(100):
        times = [(first + beat * interval) % 2.0 for first, interval in delays]
        # An eighth is what each quarter of a second should have.
        assert max(sum(step / 4 <= time < (step + 1) / 4 for time in times) for step in range(8)) < 300, beat


def test_dead_nodes_do_not_count_for_the_interval() -> None:
    detector = detector_of(400, max_heartbeats_per_second=100.0)
    grown = detector.interval_for("node-0")
    for name in names(300):
        detector.died_elsewhere(name, 1, "gone", 1.0)
    assert detector.interval_for("node-399") < grown / 1.9


def test_nodes_are_judged_by_a_longer_interval_at_once() -> None:
    detector = detector_of(100, max_heartbeats_per_second=50.0)
    assert detector.thresholds.judged_interval == pytest.approx(100 / 50 / 0.95)
    for name in names(300, "more"):
        detector.register(name, 1, 1.0)
    detector.sweep(1.0, 1.0)
    assert detector.thresholds.judged_interval == pytest.approx(400 / 50 / 0.95)


def test_nodes_are_judged_by_a_shorter_interval_only_when_they_have_heard_of_it() -> None:
    detector = detector_of(400, max_heartbeats_per_second=50.0)
    before = detector.thresholds
    for name in names(300):
        detector.forget(name, 1.0)
    detector.sweep(1.0 + before.dead_after - 0.1, 1.0 + before.dead_after - 0.1)
    assert detector.thresholds.heartbeat_interval == pytest.approx(before.heartbeat_interval / 4)
    assert detector.thresholds.judged_interval == before.judged_interval
    detector.sweep(1.0 + before.dead_after, 1.0 + before.dead_after)
    # The step by step fall was over 300 intervals; the longest of them is what is judged by next.
    assert detector.thresholds.judged_interval < before.judged_interval
    for step in range(1, 3):
        detector.sweep(1.0 + before.dead_after * (1 + step), 1.0 + before.dead_after * (1 + step))
    assert detector.thresholds.judged_interval == pytest.approx(before.judged_interval / 4)


def test_a_cluster_that_grows_and_shrinks_suspects_nobody() -> None:
    cluster = Cluster(DetectorSettings(max_heartbeats_per_second=5.0))
    cluster.add(*names(10), delay=0.5)
    cluster.advance(30.0)
    cluster.add(*names(90, "more"), delay=0.5)
    cluster.advance(120.0)
    for name in names(90, "more"):
        cluster.forget(name)
    cluster.advance(600.0)
    assert cluster.actions == []
    assert cluster.detector.thresholds.dead_after == pytest.approx(12.0 * 10 / 5 / 0.95 / 2, rel=0.01)


@pytest.mark.parametrize(
    ("interval", "dead_after"), [(2.0, 12.0), (1.0, 6.0), (0.1, 0.6), (20.0, 120.0), (30.0, 600.0)]
)
def test_settings_for_two_times_have_the_others_in_proportion(interval: float, dead_after: float) -> None:
    settings = DetectorSettings.scaled(heartbeat_interval=interval, dead_after=dead_after)
    assert (settings.heartbeat_interval, settings.dead_after) == (interval, dead_after)
    assert (settings.suspect_after, settings.closed_suspect_after) == (dead_after / 2, dead_after / 4)
    assert settings.mute_after == pytest.approx(3 * dead_after)


def test_settings_for_the_default_times_are_the_defaults() -> None:
    assert DetectorSettings.scaled(heartbeat_interval=2.0, dead_after=12.0) == DetectorSettings()
    assert DetectorSettings.scaled(heartbeat_interval=2.0, dead_after=12.0, observe_only=True).observe_only


@pytest.mark.parametrize(
    ("interval", "dead_after", "message"),
    [
        (4.0, 12.0, "dead_after: must be at least 16 s with a heartbeat every 4 s"),
        (0.1, 0.3, "dead_after: must be at least 0.4 s with a heartbeat every 0.1 s"),
        (0.0, 12.0, "heartbeat_interval: must be a positive number of seconds, got 0"),
        (2.0, float("inf"), "dead_after: must be a positive number of seconds, got inf"),
    ],
)
def test_two_times_that_do_not_go_together_are_refused(interval: float, dead_after: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectorSettings.scaled(heartbeat_interval=interval, dead_after=dead_after)
