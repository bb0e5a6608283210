"""What can be set for methods: at the server, the servicer or the method, and how the three become one."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

from atoll._core import Gate
from atoll.loop import IoContext
from atoll.rpc._method import Resolved, RpcMethodHandler, behaviour

WhenFull: TypeAlias = Literal["refuse", "wait"]
Lane: TypeAlias = Literal["control", "normal", "bulk"]
Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_ATTRIBUTE: Final = "__atoll_method_options__"
_MOST: Final = 1_000_000_000


class _Unset(enum.Enum):
    """What nobody has said here; the next place further out says it."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


# Larger than any message.
UNLIMITED: Final = 2**62
# Typed as what it stands for, so that signatures say what may be given.
UNSET: Final[Any] = _Unset.UNSET


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """What can be set for methods. What is left out is as the next place further out says.

    The places are, from the inside out: the method (`@rpc.options(...)` on the function), the servicer
    (`server.on(loop, method_options=...)`, `@rpc.options(...)` on its class), the server
    (`rpc.server(method_options=...)`), and the defaults below.

    A limit belongs to the place where it was written: a method's is its own; one that is written at a servicer is
    shared by those of its methods that have none of their own, so that `max_active_rpcs=1` serialises the servicer; one
    that is written at the server is shared by all methods that nothing nearer limits.

    Attributes:
        max_active_rpcs: How many calls may run at a time, from their dispatch to their answer; None is unlimited, the
            default. A handler that its call's deadline or client has ended is cancelled, and its place is free when it
            has seen that: a coroutine up to its next await, a plain function on the thread pool at once, for nothing
            can stop it.
        when_full: What happens to a call beyond that. "refuse", the default, answers RESOURCE_EXHAUSTED on the network
            thread. "wait" lets it wait its turn, without reaching Python, until its deadline, within the bounds of
            `rpc.server(options=...)`: `atoll.max_waiting_bytes`, `atoll.max_waiting_bytes_per_connection`, and half of
            the calls that a connection may have.
        lane: The lane of the loop's mailbox in which calls wait: "control", "normal" (the default) or "bulk". What a
            handler posts is in its lane, too, unless it says otherwise.
        blocking: Whether a plain function runs on the thread pool although it is placed or bound; False by default.
        max_receive_message_size: The largest request message in bytes; None is unlimited. Default: the server's.
        max_send_message_size: The largest reply message in bytes; None is unlimited. Default: the server's.

    Raises:
        ValueError: When a value can't work; the message names it.
    """

    max_active_rpcs: int | None = UNSET
    when_full: WhenFull = UNSET
    lane: Lane = UNSET
    blocking: bool = UNSET
    max_receive_message_size: int | None = UNSET
    max_send_message_size: int | None = UNSET

    def __post_init__(self) -> None:
        """Checks what has been said."""
        _check_number("max_active_rpcs", self.max_active_rpcs, least=1)
        _check_choice("when_full", self.when_full, get_args(WhenFull))
        _check_choice("lane", self.lane, get_args(Lane))
        if self.blocking is not UNSET and not isinstance(self.blocking, bool):
            raise ValueError(f"blocking={self.blocking!r} is neither True nor False")
        _check_number("max_receive_message_size", self.max_receive_message_size, least=0)
        _check_number("max_send_message_size", self.max_send_message_size, least=0)

    def __or__(self, nearer: "MethodOptions") -> "MethodOptions":
        """These options with what `nearer` says in their place."""
        said = {each.name: getattr(nearer, each.name) for each in fields(nearer)}
        mine = {each.name: getattr(self, each.name) for each in fields(self)}
        return MethodOptions(**(mine | {name: value for name, value in said.items() if value is not UNSET}))


def _check_number(name: str, value: object, *, least: int) -> None:
    if value is UNSET or value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
        raise ValueError(f"{name}={value!r} is not a whole number from {least} to {_MOST:,}; None is unlimited")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value is not UNSET and value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")


def options(
    *,
    max_active_rpcs: int | None = UNSET,
    when_full: WhenFull = UNSET,
    lane: Lane = UNSET,
    blocking: bool = UNSET,
    max_receive_message_size: int | None = UNSET,
    max_send_message_size: int | None = UNSET,
) -> Callable[[Decorated], Decorated]:
    """Decorates a servicer's class or one of its methods with `MethodOptions`, whose fields these are.

    For example::

        @rpc.options(max_active_rpcs=1, when_full="wait")
        class Accounts(accounts_pb2_grpc.AccountsServicer):
            @rpc.options(lane="control", max_active_rpcs=None)
            async def Ping(self, request, context): ...

    A class inherits what its bases have been decorated with.

    Raises:
        ValueError: When a value can't work; the message names it.
    """
    said = MethodOptions(
        max_active_rpcs=max_active_rpcs,
        when_full=when_full,
        lane=lane,
        blocking=blocking,
        max_receive_message_size=max_receive_message_size,
        max_send_message_size=max_send_message_size,
    )

    def decorate(decorated: Decorated) -> Decorated:
        before = getattr(decorated, _ATTRIBUTE, None)
        setattr(decorated, _ATTRIBUTE, said if before is None else before | said)
        return decorated

    return decorate


class MethodTable:
    """The options of one server's methods, each from the nearest place that says something. Used at the start."""

    def __init__(self, of_server: MethodOptions | None) -> None:
        self._of_server = of_server
        self._gates: dict[object, Gate] = {}

    def resolve(self, handler: RpcMethodHandler, bound: MethodOptions | None, io_context: IoContext) -> Resolved:
        """What holds for a method that was registered with `bound`, on its loop."""
        function = behaviour(handler)
        servicer = getattr(function, "__self__", None)
        # From the outside in, each with what is shared by all who take a limit from there.
        places: list[tuple[MethodOptions | None, object]] = [
            (self._of_server, "server"),
            (getattr(type(servicer), _ATTRIBUTE, None), ("class", id(servicer), io_context)),
            (bound, ("bound", id(bound), id(servicer), io_context)),
            (getattr(function, _ATTRIBUTE, None), ("method", id(handler), io_context)),
        ]
        merged, limited_at = MethodOptions(), None
        for said, place in places:
            if said is not None:
                merged |= said
                if said.max_active_rpcs is not UNSET:
                    limited_at = place
        return self._resolved(merged, limited_at)

    def of_server(self) -> Resolved:
        """What holds for a method that nothing nearer says anything of: one that is found only when it is called."""
        said = MethodOptions() if self._of_server is None else self._of_server
        return self._resolved(said, "server")

    def _resolved(self, merged: MethodOptions, limited_at: object) -> Resolved:
        return Resolved(
            gate=self._gate(merged.max_active_rpcs, limited_at),
            waits=merged.when_full == "wait",
            lane=get_args(Lane).index("normal" if merged.lane is UNSET else merged.lane),
            blocking=merged.blocking is True,
            max_receive_message_size=_size(merged.max_receive_message_size),
            max_send_message_size=_size(merged.max_send_message_size),
        )

    def _gate(self, limit: int | None, limited_at: object) -> Gate | None:
        if limit is UNSET or limit is None:
            return None
        if limited_at not in self._gates:
            self._gates[limited_at] = Gate(limit)
        return self._gates[limited_at]


def _size(value: int | None) -> int | None:
    if value is UNSET:
        return None
    return UNLIMITED if value is None else value
