"""What servers count, as exporters have it."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import gc
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from prometheus_client import parser
from tests.rpc.support import ClientProcess, add_methods, path, running, until

from atoll import rpc
from atoll.observe import PrometheusCollector, instrument_opentelemetry, prometheus_text
from atoll.observe._calls import all_metrics, call_table, server_table

SERVICE = "atoll.tests.v1.Exported"
ANSWER = path("Answer", SERVICE)
METHOD = ANSWER.removeprefix("/")
ROOT = Path(__file__).parents[2]


async def answer(request: bytes, context: Any) -> bytes:
    return b"answered"


def samples(text: str) -> dict[tuple[str, ...], float]:
    """The samples of calls of our method, by name and second label."""
    return {
        (sample.name, *(value for label, value in sample.labels.items() if label != "method")): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("method") == METHOD
    }


EXPECTED = {
    ("atoll_rpc_started_total",): 3.0,
    ("atoll_rpc_finished_total", "OK"): 2.0,
    ("atoll_rpc_finished_total", "RESOURCE_EXHAUSTED"): 1.0,
    ("atoll_rpc_refused_total", "method_limit"): 1.0,
    ("atoll_rpc_overdue_total",): 0.0,
    ("atoll_rpc_in_flight",): 0.0,
    ("atoll_rpc_waiting",): 0.0,
    ("atoll_rpc_received_bytes_total",): 10.0,
    ("atoll_rpc_sent_bytes_total",): 2.0 * (5 + len(b"answered")),
}


def collected() -> str:
    registry = prometheus_client.CollectorRegistry()
    registry.register(PrometheusCollector())
    return prometheus_client.generate_latest(registry).decode()


def since(before: dict[tuple[str, ...], float], text: str) -> dict[tuple[str, ...], float]:
    """What was added to our method; the process counts it for as long as it lives."""
    return {key: value - before.get(key, 0.0) for key, value in samples(text).items()}


async def test_calls_are_in_the_native_text_and_in_the_collectors(client: ClientProcess) -> None:
    before = samples(prometheus_text())
    server = rpc.server()
    limited = rpc.server(method_options=rpc.MethodOptions(max_active_rpcs=1))
    leave = False

    async def hold(request: bytes, context: Any) -> bytes:
        await until(lambda: leave)
        return b"answered"

    add_methods(server, service=SERVICE, Answer=answer)
    add_methods(limited, service=SERVICE, Answer=hold)
    async with running(server) as target, running(limited) as limited_target:
        await client.call(target, ANSWER, b"12345")
        held = client.start(limited_target, ANSWER, b"12345")
        await until(lambda: limited.stats()[ANSWER].in_flight == 1)
        await client.call(limited_target, ANSWER, b"12345")
        leave = True
        await held.outcome()
        await until(lambda: limited.stats().in_flight == server.stats().in_flight == 0)
        assert since(before, prometheus_text()) == EXPECTED, "two servers add up"
        assert since(before, collected()) == EXPECTED
    assert since(before, prometheus_text()) == EXPECTED, "servers that have ended stay counted"
    assert since(before, collected()) == EXPECTED


async def test_a_method_goes_on_where_the_server_before_it_ended(client: ClientProcess) -> None:
    started = "atoll_rpc_started_total"
    before = samples(prometheus_text()).get((started,), 0.0)
    for count in range(1, 4):
        server = rpc.server()
        add_methods(server, service=SERVICE, Answer=answer)
        async with running(server) as target:
            await client.call(target, ANSWER)
            del target
        assert samples(prometheus_text())[started,] == before + count
        del server
        gc.collect()
        assert samples(prometheus_text())[started,] == before + count


async def test_calls_are_instruments_of_opentelemetry(client: ClientProcess) -> None:
    metrics = pytest.importorskip("opentelemetry.sdk.metrics")
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    reader = export.InMemoryMetricReader()
    provider = metrics.MeterProvider([reader])
    instrument_opentelemetry(provider)
    server = rpc.server()
    add_methods(server, service=SERVICE, Answer=answer)
    async with running(server) as target:
        await client.call(target, ANSWER)
        await until(lambda: server.stats().in_flight == 0)
        data = reader.get_metrics_data()
        found = {
            metric.name: {tuple(point.attributes.values()): point.value for point in metric.data.data_points}
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
    assert found["atoll.rpc.started"][METHOD,] >= 1
    assert found["atoll.rpc.finished"][METHOD, "OK"] >= 1
    assert found["atoll.rpc.in_flight"][METHOD,] == 0
    assert found["atoll.server.connections"][()] >= 1
    assert found["atoll.server.offences"]["http1",] >= 0
    assert found["atoll.server.tls_handshakes"]["failed",] >= 0
    provider.shutdown()


def test_the_page_shows_the_table_of_the_code() -> None:
    shown = (ROOT / "docs" / "metrics.md").read_text()
    assert call_table() in shown, "put what atoll.observe._calls.call_table() returns into docs/metrics.md"
    assert server_table() in shown, "put what atoll.observe._calls.server_table() returns into docs/metrics.md"


def test_names_follow_prometheus_conventions() -> None:
    for metric in all_metrics():
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert metric.help.endswith(".")
