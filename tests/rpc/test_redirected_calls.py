"""Calls that an interceptor sends to a handler of another loop: it runs, reads, writes and is counted there."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.rpc.support import (
    TIMEOUT,
    ClientProcess,
    NewLoop,
    Stream,
    add_methods,
    running,
    until,
    wait_for,
)
from tests.rpc.test_interceptors import Intercept, both, echo
from tests.rpc.test_stream_placement import generator, reader_and_writer, tasks, where

from atoll import IoContext, rpc
from atoll.errors import NotOnLoopError
from atoll.rpc import _interceptors, _kinds

ONE = grpc.unary_unary_rpc_method_handler
REPLIES = grpc.unary_stream_rpc_method_handler
REQUESTS = grpc.stream_unary_rpc_method_handler
BOTH = grpc.stream_stream_rpc_method_handler

said: contextvars.ContextVar[str] = contextvars.ContextVar("said", default="nothing")


async def redirect(continuation: Any, details: Any) -> Any:
    said.set("by the interceptor")
    method = details.method.replace("a.Old", "a.New")
    return await continuation(rpc.HandlerCallDetails(method, details.invocation_metadata))


class Wrapping(grpc.aio.ServerInterceptor):
    """Calls the handler by itself, in the ways of OpenTelemetry's and others'."""

    def __init__(self, *, requests: bool = False) -> None:
        self.requests = requests
        self.threads: set[str] = set()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        function = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        make = {(False, False): ONE, (False, True): REPLIES, (True, False): REQUESTS, (True, True): BOTH}[
            handler.request_streaming, handler.response_streaming
        ]

        async def read(requests: Any) -> AsyncIterator[Any]:
            async for request in requests:
                self.threads.add(threading.current_thread().name)
                yield request

        async def answer(request: Any, context: Any) -> Any:
            self.threads.add(threading.current_thread().name)
            return await function(read(request) if self.requests and handler.request_streaming else request, context)

        async def yield_replies(request: Any, context: Any) -> Any:
            request = read(request) if self.requests and handler.request_streaming else request
            async for reply in function(request, context):
                self.threads.add(threading.current_thread().name)
                yield reply

        is_generator = hasattr(function, "__code__") and function.__code__.co_flags & 0x200
        wrapped: Any = yield_replies if is_generator else answer
        return make(wrapped, handler.request_deserializer, handler.response_serializer)


async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(3):
        yield where()


async def watch_by_writing(request: bytes, context: Any) -> None:
    for _ in range(3):
        await context.write(where())


async def collect(requests: Any, context: Any) -> bytes:
    count = 0
    async for _ in requests:
        count += 1
    return where() if count == 3 else b"%d" % count


async def collect_by_reading(requests: Any, context: Any) -> bytes:
    count = 0
    while await context.read() is not grpc.aio.EOF:
        count += 1
    return where() if count == 3 else b"%d" % count


def plain_watch(request: bytes, context: Any) -> Iterator[bytes]:
    for _ in range(3):
        yield where()


HANDLERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "watch": (watch, REPLIES),
    "watch_by_writing": (watch_by_writing, REPLIES),
    "plain_watch": (plain_watch, REPLIES),
    "collect": (collect, REQUESTS),
    "collect_by_reading": (collect_by_reading, REQUESTS),
    "generator": (generator, BOTH),
    "reader_and_writer": (reader_and_writer, BOTH),
    "tasks": (tasks, BOTH),
}

WRAPPERS: dict[str, Callable[[], list[Any]]] = {
    "alone": lambda: [Intercept(redirect)],
    "wrapped": lambda: [Wrapping(), Intercept(redirect)],
    "requests wrapped": lambda: [Wrapping(requests=True), Intercept(redirect)],
}


async def exchange(stream: Stream, kind: Callable[..., Any]) -> list[bytes]:
    """Sends what such a handler wants, and gives what it answers."""
    for _ in range(1 if kind is REPLIES else 3):
        await stream.write(b"?")
    await stream.take("done_writing")
    if kind is REQUESTS:
        reply = await stream.read()
        return [] if reply is None else [reply]
    replies: list[bytes] = await stream.take("read_all")
    return replies


@pytest.mark.parametrize("interceptors", list(WRAPPERS))
@pytest.mark.parametrize("name", list(HANDLERS))
async def test_a_stream_is_answered_on_its_handlers_loop_and_counted_there(
    client: ClientProcess, new_loop: NewLoop, name: str, interceptors: str
) -> None:
    handler, kind = HANDLERS[name]
    loop, old = new_loop("new"), new_loop("old")
    server = rpc.server(interceptors=WRAPPERS[interceptors]())
    add_methods(server.on(old), service="a.Old", Talk=generator, kind=BOTH)
    add_methods(server.on(loop), service="a.New", Talk=handler, kind=kind)
    async with running(server) as target:
        stream = client.open(target, "/a.Old/Talk")
        seen = await exchange(stream, kind)
        assert (await stream.end()).code == "OK"
        assert set(seen) == {b"new/new"}
        assert len(seen) == (1 if kind is REQUESTS else 3 if kind is REPLIES else 5)
        await until(lambda: loop.stats()["New.Talk"].running == 0)
    statistics = loop.stats()["New.Talk"]
    assert (statistics.total, statistics.errors) == (1, 0)
    assert old.stats()["Old.Talk"].errors == 0


@pytest.mark.parametrize("interceptors", list(WRAPPERS))
async def test_each_message_is_answered_before_the_next_one_is_sent(
    client: ClientProcess, new_loop: NewLoop, interceptors: str
) -> None:
    server = rpc.server(interceptors=WRAPPERS[interceptors]())
    add_methods(server.on(new_loop("new")), service="a.New", Talk=generator, kind=BOTH)
    async with running(server) as target:
        stream = client.open(target, "/a.Old/Talk")
        assert await stream.read() == b"new/new"
        for _ in range(20):
            await stream.write(b"?")
            assert await stream.read() == b"new/new"
        await stream.take("done_writing")
        assert await stream.take("read_all") == [b"new/new"]
        assert (await stream.end()).code == "OK"


@pytest.mark.parametrize("interceptors", list(WRAPPERS))
async def test_large_messages_pass_both_ways(client: ClientProcess, new_loop: NewLoop, interceptors: str) -> None:
    async def sizes(requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield bytes(len(request))

    server = rpc.server(interceptors=WRAPPERS[interceptors](), options=(("grpc.http2.lookahead_bytes", 65_536),))
    add_methods(server.on(new_loop("new")), service="a.New", Talk=sizes, kind=BOTH)
    async with running(server) as target:
        stream = client.open(target, "/a.Old/Talk")
        writing = stream.step("write", bytes(100_000), 30)
        done = stream.step("done_writing")
        replies = await stream.take("read_all")
        assert [len(reply) for reply in replies] == [100_000] * 30
        assert writing.done()
        assert done.done()


@pytest.mark.parametrize("interceptors", list(WRAPPERS))
async def test_large_messages_pass_at_the_pace_of_who_takes_them(
    client: ClientProcess, new_loop: NewLoop, interceptors: str
) -> None:
    mib, count, yielded = 1 << 20, 400, 0

    async def give(requests: Any, context: Any) -> AsyncIterator[bytes]:
        nonlocal yielded
        async for _ in requests:
            for _ in range(count):
                yielded += 1
                yield bytes(mib)

    async def settled() -> int:
        """What has been yielded when nothing more is."""
        before = 0
        while before != yielded or not before:
            before = yielded
            await asyncio.sleep(0.3)
        return before

    server = rpc.server(interceptors=WRAPPERS[interceptors]())
    add_methods(server.on(new_loop("new")), service="a.New", Talk=give, kind=BOTH)
    async with running(server) as target:
        stream = client.open(target, "/a.Old/Talk", timeout=60)
        await stream.write(b"?")
        first = await settled()
        # Five to twenty fill the buffers of both ends and the window, which the client widens as it goes.
        assert first < count / 2
        for _ in range(first):
            assert await stream.read() == bytes(mib)
        await until(lambda: yielded > first)
        assert await settled() < count
        await stream.take("cancel")


@pytest.mark.parametrize("interceptors", list(WRAPPERS))
@pytest.mark.parametrize("handler", [generator, reader_and_writer, tasks])
async def test_a_redirected_stream_is_cancelled_with_its_call(
    client: ClientProcess, new_loop: NewLoop, handler: Any, interceptors: str
) -> None:
    loop = new_loop("new")
    server = rpc.server(interceptors=WRAPPERS[interceptors]())
    add_methods(server.on(loop), service="a.New", Talk=handler, kind=BOTH)
    async with running(server) as target:
        stream = client.open(target, "/a.Old/Talk")
        assert await stream.read() == b"new/new"
        assert loop.stats()["New.Talk"].running == 1
        await stream.take("cancel")
        await until(lambda: loop.stats()["New.Talk"].running == 0)


@pytest.mark.parametrize("interceptors", list(WRAPPERS))
async def test_a_redirected_stream_has_its_calls_deadline_and_the_interceptors_variables(
    client: ClientProcess, new_loop: NewLoop, interceptors: str
) -> None:
    loop = new_loop("new")
    ended = threading.Event()

    async def talk(requests: Any, context: Any) -> AsyncIterator[bytes]:
        try:
            yield said.get().encode()
            # gRPC rounds time-outs up on their way.
            yield b"in time" if 0 < context.time_remaining() <= 1.1 else b"wrong"
            await asyncio.Event().wait()
        finally:
            ended.set()

    server = rpc.server(interceptors=WRAPPERS[interceptors]())
    add_methods(server.on(loop), service="a.New", Talk=talk, kind=BOTH)
    async with running(server) as target:
        stream = client.open(target, "/a.Old/Talk", timeout=1)
        assert await stream.read() == b"by the interceptor"
        assert await stream.read() == b"in time"
        assert (await stream.end()).code == "DEADLINE_EXCEEDED"
        await until(ended.is_set)


async def test_a_redirected_stream_goes_on_while_the_loop_of_its_path_is_stuck(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    old, loop = new_loop("old"), new_loop("new")
    let_go, ended = threading.Event(), threading.Event()

    async def talk(requests: Any, context: Any) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                yield bytes(request)
        finally:
            ended.set()

    server = rpc.server(interceptors=[Intercept(redirect)])
    add_methods(server.on(old), service="a.Old", Talk=generator, kind=BOTH)
    add_methods(server.on(loop), service="a.New", Talk=talk, kind=BOTH)
    async with running(server) as target:
        stream = client.open(target, "/a.Old/Talk")
        await stream.write(b"first")
        assert await stream.read() == b"first"
        old.post(wait_for, let_go)
        for number in range(10):
            await stream.write(b"%d" % number)
            assert await stream.read() == b"%d" % number
        await stream.take("cancel")
        # Told although the loop that cancels it can't.
        await until(ended.is_set)
        let_go.set()


async def test_only_the_handlers_loop_reads_and_writes_a_stream_that_has_moved(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    old = new_loop("old")
    problems: list[str] = []

    async def elsewhere(context: Any) -> None:
        try:
            await context.write(b"x")
        except NotOnLoopError as error:
            problems.append(str(error))

    async def talk(requests: Any, context: Any) -> None:
        await asyncio.wrap_future(old.submit(elsewhere, context))
        await context.write(where())

    server = rpc.server(interceptors=[Intercept(redirect)])
    add_methods(server.on(old), service="a.Old", Talk=generator, kind=BOTH)
    add_methods(server.on(new_loop("new")), service="a.New", Talk=talk, kind=BOTH)
    async with running(server) as target:
        stream = client.open(target, "/a.Old/Talk")
        assert await stream.read() == b"new/new"
        assert (await stream.end()).code == "OK"
    assert len(problems) == 1
    assert "'new'" in problems[0]


@pytest.mark.parametrize("interceptors", ["alone", "wrapped"])
@pytest.mark.parametrize("kind", [ONE, REPLIES])
async def test_an_abort_there_is_no_error_of_the_handlers(
    client: ClientProcess, new_loop: NewLoop, kind: Any, interceptors: str
) -> None:
    loop = new_loop("new")

    async def refuse(request: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, threading.current_thread().name)

    server = rpc.server(interceptors=WRAPPERS[interceptors]())
    add_methods(server.on(loop), service="a.New", Refuse=refuse, kind=kind)
    async with running(server) as target:
        outcome = await client.call(target, "/a.Old/Refuse")
        assert (outcome.code, outcome.details) == ("NOT_FOUND", "new")
        await until(lambda: loop.stats()["New.Refuse"].running == 0)
    assert loop.stats()["New.Refuse"].errors == 0


async def test_what_a_redirected_stream_raises_is_answered_as_if_it_were_not(
    client: ClientProcess, new_loop: NewLoop, log: Any
) -> None:
    async def fail(requests: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"one"
        raise LookupError("on purpose")

    server = rpc.server(interceptors=[Wrapping(), Intercept(redirect)])
    add_methods(server.on(new_loop("new")), service="a.New", Talk=fail, kind=BOTH)
    async with running(server) as target:
        stream = client.open(target, "/a.Old/Talk")
        assert await stream.read() == b"one"
        end = await stream.end()
        assert (end.code, end.details) == ("UNKNOWN", "Unexpected <class 'LookupError'>: on purpose")
    assert log.take("on purpose")


@pytest.mark.parametrize("kind", [ONE, BOTH])
async def test_a_handler_whose_loop_is_closed_exhausts_resources(
    client: ClientProcess, new_loop: NewLoop, kind: Any
) -> None:
    closed = IoContext("closed")
    server = rpc.server(interceptors=[Intercept(redirect)])
    add_methods(server.on(closed), service="a.New", Talk=echo if kind is ONE else generator, kind=kind)
    async with running(server) as target:
        closed.close()
        outcome = await client.call(target, "/a.Old/Talk", b"x")
        assert (outcome.code, outcome.details) == (
            "RESOURCE_EXHAUSTED",
            "Loop closed is closed or full, and has the handler",
        )


async def test_a_plain_function_of_nobody_runs_on_the_thread_pool_when_a_loop_sends_a_call_there(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    def plainly(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("k", "v"),))
        name = threading.current_thread().name
        return b"pool" if name not in {"MainThread", "old"} else name.encode()

    server = rpc.server(interceptors=[Intercept(redirect)])
    add_methods(server.on(new_loop("old")), service="a.Old", Plainly=echo)
    add_methods(server, service="a.New", Plainly=plainly)
    async with running(server) as target:
        outcome = await client.call(target, "/a.Old/Plainly")
        assert (outcome.reply, outcome.trailing) == (b"pool", (("k", "v"),))


async def test_a_plain_function_of_a_generic_handler_runs_on_the_thread_pool_wherever_its_call_comes_from(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    def plainly(request: bytes, context: Any) -> bytes:
        name = threading.current_thread().name
        return b"pool" if name not in {"MainThread", "old"} else name.encode()

    class Generic(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return ONE(plainly) if handler_call_details.method.startswith("/a.New/") else None

    server = rpc.server(interceptors=[Intercept(redirect)], handlers=[Generic()])
    add_methods(server.on(IoContext.current()), service="a.Old", Here=echo)
    add_methods(server.on(new_loop("old")), service="a.Old", There=echo)
    async with running(server) as target:
        methods = ("/a.Old/Here", "/a.Old/There", "/a.Old/Nowhere", "/a.New/Any")
        replies = [(await client.call(target, method)).reply for method in methods]
    assert replies == [b"pool"] * 4


@pytest.mark.parametrize("interceptors", [[], [Intercept(redirect)]])
async def test_each_registered_handler_is_prepared_once_and_only_where_an_interceptor_may_ask_for_it(
    monkeypatch: pytest.MonkeyPatch, new_loop: NewLoop, interceptors: list[Any]
) -> None:
    prepared: list[Any] = []

    def prepare(handler: Any, made: Any) -> Any:
        prepared.append(handler)
        return _kinds.prepare(handler, made)

    monkeypatch.setattr(_interceptors, "prepare", prepare)
    server = rpc.server(interceptors=interceptors)
    for io_context in (IoContext.current(), new_loop("new")):
        for number in range(10):
            add_methods(server.on(io_context), service=f"a.{io_context.name}{number}", Echo=echo)
    async with running(server):
        assert len(prepared) == (20 if interceptors else 0)


@both
async def test_a_unary_method_may_be_answered_by_a_handler_of_any_kind(client: ClientProcess, make_server: Any) -> None:
    async def read(requests: Any, context: Any) -> bytes:
        return b"read " + b"".join([request async for request in requests])

    async def read_by_reading(requests: Any, context: Any) -> bytes:
        return b"read " + bytes(await context.read())

    async def write(request: bytes, context: Any) -> None:
        await context.write(b"wrote " + request)

    async def generate(requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"yielded " + request

    kinds: dict[str, Any] = {
        "read": REQUESTS(read),
        "context": REQUESTS(read_by_reading),
        "write": REPLIES(write),
        "yield": BOTH(generate),
    }

    async def replace(continuation: Any, details: Any) -> Any:
        return kinds[dict(map(tuple, details.invocation_metadata))["kind"]]

    server = make_server(interceptors=[Intercept(replace)])
    add_methods(server, Echo=echo)
    async with running(server) as target:
        replies = [
            (await client.call(target, "/atoll.tests.v1.Ad.Hoc/Echo", b"it", metadata=(("kind", kind),))).reply
            for kind in kinds
        ]
    assert replies == [b"read it", b"read it", b"wrote it", b"yielded it"]


async def test_a_request_that_can_not_be_parsed_is_told_after_the_interceptors(client: ClientProcess, log: Any) -> None:
    asked = []

    async def note(continuation: Any, details: Any) -> Any:
        asked.append(details.method)
        return await continuation(details)

    def refuse(data: bytes) -> bytes:
        raise ValueError("on purpose")

    server = rpc.server(interceptors=[Intercept(note)])
    server.add_registered_method_handlers("a.B", {"C": ONE(echo, refuse)})
    async with running(server) as target:
        outcome = await client.call(target, "/a.B/C", b"x", timeout=TIMEOUT)
    assert (outcome.code, outcome.details) == ("INTERNAL", "Exception deserializing request!")
    assert asked == ["/a.B/C"]
    assert log.take("on purpose")
