"""`KvManager`: the key-value store.

Owns the table `kv`, whose rows are named by namespace and key. Only its own loop enters it. Reads are answered from
memory at once; a change is one batch with the checks that it needs, so that nothing is awaited between looking and
changing: who decides is the store, in one order for everybody.

What a key vanishes with is the row's owner: a lease, of which a TTL is a private one, or an incarnation of a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from atoll.errors import OutcomeUnknownError, OwnerFullError, StoreError
from atoll_control.api.times import seconds
from atoll_control.api.v1 import kv_pb2, kv_pb2_grpc
from atoll_control.server.calls import RefusedError, answer, check, check_rules, refuse
from atoll_control.server.lease_manager import lease_key
from atoll_control.server.node_records import ALIVE, node_of
from atoll_control.server.owners import incarnation_of, is_private, lease_of, lease_owner, node_owner, shown_lease
from atoll_control.server.pages import DEFAULT_PAGE, MAX_PAGE_BYTES
from atoll_control.server.tables import KV, LEASES, NODES

if TYPE_CHECKING:
    from atoll.store import Store, StoreBatch, StoreCommitted, StoreRow, StoreStatistics
    from atoll_control.server.lease_manager import LeaseManager

# What a key costs beside the bytes of key and value, roughly.
ENTRY_OVERHEAD_BYTES: Final = 256
# How much may be written before the store is asked anew how much it holds.
_USAGE_STEP_BYTES: Final = 1 << 20
# How often a change that looks first is tried again when what it saw has changed meanwhile.
_MAX_ATTEMPTS: Final = 16


@dataclass(frozen=True, kw_only=True)
class KvSettings:
    """How much is stored.

    Attributes:
        max_total_bytes: what all keys and values together may take, with an estimate of each entry's overhead.
    """

    max_total_bytes: int = 512 << 20

    def __post_init__(self) -> None:
        if self.max_total_bytes < 1:
            message = f"max_total_bytes: must be at least 1, got {self.max_total_bytes}"
            raise ValueError(message)


@dataclass(slots=True)
class _Plan:
    """A change that is being put together.

    Attributes:
        batch: what is to be committed.
        missing: by the number of a check what is missing when it does not hold.
        private_leases: those that the batch makes, with their time in seconds.
        dropped_leases: private ones whose key the batch takes away from them.
        checks: how many the batch has.
    """

    batch: StoreBatch
    missing: dict[int, str]
    private_leases: dict[int, float]
    dropped_leases: list[int]
    checks: int = 0


class KvManager(kv_pb2_grpc.KvServiceServicer):
    """The module behind `KvService`. See this file's first lines for its rules."""

    def __init__(self, store: Store, leases: LeaseManager, settings: KvSettings | None = None) -> None:
        """Works on what the store holds.

        Args:
            store: with the tables `kv`, `leases` and `nodes`.
            leases: on the same loop.
            settings: how much is stored.
        """
        self._store = store
        self._leases = leases
        self._settings = settings or KvSettings()
        # What the store held when it was last asked, what has been let in since, and what of that it may not know yet.
        self._used = 0
        self._used_since = 0
        self._in_flight = 0
        self._look_at_usage()

    # -- KvService -----------------------------------------------------------------------------------------------------

    async def Get(
        self,
        request: kv_pb2.GetRequest,
        context: grpc.aio.ServicerContext[kv_pb2.GetRequest, kv_pb2.GetResponse],
    ) -> kv_pb2.GetResponse:
        """Reads a value."""
        # As `check` and `answer` do it, without a coroutine for each: this is the call that is made most.
        try:
            check_rules(request)
            return self._get(request)
        except (RefusedError, StoreError) as reason:
            await refuse(reason, context)

    async def MultiGet(
        self,
        request: kv_pb2.MultiGetRequest,
        context: grpc.aio.ServicerContext[kv_pb2.MultiGetRequest, kv_pb2.MultiGetResponse],
    ) -> kv_pb2.MultiGetResponse:
        """Reads several values."""
        await check(request, context)
        return await answer(self._multi_get(request), context)

    async def Exists(
        self,
        request: kv_pb2.ExistsRequest,
        context: grpc.aio.ServicerContext[kv_pb2.ExistsRequest, kv_pb2.ExistsResponse],
    ) -> kv_pb2.ExistsResponse:
        """Whether a key is there."""
        await check(request, context)
        return await answer(self._exists(request), context)

    async def Keys(
        self,
        request: kv_pb2.KeysRequest,
        context: grpc.aio.ServicerContext[kv_pb2.KeysRequest, kv_pb2.KeysResponse],
    ) -> kv_pb2.KeysResponse:
        """Lists keys."""
        await check(request, context)
        return await answer(self._keys(request), context)

    async def Scan(
        self,
        request: kv_pb2.ScanRequest,
        context: grpc.aio.ServicerContext[kv_pb2.ScanRequest, kv_pb2.ScanResponse],
    ) -> kv_pb2.ScanResponse:
        """Lists keys with their values."""
        await check(request, context)
        return await answer(self._scan(request), context)

    async def ListNamespaces(
        self,
        request: kv_pb2.ListNamespacesRequest,
        context: grpc.aio.ServicerContext[kv_pb2.ListNamespacesRequest, kv_pb2.ListNamespacesResponse],
    ) -> kv_pb2.ListNamespacesResponse:
        """Lists the namespaces that have keys."""
        await check(request, context)
        return await answer(self._list_namespaces(request), context)

    async def Put(
        self,
        request: kv_pb2.PutRequest,
        context: grpc.aio.ServicerContext[kv_pb2.PutRequest, kv_pb2.PutResponse],
    ) -> kv_pb2.PutResponse:
        """Stores a value."""
        # See `Get`.
        try:
            check_rules(request)
            return await self._put(request)
        except (RefusedError, StoreError) as reason:
            await refuse(reason, context)

    async def Delete(
        self,
        request: kv_pb2.DeleteRequest,
        context: grpc.aio.ServicerContext[kv_pb2.DeleteRequest, kv_pb2.DeleteResponse],
    ) -> kv_pb2.DeleteResponse:
        """Removes keys."""
        await check(request, context)
        return await answer(self._delete(request), context)

    async def Transact(
        self,
        request: kv_pb2.TransactRequest,
        context: grpc.aio.ServicerContext[kv_pb2.TransactRequest, kv_pb2.TransactResponse],
    ) -> kv_pb2.TransactResponse:
        """Does several operations, or none."""
        await check(request, context)
        return await answer(self._transact(request), context)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _get(self, request: kv_pb2.GetRequest) -> kv_pb2.GetResponse:
        row = self._store.get(KV, row_key(request.namespace, request.key))
        if row is None:
            missing = f"namespace {request.namespace!r} has no key {request.key!r}"
            raise RefusedError(grpc.StatusCode.NOT_FOUND, missing)
        response = kv_pb2.GetResponse(
            value=row.value, revision=row.revision, create_revision=row.created, version=row.version
        )
        if owner := row.owner:
            response.lease_id = shown_lease(owner)
            response.node_id, response.incarnation = incarnation_of(owner)
        return response

    async def _multi_get(self, request: kv_pb2.MultiGetRequest) -> kv_pb2.MultiGetResponse:
        keys = [row_key(request.namespace, key) for key in request.keys]
        # Before the rows: they contain at least what this says.
        response = kv_pb2.MultiGetResponse(revision=self._store.revision)
        size = 0
        for row in self._store.get_many(KV, keys):
            if row is not None:
                entry = self._entry(request.namespace, row)
                size += entry.ByteSize()
                if response.entries and size > MAX_PAGE_BYTES:
                    break
                response.entries.append(entry)
            response.looked_at += 1
        return response

    async def _exists(self, request: kv_pb2.ExistsRequest) -> kv_pb2.ExistsResponse:
        row = self._store.get(KV, row_key(request.namespace, request.key))
        return kv_pb2.ExistsResponse(exists=row is not None, revision=0 if row is None else row.revision)

    async def _keys(self, request: kv_pb2.KeysRequest) -> kv_pb2.KeysResponse:
        rows, more, revision = self._page(request)
        cut = len(row_key(request.namespace, b""))
        keys: list[bytes] = []
        size = 0
        for row in rows:
            if size >= MAX_PAGE_BYTES:
                more = True
                break
            keys.append(row.key[cut:])
            size += len(keys[-1])
        return kv_pb2.KeysResponse(keys=keys, more=more, revision=revision)

    async def _scan(self, request: kv_pb2.ScanRequest) -> kv_pb2.ScanResponse:
        rows, more, revision = self._page(request)
        response = kv_pb2.ScanResponse(more=more, revision=revision)
        size = 0
        for row in rows:
            entry = self._entry(request.namespace, row)
            size += entry.ByteSize()
            if response.entries and size > MAX_PAGE_BYTES:
                response.more = True
                break
            response.entries.append(entry)
        return response

    async def _list_namespaces(self, request: kv_pb2.ListNamespacesRequest) -> kv_pb2.ListNamespacesResponse:
        """One look per namespace."""
        limit = request.limit or DEFAULT_PAGE
        found: list[str] = []
        start = _after_namespace(request.start_after) if request.start_after else b""
        while rows := self._store.scan(KV, start, limit=1).rows:
            if len(found) == limit:
                return kv_pb2.ListNamespacesResponse(namespaces=found, more=True)
            found.append(address_of(rows[0].key)[0])
            start = _after_namespace(found[-1])
        return kv_pb2.ListNamespacesResponse(namespaces=found)

    # -- changing ------------------------------------------------------------------------------------------------------

    async def _put(self, request: kv_pb2.PutRequest) -> kv_pb2.PutResponse:
        key = row_key(request.namespace, request.key)
        row = self._store.get(KV, key)
        taken = self._take_room(_growth(request, key, row))
        try:
            for attempt in range(_MAX_ATTEMPTS):
                if attempt:
                    row = self._store.get(KV, key)
                plan = self._new_plan()
                condition = self._add_condition(plan, request, key)
                self._add_put(plan, request, key, row)
                committed = await self._commit(plan)
                if committed.applied:
                    before = committed.previous[-1]
                    response = kv_pb2.PutResponse(added=before is None, revision=committed.revision, applied=True)
                    if request.return_previous and before is not None:
                        response.previous.CopyFrom(self._entry(request.namespace, before, request.key))
                    return response
                if committed.failed_check == condition:
                    # Whoever may not overwrite is told what is there.
                    found = committed.found
                    return kv_pb2.PutResponse(revision=0 if found is None else found.revision)
        finally:
            self._in_flight -= taken
        raise RefusedError(grpc.StatusCode.UNAVAILABLE, "others changed the key at the same time: try again")

    async def _delete(self, request: kv_pb2.DeleteRequest) -> kv_pb2.DeleteResponse:
        _check_delete(request)
        plan = self._new_plan()
        if request.HasField("expected_revision"):
            key = row_key(request.namespace, request.key)
            plan.batch.check_revision(KV, key, request.expected_revision)
            plan.checks += 1
        self._add_delete(plan, request)
        committed = await self._commit(plan)
        if not committed.applied:
            return kv_pb2.DeleteResponse(revision=committed.revision)
        count = committed.deleted[-1]
        response = kv_pb2.DeleteResponse(deleted=count > 0, revision=committed.revision, count=count)
        before = committed.previous[-1]
        if request.return_previous and before is not None:
            response.previous.CopyFrom(self._entry(request.namespace, before, request.key))
        return response

    async def _transact(self, request: kv_pb2.TransactRequest) -> kv_pb2.TransactResponse:
        for number, operation in enumerate(request.operations):
            if operation.HasField("delete"):
                _check_delete(operation.delete, f"operations[{number}].delete.")
        taken = self._take_room(sum(map(self._growth_of, request.operations)))
        try:
            for _ in range(_MAX_ATTEMPTS):
                plan = self._new_plan()
                for wanted in request.checks:
                    key = row_key(wanted.namespace, wanted.key)
                    if wanted.exists:
                        plan.batch.check_exists(KV, key)
                    else:
                        plan.batch.check_revision(KV, key, wanted.revision)
                    plan.checks += 1
                for operation in request.operations:
                    if operation.HasField("put"):
                        key = row_key(operation.put.namespace, operation.put.key)
                        self._add_put(plan, operation.put, key, self._store.get(KV, key))
                    else:
                        self._add_delete(plan, operation.delete)
                committed = await self._commit(plan)
                failed = committed.failed_check
                if failed is None:
                    return kv_pb2.TransactResponse(applied=True, revision=committed.revision)
                if failed < len(request.checks):
                    return self._failed(request.checks[failed], failed, committed)
        finally:
            self._in_flight -= taken
        raise RefusedError(grpc.StatusCode.UNAVAILABLE, "others changed the keys at the same time: try again")

    def _failed(self, wanted: kv_pb2.TransactCheck, number: int, committed: StoreCommitted) -> kv_pb2.TransactResponse:
        response = kv_pb2.TransactResponse(revision=committed.revision, failed_check=number)
        if (found := committed.found) is not None:
            response.found.CopyFrom(self._entry(wanted.namespace, found, wanted.key))
        return response

    # -- putting changes together --------------------------------------------------------------------------------------

    def _new_plan(self) -> _Plan:
        return _Plan(self._store.batch(), {}, {}, [])

    async def _commit(self, plan: _Plan) -> StoreCommitted:
        """Commits a plan. Its leases' time runs from before, so that it runs also if nobody waits for the outcome."""
        new, old = plan.private_leases, plan.dropped_leases
        try:
            committed = await self._store.commit(plan.batch)
        except OutcomeUnknownError:
            raise
        except StoreError as problem:
            self._leases.forget(new)
            if not isinstance(problem, OwnerFullError):
                raise
            full = f"{problem}: grant several leases, also for keys that would be a node's"
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, full) from problem
        failed = committed.failed_check
        if failed is None:
            self._leases.forget(old)
            for lease_id, ttl in new.items():
                self._leases.keep(lease_id, ttl)
            return committed
        self._leases.forget(new)
        if failed in plan.missing:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, plan.missing[failed])
        return committed

    @staticmethod
    def _add_condition(plan: _Plan, request: kv_pb2.PutRequest, key: bytes) -> int | None:
        """What a put asks of the key; the number of the check."""
        if request.HasField("expected_revision"):
            plan.batch.check_revision(KV, key, request.expected_revision)
        elif not request.overwrite:
            plan.batch.check_absent(KV, key)
        else:
            return None
        plan.checks += 1
        return plan.checks - 1

    def _add_put(self, plan: _Plan, request: kv_pb2.PutRequest, key: bytes, row: StoreRow | None) -> None:
        """The last operation that it adds is the put itself; `row` is what is there."""
        owner = b""
        chosen = request.WhichOneof("owner")
        if chosen == "keep_owner" and request.keep_owner:
            owner = b"" if row is None else row.owner
            # The owner is that of the row that was seen.
            plan.batch.check_revision(KV, key, 0 if row is None else row.revision)
            plan.checks += 1
        elif chosen == "ttl":
            ttl = seconds(request.ttl)
            lease_id = self._leases.add_private(plan.batch, ttl)
            plan.private_leases[lease_id] = ttl
            owner = lease_owner(lease_id)
        elif chosen == "lease_id":
            self._add_lease_check(plan, request.lease_id)
            owner = lease_owner(request.lease_id)
        elif chosen == "node":
            self._add_node_check(plan, request.node)
            owner = node_owner(request.node.node_id, request.node.incarnation)
        if row is not None and row.owner != owner:
            self._drop_private(plan, row.owner)
        plan.batch.put(KV, key, request.value, owner)

    def _drop_private(self, plan: _Plan, owner: bytes) -> None:
        """The key of a private lease goes, or gets another owner: the lease goes with it."""
        lease_id = lease_of(owner)
        if lease_id and is_private(lease_id):
            plan.batch.delete(LEASES, lease_key(lease_id))
            plan.dropped_leases.append(lease_id)

    def _add_lease_check(self, plan: _Plan, lease_id: int) -> None:
        if is_private(lease_id):
            raise RefusedError(grpc.StatusCode.NOT_FOUND, f"lease_id: there is no lease {lease_id}")
        plan.batch.check_exists(LEASES, lease_key(lease_id))
        plan.missing[plan.checks] = f"lease_id: there is no lease {lease_id}, or it has ended"
        plan.checks += 1

    def _add_node_check(self, plan: _Plan, owner: kv_pb2.NodeOwner) -> None:
        node_id = owner.node_id.encode()
        row = self._store.get(NODES, node_id)
        node = None if row is None else node_of(row)
        missing = f"node: incarnation {owner.incarnation} of node {owner.node_id!r} is not alive, or not registered"
        if row is None or node is None or node.incarnation != owner.incarnation or node.state != ALIVE:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, missing)
        # If the node changes meanwhile, it is looked at again.
        plan.batch.check_revision(NODES, node_id, row.revision)
        plan.checks += 1

    def _add_delete(self, plan: _Plan, request: kv_pb2.DeleteRequest) -> None:
        """The last operation that it adds is the deletion itself. Private leases of a prefix end by themselves."""
        key = row_key(request.namespace, request.key)
        if request.prefix:
            plan.batch.delete_range(KV, key, after_prefix(key))
        else:
            row = self._store.get(KV, key)
            if row is not None:
                self._drop_private(plan, row.owner)
            plan.batch.delete(KV, key)

    # -- pages and entries ---------------------------------------------------------------------------------------------

    def _page(self, request: kv_pb2.KeysRequest | kv_pb2.ScanRequest) -> tuple[list[StoreRow], bool, int]:
        begin = row_key(request.namespace, request.prefix)
        end = after_prefix(begin)
        start = begin
        if request.start_after:
            start = max(begin, row_key(request.namespace, request.start_after) + b"\0")
        page = self._store.scan(KV, start, end, request.limit or DEFAULT_PAGE)
        return page.rows, page.more, page.revision

    def _entry(self, namespace: str, row: StoreRow, key: bytes | None = None) -> kv_pb2.KeyValue:
        return entry_of(namespace, address_of(row.key)[1] if key is None else key, row)

    # -- room ----------------------------------------------------------------------------------------------------------

    def _take_room(self, growth: int) -> int:
        """Keeps room for what is put; what it returns is taken off `_in_flight` when the store knows of it.

        Raises:
            RefusedError: there is not enough.
        """
        if growth <= 0:
            return 0
        limit = self._settings.max_total_bytes
        if self._used + self._used_since + growth > limit or self._used_since > _USAGE_STEP_BYTES:
            self._look_at_usage()
        if (used := self._used + self._used_since) + growth > limit:
            full = (
                f"the store is full: it holds {used:,} of at most {limit:,} bytes and this call would add "
                f"{growth:,}; delete keys, or start the server with a larger --max-kv-bytes"
            )
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, full)
        self._used_since += growth
        self._in_flight += growth
        return growth

    def _growth_of(self, operation: kv_pb2.TransactOperation) -> int:
        if not operation.HasField("put"):
            return 0
        key = row_key(operation.put.namespace, operation.put.key)
        return _growth(operation.put, key, self._store.get(KV, key))

    def _look_at_usage(self) -> None:
        _, self._used = usage_of(self._store.statistics())
        self._used_since = self._in_flight


def usage_of(statistics: StoreStatistics) -> tuple[int, int]:
    """How many keys there are, and how many bytes they and their values take as `max_total_bytes` counts them."""
    keys, size = next((keys, size) for name, keys, size in statistics.tables if name == KV)
    return keys, size + keys * ENTRY_OVERHEAD_BYTES


def _growth(put: kv_pb2.PutRequest, key: bytes, row: StoreRow | None) -> int:
    """How many bytes more there will be; `row` is what is there."""
    if row is not None:
        return len(put.value) - len(row.value)
    return len(key) + len(put.value) + ENTRY_OVERHEAD_BYTES


def _check_delete(request: kv_pb2.DeleteRequest, path: str = "") -> None:
    problem = None
    if not request.key and not request.prefix:
        problem = "key: is required, unless prefix is set"
    elif request.prefix and request.HasField("expected_revision"):
        problem = "expected_revision: is for one key; leave it out, or prefix"
    elif request.prefix and request.return_previous:
        problem = "return_previous: is for one key; leave it out, or prefix"
    if problem is not None:
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, path + problem)


# -- addresses ---------------------------------------------------------------------------------------------------------


def row_key(namespace: str, key: bytes) -> bytes:
    """Under which key of the table a key of a namespace is stored.

    Raises:
        RefusedError: the namespace has a zero byte, which ends a namespace here.
    """
    if "\0" in namespace:
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "namespace: must not have a zero byte")
    return b"%s\0%s" % (namespace.encode(), key)


def address_of(stored: bytes) -> tuple[str, bytes]:
    """The namespace and the key of a row."""
    namespace, _, key = stored.partition(b"\0")
    return namespace.decode(), key


def after_prefix(prefix: bytes) -> bytes | None:
    """The first key after all that start with `prefix`; None when there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def _after_namespace(namespace: str) -> bytes:
    return namespace.encode() + b"\1"


def entry_of(namespace: str, key: bytes, row: StoreRow) -> kv_pb2.KeyValue:
    """A row as clients see it."""
    node_id, incarnation = incarnation_of(row.owner)
    return kv_pb2.KeyValue(
        namespace=namespace,
        key=key,
        value=row.value,
        revision=row.revision,
        create_revision=row.created,
        version=row.version,
        lease_id=shown_lease(row.owner),
        node_id=node_id,
        incarnation=incarnation,
    )
