"""Handlers that decide by path and metadata, methods that nobody serves, and streaming methods."""

# Handlers take what they don't need.
# ruff: noqa: ARG001, ARG002

import asyncio
import threading
from typing import Any

import grpc
import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import (
    ClientProcess,
    NewLoop,
    add_methods,
    path,
    probe_pb2,
    probe_pb2_grpc,
    running,
    serving,
    stub_client,
)

from atoll import rpc
from atoll.errors import PlacementError


class ByPath(grpc.GenericRpcHandler):
    """Serves every method of `a.Dynamic`, as proxies do."""

    def __init__(self, function: Any) -> None:
        self.handler: Any = grpc.unary_unary_rpc_method_handler(function)
        self.asked: list[Any] = []

    def service(self, handler_call_details: Any) -> Any:
        self.asked.append(handler_call_details)
        return self.handler if handler_call_details.method.startswith("/a.Dynamic/") else None


async def test_a_generic_handler_serves_what_it_says(client: ClientProcess) -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("k", "v"),))
        return b"dynamic:" + request

    generic = ByPath(answer)
    server = rpc.server()
    server.add_generic_rpc_handlers((generic,))
    async with running(server) as target:
        outcome = await client.call(target, "/a.Dynamic/Anything", b"x", metadata=(("k", "v"),))
        assert (outcome.reply, outcome.trailing) == (b"dynamic:x", (("k", "v"),))
        nobodys = await client.call(target, "/b.Other/Method")
        assert (nobodys.code, nobodys.details) == ("UNIMPLEMENTED", "Method not found!")
    assert [details.method for details in generic.asked] == ["/a.Dynamic/Anything", "/b.Other/Method"]
    assert ("k", "v") in generic.asked[0].invocation_metadata


async def test_a_generic_handler_may_have_plain_functions_with_a_plain_context(client: ClientProcess) -> None:
    def answer(request: bytes, context: Any) -> bytes:
        context.send_initial_metadata((("early", threading.current_thread().name),))
        if request == b"abort":
            context.abort(grpc.StatusCode.NOT_FOUND, "not there", (("k", "v"),))
        return request

    server = rpc.server(handlers=[ByPath(answer)])
    async with running(server) as target:
        outcome = await client.call(target, "/a.Dynamic/Anything", b"fine")
        assert outcome.reply == b"fine"
        assert dict(outcome.initial)["early"] != "MainThread"
        aborted = await client.call(target, "/a.Dynamic/Anything", b"abort")
        assert (aborted.code, aborted.details, aborted.trailing) == ("NOT_FOUND", "not there", (("k", "v"),))


async def test_generic_handlers_are_asked_in_order_and_after_registered_ones(client: ClientProcess) -> None:
    async def first(request: bytes, context: Any) -> bytes:
        return b"first"

    async def second(request: bytes, context: Any) -> bytes:
        return b"second"

    async def registered(request: bytes, context: Any) -> bytes:
        return b"registered"

    server = rpc.server()
    server.add_generic_rpc_handlers((ByPath(first), ByPath(second)))
    add_methods(server, service="a.Dynamic", Known=registered)
    async with running(server) as target:
        assert (await client.call(target, "/a.Dynamic/Anything")).reply == b"first"
        assert (await client.call(target, "/a.Dynamic/Known")).reply == b"registered"


async def test_a_generic_handler_that_raises_is_answered(client: ClientProcess, log: Log) -> None:
    class Raises(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            raise LookupError(handler_call_details.method)

    server = rpc.server(handlers=[Raises()])
    async with running(server) as target:
        outcome = await client.call(target, "/a.B/C")
    assert (outcome.code, outcome.details) == ("UNKNOWN", "Unexpected <class 'LookupError'>: /a.B/C")
    assert log.take("LookupError")


async def test_conversions_that_fail_are_answered_as_for_other_handlers(client: ClientProcess, log: Log) -> None:
    def refuse(data: object) -> bytes:
        raise ValueError("on purpose")

    async def answer(request: bytes, context: Any) -> bytes:
        return request

    class Converting(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            if handler_call_details.method == "/a.B/Request":
                return grpc.unary_unary_rpc_method_handler(answer, refuse, None)
            return grpc.unary_unary_rpc_method_handler(answer, None, refuse)

    server = rpc.server(handlers=[Converting()])
    async with running(server) as target:
        request, reply = await client.call(target, "/a.B/Request"), await client.call(target, "/a.B/Reply")
    assert (request.code, request.details) == ("INTERNAL", "Exception deserializing request!")
    assert (reply.code, reply.details) == ("INTERNAL", "Failed to serialize response!")
    assert len(log.take("on purpose")) == 2


async def test_a_generic_handler_cannot_be_bound_and_the_error_says_what_can(new_loop: NewLoop) -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        return b""

    with pytest.raises(PlacementError, match="add it to the server itself"):
        rpc.server().on(new_loop("module")).add_generic_rpc_handlers((ByPath(answer),))


async def test_a_generic_handlers_coroutine_is_cancelled_with_its_call(client: ClientProcess) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return b"never"

    server = rpc.server(handlers=[ByPath(wait)])
    async with running(server) as target:
        call = client.start(target, "/a.Dynamic/Wait")
        await entered.wait()
        call.cancel()
        await asyncio.wait_for(left.wait(), 10)


@pytest.mark.parametrize(
    "method", ["/atoll.tests.v1.Ad.Hoc/Nothing", "/no.Service/Answer", "/", "/a", "//", "/a.B/C/D", "/%20"]
)
async def test_what_nobody_serves_is_unimplemented(client: ClientProcess, method: str) -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        return b""

    async with serving(Answer=answer) as target:
        outcome = await client.call(target, method)
        assert (outcome.code, outcome.details) == ("UNIMPLEMENTED", "Method not found!")
        assert (await client.call(target, path("Answer"))).code == "OK"


async def test_generated_code_of_every_kind_of_call_is_served() -> None:
    class Streams(probe_pb2_grpc.StreamsServicer):  # type: ignore[misc] # generated at test time
        async def Once(self, request: Any, context: Any) -> Any:
            return request

        async def Watch(self, request: Any, context: Any) -> Any:
            for number in range(3):
                yield probe_pb2.Note(text=f"{request.text}{number}")

        async def Collect(self, request_iterator: Any, context: Any) -> Any:
            return probe_pb2.Note(text=",".join([request.text async for request in request_iterator]))

        async def Talk(self, request_iterator: Any, context: Any) -> Any:
            async for request in request_iterator:
                yield request

    program = """
with grpc.insecure_channel(sys.argv[2]) as channel:
    stub = probe_pb2_grpc.StreamsStub(channel)
    note, other = probe_pb2.Note(text="x"), probe_pb2.Note(text="y")
    assert stub.Once(note, timeout=10) == note
    assert [reply.text for reply in stub.Watch(note, timeout=10)] == ["x0", "x1", "x2"]
    assert stub.Collect(iter([note, other]), timeout=10).text == "x,y"
    assert list(stub.Talk(iter([note, other]), timeout=10)) == [note, other]
"""
    server = rpc.server()
    probe_pb2_grpc.add_StreamsServicer_to_server(Streams(), server)
    async with running(server) as target:
        assert await stub_client(target, program) == "all is well"
