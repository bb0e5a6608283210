"""`serve` puts servicers behind the real transport, and leaves nothing behind."""

# Handlers take what they don't need, and not every RPC has one.
# ruff: noqa: ARG002
# mypy: disable-error-code="abstract"

import asyncio
import functools
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc")
import grpc.aio
from tests.testing.services import Both, Context, Nodes, Placement, Store, get, heartbeat, put, thread_name

import atoll
from atoll.errors import PlacementError, RegistrationError
from atoll.testing import ManualClock, serve
from atoll_control.api.v1 import health_pb2, kv_pb2


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    short = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    return short


@pytest.fixture(autouse=True)
def nothing_is_left(folder: Path) -> Iterator[None]:
    """No folder, and no thread of a loop or of the network."""
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    # grpcio keeps a thread of its own, and its Cython code knows no better name for it.
    assert [name for name in left if "poll" not in name.lower() and not name.startswith("Thread-")] == []
    assert list(folder.iterdir()) == []
    folder.rmdir()


pytestmark = [pytest.mark.asyncio, pytest.mark.whole_grpcio]


async def test_a_class_is_made_and_served_on_a_loop_of_its_own() -> None:
    async with serve(Store) as channel:
        await put(channel, b"k", b"v")
        assert await get(channel, b"k") == b"v"
        assert await get(channel, b"thread") == b"Store, made on Store"


async def test_an_object_is_served_on_the_tests_own_loop() -> None:
    store = Store()
    async with serve(store) as channel:
        await put(channel, b"k", b"v")
        assert store.values == {b"k": b"v"}
        assert await get(channel, b"thread") == thread_name() + b", made on " + thread_name()


async def test_a_class_with_arguments_is_given_as_a_partial() -> None:
    async with serve(functools.partial(Store, b"<", suffix=b">")) as channel:
        await put(channel, b"k", b"v")
        assert await get(channel, b"k") == b"<v>"
        assert await get(channel, b"thread") == b"Store, made on Store"


async def test_several_servicers_share_a_server_and_have_loops_of_their_own() -> None:
    async with serve(Store, Nodes) as channel:
        assert await get(channel, b"thread") == b"Store, made on Store"
        assert await heartbeat(channel) == "Nodes"


async def test_a_servicer_of_two_services_serves_both() -> None:
    async with serve(Both) as channel:
        assert await get(channel, b"thread") == b"Both, made on Both"
        assert await heartbeat(channel) == "Both"


async def test_two_classes_of_one_name_have_loops_with_different_names() -> None:
    other = type("Store", (Nodes,), {})
    async with serve(Store, other) as channel:
        assert {await get(channel, b"thread"), (await heartbeat(channel)).encode()} == {
            b"Store, made on Store",
            b"Store_2",
        }


async def test_a_policy_places_the_servicers() -> None:
    async with serve(Store, Nodes(), policy=Placement) as channel:
        assert await get(channel, b"thread") == b"modules, made on modules"
        assert await heartbeat(channel) == "modules"


async def test_a_provider_of_the_tests_own_places_the_servicers_and_is_not_left() -> None:
    async with atoll.IoContextProvider(Placement) as provider:
        async with serve(Store, provider=provider) as channel:
            assert await get(channel, b"thread") == b"modules, made on modules"
        await provider.create(Nodes)


class Leases(Store):
    """Forgets each value ten seconds after it was put."""

    async def Put(self, request: kv_pb2.PutRequest, context: Context) -> kv_pb2.PutResponse:
        atoll.IoContext.current().post(self.values.pop, request.key, None, delay=10)
        return await super().Put(request, context)


class LeasesPlacement(atoll.IoContextPolicy[Leases]):
    leases_io_context = atoll.dedicated(Leases, max_queued=100)


@pytest.mark.parametrize("policy", [None, LeasesPlacement])
async def test_a_clock_moves_the_time_of_the_loops(policy: Any) -> None:
    clock = ManualClock()
    async with serve(Leases, policy=policy, clock=clock) as channel:
        await put(channel, b"k", b"v")
        clock.advance(9)
        assert await get(channel, b"k") == b"v"
        clock.advance(1)
        with pytest.raises(grpc.aio.AioRpcError):
            await get(channel, b"k")


async def test_start_and_stop_are_awaited_on_the_servicers_loop() -> None:
    events: list[tuple[str, bytes]] = []

    class Started(Store):
        async def start(self) -> None:
            events.append(("start", thread_name()))

        async def stop(self) -> None:
            events.append(("stop", thread_name()))

    async with serve(Started):
        assert events == [("start", b"Started")]
    assert events == [("start", b"Started"), ("stop", b"Started")]


async def test_an_error_of_the_servicer_is_the_clients() -> None:
    async with serve(Store) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await get(channel, b"nothing")
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "there is none")


async def test_channel_options_and_server_options_are_passed_on() -> None:
    options = [("grpc.max_receive_message_length", 100)]
    async with serve(Store, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await put(channel, b"k", bytes(1000))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with serve(Store, channel_options=options) as channel:
        await put(channel, b"k", bytes(1000))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await get(channel, b"k")
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# ------------------------------------------------------------------------------------------------------------- its end


async def test_everything_is_closed_when_the_body_raises() -> None:
    with pytest.raises(ValueError, match="by the test"):  # noqa: PT012 - what is in the block is what is tested
        async with serve(Store) as channel:
            await put(channel, b"k", b"v")
            raise ValueError("raised by the test")


async def test_everything_is_closed_when_a_constructor_raises() -> None:
    class Broken(Store):
        def __init__(self) -> None:
            raise ValueError("raised by the constructor")

    with pytest.raises(ValueError, match="by the constructor"):
        async with serve(Nodes, Broken):
            pytest.fail("the servicer could not be made")


async def test_everything_is_closed_when_the_test_is_cancelled() -> None:
    entered = asyncio.Event()

    async def body() -> None:
        async with serve(Store) as channel:
            entered.set()
            await get(channel, b"forever")

    task = asyncio.create_task(body())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_calls_in_flight_are_cancelled_at_the_end() -> None:
    async with serve(Store) as channel:
        call = asyncio.ensure_future(get(channel, b"forever"))
        await get(channel, b"thread")
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await call


async def test_one_test_may_serve_several_times_and_at_the_same_time() -> None:
    async with serve(Store) as first, serve(Store) as second:
        await put(first, b"k", b"of the first")
        await put(second, b"k", b"of the second")
        assert await get(first, b"k") == b"of the first"
    async with serve(Store) as third:
        with pytest.raises(grpc.aio.AioRpcError):
            await get(third, b"k")


async def test_a_temporary_folder_too_deep_for_a_socket_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = folder / ("x" * 90) / ("y" * 90)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    async with serve(Store) as channel:
        await put(channel, b"k", b"v")
    deep.rmdir()
    deep.parent.rmdir()


# -------------------------------------------------------------------------------------------------------- registration


class ByHand:
    """Derives from no generated class."""

    async def Heartbeat(self, request: health_pb2.HeartbeatRequest, context: Context) -> health_pb2.HeartbeatResponse:
        return health_pb2.HeartbeatResponse(server_id=thread_name().decode())


async def test_a_servicer_without_a_generated_base_is_refused_with_the_remedy() -> None:
    with pytest.raises(RegistrationError) as raised:
        async with serve(ByHand):
            pytest.fail("nobody knows how to add it")
    message = str(raised.value)
    assert "how ByHand is added to a server can't be found" in message
    assert "add_ByHand_to_server" in message
    assert "register=counter_pb2_grpc.add_CounterServicer_to_server" in message


def add_by_hand(servicer: Any, server: Any) -> None:
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Heartbeat,
        request_deserializer=health_pb2.HeartbeatRequest.FromString,
        response_serializer=health_pb2.HeartbeatResponse.SerializeToString,
    )
    server.add_registered_method_handlers("atoll.v1.HealthService", {"Heartbeat": handler})


async def test_the_registration_function_can_be_named() -> None:
    async with serve(ByHand, register=add_by_hand) as channel:
        assert await heartbeat(channel) == "ByHand"


async def test_registration_functions_of_several_servicers_are_a_sequence_with_none_for_those_that_can_be_found() -> (
    None
):
    async with serve(Store, ByHand(), register=[None, add_by_hand]) as channel:
        assert await get(channel, b"thread") == b"Store, made on Store"
        assert await heartbeat(channel) == threading.current_thread().name


async def test_too_few_registration_functions_are_refused() -> None:
    with pytest.raises(RegistrationError, match="has 1 functions for 2 servicers"):
        async with serve(Store, ByHand, register=add_by_hand):
            pytest.fail("which one is it for?")


async def test_serving_nothing_is_refused() -> None:
    with pytest.raises(RegistrationError, match="name a servicer"):
        async with serve():
            pytest.fail("there is nothing to serve")


async def test_a_partial_of_a_function_is_refused() -> None:
    with pytest.raises(RegistrationError, match="whose class can't be told"):
        async with serve(functools.partial(lambda: Store())):  # noqa: PLW0108 - a function, not the class
            pytest.fail("its class can't be told")


async def test_a_class_that_the_policy_does_not_cover_is_refused() -> None:
    class StoreOnly(atoll.IoContextPolicy[Store]):
        store_io_context = atoll.dedicated(Store)

    with pytest.raises(PlacementError, match="StoreOnly does not cover Nodes"):
        async with serve(Store, Nodes, policy=StoreOnly):
            pytest.fail("nobody said where Nodes lives")


async def test_a_policy_beside_a_provider_is_refused() -> None:
    async with atoll.IoContextProvider(Placement) as provider:
        with pytest.raises(TypeError, match="leave out policy= and clock="):
            async with serve(Store, policy=Placement, provider=provider):
                pytest.fail("which one is it?")
