"""`LagProbe` and `GilGauge`: a loop measured from inside, and how long threads wait for the GIL."""

from __future__ import annotations

import threading
import time

import pytest

import atoll
from atoll.observe import GilGauge, LagProbe
from atoll.testing import ManualClock


def wait_until_measured(probe: LagProbe, count: int) -> None:
    end = time.monotonic() + 60
    while probe.latencies.count < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_lag_is_how_long_a_probe_waits_behind_other_handlers() -> None:
    with atoll.IoContextThread("busy") as thread:
        probe = LagProbe(thread.io_context, 0.001)
        wait_until_measured(probe, 3)
        thread.io_context.submit(time.sleep, 0.1).result(30)
        wait_until_measured(probe, probe.latencies.count + 2)
        assert 0.05 < probe.latencies.max < 30
        probe.stop()


def test_a_probe_that_still_waits_counts_for_the_lag() -> None:
    end = threading.Event()
    with atoll.IoContextThread("stuck") as thread, LagProbe(thread.io_context, 0.001) as probe:
        wait_until_measured(probe, 1)
        thread.io_context.post(end.wait, 60)
        began = time.monotonic()
        while probe.lag < 0.05:
            assert time.monotonic() < began + 60
        end.set()


def test_the_time_before_the_loop_runs_does_not_count() -> None:
    io_context = atoll.IoContext("late")
    with LagProbe(io_context, 0.001) as probe, io_context.work_guard():
        time.sleep(0.05)
        assert probe.lag == 0
        thread = threading.Thread(target=io_context.run)
        thread.start()
        wait_until_measured(probe, 1)
        first = probe.latencies.max
        io_context.stop()
        thread.join()
        assert first < 0.05
    io_context.close()


def test_a_probe_is_no_work() -> None:
    io_context = atoll.IoContext("idle")
    with LagProbe(io_context, 0.001):
        assert io_context.run() == 0
        io_context.restart()
        io_context.post(time.sleep, 0.01)
        assert io_context.run() == 1
    assert io_context.stats().total == 1
    io_context.close()


def test_the_next_probe_follows_after_the_rest_of_the_interval_of_the_loops_own_time() -> None:
    clock = ManualClock()
    io_context = atoll.IoContext("manual", clock=clock)
    with LagProbe(io_context, 1.0) as probe:
        clock.advance(10)
        assert 9 <= probe.latencies.count <= 11
    io_context.close()


def test_a_stopped_probe_measures_no_more() -> None:
    with atoll.IoContextThread("quiet") as thread:
        probe = LagProbe(thread.io_context, 0.001)
        wait_until_measured(probe, 1)
        probe.stop()
        thread.io_context.submit(lambda: None).result(30)
        count = probe.latencies.count
        time.sleep(0.02)
        assert probe.latencies.count == count


@pytest.mark.parametrize("interval", [0, -1.0, float("nan"), float("inf")])
def test_an_interval_is_a_positive_number_of_seconds(interval: float) -> None:
    io_context = atoll.IoContext("never")
    with pytest.raises(ValueError, match="interval"):
        LagProbe(io_context, interval)
    with pytest.raises(ValueError, match="interval"):
        GilGauge(interval)
    io_context.close()


def test_the_gil_gauge_measures_until_it_is_stopped() -> None:
    with GilGauge(0.001) as gauge:
        end = time.monotonic() + 60
        while gauge.waits.count < 5:
            assert time.monotonic() < end
            time.sleep(0.001)
    count = gauge.waits.count
    time.sleep(0.01)
    assert gauge.waits.count == count
    assert gauge.waits.min >= 0
