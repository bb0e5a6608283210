"""What a server has done, as frozen values: a snapshot, or the window between two. Any thread."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from atoll._core import ServerCore
from atoll.rpc._status import StatusCode

_REFUSALS = tuple(ServerCore.refusals())


@dataclass(frozen=True, slots=True)
class MethodStats:
    """What has been counted of the calls of one method.

    Every call is in `started`; in `finished` when it has ended; and besides in `refused` when it never reached its
    handler. In a window, what counts up is what was added; `in_flight` and `waiting` are those at its end. How long
    calls waited and ran is in the statistics of the loop: `io_context.stats()[method.handler]`.

    Attributes:
        path: Such as `/package.Service/Method`; `*` for what generic handlers serve.
        loop: The name of the loop that runs it; empty for what the transport answers.
        handler: The name in that loop's statistics.
        started: Calls that came.
        finished: Calls that ended, by status, such as `OK`; without those that none ended with.
        refused: Calls that never reached their handler, by reason: `method_limit` (`max_active_rpcs`), `server_limit`
            (`maximum_concurrent_rpcs`), `waiting_full`, `mailbox_full`, `loop_closed`, `overload`, `deadline`,
            `client` (gave it up, or was lost), `shutdown`, `bad_request`; without reasons that none had.
        in_flight: Calls that have come and not ended.
        waiting: Those of them that wait for the method to run fewer.
        overdue: Calls that had waited too long on an overloaded loop, refused for that or not; see `Overload`.
        bytes_received: Of request messages, as they were sent.
        bytes_sent: Of reply messages, as they were sent.
    """

    path: str
    loop: str
    handler: str
    started: int
    finished: Mapping[str, int]
    refused: Mapping[str, int]
    in_flight: int
    waiting: int
    overdue: int
    bytes_received: int
    bytes_sent: int

    def __sub__(self, earlier: "MethodStats") -> "MethodStats":
        """What was added since `earlier`, a snapshot of the same method.

        Raises:
            ValueError: When `earlier` is the later one, or of another method.
        """
        if self.path != earlier.path:
            raise ValueError(f"a window is between two snapshots of one method, not {earlier.path} and {self.path}")
        if self.started < earlier.started:
            raise ValueError(
                f"what is subtracted has counted {earlier.started} calls of {self.path}, the other {self.started}: "
                "subtract the earlier of two snapshots of one server from the later, as in `later - earlier`"
            )
        return MethodStats(
            path=self.path,
            loop=self.loop,
            handler=self.handler,
            started=self.started - earlier.started,
            finished=_difference(self.finished, earlier.finished),
            refused=_difference(self.refused, earlier.refused),
            in_flight=self.in_flight,
            waiting=self.waiting,
            overdue=self.overdue - earlier.overdue,
            bytes_received=self.bytes_received - earlier.bytes_received,
            bytes_sent=self.bytes_sent - earlier.bytes_sent,
        )


def _difference(later: Mapping[str, int], earlier: Mapping[str, int]) -> dict[str, int]:
    grown = {name: count - earlier.get(name, 0) for name, count in later.items()}
    return {name: count for name, count in grown.items() if count}


@dataclass(frozen=True, slots=True)
class ServerStats:
    """A server at one moment, as `Server.stats()` returns it; or, as `later - earlier`, the window between two.

    Attributes:
        methods: What is known of each method, by path.
        connections: How many connections are open.
        is_window: Whether it is a window.
    """

    methods: tuple[MethodStats, ...] = field(default=())
    connections: int = 0
    is_window: bool = False

    def __iter__(self) -> Iterator[MethodStats]:
        """The methods."""
        return iter(self.methods)

    def __getitem__(self, path: str) -> MethodStats:
        """The method with this path.

        Raises:
            KeyError: When the server has none.
        """
        for method in self.methods:
            if method.path == path:
                return method
        known = ", ".join(method.path for method in self.methods) or "none, for the server is not running"
        raise KeyError(f"no method {path!r}; known: {known}")

    @property
    def in_flight(self) -> int:
        """Calls that have come and not ended."""
        return sum(method.in_flight for method in self.methods)

    def __sub__(self, earlier: "ServerStats") -> "ServerStats":
        """The window from `earlier` to this snapshot of the same server.

        Raises:
            ValueError: When `earlier` is the later one, or of another server, or one of the two is a window itself.
        """
        if self.is_window or earlier.is_window:
            raise ValueError(
                "one of the two is a window already: keep the snapshots that stats() returns, and subtract those"
            )
        before = {method.path: method for method in earlier.methods}
        if self.methods and before.keys() - {method.path for method in self.methods}:
            raise ValueError("a window is between two snapshots of one server, and these have other methods")
        methods = (method - before[method.path] if method.path in before else method for method in self.methods)
        return ServerStats(tuple(methods), self.connections, is_window=True)


def server_stats(core: ServerCore) -> ServerStats:
    """Gives what Rust has counted its names."""
    methods = [
        MethodStats(
            path=path,
            loop=loop,
            handler=handler,
            started=started,
            finished=_named(tuple(code.name for code in StatusCode), finished),
            refused=_named(_REFUSALS, refused),
            in_flight=started - sum(finished),
            waiting=waiting,
            overdue=overdue,
            bytes_received=bytes_received,
            bytes_sent=bytes_sent,
        )
        for path, loop, handler, started, finished, refused, overdue, waiting, (
            bytes_received,
            bytes_sent,
        ) in core.method_stats()
    ]
    methods.sort(key=lambda method: method.path)
    return ServerStats(tuple(methods), core.counts()[0])


def _named(names: tuple[str, ...], counts: list[int]) -> dict[str, int]:
    return {name: count for name, count in zip(names, counts, strict=True) if count}
