"""What loops cost beside the handlers: observers, chaos, placement, delays, references, checks of the loop.

``overheads/`` measures, part by part, each in a process of its own; ``overhead_tables.py`` compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks import overhead_tables
from benchmarks.processes import Child, UnavailableError
from benchmarks.result import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.overhead_tables import Series
    from benchmarks.progress import Progress

_START_SECONDS: Final = 0.3
_ANSWER_TIMEOUT: Final = 60.0


class Length(NamedTuple):
    """How long a part is run: ``seconds`` is a turn's length, mostly; ``round_seconds`` is what a round takes."""

    rounds: int
    seconds: float
    round_seconds: float


class Part(NamedTuple):
    """A module of ``overheads/``, and what makes tables of its figures."""

    label: str
    full: Length
    quick: Length
    compare: Callable[[Series, Result], None]


PARTS: Final = {
    "observers": Part("observers", Length(14, 0.26, 0.54), Length(4, 0.26, 0.54), overhead_tables.observers),
    "injection": Part("chaos", Length(50, 0.015, 0.05), Length(20, 0.015, 0.05), overhead_tables.injection),
    "placement": Part("placement", Length(100, 0.001, 0.034), Length(40, 0.001, 0.034), overhead_tables.placement),
    "delayed": Part("delayed posts", Length(5, 0.05, 0.7), Length(2, 0.05, 0.7), overhead_tables.delayed),
    "lateness": Part("lateness", Length(3, 1.0, 4.1), Length(1, 0.4, 1.7), overhead_tables.lateness),
    "round_trips": Part("round trips", Length(8, 0.1, 0.42), Length(3, 0.06, 0.25), overhead_tables.round_trips),
    "own_loop": Part("checks of the loop", Length(8, 0.03, 0.1), Length(3, 0.03, 0.1), overhead_tables.own_loop),
}


class OverheadBenchmark:
    """Runs the parts one after the other and compares what each measured."""

    name = "overhead"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._lengths = {name: part.quick if quick else part.full for name, part in PARTS.items()}
        self.expected_seconds = sum(_expected(length) for length in self._lengths.values())

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        for name, part in PARTS.items():
            length = self._lengths[name]
            progress.step(f"overhead of {part.label}", _expected(length))
            try:
                with Child("benchmarks.overheads", name, str(length.rounds), str(length.seconds)) as child:
                    for missing, reason in child.announcement["missing"].items():
                        note = f"left out {missing}: {reason}"
                        if note not in result.notes:
                            result.notes.append(note)
                    part.compare(_received(child), result)
            except UnavailableError as error:
                result.notes.append(f"left out the overhead of {part.label}: {error}")
        return result


def _expected(length: Length) -> float:
    return length.rounds * length.round_seconds + _START_SECONDS


def _received(child: Child) -> Series:
    """Collect the figures of all rounds, by name."""
    series: Series = {}
    while "done" not in (line := child.receive(_ANSWER_TIMEOUT)):
        for name, value in line["figures"].items():
            series.setdefault(name, []).append(value)
    return series
