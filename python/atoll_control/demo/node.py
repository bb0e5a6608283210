"""One node of the demo: a stock grpcio client that registers, sends heartbeats, and writes and reads the store."""

from __future__ import annotations

import asyncio
import time  # noqa: TID251 - a client program: it lives outside any loop of Atoll's
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
import grpc.aio

from atoll_control.api.v1 import health_pb2, health_pb2_grpc, kv_pb2, kv_pb2_grpc, node_pb2, node_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable

_Reply = TypeVar("_Reply")

NAMESPACE: Final = "atoll-demo"
VALUE_BYTES: Final = 128
REGISTER_TIMEOUT: Final = 20.0
HEARTBEAT_TIMEOUT: Final = 3.0
KV_TIMEOUT: Final = 2.0
LEAVE_TIMEOUT: Final = 5.0

# Every node has a connection of its own, as nodes on as many machines would.
CHANNEL_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1),)
MUST_REGISTER_AGAIN: Final = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION})


@dataclass
class Report:
    """What has happened to the nodes of a process since the last report.

    Calls are (when they ended, how long they took, the name of the status if they failed), in seconds of the system's
    monotonic clock, which all processes of a machine share. The interval is what the server last told, in seconds.
    """

    registered: int = 0
    registered_again: int = 0
    wrong_reads: int = 0
    heartbeat_interval: float = 0.0
    errors: list[str] = field(default_factory=list)
    heartbeats: list[tuple[float, float, str]] = field(default_factory=list)
    kv: list[tuple[float, float, str]] = field(default_factory=list)

    def clear(self) -> None:
        """Begins the next report."""
        self.registered = self.registered_again = self.wrong_reads = 0
        for calls in (self.errors, self.heartbeats, self.kv):
            calls.clear()


class DemoNode:
    """A node; `run` is its life."""

    def __init__(self, node_id: str, server: str, host: node_pb2.Host, *, phase: float, report: Report) -> None:
        """Prepares a node.

        Args:
            node_id: unique in the cluster.
            server: "host:port".
            host: the facts to register with.
            phase: from 0 to 1; spreads the nodes' heartbeats over the interval.
            report: where to say what happens.
        """
        self._node_id = node_id
        self._server = server
        self._host = host
        self._phase = phase
        self._report = report
        self._incarnation = 0
        self._first_interval = self._interval = 1.0
        self._key = f"nodes/{node_id}".encode()
        self._writes = 0
        # What a read may answer: the value last confirmed, and those whose confirmation went missing since.
        self._possible: set[bytes] = set()

    async def run(self, leave: asyncio.Event) -> None:
        """Registers, works until `leave` is set, and unregisters."""
        async with grpc.aio.insecure_channel(self._server, options=CHANNEL_OPTIONS) as channel:
            nodes, kv = node_pb2_grpc.NodeServiceStub(channel), kv_pb2_grpc.KvServiceStub(channel)
            health = health_pb2_grpc.HealthServiceStub(channel)
            await asyncio.sleep(self._phase)
            await self._register(nodes)
            self._report.registered += 1
            await asyncio.gather(self._send_heartbeats(nodes, health, leave), self._use_store(kv, leave))
            await self._leave(nodes, kv)

    async def _register(self, nodes: node_pb2_grpc.NodeServiceAsyncStub) -> None:
        self._incarnation = max(time.time_ns(), self._incarnation + 1)
        request = node_pb2.RegisterRequest(
            node_id=self._node_id,
            incarnation=self._incarnation,
            host=self._host,
            labels={"purpose": "demo"},
        )
        reply = await nodes.Register(request, timeout=REGISTER_TIMEOUT, wait_for_ready=True)
        self._first_interval = reply.heartbeat_interval.ToTimedelta().total_seconds()

    async def _send_heartbeats(
        self,
        nodes: node_pb2_grpc.NodeServiceAsyncStub,
        health: health_pb2_grpc.HealthServiceAsyncStub,
        leave: asyncio.Event,
    ) -> None:
        due = time.monotonic() + self._first_interval
        while not await _set_before(leave, due):
            request = health_pb2.HeartbeatRequest(node_id=self._node_id, incarnation=self._incarnation)
            call = health.Heartbeat(request, timeout=HEARTBEAT_TIMEOUT)
            reply, failure = await self._timed(call, self._report.heartbeats)
            interval = self._interval
            if reply is not None:
                interval = self._interval = reply.heartbeat_interval.ToTimedelta().total_seconds()
                self._report.heartbeat_interval = interval
            elif failure in MUST_REGISTER_AGAIN:
                self._report.registered_again += 1
                await self._register(nodes)
                interval = self._first_interval
            due = max(due + interval, time.monotonic())

    async def _use_store(self, kv: kv_pb2_grpc.KvServiceAsyncStub, leave: asyncio.Event) -> None:
        due = time.monotonic() + self._interval / 2
        while not await _set_before(leave, due):
            self._writes += 1
            value = f"{self._node_id} {self._incarnation} {self._writes} ".encode().ljust(VALUE_BYTES, b".")
            self._possible.add(value)
            put = kv_pb2.PutRequest(namespace=NAMESPACE, key=self._key, value=value, overwrite=True)
            _, failure = await self._timed(kv.Put(put, timeout=KV_TIMEOUT), self._report.kv)
            if failure is None:
                self._possible = {value}
            get = kv_pb2.GetRequest(namespace=NAMESPACE, key=self._key)
            reply, failure = await self._timed(kv.Get(get, timeout=KV_TIMEOUT), self._report.kv)
            if reply is not None and reply.value not in self._possible:
                self._report.wrong_reads += 1
                self._report.errors.append(f"{self._node_id} read {reply.value!r}, which it had not written last")
            due = max(due + self._interval, time.monotonic())

    async def _leave(self, nodes: node_pb2_grpc.NodeServiceAsyncStub, kv: kv_pb2_grpc.KvServiceAsyncStub) -> None:
        delete = kv_pb2.DeleteRequest(namespace=NAMESPACE, key=self._key)
        goodbye = node_pb2.UnregisterRequest(node_id=self._node_id, incarnation=self._incarnation, reason="demo ended")
        for call in (
            nodes.Unregister(goodbye, timeout=LEAVE_TIMEOUT),
            kv.Delete(delete, timeout=LEAVE_TIMEOUT),
        ):
            try:
                await call
            except grpc.aio.AioRpcError as error:
                self._report.errors.append(f"{self._node_id} could not leave cleanly: {_text(error)}")

    async def _timed(
        self, call: Awaitable[_Reply], calls: list[tuple[float, float, str]]
    ) -> tuple[_Reply | None, grpc.StatusCode | None]:
        begin = time.monotonic()
        reply: _Reply | None = None
        failure: grpc.StatusCode | None = None
        try:
            reply = await call
        except grpc.aio.AioRpcError as error:
            failure = error.code()
            if failure is not grpc.StatusCode.DEADLINE_EXCEEDED:
                self._report.errors.append(f"{self._node_id}: {_text(error)}")
        end = time.monotonic()
        calls.append((end, end - begin, "" if failure is None else failure.name))
        return reply, failure


async def _set_before(event: asyncio.Event, due: float) -> bool:
    """Waits until `due`; tells at once if the event is set before."""
    try:
        await asyncio.wait_for(event.wait(), max(0.0, due - time.monotonic()))
    except TimeoutError:
        return event.is_set()
    return True


def _text(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"
