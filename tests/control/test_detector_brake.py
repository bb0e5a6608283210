"""FailureDetector: the brake, and what operators freeze. Time is passed in, never waited for."""

from __future__ import annotations

import pytest
from tests.control.detector_model import Cluster, names

from atoll_control.server.detector import BrakeOff, BrakeOn, DetectorSettings, Died, Phase, Suspected


def steady(count: int, **settings: float) -> Cluster:
    """Nodes that have been heard for a minute: the grace after the start is over."""
    cluster = Cluster(DetectorSettings(**settings))  # type: ignore[arg-type]
    cluster.add(*names(count))
    cluster.advance(60.0)
    return cluster


@pytest.mark.parametrize("count", [3, 5, 20, 100])
def test_a_network_that_is_cut_off_as_a_whole_kills_nobody(count: int) -> None:
    cluster = steady(count)
    cluster.cut_off(*names(count))
    cluster.advance(300.0)
    assert cluster.dead() == set()
    (brake,) = cluster.alarms()
    assert isinstance(brake, BrakeOn)
    assert brake.by == ""
    assert "connected nodes" in brake.reason


def test_the_brake_trips_at_fifty_five_percent_of_the_connected_nodes() -> None:
    cluster = steady(20)
    cluster.cut_off(*names(11))
    cluster.advance(60.0)
    assert cluster.dead() == set()
    assert "11 of 20 connected nodes (55%) are suspect at once" in cluster.alarms()[0].reason


def test_below_the_share_the_brake_does_not_trip() -> None:
    cluster = steady(20)
    cluster.cut_off(*names(10))
    cluster.advance(60.0)
    assert cluster.dead() == set(names(10))
    assert cluster.alarms() == []


def test_fewer_than_three_suspects_never_trip_the_brake() -> None:
    cluster = steady(2)
    cluster.cut_off(*names(2))
    cluster.advance(60.0)
    assert cluster.dead() == set(names(2))
    assert cluster.alarms() == []


def test_nodes_that_fail_one_after_the_other_do_not_trip_the_brake() -> None:
    cluster = steady(10)
    for name in names(9):
        cluster.cut_off(name)
        cluster.advance(8.0)
    cluster.advance(20.0)
    assert cluster.dead() == set(names(9))
    assert cluster.alarms() == []


def test_processes_that_die_and_close_their_connections_do_not_trip_the_brake() -> None:
    cluster = steady(10)
    cluster.kill(*names(10))
    killed_at = cluster.now
    cluster.advance(60.0)
    assert cluster.dead() == set(names(10))
    assert cluster.alarms() == []
    assert all(cluster.died_at(name) - killed_at <= 12.0 for name in names(10))


def test_the_share_is_of_the_connected_nodes_only() -> None:
    cluster = steady(20)
    cluster.kill(*names(10))  # the other ten are what is left to lose
    cluster.advance(0.5)
    cluster.cut_off(*(f"node-{number}" for number in range(10, 16)))
    cluster.advance(30.0)
    assert "6 of 10 connected nodes (60%)" in cluster.alarms()[0].reason
    # It withholds all verdicts, also those on the nodes that it did not count.
    assert cluster.dead() == set()


def test_a_connection_that_the_server_gave_up_counts_as_cut_off() -> None:
    cluster = steady(10)
    cluster.cut_off(*names(8))
    for name in names(8):
        cluster.detector.connection_closed(name, 1, cluster.now, by_peer=False)
    cluster.advance(60.0)
    assert cluster.dead() == set()


def test_when_the_network_is_back_the_brake_lets_go_and_nobody_dies() -> None:
    cluster = steady(20)
    cluster.cut_off(*names(20))
    cluster.advance(60.0)
    cluster.bring_back(*names(20))
    cluster.advance(60.0)
    assert [type(alarm) for alarm in cluster.alarms()] == [BrakeOn, BrakeOff]
    assert "the share has fallen" in cluster.alarms()[1].reason
    assert cluster.dead() == set()
    assert all(cluster.phase(name) is Phase.ALIVE for name in names(20))


def test_when_the_brake_lets_go_the_rest_gets_an_interval_and_a_suspicion_to_be_heard() -> None:
    cluster = steady(20)
    cluster.cut_off(*names(20))
    cluster.advance(60.0)
    cluster.bring_back(*names(17))
    cluster.advance(20.0)
    (let_go,) = cluster.said_at(BrakeOff)
    assert cluster.dead() == {"node-17", "node-18", "node-19"}
    assert min(cluster.said_at(Died)) >= let_go + 8.0
    assert max(cluster.said_at(Died)) <= let_go + 8.25


def test_an_operator_who_resumes_has_everything_decided_in_the_next_sweep() -> None:
    cluster = steady(10)
    cluster.cut_off(*names(8))
    cluster.advance(60.0)
    (off,) = cluster.detector.resume("ann", cluster.now)
    assert (off.by, off.brakes_own, off.still_frozen) == ("ann", True, False)
    cluster.advance(0.5)
    assert cluster.dead() == set(names(8))
    assert len(cluster.said(BrakeOn)) == 1


def test_after_max_freeze_what_is_due_is_decided() -> None:
    cluster = steady(10, max_freeze=100.0)
    cluster.cut_off(*names(10))
    cluster.advance(150.0)
    assert cluster.dead() == set(names(10))
    (on,), (off,) = cluster.said_at(BrakeOn), cluster.said_at(BrakeOff)
    assert off - on == pytest.approx(100.0)
    assert "max_freeze has passed (100 s)" in cluster.alarms()[1].reason


def test_a_brake_that_goes_off_and_on_again_has_one_max_freeze() -> None:
    cluster = steady(5, max_freeze=60.0)
    cluster.cut_off(*names(3))
    for _ in range(8):
        cluster.advance(9.0)
        cluster.bring_back("node-0")
        cluster.advance(2.0)
        cluster.cut_off("node-0")
    assert len(cluster.said(BrakeOn)) > 1
    assert {"node-1", "node-2"} <= cluster.dead()


def test_the_suspects_of_a_freeze_that_was_ended_do_not_trip_the_brake_again() -> None:
    cluster = steady(10)
    cluster.cut_off(*names(7))
    cluster.advance(8.0)  # suspect, not yet dead
    cluster.detector.resume("ann", cluster.now)
    cluster.advance(10.0)
    assert cluster.dead() == set(names(7))
    assert len(cluster.said(BrakeOn)) == 1


def test_the_brake_is_evaluated_before_the_verdicts_of_the_same_sweep() -> None:
    # One sweep finds all of them suspect and, by a setting at the limit, the first of them due.
    cluster = steady(30, dead_after=8.8, mute_after=8.8)
    cluster.cut_off(*names(30))
    cluster.advance(100.0)
    assert cluster.dead() == set()


def test_an_operator_freezes_all_verdicts_until_he_resumes() -> None:
    cluster = steady(10)
    on = cluster.detector.freeze("ann", "the switch is replaced", cluster.now)
    assert (on.by, on.reason, on.until) == ("ann", "the switch is replaced", None)
    cluster.kill("node-0")
    cluster.advance(3600.0)
    assert cluster.dead() == set()
    explanation = cluster.detector.explain("node-0", cluster.now)
    assert explanation is not None
    assert explanation.verdict.endswith("withheld: the switch is replaced")
    assert explanation.brake.frozen
    assert [off.brakes_own for off in cluster.detector.resume("bob", cluster.now)] == [False]
    cluster.advance(0.25)
    assert cluster.dead() == {"node-0"}


def test_an_operators_freeze_may_end_by_itself() -> None:
    cluster = steady(10)
    cluster.detector.freeze("ann", "a reboot", cluster.now, seconds=120.0)
    cluster.kill("node-0")
    cluster.advance(119.75)
    assert cluster.dead() == set()
    cluster.advance(0.5)
    assert cluster.dead() == {"node-0"}
    assert "the freeze by 'ann' was to last 120 s" in cluster.alarms()[-1].reason


def test_an_operators_freeze_and_the_brakes_are_two() -> None:
    cluster = steady(10)
    cluster.detector.freeze("ann", "a reboot", cluster.now, seconds=30.0)
    cluster.cut_off(*names(10))
    cluster.advance(60.0)
    assert [type(alarm) for alarm in cluster.alarms()] == [BrakeOn, BrakeOff]
    assert cluster.said(BrakeOff)[0].still_frozen
    assert cluster.dead() == set()


def test_resuming_what_is_not_frozen_does_nothing() -> None:
    cluster = steady(3)
    assert cluster.detector.resume("ann", cluster.now) == []


def test_an_operator_may_declare_a_node_dead_while_verdicts_are_frozen() -> None:
    cluster = steady(10)
    cluster.detector.freeze("ann", "a reboot", cluster.now)
    assert cluster.detector.died_elsewhere("node-0", 1, "gone", cluster.now)
    assert cluster.phase("node-0") is Phase.DEAD
    assert cluster.detector.stats().deaths == 1


def test_suspicions_go_on_while_verdicts_are_frozen() -> None:
    cluster = steady(10)
    cluster.detector.freeze("ann", "a reboot", cluster.now)
    cluster.cut_off("node-0")
    cluster.advance(7.0)
    assert [suspected.node for suspected in cluster.said(Suspected)] == ["node-0"]
