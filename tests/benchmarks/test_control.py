"""The benchmarks of the control plane, each at its smallest, and the client that they are driven by."""

from __future__ import annotations

import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.__main__ import BENCHMARKS, GROUPS
from benchmarks.control import plan, requests
from benchmarks.control.failover import FailoverBenchmark
from benchmarks.control.kv import KvBenchmark
from benchmarks.control.kv import report as report_kv
from benchmarks.control.line import Line, Lines
from benchmarks.control.nodes import NodesBenchmark
from benchmarks.control.restart import RestartBenchmark
from benchmarks.control.watchers import WatchersBenchmark
from benchmarks.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    SETTINGS,
    ConnectionLostError,
    frame,
    opening,
)
from benchmarks.progress import Progress
from benchmarks.result import Result
from benchmarks.thresholds import committed
from tests import etcd

if TYPE_CHECKING:
    from collections.abc import Iterator

from atoll_control.api.v1 import kv_pb2

pytestmark = pytest.mark.once

BENCHMARKS_OF_CONTROL = (NodesBenchmark, KvBenchmark, WatchersBenchmark, RestartBenchmark, FailoverBenchmark)
MESSAGE = b"\0\0\0\0\5reply"
OK = END_HEADERS | END_STREAM


@pytest.fixture
def line() -> Iterator[tuple[Line, socket.socket]]:
    """A connection, and the server's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line = Line(listener.getsockname()[1])
        server, _ = listener.accept()
    with server:
        assert server.recv(1000) == opening()
        yield line, server
        line.close()


def replied(stream: int) -> bytes:
    return (
        frame(HEADERS, END_HEADERS, stream, b"\x88") + frame(DATA, 0, stream, MESSAGE) + frame(HEADERS, OK, stream, b"")
    )


def test_a_header_block_that_was_sent_once_is_one_byte_per_field_from_then_on(
    line: tuple[Line, socket.socket],
) -> None:
    first, second, third = (line[0].encoded("/a.B/C", b"message") for _ in range(3))
    assert [first[0], second[0], third[0]] == [1, 3, 5]
    assert b"\x40\x05:path\x06/a.B/C" in first[1]
    # ":path" was inserted first of four, so it is the fourth newest.
    block = b"\x83\x86\xc1\xc0\xbf\xbe"
    body = b"\0\0\0\0\7message"
    assert second[1] == frame(HEADERS, END_HEADERS, 3, block) + frame(DATA, END_STREAM, 3, body)
    assert third[1][9:15] == block


def test_another_path_is_added_to_the_table_and_moves_the_others_on(line: tuple[Line, socket.socket]) -> None:
    for _ in range(2):
        line[0].encoded("/a.B/C", b"")
    added = line[0].encoded("/a.B/D", b"")[1]
    assert b"\x40\x05:path\x06/a.B/D" in added
    assert line[0].encoded("/a.B/D", b"")[1][9:15] == b"\x83\x86\xbe\xc1\xc0\xbf"
    assert line[0].encoded("/a.B/C", b"")[1][9:15] == b"\x83\x86\xc2\xc1\xc0\xbf"


def test_a_call_that_stays_open_does_not_end_its_stream(line: tuple[Line, socket.socket]) -> None:
    assert line[0].encoded("/a.B/C", b"", ends=False)[1].endswith(frame(DATA, 0, 1, bytes(5)))


def test_replies_are_counted_in_pieces_of_any_length(line: tuple[Line, socket.socket]) -> None:
    client, server = line
    ended: list[int] = []
    for byte in replied(1) + replied(3):
        server.sendall(bytes([byte]))
        ended += client.receive()
    assert ended == [1, 3]
    assert (client.messages, client.data_bytes, client.refused) == (2, 2 * len(MESSAGE), 0)


def test_several_messages_in_one_frame_are_counted_each(line: tuple[Line, socket.socket]) -> None:
    client, server = line
    server.sendall(frame(DATA, 0, 1, MESSAGE * 3))
    assert client.receive() == []
    assert client.messages == 3


def test_a_call_without_a_message_is_refused(line: tuple[Line, socket.socket]) -> None:
    client, server = line
    server.sendall(frame(HEADERS, OK, 1, b"\x88"))
    assert client.receive() == [1]
    assert client.refused == 1


def test_settings_and_pings_are_acknowledged(line: tuple[Line, socket.socket]) -> None:
    client, server = line
    server.sendall(frame(SETTINGS, 0, 0) + frame(PING, 0, 0, b"12345678"))
    client.receive()
    assert server.recv(1000) == frame(SETTINGS, ACK, 0) + frame(PING, ACK, 0, b"12345678")


def test_a_connection_that_ends_is_an_error(line: tuple[Line, socket.socket]) -> None:
    client, server = line
    server.sendall(frame(GOAWAY, 0, 0, bytes(4) + (11).to_bytes(4, "big") + b"calm"))
    with pytest.raises(ConnectionLostError, match="GOAWAY with error code 0000000b: b'calm'"):
        client.receive()
    server.close()
    with pytest.raises(ConnectionLostError, match="closed"):
        client.receive()


def test_as_many_calls_are_under_way_as_are_asked_for_and_all_are_made() -> None:
    most = 0

    def answer(server: socket.socket) -> None:
        nonlocal most
        unread, answered = server.recv(1 << 16).removeprefix(opening()), 0
        while answered < 20:
            frames = []
            while len(unread) >= 9 and len(unread) >= (end := 9 + int.from_bytes(unread[:3], "big")):
                frames.append(unread[:end])
                unread = unread[end:]
            streams = [int.from_bytes(each[5:9], "big") for each in frames if each[3] == DATA]
            most = max(most, len(streams))
            if streams:
                server.sendall(b"".join(map(replied, streams)))
            answered += len(streams)
            if answered < 20:
                unread += server.recv(1 << 16)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        lines = Lines(listener.getsockname()[1], 1)
        server, _ = listener.accept()
        with server:
            answerer = threading.Thread(target=answer, args=(server,))
            answerer.start()
            lines.settle("/a.B/C", [b"message"] * 20, 3)
            answerer.join()
        lines.close()
    assert most == 3
    assert lines.lines[0].messages == 20


def test_requests_are_what_the_protos_say() -> None:
    put = kv_pb2.PutRequest(namespace="benchmark", key=b"key-00000007", value=b"v" * 100, overwrite=True)
    assert requests.METHODS["atoll", "put"].message(7) == put.SerializeToString()
    get = kv_pb2.GetRequest(namespace="benchmark", key=b"key-00000007")
    assert requests.METHODS["atoll", "get"].message(7) == get.SerializeToString()
    assert requests.METHODS["etcd", "get"].message(7) == b"\x0a\x16benchmark/key-00000007"
    assert requests.METHODS["etcd", "stale_get"].message(7) == b"\x0a\x16benchmark/key-00000007\x38\x01"
    assert requests.METHODS["etcd", "put"].message(7) == b"\x0a\x16benchmark/key-00000007\x12\x64" + b"v" * 100


def test_puts_and_gets_are_compared_with_those_of_etcd_of_the_same_round() -> None:
    def rounds(*rates: float, cpu: float) -> list[dict[str, float]]:
        others = dict.fromkeys(("client_cpu_us", "client_cores", "server_cores", "p50_us", "p99_us"), 1.0)
        return [{"calls_per_second": rate, "cpu_us": cpu, **others} for rate in rates]

    result = Result()
    samples = {("atoll", "put"): rounds(30.0, 20.0, cpu=5.0), ("etcd", "put"): rounds(10.0, 5.0, cpu=20.0)}
    report_kv(samples, result)
    assert result.figures["kv.put.atoll.calls_per_second.over.etcd"].median == 3.5
    assert result.figures["kv.put.etcd.cpu_us.over.atoll"].median == 4.0


def test_the_control_planes_benchmarks_run_by_one_name() -> None:
    assert [BENCHMARKS[name] for name in GROUPS["control"]] == list(BENCHMARKS_OF_CONTROL)


def test_the_quick_and_the_full_run_have_what_the_thresholds_name() -> None:
    for size in (plan.QUICK, plan.FULL):
        numbers = {
            "nodes": size.nodes,
            "watchers": size.watchers,
            "restart": size.restart_keys,
            "failover": size.failover_nodes,
        }
        figures = [it.figure.split(".") for it in committed().thresholds]
        named = [(name, int(number)) for name, number, *_ in figures if name in numbers]
        assert {name for name, _ in named} == numbers.keys()
        assert all(number in numbers[name] for name, number in named)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes of the machine is told on Linux only")
@pytest.mark.server_process
@pytest.mark.timeout(300)
@pytest.mark.parametrize("benchmark", BENCHMARKS_OF_CONTROL)
def test_a_benchmark_runs_at_its_smallest(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    if benchmark in {KvBenchmark, FailoverBenchmark}:
        etcd.program()
    measuring = benchmark(quick=True, size=plan.SMOKE)
    result = measuring.run(Progress(measuring.expected_seconds))
    assert result.tables
    assert all(name.startswith(f"{measuring.name}.") for name in result.figures)
    assert all(figure.low >= 0 for name, figure in result.figures.items() if "bytes_per" not in name)
    if benchmark is FailoverBenchmark:
        assert result.figures["failover.20.problems"].high == 0
        assert result.figures["failover.20.nodes_lost"].high == 0
    assert measuring.name in capsys.readouterr().err
