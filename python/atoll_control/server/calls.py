"""What handlers have in common: what they know of a call, and how it ends when it can't be done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast

import grpc
import grpc.aio

from atoll.errors import AtollError, StoreError
from atoll_control.server import rules
from atoll_control.server.store_status import status_of
from atoll_control.server.tokens import CALLER

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from google.protobuf.message import Message

    from atoll import rpc

T = TypeVar("T")

# In the trailing metadata of a server's own UNAVAILABLE.
NOTHING_DONE: Final = (("atoll-not-done", "1"),)


class RefusedError(AtollError):
    """A call can't be done: it ends with this status, and the message is for its caller."""

    def __init__(self, code: grpc.StatusCode, message: str, *, nothing_done: bool = True) -> None:
        """Takes what the call ends with, and whether it has changed nothing."""
        super().__init__(message)
        self.code = code
        self.nothing_done = nothing_done


def check_rules(request: Message) -> None:
    """Looks at one request of many.

    Raises:
        RefusedError: it breaks a rule of its proto.
    """
    if (problem := rules.problem(request)) is not None:
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, problem)


async def check(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Ends the call with INVALID_ARGUMENT when its request breaks a rule of its proto."""
    try:
        check_rules(request)
    except RefusedError as reason:
        await refuse(reason, context)


async def refuse(reason: RefusedError | StoreError, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    """Ends the call that is refused, or that the store could not do.

    An error of the store says that nothing was done: whoever has changed something lets none out.
    """
    if isinstance(reason, RefusedError):
        code, nothing_done = reason.code, reason.nothing_done
    else:
        code, nothing_done = status_of(reason), True
    # A connection that breaks looks the same to a client, and leaves open what was done.
    marks = NOTHING_DONE if nothing_done and code is grpc.StatusCode.UNAVAILABLE else ()
    await context.abort(code, str(reason), marks)


async def answer(work: Awaitable[T], context: grpc.aio.ServicerContext[Any, Any]) -> T:
    """What the work comes to; ends the call when it is refused, or when the store could not do it."""
    try:
        return await work
    except (RefusedError, StoreError) as reason:
        await refuse(reason, context)


def native(context: grpc.aio.ServicerContext[Any, Any]) -> rpc.ServicerContext:
    """What the server passes as grpcio's context is Atoll's own."""
    return cast("rpc.ServicerContext", context)


def arrival_of(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """When the transport had the call, by the clock of its loop."""
    return native(context).arrival_time


def connection_of(context: grpc.aio.ServicerContext[Any, Any]) -> rpc.Connection:
    """The connection that the call came on."""
    return native(context).connection


def actor_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Who calls, for the audit: the token that it shows, else what its certificate says, else where it comes from.

    "token:ci", "certificate:node-7.example", "ipv4:10.0.0.7:39400".
    """
    if (caller := CALLER.get()) is not None:
        return caller.actor
    for identity in context.peer_identities() or ():
        return f"certificate:{identity.decode(errors='replace')}"
    return context.peer()
