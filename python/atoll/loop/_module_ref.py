"""`ModuleRef`: how one module calls another, by posting to its loop.

What crosses with a call: arguments, result and exception; cancellation; the caller's deadline, or a nearer one; its
lane; and its context variables, so a trace as well.

| state | written by | read by | under |
|---|---|---|---|
| `_waiting` | callers, on their loops | `awaited_calls`, on any thread | single operations on a dict |
"""

import asyncio
import copy
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from atoll.errors import DeadlineExceededError
from atoll.loop._deadline import DEADLINE
from atoll.loop._future import LoopFuture
from atoll.loop._io_context import IoContext
from atoll.loop._options import Lane

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AwaitedCall:
    """A call through a reference that has not been answered.

    Attributes:
        caller: The name of the loop that waits.
        loop: The name of the loop that is to answer.
        method: The method's qualified name.
        since: When it was made, in seconds of the called loop's time.
        waited: How many seconds it has waited.
    """

    caller: str
    loop: str
    method: str
    since: float
    waited: float


# By future: (caller's loop, called loop, method, when).
_waiting: dict[LoopFuture[Any], tuple[IoContext, IoContext, str, float]] = {}


def awaited_calls() -> list[AwaitedCall]:
    """The calls from one loop to another that have not been answered. Any thread."""
    return [
        AwaitedCall(caller.name, called.name, method, since, called.now() - since)
        for caller, called, method, since in list(_waiting.values())
    ]


class ModuleRef(Generic[T]):
    """A module that lives on some loop: calling its methods here runs them there.

    A method is named as its class has it, `nodes.call(NodeManager.drain, node_id)`; what runs is the module's own, so
    an override in a subclass is honoured. Statistics know it by the qualified name of the method that was given. Any
    thread may hold and share a reference.

    Args:
        io_context: The module's loop.
        module: The module.
    """

    __slots__ = ("__weakref__", "_io_context", "_lane", "_module", "_names", "_timeout")

    def __init__(self, io_context: IoContext, module: T) -> None:
        self._io_context = io_context
        self._module = module
        self._names: dict[Callable[..., Any], str] = {}
        self._timeout: float | None = None
        self._lane: Lane | None = None

    def with_options(self, *, timeout: float | None = None, lane: Lane | None = None) -> Self:
        """A reference to the same module whose calls differ, `nodes.with_options(timeout=0.5).call(...)`. Any thread.

        Args:
            timeout: Seconds after which a call is given up and its handler cancelled; the caller's own deadline counts
                as well, and the nearer one decides. None leaves the caller's alone.
            lane: The priority class of the calls; None for that of the handler that calls.

        Raises:
            ValueError: When the timeout is not a number of seconds.
        """
        if timeout is not None and not (math.isfinite(timeout) and timeout >= 0):
            raise ValueError(f"timeout={timeout!r} is not a number of seconds from 0")
        other = copy.copy(self)
        other._timeout = timeout  # noqa: SLF001 - of this class
        other._lane = lane  # noqa: SLF001 - of this class
        return other

    @property
    def io_context(self) -> IoContext:
        """The module's loop."""
        return self._io_context

    @overload
    async def call(
        self, method: Callable[Concatenate[T, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    @overload
    async def call(self, method: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    async def call(self, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Runs `method`, a function or a coroutine function, on the module's loop and returns or raises its outcome.

        It runs in the caller's context variables and lane, and the caller's deadline is its own: what it calls in turn
        has that deadline, too. Cancelling the caller cancels the method, at once while it is queued and at its next
        await when it runs; and so does the deadline. On the module's own loop it waits for its turn like any other
        call.

        Raises:
            TypeError: When `method` is not a method of the module.
            DeadlineExceededError: When the deadline passed first; the method is cancelled then, or never runs.
            MailboxFull: When the module's loop has fallen behind.
            LoopClosedError: When the module's loop has been closed.
        """
        name = self._name_of(method)
        qualname = getattr(method, "__qualname__", name)
        now = self._io_context.now()
        deadline = self._deadline(now)
        if deadline is None:
            return await self._answer(self._submit(name, qualname, args, kwargs), qualname, now)
        if deadline <= now:
            raise self._too_late(qualname, "was over before the call")
        inherited = DEADLINE.set(deadline)
        try:
            future = self._submit(name, qualname, args, kwargs)
        finally:
            DEADLINE.reset(inherited)
        limit = asyncio.timeout(deadline - now)
        try:
            async with limit:
                return await self._answer(future, qualname, now)
        except TimeoutError:
            if limit.expired():
                raise self._too_late(qualname, f"was over after {deadline - now:g} s") from None
            raise

    def _submit(self, name: str, qualname: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LoopFuture[Any]:
        return self._io_context.submit(_call, self._module, name, args, kwargs, name=qualname, lane=self._lane)

    async def _answer(self, future: LoopFuture[Any], qualname: str, now: float) -> Any:  # noqa: ANN401 - the method's own
        caller = IoContext.current_or_none()
        if caller is None or caller is self._io_context:
            return await future
        _waiting[future] = (caller, self._io_context, qualname, now)
        try:
            return await future
        finally:
            del _waiting[future]

    def _deadline(self, now: float) -> float | None:
        """The nearer one of the caller's deadline and this reference's."""
        inherited = DEADLINE.get()
        if self._timeout is None:
            return inherited
        own = now + self._timeout
        return own if inherited is None else min(own, inherited)

    def _too_late(self, qualname: str, when: str) -> DeadlineExceededError:
        return DeadlineExceededError(f"the deadline of {qualname} on loop {self._io_context.name!r} {when}")

    def post(self, method: Callable[Concatenate[T, P], object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Queues `method` on the module's loop and does not wait; what it raises goes to the loop's exception hook.

        It runs in the poster's context variables and lane, and what it calls has the poster's deadline.

        Raises:
            TypeError: When `method` is not a method of the module.
            MailboxFull: When the module's loop has fallen behind.
            LoopClosedError: When the module's loop has been closed.
        """
        name = self._name_of(method)
        qualname = getattr(method, "__qualname__", name)
        self._io_context.post(_call, self._module, name, args, kwargs, name=qualname, lane=self._lane)

    def _name_of(self, method: Callable[..., Any]) -> str:
        """The name of the attribute in which some class of the module has `method`."""
        try:
            found = self._names.get(method)
        except TypeError:  # what can't be hashed is no method
            raise self._not_a_method(method) from None
        if found is None:
            found = self._names[method] = self._find(method)
        return found

    def _find(self, method: Callable[..., Any]) -> str:
        if callable(method):
            for base in type(self._module).__mro__:
                for name, value in vars(base).items():
                    if value is method:
                        return name
        raise self._not_a_method(method)

    def _not_a_method(self, method: object) -> TypeError:
        owner = type(self._module).__qualname__
        if isinstance(method, str):
            return TypeError(f"{method!r} is a name: write call({owner}.{method}, ...), which type checkers understand")
        if getattr(method, "__self__", None) is not None:
            name = getattr(method, "__name__", "method")
            return TypeError(f"{method!r} is bound to its object already: write call({owner}.{name}, ...)")
        given = getattr(method, "__qualname__", repr(method))
        others, _, name = given.rpartition(".")
        if hasattr(type(self._module), name):
            remedy = f"write call({owner}.{name}, ...)"
        elif others and "<locals>" not in others.rpartition(".")[2]:
            remedy = f"call it through a reference to its own module, provider.ref({others}).call({given}, ...)"
        else:
            remedy = f"make it a method, and write call({owner}.{name or given}, ...)"
        return TypeError(f"{given} is not a method of {owner}: {remedy}")

    def __repr__(self) -> str:
        return f"<ModuleRef to {type(self._module).__qualname__} on loop {self._io_context.name!r}>"


def _call(module: object, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401 - the method's own
    """On the module's loop: only there may its attributes be read."""
    return getattr(module, name)(*args, **kwargs)
