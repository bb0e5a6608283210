"""Generic handlers: those that decide for each call, by its path and metadata, whether they serve it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from atoll.rpc._context import Metadatum, ServicerContext
from atoll.rpc._method import RpcMethodHandler


@dataclass(frozen=True)
class HandlerCallDetails:
    """What a generic handler decides by: `grpc.HandlerCallDetails`."""

    method: str
    invocation_metadata: Sequence[Metadatum]


class DetailsOfCall(HandlerCallDetails):
    """Those of a call, whose metadata is read when somebody asks for it."""

    def __init__(self, context: ServicerContext) -> None:  # the fields are found elsewhere
        vars(self)["method"] = context._path  # noqa: SLF001 - the native half's
        vars(self)["_context"] = context

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - only one has a type
        if name != "invocation_metadata":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        metadata = vars(self)["invocation_metadata"] = vars(self)["_context"].invocation_metadata()
        return metadata


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
