"""`client.nodes`: who belongs to the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from atoll_control.api.v1 import node_pb2, node_pb2_grpc
from atoll_control.client._values import PAGE, goes_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    import grpc
    import grpc.aio

    from atoll_control.client._aio._channel import RoutedChannel


class Nodes:
    """Nodes. `timeout` is in seconds, for all attempts of a call together, and the client's when None."""

    def __init__(self, channel: RoutedChannel) -> None:
        """`AsyncClient` makes it."""
        self._stub: node_pb2_grpc.NodeServiceAsyncStub = node_pb2_grpc.NodeServiceStub(
            cast("grpc.aio.Channel", channel)
        )

    async def register(
        self,
        node_id: str,
        incarnation: int,
        *,
        address: str = "",
        host: node_pb2.Host | None = None,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, float] | None = None,
        conditions: Iterable[node_pb2.Condition] = (),
        timeout: float | None = None,
    ) -> node_pb2.RegisterResponse:
        """Makes a node a member. It must send heartbeats from then on, as often as the answer says.

        Args:
            node_id: keeps over restarts of the node.
            incarnation: rises with each start of the node; the time of its start in nanoseconds serves well.
            address: where the node itself can be reached, "host:port".
            host: facts of its machine.
            labels: by which nodes are found.
            resources: what it offers, by name.
            conditions: what is known of it.
            timeout: in seconds.

        Raises:
            ConflictError: the id is live at another address, or the incarnation is stale.
            ExhaustedError: the server keeps as many nodes as it may.
        """
        request = node_pb2.RegisterRequest(
            node_id=node_id,
            incarnation=incarnation,
            address=address,
            host=host,
            labels=labels,
            resources=resources,
            conditions=conditions,
        )
        return await self._stub.Register(request, timeout=timeout)

    async def unregister(
        self, node_id: str, incarnation: int, *, reason: str = "", timeout: float | None = None
    ) -> node_pb2.Node:
        """Says that a node leaves; what is known of it now: that it left or, if it had been marked so, that it is dead.

        Raises:
            ConflictError: another incarnation is registered.
            NotFoundError: no such node is known.
        """
        request = node_pb2.UnregisterRequest(node_id=node_id, incarnation=incarnation, reason=reason)
        answer = await self._stub.Unregister(request, timeout=timeout)
        return answer.node

    async def drain(self, node_id: str, *, reason: str = "", timeout: float | None = None) -> node_pb2.Node:
        """Says that a node is not to get new work; it stays alive.

        Raises:
            NotFoundError: no such node is alive.
        """
        request = node_pb2.DrainRequest(node_id=node_id, draining=True, reason=reason)
        answer = await self._stub.Drain(request, timeout=timeout)
        return answer.node

    async def undrain(self, node_id: str, *, timeout: float | None = None) -> node_pb2.Node:
        """Says that a node may get new work again.

        Raises:
            NotFoundError: no such node is alive.
        """
        answer = await self._stub.Drain(node_pb2.DrainRequest(node_id=node_id), timeout=timeout)
        return answer.node

    async def get(self, node_id: str, *, timeout: float | None = None) -> node_pb2.Node:
        """What is known of a node.

        Raises:
            NotFoundError: no such node is known.
        """
        answer = await self._stub.GetNode(node_pb2.GetNodeRequest(node_id=node_id), timeout=timeout)
        return answer.node

    async def list(
        self,
        *,
        states: Iterable[node_pb2.NodeState.ValueType] = (),
        labels: Mapping[str, str] | None = None,
        conditions: Mapping[str, node_pb2.ConditionStatus.ValueType] | None = None,
        draining: bool | None = None,
        page_size: int = PAGE,
        timeout: float | None = None,
    ) -> AsyncIterator[node_pb2.Node]:
        """Nodes in the order of their ids, read page by page as they are asked for; all filters must hold.

        Args:
            states: only nodes in one of these; any when empty.
            labels: only nodes with these labels.
            conditions: only nodes with these conditions, by name.
            draining: only nodes that are, or are not.
            page_size: at most this many at a time, up to 10,000.
            timeout: of a page, in seconds.
        """
        filters = [node_pb2.ConditionFilter(name=name, status=status) for name, status in (conditions or {}).items()]
        request = node_pb2.ListNodesRequest(
            states=states, labels=labels, conditions=filters, draining=draining, limit=page_size
        )
        more = True
        while more:
            page = await self._stub.ListNodes(request, timeout=timeout)
            for node in page.nodes:
                yield node
            if more := goes_on("ListNodes", more=page.more, page=page.nodes):
                request.start_after = page.nodes[-1].node_id

    async def set_conditions(
        self,
        node_id: str,
        conditions: Iterable[node_pb2.Condition],
        *,
        incarnation: int = 0,
        remove: Iterable[str] = (),
        timeout: float | None = None,
    ) -> node_pb2.Node:
        """Sets conditions of a node, and removes those named; others stay.

        Args:
            node_id: whose.
            conditions: up to 64.
            incarnation: only if it is this one; whichever is registered when 0.
            remove: names.
            timeout: in seconds.

        Raises:
            ConflictError: another incarnation is registered, or it is not alive.
            NotFoundError: no such node is known.
            UnknownOutcomeError: they may have been set.
        """
        request = node_pb2.SetConditionsRequest(
            node_id=node_id, incarnation=incarnation, conditions=conditions, remove=remove
        )
        answer = await self._stub.SetConditions(request, timeout=timeout)
        return answer.node

    async def endings(
        self, node_id: str = "", *, page_size: int = PAGE, timeout: float | None = None
    ) -> AsyncIterator[node_pb2.NodeEnding]:
        """Incarnations that died, left or were replaced, the newest first; of one node, or of all."""
        request = node_pb2.ListEndingsRequest(node_id=node_id, limit=page_size)
        more = True
        while more:
            page = await self._stub.ListEndings(request, timeout=timeout)
            for ending in page.endings:
                yield ending
            if more := goes_on("ListEndings", more=page.more, page=page.endings):
                request.before = page.endings[-1].revision
