"""Server reflection, `grpc.reflection.v1` and `v1alpha`: tools such as grpcurl learn from it what a server serves.

Nothing but protobuf is needed: the service's own messages, which are the same in both versions, are described here.
They live in descriptor pools of their own, so that they are not in the way of other packages that bring them.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from atoll.rpc._context import ServicerContext
from atoll.rpc._status import StatusCode

VERSIONS: Final = ("v1", "v1alpha")

_SERVICE: Final = "ServerReflection"
_REQUEST: Final = "ServerReflectionRequest"
_RESPONSE: Final = "ServerReflectionResponse"
_LABELS: Final = {"": FieldDescriptorProto.LABEL_OPTIONAL, "repeated": FieldDescriptorProto.LABEL_REPEATED}
_TYPES: Final = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
}

# grpc/reflection/v1/reflection.proto: a message's oneof, then its fields as "label type name" and number; `|` is for
# those of the oneof.
_MESSAGES: Final[dict[str, tuple[str, dict[str, int]]]] = {
    _REQUEST: (
        "message_request",
        {
            "string host": 1,
            "| string file_by_filename": 3,
            "| string file_containing_symbol": 4,
            "| ExtensionRequest file_containing_extension": 5,
            "| string all_extension_numbers_of_type": 6,
            "| string list_services": 7,
        },
    ),
    "ExtensionRequest": ("", {"string containing_type": 1, "int32 extension_number": 2}),
    _RESPONSE: (
        "message_response",
        {
            "string valid_host": 1,
            f"{_REQUEST} original_request": 2,
            "| FileDescriptorResponse file_descriptor_response": 4,
            "| ExtensionNumberResponse all_extension_numbers_response": 5,
            "| ListServiceResponse list_services_response": 6,
            "| ErrorResponse error_response": 7,
        },
    ),
    "FileDescriptorResponse": ("", {"repeated bytes file_descriptor_proto": 1}),
    "ExtensionNumberResponse": ("", {"string base_type_name": 1, "repeated int32 extension_number": 2}),
    "ListServiceResponse": ("", {"repeated ServiceResponse service": 1}),
    "ServiceResponse": ("", {"string name": 1}),
    "ErrorResponse": ("", {"int32 error_code": 1, "string error_message": 2}),
}


def describe(version: str) -> ServiceDescriptor:
    """The descriptor of the service `grpc.reflection.<version>.ServerReflection`, in a pool of its own."""
    package = f"grpc.reflection.{version}"
    file = FileDescriptorProto(
        name=f"grpc/reflection/{version}/reflection.proto",
        package=package,
        syntax="proto3",
        message_type=[_message(package, name, oneof, fields) for name, (oneof, fields) in _MESSAGES.items()],
    )
    service = file.service.add(name=_SERVICE)
    service.method.add(
        name="ServerReflectionInfo",
        input_type=f".{package}.{_REQUEST}",
        output_type=f".{package}.{_RESPONSE}",
        client_streaming=True,
        server_streaming=True,
    )
    pool = DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName(f"{package}.{_SERVICE}")


def describe_health() -> ServiceDescriptor:
    """The descriptor of `grpc.health.v1.Health`, which the transport serves, in a pool of its own."""
    package = "grpc.health.v1"
    file = FileDescriptorProto(name="grpc/health/v1/health.proto", package=package, syntax="proto3")
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, label=_LABELS[""], type=_TYPES["string"])
    response = file.message_type.add(name="HealthCheckResponse")
    status = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        status.value.add(name=name, number=number)
    kind = {"type": FieldDescriptorProto.TYPE_ENUM, "type_name": f".{package}.HealthCheckResponse.ServingStatus"}
    response.field.add(name="status", number=1, label=_LABELS[""], **kind)
    service = file.service.add(name="Health")
    types = {"input_type": f".{package}.HealthCheckRequest", "output_type": f".{package}.HealthCheckResponse"}
    service.method.add(name="Check", **types)
    service.method.add(name="Watch", server_streaming=True, **types)
    pool = DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName(f"{package}.Health")


def _message(package: str, name: str, oneof: str, fields: dict[str, int]) -> DescriptorProto:
    message = DescriptorProto(name=name)
    if oneof:
        message.oneof_decl.add(name=oneof)
    for text, number in fields.items():
        *labels, kind, field_name = text.split()
        field = message.field.add(name=field_name, number=number, label=_LABELS["".join(labels).strip("|")])
        if kind in _TYPES:
            field.type = _TYPES[kind]
        else:
            field.type = FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = f".{package}.{kind}"
        if "|" in labels:
            field.oneof_index = 0
    return message


class Reflection:
    """Answers questions about services. Any thread: it is not changed once it serves.

    Args:
        descriptor: Of the service in one of its versions.
        services: The full names of the server's services.
        pools: Where their files may be found, besides protobuf's default pool.
    """

    def __init__(self, descriptor: ServiceDescriptor, services: Iterable[str], pools: Iterable[DescriptorPool]) -> None:
        response = descriptor.methods[0].output_type
        self._response = GetMessageClass(response)
        self._services = sorted(services)
        # In order, each once; they have no hashes.
        self._pools = [descriptor_pool.Default()]
        for pool in (descriptor.file.pool, *pools):
            if not any(known is pool for known in self._pools):
                self._pools.append(pool)

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], _context: ServicerContext) -> AsyncIterator[Any]:  # noqa: N802 - the RPC's name
        """Answers each question in turn."""
        async for request in requests:
            try:
                answer = self._answer(request)
            except (KeyError, TypeError) as error:
                # upb raises TypeError where a name is of another kind.
                answer = _error(StatusCode.NOT_FOUND, f"not found: {error}")
            except ValueError as error:
                answer = _error(StatusCode.INVALID_ARGUMENT, str(error))
            yield self._response(valid_host=request.host, original_request=request, **answer)

    def _answer(self, request: Any) -> dict[str, Any]:  # noqa: ANN401 - of either version
        question: str | None = request.WhichOneof("message_request")
        match question:
            case "file_by_filename":
                return _files(self._find("FindFileByName", request.file_by_filename))
            case "file_containing_symbol":
                return _files(self._containing(request.file_containing_symbol))
            case "file_containing_extension":
                asked = request.file_containing_extension
                return _files(self._extension(asked.containing_type, asked.extension_number))
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                numbers = sorted({extension.number for extension in self._extensions(name)})
                return {"all_extension_numbers_response": {"base_type_name": name, "extension_number": numbers}}
            case "list_services":
                return {"list_services_response": {"service": [{"name": name} for name in self._services]}}
            case _:
                raise ValueError("the request has no question: set one of the fields of message_request")

    def _containing(self, symbol: str) -> FileDescriptor:
        try:
            file: FileDescriptor = self._find("FindFileContainingSymbol", symbol)
        except KeyError:
            # Methods are not among the symbols that upb knows files of.
            method: MethodDescriptor = self._find("FindMethodByName", symbol)
            return method.containing_service.file
        return file

    def _find(self, method: str, name: str) -> Any:  # noqa: ANN401 - what the method finds
        """What the first pool has that has it."""
        for pool in self._pools:
            try:
                return getattr(pool, method)(name)
            except KeyError:
                continue
        raise KeyError(name)

    def _extension(self, name: str, number: int) -> FileDescriptor:
        for extension in self._extensions(name):
            if extension.number == number:
                file: FileDescriptor = extension.file  # type: ignore[attr-defined] # the stubs lack it
                return file
        raise KeyError(f"extension {number} of {name}")

    def _extensions(self, name: str) -> Iterator[FieldDescriptor]:
        """The extensions of a message, which any file that its pool knows may bring."""
        message: Descriptor = self._find("FindMessageTypeByName", name)
        yield from message.file.pool.FindAllExtensions(message)


def _files(file: FileDescriptor) -> dict[str, Any]:
    """A file, first, and all that it needs."""
    found: dict[str, bytes] = {}

    def add(each: FileDescriptor) -> None:
        if each.name not in found:
            for dependency in each.dependencies:
                add(dependency)
            found[each.name] = each.serialized_pb

    add(file)
    return {"file_descriptor_response": {"file_descriptor_proto": list(reversed(found.values()))}}


def _error(code: StatusCode, text: str) -> dict[str, Any]:
    return {"error_response": {"error_code": int(code), "error_message": text}}
