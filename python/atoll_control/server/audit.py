"""`Audit`: one line in the log for every change that was asked for, and how it ended.

    2026-11-28T12:00:00.000000Z [info     ] audit actor=token:ci method=KvService.Put target={"key": "a"} outcome=OK

Who, what, on what, with which outcome; values of keys are never in it. Which calls are changes, and which fields of the
request tell what is changed, the protos say (`access.py`). A call that was cancelled is put down as CANCELLED: the
change may have been made.

It stands before the handlers of modules, as methods of the servicers, so that reading costs nothing. Lines are written
when a loop has run what it had to run, all of them together: who gets an answer may have it before its line is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import time  # noqa: TID251 - the wall clock, which logs tell
import types
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc

from atoll.errors import AbortError
from atoll_control.server.access import Rule, methods_of, rule_of, values_at
from atoll_control.server.calls import actor_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from google.protobuf.message import Message

    # Takes some lines.
    Sink = Callable[[Sequence["Line"]], object]

# Of each field that tells what is changed, this many values are shown, and of each value this many characters.
MAX_VALUES: Final = 8
MAX_CHARACTERS: Final = 256
# So many lines wait at most, on each loop, until they are written.
MAX_TOGETHER: Final = 256

_OK: Final = grpc.StatusCode.OK.name


class Line(NamedTuple):
    """One change.

    Attributes:
        at: when it ended, in nanoseconds since 1970.
        fields: who, what, on what, and how it ended.
    """

    at: int
    fields: Mapping[str, Any]


class Audit:
    """Where changes are put down. Any thread may record; `install` is for the loop of the servicer."""

    def __init__(self, sink: Sink) -> None:
        """Hands lines to `sink`, on the threads on which they come."""
        self._sink = sink
        self._waiting: list[_Waiting] = []

    def record(self, actor: str, method: str, target: Mapping[str, Any], outcome: str) -> None:
        """Puts a change down at once.

        Args:
            actor: who asked for it.
            method: "KvService.Delete".
            target: what is changed, by the names of fields.
            outcome: the name of the call's status.
        """
        self._sink([_line(actor, method, target, outcome)])

    def install(self, servicer: object) -> None:
        """Stands before the servicer's handlers of changes. On its loop, before the servicer is added to a server."""
        waiting = _Waiting(self._sink)
        self._waiting.append(waiting)
        for method in methods_of(servicer):
            if (rule := rule_of(method)).is_audited:
                handler: Any = getattr(servicer, method.name)
                before = _before_stream if inspect.isasyncgenfunction(handler) else _before
                setattr(servicer, method.name, types.MethodType(before(rule, handler.__func__, waiting), servicer))

    def close(self) -> None:
        """Writes what still waits. When the loops of the servicers have ended; one that is stuck may go on."""
        for waiting in self._waiting:
            waiting.write()


class _Waiting:
    """The lines of one servicer that have not been written. On its loop; `write` on any thread."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lines: deque[Line] = deque()

    def add(self, line: Line) -> None:
        """Has it written with all that come before the loop looks for more to do."""
        self._lines.append(line)
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.write)
            except RuntimeError:
                # A handler that is thrown away when its loop has ended.
                self.write()
        elif len(self._lines) == MAX_TOGETHER:
            self.write()

    def write(self) -> None:
        lines: list[Line] = []
        with contextlib.suppress(IndexError):
            while True:
                lines.append(self._lines.popleft())
        if lines:
            self._sink(lines)


def _before(rule: Rule, handler: Callable[..., Awaitable[Any]], waiting: _Waiting) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(handler)
    async def audited(module: object, request: Any, context: Any) -> Any:  # noqa: ANN401 - any message
        outcome = grpc.StatusCode.UNKNOWN.name
        try:
            reply = await handler(module, request, context)
            outcome = _OK
        except BaseException as problem:
            outcome = _outcome(problem, context)
            raise
        finally:
            waiting.add(_line(actor_of(context), rule.name, target_of(rule, request), outcome))
        return reply

    return audited


def _before_stream(
    rule: Rule, handler: Callable[..., AsyncIterator[Any]], waiting: _Waiting
) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(handler)
    async def audited(module: object, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401
        outcome = grpc.StatusCode.CANCELLED.name
        try:
            async for message in handler(module, request, context):
                yield message
            outcome = _OK
        except BaseException as problem:
            outcome = _outcome(problem, context)
            raise
        finally:
            waiting.add(_line(actor_of(context), rule.name, target_of(rule, request), outcome))

    return audited


def _line(actor: str, method: str, target: Mapping[str, Any], outcome: str) -> Line:
    return Line(time.time_ns(), {"actor": actor, "method": method, "target": target, "outcome": outcome})


def _outcome(problem: BaseException, context: Any) -> str:  # noqa: ANN401 - grpcio's context or ours
    if isinstance(problem, AbortError):
        code = context.code()
        return code.name if isinstance(code, grpc.StatusCode) else str(code)
    if isinstance(problem, (asyncio.CancelledError, GeneratorExit)):
        return grpc.StatusCode.CANCELLED.name
    return grpc.StatusCode.UNKNOWN.name


def target_of(rule: Rule, request: Message) -> dict[str, Any]:
    """What is changed, by the names of fields; those that are empty are left out."""
    target: dict[str, Any] = {}
    for path in rule.targets:
        if len(path) == 1:
            if value := getattr(request, path[0]):
                target[path[0]] = _shown(request, path, value)
            continue
        values = [_shown(request, path, value) for value in values_at(request, path)]
        if values:
            more = len(values) - MAX_VALUES
            target[".".join(path)] = [*values[:MAX_VALUES], *([f"and {more} more"] if more > 0 else ())]
    return target


def _shown(request: Message, path: Iterable[str], value: Any) -> Any:  # noqa: ANN401 - any field's
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, str):
        return value if len(value) <= MAX_CHARACTERS else value[:MAX_CHARACTERS] + "..."
    descriptor = request.DESCRIPTOR
    *_, last = path
    field = descriptor.fields_by_name.get(last)
    if field is not None and field.enum_type is not None and value in field.enum_type.values_by_number:
        return field.enum_type.values_by_number[value].name
    return value
