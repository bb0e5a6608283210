"""As much of HTTP/2 (RFC 9113) as a client needs that makes calls, counts replies and keeps connections open.

h2load closes its connections when their calls are answered, and grpcio's client would spend more than the servers.
Header blocks are sent as literals that change no table (RFC 7541, 6.2.2) and are not read: what a reply says is
checked by its bytes. Pure functions and one parser per connection.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA: Final = 0x0
HEADERS: Final = 0x1
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
SETTING_INITIAL_WINDOW_SIZE: Final = 0x4

_STREAM_WINDOW: Final = 1 << 20
_MORE_CONNECTION_WINDOW: Final = (1 << 30) - 65_535
_HEAD: Final = 9


class ConnectionLostError(Exception):
    """The server closed the connection, reset a call or said GOAWAY; the message says which and its error code."""


@dataclass(slots=True)
class Counts:
    """What has come back: bytes in DATA frames, and calls that have ended."""

    data_bytes: int = 0
    ended: int = 0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Encode one frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def opening() -> bytes:
    """Return what a client sends first; its windows are so large that they never need to be raised."""
    settings = struct.pack(">HI", SETTING_INITIAL_WINDOW_SIZE, _STREAM_WINDOW)
    window = struct.pack(">I", _MORE_CONNECTION_WINDOW)
    return PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, window)


def call(stream: int, scheme: str, path: str, body: bytes) -> bytes:
    """Encode a call of one request on a stream, an odd number; ``body`` is shorter than 16 KiB."""
    fields = {
        ":method": "POST",
        ":scheme": scheme,
        ":path": path,
        ":authority": "127.0.0.1",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields.items())
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, body)


class Parser:
    """Reads one connection's frames, in pieces of any length, into counts."""

    def __init__(self, counts: Counts) -> None:
        """Add to ``counts``, which connections may share."""
        self._counts = counts
        self._unread = bytearray()

    def feed(self, content: bytes) -> bytes:
        """Read what came and return what has to be answered: acknowledgements.

        Raises:
            ConnectionLostError: the server ended the connection or a call.
        """
        self._unread += content
        answers = bytearray()
        position = 0
        while len(self._unread) - position >= _HEAD:
            length = int.from_bytes(self._unread[position : position + 3], "big")
            end = position + _HEAD + length
            if end > len(self._unread):
                break
            kind, flags, stream = struct.unpack_from(">BBI", self._unread, position + 3)
            answers += self._read(kind, flags, stream, bytes(self._unread[position + _HEAD : end]))
            position = end
        del self._unread[:position]
        return bytes(answers)

    def _read(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind == DATA:
            self._counts.data_bytes += len(payload)
        if kind in {DATA, HEADERS} and flags & END_STREAM:
            self._counts.ended += 1
        elif kind == SETTINGS and not flags & ACK:
            return frame(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK:
            return frame(PING, ACK, 0, payload)
        elif kind == RST_STREAM:
            raise ConnectionLostError(f"call {stream} was reset with error code {int.from_bytes(payload, 'big')}")
        elif kind == GOAWAY:
            code = int.from_bytes(payload[4:8], "big")
            raise ConnectionLostError(f"the server said GOAWAY with error code {code}: {payload[8:]!r}")
        return b""


def _string(text: str) -> bytes:
    encoded = text.encode("ascii")
    if len(encoded) >= 127:
        raise ValueError(f"{text!r} is too long for a length of one byte; keep names and values under 127 bytes")
    return bytes([len(encoded)]) + encoded
