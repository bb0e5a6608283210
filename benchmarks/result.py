"""What a benchmark hands to the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from benchmarks.progress import Progress
    from benchmarks.summary import Figure


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for reading; the first column is text, the others are right-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class Result:
    """One benchmark's outcome: figures by dotted name for JSON and thresholds, tables and notes for reading.

    ``applies`` is False where the benchmark has nothing to say on this Python; then no threshold asks for its figures.
    """

    figures: dict[str, Figure] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    applies: bool = True


class Benchmark(Protocol):
    """What ``__main__`` runs."""

    name: str
    expected_seconds: float

    def run(self, progress: Progress) -> Result:
        """Measure; takes about ``expected_seconds``."""
        ...


def us(figure: Figure) -> str:
    """Format microseconds, as milliseconds from ten thousand up."""
    if figure.median >= 10_000:
        return f"{figure.median / 1000:,.1f} ms"
    digits = 2 if figure.median < 100 else 0
    return f"{figure.median:,.{digits}f} us"


def times(figure: Figure | None) -> str:
    """Format a ratio with its spread."""
    return "-" if figure is None else f"{figure.median:.2f}x ({figure.low:.2f}-{figure.high:.2f})"
