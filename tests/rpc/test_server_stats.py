"""What a server says of itself: until its end and after it, of pools, and of requests that never became calls."""

# Handlers take what they don't need.
# ruff: noqa: ARG001, ARG002

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.rpc.frames import answered, call, exchange
from tests.rpc.support import (
    ClientProcess,
    LoopFactory,
    add_methods,
    path,
    probe_pb2,
    probe_pb2_grpc,
    running,
    until,
)

from atoll import IoContextPool, rpc

PROBE = probe_pb2.DESCRIPTOR.services_by_name["Probe"]
ASK = f"/{PROBE.full_name}/Ask"
ANSWER = path("Answer")


async def answer(request: bytes, context: Any) -> bytes:
    return b"answered"


# ---------------------------------------------------------------------------------------------------------- the end


async def test_figures_stay_when_the_server_has_stopped(client: ClientProcess) -> None:
    server = rpc.server()
    assert server.stats() == rpc.ServerStats()
    add_methods(server, Answer=answer)
    async with running(server) as target:
        for _ in range(3):
            await client.call(target, ANSWER, b"12345")
        await client.call(target, "/no.Such/Method")
        await asyncio.to_thread(exchange, target, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: server.stats().offences)
    stats = server.stats()
    method = stats[ANSWER]
    assert (method.started, method.finished, method.in_flight) == (3, {"OK": 3}, 0)
    assert (method.bytes_received, method.bytes_sent) == (15, 3 * (5 + len(b"answered")))
    assert stats.connections == 0
    assert (stats.refused, stats.offences) == ({"unknown_method": 1}, {"http1": 1})
    assert [note.offence for note in stats.offence_notes] == ["http1"]
    await server.stop(None)
    assert server.stats() == stats
    assert server._core.counts() == (0, 0)


async def test_a_call_that_the_stop_cancels_is_in_the_last_figures(client: ClientProcess) -> None:
    entered = asyncio.Event()

    async def hold(request: bytes, context: Any) -> bytes:
        entered.set()
        await asyncio.Event().wait()
        return b""

    server = rpc.server()
    add_methods(server, Hold=hold)
    async with running(server) as target:
        held = client.start(target, path("Hold"))
        await entered.wait()
    assert (await held.outcome()).code == "UNAVAILABLE"
    method = server.stats()[path("Hold")]
    assert (method.started, method.finished, method.in_flight) == (1, {"UNAVAILABLE": 1}, 0)


async def test_a_server_that_was_stopped_before_its_start_has_counted_nothing() -> None:
    server = rpc.server()
    await server.stop(None)
    assert server.stats() == rpc.ServerStats()


# ------------------------------------------------------------------------------------------------------------- pools


class Anybody(probe_pb2_grpc.ProbeServicer):  # type: ignore[misc] # generated at test time
    async def Ask(self, request: Any, context: Any) -> Any:
        return probe_pb2.Note()


@pytest.fixture
def pool(loop_factory: LoopFactory) -> Iterator[IoContextPool]:
    with IoContextPool(3, "worker", loop_factory=loop_factory) as made:
        yield made


async def test_a_method_that_is_spread_over_a_pool_names_all_its_loops(
    client: ClientProcess, pool: IoContextPool
) -> None:
    server = rpc.server()
    server.on(pool, key=rpc.by_connection).add_servicer(probe_pb2_grpc.add_ProbeServicer_to_server, Anybody)
    async with running(server) as target:
        for channel in "abcdef":
            await client.call(target, ASK, channel=channel)
        await until(lambda: server.stats().in_flight == 0)
        method = server.stats()[ASK]
        assert method.loops == tuple(io_context.name for io_context in pool.all())
        assert len(set(method.loops)) == 3
        totals = [io_context.stats()[method.handler].total for io_context in pool.all()]
        assert (totals, method.started) == ([2, 2, 2], 6)
    assert server.stats()[ASK].loops == method.loops


# ----------------------------------------------------------------------------------------------- what became no call


EMPTY = bytes(5)
GARBAGE = b"\0\1\2\3 what is this"


@pytest.mark.parametrize(
    ("body", "changes", "reason", "code"),
    [
        (EMPTY, {"content_type": "application/json"}, "content_type", "UNKNOWN"),
        (EMPTY, {"grpc_timeout": "soon"}, "bad_timeout", "INTERNAL"),
        (EMPTY, {"grpc_encoding": "zip"}, "bad_encoding", "UNIMPLEMENTED"),
        (EMPTY, {"x_large": "v" * 120}, "metadata_size", "RESOURCE_EXHAUSTED"),
        (b"\x09\0\0\0\0", {}, "bad_request", "INTERNAL"),
        (b"\0\0\0\0\x05a", {}, "bad_request", "INTERNAL"),
        (b"\0\x7f\0\0\0a", {}, "bad_request", "RESOURCE_EXHAUSTED"),
    ],
)
async def test_a_request_that_is_refused_is_counted_by_reason_and_method(
    body: bytes, changes: dict[str, str], reason: str, code: str
) -> None:
    server = rpc.server(options=(("grpc.max_metadata_size", 250),))
    add_methods(server, Answer=answer)
    async with running(server) as target:
        await asyncio.to_thread(answered, target, call(ANSWER, body, **changes))
        method = server.stats()[ANSWER]
        assert (method.started, method.finished, method.refused) == (1, {code: 1}, {reason: 1})
        assert server.stats().refused == {}
        if reason not in {"bad_request", "bad_encoding"}:
            await asyncio.to_thread(answered, target, call("/no.Such/Method", body, **changes))
            assert server.stats().refused == {reason: 1}
        before = server.stats()
        await asyncio.to_thread(answered, target, call("/no.Such/Method", body))
        assert (server.stats() - before).refused == {"unknown_method": 1}


async def test_a_call_without_a_token_is_counted_for_its_method(client: ClientProcess) -> None:
    server = rpc.server(auth=rpc.Authentication(tokens=["secret"]))
    add_methods(server, Answer=answer)
    async with running(server) as target:
        assert (await client.call(target, ANSWER)).code == "UNAUTHENTICATED"
        assert (await client.call(target, "/no.Such/Method")).code == "UNAUTHENTICATED"
        stats = server.stats()
    assert stats[ANSWER].refused == stats.refused == {"unauthenticated": 1}
    assert stats[ANSWER].finished == {"UNAUTHENTICATED": 1}


async def test_notes_tell_who_offended_and_are_bounded() -> None:
    server = rpc.server()
    add_methods(server, Answer=answer)
    async with running(server) as target:
        start = time.time()
        for _ in range(100):
            await asyncio.to_thread(exchange, target, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.to_thread(exchange, target, GARBAGE)
        before = server.stats()
        first, *_, last = before.offence_notes
        assert before.offences == {"http1": 100, "unknown_protocol": 1}
        assert (first.offence, last.offence, last.repeated) == ("http1", "unknown_protocol", 0)
        assert last.peer.startswith("ipv4:127.0.0.1:")
        assert start - 1 <= first.at <= last.at <= time.time() + 1
        assert sum(1 + note.repeated for note in before.offence_notes) == 101
        assert len(before.offence_notes) <= 32
        await asyncio.to_thread(exchange, target, GARBAGE)
        window = server.stats() - before
        assert window.offences == {"unknown_protocol": 1}
        assert [note.offence for note in window.offence_notes] == ["unknown_protocol"]
