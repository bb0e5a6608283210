"""How long threads wait for the GIL: measured as long as somebody observes, and exported."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prometheus_client
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import parser

import atoll
from atoll.loop import gil_is_enabled
from atoll.observe import (
    GilGauge,
    LoopMonitor,
    MonitorOptions,
    ObserveEndpoint,
    PrometheusCollector,
    instrument_opentelemetry,
    prometheus_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable

needs_a_gil = pytest.mark.skipif(not gil_is_enabled(), reason="there is nothing to wait for")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists threads by name")


def threads() -> list[str]:
    """The names of the process's threads, native ones included."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            names.append(path.read_text().strip())
    return names


def running() -> int:
    """How many gauges run; a thread has its name a moment after its start."""
    return threads().count("atoll-gil-gauge")


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def native(name: str) -> list[float]:
    """The values of the samples of that name in the native text."""
    found = parser.text_string_to_metric_families(prometheus_text())
    return [sample.value for family in found for sample in family.samples if sample.name == name]


@pytest.fixture
def measured() -> None:
    """What gauges have measured and measure no more."""
    with GilGauge(0.001) as gauge:
        wait_for(lambda: gauge.waits.count >= 5)


@pytest.mark.usefixtures("measured")
def test_the_waits_are_in_the_native_text_and_the_collector_says_the_same() -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(PrometheusCollector([]))
    collected = {
        (sample.name, *sample.labels.items()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if family.name == "atoll_gil_wait_seconds"
    }
    found = {
        (sample.name, *sample.labels.items()): sample.value
        for family in parser.text_string_to_metric_families(prometheus_text())
        for sample in family.samples
        if family.name == "atoll_gil_wait_seconds"
    }
    assert found == collected
    assert found["atoll_gil_wait_seconds_count",] >= 5


@pytest.mark.usefixtures("measured")
def test_the_waits_are_in_opentelemetry() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    instrument_opentelemetry(provider, [])
    data: Any = reader.get_metrics_data()
    found = {
        metric.name: [(dict(point.attributes), point.value) for point in metric.data.data_points]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    provider.shutdown()
    assert found["atoll.gil.wait.count"] == [({}, native("atoll_gil_wait_seconds_count")[0])]
    assert found["atoll.gil.wait.sum"] == [({}, pytest.approx(native("atoll_gil_wait_seconds_sum")[0]))]
    assert [attributes for attributes, _ in found["atoll.gil.wait.quantile"]] == [
        {"quantile": quantile} for quantile in (0.5, 0.9, 0.99)
    ]


def test_the_waits_never_get_fewer_when_a_gauge_ends_and_another_begins() -> None:
    counts = [0.0]
    for _ in range(3):
        with GilGauge(0.001) as gauge:
            wait_for(lambda: gauge.waits.count >= 3)
        counts += native("atoll_gil_wait_seconds_count")
    assert counts == sorted(set(counts))


@linux
@needs_a_gil
def test_observers_share_a_gauge_that_ends_with_the_last_of_them() -> None:
    assert running() == 0
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        monitor = first.enter_context(LoopMonitor())
        second.enter_context(ObserveEndpoint("127.0.0.1:0"))
        wait_for(lambda: {"atoll-observe", "atoll-gil-gauge"} <= set(threads()))
        assert running() == 1
        before = native("atoll_gil_wait_seconds_count") or [0]
        wait_for(lambda: native("atoll_gil_wait_seconds_count") > before)
        first.close()
        assert running() == 1
        monitor.stop()
        assert running() == 1, "a second stop lets nothing go"
        second.close()
        assert running() == 0


@linux
def test_a_gauge_can_be_switched_off() -> None:
    with (
        LoopMonitor(MonitorOptions(gil_gauge=False)),
        ObserveEndpoint("127.0.0.1:0", gil_gauge=False) as endpoint,
    ):
        endpoint.start()
        wait_for(lambda: {"atoll-observe", "atoll-monitor"} <= set(threads()))
        assert running() == 0


@linux
@needs_a_gil
@pytest.mark.parametrize("wanted", [True, False])
def test_a_provider_has_a_gauge_if_its_monitor_has(wanted: bool) -> None:  # noqa: FBT001 - a parameter of the test
    class Module:
        """Lives somewhere."""

    class Placement(atoll.IoContextPolicy[Module]):
        """One loop."""

        somewhere = atoll.dedicated(Module)

    async def main() -> None:
        with LoopMonitor(MonitorOptions(gil_gauge=wanted)) as monitor:
            async with atoll.IoContextProvider(Placement, monitor=monitor, observe="127.0.0.1:0"):
                wait_for(lambda: "atoll-observe" in threads() and running() == int(wanted))
        assert running() == 0

    asyncio.run(main())


LEFT_RUNNING = """
import atexit, os, time
from atoll.observe import LoopMonitor, ObserveEndpoint, prometheus_text

monitor, endpoint = LoopMonitor(), ObserveEndpoint("127.0.0.1:0")
monitor.start()
endpoint.start()
while "atoll_gil_wait_seconds_count" not in prometheus_text():
    time.sleep(0.001)
child = os.fork()
if not child:
    assert "atoll_gil_wait_seconds_count" not in prometheus_text(), "the child has waited for nothing yet"
    endpoint.start()
    while "atoll_gil_wait_seconds_count" not in prometheus_text():
        time.sleep(0.001)
    print("the child measures", flush=True)
    endpoint.stop()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("left to the interpreter's end")
"""


@needs_a_gil
def test_a_gauge_that_is_left_running_ends_with_the_interpreter_and_a_forked_child_has_its_own() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", LEFT_RUNNING],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "the child measures\nleft to the interpreter's end\n"
