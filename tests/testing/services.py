"""Two services for tests of `serve`: what a user would write. Needs grpcio."""

# Handlers take what they don't need, and not every RPC has one.
# ruff: noqa: ARG002
# mypy: disable-error-code="abstract"

import asyncio
import threading
from typing import Any

import grpc.aio

import atoll
from atoll_control.api.v1 import health_pb2, health_pb2_grpc, kv_pb2, kv_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


def thread_name() -> bytes:
    return threading.current_thread().name.encode()


class Store(kv_pb2_grpc.KvServiceServicer):
    """Keeps values, and tells which thread serves and which one made it."""

    def __init__(self, prefix: bytes = b"", *, suffix: bytes = b"") -> None:
        self.values: dict[bytes, bytes] = {}
        self.home = thread_name()
        self.events = ["made"]
        self.prefix, self.suffix = prefix, suffix

    async def Put(self, request: kv_pb2.PutRequest, context: Context) -> kv_pb2.PutResponse:
        self.values[request.key] = self.prefix + request.value + self.suffix
        return kv_pb2.PutResponse(added=True)

    async def Get(self, request: kv_pb2.GetRequest, context: Context) -> kv_pb2.GetResponse:
        if request.key == b"thread":
            return kv_pb2.GetResponse(value=thread_name() + b", made on " + self.home)
        if request.key == b"forever":
            await asyncio.Event().wait()
        if request.key not in self.values:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        return kv_pb2.GetResponse(value=self.values[request.key])


class Nodes(health_pb2_grpc.HealthServiceServicer):
    async def Heartbeat(self, request: health_pb2.HeartbeatRequest, context: Context) -> health_pb2.HeartbeatResponse:
        return health_pb2.HeartbeatResponse(server_id=thread_name().decode())


class Both(Store, Nodes):
    """Serves two services."""


class Placement(atoll.IoContextPolicy[Store | Nodes]):
    modules_io_context = atoll.dedicated(Store, Nodes, name="modules")


async def get(channel: grpc.aio.Channel, key: bytes) -> bytes:
    stub = kv_pb2_grpc.KvServiceStub(channel)
    return (await stub.Get(kv_pb2.GetRequest(namespace="n", key=key), timeout=20)).value


async def put(channel: grpc.aio.Channel, key: bytes, value: bytes) -> None:
    stub = kv_pb2_grpc.KvServiceStub(channel)
    await stub.Put(kv_pb2.PutRequest(namespace="n", key=key, value=value), timeout=20)


async def heartbeat(channel: grpc.aio.Channel) -> str:
    stub = health_pb2_grpc.HealthServiceStub(channel)
    return (await stub.Heartbeat(health_pb2.HeartbeatRequest(), timeout=20)).server_id
