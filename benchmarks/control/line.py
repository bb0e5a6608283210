"""`Line`: one HTTP/2 connection of a load, as cheap as Python can make it. One thread at a time.

Header blocks use the dynamic table as any client's do (RFC 7541): what has been sent once is one byte from then on.
Of replies it is read which calls have ended, and whether with a message: a call that is refused ends without one.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from typing import Final

from benchmarks.frames import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    ConnectionLostError,
    frame,
    opening,
)

CALL_TIMEOUT: Final = 60.0
_CONNECT_TIMEOUT: Final = 30.0
_RECEIVED_AT_A_TIME: Final = 1 << 18
_HEAD: Final = 9
# A length of three bytes, kind, flags and stream; of a message whether it is compressed, which none is, and its length.
_FRAME_HEAD: Final = struct.Struct(">BHBBI")
_MESSAGE_HEAD: Final = struct.Struct(">xI")
# ":method: POST" and ":scheme: http" of the static table.
_INDEXED: Final = b"\x83\x86"
_FIRST_DYNAMIC: Final = 62
_FIELDS: Final = ((":authority", "127.0.0.1"), ("content-type", "application/grpc"), ("te", "trailers"))


class Line:
    """One connection.

    Attributes:
        data_bytes: what has come in messages, with the five bytes before each.
        refused: how many calls have ended without a message.
        messages: how many have come.
    """

    def __init__(self, port: int) -> None:
        """Connects.

        Raises:
            OSError: nobody listens there.
        """
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), _CONNECT_TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(opening())
        self.data_bytes = 0
        self.messages = 0
        self.refused = 0
        self._next_stream = 1
        self._unread = b""
        # The streams of calls of which a message has come.
        self._answered: set[int] = set()
        self._table: list[tuple[str, str]] = []
        self._blocks: dict[str, bytes] = {}

    def fileno(self) -> int:
        """For selectors."""
        return self.socket.fileno()

    def close(self) -> None:
        """Drops the connection."""
        self.socket.close()

    # -- sending -------------------------------------------------------------------------------------------------------

    def encoded(self, path: str, message: bytes, *, ends: bool = True) -> tuple[int, bytes]:
        """The number of the next call's stream, and its bytes; they have to be sent in the order they are made in.

        Without `ends` the client may send more, and the server goes on.
        """
        block = self._blocks.get(path) or self._block(path)
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        number = stream.to_bytes(4, "big")
        head = (len(block) << 8 | HEADERS).to_bytes(4, "big")
        data = (len(message) + 5 << 8 | DATA).to_bytes(4, "big")
        end = b"\x01" if ends else b"\x00"
        length = len(message).to_bytes(4, "big")
        return stream, b"%b\x04%b%b%b%b%b\x00%b%b" % (head, number, block, data, end, number, length, message)

    def send(self, calls: bytes) -> None:
        """Sends what was encoded.

        Raises:
            OSError: the connection is lost.
        """
        self.socket.sendall(calls)

    def _block(self, path: str) -> bytes:
        """The header block of a call; sent again it has only indices, and is kept."""
        block = bytearray(_INDEXED)
        wanted = ((":path", path), *_FIELDS)
        for name, value in wanted:
            if (name, value) in self._table:
                block.append(0x80 | _FIRST_DYNAMIC + self._table.index((name, value)))
            else:
                self._table.insert(0, (name, value))
                block += b"\x40" + _string(name) + _string(value)
                self._blocks.clear()
        if len(block) == len(_INDEXED) + len(wanted):
            self._blocks[path] = bytes(block)
        return bytes(block)

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive(self) -> list[int]:
        """Waits for bytes, and returns the streams that have ended; answers what the protocol wants answered.

        Raises:
            ConnectionLostError: the server ended the connection, or reset a call.
            OSError: the same.
        """
        received = self.socket.recv(_RECEIVED_AT_A_TIME)
        if not received:
            raise ConnectionLostError("the server closed a connection")
        content = self._unread + received if self._unread else received
        at, size = 0, len(content)
        last_head = size - _HEAD
        ended: list[int] = []
        answered, head_of, message_of = self._answered, _FRAME_HEAD.unpack_from, _MESSAGE_HEAD.unpack_from
        while at <= last_head:
            high, low, kind, flags, stream = head_of(content, at)
            length = high << 16 | low
            end = at + _HEAD + length
            if end > size:
                break
            if kind == DATA:
                self.data_bytes += length
                # One message in one frame is what nearly all are.
                if length >= _MESSAGE_HEAD.size and message_of(content, at + _HEAD)[0] + _MESSAGE_HEAD.size == length:
                    self.messages += 1
                elif length:
                    self.messages += self._messages_in(content, at + _HEAD, end)
                answered.add(stream)
            if kind <= HEADERS:
                if flags & END_STREAM:
                    if stream in answered:
                        answered.remove(stream)
                    else:
                        self.refused += 1
                    ended.append(stream)
            else:
                self._control(kind, flags, content[at + _HEAD : end])
            at = end
        self._unread = content[at:]
        return ended

    @staticmethod
    def _messages_in(content: bytes, at: int, end: int) -> int:
        """How many messages a DATA frame has; all of them are small, and so in it as a whole."""
        count = 0
        while at < end:
            at += 5 + int.from_bytes(content[at + 1 : at + 5], "big")
            count += 1
        if at != end:
            raise ConnectionLostError("a message came in several frames: replies have to be smaller than 16 KiB")
        return count

    def _control(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self.socket.sendall(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            raise ConnectionLostError(f"a call was reset with error code {int.from_bytes(payload, 'big')}")
        elif kind == GOAWAY:
            raise ConnectionLostError(f"the server said GOAWAY with error code {payload[4:8].hex()}: {payload[8:]!r}")


class Lines:
    """Connections that share a load of calls, each with a number of them under way. One thread."""

    def __init__(self, port: int, count: int) -> None:
        """Connects `count` times."""
        self.lines = [Line(port) for _ in range(count)]
        self._selector = selectors.DefaultSelector()
        for line in self.lines:
            self._selector.register(line, selectors.EVENT_READ, line)

    def close(self) -> None:
        """Drops the connections."""
        self._selector.close()
        for line in self.lines:
            line.close()

    def ready(self, timeout: float) -> list[Line]:
        """Those that have something to be received."""
        return [key.data for key, _ in self._selector.select(timeout)]

    def settle(self, path: str, messages: list[bytes], streams: int) -> float:
        """Makes a call per message, spread over the connections, `streams` at a time on each; returns the seconds.

        Raises:
            ConnectionLostError: a connection was lost, a call was refused, or no reply came in time.
        """
        shares = [messages[number :: len(self.lines)] for number in range(len(self.lines))]
        calls = {
            line: [line.encoded(path, message)[1] for message in share]
            for line, share in zip(self.lines, shares, strict=True)
        }
        return self.run(calls, streams)[0]

    def run(self, calls: dict[Line, list[bytes]], streams: int) -> tuple[float, list[float]]:
        """Sends what was encoded, `streams` at a time on each connection.

        Returns:
            The seconds, and of a sample of calls how long each took.

        Raises:
            ConnectionLostError: see `settle`.
        """
        left = sum(map(len, calls.values()))
        refused = sum(line.refused for line in self.lines)
        sent: dict[Line, int] = {}
        # One call per connection is watched: its stream, and since when.
        watched: dict[Line, tuple[int, float]] = {}
        durations: list[float] = []
        clock = time.perf_counter
        started = clock()
        for line, own in calls.items():
            sent[line] = min(streams, len(own))
            line.send(b"".join(own[:streams]))
        while left:
            ready = self.ready(CALL_TIMEOUT)
            if not ready:
                raise ConnectionLostError(f"no reply came in {CALL_TIMEOUT:.0f} s, and {left} calls are under way")
            for line in ready:
                ended = line.receive()
                if not ended:
                    continue
                left -= len(ended)
                if line in watched and watched[line][0] in ended:
                    durations.append(clock() - watched.pop(line)[1])
                own, begin = calls[line], sent[line]
                if begin < len(own):
                    sent[line] = end = begin + len(ended)
                    batch = b"".join(own[begin:end])
                    if line not in watched:
                        watched[line] = (int.from_bytes(batch[5:9], "big"), clock())
                    line.send(batch)
        seconds = clock() - started
        if now := sum(line.refused for line in self.lines) - refused:
            raise ConnectionLostError(f"{now} calls were refused")
        return seconds, durations


def _string(text: str) -> bytes:
    encoded = text.encode("ascii")
    return struct.pack(">B", len(encoded)) + encoded
