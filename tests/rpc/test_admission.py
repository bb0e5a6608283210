"""Calls that are limited, wait, or are refused: `MethodOptions` and `maximum_concurrent_rpcs`."""

# Handlers take what they don't need.
# ruff: noqa: ARG001, ARG002

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import (
    ClientProcess,
    NewLoop,
    Placed,
    add_methods,
    path,
    probe_pb2_grpc,
    running,
    until,
    wait_for,
)

from atoll import IoContext, rpc


class Entered:
    """A handler that says when it begins, and ends when it is let."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.running = 0
        self.most = 0
        self.leave: dict[bytes, asyncio.Event] = {}

    async def __call__(self, request: bytes, context: Any) -> bytes:
        self.begun.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.leave.setdefault(request, asyncio.Event()).wait()
        finally:
            self.running -= 1
        return request

    def let(self, request: bytes) -> None:
        self.leave.setdefault(request, asyncio.Event()).set()


async def answer(request: bytes, context: Any) -> bytes:
    return b"answered"


@contextlib.asynccontextmanager
async def serving(
    methods: dict[str, Callable[..., Any]], io_context: IoContext | None = None, **options: Any
) -> AsyncIterator[tuple[Any, str]]:
    server = rpc.server(**options)
    add_methods(server if io_context is None else server.on(io_context), methods)
    async with running(server) as target:
        yield server, target


# --------------------------------------------------------------------------------------------------- limits and waits


async def test_calls_beyond_the_limit_are_refused(client: ClientProcess) -> None:
    entered = Entered()
    options = rpc.MethodOptions(max_active_rpcs=2)
    async with serving({"Wait": entered}, method_options=options) as (server, target):
        first = client.start(target, path("Wait"), b"1")
        await until(lambda: entered.begun)
        second = client.start(target, path("Wait"), b"2")
        await until(lambda: len(entered.begun) == 2)
        refused = await client.call(target, path("Wait"), b"3")
        assert refused.code == "RESOURCE_EXHAUSTED"
        assert "max_active_rpcs" in refused.details
        entered.let(b"1")
        assert (await first.outcome()).code == "OK"
        entered.let(b"3")
        assert (await client.call(target, path("Wait"), b"3")).reply == b"3"
        entered.let(b"2")
        await second.outcome()
        stats = server.stats()[path("Wait")]
    assert entered.begun == [b"1", b"2", b"3"]
    assert stats.refused == {"method_limit": 1}
    assert stats.finished == {"OK": 3, "RESOURCE_EXHAUSTED": 1}


async def test_calls_that_wait_start_one_at_a_time_and_all_of_them(client: ClientProcess, new_loop: NewLoop) -> None:
    begun: list[bytes] = []
    running_now = 0

    async def work(request: bytes, context: Any) -> bytes:
        nonlocal running_now
        assert running_now == 0
        running_now += 1
        begun.append(request)
        await asyncio.sleep(0.001)
        running_now -= 1
        return request

    options = rpc.MethodOptions(max_active_rpcs=1, when_full="wait")
    async with serving({"Work": work}, new_loop("module"), method_options=options) as (server, target):
        names = [str(number).encode() for number in range(50)]
        calls = [client.start(target, path("Work"), name) for name in names]
        assert [(await call.outcome()).reply for call in calls] == names
        assert server.stats()[path("Work")].in_flight == 0
    # The client's own threads decide which call it sends first.
    assert sorted(begun) == sorted(names)


async def test_a_wait_counts_against_the_deadline_and_a_call_that_waited_in_vain_never_runs(
    client: ClientProcess,
) -> None:
    entered = Entered()
    options = rpc.MethodOptions(max_active_rpcs=1, when_full="wait")
    async with serving({"Wait": entered}, method_options=options) as (server, target):
        first = client.start(target, path("Wait"), b"1")
        await until(lambda: entered.begun)
        late = await client.call(target, path("Wait"), b"2", timeout=0.05)
        assert late.code == "DEADLINE_EXCEEDED"
        entered.let(b"1")
        assert (await first.outcome()).code == "OK"
        entered.let(b"3")
        assert (await client.call(target, path("Wait"), b"3")).code == "OK"
        # Its client may tell of the deadline before the server has looked at the clock.
        assert server.stats()[path("Wait")].refused in ({"deadline": 1}, {"client": 1})
    assert entered.begun == [b"1", b"3"]


async def test_a_handler_that_never_answers_gives_its_place_back_at_its_deadline(client: ClientProcess) -> None:
    entered = Entered()
    options = rpc.MethodOptions(max_active_rpcs=1, when_full="wait")
    async with serving({"Wait": entered}, method_options=options) as (_, target):
        never = client.start(target, path("Wait"), b"1", timeout=0.2)
        await until(lambda: entered.begun)
        entered.let(b"2")
        second = client.start(target, path("Wait"), b"2")
        assert (await never.outcome()).code == "DEADLINE_EXCEEDED"
        assert (await second.outcome()).reply == b"2"
    assert entered.most == 1, "the first had ended before the second began"


async def test_a_client_that_goes_gives_its_place_to_the_next(client: ClientProcess) -> None:
    entered = Entered()
    options = rpc.MethodOptions(max_active_rpcs=1, when_full="wait")
    async with serving({"Wait": entered}, method_options=options) as (_, target):
        goes = client.start(target, path("Wait"), b"1")
        await until(lambda: entered.begun)
        entered.let(b"2")
        second = client.start(target, path("Wait"), b"2")
        goes.cancel()
        assert (await second.outcome()).reply == b"2"
    assert entered.most == 1


async def test_a_handler_that_refuses_to_be_cancelled_gives_its_place_back(client: ClientProcess) -> None:
    leave = asyncio.Event()
    begun = 0

    def has_begun(times: int) -> bool:
        return begun == times

    async def stubborn(request: bytes, context: Any) -> bytes:
        nonlocal begun
        begun += 1
        while not leave.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await leave.wait()
        return b""

    options = rpc.MethodOptions(max_active_rpcs=1, when_full="wait")
    async with serving({"Stay": stubborn}, method_options=options) as (_, target):
        for number in range(1, 4):
            assert (await client.call(target, path("Stay"), timeout=0.1)).code == "DEADLINE_EXCEEDED"
            await until(functools.partial(has_begun, number))
        leave.set()
        assert (await client.call(target, path("Stay"))).code == "OK"


async def test_a_handler_whose_cancellation_waits_for_a_stubborn_task_gives_its_place_back(
    client: ClientProcess,
) -> None:
    leave = asyncio.Event()
    begun = 0

    def has_begun(times: int) -> bool:
        return begun == times

    async def stubborn() -> None:
        while not leave.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await leave.wait()

    async def waits(request: bytes, context: Any) -> bytes:
        nonlocal begun
        begun += 1
        await asyncio.ensure_future(stubborn())
        return b""

    options = rpc.MethodOptions(max_active_rpcs=1, when_full="wait")
    async with serving({"Stay": waits}, method_options=options) as (_, target):
        assert (await client.call(target, path("Stay"), timeout=0.1)).code == "DEADLINE_EXCEEDED"
        second = client.start(target, path("Stay"))
        await until(lambda: begun == 2)
        leave.set()
        assert (await second.outcome()).code == "OK"


async def test_a_plain_function_on_the_thread_pool_gives_its_place_back_when_its_call_is_over(
    client: ClientProcess,
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def block(request: bytes, context: Any) -> bytes:
        entered.set()
        if request == b"long":
            wait_for(leave)
        return request

    options = rpc.MethodOptions(max_active_rpcs=1, when_full="wait")
    async with serving({"Block": block}, method_options=options) as (_, target):
        long = client.start(target, path("Block"), b"long", timeout=0.3)
        await asyncio.to_thread(wait_for, entered)
        assert (await client.call(target, path("Block"), b"next")).reply == b"next"
        assert (await long.outcome()).code == "DEADLINE_EXCEEDED"
        leave.set()


async def test_a_method_without_a_limit_is_not_held_up_by_those_that_wait(client: ClientProcess) -> None:
    entered = Entered()
    server = rpc.server()

    @rpc.options(max_active_rpcs=1, when_full="wait")
    async def limited(request: bytes, context: Any) -> bytes:
        return await entered(request, context)

    add_methods(server, Wait=limited, Answer=answer)
    async with running(server) as target:
        calls = [client.start(target, path("Wait"), b"%d" % number) for number in range(100)]
        await until(lambda: server.stats()[path("Wait")].waiting == 99)
        assert (await client.call(target, path("Answer"))).reply == b"answered"
        for number in range(100):
            entered.let(b"%d" % number)
        assert {(await call.outcome()).code for call in calls} == {"OK"}
        assert server.stats()[path("Wait")].waiting == 0


async def test_who_waits_when_the_server_stops_is_answered(client: ClientProcess) -> None:
    entered = Entered()
    options = rpc.MethodOptions(max_active_rpcs=1, when_full="wait")
    async with serving({"Wait": entered}, method_options=options) as (server, target):
        calls = [client.start(target, path("Wait"), b"%d" % number) for number in range(5)]
        await until(lambda: entered.begun and server.stats()[path("Wait")].waiting == 4)
        await server.stop(None)
        assert {(await call.outcome()).code for call in calls} == {"UNAVAILABLE"}
    assert len(entered.begun) == 1


async def test_the_servers_limit_is_grpcios(client: ClientProcess) -> None:
    entered = Entered()
    async with serving({"Wait": entered, "Answer": answer}, maximum_concurrent_rpcs=1) as (server, target):
        first = client.start(target, path("Wait"), b"1")
        await until(lambda: entered.begun)
        refused = await client.call(target, path("Answer"))
        assert (refused.code, refused.details) == ("RESOURCE_EXHAUSTED", "Concurrent RPC limit exceeded!")
        entered.let(b"1")
        assert (await first.outcome()).code == "OK"
        for _ in range(20):
            assert (await client.call(target, path("Answer"))).code == "OK"
        assert server.stats()[path("Answer")].refused == {"server_limit": 1}


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_server_for_nobody_is_refused_at_its_construction(limit: int) -> None:
    with pytest.raises(ValueError, match="maximum_concurrent_rpcs"):
        rpc.server(maximum_concurrent_rpcs=limit)


# ------------------------------------------------------------------------------------------------ where options are set


async def test_the_nearest_place_wins_field_by_field(client: ClientProcess, new_loop: NewLoop) -> None:
    lanes: dict[str, str] = {}

    def seen(name: str) -> bytes:
        lanes[name] = threading.current_thread().name
        return b""

    @rpc.options(max_receive_message_size=10)
    class Servicer:
        def near(self, request: bytes, context: Any) -> bytes:
            return seen("near")

        @rpc.options(blocking=True)
        def far(self, request: bytes, context: Any) -> bytes:
            return seen("far")

        @rpc.options(max_receive_message_size=None)
        def unlimited(self, request: bytes, context: Any) -> bytes:
            return b"%d" % len(request)

    module = new_loop("module")
    servicer = Servicer()
    options = rpc.MethodOptions(max_receive_message_size=1000)
    server = rpc.server(method_options=options, options=[("grpc.max_receive_message_length", 2000)])
    methods = {"Near": servicer.near, "Far": servicer.far, "Unlimited": servicer.unlimited}
    add_methods(server.on(module), methods)
    add_methods(server.on(module), {"Plain": answer}, service="other.Service")
    async with running(server) as target:
        assert (await client.call(target, path("Near"), bytes(10))).code == "OK"
        assert (await client.call(target, path("Far"), bytes(10))).code == "OK"
        assert (await client.call(target, path("Far"), bytes(11))).code == "RESOURCE_EXHAUSTED"
        assert (await client.call(target, path("Unlimited"), bytes(5000))).reply == b"5000"
        assert (await client.call(target, path("Plain", "other.Service"), bytes(1000))).code == "OK"
        assert (await client.call(target, path("Plain", "other.Service"), bytes(1001))).code == "RESOURCE_EXHAUSTED"
    assert lanes["near"] == "module"
    assert lanes["far"] != "module", "blocking=True takes it to the thread pool"


async def test_a_limit_at_a_servicer_is_shared_by_its_methods(client: ClientProcess, new_loop: NewLoop) -> None:
    entered = Entered()

    @rpc.options(max_active_rpcs=1)
    class Servicer:
        async def one(self, request: bytes, context: Any) -> bytes:
            return await entered(request, context)

        async def two(self, request: bytes, context: Any) -> bytes:
            return b"two"

        @rpc.options(max_active_rpcs=None)
        async def free(self, request: bytes, context: Any) -> bytes:
            return b"free"

    module, servicer, another = new_loop("module"), Servicer(), Servicer()
    server = rpc.server()
    add_methods(server.on(module), {"One": servicer.one, "Two": servicer.two, "Free": servicer.free})
    add_methods(server.on(module), {"Two": another.two}, service="other.Service")
    async with running(server) as target:
        first = client.start(target, path("One"), b"1")
        await until(lambda: entered.begun)
        assert (await client.call(target, path("Two"))).code == "RESOURCE_EXHAUSTED"
        assert (await client.call(target, path("Free"))).reply == b"free"
        assert (await client.call(target, path("Two", "other.Service"))).reply == b"two", "another servicer's own"
        await module.submit(entered.let, b"1")
        assert (await first.outcome()).code == "OK"
        assert (await client.call(target, path("Two"))).reply == b"two"


async def test_options_may_be_given_with_the_loop(client: ClientProcess, new_loop: NewLoop) -> None:
    module = new_loop("module")
    server = rpc.server(method_options=rpc.MethodOptions(max_receive_message_size=5))
    add_methods(server.on(module, method_options=rpc.MethodOptions(max_receive_message_size=50)), Answer=answer)
    async with running(server) as target:
        assert (await client.call(target, path("Answer"), bytes(50))).code == "OK"
        assert (await client.call(target, path("Answer"), bytes(51))).code == "RESOURCE_EXHAUSTED"


async def test_a_class_inherits_what_its_bases_say() -> None:
    @rpc.options(lane="bulk", max_active_rpcs=3)
    class Base: ...

    @rpc.options(max_active_rpcs=4)
    class Derived(Base): ...

    assert getattr(Derived, "__atoll_method_options__") == rpc.MethodOptions(lane="bulk", max_active_rpcs=4)  # noqa: B009
    assert getattr(Base, "__atoll_method_options__") == rpc.MethodOptions(lane="bulk", max_active_rpcs=3)  # noqa: B009


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_active_rpcs": 0},
        {"max_active_rpcs": True},
        {"max_active_rpcs": 1.5},
        {"when_full": "drop"},
        {"lane": "fast"},
        {"blocking": "yes"},
        {"max_receive_message_size": -1},
    ],
)
def test_wrong_options_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        rpc.MethodOptions(**wrong)


async def test_generated_code_takes_decorated_servicers(client: ClientProcess, new_loop: NewLoop, log: Log) -> None:
    module = new_loop("module")
    base = next(value for name, value in vars(probe_pb2_grpc).items() if name.endswith("Servicer"))

    @rpc.options(lane="control", max_active_rpcs=10)
    class Servicer(base):  # type: ignore[misc,valid-type] # found at run time
        pass

    server = rpc.server(placement=Placed({Servicer: module}))
    add = next(value for name, value in vars(probe_pb2_grpc).items() if name.startswith("add_"))
    add(Servicer(), server)
    async with running(server) as target:
        first = server.stats().methods[0]
        assert (await client.call(target, first.path)).code == grpc.StatusCode.UNIMPLEMENTED.name
        assert server.stats()[first.path].loops == ("module",)
    assert log.take("Method not implemented!")
