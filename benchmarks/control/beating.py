"""Nodes that send heartbeats: ``python -m benchmarks.control.beating NODES CONNECTIONS INTERVAL PORT [PORT ...]``.

Lines on the standard input: ``register`` registers all nodes at the first port, ``beat`` has them begin, ``counts``
asks what came of it since the last ``forget``. Nodes share connections, each keeps its own pace, and what is due is
sent at once: nothing waits to be sent together.

Nodes whose connection is lost go to the next port, and so do those whose calls are refused for a second; which they try
again after 0.5 to 1.5 s, as agents on as many machines would.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import resource
import selectors
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

from atoll_control.api.v1 import health_pb2, node_pb2
from benchmarks.control.line import Line, Lines
from benchmarks.frames import ConnectionLostError
from benchmarks.summary import quantile

HEARTBEAT: Final = "/atoll.v1.HealthService/Heartbeat"
REGISTER: Final = "/atoll.v1.NodeService/Register"
DETECTOR: Final = "/atoll.v1.HealthService/GetDetector"
REGISTERED_AT_A_TIME: Final = 256

_RECONNECT_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 1.0
_LONGEST_WAIT: Final = 0.05


@dataclass(slots=True)
class _Place:
    """A connection's place, which outlives it."""

    number: int
    line: Line | None
    # Which of the ports it is at, since when, and when it is tried anew if it is lost.
    port: int = 0
    since: float = 0.0
    again_at: float = 0.0
    # Calls under way, by stream: the node, and when it was sent.
    calls: dict[int, tuple[int, float]] = field(default_factory=dict)


class Beating:
    """All nodes, on one thread."""

    def __init__(self, nodes: int, connections: int, interval: float, ports: list[int]) -> None:
        """Connects, and makes a call on each connection, so that the server has no more to do for it."""
        self._ports, self._interval = ports, interval
        self._lines = Lines(ports[0], connections)
        self._lines.settle(DETECTOR, [b""] * connections, 1)
        self._places = [_Place(number, line) for number, line in enumerate(self._lines.lines)]
        self._names = [f"node-{number:05d}.benchmark.example" for number in range(nodes)]
        self._messages = [
            health_pb2.HeartbeatRequest(node_id=name, incarnation=1).SerializeToString() for name in self._names
        ]
        self._down: list[_Place] = []
        self._due = [0.0] * nodes
        self._heap: list[tuple[float, int]] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
        for place in self._places:
            self._selector.register(self._socket_of(place), selectors.EVENT_READ, place)
        self._chance = random.Random(1)  # noqa: S311 -- paces, not secrets
        self.forget()

    def register(self) -> float:
        """Registers all nodes, each on the connection that its heartbeats go by; returns the seconds."""
        requests = [
            node_pb2.RegisterRequest(
                node_id=name,
                incarnation=1,
                address=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:7070",
                host=node_pb2.Host(name=name, cpus=64, memory_bytes=1 << 38, os="Linux 6.12", architecture="x86_64"),
                labels={"zone": f"zone-{number % 3}", "rack": f"rack-{number % 100}", "kind": "worker"},
                resources={"cpu": 64.0, "gpu": 8.0},
            ).SerializeToString()
            for number, name in enumerate(self._names)
        ]
        each = max(1, REGISTERED_AT_A_TIME // len(self._places))
        return self._lines.settle(REGISTER, requests, each)

    def beat(self) -> None:
        """Has the nodes begin, spread over an interval."""
        now = time.monotonic()
        for node in range(len(self._names)):
            self._schedule(node, now + self._interval * node / len(self._names))

    def forget(self) -> None:
        """Begins to count anew."""
        self._sent = self._answered = self._refused = self._lost = 0
        self._durations: list[float] = []
        self._heard: dict[int, float] = {}
        self._spent = time.process_time()
        self._since = time.monotonic()

    def counts(self) -> dict[str, Any]:
        """What happened since then.

        When nodes were heard first is told by the monotonic clock, and of heartbeats that were sent since then.
        """
        durations = sorted(self._durations)
        return {
            "sent": self._sent,
            "answered": self._answered,
            "under_way": sum(len(place.calls) for place in self._places),
            "refused": self._refused,
            "lost": self._lost,
            "nodes_heard": len(self._heard),
            "first_heard": min(self._heard.values(), default=None),
            "last_heard": max(self._heard.values(), default=None),
            "p50_us": 1e6 * quantile(durations, 0.5) if durations else None,
            "p99_us": 1e6 * quantile(durations, 0.99) if durations else None,
            "client_cores": (time.process_time() - self._spent) / (time.monotonic() - self._since),
        }

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Does what is due, until the standard input ends."""
        unread = b""
        while True:
            now = time.monotonic()
            wait = self._heap[0][0] - now if self._heap else _LONGEST_WAIT
            for key, _ in self._selector.select(min(max(wait, 0.0), _LONGEST_WAIT)):
                if key.data is not None:
                    self._receive(key.data)
                    continue
                content = os.read(sys.stdin.fileno(), 65536)
                if not content:
                    return
                *lines, unread = (unread + content).split(b"\n")
                for line in lines:
                    say(**self._do(line.decode()))
            self._send_due(time.monotonic())

    def _do(self, request: str) -> dict[str, Any]:
        match request:
            case "register":
                return {"seconds": self.register()}
            case "beat":
                self.beat()
            case "forget":
                self.forget()
            case "counts":
                return self.counts()
            case _:
                return {"error": f"unknown request: {request}"}
        return {"done": request}

    def _schedule(self, node: int, due: float) -> None:
        self._due[node] = due
        heapq.heappush(self._heap, (due, node))

    def _send_due(self, now: float) -> None:
        for place in [place for place in self._down if now >= place.again_at]:
            self._connect(place, now)
        while self._heap and self._heap[0][0] <= now:
            due, node = heapq.heappop(self._heap)
            # What was put off or brought forward is there twice.
            if due != self._due[node]:
                continue
            place = self._places[node % len(self._places)]
            if place.line is None:
                self._schedule(node, max(place.again_at, now + _RECONNECT_SECONDS / 2))
                continue
            self._schedule(node, due + self._interval)
            stream, call = place.line.encoded(HEARTBEAT, self._messages[node])
            place.calls[stream] = (node, now)
            self._sent += 1
            try:
                place.line.send(call)
            except OSError:
                self._lose(place, now, place.port + 1)

    def _receive(self, place: _Place) -> None:
        line = place.line
        if line is None:
            return
        refused = line.refused
        try:
            ended = line.receive()
        except (OSError, ConnectionLostError):
            self._lose(place, time.monotonic(), place.port + 1)
            return
        now = time.monotonic()
        if line.refused != refused:
            self._refuse(place, ended, now)
            return
        for stream in ended:
            node, sent = place.calls.pop(stream)
            self._answered += 1
            self._durations.append(now - sent)
            if sent >= self._since:
                self._heard.setdefault(node, now)

    def _refuse(self, place: _Place, ended: list[int], now: float) -> None:
        """A server that refuses one call refuses all: it does not lead."""
        for stream in ended:
            node, _ = place.calls.pop(stream)
            self._refused += 1
            self._schedule(node, now + self._retry_seconds())
        if len(self._ports) > 1 and now - place.since > _PATIENCE_SECONDS:
            self._lose(place, now, place.port + 1)

    def _retry_seconds(self) -> float:
        return self._chance.uniform(0.5, 1.5)

    # -- connections ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _socket_of(place: _Place) -> int:
        assert place.line is not None
        return place.line.fileno()

    def _lose(self, place: _Place, now: float, port: int) -> None:
        """The nodes of this connection try another port soon."""
        self._selector.unregister(self._socket_of(place))
        assert place.line is not None
        place.line.close()
        place.line = None
        self._down.append(place)
        place.port = port % len(self._ports)
        place.again_at = now + _RECONNECT_SECONDS
        self._lost += len(place.calls)
        for node, _ in place.calls.values():
            self._schedule(node, now + self._retry_seconds())
        place.calls.clear()

    def _connect(self, place: _Place, now: float) -> None:
        try:
            place.line = Line(self._ports[place.port])
        except OSError:
            place.port = (place.port + 1) % len(self._ports)
            place.again_at = now + _RECONNECT_SECONDS
            return
        self._down.remove(place)
        place.since = now
        self._selector.register(place.line, selectors.EVENT_READ, place)


def say(**values: object) -> None:
    """Writes one line of JSON."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def raise_file_limit() -> None:
    """Lets this process have as many connections as the machine allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    """Do as the lines on the standard input say, until it ends."""
    nodes, connections, interval, *ports = sys.argv[1:]
    raise_file_limit()
    beating = Beating(int(nodes), int(connections), float(interval), [int(port) for port in ports])
    say(ready=True)
    beating.run()
    os._exit(0)


if __name__ == "__main__":
    main()
