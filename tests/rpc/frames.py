"""Bare HTTP/2 frames, for what no client of grpc's would send."""

import socket
import struct

from tests.rpc.support import TIMEOUT

DATA, HEADERS, RESET, SETTINGS = 0x0, 0x1, 0x3, 0x4
END_STREAM, END_HEADERS = 0x1, 0x4

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, SETTINGS, 0, 0, 0, 0, 0))
"""A connection's first bytes."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def beginning(where: str, stream: int = 1, **changes: str) -> bytes:
    """The headers of a call of the path `where`."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": where,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    return frame(HEADERS, END_HEADERS, stream, block)


def call(where: str, body: bytes, **changes: str) -> bytes:
    """A connection's first bytes, and a call on stream 1."""
    return HELLO + beginning(where, 1, **changes) + frame(DATA, END_STREAM, 1, body)


def answered(target: str, sent: bytes) -> None:
    """Sends a call and reads until the server has answered it; blocks."""
    host, port = target.rsplit(":", 1)
    with socket.create_connection((host, int(port)), TIMEOUT) as connection, connection.makefile("rb") as stream:
        connection.sendall(sent)
        while True:
            head = stream.read(9)
            stream.read(int.from_bytes(head[:3], "big"))
            kind, flags, number = head[3], head[4], int.from_bytes(head[5:], "big")
            if number == 1 and (kind == RESET or flags & END_STREAM):
                return


def exchange(target: str, sent: bytes) -> bytes:
    """Sends bytes and reads to the end; blocks."""
    host, port = target.rsplit(":", 1)
    with socket.create_connection((host, int(port)), TIMEOUT) as connection:
        connection.sendall(sent)
        received = bytearray()
        while more := connection.recv(4096):
            received += more
    return bytes(received)
