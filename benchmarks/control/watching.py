"""Streams that watch one key: ``python -m benchmarks.control.watching PORT CONNECTIONS``.

Lines on the standard input: ``open STREAMS`` opens so many more, spread over the connections, and waits until each has
its snapshot; ``change`` puts the key's next value, by a connection of its own, and waits until every stream has told
it.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from atoll_control.api.v1 import kv_pb2, watch_pb2
from benchmarks.control.beating import raise_file_limit, say
from benchmarks.control.line import Lines
from benchmarks.control.requests import NAMESPACE, VALUE
from benchmarks.frames import ConnectionLostError

if TYPE_CHECKING:
    from collections.abc import Callable

WATCH: Final = "/atoll.v1.WatchService/Watch"
PUT: Final = "/atoll.v1.KvService/Put"
KEY: Final = b"watched"

# A watch is answered with its opening and with its snapshot, of one page here.
_MESSAGES_TO_OPEN: Final = 2
_OPENED_AT_A_TIME: Final = 500
_TIMEOUT: Final = 60.0


class Watching:
    """All streams, on one thread."""

    def __init__(self, port: int, connections: int) -> None:
        """Connects; the key is there from the beginning."""
        self._writer = Lines(port, 1)
        self._lines = Lines(port, connections)
        self._streams = 0
        self._changes = 0
        self._put()

    def open(self, streams: int) -> dict[str, Any]:
        """Opens watches and waits for their snapshots."""
        source = watch_pb2.KvSource(namespace=NAMESPACE, key=KEY)
        request = watch_pb2.WatchRequest(open=watch_pb2.OpenWatch(kv=source)).SerializeToString()
        started = time.perf_counter()
        expected = self._messages()
        lines = self._lines.lines
        for begin in range(0, streams, _OPENED_AT_A_TIME):
            count = min(_OPENED_AT_A_TIME, streams - begin)
            for number in range(count):
                line = lines[(begin + number) % len(lines)]
                line.send(line.encoded(WATCH, request, ends=False)[1])
            expected += count * _MESSAGES_TO_OPEN
            self._wait_for(expected, lambda _: None)
        self._streams += streams
        return {"streams": self._streams, "seconds": time.perf_counter() - started}

    def change(self) -> dict[str, Any]:
        """Puts a value; times count from before the put, in milliseconds."""
        gc.collect()
        gc.disable()
        heard: list[tuple[int, float]] = []
        before = self._messages()
        spent = time.process_time()
        started = time.perf_counter()
        put_ms = 1e3 * self._put()
        self._wait_for(
            before + self._streams, lambda count: heard.append((count - before, time.perf_counter() - started))
        )
        spent = time.process_time() - spent
        gc.enable()
        half = next(seconds for count, seconds in heard if 2 * count >= self._streams)
        return {
            "put_ms": put_ms,
            "first_ms": 1e3 * heard[0][1],
            "half_ms": 1e3 * half,
            "last_ms": 1e3 * heard[-1][1],
            "client_cpu_ms": 1e3 * spent,
        }

    def _put(self) -> float:
        """Changes the key; returns the seconds until that was acknowledged."""
        self._changes += 1
        value = b"%08d" % self._changes + VALUE
        request = kv_pb2.PutRequest(namespace=NAMESPACE, key=KEY, value=value, overwrite=True)
        return self._writer.settle(PUT, [request.SerializeToString()], 1)

    def _messages(self) -> int:
        return sum(line.messages for line in self._lines.lines)

    def _wait_for(self, expected: int, heard: Callable[[int], None]) -> None:
        deadline = time.monotonic() + _TIMEOUT
        count = self._messages()
        while count < expected:
            for line in self._lines.ready(1.0):
                before = line.messages
                if line.receive():
                    raise ConnectionLostError("the server ended a watch")
                if line.messages != before:
                    count += line.messages - before
                    heard(count)
            if time.monotonic() > deadline:
                raise ConnectionLostError(f"{expected} messages should have come in {_TIMEOUT:.0f} s, {count} have")
        if count != expected:
            raise ConnectionLostError(f"{expected} messages should have come, {count} have")


def main() -> None:
    """Do as the lines on the standard input say, until it ends."""
    raise_file_limit()
    port, connections = (int(argument) for argument in sys.argv[1:])
    watching = Watching(port, connections)
    say(ready=True)
    for line in sys.stdin:
        match line.split():
            case ["open", streams]:
                say(**watching.open(int(streams)))
            case ["change"]:
                say(**watching.change())
            case _:
                say(error=f"unknown request: {line.strip()}")
    # Ten thousand streams need no orderly end.
    os._exit(0)


if __name__ == "__main__":
    main()
