"""Requests that break exactly one rule of their proto, made from the descriptors: what a server must refuse by name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from atoll_control.api import times
from atoll_control.api.v1 import admin_pb2, health_pb2, kv_pb2, node_pb2, rules_pb2, task_pb2, token_pb2, watch_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.descriptor import Descriptor, MethodDescriptor
    from google.protobuf.message import Message

FILES = (admin_pb2, health_pb2, kv_pb2, node_pb2, task_pb2, token_pb2, watch_pb2)
OWN_FILES = {file.DESCRIPTOR for file in FILES}
# What a rule may ask for; `pattern_text` only says it.
RULES = {field.name for field in rules_pb2.Rules.DESCRIPTOR.fields} - {"pattern_text"}
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


def key_field(field: FieldDescriptor) -> FieldDescriptor:
    """What a map's keys are."""
    assert field.message_type is not None
    return field.message_type.fields_by_name["key"]


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
        return b"key".ljust(rules.min_bytes, b"y")
    if field.type == FieldDescriptor.TYPE_STRING:
        return MATCHING if "host" in rules.pattern_text else "name".ljust(rules.min_bytes, "e")
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


# Makes a message wrong.
Change: TypeAlias = "Callable[[Message], None]"


class Malformed(NamedTuple):
    """The path of the field that is wrong, which rule it breaks, and a message that is wrong there alone."""

    path: str
    # As `declared()` has it; what is wrong whatever the rules are is named likewise.
    rule: str
    message: Message


def declared(descriptor: Descriptor) -> set[str]:
    """The rules of a message and of those within it: "atoll.v1.GetRequest.key: max_bytes"."""
    found: set[str] = set()
    looked_at: set[str] = set()
    waiting = [descriptor]
    while waiting:
        message = waiting.pop()
        if message.full_name in looked_at:
            continue
        looked_at.add(message.full_name)
        for field in message.fields:
            rules = rules_of(field)
            found.update(f"{field.full_name}: {rule.name}" for rule, _ in rules.ListFields() if rule.name in RULES)
            if (inner := own_message(field)) is not None:
                waiting.append(inner)
    return found


def own_message(field: FieldDescriptor) -> Descriptor | None:
    inner = field.message_type
    return None if inner is None or inner.file not in OWN_FILES or is_map(field) else inner


def malformed(descriptor: Descriptor, path: str = "") -> Iterator[Malformed]:
    """Messages of which each breaks one rule."""
    for field in descriptor.fields:
        for rule, change in changes(field, rules_of(field)):
            message = valid(descriptor)
            change(message)
            yield Malformed(path + field.name, f"{field.full_name}: {rule}", message)
    for oneof in descriptor.oneofs:
        for required in (field for field in oneof.fields if rules_of(field).required):
            message = valid(descriptor)
            for field in oneof.fields:
                message.ClearField(field.name)
            yield Malformed(path + oneof.name, f"{required.full_name}: required", message)
    for field in descriptor.fields:
        if (inner := own_message(field)) is not None:
            yield from nested(descriptor, field, inner, path)


def nested(descriptor: Descriptor, field: FieldDescriptor, inner: Descriptor, path: str) -> Iterator[Malformed]:
    """Messages that are wrong in a message within them."""
    place = f"{path}{field.name}[0]." if field.is_repeated else f"{path}{field.name}."
    for wrong in malformed(inner, place):
        message = valid(descriptor)
        if field.is_repeated:
            message.ClearField(field.name)
            getattr(message, field.name).add().CopyFrom(wrong.message)
        else:
            getattr(message, field.name).SetInParent()
            getattr(message, field.name).CopyFrom(wrong.message)
        yield wrong._replace(message=message)


def changes(field: FieldDescriptor, rules: rules_pb2.Rules) -> Iterator[tuple[str, Change]]:
    """What makes a field of a message wrong, by the rule that it breaks."""
    in_oneof = field.containing_oneof is not None
    if is_map(field):
        yield from changes_of_map(field, rules)
    else:
        for rule, value in wrong_values(field, rules):
            # That a member of a oneof is empty is not wrong: it is there.
            if rule != "required" or not in_oneof:
                yield rule, partial(put, field, value)
    if field.is_repeated:
        if rules.min_items:
            yield "min_items", partial(set_count, field, rules.min_items - 1)
        if rules.max_items:
            yield "max_items", partial(set_count, field, rules.max_items + 1)
    elif rules.required and field.message_type is not None and not in_oneof:
        yield "required", partial(set_count, field, 0)


def changes_of_map(field: FieldDescriptor, rules: rules_pb2.Rules) -> Iterator[tuple[str, Change]]:
    values = value_field(field)
    good: Any = "" if values.type == FieldDescriptor.TYPE_STRING else 1
    for rule, key in wrong_values(key_field(field), rules):
        yield rule, partial(put_entry, field, key, good)
    for rule, value in wrong_values(values, rules_pb2.Rules(max_bytes=rules.max_value_bytes)):
        yield "max_value_bytes" if rule == "max_bytes" else rule, partial(put_entry, field, "k", value)


def put(field: FieldDescriptor, value: Any, message: Message) -> None:
    """Gives a field a value, or one more item."""
    if field.is_repeated:
        getattr(message, field.name).append(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def put_entry(field: FieldDescriptor, key: str, value: Any, message: Message) -> None:
    getattr(message, field.name)[key] = value


def set_count(field: FieldDescriptor, count: int, message: Message) -> None:
    """Gives a field so many items."""
    message.ClearField(field.name)
    for number in range(count):
        add_item(message, field, number)


def wrong_values(field: FieldDescriptor, rules: rules_pb2.Rules) -> Iterator[tuple[str, Any]]:
    """Values that a field, or one item of it, must not have, by the rule that each breaks."""
    if field.message_type is not None:
        yield from wrong_times(field.message_type.full_name, rules)
    elif field.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}:
        yield from wrong_texts("x" if field.type == FieldDescriptor.TYPE_STRING else b"x", rules)
    else:
        yield from wrong_numbers(field, rules)


def wrong_texts(letter: Any, rules: rules_pb2.Rules) -> Iterator[tuple[str, Any]]:
    if rules.required:
        yield "required", letter * 0
    if rules.min_bytes:
        yield "min_bytes", letter * (rules.min_bytes - 1)
    if rules.max_bytes:
        yield "max_bytes", letter * (rules.max_bytes + 1)
    if rules.pattern:
        yield "pattern", NOT_MATCHING


def wrong_numbers(field: FieldDescriptor, rules: rules_pb2.Rules) -> Iterator[tuple[str, float]]:
    if rules.required:
        yield "required", 0
    if field.type == FieldDescriptor.TYPE_ENUM:
        yield "known", 9999
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        yield "finite", float("nan")
    if rules.HasField("min"):
        yield "min", int(rules.min) - 1
    if rules.HasField("max"):
        yield "max", int(rules.max) + 1


def wrong_times(name: str, rules: rules_pb2.Rules) -> Iterator[tuple[str, Message]]:
    """Durations and times that a field must not have; none where it has another message."""
    if name == Timestamp.DESCRIPTOR.full_name:
        yield "valid", Timestamp(seconds=1, nanos=-1)
    elif name == Duration.DESCRIPTOR.full_name:
        yield "valid", Duration(seconds=1, nanos=-1)
        if rules.HasField("min"):
            yield "min", times.duration(rules.min - 1e-6)
        if rules.HasField("max"):
            yield "max", times.duration(rules.max + 1e-6)
