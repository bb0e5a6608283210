"""Gets and durable puts from 128 calls in flight: the control plane on SQLite beside an etcd of one member."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.control import plan
from benchmarks.control.servers import Etcd, Server, folder, missing, sync_microseconds
from benchmarks.processes import Child, UnavailableError
from benchmarks.result import Result, Table, times, us
from benchmarks.summary import Figure, ratio

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.control.plan import Size
    from benchmarks.progress import Progress

CONNECTIONS: Final = 8
STREAMS: Final = 16
METHODS: Final = {
    "put": "durable put",
    "get": "get",
    "stale_get": "get, may be stale",
}
"""By what figures call them. Of etcd a get is linearizable unless it says that it may be stale; of us it always is."""
QUANTITIES: Final = ("calls_per_second", "cpu_us", "client_cpu_us", "client_cores", "server_cores", "p50_us", "p99_us")

_CALIBRATION_CALLS: Final = 400
_START_SECONDS: Final = 4.0
_OVERHEAD: Final = 1.6


@dataclass(frozen=True, slots=True)
class Measured:
    """A server and its client, ready."""

    server: Server | Etcd
    client: Child
    methods: tuple[str, ...]

    def run(self, method: str, calls: int) -> dict[str, float]:
        """Makes the calls."""
        before = self.server.cpu_seconds()
        told = self.client.ask(f"{method} {calls}", timeout=120.0)
        spent = self.server.cpu_seconds() - before
        seconds = float(told["seconds"])
        return {
            "calls_per_second": calls / seconds,
            "cpu_us": 1e6 * spent / calls,
            "client_cpu_us": 1e6 * told["client_cpu_seconds"] / calls,
            "client_cores": told["client_cpu_seconds"] / seconds,
            "server_cores": spent / seconds,
            "p50_us": told["p50_us"],
            "p99_us": told["p99_us"],
        }


class KvBenchmark:
    """Both servers side by side, taking turns."""

    name = "kv"

    def __init__(self, *, quick: bool, size: Size | None = None) -> None:
        """Choose the length of the run."""
        self._size = size or plan.size(quick=quick)
        self._turn = self._size.kv_seconds * _OVERHEAD + 0.3
        turns = 5 * (self._size.kv_rounds + 1) + 3 * len(self._size.other_keys)
        self.expected_seconds = _START_SECONDS + turns * self._turn

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        if (lack := missing()) is not None:
            result.applies = False
            result.notes.append(f"keys left out: {lack}")
            return result
        with folder() as directory:
            synced = Figure.of_quartiles(sync_microseconds(directory))
            result.figures["kv.disk.sync_us"] = synced
            samples = self._measure(directory, progress, result)
        report(samples, result)
        result.notes.append(
            f"the disk takes {synced.median:.0f} us ({synced.low:.0f}-{synced.high:.0f}) to make 4 KiB durable; "
            f"{self._size.keys:,} keys of 12 bytes with values of 100 bytes; both servers sync before they answer a put"
        )
        return result

    def _measure(
        self, directory: Path, progress: Progress, result: Result
    ) -> dict[tuple[str, str], list[dict[str, float]]]:
        samples: dict[tuple[str, str], list[dict[str, float]]] = {}
        with contextlib.ExitStack() as stack:
            progress.step("kv: starting both servers, and filling them", _START_SECONDS)
            server = stack.enter_context(Server(directory, "--data-dir", str(directory / "data")))
            measured = {
                "atoll": Measured(
                    server, stack.enter_context(self._client("atoll", server.port, self._size.keys)), _OURS
                )
            }
            try:
                etcd = stack.enter_context(Etcd(directory))
            except UnavailableError as error:
                result.notes.append(f"left out etcd: {error}")
            else:
                client = stack.enter_context(self._client("etcd", etcd.port, self._size.keys))
                measured["etcd"] = Measured(etcd, client, tuple(METHODS))
            for method, title in METHODS.items():
                chosen = {name: each for name, each in measured.items() if method in each.methods}
                rates = {}
                for name, each in chosen.items():
                    progress.step(f"kv {title}, warm-up: {name}", self._turn)
                    rates[name] = each.run(method, _CALIBRATION_CALLS)["calls_per_second"]
                    rates[name] = each.run(method, self._calls(rates[name] / 2))["calls_per_second"]
                for number in range(self._size.kv_rounds):
                    for name, each in chosen.items():
                        progress.step(f"kv {title}, round {number + 1} of {self._size.kv_rounds}: {name}", self._turn)
                        sample = each.run(method, self._calls(rates[name]))
                        rates[name] = sample["calls_per_second"]
                        samples.setdefault((name, method), []).append(sample)
            self._measure_others(server, progress, result)
        return samples

    def _measure_others(self, server: Server, progress: Progress, result: Result) -> None:
        """How the rates go with the number of keys, the least first: the server keeps them."""
        rows = []
        for keys in self._size.other_keys:
            progress.step(f"kv, filling to {keys:,} keys", self._turn)
            with self._client("atoll", server.port, keys) as client:
                measured = Measured(server, client, _OURS)
                row = [f"{keys:,}"]
                for method in _OURS:
                    progress.step(f"kv {METHODS[method]} with {keys:,} keys", self._turn)
                    rate = measured.run(method, _CALIBRATION_CALLS)["calls_per_second"]
                    rate = measured.run(method, self._calls(rate / 2))["calls_per_second"]
                    sample = measured.run(method, self._calls(rate))
                    for quantity in ("calls_per_second", "cpu_us"):
                        result.figures[f"kv.{keys}_keys.{method}.{quantity}"] = Figure.of([sample[quantity]])
                    row += [f"{sample['calls_per_second']:,.0f}", f"{sample['cpu_us']:.2f} us"]
                rows.append(tuple(row))
        columns = ("keys", "durable puts/s", "server CPU/call", "gets/s", "server CPU/call")
        result.tables.append(Table("Other numbers of keys, atoll, once each", columns, tuple(rows)))

    def _calls(self, rate: float) -> int:
        return max(_CALIBRATION_CALLS, round(rate * self._size.kv_seconds))

    @staticmethod
    def _client(server: str, port: int, keys: int) -> Child:
        arguments: tuple[Any, ...] = (server, port, CONNECTIONS, STREAMS, keys)
        return Child("benchmarks.control.calling", *map(str, arguments), start_timeout=120.0)


_OURS: Final = ("put", "get")


def report(samples: dict[tuple[str, str], list[dict[str, float]]], result: Result) -> None:
    """Add the figures, the ratios to etcd and the table."""
    rows = []
    for (name, method), rounds in samples.items():
        of_method = {quantity: [each[quantity] for each in rounds] for quantity in QUANTITIES}
        for quantity, values in of_method.items():
            result.figures[f"kv.{method}.{name}.{quantity}"] = Figure.of(values)
        against = cost = None
        if name == "atoll" and ("etcd", method) in samples:
            theirs = samples["etcd", method]
            against = ratio(of_method["calls_per_second"], [each["calls_per_second"] for each in theirs])
            cost = ratio([each["cpu_us"] for each in theirs], of_method["cpu_us"])
            result.figures[f"kv.{method}.atoll.calls_per_second.over.etcd"] = against
            result.figures[f"kv.{method}.etcd.cpu_us.over.atoll"] = cost
        figures = {quantity: result.figures[f"kv.{method}.{name}.{quantity}"] for quantity in QUANTITIES}
        rate = figures["calls_per_second"]
        rows.append(
            (
                f"{METHODS[method]}: {name}",
                f"{rate.median:,.0f} ({rate.low:,.0f}-{rate.high:,.0f})",
                us(figures["cpu_us"]),
                f"{figures['server_cores'].median:.2f}",
                us(figures["client_cpu_us"]),
                f"{figures['client_cores'].median:.2f}",
                us(figures["p50_us"]),
                us(figures["p99_us"]),
                times(against),
                times(cost),
            )
        )
    columns = (
        *("call", "calls/s", "server CPU/call", "server cores", "client CPU/call", "client cores", "p50", "p99"),
        *("calls/s : etcd", "etcd's CPU/call : ours"),
    )
    result.tables.append(Table(f"Keys, {CONNECTIONS} connections x {STREAMS} calls in flight", columns, tuple(rows)))
