"""Processes to look at: this one with a loop that is stuck, and servers that answer whatever they are told to."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import atoll
from atoll.observe import LoopMonitor, MonitorOptions, ObserveEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Waits until the condition holds, and returns its value."""
    end = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.005)
    return value


class Stuck:
    """Two loops that a monitor watches; `stuck [b]` is blocked from `block()` on, until `let_go()`."""

    def __init__(self, monitor: LoopMonitor, stuck: atoll.IoContext, free: atoll.IoContext) -> None:
        self.monitor = monitor
        self.stuck = stuck
        self.free = free
        self._end = threading.Event()

    def block(self) -> None:
        self.stuck.post(self._block_the_loop, name="Service.Slow[red]")
        wait_for(lambda: [it for it in self.monitor.stalls() if not it.over], "the stall")

    def _block_the_loop(self) -> None:
        self._end.wait(60)

    def let_go(self) -> None:
        self._end.set()


@pytest.fixture
def loops() -> Iterator[Stuck]:
    options = MonitorOptions(interval=0.01, deadline=0.05, stall_threshold=0.02)
    with (
        LoopMonitor(options) as monitor,
        atoll.IoContextThread("stuck [b]") as stuck,
        atoll.IoContextThread("free") as free,
    ):
        for thread in (stuck, free):
            monitor.watch(thread.io_context)
        loops = Stuck(monitor, stuck.io_context, free.io_context)
        loops.free.submit(time.sleep, 0.002, name="quick").result(30)
        yield loops
        loops.let_go()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[ObserveEndpoint]:
    with ObserveEndpoint(f"unix:{tmp_path}/observe.sock") as endpoint:
        yield endpoint


class Canned:
    """A server that answers every connection with `answer`; None: it accepts and says nothing."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix:{path}"
        self.answer: bytes | None = None
        self.asked = threading.Event()
        self._held: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def json(self, text: str) -> None:
        """Answers as an endpoint does, with this for JSON."""
        body = text.encode()
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            request = connection.recv(65536)
            self.asked.set()
            if request == b"end":
                connection.close()
                return
            if self.answer is None:
                self._held.append(connection)
                continue
            with contextlib.suppress(OSError), connection:
                connection.sendall(self.answer)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.address.removeprefix("unix:"))
            last.sendall(b"end")
            self._thread.join()
        for each in [self._listener, *self._held]:
            each.close()


@pytest.fixture
def canned(tmp_path: Path) -> Iterator[Canned]:
    canned = Canned(tmp_path / "canned.sock")
    yield canned
    canned.close()
