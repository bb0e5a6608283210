"""A server seen through the loops on which what is added runs: `server.on(io_context)` and `server.on(pool, key=)`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from atoll.errors import RegistrationError
from atoll.loop import IoContext
from atoll.rpc._credentials import ServerCredentials
from atoll.rpc._descriptor import check_descriptor, check_methods
from atoll.rpc._method_options import MethodOptions
from atoll.rpc._registry import Registry, SpreadServicer
from atoll.rpc._spread import Spread

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from atoll.rpc._server import Server

T = TypeVar("T")


class Registrar(Protocol):
    """Where generated code adds a servicer: a server, or `server.on(io_context)`."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        """Adds handlers."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Adds the methods of a service."""


class Binding:
    """A server seen through one loop: what is added here runs there."""

    def __init__(
        self,
        server: "Server",
        io_context: IoContext,
        registry: Registry,
        method_options: MethodOptions | None = None,
    ) -> None:
        """Made by `Server.on`."""
        self._bound_server = server
        self._io_context = io_context
        self._registry = registry
        self._method_options = method_options

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        """Adds handlers that run on this loop."""
        self._registry.add_generic(generic_rpc_handlers, self._io_context, self._method_options)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Adds methods that run on this loop."""
        self._registry.add_methods(service_name, method_handlers, self._io_context, self._method_options)

    def add_service(self, descriptor: "ServiceDescriptor", servicer: object) -> None:
        """Adds a servicer that runs on this loop. See `Server.add_service`."""
        self._registry.add_service(check_descriptor(descriptor), servicer, self._io_context, self._method_options)

    def add_insecure_port(self, address: str) -> int:
        """See `Server.add_insecure_port`."""
        return self._bound_server.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: ServerCredentials) -> int:
        """See `Server.add_secure_port`."""
        return self._bound_server.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        """See `Server.start`."""
        await self._bound_server.start()

    async def stop(self, grace: float | None) -> None:
        """See `Server.stop`."""
        await self._bound_server.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - grpc's signature
        """See `Server.wait_for_termination`."""
        return await self._bound_server.wait_for_termination(timeout)


class PoolBinding:
    """A server seen through the loops of a pool: each gets an instance of what is added here.

    The instances are made when the server starts, each on its loop, which alone runs it: no locks, and no state that
    two of them share.
    """

    def __init__(self, server: "Server", spread: Spread, method_options: MethodOptions | None = None) -> None:
        """Made by `Server.on`."""
        self._bound_server = server
        self._spread = spread
        self._method_options = method_options

    def add_servicer(self, add_to_server: Callable[[T, Any], None], factory: Callable[[], T]) -> None:
        """Adds a servicer by generated code: `add_servicer(add_CounterServicer_to_server, Counter)`.

        Args:
            add_to_server: The function that generated code has for the servicer.
            factory: The servicer's class, or a function, also a coroutine function, that makes an instance.

        Raises:
            PlacementError: When the policy places the servicer.
            RegistrationError: When the factory is an instance.
            ServerStateError: When the server has been started.
        """

        def add(instance: Any, io_context: IoContext, part: Registry) -> None:  # noqa: ANN401 - a servicer
            bound = self._bound_server._bind(io_context, part, self._method_options)  # noqa: SLF001 - its other half
            add_to_server(instance, bound)

        self._add(factory, add)

    def add_service(self, descriptor: "ServiceDescriptor", factory: Callable[[], Any]) -> None:
        """Adds a servicer by its service's descriptor. See `Server.add_service`.

        Args:
            descriptor: The service's.
            factory: The servicer's class, or a function, also a coroutine function, that makes an instance.

        Raises:
            PlacementError: When the policy places the servicer.
            RegistrationError: When the factory is an instance, a class with none of the methods, or `descriptor` no
                service's.
            ServerStateError: When the server has been started.
        """
        checked = check_descriptor(descriptor)
        if isinstance(factory, type):
            check_methods(checked, factory)

        def add(instance: Any, io_context: IoContext, part: Registry) -> None:  # noqa: ANN401 - a servicer
            part.add_service(checked, instance, io_context, self._method_options)

        self._add(factory, add)

    def _add(self, factory: Callable[[], Any], add: Callable[[Any, IoContext, Registry], None]) -> None:
        self._bound_server._registry.add_spread(SpreadServicer(factory, add, self._spread))  # noqa: SLF001

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> NoReturn:  # noqa: ARG002 - grpc's signature
        """Refuses: one instance can't live on several loops.

        Raises:
            RegistrationError: Always.
        """
        raise self._one_instance("")

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> NoReturn:  # noqa: ARG002
        """Refuses: one instance can't live on several loops.

        Raises:
            RegistrationError: Always.
        """
        raise self._one_instance(service_name)

    def _one_instance(self, service: str) -> RegistrationError:
        name = service.rpartition(".")[2] or "Counter"
        return RegistrationError(
            f"each loop of pool {self._spread.pool!r} needs a servicer of its own: write server.on(pool, "
            f"key=...).add_servicer(add_{name}Servicer_to_server, YourServicer), with the class or a function that "
            "makes an instance"
        )
