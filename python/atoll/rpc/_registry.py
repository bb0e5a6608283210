"""What a server has been given to serve: which handler has which path, and on which loops it runs."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from atoll.errors import PlacementError, RegistrationError, ServerStateError
from atoll.loop import IoContext
from atoll.rpc._descriptor import method_handlers
from atoll.rpc._generic import GenericRpcHandler, known_methods
from atoll.rpc._method import RpcMethodHandler, behaviour
from atoll.rpc._method_options import MethodOptions
from atoll.rpc._spread import Spread

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor


class Placement(Protocol):
    """Who knows which module lives where: an `IoContextProvider`."""

    def placement_of(self, module: type, /) -> IoContext | None:
        """The loop of a module's class, or None when nobody placed it."""


@dataclass(frozen=True)
class Registered:
    """A handler, and where it runs.

    Attributes:
        handler: As it was registered.
        io_context: Its loop; None for that on which the server is started.
        options: Those with which it was registered.
    """

    handler: RpcMethodHandler
    io_context: IoContext | None
    options: MethodOptions | None = None


@dataclass(frozen=True)
class SpreadRegistered:
    """One handler per loop.

    Attributes:
        handlers: In the order of the loops.
        spread: The loops, and what pins a call to one of them.
        options: Those with which they were registered.
    """

    handlers: tuple[RpcMethodHandler, ...]
    spread: Spread
    options: MethodOptions | None = None


# Adds a servicer, made on a loop, to a registry.
AddInstance = Callable[[Any, IoContext, "Registry"], None]


@dataclass(frozen=True)
class SpreadServicer:
    """A servicer of which each loop gets an instance, made when the server starts."""

    factory: Callable[[], Any]
    add: AddInstance
    spread: Spread


class Registry:
    """Handlers by path, and where they run. On the thread that sets up and starts the server.

    Whatever adds something raises `ServerStateError` when the server has been started.

    Args:
        placement: Who places servicers by their class.
    """

    def __init__(self, placement: Placement | None) -> None:
        self._placement = placement
        self.methods: dict[str, Registered | SpreadRegistered] = {}
        self.generic: list[GenericRpcHandler] = []
        # Whose file may be in a pool of its own.
        self.descriptors: list[ServiceDescriptor] = []
        self._spread_servicers: list[SpreadServicer] = []
        # Set when the server starts: nothing is added any more.
        self.closed = False

    def add_generic(
        self, handlers: Sequence[Any], io_context: IoContext | None, options: MethodOptions | None = None
    ) -> None:
        """Adds handlers as `add_generic_rpc_handlers` gets them; those that are registered already count."""
        self._check_open()
        for handler in handlers:
            methods = known_methods(handler)
            if methods is not None:
                for path, method in methods.items():
                    place = self._check_placement(path, _servicer_type(method), io_context)
                    self.methods.setdefault(path, Registered(method, place, options))
            elif io_context is None:
                self.generic.append(handler)
            else:
                raise PlacementError(
                    f"{handler!r} decides for each call whether it serves it, so its methods can't be bound to a loop: "
                    "add it to the server itself, or use grpc.method_handlers_generic_handler"
                )

    def add_methods(
        self,
        service: str,
        methods: Mapping[str, Any],
        io_context: IoContext | None,
        options: MethodOptions | None = None,
    ) -> None:
        """Adds handlers as `add_registered_method_handlers` gets them."""
        self._check_open()
        for name, method in methods.items():
            path = f"/{service}/{name}"
            place = self._check_placement(path, _servicer_type(method), io_context)
            # What is registered counts before what is generic, as in grpc.aio.
            self.methods[path] = Registered(method, place, options)

    def add_service(
        self,
        descriptor: "ServiceDescriptor",
        servicer: object,
        io_context: IoContext | None,
        options: MethodOptions | None = None,
    ) -> None:
        """Adds the methods of a servicer by its service's descriptor."""
        self._check_open()
        handlers = method_handlers(descriptor, servicer)
        place = self._check_placement(f"/{descriptor.full_name}", type(servicer), io_context)
        self.add_methods(descriptor.full_name, handlers, place, options)
        self.descriptors.append(descriptor)

    def add_spread(self, servicer: SpreadServicer) -> None:
        """Adds a servicer that is made once per loop, when the server starts."""
        self._check_open()
        factory, pool = servicer.factory, servicer.spread.pool
        if not callable(factory):
            raise RegistrationError(
                f"{factory!r} is one servicer, and each loop of pool {pool!r} needs its own: pass the class, or a "
                "function that makes an instance"
            )
        if isinstance(factory, type) and self._placement and (placed := self._placement.placement_of(factory)):
            raise PlacementError(
                f"the policy places {factory.__name__} on loop {placed.name!r}, and server.on() spreads it over pool "
                f"{pool!r}: add it to the server itself, or take it out of the policy"
            )
        self._spread_servicers.append(servicer)

    async def make_spread_servicers(self) -> None:
        """Makes the servicers that are spread over loops, each on its loop.

        Raises:
            Exception: What a factory raised, or the function that adds what it made.
        """
        for servicer in self._spread_servicers:
            name = getattr(servicer.factory, "__qualname__", repr(servicer.factory))
            parts = []
            for io_context in servicer.spread.io_contexts:
                instance = await io_context.submit(_make, servicer.factory, name=f"{name}.__init__")
                part = Registry(None)
                servicer.add(instance, io_context, part)
                parts.append(part)
            for path in parts[0].methods:
                handlers = [part.methods[path] for part in parts]
                registered = [entry for entry in handlers if isinstance(entry, Registered)]
                options = registered[0].options
                self.methods[path] = SpreadRegistered(
                    tuple(entry.handler for entry in registered), servicer.spread, options
                )
            self.descriptors += parts[0].descriptors

    def named_methods(self) -> Iterator[tuple[str, str, Registered | SpreadRegistered]]:
        """Path, name for statistics (`Service.Method`) and registration of each method."""
        full_names: dict[str, str] = {}
        for path, registered in self.methods.items():
            service, _, name = path.removeprefix("/").partition("/")
            short = service.rpartition(".")[2]
            if full_names.setdefault(short, service) != service:
                short = service
            yield path, f"{short}.{name}", registered

    def service_names(self) -> list[str]:
        """The full names of all services whose methods are known, in order."""
        return sorted({path.split("/")[1] for path in self.methods})

    def _check_open(self) -> None:
        if self.closed:
            raise started_already("services")

    def _check_placement(self, path: str, servicer: type | None, bound: IoContext | None) -> IoContext | None:
        if self._placement is None or servicer is None:
            return bound
        placed = self._placement.placement_of(servicer)
        if placed is not None and bound is not None and placed is not bound:
            raise PlacementError(
                f"{path}: the policy places {servicer.__name__} on loop {placed.name!r}, and server.on() binds it to "
                f"loop {bound.name!r}: add it to the server itself, or take it out of the policy"
            )
        return placed or bound


def started_already(what: str) -> ServerStateError:
    """Why a server takes no more of something."""
    return ServerStateError(f"the server has been started, and takes no more {what}: add everything before start()")


def _servicer_type(method: RpcMethodHandler) -> type | None:
    servicer = getattr(behaviour(method), "__self__", None)
    return None if servicer is None else type(servicer)


async def _make(factory: Callable[[], Any]) -> Any:  # noqa: ANN401 - a servicer
    """On the servicer's loop."""
    made = factory()
    return await made if inspect.isawaitable(made) else made
