"""Latencies that the nodes saw, and their summaries."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Summary:
    """Seconds; zeros when there were no calls. Failed calls are among the calls, with the time until they failed."""

    count: int = 0
    failed: int = 0
    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, latencies: Iterable[float], failed: int = 0) -> Summary:
        """Summarises calls."""
        ordered = sorted(latencies)
        if not ordered:
            return cls(failed=failed)
        return cls(len(ordered), failed, quantile(ordered, 0.5), quantile(ordered, 0.99), ordered[-1])


def quantile(ordered: Sequence[float], q: float) -> float:
    """The smallest value that at least the share `q` of the ordered values does not exceed."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


@dataclass
class Recorder:
    """All calls of one sort in one half of the run, and how they failed."""

    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, latency: float, failure: str) -> None:
        """Counts a call; `failure` is empty or the name of its status."""
        self.latencies.append(latency)
        if failure:
            self.failures[failure] += 1

    def summary(self) -> Summary:
        """What there is so far."""
        return Summary.of(self.latencies, self.failures.total())


@dataclass
class Half:
    """One half of the run."""

    heartbeats: Recorder = field(default_factory=Recorder)
    kv: Recorder = field(default_factory=Recorder)
