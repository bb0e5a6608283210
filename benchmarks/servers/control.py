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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.protos import EchoProtos


class Control:
    """What a server needs from the benchmark that started it."""

    def __init__(self, protos: EchoProtos) -> None:
        """Hold the generated code of the echo service."""
        self.protos = protos
        self._set_neighbour: Callable[[str], None] | None = None

    def announce(self, port: int, set_neighbour: Callable[[str], None] | None = None) -> None:
        """Tell the benchmark that calls can be made at ``port``; any thread.

        ``set_neighbour`` is called, on the control thread, with the kind of work that the neighbour is to do next.
        """
        self._set_neighbour = set_neighbour
        threading.Thread(target=self._answer, name="benchmark-control", daemon=True).start()
        self.tell(port=port)

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
            else:
                self.tell(error=f"unknown request: {line.strip()}")
        # The benchmark is over or gone. Nothing here is worth an orderly end, and an orderly end can hang.
        os._exit(0)
