"""The one table of metrics, and the samples that are taken by it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import atoll
from atoll.observe import _metrics as metrics
from atoll.observe import _samples as samples

ROOT = Path(__file__).parents[2]
EMPTY = atoll.Distribution()


def tables(page: str) -> list[str]:
    return re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE)


def test_the_page_shows_the_tables_of_the_code() -> None:
    shown = tables((ROOT / "docs" / "metrics.md").read_text())
    assert metrics.table() + "\n" in shown, "put what atoll.observe._metrics.table() returns into docs/metrics.md"
    assert metrics.opentelemetry_table() + "\n" in shown, "likewise opentelemetry_table()"


def test_names_follow_prometheus_conventions() -> None:
    for metric in metrics.METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert metric.help.endswith(".")
        # `io_context_event_loop_lag` has the name that those who come from Ray look for.
        if metric.unit == "s" and metric.name != "io_context_event_loop_lag":
            assert metric.name.removesuffix("_total").endswith("_seconds")
    names = [metric.name for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    instruments = [instrument.name for instrument in metrics.opentelemetry_instruments()]
    assert len(set(instruments)) == len(instruments)


def test_labels_are_of_a_bounded_kind() -> None:
    assert {label for metric in metrics.METRICS for label in metric.labels} == {"loop", "handler", "lane", "state"}


def test_bounds_are_1_2_and_5_times_powers_of_ten() -> None:
    assert list(metrics.BOUNDS) == sorted(metrics.BOUNDS)
    assert [bound for bound in metrics.BOUNDS if f"{bound:e}"[0] not in "125"] == []
    assert (metrics.BOUNDS[0], metrics.BOUNDS[-1]) == (10e-6, 10.0)


def test_no_duration_counts_as_shorter_than_it_was() -> None:
    # In buckets as the loops have them: the bound 1 ms lies within the second, 10 s within the last.
    buckets = ((0.0008, 0.0009, 1), (0.00096, 0.00104, 2), (0.5, 0.5, 4), (9.5, 10.5, 8), (100.0, 110.0, 16))
    counts = dict(
        zip(
            [*metrics.BOUNDS, float("inf")],
            samples.cumulative(atoll.Distribution(31, 1.0, 0.0, 110.0, buckets)),
            strict=True,
        )
    )
    assert counts[0.0005] == 0
    assert counts[0.001] == 1
    assert counts[0.002] == 3
    assert counts[0.2] == 3
    assert counts[0.5] == 7
    assert counts[10.0] == 7
    assert counts[float("inf")] == 31


def test_an_empty_distribution_counts_nothing_at_any_bound() -> None:
    assert set(samples.cumulative(EMPTY)) == {0}


def of(name: str, **handlers: int) -> atoll.LoopStats:
    """A loop that has run so many handlers, a millisecond each."""
    return atoll.LoopStats(
        name,
        {"control": 0, "normal": 1, "bulk": 2},
        3,
        4,
        tuple(
            atoll.EventStats(
                handler,
                count,
                1,
                0,
                0,
                EMPTY,
                atoll.Distribution(count, count / 1e3, 1e-3, 1e-3, ((1e-3, 1e-3, count),)),
                EMPTY,
            )
            for handler, count in handlers.items()
        ),
        time=atoll.LoopTime(1.0, 2.0, 3.0),
    )


def test_loops_of_one_name_are_added_up() -> None:
    other, worker = samples.by_name([of("other", a=1), of("worker", a=1, b=2), of("worker", b=3, c=4)])
    assert other == of("other", a=1)
    assert {handler.name: handler.total for handler in worker} == {"a": 1, "b": 5, "c": 4}
    assert (worker["b"].active, worker["b"].execution_time.count) == (2, 5)
    assert (worker.queued, worker.delayed, worker.guards) == ({"control": 0, "normal": 2, "bulk": 4}, 6, 8)
    assert worker.time == atoll.LoopTime(2.0, 4.0, 6.0)


def test_of_loops_of_one_name_the_refused_are_added_up_and_the_larger_lags_count() -> None:
    first = replace(of("worker"), refused={"control": 0, "normal": 1, "bulk": 2}, oldest_queued=2.0, lag=0.5)
    second = replace(of("worker"), refused={"control": 0, "normal": 1, "bulk": 2}, oldest_queued=1.0, lag=1.5)
    for loops in ([first, second], [second, first]):
        [worker] = samples.by_name(loops)
        assert worker.refused == {"control": 0, "normal": 2, "bulk": 4}
        assert (worker.oldest_queued, worker.lag) == (2.0, 1.5)
    [unprobed] = samples.by_name([replace(second, lag=None), replace(first, lag=None)])
    assert unprobed.lag is None


@pytest.mark.parametrize("metric", metrics.METRICS, ids=lambda metric: metric.name)
def test_each_sample_has_the_labels_of_the_table_and_comes_once(metric: metrics.Metric) -> None:
    loops = samples.by_name([of("worker", a=1, b=2), of("worker", b=3, c=4), of("other")])
    found = (
        samples.distributions(metric, loops, atoll.Distribution(1, 1.0, 1.0, 1.0, ((1.0, 1.0, 1),)))
        if metric.kind == "histogram"
        else samples.samples(metric, loops)
    )
    labels = [labels for labels, _ in found]
    assert len(set(labels)) == len(labels)
    assert all(len(each) == len(metric.labels) for each in labels)
