"""Medians, spreads and ratios of repeated measurements. Pure functions, any thread."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity over several rounds, in the unit its name says."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Summarise the values of all rounds.

        Raises:
            statistics.StatisticsError: there is no value.
        """
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def of_quartiles(cls, values: Sequence[float]) -> Figure:
        """Summarise the values of many short rounds, low and high being the quartiles.

        Their extremes say what else the machine did.

        Raises:
            statistics.StatisticsError: there are less than two values.
        """
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Figure:
    """Divide round by round and summarise; see ``ratios``."""
    return Figure.of(ratios(numerators, denominators))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Divide round by round, so that what disturbs a whole round disturbs both sides of its ratio.

    Raises:
        ValueError: the two were not measured in the same rounds.
    """
    return [top / bottom for top, bottom in zip(numerators, denominators, strict=True)]


def quantile(ascending: Sequence[float], q: float) -> float:
    """Return the smallest value with at least the share ``q`` of the sorted values at or below it (nearest rank)."""
    return ascending[max(0, math.ceil(q * len(ascending)) - 1)]
