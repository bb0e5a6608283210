"""Metadata both ways, and what a context says of its call."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
import threading
from typing import Any

import grpc
import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import ClientProcess, NewLoop, path, serving, wait_for

ALL_BYTES = bytes(range(256))


async def test_the_client_sees_initial_metadata_before_the_reply(client: ClientProcess, new_loop: NewLoop) -> None:
    replying = asyncio.Event()

    async def early(request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("early", "bird"), ("worm-bin", ALL_BYTES)))
        await replying.wait()
        return b"ok"

    async with serving(Early=early) as target:
        call = client.start(target, path("Early"), watch=True)
        assert await call.initial_metadata() == (("early", "bird"), ("worm-bin", ALL_BYTES))
        assert not call.done.done()
        replying.set()
        assert (await call.outcome()).reply == b"ok"


async def test_the_client_sees_initial_metadata_of_a_plain_function_that_still_blocks_its_loop(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    leave = threading.Event()

    def early(request: bytes, context: Any) -> bytes:
        context.send_initial_metadata([("early", "bird")])
        wait_for(leave)
        return b"ok"

    async with serving(new_loop("module"), Early=early) as target:
        call = client.start(target, path("Early"), watch=True)
        assert await call.initial_metadata() == (("early", "bird"),)
        assert not call.done.done()
        leave.set()
        assert (await call.outcome()).reply == b"ok"


async def test_binary_metadata_of_any_bytes_survives_the_way_there_and_back(client: ClientProcess) -> None:
    async def mirror(request: bytes, context: Any) -> bytes:
        mine = tuple((key, value) for key, value in context.invocation_metadata() if key.startswith("mine"))
        await context.send_initial_metadata(mine)
        context.set_trailing_metadata(mine)
        return b"ok"

    sent = (("mine-bin", ALL_BYTES), ("mine-bin", b""), ("mine", "text"), ("mine-x-bin", b"a"), ("mine", "more text"))
    async with serving(Mirror=mirror) as target:
        outcome = await client.call(target, path("Mirror"), metadata=sent)
    assert sorted(map(repr, outcome.initial)) == sorted(map(repr, sent))
    assert sorted(map(repr, outcome.trailing)) == sorted(map(repr, sent))


async def test_a_handler_sees_repeated_keys_in_their_order_and_nothing_of_the_protocols(client: ClientProcess) -> None:
    seen: list[tuple[str, str | bytes]] = []

    async def look(request: bytes, context: Any) -> bytes:
        seen.extend((key, value) for key, value in context.invocation_metadata())
        return b""

    async with serving(Look=look) as target:
        sent = (("k", "1"), ("k", "2"), ("k", "1"), ("odd", 'a,b; c="d" ~'))
        await client.call(target, path("Look"), metadata=sent)
    keys = {key for key, _ in seen}
    assert keys == {"k", "odd", "user-agent"}
    assert [value for key, value in seen if key == "k"] == ["1", "2", "1"]
    assert ("odd", 'a,b; c="d" ~') in seen


async def test_a_metadatum_has_a_key_and_a_value(client: ClientProcess) -> None:
    async def look(request: bytes, context: Any) -> bytes:
        return str(dict((metadatum.key, metadatum.value) for metadatum in context.invocation_metadata())["k"]).encode()  # noqa: C402

    async with serving(Look=look) as target:
        assert (await client.call(target, path("Look"), metadata=(("k", "v"),))).reply == b"v"


async def test_empty_metadata_values_are_sent_both_ways(client: ClientProcess) -> None:
    async def mirror(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(
            tuple((key, value) for key, value in context.invocation_metadata() if key == "empty")
        )
        return b""

    async with serving(Mirror=mirror) as target:
        assert (await client.call(target, path("Mirror"), metadata=(("empty", ""),))).trailing == (("empty", ""),)


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ((("Upper", "case"),), "ValueError", "Upper"),
        ((("sp ace", "x"),), "ValueError", "sp ace"),
        ((("", "x"),), "ValueError", "key"),
        ((("grpc-status", "0"),), "ValueError", "grpc-status"),
        (((":path", "/"),), "ValueError", ":path"),
        ((("k", "new\nline"),), "ValueError", "k"),
        ((("k", "größe"),), "ValueError", "k"),
        ((("k", 5),), "TypeError", "k"),
        ((("k", None),), "TypeError", "k"),
        (("k",), "TypeError", "sequence of pairs"),
        ((("k", "v", "w"),), "TypeError", "sequence of pairs"),
        (((1, "v"),), "TypeError", "sequence of pairs"),
        (7, "TypeError", ""),
        (None, "TypeError", ""),
    ],
)
async def test_metadata_that_cannot_be_sent_is_refused_where_it_is_given(
    client: ClientProcess, metadata: Any, error: str, message: str
) -> None:
    async def give(request: bytes, context: Any) -> bytes:
        raised = []
        for attempt in (context.set_trailing_metadata, context.send_initial_metadata):
            try:
                waiting = attempt(metadata)
                if waiting is not None:
                    await waiting
            except (TypeError, ValueError) as problem:
                raised.append(f"{type(problem).__name__}: {problem}")
        return "\n".join(raised).encode()

    async with serving(Give=give) as target:
        reply = (await client.call(target, path("Give"))).reply
    assert reply is not None
    lines = reply.decode().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"{error}: ")
        assert message in line


async def test_initial_metadata_is_refused_the_second_time(client: ClientProcess, log: Log) -> None:
    async def twice(request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("k", "1"),))
        await context.send_initial_metadata((("k", "2"),))
        return b""

    async with serving(Twice=twice) as target:
        outcome = await client.call(target, path("Twice"))
    assert outcome.code == "UNKNOWN"
    assert outcome.initial == (("k", "1"),)
    assert log.take("the initial metadata has been sent already: send it once, before the reply")


async def test_metadata_beyond_the_limit_ends_the_call_but_not_the_connection(client: ClientProcess) -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        return b"ok"

    async with serving(Answer=answer) as target:
        big = await client.call(target, path("Answer"), metadata=(("big", "x" * 40_000),))
        # grpc.aio says RESOURCE_EXHAUSTED. Here h2 answers by itself: HTTP's "header fields too large".
        assert (big.code, big.details) == ("UNKNOWN", "Received http2 header with status: 431")
        assert (await client.call(target, path("Answer"))).reply == b"ok"


async def test_a_context_knows_its_peer(client: ClientProcess) -> None:
    async def who(request: bytes, context: Any) -> bytes:
        peer: str = context.peer()
        return peer.encode()

    async with serving(Who=who) as target:
        reply = (await client.call(target, path("Who"))).reply
    assert reply is not None
    assert reply.startswith(b"ipv4:127.0.0.1:")


async def test_a_context_may_be_used_after_its_call_has_ended(client: ClientProcess) -> None:
    kept: list[Any] = []

    async def keep(request: bytes, context: Any) -> bytes:
        kept.append(context)
        return b"ok"

    async with serving(Keep=keep) as target:
        await client.call(target, path("Keep"), metadata=(("k", "v"),))
    (context,) = kept
    called: list[object] = []
    context.add_done_callback(called.append)
    assert called == [context]
    assert context.done()
    assert not context.cancelled()
    assert ("k", "v") in context.invocation_metadata()
    assert context.time_remaining() is not None
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_details("too late")
    context.set_trailing_metadata((("too", "late"),))
    await context.send_initial_metadata((("too", "late"),))
    with pytest.raises(grpc.aio.AbortError):
        await context.abort(grpc.StatusCode.NOT_FOUND, "too late")
    assert context.peer().startswith("ipv4:")


def test_a_context_made_by_hand_says_that_the_server_makes_them() -> None:
    from atoll.rpc import ServicerContext  # noqa: PLC0415 - for this test only

    with pytest.raises(RuntimeError, match="made by the server"):
        ServicerContext().peer()


async def test_a_code_that_is_none_is_refused_with_the_remedy(client: ClientProcess, log: Log) -> None:
    async def odd(request: bytes, context: Any) -> bytes:
        context.set_code({b"text": "NOT_FOUND", b"number": 99}[request])
        return b""

    async with serving(Odd=odd) as target:
        assert "write grpc.StatusCode.NOT_FOUND" in (await client.call(target, path("Odd"), b"text")).details
        assert (await client.call(target, path("Odd"), b"number")).code == "UNKNOWN"
    assert len(log.take("handler Hoc.Odd")) == 2
