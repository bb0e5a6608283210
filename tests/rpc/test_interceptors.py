"""Interceptors: the same ones, with the same outcome, on Atoll's server and on grpc.aio's."""

# Handlers take what they don't need.
# ruff: noqa: ARG001, ARG002

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import (
    ClientProcess,
    NewLoop,
    Outcome,
    add_methods,
    path,
    probe_pb2,
    probe_pb2_grpc,
    running,
    stub_client,
)

from atoll import IoContextPool, rpc
from atoll.errors import AbortError

Server = Callable[..., Any]

stock = pytest.param(grpc.aio.server, id="grpc.aio", marks=pytest.mark.whole_grpcio)
both = pytest.mark.parametrize("make_server", [pytest.param(rpc.server, id="atoll"), stock])
said: contextvars.ContextVar[str] = contextvars.ContextVar("said", default="nothing")


class Tracing(grpc.aio.ServerInterceptor):
    """Notes what it sees, and lets everything pass."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self.events = events

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        self.events.append(f"{self.name} asks for {handler_call_details.method}")
        handler = await continuation(handler_call_details)
        self.events.append(f"{self.name} has {'a handler' if handler else 'none'}")
        return handler


class Intercept(grpc.aio.ServerInterceptor):
    """Does what a function says."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return await self.function(continuation, handler_call_details)


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def call(
    client: ClientProcess, make_server: Server, *interceptors: Any, method: str = path("Echo"), **options: Any
) -> Outcome:
    """One call to a server with a method `Echo`."""
    server = make_server(interceptors=interceptors)
    add_methods(server, Echo=echo)
    async with running(server) as target:
        return await client.call(target, method, b"x", **options)


@both
async def test_interceptors_are_asked_in_order_before_the_handler_is_chosen(
    client: ClientProcess, make_server: Server
) -> None:
    events: list[str] = []
    outcome = await call(client, make_server, Tracing("first", events), Tracing("second", events))
    assert outcome.reply == b"x"
    asked = path("Echo")
    assert events == [
        f"first asks for {asked}",
        f"second asks for {asked}",
        "second has a handler",
        "first has a handler",
    ]


@both
@pytest.mark.parametrize("generic", [False, True])
async def test_they_are_asked_for_unknown_methods_too(
    client: ClientProcess,
    make_server: Server,
    generic: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    class Nothing(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return None

    events: list[str] = []
    server = make_server(interceptors=[Tracing("it", events)], handlers=[Nothing()] if generic else None)
    add_methods(server, Echo=echo)
    async with running(server) as target:
        outcome = await client.call(target, "/no.Service/Method")
    assert (outcome.code, outcome.details) == ("UNIMPLEMENTED", "Method not found!")
    assert events == ["it asks for /no.Service/Method", "it has none"]


@both
async def test_they_see_what_generic_handlers_serve(client: ClientProcess, make_server: Server) -> None:
    class Everything(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(echo)

    events: list[str] = []
    server = make_server(interceptors=[Tracing("it", events)], handlers=[Everything()])
    async with running(server) as target:
        assert (await client.call(target, "/a.B/C", b"x")).reply == b"x"
    assert events == ["it asks for /a.B/C", "it has a handler"]


@both
async def test_metadata_is_there_before_the_handler(client: ClientProcess, make_server: Server) -> None:
    seen = []

    async def look(continuation: Any, details: Any) -> Any:
        seen.append([(key, value) for key, value in details.invocation_metadata if key.startswith("my-")])
        return await continuation(details)

    metadata = (("my-key", "value"), ("my-bytes-bin", b"\x00\xff"))
    await call(client, make_server, Intercept(look), metadata=metadata)
    assert [sorted(each) for each in seen] == [sorted(metadata)]


@both
async def test_one_may_answer_instead_of_the_handler_by_aborting(client: ClientProcess, make_server: Server) -> None:
    async def refuse(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?", (("hint", "say so"),))

    async def check(continuation: Any, details: Any) -> Any:
        if ("token", "right") in tuple(map(tuple, details.invocation_metadata)):
            return await continuation(details)
        return grpc.unary_unary_rpc_method_handler(refuse)

    outcome = await call(client, make_server, Intercept(check))
    assert (outcome.code, outcome.details, outcome.trailing) == (
        "UNAUTHENTICATED",
        "who are you?",
        (("hint", "say so"),),
    )
    assert (await call(client, make_server, Intercept(check), metadata=(("token", "right"),))).reply == b"x"


@both
async def test_one_may_wrap_the_handler(client: ClientProcess, make_server: Server) -> None:
    async def wrap(continuation: Any, details: Any) -> Any:
        handler = await continuation(details)

        async def wrapped(request: bytes, context: Any) -> bytes:
            reply: bytes = await handler.unary_unary(request + b"<", context)
            return reply + b">"

        return grpc.unary_unary_rpc_method_handler(wrapped, handler.request_deserializer, handler.response_serializer)

    assert (await call(client, make_server, Intercept(wrap), Intercept(wrap))).reply == b"x<<>>"


@both
async def test_a_plain_function_in_place_of_the_handler_runs_on_the_thread_pool(
    client: ClientProcess, make_server: Server
) -> None:
    def where(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("k", "v"),))
        return b"main" if threading.current_thread() is threading.main_thread() else b"pool"

    async def replace(continuation: Any, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(where)

    outcome = await call(client, make_server, Intercept(replace))
    assert (outcome.reply, outcome.trailing) == (b"pool", (("k", "v"),))


@both
async def test_one_may_send_the_call_to_another_method(client: ClientProcess, make_server: Server) -> None:
    async def redirect(continuation: Any, details: Any) -> Any:
        return await continuation(rpc.HandlerCallDetails(path("Echo"), details.invocation_metadata))

    if make_server is grpc.aio.server:
        pytest.skip("grpc.aio takes only objects of its own class, which can't be made")
    assert (await call(client, make_server, Intercept(redirect), method="/old.Service/Echo")).reply == b"x"


@both
async def test_what_one_raises_is_answered_as_if_the_handler_had(
    client: ClientProcess, make_server: Server, log: Log
) -> None:
    async def fail(continuation: Any, details: Any) -> Any:
        raise LookupError("on purpose")

    outcome = await call(client, make_server, Intercept(fail))
    assert (outcome.code, outcome.details) == ("UNKNOWN", "Unexpected <class 'LookupError'>: on purpose")
    assert log.take("on purpose")


@both
async def test_one_that_gives_no_handler_makes_the_method_unknown(client: ClientProcess, make_server: Server) -> None:
    async def hide(continuation: Any, details: Any) -> Any:
        return None

    outcome = await call(client, make_server, Intercept(hide))
    assert (outcome.code, outcome.details) == ("UNIMPLEMENTED", "Method not found!")


@both
async def test_context_variables_that_one_sets_are_the_handlers(client: ClientProcess, make_server: Server) -> None:
    async def say(continuation: Any, details: Any) -> Any:
        said.set("something")
        return await continuation(details)

    async def hear(request: bytes, context: Any) -> bytes:
        return said.get().encode()

    server = make_server(interceptors=[Intercept(say)])
    add_methods(server, Hear=hear)
    async with running(server) as target:
        assert (await client.call(target, path("Hear"))).reply == b"something"
    assert said.get() == "nothing"


@both
async def test_the_request_is_parsed_after_them(client: ClientProcess, make_server: Server) -> None:
    events: list[str] = []

    def parse(data: bytes) -> bytes:
        events.append("parsed")
        return data

    server = make_server(interceptors=[Tracing("it", events)])
    handler: Any = grpc.unary_unary_rpc_method_handler(echo, parse)
    server.add_registered_method_handlers("a.B", {"C": handler})
    async with running(server) as target:
        await client.call(target, "/a.B/C")
    assert events == ["it asks for /a.B/C", "it has a handler", "parsed"]


@both
async def test_a_handler_is_cancelled_with_its_call(client: ClientProcess, make_server: Server) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return b"never"

    server = make_server(interceptors=[Tracing("it", [])])
    add_methods(server, Wait=wait)
    async with running(server) as target:
        pending = client.start(target, path("Wait"))
        await asyncio.wait_for(entered.wait(), 10)
        pending.cancel()
        await asyncio.wait_for(left.wait(), 10)


# ------------------------------------------------------------------------------------------------------- all four kinds


class Streams(probe_pb2_grpc.StreamsServicer):  # type: ignore[misc] # generated at test time
    async def Once(self, request: Any, context: Any) -> Any:
        return request

    async def Watch(self, request: Any, context: Any) -> Any:
        for number in range(request.number):
            yield probe_pb2.Note(number=number)

    async def Collect(self, request_iterator: Any, context: Any) -> Any:
        return probe_pb2.Note(number=sum([request.number async for request in request_iterator]))

    async def Talk(self, request_iterator: Any, context: Any) -> Any:
        async for request in request_iterator:
            yield probe_pb2.Note(number=request.number * 2)


class ReadingAndWriting(Streams):
    async def Watch(self, request: Any, context: Any) -> None:
        for number in range(request.number):
            await context.write(probe_pb2.Note(number=number))

    async def Collect(self, request_iterator: Any, context: Any) -> Any:
        total = 0
        while (request := await context.read()) is not grpc.aio.EOF:
            total += request.number
        return probe_pb2.Note(number=total)

    async def Talk(self, request_iterator: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(probe_pb2.Note(number=request.number * 2))


class Plain(Streams):
    def Once(self, request: Any, context: Any) -> Any:
        return request

    def Watch(self, request: Any, context: Any) -> Any:
        for number in range(request.number):
            yield probe_pb2.Note(number=number)

    def Collect(self, request_iterator: Any, context: Any) -> Any:
        return probe_pb2.Note(number=sum(request.number for request in request_iterator))

    def Talk(self, request_iterator: Any, context: Any) -> Any:
        for request in request_iterator:
            yield probe_pb2.Note(number=request.number * 2)


ALL_KINDS = """
def notes(*numbers):
    return iter([probe_pb2.Note(number=number) for number in numbers])

with grpc.insecure_channel(sys.argv[2]) as channel:
    stub = probe_pb2_grpc.StreamsStub(channel)
    assert stub.Once(probe_pb2.Note(text="x"), timeout=20).text == "x"
    assert [note.number for note in stub.Watch(probe_pb2.Note(number=3), timeout=20)] == [0, 1, 2]
    assert stub.Collect(notes(1, 2, 3), timeout=20).number == 6
    assert [note.number for note in stub.Talk(notes(1, 2, 3), timeout=20)] == [2, 4, 6]
"""


@both
@pytest.mark.parametrize("servicer", [Streams, ReadingAndWriting, Plain])
async def test_all_kinds_of_calls_and_handlers_pass_through(make_server: Server, servicer: type) -> None:
    events: list[str] = []
    server = make_server(interceptors=[Tracing("it", events)])
    probe_pb2_grpc.add_StreamsServicer_to_server(servicer(), server)
    async with running(server) as target:
        assert await stub_client(target, ALL_KINDS) == "all is well"
    assert events.count("it has a handler") == 4


async def test_all_kinds_of_calls_pass_through_on_a_loop(new_loop: NewLoop) -> None:
    threads = []

    async def note(continuation: Any, details: Any) -> Any:
        threads.append(threading.current_thread().name)
        return await continuation(details)

    server = rpc.server(interceptors=[Intercept(note)])
    probe_pb2_grpc.add_StreamsServicer_to_server(Streams(), server.on(new_loop("module")))
    async with running(server) as target:
        assert await stub_client(target, ALL_KINDS) == "all is well"
    assert threads == ["module"] * 4


ALL_REFUSED = """
note = probe_pb2.Note(number=1)
with grpc.insecure_channel(sys.argv[2]) as channel:
    stub = probe_pb2_grpc.StreamsStub(channel)
    calls = [
        stub.Once.future(note, timeout=20),
        stub.Watch(note, timeout=20),
        stub.Collect.future(iter([note]), timeout=20),
        stub.Talk(iter([note]), timeout=20),
    ]
    for call in calls:
        assert (call.code(), call.details()) == (grpc.StatusCode.PERMISSION_DENIED, "no"), call
"""


@both
async def test_one_may_refuse_every_kind_of_call_with_a_unary_handler(make_server: Server) -> None:
    async def refuse(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")

    async def always(continuation: Any, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(refuse)

    server = make_server(interceptors=[Intercept(always)])
    probe_pb2_grpc.add_StreamsServicer_to_server(Streams(), server)
    async with running(server) as target:
        assert await stub_client(target, ALL_REFUSED) == "all is well"


@both
async def test_one_may_wrap_a_stream(make_server: Server) -> None:
    async def wrap(continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if not handler.response_streaming:
            return handler
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )

        async def wrapped(request: Any, context: Any) -> Any:
            async for reply in behaviour(request, context):
                yield reply

        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    server = make_server(interceptors=[Intercept(wrap)])
    probe_pb2_grpc.add_StreamsServicer_to_server(Streams(), server)
    async with running(server) as target:
        assert await stub_client(target, ALL_KINDS) == "all is well"


# ------------------------------------------------------------------------------------------------------------ on loops


async def where(request: bytes, context: Any) -> bytes:
    return threading.current_thread().name.encode()


async def test_they_run_on_the_loop_that_the_path_has(client: ClientProcess, new_loop: NewLoop) -> None:
    threads = []

    async def note(continuation: Any, details: Any) -> Any:
        threads.append(threading.current_thread().name)
        return await continuation(details)

    def plainly(request: bytes, context: Any) -> bytes:
        return threading.current_thread().name.encode()

    server = rpc.server(interceptors=[Intercept(note)])
    add_methods(server.on(new_loop("module")), service="a.Bound", Where=where, Plainly=plainly)
    add_methods(server, service="a.Home", Where=where)
    async with running(server) as target:
        assert (await client.call(target, "/a.Bound/Where")).reply == b"module"
        assert (await client.call(target, "/a.Bound/Plainly")).reply == b"module"
        assert (await client.call(target, "/a.Home/Where")).reply == b"MainThread"
        await client.call(target, "/no.Service/Method")
    assert threads == ["module", "module", "MainThread", "MainThread"]


async def test_a_handler_of_another_loop_is_posted_there(client: ClientProcess, new_loop: NewLoop) -> None:
    async def redirect(continuation: Any, details: Any) -> Any:
        method = details.method.replace("a.Old", "a.New")
        return await continuation(rpc.HandlerCallDetails(method, details.invocation_metadata))

    async def refuse(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, threading.current_thread().name)
        return b""

    server = rpc.server(interceptors=[Intercept(redirect)])
    add_methods(server.on(new_loop("new")), service="a.New", Where=where, Refuse=refuse)
    async with running(server) as target:
        assert (await client.call(target, "/a.Old/Where")).reply == b"new"
        refused = await client.call(target, "/a.Old/Refuse")
        assert (refused.code, refused.details) == ("NOT_FOUND", "new")


async def test_they_run_on_the_loop_of_a_pool_that_has_the_call(client: ClientProcess) -> None:
    class Where:
        async def Ask(self, request: Any, context: Any) -> Any:
            return probe_pb2.Note(text=threading.current_thread().name)

    threads = []

    async def note(continuation: Any, details: Any) -> Any:
        threads.append(threading.current_thread().name)
        method = details.method.replace("a.Old", "atoll.tests.v1.Probe")
        return await continuation(rpc.HandlerCallDetails(method, details.invocation_metadata))

    with IoContextPool(3, "worker") as pool:
        server = rpc.server(interceptors=[Intercept(note)])
        server.on(pool, key=rpc.by_metadata("tenant")).add_service(
            probe_pb2.DESCRIPTOR.services_by_name["Probe"], Where
        )
        async with running(server) as target:
            for tenant in ("ada", "grace", "edsger"):
                metadata = (("tenant", tenant),)
                directly = await client.call(target, "/atoll.tests.v1.Probe/Ask", metadata=metadata)
                redirected = await client.call(target, "/a.Old/Ask", metadata=metadata)
                name = probe_pb2.Note.FromString(directly.reply).text
                assert directly.reply == redirected.reply
                assert threads[-2:] == [name, "MainThread"]


# --------------------------------------------------------------------------------------------------------- what is none


class WithoutGrpc:
    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        said.set("by duck typing")
        return await continuation(handler_call_details)


async def test_a_server_without_grpcio_takes_any_object_with_the_method(client: ClientProcess) -> None:
    class Probe:
        async def Ask(self, request: Any, context: Any) -> Any:
            return probe_pb2.Note(text=said.get())

    server = rpc.Server(interceptors=[WithoutGrpc()])
    server.add_service(probe_pb2.DESCRIPTOR.services_by_name["Probe"], Probe())
    async with running(server) as target:
        reply = (await client.call(target, "/atoll.tests.v1.Probe/Ask")).reply
    assert probe_pb2.Note.FromString(reply).text == "by duck typing"


class OfTheSyncServer(grpc.ServerInterceptor):
    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return continuation(handler_call_details)


@pytest.mark.parametrize(
    ("interceptor", "message"),
    [
        (object(), r"is no interceptor: it needs async def intercept_service"),
        (WithoutGrpc, r"is no interceptor: it needs async def intercept_service"),
        (OfTheSyncServer(), r"is an interceptor of grpc.server\(\): derive it from grpc.aio.ServerInterceptor"),
    ],
)
def test_what_is_none_is_an_error_that_says_what_one_has(interceptor: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rpc.server(interceptors=[interceptor])


async def test_the_abort_error_reaches_them(client: ClientProcess) -> None:
    caught = []

    async def catch(continuation: Any, details: Any) -> Any:
        handler = await continuation(details)

        async def wrapped(request: bytes, context: Any) -> Any:
            try:
                return await handler.unary_unary(request, context)
            except AbortError as error:
                caught.append(error)
                raise

        return grpc.unary_unary_rpc_method_handler(wrapped)

    async def refuse(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "not there")
        return b""

    server = rpc.server(interceptors=[Intercept(catch)])
    add_methods(server, Refuse=refuse)
    async with running(server) as target:
        assert (await client.call(target, path("Refuse"))).code == "NOT_FOUND"
    assert isinstance(caught[0], grpc.aio.AbortError)
