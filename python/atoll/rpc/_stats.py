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
    calls waited and ran is in the statistics of the loop: `io_context.stats()[method.handler]`. A call of which the
    client learns only an HTTP status is in `finished` under the status that gRPC clients make of it.

    Attributes:
        path: Such as `/package.Service/Method`; `*` for what generic handlers serve.
        loops: The names of the loops that run it: one, or those of the pool that it is spread over
            (`server.on(pool)`), in the pool's order; none for what the transport answers. How its calls are spread is
            in the loops' statistics.
        handler: The name in those loops' statistics.
        started: Calls that came.
        finished: Calls that ended, by status, such as `OK`; without those that none ended with.
        refused: Calls that never reached their handler, by reason: `method_limit` (`max_active_rpcs`), `server_limit`
            (`maximum_concurrent_rpcs`), `waiting_full`, `mailbox_full`, `loop_closed`, `overload`, `deadline`,
            `client` (gave it up, or was lost), `shutdown`, `bad_request` (its message is none, or too large),
            `slow_body` (its message did not come), `http_method`, `content_type`, `metadata_size`, `unauthenticated`,
            `bad_timeout`, `bad_encoding`; without reasons that none had.
        in_flight: Calls that have come and not ended.
        waiting: Those of them that wait for the method to run fewer.
        overdue: Calls that had waited too long on an overloaded loop, refused for that or not; see `Overload`.
        bytes_received: Of request messages, as they were sent.
        bytes_sent: Of reply messages, as they were sent.
    """

    path: str
    loops: tuple[str, ...]
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
            loops=self.loops,
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
class OffenceNote:
    """Who did what no well-behaved client does.

    Attributes:
        offence: What: a key of `ServerStats.offences`.
        peer: The client's address, such as `ipv4:127.0.0.1:1234`.
        at: When it was first seen, in seconds since 1970 (UTC).
        repeated: How many more of the same kind came, from anybody, within the second that followed.
    """

    offence: str
    peer: str
    at: float
    repeated: int


@dataclass(frozen=True, slots=True)
class ServerStats:
    """A server at one moment, as `Server.stats()` returns it; or, as `later - earlier`, the window between two.

    When the server has ended it is as it was then. In a window, what counts up is what was added.

    Attributes:
        methods: What is known of each method, by path.
        connections: How many connections are open.
        connection_errors: Connections that ended with an error: garbage, a broken protocol, a flood, a lost client.
        refused: Requests that named no method of the server, by the reason for which they were refused:
            `unknown_method`, or another one of those that methods have; without reasons that none had.
        tls_handshakes: TLS handshakes by how they ended: `finished`, `plaintext` (it was none), `without_http2`,
            `client_certificate` (missing, or not accepted), `failed` (otherwise).
        offences: What clients did that no well-behaved client does, by kind; see `docs/limits.md`.
        offence_notes: Who did, the latest last: at most one a second of each kind, and 32 in all. In a window, those
            that are new or were repeated.
        is_window: Whether it is a window.
    """

    methods: tuple[MethodStats, ...] = field(default=())
    connections: int = 0
    connection_errors: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    tls_handshakes: Mapping[str, int] = field(default_factory=dict)
    offences: Mapping[str, int] = field(default_factory=dict)
    offence_notes: tuple[OffenceNote, ...] = field(default=())
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
        known = ", ".join(method.path for method in self.methods) or "none, for the server has not been started"
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
        return ServerStats(
            tuple(methods),
            connections=self.connections,
            connection_errors=self.connection_errors - earlier.connection_errors,
            refused=_difference(self.refused, earlier.refused),
            tls_handshakes=_difference(self.tls_handshakes, earlier.tls_handshakes),
            offences=_difference(self.offences, earlier.offences),
            offence_notes=tuple(note for note in self.offence_notes if note not in earlier.offence_notes),
            is_window=True,
        )


def server_stats(core: ServerCore) -> ServerStats:
    """Gives what Rust has counted its names."""
    methods = [
        MethodStats(
            path=path,
            loops=tuple(loops),
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
        for path, loops, handler, started, finished, refused, overdue, waiting, (
            bytes_received,
            bytes_sent,
        ) in core.method_stats()
    ]
    methods.sort(key=lambda method: method.path)
    connections, connection_errors, refused, tls_handshakes, offences = core.server_stats()
    return ServerStats(
        tuple(methods),
        connections=connections,
        connection_errors=connection_errors,
        refused=dict(refused),
        tls_handshakes=dict(tls_handshakes),
        offences=dict(offences),
        offence_notes=tuple(OffenceNote(*note) for note in core.offence_notes()),
    )


def _named(names: tuple[str, ...], counts: list[int]) -> dict[str, int]:
    return {name: count for name, count in zip(names, counts, strict=True) if count}
