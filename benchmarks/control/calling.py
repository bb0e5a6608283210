"""KV calls, a number of them in flight: ``python -m benchmarks.control.calling SERVER PORT CONNECTIONS STREAMS KEYS``.

A line on the standard input names a method and a number of calls; they are made to keys chosen by chance, and answered
with how long they took, and how much of the processor this client took. What is sent is made before the clock starts.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from typing import Any

from benchmarks.control.beating import say
from benchmarks.control.line import Line, Lines
from benchmarks.control.requests import METHODS, VALUE
from benchmarks.frames import ConnectionLostError
from benchmarks.summary import quantile


def main() -> None:
    """Do as the lines on the standard input say, until it ends."""
    server = sys.argv[1]
    port, connections, streams, keys = (int(argument) for argument in sys.argv[2:])
    lines = Lines(port, connections)
    chance = random.Random(1)  # noqa: S311 -- keys, not secrets
    put = METHODS[server, "put"]
    lines.settle(put.path, [put.message(number) for number in range(keys)], streams)
    say(ready=True)
    for line in sys.stdin:
        method, calls = line.split()
        say(**_run(lines, server, method, [chance.randrange(keys) for _ in range(int(calls))], streams))
    os._exit(0)


def _run(lines: Lines, server: str, method: str, keys: list[int], streams: int) -> dict[str, Any]:
    called = METHODS[server, method]
    # Paths that are new to a connection change its table.
    lines.settle(called.path, [called.message(0)] * len(lines.lines), 1)
    calls: dict[Line, list[bytes]] = {line: [] for line in lines.lines}
    for position, number in enumerate(keys):
        line = lines.lines[position % len(lines.lines)]
        calls[line].append(line.encoded(called.path, called.message(number))[1])
    gc.collect()
    gc.disable()
    before = sum(line.data_bytes for line in lines.lines)
    spent = time.process_time()
    seconds, durations = lines.run(calls, streams)
    spent = time.process_time() - spent
    gc.enable()
    received = sum(line.data_bytes for line in lines.lines) - before
    least = 5 + len(VALUE) if method != "put" else 5
    if received <= least * len(keys):
        raise ConnectionLostError(f"{len(keys)} replies have {received} bytes: {server} does not answer {method}")
    durations.sort()
    return {
        "calls": len(keys),
        "seconds": seconds,
        "client_cpu_seconds": spent,
        "p50_us": 1e6 * quantile(durations, 0.5) if durations else 0.0,
        "p99_us": 1e6 * quantile(durations, 0.99) if durations else 0.0,
    }


if __name__ == "__main__":
    main()
