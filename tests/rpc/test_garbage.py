"""A call's context is not kept alive by what refers to it."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import grpc
from tests.rpc.support import add_methods, path, running, until, wait_for

from atoll import IoContext, rpc

if TYPE_CHECKING:
    from tests.rpc.conftest import Log
    from tests.rpc.support import ClientProcess, LoopFactory


def test_a_context_goes_with_callbacks_that_refer_to_it() -> None:
    context = rpc.SyncServicerContext()
    context.add_callback(context.is_active)
    watched = weakref.ref(context)
    del context
    gc.collect()
    assert watched() is None


class Deserializer:
    """What one call's messages are read by."""

    context: Any = None

    def parse(self, message: bytes) -> bytes:
        return message


class PerCall:
    """An interceptor that makes a handler for each call."""

    def __init__(self) -> None:
        self.watched: list[weakref.ref[Any]] = []

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        assert await continuation(details) is not None
        deserializer = Deserializer()
        self.watched.append(weakref.ref(deserializer))

        async def collect(requests: Any, context: Any) -> bytes:
            deserializer.context = context
            self.watched.append(weakref.ref(context))
            return b"".join([request async for request in requests])

        return grpc.stream_unary_rpc_method_handler(collect, deserializer.parse)


async def test_a_call_goes_with_the_deserializer_that_was_found_for_it(client: ClientProcess) -> None:
    async def never(requests: Any, context: Any) -> bytes:
        raise AssertionError

    interceptor = PerCall()
    server = rpc.Server(interceptors=[interceptor])
    add_methods(server, Collect=never, kind=grpc.stream_unary_rpc_method_handler)
    async with running(server) as target:
        stream = client.open(target, path("Collect"))
        await stream.write(b"one", b"two")
        await stream.take("done_writing")
        assert await stream.take("read_all") == [b"onetwo"]
        assert (await stream.end()).code == "OK"
        await until(lambda: server.stats().in_flight == 0)
    assert len(interceptor.watched) == 2
    gc.collect()
    assert [reference() for reference in interceptor.watched] == [None, None]


async def test_a_loop_goes_with_a_stream_whose_handler_it_will_never_end(
    client: ClientProcess, loop_factory: LoopFactory, log: Log
) -> None:
    io_context = IoContext("abandoned", loop_factory=loop_factory)
    watched: list[weakref.ref[Any]] = [weakref.ref(io_context)]
    entered = threading.Event()

    async def wait(requests: Any, context: Any) -> bytes:
        argument = Deserializer()
        argument.context = context
        watched.extend([weakref.ref(argument), weakref.ref(context)])
        entered.set()
        await context.read()
        return b""

    thread = threading.Thread(target=io_context.run)
    guard = io_context.work_guard()
    server = rpc.server()
    add_methods(server.on(io_context), Wait=wait, kind=grpc.stream_unary_rpc_method_handler)
    async with running(server) as target:
        thread.start()
        stream = client.open(target, path("Wait"), timeout=60)
        await asyncio.to_thread(wait_for, entered)
        # It stops for good, with the handler where it is, and nobody closes it.
        io_context.stop()
        await asyncio.to_thread(thread.join)
    assert (await stream.end()).code == "UNAVAILABLE"
    assert log.take("still run on loop abandoned")
    assert io_context.loop is not None
    io_context.loop.close()
    del io_context, guard, server, thread, wait
    gc.collect()
    assert not any(reference() for reference in watched)
    # asyncio complains of a task that nobody has waited for.
    log.take("asyncio: ")
