"""A service as one writes it for grpc.aio: generated code, health, reflection and an interceptor. Nothing of Atoll."""

# Handlers take what they don't need.
# ruff: noqa: ARG001, ARG002

import threading
from collections.abc import AsyncIterator
from typing import Any

import counter_pb2
import counter_pb2_grpc
import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

COUNTER = counter_pb2.DESCRIPTOR.services_by_name["Counter"].full_name
JOURNAL = counter_pb2.DESCRIPTOR.services_by_name["Journal"].full_name


class Counter(counter_pb2_grpc.CounterServicer):
    """Adds up."""

    def __init__(self) -> None:
        self.total = 0

    async def Add(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        if request.value < 0:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "only more")
        self.total += request.value
        return counter_pb2.Total(value=self.total, thread=threading.current_thread().name)

    async def Watch(self, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        for value in range(request.value):
            yield counter_pb2.Total(value=value)


class Journal(counter_pb2_grpc.JournalServicer):
    """Takes a stream of amounts; say that it is slow, and makes the callers of the counter wait."""

    def __init__(self) -> None:
        self.entries: list[int] = []

    async def Record(self, request_iterator: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
        async for amount in request_iterator:
            self.entries.append(amount.value)
        return counter_pb2.Total(value=len(self.entries), thread=threading.current_thread().name)


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Lets only calls with the right token through; health and reflection are open."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        is_open = handler_call_details.method.startswith("/grpc.")
        if is_open or ("token", "secret") in tuple(map(tuple, handler_call_details.invocation_metadata)):
            return await continuation(handler_call_details)
        return grpc.unary_unary_rpc_method_handler(_refuse)


async def _refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")


async def add_everything(server: grpc.aio.Server, journal_server: grpc.aio.Server | None = None) -> None:
    """Adds the services. The journal may be given another view of the server."""
    counter_pb2_grpc.add_CounterServicer_to_server(Counter(), server)
    counter_pb2_grpc.add_JournalServicer_to_server(Journal(), journal_server or server)
    healths = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    await healths.set(COUNTER, health_pb2.HealthCheckResponse.SERVING)
    names = (COUNTER, JOURNAL, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
