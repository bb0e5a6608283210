"""Two CPU-bound loops against one: how much of a second core they get. Free-threaded builds only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.processes import Child, UnavailableError
from benchmarks.result import Result, Table, times
from benchmarks.summary import Figure, ratio

if TYPE_CHECKING:
    from benchmarks.progress import Progress

KINDS: Final = {
    "threads": "plain threads without loops: arithmetic",
    "arithmetic": "arithmetic",
    "state": "dictionaries and objects of the module's own",
    "short": "hardly anything",
    "coroutine": "a coroutine: arithmetic, an await, arithmetic",
}

_START_SECONDS: Final = 1.0


class ScalingBenchmark:
    """Runs ``benchmarks.scaling_loops`` in its own process: one loop, then two, round by round."""

    name = "scaling"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._rounds = 3 if quick else 7
        self._seconds = 0.3 if quick else 0.7
        self.expected_seconds = _START_SECONDS + 2 * self._rounds * len(KINDS) * self._seconds

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        progress.step("scaling: start", _START_SECONDS)
        measured: dict[tuple[str, int], list[float]] = {}
        try:
            with Child("benchmarks.scaling_loops") as child:
                for number in range(self._rounds):
                    for kind in KINDS:
                        for loops in (1, 2):
                            label = f"scaling {kind}, round {number + 1} of {self._rounds}: {loops} at once"
                            progress.step(label, self._seconds)
                            answer = child.ask(f"{kind} {loops} {self._seconds}", timeout=30 + 10 * self._seconds)
                            measured.setdefault((kind, loops), []).append(answer["handlers_per_second"])
        except UnavailableError as error:
            result.applies = False
            result.notes.append(f"left out scaling: {error}")
            return result
        _compare(measured, result)
        return result


def _compare(measured: dict[tuple[str, int], list[float]], result: Result) -> None:
    rows = []
    for kind, description in KINDS.items():
        one, two = measured[kind, 1], measured[kind, 2]
        prefix = f"scaling.{kind}"
        result.figures[f"{prefix}.one.handlers_per_second"] = Figure.of(one)
        result.figures[f"{prefix}.two.handlers_per_second"] = Figure.of(two)
        result.figures[f"{prefix}.two.over.one"] = ratio(two, one)
        shown = [f"{result.figures[f'{prefix}.{name}.handlers_per_second'].median:,.0f}" for name in ("one", "two")]
        rows.append((description, *shown, times(result.figures[f"{prefix}.two.over.one"])))
    columns = ("each handler", "one loop, handlers/s", "two loops", "two : one")
    result.tables.append(Table("Two CPU-bound loops against one, on two cores", columns, tuple(rows)))
