"""What clients of the public protos depend on, a line each: methods, fields by number, values of enums.

`atoll/v1/surface.txt` has the lines of what has been published. A line that is there and is no longer true breaks
clients that are out there, so `make lint` refuses it: a field keeps its number, name, type and label for ever. What is
new is added by `make protos`.

buf's breaking-change check knows more rules, and would be the choice where Go is at hand; this needs only what
generates the code.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "atoll.v1"
FILE = Path(__file__).resolve().parent / "atoll/v1/surface.txt"
HEADER = "# What clients depend on; see surface.py. `make protos` adds lines, and takes none away.\n"

_Field = descriptor_pb2.FieldDescriptorProto


def surface(files: descriptor_pb2.FileDescriptorSet) -> list[str]:
    """The lines of the package, sorted."""
    found: list[str] = []
    for file in files.file:
        if file.package == PACKAGE:
            found += (line for service in file.service for line in _service(service))
            found += (line for enum in file.enum_type for line in _enum(enum, ""))
            found += (line for message in file.message_type for line in _message(message, ""))
    return sorted(found)


def published() -> list[str]:
    """The lines that must stay true."""
    return [line for line in FILE.read_text().splitlines() if not line.startswith("#")] if FILE.exists() else []


def text(lines: list[str]) -> str:
    """What the file is to have."""
    return HEADER + "".join(f"{line}\n" for line in lines)


def _service(service: descriptor_pb2.ServiceDescriptorProto) -> Iterator[str]:
    for method in service.method:
        takes = ("stream " if method.client_streaming else "") + _short(method.input_type)
        gives = ("stream " if method.server_streaming else "") + _short(method.output_type)
        yield f"rpc {service.name}.{method.name} ({takes}) returns ({gives})"


def _enum(enum: descriptor_pb2.EnumDescriptorProto, inside: str) -> Iterator[str]:
    for value in enum.value:
        yield f"enum {inside}{enum.name} {value.name} = {value.number}"


def _message(message: descriptor_pb2.DescriptorProto, inside: str) -> Iterator[str]:
    name = inside + message.name
    for field in message.field:
        yield f"message {name} {_label(field, message)}{_type(field)} {field.name} = {field.number}"
    for reserved in message.reserved_range:
        # The end is the first number that is free again.
        for number in range(reserved.start, reserved.end):
            yield f"message {name} reserved {number}"
    for enum in message.enum_type:
        yield from _enum(enum, f"{name}.")
    for nested in message.nested_type:
        yield from _message(nested, f"{name}.")


def _label(field: _Field, message: descriptor_pb2.DescriptorProto) -> str:
    if field.label == _Field.LABEL_REPEATED:
        return "repeated "
    if field.proto3_optional:
        return "optional "
    return f"oneof {message.oneof_decl[field.oneof_index].name} " if field.HasField("oneof_index") else ""


def _type(field: _Field) -> str:
    return _short(field.type_name) if field.type_name else _Field.Type.Name(field.type).removeprefix("TYPE_").lower()


def _short(name: str) -> str:
    return name.removeprefix(f".{PACKAGE}.").removeprefix(".")
