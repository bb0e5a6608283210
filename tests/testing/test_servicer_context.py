"""The fake context does what the real ones do: each behaviour runs against the fake, Atoll's server and grpc.aio's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("grpc")
import grpc.aio

import atoll
from atoll.errors import ConnectionClosedError, PingTimeoutError
from atoll.testing import FakeConnection, FakeServicerContext, FakeSyncServicerContext, ManualClock, serve

pytestmark = pytest.mark.asyncio

UNSENDABLE = ((("Capital", "letters"),), (("k", "new\nline"),), (("k", 5),), ("k",), (("grpc-status", "0"),))
METADATA = (("k", "1"), ("raw-bin", b"\x00\xff"), ("k", "2"))
Seen = list[object]
Behaviour = Callable[[Any, Seen], Awaitable[None]]
Requests = list[bytes] | None


class Run:
    """Runs a behaviour as a handler's body, and keeps what it saw; exceptions of the handler are seen, too."""

    def __init__(self, call: Callable[[Behaviour, Seen, Requests], Awaitable[None]]) -> None:
        self._call = call

    async def __call__(self, behaviour: Behaviour, requests: Requests = None) -> Seen:
        """`requests` makes it a streaming call."""
        seen: Seen = []
        ended = asyncio.Event()

        async def noted(context: Any, seen: Seen) -> None:
            try:
                await behaviour(context, seen)
            except Exception as error:
                seen.append(type(error).__mro__)
                raise
            finally:
                ended.set()

        async with asyncio.timeout(20):
            await self._call(noted, seen, requests)
            await ended.wait()  # clients learn of an abort before the handler goes on
        return seen


async def call_with_a_fake(behaviour: Behaviour, seen: Seen, requests: Requests) -> None:
    context = FakeServicerContext(timeout=20, metadata=METADATA, requests=requests or ())
    with contextlib.suppress(Exception):
        await behaviour(context, seen)
    context.finish()
    if requests is not None:
        seen.append(context.replies)


@contextlib.asynccontextmanager
async def through(channel: Any, calls: list[tuple[Behaviour, Seen]]) -> AsyncIterator[Run]:
    async def call(behaviour: Behaviour, seen: Seen, requests: Requests) -> None:
        calls.append((behaviour, seen))
        if requests is not None:
            replies: list[bytes] = []
            talk = channel.stream_stream("/test.Service/Talk")(iter(requests), timeout=20, metadata=METADATA)
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for reply in talk:
                    replies.append(reply)  # noqa: PERF401 - those before an error count, too
            seen.append(replies)
            return
        with contextlib.suppress(grpc.aio.AioRpcError):
            await channel.unary_unary("/test.Service/Behave")(b"", timeout=20, metadata=METADATA)

    yield Run(call)


def handlers_of(calls: list[tuple[Behaviour, Seen]]) -> Any:
    async def behave(_request: bytes, context: Any) -> bytes:
        behaviour, seen = calls.pop()
        await behaviour(context, seen)
        return b""

    async def talk(_requests: object, context: Any) -> None:
        behaviour, seen = calls.pop()
        await behaviour(context, seen)

    return {
        "Behave": grpc.unary_unary_rpc_method_handler(behave),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
    }


@contextlib.asynccontextmanager
async def on_atolls_server() -> AsyncIterator[Run]:
    calls: list[tuple[Behaviour, Seen]] = []

    def register(_servicer: object, server: Any) -> None:
        server.add_registered_method_handlers("test.Service", handlers_of(calls))

    async with serve(object(), register=register) as channel, through(channel, calls) as run:
        yield run


@contextlib.asynccontextmanager
async def on_grpcs_server() -> AsyncIterator[Run]:
    calls: list[tuple[Behaviour, Seen]] = []
    server = grpc.aio.server()
    server.add_registered_method_handlers("test.Service", handlers_of(calls))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, through(channel, calls) as run:
            yield run
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def on_a_fake() -> AsyncIterator[Run]:
    yield Run(call_with_a_fake)


CONTEXTS = {"fake": on_a_fake, "atoll": on_atolls_server, "grpc.aio": on_grpcs_server}
SERVED = [pytest.param(name, marks=pytest.mark.whole_grpcio) for name in ("atoll", "grpc.aio")]
everywhere = pytest.mark.parametrize("context", ["fake", *SERVED])
# What grpc.aio leaves open or does otherwise, see tests/rpc/test_like_grpc_aio.py.
atolls_own = pytest.mark.parametrize("context", ["fake", SERVED[0]])


@everywhere
async def test_what_is_set_can_be_read(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        seen += [not context.code(), context.details(), tuple(context.trailing_metadata() or ())]
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("gone")
        context.set_trailing_metadata((("first", "1"),))
        context.set_trailing_metadata((("where", "there"),))
        seen += [context.code(), context.details(), context.trailing_metadata()]

    async with CONTEXTS[context]() as run:
        assert (await run(behave))[1:] == ["", (), grpc.StatusCode.NOT_FOUND, "gone", (("where", "there"),)]


@everywhere
async def test_the_clients_metadata_has_keys_and_values(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        metadata = context.invocation_metadata()
        seen.append([value for key, value in metadata if key == "k"])
        seen.append([entry.value for entry in metadata if entry.key == "raw-bin"])
        seen.append(type(metadata))

    async with CONTEXTS[context]() as run:
        assert await run(behave) == [["1", "2"], [b"\x00\xff"], tuple]


@everywhere
async def test_abort_raises_grpcs_error_and_the_call_is_done_but_not_cancelled(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        seen += [context.done(), context.cancelled()]
        try:
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone", (("where", "there"),))
        finally:
            seen += [context.code(), context.details(), context.trailing_metadata(), context.cancelled()]

    async with CONTEXTS[context]() as run:
        *seen, classes = await run(behave)
    assert seen == [False, False, grpc.StatusCode.NOT_FOUND, "gone", (("where", "there"),), False]
    assert isinstance(classes, tuple)
    assert grpc.aio.AbortError in classes
    assert (atoll.AtollError in classes) == (context != "grpc.aio")


@everywhere
async def test_abort_keeps_trailing_metadata_that_was_set_before_it(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        context.set_trailing_metadata((("where", "there"),))
        with pytest.raises(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.NOT_FOUND)
        seen.append(context.trailing_metadata())

    async with CONTEXTS[context]() as run:
        assert await run(behave) == [(("where", "there"),)]


@everywhere
async def test_abort_with_a_status_object_aborts_with_what_it_holds(context: str) -> None:
    class Status(grpc.Status):
        code = grpc.StatusCode.DATA_LOSS
        details = "as a status"
        trailing_metadata = (("from", "status"),)

    async def behave(context: Any, seen: Seen) -> None:
        with pytest.raises(grpc.aio.AbortError):
            await context.abort_with_status(Status())
        seen += [context.code(), context.details(), context.trailing_metadata()]

    async with CONTEXTS[context]() as run:
        assert await run(behave) == [grpc.StatusCode.DATA_LOSS, "as a status", (("from", "status"),)]


@atolls_own
async def test_abort_answers_at_once(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        with contextlib.suppress(atoll.errors.AbortError):
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        seen += [context.done(), context.cancelled()]

    async with CONTEXTS[context]() as run:
        assert await run(behave) == [True, False]


@atolls_own
async def test_abort_with_ok_is_refused_with_the_remedy(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        with pytest.raises(ValueError, match=r"return the reply for StatusCode\.OK"):
            await context.abort(grpc.StatusCode.OK)
        seen.append(context.done())

    async with CONTEXTS[context]() as run:
        assert await run(behave) == [False]


@everywhere
async def test_initial_metadata_is_sent_once(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        await context.send_initial_metadata((("early", "bird"),))
        await context.send_initial_metadata((("late", "bird"),))
        seen.append("sent twice")

    async with CONTEXTS[context]() as run:
        (classes,) = await run(behave)
    assert isinstance(classes, tuple)
    assert grpc.aio.UsageError in classes


@atolls_own
async def test_metadata_that_cannot_be_sent_is_refused_where_it_is_given(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        for metadata in (
            (("Capital", "letters"),),
            (("k", "new\nline"),),
            (("k", 5),),
            ("k",),
            (("grpc-status", "0"),),
        ):
            for give in (context.set_trailing_metadata, context.send_initial_metadata):
                try:
                    if (waiting := give(metadata)) is not None:
                        await waiting
                except (TypeError, ValueError) as error:
                    seen.append((type(error), str(error)))

    async with CONTEXTS[context]() as run:
        seen = await run(behave)
    async with on_a_fake() as run:
        assert seen == await run(behave)
    assert len(seen) == 10


@everywhere
async def test_a_handler_sees_how_much_time_is_left(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        seen.append(0 < context.time_remaining() <= 21)  # clients round up

    async with CONTEXTS[context]() as run:
        assert await run(behave) == [True]


@everywhere
@pytest.mark.parametrize("end", ["returns", "aborts", "raises"])
async def test_done_callbacks_run_with_the_context_when_the_handler_has_ended(context: str, end: str) -> None:
    called = asyncio.Event()

    async def behave(context: Any, seen: Seen) -> None:
        def done(given: Any) -> None:
            seen.append((given is context, context.done()))
            called.set()

        context.add_done_callback(done)
        if end == "aborts":
            with contextlib.suppress(grpc.aio.AbortError):
                await context.abort(grpc.StatusCode.ABORTED, "on purpose")
        seen.append("the handler's last step")
        if end == "raises":
            raise grpc.aio.AbortError("on purpose")  # which no server logs

    async with CONTEXTS[context]() as run:
        seen = await run(behave)
        await asyncio.wait_for(called.wait(), 20)
    assert [each for each in seen if not (isinstance(each, tuple) and Exception in each)] == [
        "the handler's last step",
        (True, True),
    ]


@atolls_own
async def test_a_done_callback_that_comes_too_late_runs_at_once(context: str) -> None:
    kept: list[Any] = []
    ended = asyncio.Event()

    async def behave(context: Any, _seen: Seen) -> None:
        kept.append(context)
        context.add_done_callback(lambda _: ended.set())

    async with CONTEXTS[context]() as run:
        await run(behave)
        await asyncio.wait_for(ended.wait(), 20)
        called: list[object] = []
        kept[0].add_done_callback(called.append)
        assert called == kept


@everywhere
async def test_a_client_without_credentials_is_not_authenticated(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        context.set_compression(grpc.Compression.NoCompression)
        context.disable_next_message_compression()
        seen += [context.peer_identities(), context.peer_identity_key(), isinstance(context.peer(), str)]

    async with CONTEXTS[context]() as run:
        assert await run(behave) == [None, None, True]


# ------------------------------------------------------------------------------------------------------- the fake's own


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds


async def test_a_deadline_that_has_passed_has_cancelled_the_call() -> None:
    clock = Clock()
    context = FakeServicerContext(timeout=5, clock=clock)
    clock.seconds += 4
    assert (context.time_remaining(), context.done(), context.cancelled()) == (1.0, False, False)
    clock.seconds += 4
    assert (context.time_remaining(), context.done(), context.cancelled()) == (0.0, True, True)
    assert context._cancel_reason == "deadline"


async def test_a_call_answered_before_its_deadline_is_not_cancelled_by_it() -> None:
    clock = Clock()
    context = FakeServicerContext(timeout=5, clock=clock)
    context.finish()
    clock.seconds += 10
    assert (context.done(), context.cancelled()) == (True, False)


async def test_without_a_deadline_there_is_no_time_remaining() -> None:
    assert FakeServicerContext().time_remaining() is None


async def test_a_client_that_cancels_ends_the_call_and_its_callbacks_run_once() -> None:
    context = FakeServicerContext()
    called: list[object] = []
    context.add_done_callback(called.append)
    context.cancel()
    context.finish()
    assert called == [context]
    assert (context.done(), context.cancelled(), context._cancel_reason) == (True, True, "client")


async def test_what_is_sent_early_can_be_read_from_the_fake() -> None:
    context = FakeServicerContext()
    assert context.initial_metadata is None
    await context.send_initial_metadata([("early", "bird")])
    assert context.initial_metadata == (("early", "bird"),)


async def test_done_callbacks_that_raise_are_raised_when_all_have_run() -> None:
    context = FakeServicerContext()
    called: list[object] = []
    context.add_done_callback(lambda _: 1 / 0)
    context.add_done_callback(called.append)
    with pytest.raises(ExceptionGroup) as raised:
        context.finish()
    assert raised.group_contains(ZeroDivisionError)
    assert called == [context]


async def test_metadata_that_no_client_can_send_is_refused() -> None:
    with pytest.raises(ValueError, match="Authorization"):
        FakeServicerContext(metadata=(("Authorization", "Bearer x"),))


async def test_a_plain_functions_fake_aborts_without_being_awaited() -> None:
    context = FakeSyncServicerContext(metadata=(("k", "v"),))
    context.send_initial_metadata((("early", "bird"),))
    assert context.is_active()
    with pytest.raises(grpc.aio.AbortError, match="gone"):
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")
    assert not context.is_active()
    assert context.code() is grpc.StatusCode.NOT_FOUND


async def test_a_fake_is_an_atoll_context() -> None:
    assert isinstance(FakeServicerContext(), atoll.rpc.ServicerContext)


@everywhere
async def test_messages_are_read_to_the_end_and_written_in_order(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            seen.append(request)
            await context.write(request * 2)
        seen.append(await context.read() is grpc.aio.EOF)

    async with CONTEXTS[context]() as run:
        assert await run(behave, [b"a", b"b"]) == [b"a", b"b", True, [b"aa", b"bb"]]
        assert await run(behave, []) == [True, []]


@everywhere
async def test_initial_metadata_can_not_follow_a_message(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        await context.write(b"first")
        with pytest.raises(grpc.aio.UsageError):
            await context.send_initial_metadata((("late", "bird"),))
        seen.append("refused")

    async with CONTEXTS[context]() as run:
        assert await run(behave, []) == ["refused", [b"first"]]


@everywhere
async def test_nothing_is_read_or_written_after_an_abort(context: str) -> None:
    async def behave(context: Any, seen: Seen) -> None:
        await context.write(b"first")
        with pytest.raises(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        for attempt in (context.read, lambda: context.write(b"late")):
            with pytest.raises(grpc.aio.AbortError):
                await attempt()
            seen.append("refused")

    async with CONTEXTS[context]() as run:
        seen = await run(behave, [b"never read"])
    assert sorted(seen, key=str) == [[b"first"], "refused", "refused"]


async def test_a_fakes_requests_can_be_iterated_and_end_with_the_call() -> None:
    context = FakeServicerContext(requests=[b"a", b"b", b"c"])
    assert await anext(context.requests) == b"a"
    assert [request async for request in context.requests] == [b"b", b"c"]
    context.cancel()
    with pytest.raises(asyncio.CancelledError):
        await context.read()
    with pytest.raises(asyncio.CancelledError):
        await context.write(b"late")
    plain = FakeSyncServicerContext(requests=[b"a", b"b"])
    assert list(plain.requests) == [b"a", b"b"]
    ended = FakeServicerContext()
    ended.finish()
    with pytest.raises(grpc.aio.UsageError, match="answered already"):
        await ended.write(b"late")


# ------------------------------------------------------------------------------------ when a call came, and on what


async def test_a_fake_tells_when_it_came_by_its_clock() -> None:
    clock = ManualClock()
    clock.advance(7.0)
    context = FakeServicerContext(clock=clock)
    clock.advance(2.0)
    assert context.arrival_time == 7.0
    assert context.message_arrival_time == 7.0
    assert FakeServicerContext(clock=clock, arrival_time=3.0).arrival_time == 3.0


async def test_a_fakes_messages_tell_when_they_came() -> None:
    clock = ManualClock()
    clock.advance(7.0)
    context = FakeServicerContext(clock=clock, requests=[b"1", b"2", b"3"], message_arrival_times=[1.0, 2.0])
    seen = [context.message_arrival_time]
    while await context.read() is not grpc.aio.EOF:
        seen.append(context.message_arrival_time)
    assert seen == [None, 1.0, 2.0, 7.0]
    assert context.message_arrival_time == 7.0


async def test_a_fakes_connection_answers_pings_until_it_is_closed() -> None:
    context = FakeServicerContext(peer="unix:")
    connection = context.connection
    assert isinstance(connection, atoll.rpc.Connection)
    assert (connection.peer, connection.closed, context.peer()) == ("unix:", False, "unix:")
    assert await connection.ping() == 0.0
    waiting = asyncio.ensure_future(FakeConnection(round_trip=None).ping(0.01))
    with pytest.raises(PingTimeoutError):
        await waiting
    connection.round_trip = None
    pinged = asyncio.ensure_future(connection.ping())
    await asyncio.sleep(0)
    connection.close()
    for ping in (pinged, connection.ping()):
        with pytest.raises(ConnectionClosedError):
            await ping
    assert connection.closed
    assert connection.pings == 3


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
async def test_a_fake_refuses_a_time_out_that_is_none_as_the_real_one_does(seconds: float) -> None:
    connection = FakeConnection(round_trip=1.0)
    with pytest.raises(ValueError, match="is not a number of seconds above 0"):
        await connection.ping(seconds)
    assert connection.pings == 0


async def test_fake_connections_are_given_to_contexts_and_differ() -> None:
    one, two = FakeConnection(), FakeConnection("ipv4:10.0.0.1:1", last_received=5.0)
    assert FakeServicerContext(connection=one).connection is one
    assert FakeServicerContext(connection=two).peer() == "ipv4:10.0.0.1:1"
    assert one != two
    two.last_received = 6.0
    assert two.last_received == 6.0


async def test_a_ping_of_a_fake_takes_its_time_on_a_manual_clock() -> None:
    clock = ManualClock()
    thread = atoll.IoContextThread("pinging", clock=clock)
    thread.start()
    connection = FakeConnection(round_trip=2.0)
    try:
        answered = thread.io_context.submit(connection.ping)
        given_up = thread.io_context.submit(connection.ping, 1.0)
        await asyncio.to_thread(clock.advance, 1.5)
        with pytest.raises(PingTimeoutError):
            await given_up
        assert not answered.done()
        await asyncio.to_thread(clock.advance, 1.0)
        assert await answered == 2.0
        assert connection.last_received == 2.0
    finally:
        thread.stop()
