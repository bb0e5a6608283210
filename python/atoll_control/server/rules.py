"""Checks requests against the rules that their protos declare (`atoll/v1/rules.proto`).

    if (problem := rules.problem(request)) is not None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)

A message type is looked through once, when its first message is checked; afterwards a check costs one function call per
field that has a rule. Any thread.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from atoll_control.api.times import seconds
from atoll_control.api.v1 import rules_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

# Looks at a message whose path in the request is given ("" or "checks[2]."); says what is wrong, or None.
Check: TypeAlias = "Callable[[Any, str], str | None]"
# Looks at one value; the path is that of the field.
ValueCheck: TypeAlias = "Callable[[Any, str], str | None]"

_TEXT_OR_BYTES: Final = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
# A character of UTF-8 takes at most this many bytes.
_MAX_CHARACTER_BYTES: Final = 4
# How much of a wrong value a message repeats.
_SHOWN_CHARACTERS: Final = 64
# The first second of the year 1 and the last of the year 9999, which protobuf says bound a time.
_MIN_TIME_SECONDS: Final = -62135596800
_MAX_TIME_SECONDS: Final = 253402300799

_checks: dict[str, tuple[Check, ...]] = {}
# The same by the class of a message: asking that for its name takes longer than most checks.
_checks_by_class: dict[type[Message], tuple[Check, ...]] = {}


def problem(request: Message) -> str | None:
    """The first rule that `request` breaks, beginning with the path of the field; None when it breaks none."""
    checks = _checks_by_class.get(type(request))
    if checks is None:
        checks = _checks_by_class[type(request)] = _checks_of(cast("Descriptor", request.DESCRIPTOR))
    for check in checks:
        if (found := check(request, "")) is not None:
            return found
    return None


def _checks_of(descriptor: Descriptor) -> tuple[Check, ...]:
    """The checks of a message type, those of the messages in it included."""
    name = descriptor.full_name
    if (known := _checks.get(name)) is not None:
        return known
    checks = [check for field in descriptor.fields if (check := _field_check(field)) is not None]
    checks += [check for oneof in descriptor.oneofs if (check := _oneof_check(oneof)) is not None]
    # Last, and whole: other threads may ask for it meanwhile.
    _checks[name] = tuple(checks)
    return _checks[name]


def _rules_of(field: FieldDescriptor) -> rules_pb2.Rules:
    rules: rules_pb2.Rules = field.GetOptions().Extensions[rules_pb2.rules]
    return rules


def _field_check(field: FieldDescriptor) -> Check | None:
    rules = _rules_of(field)
    if field.is_repeated:
        return _map_check(field, rules) if _is_map(field) else _list_check(field, rules)
    check = _value_check(field, rules)
    name = field.name
    in_oneof = field.containing_oneof is not None
    if field.message_type is not None or in_oneof:
        # There or not there.
        required = rules.required and not in_oneof
        if check is None and not required:
            return None

        def of_optional(message: Message, path: str) -> str | None:
            if message.HasField(name):
                return None if check is None else check(getattr(message, name), path + name)
            return f"{path}{name}: is required" if required else None

        return of_optional
    if check is None:
        return None

    def of_value(message: Message, path: str) -> str | None:
        return check(getattr(message, name), path + name)

    return of_value


def _oneof_check(oneof: OneofDescriptor) -> Check | None:
    if not any(_rules_of(field).required for field in oneof.fields):
        return None
    name = oneof.name
    choices = ", ".join(field.name for field in oneof.fields)

    def check(message: Message, path: str) -> str | None:
        return None if message.WhichOneof(name) is not None else f"{path}{name}: one of {choices} is required"

    return check


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _items_check(rules: rules_pb2.Rules) -> Callable[[int, str], str | None]:
    low, high = rules.min_items, rules.max_items

    def check(count: int, path: str) -> str | None:
        if count < low:
            return f"{path}: must have at least {low:,}, got {count:,}"
        if high and count > high:
            return f"{path}: must have at most {high:,}, got {count:,}"
        return None

    return check


def _list_check(field: FieldDescriptor, rules: rules_pb2.Rules) -> Check | None:
    items = _items_check(rules)
    check = _value_check(field, rules)
    name = field.name

    def of_list(message: Message, path: str) -> str | None:
        values = getattr(message, name)
        if (found := items(len(values), path + name)) is not None or check is None:
            return found
        for index, value in enumerate(values):
            if (found := check(value, f"{path}{name}[{index}]")) is not None:
                return found
        return None

    return of_list


def _map_check(field: FieldDescriptor, rules: rules_pb2.Rules) -> Check | None:
    items = _items_check(rules)
    entry = cast("Descriptor", field.message_type)
    check_key = _value_check(entry.fields_by_name["key"], rules)
    values_field = entry.fields_by_name["value"]
    check_value = _value_check(values_field, rules_pb2.Rules(max_bytes=rules.max_value_bytes))
    name = field.name

    def of_map(message: Message, path: str) -> str | None:
        entries = getattr(message, name)
        if (found := items(len(entries), path + name)) is not None:
            return found
        for key, value in entries.items():
            if check_key is not None and (found := check_key(key, f"{path}{name}: the key {_shown(key)}")) is not None:
                return found
            if check_value is not None and (found := check_value(value, f"{path}{name}[{_shown(key)}]")) is not None:
                return found
        return None

    return of_map


def _value_check(field: FieldDescriptor, rules: rules_pb2.Rules) -> ValueCheck | None:
    """The check of one value: of an element, where the field has several."""
    if field.message_type is not None:
        return _message_check(field.message_type, rules)
    if field.type in _TEXT_OR_BYTES:
        return _size_check(rules)
    return _number_check(field, rules)


def _message_check(descriptor: Descriptor, rules: rules_pb2.Rules) -> ValueCheck | None:
    if descriptor.full_name == Duration.DESCRIPTOR.full_name:
        return _duration_check(rules)
    if descriptor.full_name == Timestamp.DESCRIPTOR.full_name:
        return _timestamp_problem
    checks = _checks_of(descriptor)
    if not checks:
        return None

    def check(message: Message, path: str) -> str | None:
        prefix = path + "."
        for check in checks:
            if (found := check(message, prefix)) is not None:
                return found
        return None

    return check


def _size_check(rules: rules_pb2.Rules) -> ValueCheck | None:
    low, high = rules.min_bytes, rules.max_bytes
    required = rules.required
    pattern = re.compile(rules.pattern) if rules.pattern else None
    allowed = rules.pattern_text
    if not (low or high or required or pattern):
        return None
    surely_fits = high // _MAX_CHARACTER_BYTES

    def check(value: str | bytes, path: str) -> str | None:
        if not value:
            if required:
                return f"{path}: is required"
            return f"{path}: must be at least {low:,} bytes, got none" if low else None
        if high and len(value) > surely_fits:
            size = len(value.encode()) if isinstance(value, str) else len(value)
            if size > high:
                return f"{path}: must be at most {high:,} bytes, got {size:,}"
        if low and len(value) < low and (size := len(value.encode() if isinstance(value, str) else value)) < low:
            return f"{path}: must be at least {low:,} bytes, got {size:,}"
        if pattern is not None and pattern.fullmatch(value) is None:  # type: ignore[arg-type]
            return f"{path}: must be {allowed}, got {_shown(value)}"
        return None

    return check


def _number_check(field: FieldDescriptor, rules: rules_pb2.Rules) -> ValueCheck | None:
    required = rules.required
    low = rules.min if rules.HasField("min") else None
    high = rules.max if rules.HasField("max") else None
    values = None if (enum := field.enum_type) is None else enum.values_by_number
    finite = field.type in {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}
    if not required and low is None and high is None and values is None and not finite:
        return None

    def check(value: float, path: str) -> str | None:
        if required and not value:
            return f"{path}: is required"
        if enum is not None and values is not None and value not in values:
            known = ", ".join(name for name in enum.values_by_name if not name.endswith("_UNSPECIFIED"))
            return f"{path}: must be one of {known}, got {value}"
        if finite and not float("-inf") < value < float("inf"):
            return f"{path}: must be a finite number, got {value}"
        return _range_problem(value, low, high, path, "")

    return check


def _range_problem(value: float, low: float | None, high: float | None, path: str, unit: str) -> str | None:
    if low is not None and value < low:
        return f"{path}: must be at least {low:,g}{unit}, got {value:,g}{unit}"
    if high is not None and value > high:
        return f"{path}: must be at most {high:,.15g}{unit}, got {value:,.15g}{unit}"
    return None


def _duration_check(rules: rules_pb2.Rules) -> ValueCheck:
    low = rules.min if rules.HasField("min") else None
    high = rules.max if rules.HasField("max") else None

    def check(value: Duration, path: str) -> str | None:
        if not -(10**9) < value.nanos < 10**9 or value.seconds * value.nanos < 0:
            return f"{path}: is no duration: {value.seconds} s and {value.nanos} ns"
        return _range_problem(seconds(value), low, high, path, " s")

    return check


def _timestamp_problem(value: Timestamp, path: str) -> str | None:
    if not _MIN_TIME_SECONDS <= value.seconds <= _MAX_TIME_SECONDS or not 0 <= value.nanos < 10**9:
        return f"{path}: is no time between the years 1 and 9999: {value.seconds} s and {value.nanos} ns"
    return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
