"""Generic handlers: those that decide for each call, by its path and metadata, whether they serve it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from atoll.rpc._context import Metadatum, ServicerContext
from atoll.rpc._method import RpcMethodHandler
from atoll.rpc._status import StatusCode


@dataclass(frozen=True)
class HandlerCallDetails:
    """What a generic handler decides by: `grpc.HandlerCallDetails`."""

    method: str
    invocation_metadata: Sequence[Metadatum]


class GenericRpcHandler(Protocol):
    """`grpc.GenericRpcHandler`."""

    def service(self, handler_call_details: HandlerCallDetails, /) -> RpcMethodHandler | None:
        """The handler of a call, or None when it is another's."""


def known_methods(generic: object) -> dict[str, RpcMethodHandler] | None:
    """The methods of a handler that grpcio made from a dictionary, by path; None when only asking can tell."""
    if type(generic).__name__ != "DictionaryGenericHandler":
        return None
    methods = getattr(generic, "_method_handlers", None)
    return dict(methods) if isinstance(methods, dict) else None


def ask_each(
    handlers: Sequence[GenericRpcHandler],
    invoke: Callable[[RpcMethodHandler, ServicerContext], Any],
) -> Callable[[None, ServicerContext], Any]:
    """A coroutine function that finds the first handler to serve a call and has it answered by `invoke`."""

    async def run(_request: None, context: ServicerContext) -> object:
        details = HandlerCallDetails(context._path, context.invocation_metadata())  # noqa: SLF001 - the native half's
        for generic in handlers:
            handler = generic.service(details)
            if handler is not None:
                return await invoke(handler, context)
        return await context.abort(StatusCode.UNIMPLEMENTED, "Method not found!")

    return run
