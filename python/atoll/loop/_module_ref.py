"""`ModuleRef`: how one module calls another, by posting to its loop."""

from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from atoll.loop._io_context import IoContext

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class ModuleRef(Generic[T]):
    """A module that lives on some loop: calling its methods here runs them there.

    A method is named as its class has it, `nodes.call(NodeManager.drain, node_id)`; what runs is the module's own, so
    an override in a subclass is honoured. Statistics know it by the qualified name of the method that was given. Any
    thread may hold and share a reference.

    Args:
        io_context: The module's loop.
        module: The module.
    """

    __slots__ = ("__weakref__", "_io_context", "_module", "_names")

    def __init__(self, io_context: IoContext, module: T) -> None:
        self._io_context = io_context
        self._module = module
        self._names: dict[Callable[..., Any], str] = {}

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

        It runs in the caller's context variables. Cancelling the caller cancels the method, at once while it is queued
        and at its next await when it runs. On the module's own loop it waits for its turn like any other call.

        Raises:
            TypeError: When `method` is not a method of the module.
            MailboxFull: When the module's loop has fallen behind.
            LoopClosedError: When the module's loop has been closed.
        """
        name = self._name_of(method)
        qualname = getattr(method, "__qualname__", name)
        return await self._io_context.submit(_call, self._module, name, args, kwargs, name=qualname)

    def post(self, method: Callable[Concatenate[T, P], object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Queues `method` on the module's loop and does not wait; what it raises goes to the loop's exception hook.

        Raises:
            TypeError: When `method` is not a method of the module.
            MailboxFull: When the module's loop has fallen behind.
            LoopClosedError: When the module's loop has been closed.
        """
        name = self._name_of(method)
        qualname = getattr(method, "__qualname__", name)
        self._io_context.post(_call, self._module, name, args, kwargs, name=qualname)

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
