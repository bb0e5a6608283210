"""When the demo's claim counts as proven, and what it says when it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from atoll_control.demo.samples import Recorder, Summary, quantile
from atoll_control.demo.verdict import Facts, bound, duration, judge

FAST = Summary(count=1000, failed=0, p50=0.001, p99=0.004, max=0.02)
SLOW = Summary(count=100, failed=40, p50=2.0, p99=2.0, max=2.0)
HEALTHY = Facts(
    nodes=200,
    nodes_alive=200,
    registered_again=0,
    wrong_reads=0,
    heartbeats={"healthy": FAST, "slow": FAST},
    kv={"healthy": FAST, "slow": SLOW},
    heartbeats_due=1000,
    slow_module="KvManager",
    slow_kind="sleep",
    block=0.2,
)


def failed_checks(**changes: Any) -> list[str]:
    return [check.name for check in judge(replace(HEALTHY, **changes)).checks if not check.passed]


def test_the_claim_holds_when_heartbeats_are_as_fast_as_before() -> None:
    verdict = judge(HEALTHY)
    assert verdict.held
    assert verdict.outcome == "Heartbeats stayed unaffected while KvManager was slow, and all 200 nodes stayed alive."
    assert verdict.remark == ""


def test_heartbeats_have_to_stay_below_half_of_the_block_and_below_100_ms() -> None:
    assert bound(0.2) == bound(5.0) == 0.1
    assert bound(0.05) == 0.025
    late = replace(FAST, p99=0.1)
    assert failed_checks(heartbeats={"healthy": FAST, "slow": late}) == ["99 of 100 heartbeats are in time"]
    assert failed_checks(heartbeats={"healthy": FAST, "slow": replace(FAST, p99=0.099)}) == []


def test_one_failed_heartbeat_in_either_half_breaks_the_claim() -> None:
    failed = replace(FAST, failed=1)
    assert failed_checks(heartbeats={"healthy": failed, "slow": FAST}) == ["no heartbeat failed"]
    assert failed_checks(heartbeats={"healthy": FAST, "slow": failed}) == ["no heartbeat failed"]


def test_one_dead_node_or_one_that_came_back_breaks_the_claim() -> None:
    assert failed_checks(nodes_alive=199) == ["every node is alive"]
    outcome = judge(replace(HEALTHY, nodes_alive=199)).outcome
    assert outcome == "Heartbeats did NOT stay unaffected while KvManager was slow; 1 of 200 nodes were lost."
    assert failed_checks(registered_again=1) == ["no node had to register again"]


def test_a_wrong_read_breaks_the_claim() -> None:
    assert failed_checks(wrong_reads=1) == ["every value read was the one written"]


def test_a_run_without_heartbeats_proves_nothing() -> None:
    assert "99 of 100 heartbeats are in time" in failed_checks(heartbeats={"healthy": FAST, "slow": Summary()})


def test_a_run_in_which_clients_sent_too_little_proves_nothing() -> None:
    assert failed_checks(heartbeats_due=1300) == ["the heartbeats due were sent"]
    outcome = judge(replace(HEALTHY, heartbeats_due=1300)).outcome
    assert outcome == "The run shows nothing, for it is not true that the heartbeats due were sent."


def test_a_run_in_which_the_module_was_not_slow_proves_nothing() -> None:
    assert failed_checks(kv={"healthy": FAST, "slow": FAST}) == ["KvManager was slow"]
    assert failed_checks(kv={"healthy": FAST, "slow": Summary()}) == ["KvManager was slow"]


def test_a_run_in_which_the_store_did_not_work_before_proves_nothing() -> None:
    assert failed_checks(kv={"healthy": replace(FAST, failed=1), "slow": SLOW}) == ["the store worked before"]
    assert failed_checks(kv={"healthy": Summary(), "slow": SLOW}) == ["the store worked before"]


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"slow_kind": "gil"}, "On a build with a GIL loops can't isolate that: heartbeats were delayed by it"),
        ({"one_loop": True}, "All modules shared one loop, as asked"),
        ({"slow_module": "HealthMonitor"}, "HealthMonitor itself was slow"),
    ],
)
def test_what_breaks_the_claim_by_nature_is_explained(changes: dict[str, Any], remark: str) -> None:
    heartbeats = {"healthy": FAST, "slow": replace(FAST, p50=0.2, p99=0.4)}
    verdict = judge(replace(HEALTHY, heartbeats=heartbeats, **changes))
    assert not verdict.held
    assert remark in verdict.remark
    assert "every node stayed alive" in verdict.remark
    assert "nodes were lost" in judge(replace(HEALTHY, heartbeats=heartbeats, nodes_alive=3, **changes)).remark


def test_a_free_threaded_build_gets_no_excuse() -> None:
    heartbeats = {"healthy": FAST, "slow": replace(FAST, p99=0.4)}
    verdict = judge(replace(HEALTHY, heartbeats=heartbeats, slow_kind="gil", gil_enabled=False))
    assert not verdict.held
    assert verdict.remark == ""


def test_without_controls_a_healthy_run_is_all_that_is_claimed() -> None:
    verdict = judge(replace(HEALTHY, slow_module=None, kv={"healthy": FAST, "slow": FAST}))
    assert verdict.held
    assert verdict.remark.startswith("Nothing was made slow")
    assert verdict.outcome == "The run was healthy; all 200 nodes stayed alive."


def test_a_quantile_is_a_value_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile(values, 1.0)) == (50.0, 99.0, 100.0)
    assert quantile([7.0], 0.5) == quantile([7.0], 0.99) == 7.0


def test_a_recorder_counts_failures_and_keeps_their_latency() -> None:
    recorder = Recorder()
    assert recorder.summary() == Summary()
    recorder.add(0.1, "")
    recorder.add(2.0, "DEADLINE_EXCEEDED")
    assert recorder.summary() == Summary(count=2, failed=1, p50=0.1, p99=2.0, max=2.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0"), (8.71e-4, "871 µs"), (1.23e-3, "1.2 ms"), (0.2134, "213 ms"), (2.665, "2.7 s"), (12.3, "12 s")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
