# Made of _aio/leases.py by scripts/make_sync_client.py: change that, and run it.
"""`client.leases`: leases own keys, which vanish together when a lease is revoked or not kept alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from atoll_control.api.times import duration
from atoll_control.api.v1 import kv_pb2, kv_pb2_grpc
from atoll_control.client._values import PAGE, goes_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from atoll_control.client._sync._channel import RoutedChannel


class Leases:
    """Leases. `timeout` is in seconds, for all attempts of a call together, and the client's when None."""

    def __init__(self, channel: RoutedChannel) -> None:
        """`Client` makes it."""
        self._stub: kv_pb2_grpc.LeaseServiceStub = kv_pb2_grpc.LeaseServiceStub(cast("grpc.Channel", channel))

    def grant(self, ttl: float, *, description: str = "", timeout: float | None = None) -> kv_pb2.GrantLeaseResponse:
        """Makes a lease that ends `ttl` seconds (at least 1) after it was last kept alive, and not before.

        A lease of which the answer got lost is made again: the other one ends by itself.
        """
        request = kv_pb2.GrantLeaseRequest(ttl=duration(ttl), description=description)
        return self._stub.GrantLease(request, timeout=timeout)

    def keep_alive(self, lease_id: int, *, timeout: float | None = None) -> kv_pb2.KeepLeaseAliveResponse:
        """Gives a lease its whole time again. Call it every third of that, say.

        Raises:
            NotFoundError: it has ended, and its keys with it.
        """
        return self._stub.KeepLeaseAlive(kv_pb2.KeepLeaseAliveRequest(lease_id=lease_id), timeout=timeout)

    def revoke(self, lease_id: int, *, timeout: float | None = None) -> kv_pb2.RevokeLeaseResponse:
        """Ends a lease and removes its keys. One that has ended is no error; `revoked` of the answer tells."""
        return self._stub.RevokeLease(kv_pb2.RevokeLeaseRequest(lease_id=lease_id), timeout=timeout)

    def list(self, *, page_size: int = PAGE, timeout: float | None = None) -> Iterator[kv_pb2.Lease]:
        """All leases, read page by page as they are asked for."""
        request = kv_pb2.ListLeasesRequest(limit=page_size)
        more = True
        while more:
            page = self._stub.ListLeases(request, timeout=timeout)
            for lease in page.leases:
                yield lease
            if more := goes_on("ListLeases", more=page.more, page=page.leases):
                request.start_after = page.leases[-1].lease_id
