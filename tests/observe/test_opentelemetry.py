"""Loops as OpenTelemetry gets them, read back by its SDK."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, InMemoryMetricReader, Sum

import atoll
from atoll.observe import LagProbe, _opentelemetry, instrument_opentelemetry
from atoll.observe import _metrics as metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.sdk.metrics.export import Metric

PATIENCE = 30.0


@pytest.fixture
def provider() -> Iterator[tuple[MeterProvider, InMemoryMetricReader]]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield provider, reader
    provider.shutdown()


def collected(reader: InMemoryMetricReader) -> dict[str, Metric]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    assert {scope.scope.name for scope in scopes} <= {"atoll"}
    return {metric.name: metric for scope in scopes for metric in scope.metrics}


def values(metric: Metric, **attributes: str) -> dict[tuple[Any, ...], float]:
    """The points that have these attributes, by the values of their others."""
    found = {}
    for point in metric.data.data_points:
        if point.attributes is not None and attributes.items() <= point.attributes.items():
            key = tuple(value for name, value in point.attributes.items() if name not in attributes)
            found[key] = point.value  # type: ignore[union-attr]  # a histogram's has none, and there is no histogram
    return found


def test_the_instruments_are_those_of_the_table(
    worked: list[atoll.IoContext], provider: tuple[MeterProvider, InMemoryMetricReader]
) -> None:
    instrument_opentelemetry(provider[0], worked)
    found = collected(provider[1])
    kinds = {
        "observable counter": (Sum, True),
        "observable up-down counter": (Sum, False),
        "observable gauge": (Gauge, None),
    }
    for instrument in metrics.opentelemetry_instruments():
        if instrument.metric in {metrics.PROBE, metrics.GIL_WAIT}:
            found.pop(instrument.name, None)
            continue  # these loops have no probe, and whether the GIL is measured is for others to say
        metric = found.pop(instrument.name)
        kind, monotonic = kinds[instrument.kind]
        assert isinstance(metric.data, kind)
        assert getattr(metric.data, "is_monotonic", None) == monotonic
        assert (metric.unit, metric.description) == (instrument.unit, instrument.metric.help)
        for point in metric.data.data_points:
            assert set(point.attributes or ()) - {"quantile"} == set(instrument.metric.labels)
    assert not found


def test_what_is_collected_is_what_stats_say(
    worked: list[atoll.IoContext], provider: tuple[MeterProvider, InMemoryMetricReader]
) -> None:
    instrument_opentelemetry(provider[0], worked)
    found = collected(provider[1])
    for io_context in worked:
        stats, loop = io_context.stats(), io_context.name
        for name, value in (("count", "total"), ("errors", "errors"), ("active", "active"), ("running", "running")):
            assert values(found[f"atoll.handler.{name}"], loop=loop) == {
                (each.name,): getattr(each, value) for each in stats
            }
        for name, kind in (("queue", "queue_time"), ("execution", "execution_time"), ("wall", "wall_time")):
            seen = {each.name: getattr(each, kind) for each in stats if getattr(each, kind).count}
            of_kind = f"atoll.handler.{name}"
            counts = values(found[f"{of_kind}.count"], loop=loop)
            assert counts == {(handler,): each.count for handler, each in seen.items()}
            sums = values(found[f"{of_kind}.sum"], loop=loop)
            assert sums == {(handler,): each.sum for handler, each in seen.items()}
            assert values(found[f"{of_kind}.quantile"], loop=loop) == {
                (handler, fraction): each.quantile(fraction)
                for handler, each in seen.items()
                for fraction in (0.5, 0.9, 0.99)
            }
        assert values(found["atoll.loop.queued"], loop=loop) == {("control",): 0, ("normal",): 0, ("bulk",): 1}
        assert values(found["atoll.loop.refused"], loop=loop) == {("control",): 0, ("normal",): 0, ("bulk",): 0}
        assert values(found["atoll.loop.lag"], loop=loop)[()] > 0, "a handler waits"
        assert values(found["atoll.loop.delayed"], loop=loop) == {(): 1}
        assert set(values(found["atoll.loop.time"], loop=loop)) == {("idle",), ("waiting",), ("running",)}


def test_what_a_lag_probe_tells_is_collected(
    stuck: list[atoll.IoContext], provider: tuple[MeterProvider, InMemoryMetricReader]
) -> None:
    instrument_opentelemetry(provider[0], stuck)
    with LagProbe(stuck[0]):
        assert values(collected(provider[1])["io_context_event_loop_lag"]) == {(stuck[0].name,): 0.0}


def test_each_collection_sees_one_new_snapshot(
    worked: list[atoll.IoContext],
    provider: tuple[MeterProvider, InMemoryMetricReader],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []
    stats = atoll.IoContext.stats

    def counted(io_context: atoll.IoContext) -> atoll.LoopStats:
        taken.append(io_context.name)
        return stats(io_context)

    monkeypatch.setattr(atoll.IoContext, "stats", counted)
    instrument_opentelemetry(provider[0], worked)
    for round_number in range(1, 4):
        found = collected(provider[1])
        assert values(found["atoll.loop.queued"], loop="kv_manager")["normal",] == round_number - 1
        assert taken == ["node_manager", "kv_manager"] * round_number
        worked[1].post(print)


def test_a_collection_works_while_every_loop_is_stuck(
    stuck: list[atoll.IoContext], provider: tuple[MeterProvider, InMemoryMetricReader]
) -> None:
    instrument_opentelemetry(provider[0], stuck)
    found = collected(provider[1])
    for io_context in stuck:
        assert values(found["atoll.handler.running"], loop=io_context.name)["stuck",] == 1


def test_without_a_choice_all_loops_are_exported_and_closed_ones_end(
    provider: tuple[MeterProvider, InMemoryMetricReader],
) -> None:
    instrument_opentelemetry(provider[0])
    with atoll.IoContextThread("came later") as thread:
        thread.io_context.submit(time.sleep, 0, name="nap").result(PATIENCE)
        found = collected(provider[1])
        assert values(found["atoll.handler.count"], loop="came later") == {("nap",): 1}
    found = collected(provider[1])
    assert "atoll.handler.count" not in found or not values(found["atoll.handler.count"], loop="came later")


class Scripted:
    """Loops whose snapshots are given, as `_Observed` asks for them."""

    def __init__(self) -> None:
        self.io_context = atoll.IoContext("scripted")
        self.now = 0.0
        self.durations: list[float] = []

    def io_contexts(self) -> Iterable[Any]:
        return [self]

    def stats(self) -> atoll.LoopStats:
        counts: dict[float, int] = {}
        for duration in self.durations:
            counts[duration] = counts.get(duration, 0) + 1
        buckets = tuple((each, each, count) for each, count in sorted(counts.items()))
        seen = atoll.Distribution(
            len(self.durations), sum(self.durations), min(self.durations), max(self.durations), buckets
        )
        empty = atoll.Distribution()
        work = atoll.EventStats("work", len(self.durations), 0, 0, 0, empty, seen, empty)
        queued = {"control": 0, "normal": 0, "bulk": 0}
        return atoll.LoopStats("scripted", queued, 0, 0, (work,), self.now, self.now)


def test_quantiles_are_of_the_last_window_however_often_somebody_collects() -> None:
    loop = Scripted()
    observed = _opentelemetry._Observed(loop, 60.0)  # type: ignore[arg-type]  # it has what is asked for
    loop.durations = [2.0] * 100
    widths = []
    for second in range(600):
        loop.now = float(second)
        loop.durations.append(0.001)
        observed.refresh_for("atoll.handler.execution.quantile")
        [window] = observed.windows
        [kept] = observed._earlier.values()
        assert len(kept) <= 8
        if second >= 60:
            assert window["work"].execution_time.p99 == 0.001, "the slow start is over"
            widths.append(window.uptime)
        else:
            assert window["work"].execution_time.p99 == 2.0
    assert 60.0 <= min(widths) <= max(widths) <= 72.0
    loop.io_context.close()


def test_a_window_of_no_length_is_an_error_that_shows_a_right_one() -> None:
    for window in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"give 60\.0"):
            instrument_opentelemetry(quantile_window=window)


def test_without_opentelemetry_the_error_says_what_to_install() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
import atoll.observe
atoll.observe.instrument_opentelemetry()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "needs OpenTelemetry's API: pip install 'atoll[opentelemetry]'" in ended.stderr
