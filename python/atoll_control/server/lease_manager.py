"""`LeaseManager`: leases, and the keys that vanish with them.

Owns the table `leases`: one row per lease, which the lease owns itself, so that one `delete_owned` ends the lease and
all that goes with it, in one revision. Deadlines are in memory, by the loop's clock: after a restart each lease has its
whole time again, so a lease never ends early.

A key with a TTL has a private lease of its own, which nobody lists or keeps alive.

Only the loop of `KvManager`, which it shares, enters it.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING, Final, Protocol, TypeVarTuple

import grpc
import grpc.aio
import structlog

from atoll import IoContext
from atoll.errors import OutcomeUnknownError, StoreError
from atoll_control.api.times import duration, seconds
from atoll_control.api.v1 import kv_pb2, kv_pb2_grpc
from atoll_control.server.calls import answer, check
from atoll_control.server.owner_end import commit_end
from atoll_control.server.owners import is_private, lease_owner
from atoll_control.server.pages import DEFAULT_PAGE
from atoll_control.server.tables import LEASES

if TYPE_CHECKING:
    import random  # noqa: TID251 - the type of the loop's own
    from collections.abc import Callable, Iterable

    from atoll.store import Store, StoreBatch, StoreCommitted

_log = structlog.get_logger("atoll_control.lease_manager")

Ts = TypeVarTuple("Ts")

# An end that the store did not take is tried again after this many seconds.
RETRY_AFTER: Final = 1.0
# Deadlines of leases that are gone may wait in the heap until they outnumber the others by this many.
_SPARE_DEADLINES: Final = 1_000
_KEY_BYTES: Final = 8


class Loop(Protocol):
    """The part of an `IoContext` that is used."""

    @property
    def random(self) -> random.Random:
        """Where numbers of leases come from."""
        ...

    def now(self) -> float:
        """Seconds by a clock that never goes back."""
        ...

    def post(
        self, handler: Callable[[*Ts], object], /, *args: *Ts, name: str | None = None, delay: float = 0.0
    ) -> None:
        """Runs `handler(*args)` on the loop after `delay` seconds."""
        ...


class LeaseManager(kv_pb2_grpc.LeaseServiceServicer):
    """The module behind `LeaseService`. See this file's first lines for its rules."""

    def __init__(self, store: Store, *, io_context: Loop | None = None) -> None:
        """Takes over the leases that the store has.

        Args:
            store: with the table `leases`.
            io_context: where time and numbers come from; the loop that this is called on when None.
        """
        self._store = store
        self._io_context: Loop = io_context or IoContext.current()
        # Each lease and when it ends; the heap may have older, earlier deadlines of it, too.
        self._deadlines: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []
        self._ttls: dict[int, float] = {}
        self._stopped = False
        self._timer_due = float("inf")

    async def start(self) -> None:
        """Gives every lease its whole time."""
        start = b""
        while True:
            page = self._store.scan(LEASES, start)
            for row in page.rows:
                lease = kv_pb2.Lease.FromString(row.value)
                self.keep(lease.lease_id, seconds(lease.ttl))
            if not page.more:
                return
            start = page.rows[-1].key + b"\0"

    async def stop(self) -> None:
        """Nothing ends any more."""
        self._stopped = True

    # -- for KvManager -------------------------------------------------------------------------------------------------

    def add_private(self, batch: StoreBatch, ttl: float) -> int:
        """Adds a lease for one key to a batch, and starts its time; its number.

        When the batch is not committed, `forget()` it; if nobody can tell, its end finds nothing to delete.
        """
        lease_id = self._new_id(private=True)
        self._add(batch, kv_pb2.Lease(lease_id=lease_id, ttl=duration(ttl)))
        self.keep(lease_id, ttl)
        return lease_id

    def forget(self, lease_ids: Iterable[int]) -> None:
        """Leases that are not there, or no longer: nobody has to end them."""
        for lease_id in lease_ids:
            self._deadlines.pop(lease_id, None)
            self._ttls.pop(lease_id, None)
        if len(self._heap) > 2 * len(self._deadlines) + _SPARE_DEADLINES:
            self._heap = [(deadline, lease_id) for lease_id, deadline in self._deadlines.items()]
            heapq.heapify(self._heap)

    def keep(self, lease_id: int, ttl: float) -> None:
        """Gives a lease its whole time, from now on."""
        deadline = self._io_context.now() + ttl
        self._ttls[lease_id] = ttl
        if lease_id not in self._deadlines or deadline < self._deadlines[lease_id]:
            heapq.heappush(self._heap, (deadline, lease_id))
        self._deadlines[lease_id] = deadline
        self._set_timer()

    def waiting(self) -> tuple[int, int]:
        """How many leases have a deadline, and how many of them are private ones."""
        return len(self._deadlines), sum(is_private(lease_id) for lease_id in self._deadlines)

    # -- deadlines -----------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._heap and self._heap[0][0] < self._timer_due:
            self._timer_due = self._heap[0][0]
            delay = max(0.0, self._timer_due - self._io_context.now())
            self._io_context.post(self._on_timer, self._timer_due, name="LeaseManager.expire", delay=delay)

    async def _on_timer(self, due: float) -> None:
        if self._stopped or due != self._timer_due:
            return
        self._timer_due = float("inf")
        now = self._io_context.now()
        expired: list[int] = []
        while self._heap and self._heap[0][0] <= now:
            _, lease_id = heapq.heappop(self._heap)
            deadline = self._deadlines.get(lease_id)
            if deadline is None:
                continue
            if deadline > now:
                heapq.heappush(self._heap, (deadline, lease_id))
                continue
            # From here on it can't be kept alive, however long the store takes.
            self._ttls.pop(lease_id, None)
            expired.append(lease_id)
        self._set_timer()
        await asyncio.gather(*(self._expire(lease_id) for lease_id in expired))

    async def _expire(self, lease_id: int) -> None:
        """Ends a lease whose time is over."""
        try:
            _, deleted = await self._end(lease_id)
        except StoreError as problem:
            _log.warning("lease_not_ended", lease_id=lease_id, problem=str(problem), retry_after=RETRY_AFTER)
            self._deadlines[lease_id] = deadline = self._io_context.now() + RETRY_AFTER
            heapq.heappush(self._heap, (deadline, lease_id))
            self._set_timer()
            return
        _log.info("lease_expired", lease_id=lease_id, rows_deleted=deleted)

    async def _end(self, lease_id: int) -> tuple[StoreCommitted, int]:
        """Ends a lease; what came of it, and how many rows have gone."""
        committed, gone = await commit_end(self._store, lease_owner(lease_id), self._store.batch)
        self.forget([lease_id])
        return committed, gone

    # -- LeaseService --------------------------------------------------------------------------------------------------

    async def GrantLease(
        self,
        request: kv_pb2.GrantLeaseRequest,
        context: grpc.aio.ServicerContext[kv_pb2.GrantLeaseRequest, kv_pb2.GrantLeaseResponse],
    ) -> kv_pb2.GrantLeaseResponse:
        """Makes a lease."""
        await check(request, context)
        return await answer(self._grant(request), context)

    async def _grant(self, request: kv_pb2.GrantLeaseRequest) -> kv_pb2.GrantLeaseResponse:
        lease_id = self._new_id(private=False)
        batch = self._store.batch().check_absent(LEASES, lease_key(lease_id))
        self._add(batch, kv_pb2.Lease(lease_id=lease_id, ttl=request.ttl, description=request.description))
        # Its time runs from before, so that it runs also if nobody waits for the outcome; and anew from now on.
        self.keep(lease_id, seconds(request.ttl))
        try:
            committed = await self._store.commit(batch)
        except OutcomeUnknownError:
            raise
        except StoreError:
            self.forget([lease_id])
            raise
        self.keep(lease_id, seconds(request.ttl))
        return kv_pb2.GrantLeaseResponse(lease_id=lease_id, ttl=request.ttl, revision=committed.revision)

    async def KeepLeaseAlive(
        self,
        request: kv_pb2.KeepLeaseAliveRequest,
        context: grpc.aio.ServicerContext[kv_pb2.KeepLeaseAliveRequest, kv_pb2.KeepLeaseAliveResponse],
    ) -> kv_pb2.KeepLeaseAliveResponse:
        """Gives a lease its whole time again."""
        await check(request, context)
        ttl = self._ttls.get(request.lease_id)
        if ttl is None or self._store.get(LEASES, lease_key(request.lease_id)) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"lease {request.lease_id} has ended, and its keys with it")
        self.keep(request.lease_id, ttl)
        return kv_pb2.KeepLeaseAliveResponse(ttl=duration(ttl))

    async def RevokeLease(
        self,
        request: kv_pb2.RevokeLeaseRequest,
        context: grpc.aio.ServicerContext[kv_pb2.RevokeLeaseRequest, kv_pb2.RevokeLeaseResponse],
    ) -> kv_pb2.RevokeLeaseResponse:
        """Ends a lease and removes its keys."""
        await check(request, context)
        committed, deleted = await answer(self._end(request.lease_id), context)
        return kv_pb2.RevokeLeaseResponse(
            revoked=deleted > 0, keys_deleted=max(0, deleted - 1), revision=committed.revision
        )

    async def ListLeases(
        self,
        request: kv_pb2.ListLeasesRequest,
        context: grpc.aio.ServicerContext[kv_pb2.ListLeasesRequest, kv_pb2.ListLeasesResponse],
    ) -> kv_pb2.ListLeasesResponse:
        """Lists leases in the order of their numbers."""
        await check(request, context)
        limit = request.limit or DEFAULT_PAGE
        found: list[kv_pb2.Lease] = []
        start = lease_key(request.start_after) + b"\0"
        now = self._io_context.now()
        while True:
            page = self._store.scan(LEASES, start, limit=limit)
            for row in page.rows:
                if is_private(int.from_bytes(row.key, "big")):
                    continue
                lease = kv_pb2.Lease.FromString(row.value)
                if len(found) == limit:
                    return kv_pb2.ListLeasesResponse(leases=found, more=True)
                left = self._deadlines.get(lease.lease_id, now) - now
                lease.remaining.CopyFrom(duration(max(0.0, left)))
                lease.keys = max(0, len(self._store.owned(lease_owner(lease.lease_id))) - 1)
                found.append(lease)
            if not page.more:
                return kv_pb2.ListLeasesResponse(leases=found)
            start = page.rows[-1].key + b"\0"
            # There may be many private ones between.
            await asyncio.sleep(0)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _new_id(self, *, private: bool) -> int:
        # Up to 2**63, so that languages without unsigned numbers can show it; never 0. The last bit tells whose it is.
        return (self._io_context.random.getrandbits(62) + 1) * 2 - (0 if private else 1)

    def _add(self, batch: StoreBatch, lease: kv_pb2.Lease) -> None:
        owner = lease_owner(lease.lease_id)
        batch.put(LEASES, lease_key(lease.lease_id), lease.SerializeToString(), owner)


def lease_key(lease_id: int) -> bytes:
    """Under which key a lease is stored."""
    return lease_id.to_bytes(_KEY_BYTES, "big")
