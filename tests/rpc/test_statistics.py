"""What is counted, and that nothing is left over after a storm."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
import random
import threading
from collections import Counter
from typing import Any

import grpc
import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import ClientProcess, NewLoop, add_methods, path, running, serving, until

from atoll import IoContext, rpc


async def test_handlers_are_named_after_their_service_and_method_and_counted(  # noqa: C901 - a handler per case
    client: ClientProcess, new_loop: NewLoop, log: Log
) -> None:
    async def ok(request: bytes, context: Any) -> bytes:
        return b""

    def plain(request: bytes, context: Any) -> bytes:
        return b""

    async def awaiting(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0.01)
        return b""

    async def raising(request: bytes, context: Any) -> bytes:
        raise ValueError("on purpose")

    async def aborting(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.ABORTED, "on purpose")
        return b""

    async def code(request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        return b""

    async def wrong(request: bytes, context: Any) -> Any:
        return 5

    module = new_loop("module")
    methods = {"Ok": ok, "Plain": plain, "Awaiting": awaiting, "Raising": raising}
    methods |= {"Aborting": aborting, "Code": code, "Wrong": wrong}
    async with serving(module, methods) as target:
        for count, name in enumerate(methods, 1):
            for _ in range(count):
                await client.call(target, path(name))
        await until(lambda: module.stats().active == 0)
    stats = module.stats()
    expected_errors = {"Raising": 4, "Wrong": 7}
    for count, name in enumerate(methods, 1):
        handler = stats[f"Hoc.{name}"]
        assert (handler.total, handler.active, handler.running) == (count, 0, 0)
        assert handler.errors == expected_errors.get(name, 0), name
        assert handler.queue_time.count == count
        assert handler.execution_time.count == count
        assert handler.wall_time.count == (count if name == "Awaiting" else 0)
    # uvloop's clock counts milliseconds.
    assert stats["Hoc.Awaiting"].wall_time.min >= 0.009
    assert stats["Hoc.Awaiting"].execution_time.max < 0.01
    assert len(log.take("handler Hoc.Raising on loop module raised: ValueError")) == 4
    assert len(log.take("handler Hoc.Wrong on loop module raised: TypeError")) == 7


async def test_a_request_that_cannot_be_parsed_counts_as_an_error(
    client: ClientProcess, new_loop: NewLoop, log: Log
) -> None:
    def parse(request: bytes) -> bytes:
        raise ValueError("not a message")

    async def never(request: bytes, context: Any) -> bytes:
        raise AssertionError

    module = new_loop("module")
    server = rpc.server()
    server.on(module).add_registered_method_handlers(
        "a.B", {"C": grpc.unary_unary_rpc_method_handler(never, parse, None)}
    )
    async with running(server) as target:
        assert (await client.call(target, "/a.B/C")).code == "INTERNAL"
    handler = module.stats()["B.C"]
    assert (handler.total, handler.active, handler.running, handler.errors) == (1, 0, 0, 1)
    assert log.take("not a message")


async def test_services_of_one_short_name_keep_their_full_names(client: ClientProcess, new_loop: NewLoop) -> None:
    async def ok(request: bytes, context: Any) -> bytes:
        return b""

    module = new_loop("module")
    server = rpc.server()
    add_methods(server.on(module), service="a.v1.Store", Get=ok)
    add_methods(server.on(module), service="a.v2.Store", Get=ok)
    async with running(server) as target:
        await client.call(target, "/a.v1.Store/Get")
        await client.call(target, "/a.v2.Store/Get")
    names = {handler.name for handler in module.stats() if handler.total}
    assert len({name for name in names if name.endswith("Store.Get")}) == 2


async def test_exceptions_go_to_the_loops_hook(client: ClientProcess, new_loop: NewLoop) -> None:
    seen: list[tuple[str, str, str]] = []

    def hook(io_context: IoContext, handler: str, exception: BaseException) -> None:
        seen.append((io_context.name, handler, repr(exception)))

    async def raising(request: bytes, context: Any) -> bytes:
        raise ValueError("on purpose")

    async with serving(new_loop("module", exception_hook=hook), Raising=raising) as target:
        await client.call(target, path("Raising"))
    assert seen == [("module", "Hoc.Raising", "ValueError('on purpose')")]


@pytest.mark.parametrize("place", ["unplaced", "two loops"])
async def test_after_a_storm_of_calls_cancels_and_deadlines_nothing_is_left(
    client: ClientProcess, new_loop: NewLoop, log: Log, place: str
) -> None:
    chance = random.Random(17)  # noqa: S311 - the same storm each time
    callbacks: Counter[int] = Counter()
    numbers = iter(range(1_000_000))
    lock = threading.Lock()

    def note(context: Any) -> None:
        with lock:
            number = next(numbers)
        context.add_done_callback(lambda _: callbacks.update([number]))

    async def quick(request: bytes, context: Any) -> bytes:
        note(context)
        return request

    async def awaiting(request: bytes, context: Any) -> bytes:
        note(context)
        await asyncio.sleep(float(request))
        return request

    async def raising(request: bytes, context: Any) -> bytes:
        note(context)
        await asyncio.sleep(0)
        raise ValueError("on purpose")

    async def aborting(request: bytes, context: Any) -> bytes:
        note(context)
        await asyncio.sleep(0)
        await context.abort(grpc.StatusCode.ABORTED, "on purpose")
        return b""

    def plain(request: bytes, context: Any) -> bytes:
        return request

    loops = [IoContext.current()] if place == "unplaced" else [new_loop("first"), new_loop("second")]
    server = rpc.server()
    methods = {"Quick": quick, "Awaiting": awaiting, "Raising": raising, "Aborting": aborting, "Plain": plain}
    for index, io_context in enumerate(loops):
        add_methods(server if place == "unplaced" else server.on(io_context), service=f"s.S{index}", **methods)
    async with running(server) as target:
        calls = [
            client.start(
                target,
                f"/s.S{chance.randrange(len(loops))}/{chance.choice(list(methods))}",
                str(chance.random() * 0.05).encode(),
                timeout=chance.choice([10.0, 10.0, 0.05, 0.01, 0.001]),
                cancel_after=chance.choice([None, None, None, 0.0, 0.02, 0.05]),
                channel=str(chance.randrange(4)),
            )
            for _ in range(2000)
        ]
        outcomes = await asyncio.gather(*(call.outcome() for call in calls))
        await until(lambda: sum(io_context.stats().active for io_context in loops) == 0)
        assert server._core.counts()[1] == 0
    codes = Counter(outcome.code for outcome in outcomes)
    assert set(codes) == {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "UNKNOWN"}, codes
    for io_context in loops:
        stats = io_context.stats()
        assert (stats.active, stats.running) == (0, 0)
        for handler in stats:
            assert handler.errors <= handler.total
    started = next(numbers)
    assert callbacks == Counter(range(started))
    errors = sum(
        handler.errors for io_context in loops for handler in io_context.stats() if handler.name.endswith("Raising")
    )
    assert len(log.take("on purpose")) == errors
