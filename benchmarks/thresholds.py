"""The committed thresholds (``thresholds.json``) and whether a run meets them.

A threshold names a figure by its dotted name, whose first part is the benchmark; its median is compared.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from benchmarks.summary import Figure

FILE: Final = Path(__file__).with_name("thresholds.json")


@dataclass(frozen=True, slots=True)
class Threshold:
    """One committed limit; exactly one of ``at_least`` and ``at_most`` is set."""

    says: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        """Refuse a threshold without a limit or with two.

        Raises:
            ValueError: see there.
        """
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"the threshold for {self.figure} in {FILE.name} needs one of at_least and at_most")

    @property
    def limit(self) -> str:
        """The limit in words."""
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"

    def meets(self, value: float) -> bool:
        """Whether ``value`` is within the limit."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A threshold held against a run; ``value`` is None where the figure could not be measured."""

    threshold: Threshold
    value: float | None

    @property
    def passed(self) -> bool:
        """Whether the figure was measured and is within the limit."""
        return self.value is not None and self.threshold.meets(self.value)

    def __str__(self) -> str:
        """Return one line: pass or MISS, what was measured, the limit."""
        value = "not measured" if self.value is None else f"{self.value:,.2f}"
        return f"{'pass' if self.passed else 'MISS'}  {self.threshold.says}: {value} ({self.threshold.limit})"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """All committed limits, and the oldest Python that they hold for."""

    minimum_python: tuple[int, ...]
    thresholds: tuple[Threshold, ...]

    @classmethod
    def read(cls, content: str) -> Thresholds:
        """Parse ``thresholds.json``."""
        parsed: dict[str, Any] = json.loads(content)
        minimum = tuple(int(part) for part in parsed["minimum_python"].split("."))
        return cls(minimum, tuple(Threshold(**entry) for entry in parsed["thresholds"]))

    def apply_to(self, python: tuple[int, ...]) -> bool:
        """Whether the limits hold for this version of Python."""
        return python >= self.minimum_python

    def judge(self, benchmarks: Iterable[str], figures: Mapping[str, Figure]) -> list[Verdict]:
        """Hold the figures of the benchmarks that ran against their limits."""
        ran = set(benchmarks)
        return [
            Verdict(threshold, figures[threshold.figure].median if threshold.figure in figures else None)
            for threshold in self.thresholds
            if threshold.figure.partition(".")[0] in ran
        ]


def committed() -> Thresholds:
    """Return what ``thresholds.json`` holds."""
    return Thresholds.read(FILE.read_text(encoding="utf-8"))


def running_python() -> tuple[int, ...]:
    """Return the version that the thresholds are compared with."""
    return sys.version_info[:2]
