"""What one client, and all together, may ask of a server's connections; and the channel options that say so."""

from dataclasses import dataclass, field
from typing import Any, Final

from atoll._core import default_limits

_LONGEST: Final = 2**31 - 1  # how grpc writes "never", in milliseconds
_UNLIMITED: Final = -1

DEFAULTS: Final[dict[str, Any]] = default_limits()
"""What holds where nothing is said, by the names of the attributes here: the transport's own values."""

_GRPC_PING_STRIKES: Final = 2
_GRPC_PING_INTERVAL: Final = 300.0


@dataclass(frozen=True, kw_only=True)
class FrameLimit:
    """How many frames of a kind that asks for nothing a client may send.

    Attributes:
        burst: At once; None is unlimited.
        interval: Seconds until it may send one more. Replies earn it more, too.
    """

    burst: int | None
    interval: float


def _frames(name: str) -> FrameLimit:
    burst, interval = DEFAULTS[name]
    return FrameLimit(burst=burst, interval=interval)


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Limits of a server's connections; durations are seconds, sizes bytes, None is without limit.

    Attributes:
        max_connections: Connections that may be open; more are closed as soon as they are accepted.
        max_connections_per_peer: The same for one client address (of IPv6: one /64 network).
        handshake_timeout: For the first bytes of a connection.
        body_timeout: For a message of a request that is not complete and brings less than 1 KiB.
        max_connection_idle: How long a connection without calls is kept.
        max_connection_age: When a connection is asked to go, give or take a tenth.
        max_connection_age_grace: How long its calls may go on then.
        keepalive_time: How long a client with calls may be silent before it is pinged.
        keepalive_timeout: How long it may be silent then.
        keepalive_without_calls: Whether clients without calls are pinged, too.
        pings: PING frames.
        settings: SETTINGS frames, besides the answers to the server's.
        resets: Streams reset within 0.1 s of their opening.
        window_updates: WINDOW_UPDATE frames.
        stray_frames: PRIORITY frames, frames of unknown types, answers to pings that nobody sent.
        max_pending_resets: Streams opened and reset before they have been looked at.
        max_stream_errors: Errors on streams in a connection's life.
        small_frame_overhead: What small DATA frames that nobody has read may cost.
        max_unread_bytes: What is held for handlers that do not read without counting for the connection's window.
    """

    max_connections: int = DEFAULTS["max_connections"]
    max_connections_per_peer: int | None = DEFAULTS["max_connections_per_peer"]
    handshake_timeout: float = DEFAULTS["handshake_timeout"]
    body_timeout: float | None = DEFAULTS["body_timeout"]
    max_connection_idle: float | None = DEFAULTS["max_connection_idle"]
    max_connection_age: float | None = DEFAULTS["max_connection_age"]
    max_connection_age_grace: float | None = DEFAULTS["max_connection_age_grace"]
    keepalive_time: float | None = DEFAULTS["keepalive_time"]
    keepalive_timeout: float = DEFAULTS["keepalive_timeout"]
    keepalive_without_calls: bool = DEFAULTS["keepalive_without_calls"]
    pings: FrameLimit = field(default=_frames("pings"))
    settings: FrameLimit = field(default=_frames("settings"))
    resets: FrameLimit = field(default=_frames("resets"))
    window_updates: FrameLimit = field(default=_frames("window_updates"))
    stray_frames: FrameLimit = field(default=_frames("stray_frames"))
    max_pending_resets: int = DEFAULTS["max_pending_resets"]
    max_stream_errors: int = DEFAULTS["max_stream_errors"]
    small_frame_overhead: int = DEFAULTS["small_frame_overhead"]
    max_unread_bytes: int = DEFAULTS["max_unread_bytes"]


# Milliseconds, of which INT_MAX is "never".
_TIMES: Final = {
    "grpc.max_connection_idle_ms": "max_connection_idle",
    "grpc.max_connection_age_ms": "max_connection_age",
    "grpc.max_connection_age_grace_ms": "max_connection_age_grace",
    "grpc.keepalive_time_ms": "keepalive_time",
    "atoll.body_timeout_ms": "body_timeout",
}
# Milliseconds, of which INT_MAX is 25 days, and is as good as never.
_TIMEOUTS: Final = {
    "grpc.keepalive_timeout_ms": "keepalive_timeout",
    "grpc.server_handshake_timeout_ms": "handshake_timeout",
}
_FRAMES: Final = {
    "atoll.http2.max_pings": "pings",
    "atoll.http2.max_settings": "settings",
    "atoll.http2.max_resets": "resets",
    "atoll.http2.max_window_updates": "window_updates",
    "atoll.http2.max_stray_frames": "stray_frames",
}
# Numbers, with the least that can work.
_NUMBERS: Final = {
    "grpc.max_allowed_incoming_connections": ("max_connections", 1),
    "atoll.max_connections_per_peer": ("max_connections_per_peer", 1),
    "atoll.max_unread_bytes_per_connection": ("max_unread_bytes", 0),
    "atoll.http2.max_pending_resets": ("max_pending_resets", 1),
    "atoll.http2.max_stream_errors": ("max_stream_errors", 1),
    # Less would close connections of clients that send small messages fast.
    "atoll.http2.small_frame_overhead": ("small_frame_overhead", 2 * 1024 * 1024),
}
_PING_STRIKES: Final = "grpc.http2.max_ping_strikes"
_PING_INTERVALS: Final = (
    "grpc.http2.min_ping_interval_without_data_ms",
    "grpc.http2.min_recv_ping_interval_without_data_ms",
)


class LimitReader:
    """Gathers the limits that channel options set."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._strikes: int | None = None
        self._ping_interval: float | None = None

    def read(self, name: str, value: object) -> bool:
        """Takes one option; False when it is not a limit.

        Raises:
            TypeError: When the value has the wrong type.
            ValueError: When the value can't work; the message names it.
        """
        if name in _TIMES:
            milliseconds = whole(name, value, 1)
            self._values[_TIMES[name]] = None if milliseconds == _LONGEST else milliseconds / 1000
        elif name in _TIMEOUTS:
            self._values[_TIMEOUTS[name]] = whole(name, value, 1) / 1000
        elif name in _FRAMES:
            self._values[_FRAMES[name]] = self._frame_limit(name, value)
        elif name == _PING_STRIKES:
            self._strikes = whole(name, value, 0)
        elif name in _PING_INTERVALS:
            self._ping_interval = whole(name, value, 0) / 1000
        elif name == "grpc.keepalive_permit_without_calls":
            self._values["keepalive_without_calls"] = bool(whole(name, value, 0))
        elif name in _NUMBERS:
            attribute, least = _NUMBERS[name]
            self._values[attribute] = whole(name, value, least)
        else:
            return False
        return True

    def limits(self) -> ConnectionLimits:
        """The limits that were read, the others as they are by default."""
        values = dict(self._values)
        if self._strikes is not None or self._ping_interval is not None:
            values["pings"] = self._pings_as_in_grpc()
        return ConnectionLimits(**values)

    def _frame_limit(self, name: str, value: object) -> FrameLimit:
        # A client's first frame is one of settings.
        burst = whole(name, value, _UNLIMITED)
        if burst != _UNLIMITED and burst < 2:  # noqa: PLR2004
            raise ValueError(f"{name}={value!r} is not -1 (unlimited) or a number from 2 on")
        default = _frames(_FRAMES[name])
        return FrameLimit(burst=None if burst == _UNLIMITED else burst, interval=default.interval)

    def _pings_as_in_grpc(self) -> FrameLimit:
        """A ping that comes before its time is a strike, and the one after the last strike ends the connection."""
        strikes = _GRPC_PING_STRIKES if self._strikes is None else self._strikes
        interval = _GRPC_PING_INTERVAL if self._ping_interval is None else self._ping_interval
        if strikes == 0 or interval == 0:
            return FrameLimit(burst=None, interval=1.0)
        return FrameLimit(burst=strikes + 1, interval=interval)


def whole(name: str, value: object, least: int, most: int = 2**31 - 1) -> int:
    """The value of a channel option that is a whole number, in the range of C's int.

    Raises:
        TypeError: When it is none.
        ValueError: When it is out of range.
    """
    if not isinstance(value, int):
        raise TypeError(f"{name}={value!r} is not a whole number")
    if not least <= value <= most:
        raise ValueError(f"{name}={value!r} is not a number from {least} to {most}")
    return value
