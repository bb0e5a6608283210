"""Which thread runs which handler."""

# Handlers take what they don't need.
# ruff: noqa: ARG001, ARG002, ARG003, ARG004

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.rpc.support import (
    ClientProcess,
    NewLoop,
    Placed,
    add_methods,
    path,
    probe_pb2,
    probe_pb2_grpc,
    running,
    serving,
    until,
    wait_for,
)

import atoll
from atoll import IoContext, rpc
from atoll.errors import PlacementError

ASK = "/atoll.tests.v1.Probe/Ask"
TELL = "/atoll.tests.v1.Probe/Tell"
RECORD = "/atoll.tests.v1.Recorder/Record"


def where() -> bytes:
    name = threading.current_thread().name
    io_context = IoContext.current_or_none()
    return f"{name}/{io_context.name if io_context else None}".encode()


def note(text: bytes) -> Any:
    return probe_pb2.Note(text=text.decode())


class Probe(probe_pb2_grpc.ProbeServicer):  # type: ignore[misc] # generated at test time
    async def Ask(self, request: Any, context: Any) -> Any:
        return note(where())

    def Tell(self, request: Any, context: Any) -> Any:
        return note(where())


class Recorder(probe_pb2_grpc.RecorderServicer):  # type: ignore[misc] # generated at test time
    async def Record(self, request: Any, context: Any) -> Any:
        return note(where())


class CleverProbe(Probe):
    pass


async def asked(client: ClientProcess, target: str, method: str) -> str:
    outcome = await client.call(target, method)
    assert outcome.code == "OK", outcome
    text: str = probe_pb2.Note.FromString(outcome.reply).text
    return text


HERE = "MainThread/MainThread"


async def test_an_unplaced_coroutine_function_runs_on_the_loop_that_starts_the_server(client: ClientProcess) -> None:
    server = rpc.server()
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server)
    async with running(server) as target:
        assert await asked(client, target, ASK) == HERE


async def test_an_unplaced_plain_function_runs_in_the_thread_pool(client: ClientProcess) -> None:
    server = rpc.server()
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server)
    async with running(server) as target:
        thread, io_context = (await asked(client, target, TELL)).split("/")
    assert thread.endswith("_0")
    assert thread != "MainThread"
    assert io_context == "None"


async def test_an_unplaced_plain_function_runs_in_the_pool_that_was_given(client: ClientProcess) -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for this test only

    with ThreadPoolExecutor(1, thread_name_prefix="given") as pool:
        server = rpc.server(pool)
        probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server)
        async with running(server) as target:
            assert (await asked(client, target, TELL)).startswith("given")


async def test_handlers_bound_to_a_loop_run_there_whether_coroutines_or_not(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    server = rpc.server()
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server.on(new_loop("probe_loop")))
    probe_pb2_grpc.add_RecorderServicer_to_server(Recorder(), server)
    async with running(server) as target:
        assert await asked(client, target, ASK) == "probe_loop/probe_loop"
        assert await asked(client, target, TELL) == "probe_loop/probe_loop"
        assert await asked(client, target, RECORD) == HERE


async def test_the_policy_places_a_servicer_by_its_class(client: ClientProcess, new_loop: NewLoop) -> None:
    places = {Probe: new_loop("probe_loop"), Recorder: new_loop("recorder_loop")}
    server = rpc.server(placement=Placed(places))
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server)
    probe_pb2_grpc.add_RecorderServicer_to_server(Recorder(), server)
    async with running(server) as target:
        assert await asked(client, target, ASK) == "probe_loop/probe_loop"
        assert await asked(client, target, TELL) == "probe_loop/probe_loop"
        assert await asked(client, target, RECORD) == "recorder_loop/recorder_loop"


async def test_a_servicer_lives_where_its_base_class_is_placed(client: ClientProcess, new_loop: NewLoop) -> None:
    server = rpc.server(placement=Placed({Probe: new_loop("probe_loop")}))
    probe_pb2_grpc.add_ProbeServicer_to_server(CleverProbe(), server)
    async with running(server) as target:
        assert await asked(client, target, ASK) == "probe_loop/probe_loop"


async def test_servicers_that_the_policy_does_not_know_stay_on_the_starting_loop(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    server = rpc.server(placement=Placed({Recorder: new_loop("recorder_loop")}))
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server)
    async with running(server) as target:
        assert await asked(client, target, ASK) == HERE


async def test_a_provider_places_the_modules_that_it_has_created(client: ClientProcess) -> None:
    class Placement(atoll.IoContextPolicy[Probe | Recorder]):
        probe_io_context = atoll.dedicated(Probe, name="a_probe")

    async with atoll.IoContextProvider(Placement) as provider:
        server = rpc.server(placement=provider)
        probe_pb2_grpc.add_ProbeServicer_to_server(await provider.create(CleverProbe), server)
        probe_pb2_grpc.add_RecorderServicer_to_server(await provider.create(Recorder), server)
        async with running(server) as target:
            assert await asked(client, target, ASK) == "a_probe/a_probe"
            assert await asked(client, target, RECORD) == HERE


async def test_binding_a_servicer_elsewhere_than_the_policy_says_is_an_error_with_a_remedy(new_loop: NewLoop) -> None:
    server = rpc.server(placement=Placed({Probe: new_loop("policys")}))
    other = new_loop("other")
    remedy = r"'policys'.*'other'.*add it to the server itself, or take it out of the policy"
    with pytest.raises(PlacementError, match=remedy):
        probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server.on(other))


async def test_binding_a_servicer_to_the_loop_that_the_policy_says_is_no_error(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    probe_loop = new_loop("probe_loop")
    server = rpc.server(placement=Placed({Probe: probe_loop}))
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server.on(probe_loop))
    async with running(server) as target:
        assert await asked(client, target, ASK) == "probe_loop/probe_loop"


async def test_a_server_may_be_started_on_a_loop_of_atolls(client: ClientProcess, new_loop: NewLoop) -> None:
    home = new_loop("home")
    server = rpc.server()
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await home.submit(server.start)
    assert await asked(client, f"127.0.0.1:{port}", ASK) == "home/home"
    await home.submit(server.stop, None)


async def test_a_server_may_be_stopped_on_another_loop_than_it_was_started_on(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    home = new_loop("home")
    server = rpc.server()
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server)
    server.add_insecure_port("127.0.0.1:0")
    await home.submit(server.start)
    waiting = home.submit(server.wait_for_termination)
    await server.stop(None)
    assert await waiting is False


# ------------------------------------------------------------------------------------------------------------ isolation


async def test_a_blocked_module_does_not_delay_the_calls_of_another(client: ClientProcess, new_loop: NewLoop) -> None:
    entered, leave = threading.Event(), threading.Event()

    def block(request: bytes, context: Any) -> bytes:
        entered.set()
        wait_for(leave)
        return b"left"

    async def answer(request: bytes, context: Any) -> bytes:
        return b"answered"

    server = rpc.server()
    add_methods(server.on(new_loop("blocked")), service="a.Blocked", Block=block)
    add_methods(server.on(new_loop("free")), service="a.Free", Answer=answer)
    async with running(server) as target:
        blocked = client.start(target, path("Block", "a.Blocked"))
        await asyncio.to_thread(wait_for, entered)
        for _ in range(20):
            assert (await client.call(target, path("Answer", "a.Free"))).reply == b"answered"
        assert not blocked.done.done()
        leave.set()
        assert (await blocked.outcome()).reply == b"left"


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_finished_reply_is_not_held_back_by_a_slow_handler_of_the_same_batch(
    client: ClientProcess, new_loop: NewLoop, kind: str
) -> None:
    entered, leave = threading.Event(), threading.Event()
    release = threading.Event()

    def fast(request: bytes, context: Any) -> bytes:
        return b"fast"

    async def fast_coroutine(request: bytes, context: Any) -> bytes:
        return b"fast"

    def slow(request: bytes, context: Any) -> bytes:
        wait_for(leave)
        return b"slow"

    def hold(request: bytes, context: Any) -> bytes:
        entered.set()
        wait_for(release)
        return b"held"

    module = new_loop("module")
    async with serving(module, Fast=fast if kind == "def" else fast_coroutine, Slow=slow, Hold=hold) as target:
        # While the first call holds the loop, the other two queue up, and are drained as one batch.
        held = client.start(target, path("Hold"))
        await asyncio.to_thread(wait_for, entered)
        first, second = client.start(target, path("Fast")), client.start(target, path("Slow"))
        await until(lambda: module.stats().queued["normal"] == 2)
        release.set()
        assert (await held.outcome()).reply == b"held"
        assert (await first.outcome()).reply == b"fast"
        assert not second.done.done()
        leave.set()
        assert (await second.outcome()).reply == b"slow"


async def test_calls_of_one_connection_start_in_the_order_in_which_they_were_made(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    order: list[int] = []

    def number(request: bytes, context: Any) -> bytes:
        order.append(int(request))
        return b""

    async def number_coroutine(request: bytes, context: Any) -> bytes:
        order.append(int(request))
        await asyncio.sleep(0)
        return b""

    async with serving(new_loop("module"), Def=number, Async=number_coroutine) as target:
        await client.call(target, path("Def"), b"-1")  # what waits for a connection is sent in any order
        calls = [
            client.start(target, path("Async" if index % 3 else "Def"), str(index).encode()) for index in range(200)
        ]
        await asyncio.gather(*(call.outcome() for call in calls))
    assert order == list(range(-1, 200))


async def test_handlers_of_one_loop_never_run_at_the_same_time(client: ClientProcess, new_loop: NewLoop) -> None:
    inside = 0
    most = 0

    def function(request: bytes, context: Any) -> bytes:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        inside -= 1
        return b""

    async def coroutine(request: bytes, context: Any) -> bytes:
        function(request, context)
        await asyncio.sleep(0)
        return function(request, context)

    async with serving(new_loop("module"), Def=function, Async=coroutine) as target:
        calls = [
            client.start(target, path(name), channel=str(index % 4))
            for index in range(100)
            for name in ("Def", "Async")
        ]
        outcomes = await asyncio.gather(*(call.outcome() for call in calls))
    assert {outcome.code for outcome in outcomes} == {"OK"}
    assert most == 1


# --------------------------------------------------------------------------------------- what may be a handler, besides


async def test_an_object_whose_call_is_a_coroutine_function_is_run_as_one(client: ClientProcess) -> None:
    class Answering:
        async def __call__(self, request: bytes, context: Any) -> bytes:
            return where()

    async with serving(Ask=Answering()) as target:
        assert (await client.call(target, path("Ask"))).reply == HERE.encode()


async def test_a_plain_function_that_returns_a_coroutine_is_awaited_on_its_loop(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    async def answer() -> bytes:
        await asyncio.sleep(0)
        return where()

    def ask(request: bytes, context: Any) -> Any:
        return answer()

    async with serving(new_loop("module"), Ask=ask) as target:
        assert (await client.call(target, path("Ask"))).reply == b"module/module"


async def test_staticmethods_and_classmethods_and_partials_are_handlers(client: ClientProcess) -> None:
    import functools  # noqa: PLC0415 - for this test only

    class Servicer:
        @staticmethod
        async def Static(request: bytes, context: Any) -> bytes:
            return b"static"

        @classmethod
        async def Class(cls, request: bytes, context: Any) -> bytes:
            return cls.__name__.encode()

    async def three(prefix: bytes, request: bytes, context: Any) -> bytes:
        return prefix + request

    methods: dict[str, Callable[..., Any]] = {
        "Static": Servicer.Static,
        "Class": Servicer.Class,
        "Partial": functools.partial(three, b"partial:"),
    }
    async with serving(None, methods) as target:
        assert (await client.call(target, path("Static"))).reply == b"static"
        assert (await client.call(target, path("Class"))).reply == b"Servicer"
        assert (await client.call(target, path("Partial"), b"x")).reply == b"partial:x"


async def test_registered_handlers_count_before_generic_ones(client: ClientProcess) -> None:
    async def generic(request: bytes, context: Any) -> bytes:
        return b"generic"

    async def registered(request: bytes, context: Any) -> bytes:
        return b"registered"

    server = rpc.server()
    both: list[dict[str, Any]] = [
        {"Ask": grpc.unary_unary_rpc_method_handler(function)} for function in (generic, registered)
    ]
    server.add_registered_method_handlers("a.Service", both[1])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", both[0]),))
    async with running(server) as target:
        assert (await client.call(target, "/a.Service/Ask")).reply == b"registered"


async def test_code_generated_by_old_versions_which_adds_generic_handlers_only_works(client: ClientProcess) -> None:
    async def ask(request: bytes, context: Any) -> bytes:
        return b"answered"

    server = rpc.server(
        handlers=[grpc.method_handlers_generic_handler("a.Service", {"Ask": grpc.unary_unary_rpc_method_handler(ask)})]
    )
    async with running(server) as target:
        assert (await client.call(target, "/a.Service/Ask")).reply == b"answered"
