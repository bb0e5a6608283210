"""Services that are spread over the loops of a pool: an instance per loop, and what pins a call to one."""

# Handlers take what they don't need.
# ruff: noqa: ARG001, ARG002

import asyncio
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.rpc.support import (
    ClientProcess,
    LoopFactory,
    Metadata,
    NewLoop,
    Placed,
    add_methods,
    path,
    probe_pb2,
    probe_pb2_grpc,
    running,
)

from atoll import IoContext, IoContextPool, rpc
from atoll.errors import LoopRunningError, PlacementError, RegistrationError

PROBE = probe_pb2.DESCRIPTOR.services_by_name["Probe"]
ASK = f"/{PROBE.full_name}/Ask"
SIZE = 3


class Where(probe_pb2_grpc.ProbeServicer):  # type: ignore[misc] # generated at test time
    """Tells on which loop it is, how many calls it has had, and where it was made."""

    def __init__(self) -> None:
        self.made_on = IoContext.current().name
        self.calls = 0

    async def Ask(self, request: Any, context: Any) -> Any:
        assert IoContext.current().name == self.made_on == threading.current_thread().name
        self.calls += 1
        return probe_pb2.Note(text=self.made_on, number=self.calls)


@pytest.fixture
def pool(loop_factory: LoopFactory) -> Iterator[IoContextPool]:
    with IoContextPool(SIZE, "worker", loop_factory=loop_factory) as made:
        yield made


async def ask(client: ClientProcess, target: str, channel: str, metadata: Metadata = ()) -> Any:
    outcome = await client.call(target, ASK, channel=channel, metadata=metadata)
    assert outcome.code == "OK", outcome
    return probe_pb2.Note.FromString(outcome.reply)


async def test_connections_take_turns_and_each_has_one_loop(client: ClientProcess, pool: IoContextPool) -> None:
    server = rpc.server()
    server.on(pool, key=rpc.by_connection).add_servicer(probe_pb2_grpc.add_ProbeServicer_to_server, Where)
    async with running(server) as target:
        seen = {}
        for channel in map(str, range(2 * SIZE)):
            loops = {(await ask(client, target, channel)).text for _ in range(3)}
            assert len(loops) == 1, "all calls of a connection have one loop"
            seen[channel] = loops.pop()
        assert Counter(seen.values()) == {f"worker-{number}": 2 for number in range(SIZE)}


async def test_a_value_of_metadata_has_the_loop_that_the_pool_gives_for_its_checksum(
    client: ClientProcess, pool: IoContextPool
) -> None:
    server = rpc.server()
    server.on(pool, key=rpc.by_metadata("tenant")).add_service(PROBE, Where)
    async with running(server) as target:
        for tenant in ("ada", "grace", "edsger", "barbara", ""):
            for channel in ("a", "b"):
                loop = (await ask(client, target, channel, (("tenant", tenant), ("tenant", "second")))).text
                assert loop == pool.get(zlib.crc32(tenant.encode())).name


async def test_a_binary_value_of_metadata_is_taken_as_it_was_given(client: ClientProcess, pool: IoContextPool) -> None:
    server = rpc.server()
    server.on(pool, key=rpc.by_metadata("tenant-bin")).add_service(PROBE, Where)
    async with running(server) as target:
        for tenant in (b"\x00", b"\xff\xfe", b"ada"):
            loop = (await ask(client, target, "", (("tenant-bin", tenant),))).text
            assert loop == pool.get(zlib.crc32(tenant)).name


async def test_a_call_without_the_metadata_goes_where_its_connection_goes(
    client: ClientProcess, pool: IoContextPool
) -> None:
    server = rpc.server()
    server.on(pool, key=rpc.by_metadata("tenant")).add_service(PROBE, Where)
    async with running(server) as target:
        loops = [(await ask(client, target, channel)).text for channel in map(str, range(SIZE))]
        assert len(set(loops)) == SIZE


async def test_each_loop_has_an_instance_of_its_own_made_there(client: ClientProcess, pool: IoContextPool) -> None:
    made: list[Where] = []

    async def make() -> Where:
        await asyncio.sleep(0)
        made.append(Where())
        return made[-1]

    server = rpc.server()
    server.on(pool, key=rpc.by_connection).add_servicer(probe_pb2_grpc.add_ProbeServicer_to_server, make)
    async with running(server) as target:
        assert [each.made_on for each in made] == [loop.name for loop in pool.all()]
        for channel in map(str, range(SIZE)):
            await ask(client, target, channel)
        assert [each.calls for each in made] == [1] * SIZE


async def test_other_services_of_the_server_live_where_they_did(
    client: ClientProcess, pool: IoContextPool, new_loop: NewLoop
) -> None:
    async def where(request: bytes, context: Any) -> bytes:
        return threading.current_thread().name.encode()

    server = rpc.server()
    server.on(pool, key=rpc.by_connection).add_service(PROBE, Where)
    add_methods(server, service="a.Home", Where=where)
    add_methods(server.on(new_loop("module")), service="a.Bound", Where=where)
    async with running(server) as target:
        assert (await client.call(target, path("Where", "a.Home"))).reply == b"MainThread"
        assert (await client.call(target, path("Where", "a.Bound"))).reply == b"module"
        assert (await ask(client, target, "")).text.startswith("worker-")


async def test_a_factory_that_raises_keeps_the_server_from_starting(pool: IoContextPool) -> None:
    def fail() -> Any:
        raise LookupError("no state")

    server = rpc.server()
    server.on(pool, key=rpc.by_connection).add_service(PROBE, fail)
    with pytest.raises(LookupError, match="no state"):
        await server.start()
    await server.stop(None)


async def test_an_instance_is_refused_and_the_error_says_what_each_loop_needs(pool: IoContextPool) -> None:
    view = rpc.server().on(pool, key=rpc.by_connection)
    with pytest.raises(RegistrationError, match=r"is one servicer, and each loop of pool 'worker' needs its own"):
        view.add_service(PROBE, Where())
    for servicer in (Where(), Where):
        with pytest.raises(RegistrationError, match=r"add_servicer\(add_\w+Servicer_to_server, YourServicer\)"):
            probe_pb2_grpc.add_ProbeServicer_to_server(servicer, view)


async def test_a_class_without_the_methods_is_refused_at_once(pool: IoContextPool) -> None:
    with pytest.raises(RegistrationError, match=r"dict has none of the methods of atoll\.tests\.v1\.Probe"):
        rpc.server().on(pool, key=rpc.by_connection).add_service(PROBE, dict)


async def test_what_the_policy_places_cannot_be_spread(pool: IoContextPool, new_loop: NewLoop) -> None:
    server = rpc.server(placement=Placed({Where: new_loop("placed")}))
    with pytest.raises(PlacementError, match="the policy places Where on loop 'placed'"):
        server.on(pool, key=rpc.by_connection).add_service(PROBE, Where)


async def test_a_pool_needs_a_key_and_a_loop_takes_none(pool: IoContextPool, new_loop: NewLoop) -> None:
    server: Any = rpc.server()
    with pytest.raises(TypeError, match=r"server.on\(pool, key=rpc.by_connection\), or key=rpc.by_metadata"):
        server.on(pool)
    with pytest.raises(TypeError, match="leave the key out"):
        server.on(new_loop("module"), key=rpc.by_connection)


def test_a_pool_that_does_not_run_is_an_error_that_says_so() -> None:
    with pytest.raises(LoopRunningError, match="run"):
        rpc.Server().on(IoContextPool(2, "resting"), key=rpc.by_connection)


@pytest.mark.parametrize("name", ["Tenant", "", "a b", "grpc-timeout"])
def test_a_key_that_no_client_can_send_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no client can send such metadata"):
        rpc.by_metadata(name)


async def test_calls_are_refused_when_their_loop_of_the_pool_is_gone(
    client: ClientProcess, loop_factory: LoopFactory
) -> None:
    pool = IoContextPool(1, "gone", loop_factory=loop_factory)
    pool.run()
    server = rpc.server()
    server.on(pool, key=rpc.by_connection).add_service(PROBE, Where)
    async with running(server) as target:
        await asyncio.to_thread(pool.stop)
        outcome = await client.call(target, ASK)
        assert (outcome.code, "Loop gone-0 is closed" in outcome.details) == ("RESOURCE_EXHAUSTED", True)
