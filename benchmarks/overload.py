"""Five times more bulk calls than a loop can serve, beside heartbeats: Atoll against grpc.aio with a limit."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from benchmarks.overloading import OVERLOAD, SCAN_SECONDS
from benchmarks.processes import Child, ChildFailedError
from benchmarks.result import Result, Table, us
from benchmarks.summary import Figure

if TYPE_CHECKING:
    from benchmarks.progress import Progress

SERVERS: Final = ("atoll", "grpc_aio")
_AFTERWARDS_SECONDS: Final = 3.0


class OverloadBenchmark:
    """One round after the other, each with servers of its own."""

    name = "overload"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._rounds = 1 if quick else 3
        self._seconds = 3.0 if quick else 8.0
        self.expected_seconds = len(SERVERS) * self._rounds * (self._seconds + _AFTERWARDS_SECONDS)

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        measured: dict[str, list[dict[str, Any]]] = {name: [] for name in SERVERS}
        for number in range(self._rounds):
            for name in SERVERS:
                label = f"overload, round {number + 1} of {self._rounds}: {name}"
                progress.step(label, self._seconds + _AFTERWARDS_SECONDS)
                try:
                    measured[name].append(self._measure(name))
                except ChildFailedError as error:
                    result.notes.append(f"{name} failed under the load: {error}")
        for name, rounds in measured.items():
            _report(name, rounds, result)
        columns = (
            "server",
            "answered/s",
            "beats missed",
            "beat p50",
            "beat p99",
            "expired calls run",
            "control queue p99",
        )
        rows = tuple(_row(name, rounds, result, self._seconds) for name, rounds in measured.items() if rounds)
        rate = OVERLOAD / SCAN_SECONDS
        title = f"Heartbeats beside {rate:,.0f} bulk calls/s, {OVERLOAD} times what the loop can do"
        result.tables.append(Table(title, columns, rows))
        return result

    def _measure(self, name: str) -> dict[str, Any]:
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(Child("benchmarks.overloading", name))
            arguments = ("load", str(server.announcement["port"]), str(self._seconds))
            # All that it says is what came of it, in the end.
            load = Child("benchmarks.overloading", *arguments, start_timeout=self._seconds + 60.0)
            stack.enter_context(load)
            return {**load.announcement, **server.ask("stats", timeout=30.0)}


def _report(name: str, rounds: list[dict[str, Any]], result: Result) -> None:
    for key in ("beat_p50_us", "beat_p99_us", "control_queue_p99_us", "expired", "beats_missed"):
        values = [round_[key] for round_ in rounds if round_.get(key) is not None]
        if values:
            result.figures[f"overload.{name}.{key}"] = Figure.of(values)


def _row(name: str, rounds: list[dict[str, Any]], result: Result, seconds: float) -> tuple[str, ...]:
    def shown(key: str) -> str:
        figure = result.figures.get(f"overload.{name}.{key}")
        return "-" if figure is None else us(figure)

    beats = sum(round_["beats"] for round_ in rounds)
    missed = sum(round_["beats_missed"] for round_ in rounds)
    answered = sum(round_["outcomes"].get("OK", 0) for round_ in rounds) / len(rounds) / seconds
    expired = sum(round_["expired"] for round_ in rounds)
    return (
        name,
        f"{answered:,.0f}",
        f"{missed / beats:.1%}",
        shown("beat_p50_us"),
        shown("beat_p99_us"),
        f"{expired:,}",
        shown("control_queue_p99_us"),
    )
