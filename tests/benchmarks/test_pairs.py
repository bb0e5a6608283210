"""What the benchmarks of atoll beside grpc.aio make of their samples."""

from dataclasses import dataclass
from typing import Any, cast

import pytest
from benchmarks import broadcast, idle, pairs, payload, streaming
from benchmarks.echo_server import Sample
from benchmarks.h2load import Shape
from benchmarks.holding import wait_until
from benchmarks.pairs import Plan
from benchmarks.processes import ChildFailedError
from benchmarks.result import Result
from benchmarks.streaming import Streams


@dataclass
class Message:
    """Stands in for generated messages: as long as its text."""

    sequence: int
    text: str

    def SerializeToString(self) -> bytes:
        return self.text.encode()


class Protos:
    request = Message
    reply = Message


PROTOS = cast("Any", Protos)
TEXT_BYTES = 81


def sample(calls_per_second: float, cpu_us: float) -> Sample:
    return Sample(calls_per_second, cpu_us, mean_us=1.0, p99_us=1.0)


def test_a_ratio_is_taken_within_each_round() -> None:
    result = Result()
    against = pairs.compare("tls.8x16.rate", {"atoll": [10.0, 40.0], "grpc_aio": [1.0, 2.0]}, result)
    assert against is not None
    assert (against.low, against.median, against.high) == (10.0, 15.0, 20.0)
    assert set(result.figures) == {"tls.8x16.atoll.rate", "tls.8x16.grpc_aio.rate", "tls.8x16.atoll.rate.over.grpc_aio"}


def test_without_its_peer_atoll_has_figures_but_no_ratio() -> None:
    result = Result()
    assert pairs.compare("tls.8x16.rate", {"atoll": [10.0]}, result) is None
    assert set(result.figures) == {"tls.8x16.atoll.rate"}


def test_a_plan_counts_both_servers_and_the_runs_with_a_log() -> None:
    each = 2 * (4.0 * 1.25 + pairs.OVERHEAD_SECONDS) + pairs.WARM_UP_SECONDS
    assert Plan(rounds=2, seconds=4.0).expected_seconds(3) == pytest.approx(2 * 3 * each)


def test_a_server_stream_must_bring_all_of_its_messages() -> None:
    body, reply_bytes = streaming.body_and_reply_bytes("Deliver", 1000, PROTOS)
    assert (len(body), reply_bytes) == (5 + TEXT_BYTES, 1000 * (5 + TEXT_BYTES))


def test_the_reply_to_a_client_stream_is_as_long_as_the_stream_had_messages() -> None:
    body, reply_bytes = streaming.body_and_reply_bytes("Collect", 200, PROTOS)
    assert (len(body), reply_bytes) == (200 * (5 + TEXT_BYTES), 5 + 200)


def test_both_ways_as_much_comes_back_as_was_sent() -> None:
    body, reply_bytes = streaming.body_and_reply_bytes("Converse", 200, PROTOS)
    assert len(body) == reply_bytes == 200 * (5 + TEXT_BYTES)


def test_rates_and_costs_of_streams_are_per_message() -> None:
    result = Result()
    name = streaming.case_name("Deliver", Streams(Shape(4, 25), 200))
    streaming.report(name, 200, {"atoll": [sample(50.0, 400.0)], "grpc_aio": [sample(5.0, 4000.0)]}, result)
    assert result.figures["streaming.server.100.atoll.messages_per_second"].median == 10_000
    assert result.figures["streaming.server.100.grpc_aio.cpu_us"].median == 20
    assert result.figures["streaming.server.100.atoll.messages_per_second.over.grpc_aio"].median == 10


def test_payloads_are_counted_in_bytes_each_way() -> None:
    result = Result()
    payload.report("1MiB", {"atoll": [sample(3.0, 1.0)], "grpc_aio": [sample(2.0, 1.0)]}, result)
    assert result.figures["payload.1MiB.atoll.bytes_per_second"].median == 3 * 1024 * 1024
    assert result.figures["payload.1MiB.atoll.bytes_per_second.over.grpc_aio"].median == 1.5


def test_memory_is_the_growth_shared_among_the_connections() -> None:
    assert idle.kib_per_connection(5 * 1024, 5 * 1024 + 1000 * 32 * 1024, 1000) == 32


def test_a_broadcast_is_reported_message_by_message() -> None:
    result = Result()
    quick, slow = {"cpu_ms": 10.0, "send_us": 20.0}, {"cpu_ms": 400.0, "send_us": 40_000.0}
    broadcast.report({"atoll": [quick], "grpc_aio": [slow]}, result)
    assert result.figures["broadcast.atoll.cpu_ms"].median == 10
    assert result.figures["broadcast.atoll.cpu_ms.over.grpc_aio"].median == 0.025
    assert result.figures["broadcast.grpc_aio.send_us"].median == 40_000


def test_waiting_ends_with_the_expected_count() -> None:
    counts = iter([1, 2, 3])
    wait_until(lambda: next(counts), 3, "calls")


def test_a_count_beyond_what_was_expected_is_an_error_at_once() -> None:
    with pytest.raises(ChildFailedError, match="calls should be 3 and is 4"):
        wait_until(lambda: 4, 3, "calls")


def test_a_count_that_does_not_come_is_an_error() -> None:
    with pytest.raises(ChildFailedError, match="calls should be 3 and is 2"):
        wait_until(lambda: 2, 3, "calls", timeout=0.0)
