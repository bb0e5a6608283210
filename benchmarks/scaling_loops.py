"""The loops that ``scaling`` measures: a request is ``KIND LOOPS SECONDS``, the answer ``{"handlers_per_second"}``.

Without a GIL, constants of code that was compiled in this very process are counted references, which threads that run
the same code fight for: the same arithmetic then takes twice as long on two loops as on one. Constants of code that was
read from a .pyc file, as installed packages are, are immortal. So the handlers are compiled to a file before they are
imported.
"""

from __future__ import annotations

import json
import py_compile
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import atoll

if TYPE_CHECKING:
    from benchmarks.scaling_handlers import Module

MAX_LOOPS: Final = 2


def measure(modules: list[Module], kind: str, seconds: float) -> float:
    """Return how many handlers per second ``modules`` ran together."""
    for module in modules:
        module.io_context.submit(module.start, kind).result()
    before = sum(module.handled for module in modules)
    started = time.perf_counter()
    time.sleep(seconds)
    while not (handled := sum(module.handled for module in modules) - before):
        time.sleep(seconds)  # others have the cores
    spent = time.perf_counter() - started
    for module in modules:
        module.stopping = True
    for module in modules:
        module.stopped.wait()
    return handled / spent


def main() -> None:
    """Answer requests until standard input ends."""
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        _tell(unavailable="it needs a free-threaded Python, such as: PYTHON=python3.14t make bench ARGS=scaling")
        return
    py_compile.compile(str(Path(__file__).with_name("scaling_handlers.py")), doraise=True)
    from benchmarks.scaling_handlers import Module, compute_on_threads  # noqa: PLC0415 -- not before it is compiled

    threads = [atoll.IoContextThread(f"loop-{number}") for number in range(MAX_LOOPS)]
    for thread in threads:
        thread.start()
    modules = [Module(thread.io_context) for thread in threads]
    _tell(ready=True)
    for line in sys.stdin:
        kind, loops, seconds = line.split()
        if kind == "threads":
            rate = compute_on_threads(int(loops), float(seconds))
        else:
            rate = measure(modules[: int(loops)], kind, float(seconds))
        _tell(handlers_per_second=rate)
    for thread in threads:
        thread.stop()


def _tell(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
