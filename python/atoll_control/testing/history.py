"""Clients of several servers under load, and a checker of what they saw.

Each writer has a key of its own and counts it up with compare-and-set, so the right history of a key is known: 1, 2, 3
and so on, each once. Readers and a watcher look on meanwhile. Afterwards `History.problems` names what may not be:

* a write that was acknowledged is lost, or happened twice;
* a read that is older than what was acknowledged before it began, or than what the same reader had read before;
* a watch with a gap, a change twice, or changes in another order.
"""

from __future__ import annotations

import contextlib
import itertools
import threading  # noqa: TID251 - clients have threads of their own
import time  # noqa: TID251 - and the time of their machine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from atoll_control.api.v1 import kv_pb2, kv_pb2_grpc, watch_pb2, watch_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

T = TypeVar("T")

NAMESPACE = "history"
ATTEMPT_TIMEOUT = 2.0
# Seconds that the watch gets for the changes that it has not told when the writers have ended.
LAST_CHANGE_TIMEOUT = 30.0


class Cluster:
    """How one client finds the leader: by what standbys say, or one after the other.

    Attributes:
        address: where the leader is thought to be.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._channels = {address: _channel(address) for address in addresses}
        self._addresses = list(addresses)
        self.address = addresses[0]

    def call(self, call: Callable[[grpc.Channel], T]) -> T:
        """Calls where the leader is thought to be; looks elsewhere next time when that fails."""
        try:
            return call(self._channels[self.address])
        except grpc.RpcError as error:
            self.look_elsewhere(error)
            raise

    def put(self, request: kv_pb2.PutRequest) -> kv_pb2.PutResponse:
        """Stores a value."""
        return self.call(lambda channel: kv_pb2_grpc.KvServiceStub(channel).Put(request, timeout=ATTEMPT_TIMEOUT))

    def get(self, request: kv_pb2.GetRequest) -> kv_pb2.GetResponse:
        """Reads a value."""
        return self.call(lambda channel: kv_pb2_grpc.KvServiceStub(channel).Get(request, timeout=ATTEMPT_TIMEOUT))

    def look_elsewhere(self, error: Any) -> None:  # noqa: ANN401 - what grpcio raises has no type of its own
        """Goes where a standby has pointed to, or to the next address."""
        hint = dict(error.trailing_metadata() or ()).get("atoll-leader")
        if hint in self._channels and hint != self.address:
            self.address = hint
        else:
            self.address = self._addresses[(self._addresses.index(self.address) + 1) % len(self._addresses)]

    def close(self) -> None:
        """Ends the connections."""
        for channel in self._channels.values():
            channel.close()


def _channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(
        address,
        # A server that comes back is found soon.
        options=(("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300)),
    )


@dataclass
class History:
    """What the clients saw."""

    addresses: Sequence[str]
    writers: int = 4
    readers: int = 2
    acknowledged: dict[bytes, int] = field(default_factory=dict)
    acknowledgements: list[tuple[float, str]] = field(default_factory=list)
    """When each came, by the monotonic clock, and from which address."""
    unknown: int = 0
    reads: int = 0
    watched: dict[bytes, list[int]] = field(default_factory=dict)
    resumed: int = 0
    mistakes: list[str] = field(default_factory=list)
    """What was found on the way; `problems` has it, too."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _writers_ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        # The watch first, so that it misses as little as can be of what was changed before its snapshot.
        self._writing = [
            threading.Thread(target=self._guarded, args=(self._write, b"key-%d" % number))
            for number in range(self.writers)
        ]
        looking = [threading.Thread(target=self._guarded, args=(self._read,)) for _ in range(self.readers)]
        self._watching = threading.Thread(target=self._guarded, args=(self._watch,))
        self._threads = [*self._writing, *looking]
        for thread in (self._watching, *self._threads):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._writers_ended.set()
        self._watching.join()

    def _guarded(self, run: Callable[..., None], *args: Any) -> None:
        with contextlib.closing(Cluster(self.addresses)) as cluster:
            try:
                run(cluster, *args)
            except BaseException as problem:
                self.mistakes.append(f"{run.__name__}: {problem!r}")
                raise

    def wait_for_write(self, then: float, timeout: float, *, elsewhere_than: str = "") -> float:
        """Waits for a write that is acknowledged after a time of the monotonic clock; seconds from then to that.

        Args:
            then: the time.
            timeout: seconds to wait.
            elsewhere_than: an address whose acknowledgements don't count, as they may have been on their way.

        Raises:
            TimeoutError: there is none.
        """
        until = time.monotonic() + timeout
        seen = 0
        while time.monotonic() < until:
            news = self.acknowledgements[seen:]
            seen += len(news)
            for at, address in news:
                if at > then and address != elsewhere_than:
                    return at - then
            time.sleep(0.01)
        raise TimeoutError(f"nothing was written for {timeout:.0f} s; mistakes: {self.mistakes}")

    # -- clients -------------------------------------------------------------------------------------------------------

    def _write(self, cluster: Cluster, key: bytes) -> None:
        number, revision = 1, 0
        while not self._stop.is_set():
            request = kv_pb2.PutRequest(namespace=NAMESPACE, key=key, value=b"%d" % number, expected_revision=revision)
            try:
                answer = cluster.put(request)
            except grpc.RpcError:
                # It may have happened, and may still happen; a read tells, for nobody else writes this key.
                self.unknown += 1
                found = self._found(cluster, key)
                if found is None:
                    return
                stored, at = found
                if stored == number:
                    self._acknowledge(cluster, key, number)
                    number, revision = number + 1, at
                elif stored != number - 1 or (revision and at != revision):
                    self.mistakes.append(f"{key!r} was {number - 1} at {revision} and is {stored} at {at}")
                    return
                continue
            if not answer.applied:
                found = self._found(cluster, key)
                if found is not None and found[0] == number:
                    # What was not known has happened after the read.
                    self._acknowledge(cluster, key, number)
                    number, revision = number + 1, found[1]
                    continue
                self.mistakes.append(f"{key!r}: put {number} at {revision} was refused, and {found} is there")
                return
            self._acknowledge(cluster, key, number)
            number, revision = number + 1, answer.revision

    def _found(self, cluster: Cluster, key: bytes) -> tuple[int, int] | None:
        """What is stored, and since which revision; asks until somebody knows. None after the end."""
        while True:
            try:
                return self._get(cluster, key)
            except grpc.RpcError:
                if self._stop.is_set():
                    return None
                time.sleep(0.02)

    def _get(self, cluster: Cluster, key: bytes) -> tuple[int, int]:
        request = kv_pb2.GetRequest(namespace=NAMESPACE, key=key)
        try:
            answer = cluster.get(request)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return 0, 0
            raise
        return int(answer.value), answer.revision

    def _acknowledge(self, cluster: Cluster, key: bytes, number: int) -> None:
        self.acknowledged[key] = number
        self.acknowledgements.append((time.monotonic(), cluster.address))

    def _read(self, cluster: Cluster) -> None:
        newest: dict[bytes, int] = {}
        while not self._stop.is_set():
            for key in [b"key-%d" % number for number in range(self.writers)]:
                before = max(self.acknowledged.get(key, 0), newest.get(key, 0))
                try:
                    value, _ = self._get(cluster, key)
                except grpc.RpcError:
                    time.sleep(0.02)
                    continue
                self.reads += 1
                if value < before:
                    self.mistakes.append(f"a read of {key!r} gave {value}, and {before} had been seen before it began")
                newest[key] = max(value, newest.get(key, 0))
            time.sleep(0.005)

    def _watch(self, cluster: Cluster) -> None:
        after: watch_pb2.Position | None = None
        until = float("inf")
        while time.monotonic() < until and not self._has_seen_all():
            try:
                after = cluster.call(lambda channel, after=after: self._follow(channel, after))  # type: ignore[misc]
            except _Interrupted as interrupted:
                after = interrupted.position
                cluster.look_elsewhere(interrupted.error)
                self.resumed += 1
                time.sleep(0.05)
            if self._writers_ended.is_set() and until == float("inf"):
                # What is wrong already need not be waited for.
                until = time.monotonic() + (0 if self.mistakes else LAST_CHANGE_TIMEOUT)

    def _has_seen_all(self) -> bool:
        return self._writers_ended.is_set() and all(
            self.watched.get(key, [0])[-1] >= number for key, number in self.acknowledged.items()
        )

    def _follow(self, channel: grpc.Channel, after: watch_pb2.Position | None) -> watch_pb2.Position | None:
        """Takes changes in until the stream ends or all has been seen; says where it was."""
        source = watch_pb2.KvSource(namespace=NAMESPACE, prefix=True)
        request = watch_pb2.WatchRequest(open=watch_pb2.OpenWatch(kv=source, after=after))
        ended = threading.Event()

        def requests() -> Iterator[watch_pb2.WatchRequest]:
            yield request
            ended.wait()

        stream = watch_pb2_grpc.WatchServiceStub(channel).Watch(requests())
        waker = threading.Thread(target=self._end_when_seen, args=(stream, ended))
        waker.start()
        try:
            for response in stream:
                after = self._take(response, after)
        except grpc.RpcError as error:
            raise _Interrupted(after, error) from error
        else:
            return after
        finally:
            ended.set()
            waker.join()

    def _end_when_seen(self, stream: grpc.Call, ended: threading.Event) -> None:
        while not ended.wait(0.05):
            if self._has_seen_all():
                stream.cancel()
                return

    def _take(self, response: watch_pb2.WatchResponse, after: watch_pb2.Position | None) -> watch_pb2.Position | None:
        """Takes in what a response tells; returns where the watch is then."""
        page, changes = response.page, response.changes
        if after is not None and page.entries:
            self.mistakes.append("the watch was sent a snapshot although it had resumed")
        if changes.coalesced:
            self.mistakes.append("the watch was taken for a slow one")
        if response.HasField("ended"):
            self.mistakes.append(f"the watch was ended: {response.ended}")
        for entry in (*page.entries, *(change.entry for change in changes.changes)):
            self.watched.setdefault(entry.key, []).append(int(entry.value))
        if page.last:
            return page.position
        return changes.position if response.HasField("changes") and not changes.partial else after

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What can't be, once the clients have ended; asks what is stored."""
        problems = list(self.mistakes)
        cluster = Cluster(self.addresses)
        for key, number in self.acknowledged.items():
            found = self._final(cluster, key)
            if found < number:
                problems.append(f"{key!r}: {number} was acknowledged, and {found} is stored")
            seen = self.watched.get(key, [])
            # It may begin later than with 1, where the snapshot was made after the first writes.
            expected = list(range(seen[0], seen[0] + len(seen))) if seen else []
            if seen != expected or not seen or not number <= seen[-1] <= found:
                problems.append(f"{key!r}: {found} is stored, and the watch told {_gaps(seen)}")
        cluster.close()
        if not self.acknowledged or not self.reads:
            problems.append(
                f"{len(self.acknowledged)} keys were written and {self.reads} reads made: nothing was tested"
            )
        return problems

    def _final(self, cluster: Cluster, key: bytes) -> int:
        until = time.monotonic() + 60
        while True:
            try:
                return self._get(cluster, key)[0]
            except grpc.RpcError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)


class _Interrupted(Exception):  # noqa: N818 - a watch that is interrupted is no error
    def __init__(self, position: watch_pb2.Position | None, error: grpc.RpcError) -> None:
        super().__init__(str(error))
        self.position = position
        self.error = error


def _gaps(seen: list[int]) -> str:
    """Where numbers don't follow each other."""
    breaks = [f"{now} after {before}" for before, now in itertools.pairwise(seen) if now != before + 1]
    return f"{seen[:1]} to {seen[-1:]}, with {breaks or 'no gaps'}"
