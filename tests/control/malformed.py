"""Requests that break exactly one rule of their proto, made from the descriptors: what a server must refuse by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from atoll_control.api.v1 import admin_pb2, health_pb2, kv_pb2, node_pb2, rules_pb2, task_pb2, token_pb2, watch_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, MethodDescriptor
    from google.protobuf.message import Message

FILES = (admin_pb2, health_pb2, kv_pb2, node_pb2, task_pb2, token_pb2, watch_pb2)
OWN_FILES = {file.DESCRIPTOR for file in FILES}
# A pattern's text that matches it, and one that does not.
MATCHING = "localhost:80"
NOT_MATCHING = "no such text\n"


def methods() -> Iterator[MethodDescriptor]:
    """Every method of every public service."""
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def rules_of(field: FieldDescriptor) -> rules_pb2.Rules:
    rules: rules_pb2.Rules = field.GetOptions().Extensions[rules_pb2.rules]
    return rules


def value_field(field: FieldDescriptor) -> FieldDescriptor:
    """What a map's values are."""
    assert field.message_type is not None
    return field.message_type.fields_by_name["value"]


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def valid(descriptor: Descriptor) -> Message:
    """A message with what its rules require, and no more."""
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        rules = rules_of(field)
        if field.is_repeated:
            for _ in range(rules.min_items):
                add_item(message, field)
        elif rules.required:
            set_value(message, field, rules)
    return message


def set_value(message: Message, field: FieldDescriptor, rules: rules_pb2.Rules) -> None:
    if field.message_type is None:
        setattr(message, field.name, value_of(field, rules))
    elif field.message_type.full_name == Duration.DESCRIPTOR.full_name:
        getattr(message, field.name).CopyFrom(Duration(seconds=int(rules.min) or 1))
    else:
        getattr(message, field.name).SetInParent()
        getattr(message, field.name).CopyFrom(valid(field.message_type))


def value_of(field: FieldDescriptor, rules: rules_pb2.Rules) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"key"
    if field.type == FieldDescriptor.TYPE_STRING:
        return MATCHING if "host" in rules.pattern_text else "name"
    return max(1, int(rules.min))


def add_item(message: Message, field: FieldDescriptor, number: int = 0) -> None:
    items = getattr(message, field.name)
    if is_map(field):
        values = value_field(field)
        items[f"key{number}"] = "" if values.type == FieldDescriptor.TYPE_STRING else 1
    elif field.message_type is not None:
        items.add().CopyFrom(valid(field.message_type))
    else:
        items.append(value_of(field, rules_of(field)))


def malformed(descriptor: Descriptor, path: str = "") -> Iterator[tuple[str, Message]]:
    """The path of the field that is wrong, and a message that is wrong there alone."""
    for field in descriptor.fields:
        rules = rules_of(field)
        for change in changes(field, rules):
            message = valid(descriptor)
            change(message)
            yield path + field.name, message
    for oneof in descriptor.oneofs:
        if any(rules_of(field).required for field in oneof.fields):
            message = valid(descriptor)
            for field in oneof.fields:
                message.ClearField(field.name)
            yield path + oneof.name, message
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.file in OWN_FILES and not is_map(field):
            yield from nested(descriptor, field, path)


def nested(descriptor: Descriptor, field: FieldDescriptor, path: str) -> Iterator[tuple[str, Message]]:
    """Messages that are wrong in a message within them."""
    assert field.message_type is not None
    place = f"{path}{field.name}[0]." if field.is_repeated else f"{path}{field.name}."
    for inner_path, inner in malformed(field.message_type, place):
        message = valid(descriptor)
        if field.is_repeated:
            message.ClearField(field.name)
            getattr(message, field.name).add().CopyFrom(inner)
        else:
            getattr(message, field.name).SetInParent()
            getattr(message, field.name).CopyFrom(inner)
        yield inner_path, message


def changes(field: FieldDescriptor, rules: rules_pb2.Rules) -> Iterator[Any]:
    name = field.name
    if field.is_repeated:
        yield from changes_of_items(field, rules)
        return
    if rules.required and field.containing_oneof is None:
        yield lambda message: message.ClearField(name)
    if field.type == FieldDescriptor.TYPE_ENUM:
        yield lambda message: setattr(message, name, 9999)
    if rules.max_bytes:
        text: Any = "x" if field.type == FieldDescriptor.TYPE_STRING else b"x"
        yield lambda message: setattr(message, name, text * (rules.max_bytes + 1))
    if rules.pattern:
        yield lambda message: setattr(message, name, NOT_MATCHING)
    if field.message_type is not None and field.message_type.full_name == Duration.DESCRIPTOR.full_name:
        yield lambda message: getattr(message, name).CopyFrom(Duration(seconds=1, nanos=-1))
        if rules.HasField("max"):
            yield lambda message: getattr(message, name).CopyFrom(Duration(seconds=int(rules.max) + 1))
        if rules.HasField("min"):
            yield lambda message: getattr(message, name).CopyFrom(Duration(seconds=-1))
    elif rules.HasField("max"):
        yield lambda message: setattr(message, name, int(rules.max) + 1)


def changes_of_items(field: FieldDescriptor, rules: rules_pb2.Rules) -> Iterator[Any]:
    name = field.name
    if rules.min_items:
        yield lambda message: message.ClearField(name)

    def too_many(message: Message) -> None:
        for number in range(rules.max_items + 1):
            add_item(message, field, number)

    if rules.max_items:
        yield too_many
    if is_map(field):
        values = value_field(field)
        value: Any = "" if values.type == FieldDescriptor.TYPE_STRING else 1
        yield lambda message: getattr(message, name).update({"k" * (rules.max_bytes + 1): value})
        if rules.max_value_bytes:
            yield lambda message: getattr(message, name).update({"k": "v" * (rules.max_value_bytes + 1)})
        if values.type == FieldDescriptor.TYPE_DOUBLE:
            yield lambda message: getattr(message, name).update({"k": float("nan")})
    elif rules.max_bytes:
        text: Any = "x" if field.type == FieldDescriptor.TYPE_STRING else b"x"
        yield lambda message: getattr(message, name).append(text * (rules.max_bytes + 1))
    elif field.type == FieldDescriptor.TYPE_ENUM:
        yield lambda message: getattr(message, name).append(9999)
