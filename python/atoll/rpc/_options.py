"""The settings of a server, as they cross into Rust: one frozen object; and grpc's channel options."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atoll.rpc._limits import DEFAULTS, ConnectionLimits, LimitReader, whole

_logger = logging.getLogger("atoll.rpc")
_warned: set[str] = set()

_UNLIMITED = -1


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What can be set for a server; sizes are bytes.

    Attributes:
        network_threads: Native threads that serve connections; None for a quarter of the cores, at least one.
        max_receive_message_size: The largest request; None is unlimited.
        max_send_message_size: The largest reply; None is unlimited.
        max_concurrent_streams: Calls that one connection may have in flight.
        max_header_list_size: The largest metadata of a request.
        initial_stream_window: What a client may send on one stream before it is read.
        max_concurrent_calls: Calls that may run at a time over all methods; None is unlimited.
        max_waiting_bytes: What may wait for methods with `max_active_rpcs`, in bytes.
        max_waiting_bytes_per_connection: The same of one connection.
        share_ports: Whether others that share theirs may listen on the same ports (`SO_REUSEPORT`).
        kept_memory: Freed memory that each of the C library's heaps keeps for the next messages; 0 changes nothing.
        limits: What connections may ask of the server.
    """

    network_threads: int | None = None
    max_receive_message_size: int | None = DEFAULTS["max_receive_message_size"]
    max_send_message_size: int | None = DEFAULTS["max_send_message_size"]
    max_concurrent_streams: int = DEFAULTS["max_concurrent_streams"]
    max_header_list_size: int = DEFAULTS["max_header_list_size"]
    initial_stream_window: int = DEFAULTS["initial_stream_window"]
    max_concurrent_calls: int | None = DEFAULTS["max_concurrent_calls"]
    max_waiting_bytes: int = DEFAULTS["max_waiting_bytes"]
    max_waiting_bytes_per_connection: int = DEFAULTS["max_waiting_bytes_per_connection"]
    share_ports: bool = False
    kept_memory: int = DEFAULTS["kept_memory"]
    limits: ConnectionLimits = ConnectionLimits()  # noqa: RUF009


def _size(value: int) -> int | None:
    return None if value == _UNLIMITED else value


def server_options(  # noqa: C901, PLR0912 - one case per option
    network_threads: int | None,
    channel_options: Sequence[tuple[str, Any]],
    max_concurrent_calls: int | None = None,
) -> ServerOptions:
    """Reads grpc's channel options; one that has no meaning here is warned about, once.

    Raises:
        TypeError: When a value has the wrong type.
        ValueError: When a value can't work; the message names it.
    """
    values: dict[str, Any] = {"network_threads": network_threads, "max_concurrent_calls": max_concurrent_calls}
    if max_concurrent_calls is not None:
        # grpcio takes less than one, too, and then serves nobody.
        whole("maximum_concurrent_rpcs", max_concurrent_calls, 1)
    limits = LimitReader()
    for name, value in channel_options:
        match name:
            case "grpc.max_receive_message_length":
                values["max_receive_message_size"] = _size(whole(name, value, _UNLIMITED))
            case "grpc.max_send_message_length":
                values["max_send_message_size"] = _size(whole(name, value, _UNLIMITED))
            case "grpc.max_concurrent_streams":
                values["max_concurrent_streams"] = whole(name, value, 1)
            case "grpc.max_metadata_size":
                values["max_header_list_size"] = whole(name, value, 1)
            case "grpc.http2.lookahead_bytes":
                values["initial_stream_window"] = whole(name, value, 1)
            case "atoll.max_waiting_bytes":
                values["max_waiting_bytes"] = whole(name, value, 0)
            case "atoll.max_waiting_bytes_per_connection":
                values["max_waiting_bytes_per_connection"] = whole(name, value, 0)
            case "atoll.kept_memory_bytes":
                values["kept_memory"] = whole(name, value, 0)
            case "grpc.so_reuseport":
                values["share_ports"] = bool(whole(name, value, 0, 1))
            case _ if limits.read(name, value):
                pass
            case _:
                if name not in _warned:
                    _warned.add(name)
                    _logger.warning("the channel option %s has no effect on an Atoll server", name)
    if network_threads is not None:
        whole("network_threads", network_threads, 1)
    return ServerOptions(**values, limits=limits.limits())
