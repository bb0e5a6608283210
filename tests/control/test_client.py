"""The Python client against a server in another process, standbys, and connections that break."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.control.between import proxy, standby
from tests.control.watching import TIMEOUT, on_a_loop

from atoll_control.api.v1 import admin_pb2, admin_pb2_grpc, health_pb2, health_pb2_grpc, kv_pb2, node_pb2, task_pb2
from atoll_control.client import (
    AsyncClient,
    Client,
    ClientClosedError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    Tls,
    UnknownOutcomeError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.server_process


@pytest.fixture(scope="module")
def address(serve: Callable[..., Any]) -> str:
    # Nobody sends heartbeats here.
    found: str = serve("--heartbeat-interval", "20", "--dead-after", "3600").address
    return found


# -- the groups --------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_keys_leases_and_transactions(address: str) -> None:
    async with AsyncClient(address, timeout=TIMEOUT) as client:
        kv = client.kv
        added = await kv.put("groups/a", "1", namespace="async", expected_revision=0)
        assert (added.applied, added.added) == (True, True)
        assert not (await kv.put("groups/a", "2", namespace="async", overwrite=False)).applied
        changed = await kv.put(
            b"groups/a", b"3", namespace="async", expected_revision=added.revision, return_previous=True
        )
        assert changed.previous.value == b"1"
        got = await kv.get("groups/a", namespace="async")
        assert got is not None
        assert (got.value, got.version) == (b"3", 2)
        assert await kv.get("groups/none", namespace="async") is None
        lease = await client.leases.grant(3600, description="mine")
        await kv.put("groups/b", "4", namespace="async", lease_id=lease.lease_id)
        await kv.put("groups/c", "5", namespace="async", ttl=3600)
        keys = [key async for key in kv.keys("groups/", namespace="async", page_size=2)]
        assert keys == [b"groups/a", b"groups/b", b"groups/c"]
        scanned = [entry.value async for entry in kv.scan("groups/", namespace="async", page_size=1)]
        assert scanned == [b"3", b"4", b"5"]
        several = await kv.get_many(["groups/a", "groups/none", *(f"n{number}" for number in range(1500)), "groups/c"])
        assert several == {}
        several = await kv.get_many(["groups/a", "groups/none", "groups/c"], namespace="async")
        assert {key: entry.value for key, entry in several.items()} == {b"groups/a": b"3", b"groups/c": b"5"}
        assert [it.description async for it in client.leases.list() if it.lease_id == lease.lease_id] == ["mine"]
        assert (await client.leases.keep_alive(lease.lease_id)).ttl.seconds == 3600
        assert (await client.leases.revoke(lease.lease_id)).keys_deleted == 1
        with pytest.raises(NotFoundError):
            await client.leases.keep_alive(lease.lease_id)
        check = kv_pb2.TransactCheck(namespace="async", key=b"groups/a", revision=changed.revision)
        put = kv_pb2.PutRequest(namespace="async", key=b"groups/d", value=b"6")
        delete = kv_pb2.DeleteRequest(namespace="async", key=b"groups/a")
        assert (await kv.transact([check], [put, delete])).applied
        assert not (await kv.transact([check], [put])).applied
        assert not await kv.exists("groups/a", namespace="async")
        assert await kv.exists("groups/d", namespace="async")
        assert (await kv.delete("groups/d", namespace="async")).deleted
        assert "async" in [name async for name in kv.namespaces(page_size=1)]
        assert await kv.delete_prefix("groups/", namespace="async") == 1
        with pytest.raises(InvalidRequestError, match=r"^key: "):
            await kv.get("")
        with pytest.raises(ValueError, match="one owner at most"):
            await kv.put("k", "v", ttl=1, keep_owner=True)


@on_a_loop
async def test_nodes(address: str) -> None:
    async with AsyncClient(address, timeout=TIMEOUT) as client:
        nodes = client.nodes
        condition = node_pb2.Condition(name="DiskFull", status=node_pb2.CONDITION_STATUS_FALSE)
        for node_id in ("async-a", "async-b", "async-c"):
            await nodes.register(
                node_id, 5, labels={"group": "async"}, resources={"gpu": 1}, conditions=[condition], address="h:1"
            )
        with pytest.raises(ConflictError):
            await nodes.register("async-a", 4)
        labels = {"group": "async"}
        listed = [node.node_id async for node in nodes.list(labels=labels, page_size=1)]
        assert listed == ["async-a", "async-b", "async-c"]
        full = node_pb2.Condition(name="DiskFull", status=node_pb2.CONDITION_STATUS_TRUE)
        await nodes.set_conditions("async-b", [full], incarnation=5)
        conditions = {"DiskFull": node_pb2.CONDITION_STATUS_TRUE}
        assert [node.node_id async for node in nodes.list(labels=labels, conditions=conditions)] == ["async-b"]
        assert (await nodes.drain("async-c", reason="kernel")).draining
        assert [node.node_id async for node in nodes.list(labels=labels, draining=True)] == ["async-c"]
        assert not (await nodes.undrain("async-c")).draining
        left = await nodes.unregister("async-c", 5, reason="bye")
        assert left.state == node_pb2.NODE_STATE_LEFT
        alive = [node_pb2.NODE_STATE_ALIVE]
        assert [node.node_id async for node in nodes.list(states=alive, labels=labels)] == ["async-a", "async-b"]
        assert (await nodes.get("async-c")).state_reason == "bye"
        assert [it.node.node_id async for it in nodes.endings("async-c", page_size=1)] == ["async-c"]
        with pytest.raises(NotFoundError):
            await nodes.get("nobody")
        # Services without a group are called by their stubs.
        health = health_pb2_grpc.HealthServiceStub(client.channel)
        explained = await health.Explain(health_pb2.ExplainRequest(node_id="async-a"), timeout=TIMEOUT)
        assert explained.verdict == "alive"


@on_a_loop
async def test_tasks_topics_and_the_server(address: str) -> None:
    async with AsyncClient(address, timeout=TIMEOUT) as client:
        tasks = client.tasks
        events = []
        for number in range(5):
            event = task_pb2.TaskEvent(job_id="async", task_id=f"t{number}", state=task_pb2.TASK_STATE_RUNNING)
            event.time.FromSeconds(1_700_000_000)
            events.append(event)
        assert (await tasks.report(events, dropped={"async": 3})).accepted == 5
        only = task_pb2.TaskFilter(field="job_id", operator=task_pb2.FILTER_OPERATOR_EQUALS, value="async")
        assert [it.task_id async for it in tasks.list([only], page_size=2)] == ["t4", "t3", "t2", "t1", "t0"]
        assert (await tasks.get("t1")).attempts[0].job_id == "async"
        assert (await tasks.end_job("async")).failed == 5
        assert (await tasks.summarize("async")).summaries[0].states == {"FAILED": 5}
        await client.topics.publish("async", "hello", key="k")
        assert "async" in [it.name async for it in client.topics.list(page_size=1)]
        assert (await client.server()).leader_address == client.endpoint == address


def test_without_asyncio_the_methods_are_the_same(address: str) -> None:
    with Client(address, timeout=TIMEOUT) as client:
        assert client.kv.put("a", "1", namespace="sync").applied
        got = client.kv.get("a", namespace="sync")
        assert got is not None
        assert got.value == b"1"
        assert list(client.kv.keys(namespace="sync")) == [b"a"]
        assert [entry.value for entry in client.kv.scan(namespace="sync", page_size=1)] == [b"1"]
        client.nodes.register("sync", 1, labels={"group": "sync"})
        assert [node.node_id for node in client.nodes.list(labels={"group": "sync"})] == ["sync"]
        client.topics.publish("sync", b"event")
        assert "sync" in [topic.name for topic in client.topics.list()]
        assert client.tasks.report([]).accepted == 0
        lease = client.leases.grant(60)
        assert client.leases.revoke(lease.lease_id).revoked
        assert client.server().role
        with pytest.raises(NotFoundError, match="nobody"):
            client.nodes.get("nobody")
        health = health_pb2_grpc.HealthServiceStub(client.channel)
        assert health.Explain(health_pb2.ExplainRequest(node_id="sync"), timeout=TIMEOUT).verdict == "alive"


# -- the leader --------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_standbys_word_is_followed(address: str) -> None:
    with standby(address) as other:
        async with AsyncClient(other.address, timeout=TIMEOUT) as client:
            assert (await client.kv.put("led", "1", namespace="async")).applied, "a plain put, for nothing was done"
            assert await client.kv.exists("led", namespace="async")
            assert client.endpoint == address
            assert other.calls == ["/atoll.v1.KvService/Put"], "then it knows"
            for _ in range(30):
                # Which grpc.aio does not always pass on: then it is asked again.
                client._channel.router.current = other.address
                events = [event async for event in client.watch.kv("async", key="led", follow=False)]
                assert len(events) == 2
                assert client.endpoint == address


def test_a_standbys_word_is_followed_without_asyncio(address: str) -> None:
    with standby(address) as other, Client(other.address, timeout=TIMEOUT) as client:
        assert client.kv.put("led", "1", namespace="sync").applied
        assert client.endpoint == address
        client._channel.router.current = other.address
        assert len(list(client.watch.kv("sync", key="led", follow=False))) == 2


def test_a_standby_that_does_not_know_the_leader_has_others_asked(address: str) -> None:
    with standby() as other, Client([other.address, "127.0.0.1:1", address], timeout=TIMEOUT) as client:
        assert client.kv.put("led", "2", namespace="sync").applied
        assert client.endpoint == address


def test_a_leader_that_is_being_chosen_is_waited_for(address: str) -> None:
    with standby() as other, Client(other.address, timeout=TIMEOUT, wait_for_server=False) as client:
        # The same server names the leader a while later.
        threading.Timer(0.5, setattr, (other, "leader", address)).start()
        assert client.kv.put("led", "3", namespace="sync").applied
        assert len(other.calls) >= 3


def test_when_nobody_leads_the_call_ends_with_its_time_and_says_whom_it_asked() -> None:
    with standby() as other, Client([other.address, "127.0.0.1:1"], timeout=0.5) as client:
        with pytest.raises(UnreachableError, match=r"no answer from .*is the server running there\?"):
            client.kv.put("k", "v")
        assert other.calls
        with pytest.raises(UnreachableError):
            next(iter(client.watch.kv()))


@pytest.fixture
def backups() -> Iterator[str]:
    """A server whose backup has the seconds that the call has as its size."""

    def backup(_request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        left = context.time_remaining()
        assert left is not None
        yield admin_pb2.BackupChunk(total_bytes=int(left)).SerializeToString()

    methods: dict[str, Any] = {"Backup": grpc.unary_stream_rpc_method_handler(backup)}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("atoll.v1.AdminService", methods),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield address
    server.stop(None).wait()


@on_a_loop
async def test_a_stream_has_all_of_its_time_also_where_there_are_several_servers(backups: str) -> None:
    async with AsyncClient([backups, "127.0.0.1:1"]) as client:
        stub: admin_pb2_grpc.AdminServiceAsyncStub = admin_pb2_grpc.AdminServiceStub(client.channel)
        chunks = [chunk async for chunk in stub.Backup(admin_pb2.BackupRequest(), timeout=900)]
    assert 450 < chunks[0].total_bytes <= 900


def test_a_stream_has_all_of_its_time_without_asyncio_too(backups: str) -> None:
    with Client([backups, "127.0.0.1:1"]) as client:
        (chunk,) = admin_pb2_grpc.AdminServiceStub(client.channel).Backup(admin_pb2.BackupRequest(), timeout=900)
    assert 450 < chunk.total_bytes <= 900


def test_a_token_goes_with_each_call() -> None:
    with standby() as other, Client(other.address, token="secret", timeout=0.2) as client:  # noqa: S106 - a test's
        with pytest.raises(UnreachableError):
            client.kv.get("k")
        with pytest.raises(UnreachableError):
            next(iter(client.watch.kv()))
        assert set(other.tokens) == {"Bearer secret"}


# -- connections that break --------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_leaves_nothing_in_doubt(address: str) -> None:
    # If this fails, grpc has changed its words: see `_NOT_SENT`.
    with Client("127.0.0.1:1", timeout=0.5) as client, pytest.raises(UnreachableError):
        client.kv.put("k", "v")
    with Client("does-not-exist.invalid:50051", timeout=0.5) as client, pytest.raises(UnreachableError):
        client.kv.put("k", "v")
    with Client(["127.0.0.1:1", address], timeout=TIMEOUT) as client:
        assert client.kv.put("k", "v", namespace="sync").applied


def warmed(between: Any, timeout: float = TIMEOUT) -> Client:
    """A client whose connection is there."""
    client = Client(between.address, timeout=timeout)
    client.server()
    return client


def wait_for_value(address: str, key: str, value: bytes) -> None:
    give_up = time.monotonic() + TIMEOUT
    with Client(address) as client:
        while (got := client.kv.get(key, namespace="lost")) is None or got.value != value:
            assert time.monotonic() < give_up
            time.sleep(0.01)


def test_a_plain_put_whose_answer_is_lost_is_not_repeated(address: str) -> None:
    with proxy(address) as between, warmed(between) as client:
        between.loses_answer_to = b"a plain value"
        with pytest.raises(UnknownOutcomeError, match=r"^Put: "):
            client.kv.put("plain", "a plain value", namespace="lost")
    wait_for_value(address, "plain", b"a plain value")
    with Client(address) as client:
        got = client.kv.get("plain", namespace="lost")
        assert got is not None
        assert got.version == 1


def test_a_conditional_put_whose_answer_is_lost_is_repeated_and_done_once(address: str) -> None:
    with Client(address) as direct, proxy(address) as between, warmed(between) as client:
        revision = direct.kv.put("conditional", "1", namespace="lost").revision
        between.loses_answer_to = b"a conditional value"
        with pytest.raises(UnknownOutcomeError):
            # The second answer says only that the key is another by now.
            client.kv.put("conditional", "a conditional value", namespace="lost", expected_revision=revision)
        assert between.connections == 2
        wait_for_value(address, "conditional", b"a conditional value")
        got = direct.kv.get("conditional", namespace="lost")
        assert got is not None
        assert got.version == 2


def test_reads_and_what_is_safe_to_repeat_survive_a_connection_that_breaks(address: str) -> None:
    with Client(address) as direct, proxy(address) as between, warmed(between) as client:
        direct.kv.put("read", "1", namespace="lost")
        for _ in range(5):
            between.cut()
            got = client.kv.get("read", namespace="lost")
            assert got is not None
        between.cut()
        assert client.nodes.register("lost", 7).node.incarnation == 7
        between.cut()
        assert client.tasks.report([]).accepted == 0
        assert between.connections > 5


@on_a_loop
async def test_conditional_puts_count_right_while_connections_break(address: str) -> None:
    with proxy(address) as between:
        async with AsyncClient(between.address, timeout=TIMEOUT) as client:

            async def count(name: str) -> None:
                """Counts a key up, by conditional puts that are read again when in doubt."""
                goal = 20
                while (entry := await client.kv.get(name, namespace="lost")) is None or int(entry.value) < goal:
                    value = 1 if entry is None else int(entry.value) + 1
                    revision = 0 if entry is None else entry.revision
                    try:
                        await client.kv.put(name, str(value), namespace="lost", expected_revision=revision)
                    except UnknownOutcomeError:
                        continue

            async def cut() -> None:
                while True:
                    await asyncio.sleep(0.05)
                    between.cut()

            cutting = asyncio.create_task(cut())
            await asyncio.gather(*(count(f"count{number}") for number in range(8)))
            cutting.cancel()
            for number in range(8):
                got = await client.kv.get(f"count{number}", namespace="lost")
                assert got is not None
                assert (int(got.value), got.version) == (20, 20), "each step was done once"


# -- the client itself -------------------------------------------------------------------------------------------------


def test_a_client_that_is_closed_says_so(address: str) -> None:
    client = Client(address)
    client.close()
    with pytest.raises(ClientClosedError, match="the client is closed"):
        client.kv.get("k")

    async def use() -> None:
        async with AsyncClient(address) as client:
            pass
        with pytest.raises(ClientClosedError, match="`async with` block"):
            await client.kv.get("k")

    asyncio.run(use())


def test_files_of_tls_belong_together_and_must_be_there() -> None:
    with pytest.raises(ValueError, match="belong together"):
        Tls(certificate="c.pem")
    with Client("127.0.0.1:1", tls=Tls(ca="/does/not/exist.pem")) as client, pytest.raises(FileNotFoundError):
        client.kv.get("k")
