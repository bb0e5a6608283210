"""The server's side of its pipes: announces the port, answers questions, and ends the process when the input ends.

A thread of its own reads the input; it is blocked except for the instant of a question, and no question is asked while
calls are being measured.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.protos import EchoProtos


class Control:
    """What a server needs from the benchmark that started it."""

    def __init__(self, protos: EchoProtos, directory: Path) -> None:
        """Hold the generated code of the echo service, and where it and the certificate are."""
        self.protos = protos
        self.directory = directory
        self._set_neighbour: Callable[[str], None] | None = None
        self._answers: Mapping[str, Callable[[], dict[str, Any]]] = {}

    def announce(
        self,
        port: int,
        set_neighbour: Callable[[str], None] | None = None,
        *,
        tls_port: int | None = None,
        answers: Mapping[str, Callable[[], dict[str, Any]]] | None = None,
    ) -> None:
        """Tell the benchmark that calls can be made at ``port``; any thread.

        ``set_neighbour`` is called, on the control thread, with the kind of work that the neighbour is to do next.
        ``answers`` holds what else the benchmark may ask, by name; called on the control thread, too.
        """
        self._set_neighbour = set_neighbour
        self._answers = answers or {}
        threading.Thread(target=self._answer, name="benchmark-control", daemon=True).start()
        self.tell(port=port, tls_port=tls_port)

    def tell(self, **values: object) -> None:
        """Write one line of JSON."""
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()

    def _answer(self) -> None:
        for line in sys.stdin:
            request, _, argument = line.strip().partition(" ")
            if request == "cpu":
                # User and system time of all threads; what /proc/<pid>/stat counts, without rounding to ticks.
                self.tell(cpu_seconds=time.process_time())
            elif request == "neighbour" and self._set_neighbour is not None:
                self._set_neighbour(argument)
                self.tell(neighbour=argument)
            elif request == "memory":
                self.tell(resident_bytes=resident_bytes())
            elif request in self._answers:
                self.tell(**self._answers[request]())
            else:
                self.tell(error=f"unknown request: {line.strip()}")
        # The benchmark is over or gone. Nothing here is worth an orderly end, and an orderly end can hang.
        os._exit(0)


def resident_bytes() -> int:
    """Return how much of this process is in memory now; Linux only, elsewhere there is only the peak."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
