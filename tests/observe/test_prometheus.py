"""Loops as Prometheus gets them."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import prometheus_client
import pytest
from prometheus_client import parser

import atoll
from atoll.errors import MailboxFull
from atoll.observe import LagProbe, PrometheusCollector, prometheus_text
from atoll.observe import _metrics as metrics
from atoll.observe._calls import all_metrics

if TYPE_CHECKING:
    from prometheus_client import Metric

PATIENCE = 30.0


def scraped(io_contexts: list[atoll.IoContext] | None) -> dict[str, Metric]:
    """What a scrape finds, by the names of the table."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(PrometheusCollector(io_contexts))
    return families(prometheus_client.generate_latest(registry).decode())


def families(text: str) -> dict[str, Metric]:
    found = parser.text_string_to_metric_families(text)
    return {metric.name + ("_total" if metric.type == "counter" else ""): metric for metric in found}


def values(metric: Metric, suffix: str = "", **labels: str) -> dict[tuple[str, ...], float]:
    """The samples that have these labels, by the values of their others."""
    name = metric.name + ("_total" if metric.type == "counter" else "") + suffix
    return {
        tuple(value for label, value in sample.labels.items() if label not in labels): sample.value
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    }


def test_a_scrape_has_the_metrics_of_the_table(worked: list[atoll.IoContext]) -> None:
    found = scraped(worked)
    assert {name: (metric.type, metric.documentation) for name, metric in found.items()} == {
        metric.name: (metric.kind, metric.help) for metric in metrics.METRICS
    }
    for metric in metrics.METRICS:
        for sample in found[metric.name].samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)


def test_the_native_text_has_the_metrics_of_the_table(worked: list[atoll.IoContext]) -> None:
    found = families(prometheus_text())
    table: dict[str, tuple[str, str]] = {metric.name: (metric.kind, metric.help) for metric in metrics.METRICS}
    table |= {metric.name: (metric.kind, metric.help) for metric in all_metrics()}
    assert {name: (metric.type, metric.documentation) for name, metric in found.items()} == table
    for metric in metrics.METRICS:
        for sample in found[metric.name].samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
    assert {io_context.name for io_context in worked} <= {
        sample.labels["loop"] for sample in found["atoll_loop_queued"].samples
    }


def test_the_native_text_says_what_the_collector_says(worked: list[atoll.IoContext]) -> None:
    native, collected = families(prometheus_text()), scraped(worked)
    for metric in metrics.METRICS:
        if metric in {metrics.TIME, metrics.LAG, metrics.PROBE, metrics.GIL_WAIT}:
            continue  # they go on while nothing happens, or belong to no loop
        for io_context in worked:
            for suffix in ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",):
                expected = values(collected[metric.name], suffix, loop=io_context.name)
                assert expected or metric == metrics.WALL
                assert values(native[metric.name], suffix, loop=io_context.name) == expected


def test_the_native_text_knows_how_long_the_oldest_has_waited(stuck: list[atoll.IoContext]) -> None:
    earlier, later = families(prometheus_text()), families(prometheus_text())
    for io_context in stuck:
        before = values(earlier["atoll_loop_lag_seconds"], loop=io_context.name)[()]
        assert 0 < before < values(later["atoll_loop_lag_seconds"], loop=io_context.name)[()]
        assert values(later["atoll_handlers_running"], loop=io_context.name)["stuck",] == 1
        assert values(later["atoll_loop_queued"], loop=io_context.name)["normal",] == 1


def test_the_collector_knows_how_long_the_oldest_has_waited_and_what_a_lag_probe_tells(
    stuck: list[atoll.IoContext],
) -> None:
    probed, other = stuck
    with LagProbe(probed):
        earlier, later = scraped(stuck), scraped(stuck)
        for io_context in stuck:
            before = values(earlier["atoll_loop_lag_seconds"], loop=io_context.name)[()]
            assert 0 < before < values(later["atoll_loop_lag_seconds"], loop=io_context.name)[()]
        assert set(values(later["io_context_event_loop_lag"], loop=probed.name)) == {()}
        assert not values(later["io_context_event_loop_lag"], loop=other.name)
    assert not scraped(stuck)["io_context_event_loop_lag"].samples


def test_what_found_no_room_is_exported_by_lane() -> None:
    io_context = atoll.IoContext("full", max_queued=1)
    io_context.post(print, lane="bulk")
    for _ in range(3):
        with pytest.raises(MailboxFull):
            io_context.post(print, lane="bulk")
    for found in (scraped([io_context]), families(prometheus_text())):
        refused = values(found["atoll_loop_refused_total"], loop="full")
        assert refused == {("control",): 0, ("normal",): 0, ("bulk",): 3}
    io_context.close()


def test_the_native_text_leaves_out_loops_that_are_closed_and_handlers_that_are_not_recorded() -> None:
    closed, unrecorded = atoll.IoContext("closed"), atoll.IoContext("unrecorded", recording=False)
    unrecorded.post(print)
    closed.close()
    found = families(prometheus_text())
    assert not values(found["atoll_loop_queued"], loop="closed")
    assert values(found["atoll_loop_queued"], loop="unrecorded")["normal",] == 1
    assert not values(found["atoll_handlers_total"], loop="unrecorded")
    unrecorded.close()


def test_a_scrape_says_what_stats_say(worked: list[atoll.IoContext]) -> None:
    found = scraped(worked)
    for io_context in worked:
        stats, loop = io_context.stats(), io_context.name
        for name, value in (
            ("atoll_handlers_total", "total"),
            ("atoll_handler_errors_total", "errors"),
            ("atoll_handlers_active", "active"),
            ("atoll_handlers_running", "running"),
        ):
            assert values(found[name], loop=loop) == {(each.name,): getattr(each, value) for each in stats}
        for name, kind in (("queue", "queue_time"), ("execution", "execution_time"), ("wall", "wall_time")):
            family = found[f"atoll_handler_{name}_seconds"]
            seen = {(each.name,): getattr(each, kind) for each in stats if getattr(each, kind).count}
            assert values(family, "_count", loop=loop) == {labels: each.count for labels, each in seen.items()}
            assert values(family, "_sum", loop=loop) == {labels: each.sum for labels, each in seen.items()}
        assert values(found["atoll_loop_queued"], loop=loop) == {("control",): 0, ("normal",): 0, ("bulk",): 1}
        assert values(found["atoll_loop_delayed"], loop=loop) == {(): 1}
        assert values(found["atoll_loop_work_guards"], loop=loop) == {(): 0}
        assert set(values(found["atoll_loop_time_seconds_total"], loop=loop)) == {("idle",), ("waiting",), ("running",)}


def test_the_buckets_of_a_histogram_are_cumulative_up_to_its_count(worked: list[atoll.IoContext]) -> None:
    family = scraped(worked)["atoll_handler_execution_seconds"]
    labels = {"loop": "node_manager", "handler": "NodeService.Register"}
    buckets = {float(bound): count for (bound,), count in values(family, "_bucket", **labels).items()}
    assert list(buckets) == [*metrics.BOUNDS, float("inf")]
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets[0.0005] == 0, "each slept for a millisecond"
    assert buckets[float("inf")] == 3


def test_counters_and_buckets_only_grow_from_scrape_to_scrape() -> None:
    with atoll.IoContextThread("busy") as thread:
        before: dict[tuple[str, ...], float] = {}
        for _ in range(30):
            for _ in range(20):
                thread.io_context.post(int, name="quick")
            now = {
                (sample.name, *sample.labels.values()): sample.value
                for family in scraped([thread.io_context]).values()
                if family.type != "gauge"
                for sample in family.samples
            }
            assert all(now[series] >= value for series, value in before.items())
            before = now


def test_a_scrape_works_while_every_loop_is_stuck(stuck: list[atoll.IoContext]) -> None:
    found = scraped(stuck)
    for io_context in stuck:
        assert values(found["atoll_handlers_running"], loop=io_context.name)["stuck",] == 1
        assert values(found["atoll_loop_queued"], loop=io_context.name)["normal",] == 1


def test_without_a_choice_all_loops_are_exported_also_those_that_come_later() -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(PrometheusCollector())
    with atoll.IoContextThread("came later") as thread:
        thread.io_context.submit(int, name="quick").result(PATIENCE)
        found = families(prometheus_client.generate_latest(registry).decode())
        assert values(found["atoll_handlers_total"], loop="came later")["quick",] == 1


def test_a_loop_that_is_closed_or_gone_is_not_exported(worked: list[atoll.IoContext]) -> None:
    collector = PrometheusCollector([atoll.IoContext("gone"), *worked])
    worked[0].close()
    loops = {
        sample.labels["loop"]
        for family in collector.collect()
        for sample in family.samples
        if "loop" in sample.labels  # the waits for the GIL belong to none
    }
    assert loops == {"kv_manager"}


def test_registering_finds_names_that_are_taken_and_collects_nothing(worked: list[atoll.IoContext]) -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(PrometheusCollector(worked))
    with pytest.raises(ValueError, match="atoll_handlers"):
        registry.register(PrometheusCollector(worked))
    assert not any(family.samples for family in PrometheusCollector(worked).describe())


def test_two_scrapes_at_once_agree(worked: list[atoll.IoContext]) -> None:
    texts: list[dict[str, Metric]] = []
    threads = [threading.Thread(target=lambda: texts.append(scraped(worked))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    totals = [values(found["atoll_handlers_total"], loop="node_manager") for found in texts]
    assert totals == [totals[0]] * 4


def test_without_prometheus_client_the_error_says_what_to_install() -> None:
    program = """
import sys
sys.modules["prometheus_client"] = None
import atoll.observe
atoll.observe.PrometheusCollector()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "ImportError: PrometheusCollector needs prometheus_client: pip install 'atoll[prometheus]'" in ended.stderr
