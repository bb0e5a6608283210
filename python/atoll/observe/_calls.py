"""The calls of servers, for whatever exports loops: their metrics and samples are native. Any thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atoll import _core

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class CallMetric:
    """A metric of calls with its samples.

    Attributes:
        name: Its name for Prometheus; a counter's ends in `_total`.
        kind: "counter" or "gauge".
        help: What it is, in a sentence.
        labels: Its labels, the attributes for OpenTelemetry.
        opentelemetry: Its name for OpenTelemetry.
        unit: Its unit there.
        samples: The values of its labels, and its value.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    opentelemetry: str
    unit: str
    samples: tuple[tuple[tuple[str, ...], int], ...]

    @property
    def instrument(self) -> str:
        """What it is for OpenTelemetry."""
        return "observable counter" if self.kind == "counter" else "observable up-down counter"


def call_metrics() -> Iterator[CallMetric]:
    """The calls of all running servers of the process, as they are now."""
    for name, kind, text, label, opentelemetry, unit, samples in _core.call_metrics():
        labels = ("method",) if label is None else ("method", label)
        values = tuple(((method,) if label is None else (method, value), count) for method, value, count in samples)
        yield CallMetric(name, kind, text, labels, opentelemetry, unit, values)


def call_table() -> str:
    """The metrics as a table in `docs/metrics.md`."""
    rows = [
        f"| `{each.name}` | `{each.opentelemetry}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels)} "
        f"| {each.help} |"
        for each in call_metrics()
    ]
    return "\n".join(
        ["| name | for OpenTelemetry | type | labels | what it is |", "|---|---|---|---|---|", *rows],
    )
