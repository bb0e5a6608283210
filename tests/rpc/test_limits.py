"""The limits of connections: which channel options set them, and that real clients live with them."""

import asyncio
import http.client
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.rpc.conftest import Log
from tests.rpc.frames import HELLO, RESET, beginning, exchange, frame
from tests.rpc.support import ClientProcess, add_methods, path, running, until

from atoll import rpc
from atoll.rpc._limits import ConnectionLimits, FrameLimit
from atoll.rpc._options import server_options

PATIENCE = 10.0
ROOT = Path(__file__).parents[2]


async def echo(request: bytes, _context: Any) -> bytes:
    return request


def limits(*options: tuple[str, Any]) -> ConnectionLimits:
    return server_options(None, options).limits


def test_grpcs_options_of_connections_are_understood() -> None:
    assert limits(
        ("grpc.keepalive_time_ms", 1500),
        ("grpc.keepalive_timeout_ms", 500),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", 60_000),
        ("grpc.max_connection_age_ms", 120_000),
        ("grpc.max_connection_age_grace_ms", 5000),
        ("grpc.server_handshake_timeout_ms", 3000),
        ("grpc.max_allowed_incoming_connections", 7),
    ) == ConnectionLimits(
        keepalive_time=1.5,
        keepalive_timeout=0.5,
        keepalive_without_calls=True,
        max_connection_idle=60.0,
        max_connection_age=120.0,
        max_connection_age_grace=5.0,
        handshake_timeout=3.0,
        max_connections=7,
    )


def test_what_grpc_has_no_option_for_has_one_of_our_own() -> None:
    assert limits(
        ("atoll.body_timeout_ms", 2500),
        ("atoll.max_connections_per_peer", 3),
        ("atoll.http2.max_resets", 50),
        ("atoll.http2.max_window_updates", -1),
        ("atoll.http2.max_pending_resets", 20),
        ("atoll.http2.max_stream_errors", 200),
        ("atoll.http2.small_frame_overhead", 3 << 20),
        ("atoll.max_unread_bytes_per_connection", 0),
    ) == ConnectionLimits(
        body_timeout=2.5,
        max_connections_per_peer=3,
        max_pending_resets=20,
        max_stream_errors=200,
        small_frame_overhead=3 << 20,
        max_unread_bytes=0,
        resets=FrameLimit(burst=50, interval=0.01),
        window_updates=FrameLimit(burst=None, interval=0.001),
    )


def test_the_longest_time_of_grpc_is_never() -> None:
    never = 2**31 - 1
    read = limits(
        ("grpc.keepalive_time_ms", never),
        ("grpc.max_connection_idle_ms", never),
        ("grpc.max_connection_age_ms", never),
        ("grpc.max_connection_age_grace_ms", never),
        ("atoll.body_timeout_ms", never),
    )
    assert read == ConnectionLimits(keepalive_time=None, body_timeout=None)


@pytest.mark.parametrize(
    ("options", "burst", "interval"),
    [
        ((("grpc.http2.max_ping_strikes", 4),), 5, 300.0),
        ((("grpc.http2.min_ping_interval_without_data_ms", 1000),), 3, 1.0),
        ((("grpc.http2.min_recv_ping_interval_without_data_ms", 1000), ("grpc.http2.max_ping_strikes", 1)), 2, 1.0),
        ((("grpc.http2.max_ping_strikes", 0),), None, 1.0),
    ],
)
def test_ping_strikes_are_those_of_grpc(options: Any, burst: int | None, interval: float) -> None:
    assert limits(*options) == ConnectionLimits(pings=FrameLimit(burst=burst, interval=interval))


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("grpc.keepalive_time_ms", 0, ValueError),
        ("grpc.max_connection_age_ms", -5, ValueError),
        ("grpc.max_connection_idle_ms", 1.5, TypeError),
        ("grpc.max_allowed_incoming_connections", 0, ValueError),
        ("atoll.http2.max_settings", 1, ValueError),
        ("atoll.http2.max_pending_resets", 0, ValueError),
        ("atoll.http2.max_stream_errors", "many", TypeError),
        ("atoll.http2.small_frame_overhead", (2 << 20) - 1, ValueError),
        ("atoll.max_unread_bytes_per_connection", -1, ValueError),
        ("grpc.http2.max_ping_strikes", "2", TypeError),
    ],
)
def test_a_limit_that_cannot_work_is_an_error_that_names_it(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        rpc.server(options=((option, value),))


def test_defaults_are_the_transports_own_and_the_page_shows_them() -> None:
    shown = (ROOT / "docs" / "limits.md").read_text()
    for option, default in {
        "grpc.max_receive_message_length": "4 MiB",
        "grpc.max_metadata_size": "16 KiB",
        "grpc.max_concurrent_streams": "1000",
        "grpc.http2.lookahead_bytes": "2 MiB",
        "grpc.max_allowed_incoming_connections": "65536",
        "grpc.server_handshake_timeout_ms": "20 s",
        "atoll.body_timeout_ms": "60 s",
        "atoll.max_waiting_bytes": "64 MiB",
        "atoll.max_waiting_bytes_per_connection": "4 MiB",
        "atoll.max_unread_bytes_per_connection": "64 MiB",
        "atoll.kept_memory_bytes": "32 MiB",
        "atoll.http2.max_pings": "100",
        "atoll.http2.max_settings": "100",
        "atoll.http2.max_resets": "1000",
        "atoll.http2.max_window_updates": "10,000",
        "atoll.http2.max_stray_frames": "1000",
        "atoll.http2.max_pending_resets": "100",
        "atoll.http2.max_stream_errors": "10,000",
        "atoll.http2.small_frame_overhead": "4 MiB",
    }.items():
        assert f"| `{option}` | {default} |" in shown, option
    read = server_options(None, ())
    mebi, kibi = 1 << 20, 1 << 10
    assert (read.max_receive_message_size, read.max_header_list_size) == (4 * mebi, 16 * kibi)
    assert (read.max_concurrent_streams, read.initial_stream_window) == (1000, 2 * mebi)
    assert (read.max_waiting_bytes, read.max_waiting_bytes_per_connection) == (64 * mebi, 4 * mebi)
    assert read.kept_memory == 32 * mebi
    assert read.limits == ConnectionLimits(
        max_connections=65536,
        max_connections_per_peer=None,
        handshake_timeout=20.0,
        body_timeout=60.0,
        max_connection_idle=None,
        max_connection_age=None,
        max_connection_age_grace=None,
        keepalive_time=7200.0,
        keepalive_timeout=20.0,
        keepalive_without_calls=False,
        pings=FrameLimit(burst=100, interval=0.1),
        settings=FrameLimit(burst=100, interval=1.0),
        resets=FrameLimit(burst=1000, interval=0.01),
        window_updates=FrameLimit(burst=10_000, interval=0.001),
        stray_frames=FrameLimit(burst=1000, interval=0.01),
        max_pending_resets=100,
        max_stream_errors=10_000,
        small_frame_overhead=4 * mebi,
        max_unread_bytes=64 * mebi,
    )


def test_no_limit_is_warned_about(log: Log) -> None:
    rpc.server(options=(("grpc.max_connection_age_ms", 1000), ("grpc.http2.max_ping_strikes", 2)))
    assert not log.take("has no effect")


async def test_a_client_survives_that_its_connection_grows_old(client: ClientProcess) -> None:
    server = rpc.server(options=(("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 5000)))
    add_methods(server, Echo=echo)
    async with running(server) as target:
        for index in range(40):
            # A call that begins as the connection ends has not been taken, and grpc sends it again.
            outcome = await client.call(target, path("Echo"), str(index).encode(), channel="repeats")
            assert outcome.reply == str(index).encode()
            await asyncio.sleep(0.02)
    assert server.stats().offences == {}


async def test_a_client_lives_with_keepalive_pings(client: ClientProcess) -> None:
    release = asyncio.Event()

    async def held(request: bytes, _context: Any) -> bytes:
        await release.wait()
        return request

    server = rpc.server(options=(("grpc.keepalive_time_ms", 20), ("grpc.keepalive_timeout_ms", 10_000)))
    add_methods(server, Held=held)
    async with running(server) as target:
        call = client.start(target, path("Held"), b"patient")
        await asyncio.sleep(0.5)
        release.set()
        assert (await call.outcome()).reply == b"patient"
        assert server.stats().offences == {}


async def test_other_protocols_are_told_where_they_are(client: ClientProcess) -> None:
    server = rpc.server()
    add_methods(server, Echo=echo)

    def get(target: str, where: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(target, timeout=PATIENCE)
        connection.request("GET", where)
        response = connection.getresponse()
        return response.status, response.read().decode()

    def greet_with_tls(target: str) -> bytes:
        host, port = target.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            connection.sendall(bytes.fromhex("16030102000100"))
            return connection.recv(100)

    async with running(server) as target:
        assert await asyncio.to_thread(get, target, "/livez") == (200, "ok\n")
        status, text = await asyncio.to_thread(get, target, "/")
        assert status == http.client.HTTP_VERSION_NOT_SUPPORTED
        assert "This is a gRPC port" in text
        assert (await asyncio.to_thread(greet_with_tls, target))[0] == 0x15
        assert (await client.call(target, path("Echo"), b"still here")).reply == b"still here"
        assert server.stats().offences == {"http1": 1, "tls": 1}


def opened_and_reset() -> bytes:
    cancel = (8).to_bytes(4, "big")
    return b"".join(beginning(path("Echo"), stream) + frame(RESET, 0, stream, cancel) for stream in range(1, 41, 2))


def over_the_limit_of_streams() -> bytes:
    return b"".join(beginning(path("Echo"), stream) for stream in range(1, 41, 2))


@pytest.mark.parametrize(
    ("option", "streams", "sent", "offence"),
    [
        ("atoll.http2.max_pending_resets", 100, opened_and_reset(), "reset_flood"),
        ("atoll.http2.max_stream_errors", 1, over_the_limit_of_streams(), "stream_error_flood"),
    ],
)
async def test_what_h2_limits_is_limited_as_the_option_says(
    option: str, streams: int, sent: bytes, offence: str
) -> None:
    server = rpc.server(options=(("grpc.max_concurrent_streams", streams), (option, 3)))
    add_methods(server, Echo=echo)
    async with running(server) as target:
        await asyncio.to_thread(exchange, target, HELLO + sent)
        await until(lambda: server.stats().offences == {offence: 1})
