"""`client.kv`: the key-value store."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from atoll_control.api.times import duration
from atoll_control.api.v1 import kv_pb2, kv_pb2_grpc
from atoll_control.client._values import PAGE, as_bytes, goes_on, no_end
from atoll_control.client.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    import grpc
    import grpc.aio

    from atoll_control.client._aio._channel import RoutedChannel

# As many keys may be read at once.
_MAX_KEYS = 1_000


class Kv:
    """Keys and values. Keys and prefixes are bytes, or texts that stand for their UTF-8.

    Every method raises what `atoll_control.client.errors` has; `timeout` is in seconds, for all attempts of a call
    together, and the client's when None.
    """

    def __init__(self, channel: RoutedChannel) -> None:
        """`AsyncClient` makes it."""
        self._stub: kv_pb2_grpc.KvServiceAsyncStub = kv_pb2_grpc.KvServiceStub(cast("grpc.aio.Channel", channel))

    async def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        namespace: str = "",
        overwrite: bool = True,
        expected_revision: int | None = None,
        ttl: float | None = None,
        lease_id: int = 0,
        node: kv_pb2.NodeOwner | None = None,
        keep_owner: bool = False,
        return_previous: bool = False,
        timeout: float | None = None,
    ) -> kv_pb2.PutResponse:
        """Stores a value. `applied` of the answer says whether it was stored.

        Args:
            key: up to 1,024 bytes.
            value: up to 1 MiB.
            namespace: where the key is.
            overwrite: replace the value if the key exists.
            expected_revision: only if the key has this revision now; 0: only if it does not exist.
            ttl: the key vanishes after so many seconds without another put.
            lease_id: the key vanishes with this lease.
            node: the key vanishes with this incarnation of a node.
            keep_owner: what the key vanishes with stays.
            return_previous: answer with what was there before.
            timeout: in seconds.

        Raises:
            NotFoundError: the lease or the node has ended.
            UnknownOutcomeError: it may have been stored; never after a loss of the connection alone where it is
                conditional (`expected_revision`, or not `overwrite`) and was stored by another attempt.
            ValueError: more than one owner.
        """
        if sum((ttl is not None, lease_id != 0, node is not None, keep_owner)) > 1:
            raise ValueError("a key has one owner at most: give one of ttl, lease_id, node and keep_owner")
        request = kv_pb2.PutRequest(
            namespace=namespace,
            key=as_bytes(key),
            value=as_bytes(value),
            overwrite=overwrite,
            expected_revision=expected_revision,
            return_previous=return_previous,
        )
        if ttl is not None:
            request.ttl.CopyFrom(duration(ttl))
        elif lease_id:
            request.lease_id = lease_id
        elif node is not None:
            request.node.CopyFrom(node)
        elif keep_owner:
            request.keep_owner = True
        return await self._stub.Put(request, timeout=timeout)

    async def get(
        self, key: bytes | str, *, namespace: str = "", timeout: float | None = None
    ) -> kv_pb2.GetResponse | None:
        """The value of a key with its revision; None: there is no such key."""
        request = kv_pb2.GetRequest(namespace=namespace, key=as_bytes(key))
        try:
            return await self._stub.Get(request, timeout=timeout)
        except NotFoundError:
            return None

    async def get_many(
        self, keys: Iterable[bytes | str], *, namespace: str = "", timeout: float | None = None
    ) -> dict[bytes, kv_pb2.KeyValue]:
        """What is there under several keys. Up to 1,000 keys with 2 MiB are read at one revision."""
        wanted = [as_bytes(key) for key in keys]
        found: dict[bytes, kv_pb2.KeyValue] = {}
        while wanted:
            request = kv_pb2.MultiGetRequest(namespace=namespace, keys=wanted[:_MAX_KEYS])
            page = await self._stub.MultiGet(request, timeout=timeout)
            if not page.looked_at:
                raise no_end("MultiGet")
            found.update((entry.key, entry) for entry in page.entries)
            wanted = wanted[page.looked_at :]
        return found

    async def exists(self, key: bytes | str, *, namespace: str = "", timeout: float | None = None) -> bool:
        """Whether a key is there."""
        request = kv_pb2.ExistsRequest(namespace=namespace, key=as_bytes(key))
        answer = await self._stub.Exists(request, timeout=timeout)
        return answer.exists

    async def delete(
        self,
        key: bytes | str,
        *,
        namespace: str = "",
        expected_revision: int | None = None,
        return_previous: bool = False,
        timeout: float | None = None,
    ) -> kv_pb2.DeleteResponse:
        """Removes a key. `deleted` of the answer says whether it was there (with the expected revision).

        Raises:
            UnknownOutcomeError: it may have been removed.
        """
        request = kv_pb2.DeleteRequest(
            namespace=namespace,
            key=as_bytes(key),
            expected_revision=expected_revision,
            return_previous=return_previous,
        )
        return await self._stub.Delete(request, timeout=timeout)

    async def delete_prefix(self, prefix: bytes | str, *, namespace: str = "", timeout: float | None = None) -> int:
        """Removes all keys that start with a prefix, in one change; how many there were. Empty: the whole namespace.

        Raises:
            UnknownOutcomeError: they may have been removed.
        """
        request = kv_pb2.DeleteRequest(namespace=namespace, key=as_bytes(prefix), prefix=True)
        answer = await self._stub.Delete(request, timeout=timeout)
        return answer.count

    async def keys(
        self, prefix: bytes | str = b"", *, namespace: str = "", page_size: int = PAGE, timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        """The keys that start with a prefix, in the order of their bytes, read page by page as they are asked for.

        Keys that come or go meanwhile may be listed or not. `timeout` is for a page.
        """
        request = kv_pb2.KeysRequest(namespace=namespace, prefix=as_bytes(prefix), limit=page_size)
        more = True
        while more:
            page = await self._stub.Keys(request, timeout=timeout)
            for key in page.keys:
                yield key
            if more := goes_on("Keys", more=page.more, page=page.keys):
                request.start_after = page.keys[-1]

    async def scan(
        self, prefix: bytes | str = b"", *, namespace: str = "", page_size: int = PAGE, timeout: float | None = None
    ) -> AsyncIterator[kv_pb2.KeyValue]:
        """As `keys`, with the values."""
        request = kv_pb2.ScanRequest(namespace=namespace, prefix=as_bytes(prefix), limit=page_size)
        more = True
        while more:
            page = await self._stub.Scan(request, timeout=timeout)
            for entry in page.entries:
                yield entry
            if more := goes_on("Scan", more=page.more, page=page.entries):
                request.start_after = page.entries[-1].key

    async def namespaces(self, *, page_size: int = PAGE, timeout: float | None = None) -> AsyncIterator[str]:
        """The namespaces that have keys."""
        request = kv_pb2.ListNamespacesRequest(limit=page_size)
        more = True
        while more:
            page = await self._stub.ListNamespaces(request, timeout=timeout)
            for name in page.namespaces:
                yield name
            if more := goes_on("ListNamespaces", more=page.more, page=page.namespaces):
                request.start_after = page.namespaces[-1]

    async def transact(
        self,
        checks: Iterable[kv_pb2.TransactCheck],
        operations: Iterable[kv_pb2.PutRequest | kv_pb2.DeleteRequest],
        *,
        timeout: float | None = None,
    ) -> kv_pb2.TransactResponse:
        """Does all operations if all checks hold, otherwise none; `applied` of the answer says which.

        Args:
            checks: up to 64.
            operations: 1 to 64; of a put the value is stored, whatever it says of overwriting.
            timeout: in seconds.

        Raises:
            UnknownOutcomeError: it may have been done. Rare where a key that is changed is also checked: then the
                client may send it again. By its revision that is done once at most; a check that the key is not there
                may hold twice, if somebody else deletes it in between.
        """
        request = kv_pb2.TransactRequest(checks=checks)
        for operation in operations:
            if isinstance(operation, kv_pb2.PutRequest):
                request.operations.add(put=operation)
            else:
                request.operations.add(delete=operation)
        return await self._stub.Transact(request, timeout=timeout)
