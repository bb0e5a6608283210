"""From starting ``atollctl serve`` with up to a million keys stored until it answers a get, and its memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.control import plan
from benchmarks.control.line import Lines
from benchmarks.control.requests import METHODS
from benchmarks.control.servers import Server, folder, missing
from benchmarks.processes import Child, ChildFailedError
from benchmarks.result import Result, Table
from benchmarks.summary import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.control.plan import Size
    from benchmarks.progress import Progress

QUANTITIES: Final = ("seconds", "cpu_seconds", "bytes_per_key", "file_bytes_per_key", "filled_per_second")

_START_SECONDS: Final = 1.5
_SECONDS_PER_MILLION: Final = 4.0
_FILL_SECONDS_PER_MILLION: Final = 12.0
_FILL_TIMEOUT: Final = 300.0


class RestartBenchmark:
    """One number of keys after the other, in the same directory, and a kill -9 before each start."""

    name = "restart"

    def __init__(self, *, quick: bool, size: Size | None = None) -> None:
        """Choose the length of the run."""
        self._size = size or plan.size(quick=quick)
        starts = [0, *self._size.restart_keys, *[self._size.restart_keys[-1]] * (self._size.restarts - 1)]
        self.expected_seconds = sum(map(_fills_in, self._size.restart_keys)) + sum(map(_starts_in, starts))

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        if (lack := missing()) is not None:
            result.applies = False
            result.notes.append(f"restarts left out: {lack}")
            return result
        with folder() as directory:
            data = directory / "data"
            progress.step("restart: without a key", _START_SECONDS)
            empty = self._start(directory, data, 0)
            for keys in self._size.restart_keys:
                progress.step(f"restart, filling to {keys:,} keys", _fills_in(keys))
                arguments = (str(data), str(keys))
                with Child("benchmarks.control.filling", *arguments, start_timeout=_FILL_TIMEOUT) as filled:
                    seconds = float(filled.announcement["seconds"])
                rounds = []
                for number in range(self._size.restarts if keys == self._size.restart_keys[-1] else 1):
                    progress.step(f"restart {number + 1} with {keys:,} keys", _starts_in(keys))
                    rounds.append(self._start(directory, data, keys))
                measured = {
                    "seconds": [each["seconds"] for each in rounds],
                    "cpu_seconds": [each["cpu_seconds"] for each in rounds],
                    "bytes_per_key": [(each["resident"] - empty["resident"]) / keys for each in rounds],
                    "file_bytes_per_key": [sum(file.stat().st_size for file in data.iterdir()) / keys],
                    "filled_per_second": [keys / seconds],
                }
                report(keys, measured, result)
        result.figures["restart.0.seconds"] = Figure.of([empty["seconds"]])
        result.tables.append(_table(self._size, result))
        result.notes.append(
            f"without a key it takes {empty['seconds']:.2f} s and {empty['resident'] / (1 << 20):.0f} MiB; keys of 12 "
            "bytes with values of 100 bytes; the file has the change log, too"
        )
        return result

    @staticmethod
    def _start(directory: Path, data: Path, keys: int) -> dict[str, float]:
        started = time.perf_counter()
        server = Server(directory, "--data-dir", str(data), "--max-kv-bytes", str(1 << 33))
        try:
            server.wait_for("server_started")
            lines = Lines(server.port, 1)
            if keys:
                get = METHODS["atoll", "get"]
                lines.settle(get.path, [get.message(keys - 1)], 1)
            else:
                lines.settle("/atoll.v1.AdminService/GetServer", [b""], 1)
            seconds = time.perf_counter() - started
            if keys and not lines.lines[0].data_bytes:
                raise ChildFailedError(f"key {keys - 1} is not there")
            lines.close()
            return {"seconds": seconds, "cpu_seconds": server.cpu_seconds(), "resident": server.resident_bytes()}
        finally:
            server.kill()


def report(keys: int, measured: dict[str, list[float]], result: Result) -> None:
    """Add the figures of one number of keys."""
    for quantity in QUANTITIES:
        result.figures[f"restart.{keys}.{quantity}"] = Figure.of(measured[quantity])


def _starts_in(keys: int) -> float:
    return _START_SECONDS + _SECONDS_PER_MILLION * keys / 1_000_000


def _fills_in(keys: int) -> float:
    return _START_SECONDS + _FILL_SECONDS_PER_MILLION * keys / 1_000_000


def _table(size: Size, result: Result) -> Table:
    rows = []
    for keys in size.restart_keys:
        seconds, cpu, memory, file, filled = (result.figures[f"restart.{keys}.{quantity}"] for quantity in QUANTITIES)
        rows.append(
            (
                f"{keys:,}",
                f"{seconds.median:.2f} s ({seconds.low:.2f}-{seconds.high:.2f})",
                f"{cpu.median:.2f} s",
                f"{memory.median:,.0f} bytes",
                f"{file.median:,.0f} bytes",
                f"{filled.median:,.0f}",
            )
        )
    columns = ("keys", "until the first get", "server CPU", "memory per key", "file per key", "filled/s")
    return Table("Starting with keys in the directory, after kill -9", columns, tuple(rows))
