"""`AsyncClient`: the control plane, from asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from atoll_control.api.v1 import admin_pb2, admin_pb2_grpc
from atoll_control.client._aio._channel import RoutedChannel
from atoll_control.client._aio.kv import Kv
from atoll_control.client._aio.leases import Leases
from atoll_control.client._aio.nodes import Nodes
from atoll_control.client._aio.tasks import Tasks
from atoll_control.client._aio.topics import Topics
from atoll_control.client._aio.watch import Watches
from atoll_control.client._options import DEFAULT_TIMEOUT, parse_endpoints

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    import grpc
    import grpc.aio

    from atoll_control.client._options import Tls


class AsyncClient:
    """A client of the control plane.

    Calls go to the leader: where a server says that another one leads they follow, otherwise they try one endpoint
    after another, until they are answered or their time is over. What is sent again, and what is not, is told in
    `docs/client.md`; errors are those of `atoll_control.client.errors`.

    Attributes:
        kv: the key-value store.
        leases: what keys may vanish with.
        nodes: who belongs to the cluster.
        tasks: task events.
        topics: events for whoever watches.
        watch: what changes, as it changes.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str],
        *,
        token: str | None = None,
        tls: Tls | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        wait_for_server: bool = True,
    ) -> None:
        """Connects when it is used, on the loop that it is used on.

        Args:
            endpoints: where servers listen, "host:port"; several also in one text, with commas between.
            token: sent with each call.
            tls: encrypts the connections.
            timeout: seconds that a call has, all its attempts together, where it does not say it.
            wait_for_server: use that time also when nothing listens at any endpoint.

        Raises:
            ValueError: an endpoint is none.
        """
        self._channel = RoutedChannel(
            parse_endpoints(endpoints), token=token, tls=tls, timeout=timeout, wait_for_server=wait_for_server
        )
        self.kv = Kv(self._channel)
        self.leases = Leases(self._channel)
        self.nodes = Nodes(self._channel)
        self.tasks = Tasks(self._channel)
        self.topics = Topics(self._channel)
        self.watch = Watches(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls and watches under way end."""
        await self._channel.close()

    @property
    def channel(self) -> grpc.aio.Channel:
        """For stubs of services that have no group here; calls through it follow the leader in the same way.

        They take a request and a `timeout`.
        """
        return cast("grpc.aio.Channel", self._channel)

    @property
    def endpoint(self) -> str:
        """Where the next call goes: where the leader was last."""
        return self._channel.router.current

    async def server(self, *, timeout: float | None = None) -> admin_pb2.GetServerResponse:
        """What the server at `endpoint` is: its role, its store, how much it holds. Standbys answer, too."""
        stub: admin_pb2_grpc.AdminServiceAsyncStub = admin_pb2_grpc.AdminServiceStub(self.channel)
        return await stub.GetServer(admin_pb2.GetServerRequest(), timeout=timeout)
