"""Handlers from a protobuf descriptor and an object with the RPCs' names: services without generated `_grpc` code.

protobuf is imported when a service is added by its descriptor, not before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

from atoll.errors import RegistrationError
from atoll.rpc._context import ServicerContext
from atoll.rpc._method import RpcMethodHandler
from atoll.rpc._status import StatusCode

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor


@dataclass(frozen=True, kw_only=True)
class ServiceMethod:
    """A `grpc.RpcMethodHandler` that is made without grpcio."""

    request_streaming: bool
    response_streaming: bool
    request_deserializer: Callable[[bytes], Any]
    response_serializer: Callable[[Any], bytes]
    unary_unary: Callable[..., Any] | None = None
    unary_stream: Callable[..., Any] | None = None
    stream_unary: Callable[..., Any] | None = None
    stream_stream: Callable[..., Any] | None = None


def check_descriptor(descriptor: object) -> "ServiceDescriptor":
    """Returns the descriptor if it is a service's.

    Raises:
        RegistrationError: When it is something else; the message says how to get it.
    """
    from google.protobuf.descriptor import ServiceDescriptor  # noqa: PLC0415

    if isinstance(descriptor, ServiceDescriptor):
        return descriptor
    services = getattr(descriptor, "services_by_name", None)
    if services:
        choices = " or ".join(f"DESCRIPTOR.services_by_name[{name!r}]" for name in services)
        raise RegistrationError(f"add_service() takes the descriptor of one service, and this is a file's: {choices}")
    raise RegistrationError(
        f"{descriptor!r} is no service's descriptor: pass module_pb2.DESCRIPTOR.services_by_name['Name'], of the "
        "module that protoc made with --python_out"
    )


def check_methods(descriptor: "ServiceDescriptor", servicer: object) -> None:
    """Checks that an object, or the class of one, has methods of a service.

    Raises:
        RegistrationError: When it has none, or one that can't be called.
    """
    names = [method.name for method in descriptor.methods]
    found = {name: value for name in names if (value := getattr(servicer, name, None)) is not None}
    title = servicer.__qualname__ if isinstance(servicer, type) else type(servicer).__qualname__
    if names and not found:
        raise RegistrationError(
            f"{title} has none of the methods of {descriptor.full_name}: define {', '.join(names)}, or some of them"
        )
    for name, value in found.items():
        if not callable(value):
            raise RegistrationError(f"{title}.{name} is {value!r}: an RPC's handler is a method that can be called")


def method_handlers(descriptor: "ServiceDescriptor", servicer: object) -> dict[str, RpcMethodHandler]:
    """The handlers of a service's methods, by name; a missing one answers UNIMPLEMENTED, as generated classes do.

    Raises:
        RegistrationError: When the object has none of the methods, or one that can't be called, or is a class.
    """
    if isinstance(servicer, type):
        name = servicer.__qualname__
        raise RegistrationError(
            f"{name} is a class, and add_service() takes an instance, {name}(...); only server.on(pool, key=...) takes "
            "the class, for an instance per loop"
        )
    check_methods(descriptor, servicer)
    return {method.name: _handler(method, getattr(servicer, method.name, None)) for method in descriptor.methods}


def _handler(method: "MethodDescriptor", function: Callable[..., Any] | None) -> RpcMethodHandler:
    from google.protobuf.message_factory import GetMessageClass  # noqa: PLC0415

    directions = (method.client_streaming, method.server_streaming)
    kind = "_".join("stream" if streaming else "unary" for streaming in directions)
    handler = ServiceMethod(
        request_streaming=method.client_streaming,
        response_streaming=method.server_streaming,
        request_deserializer=GetMessageClass(method.input_type).FromString,
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
        **{kind: function or _not_implemented},
    )
    return cast("RpcMethodHandler", handler)


async def _not_implemented(_request: object, context: ServicerContext) -> NoReturn:
    await context.abort(StatusCode.UNIMPLEMENTED, "Method not implemented!")
