"""What servers count, for whatever exports loops: the metrics and their samples are native. Any thread."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from atoll import _core

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class ServerMetric:
    """A metric of servers with its samples.

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


def call_metrics() -> Iterator[ServerMetric]:
    """The calls of all servers of the process by method, as they are now; what has ended stays counted."""
    return map(_metric, _core.call_metrics())


def server_metrics() -> Iterator[ServerMetric]:
    """What all servers of the process have counted besides, as it is now."""
    return map(_metric, _core.server_metrics())


def all_metrics() -> Iterator[ServerMetric]:
    """Both."""
    return chain(call_metrics(), server_metrics())


def _metric(native: tuple[str, str, str, list[str], str, str, list[tuple[list[str], int]]]) -> ServerMetric:
    name, kind, text, labels, opentelemetry, unit, samples = native
    values = tuple((tuple(values), count) for values, count in samples)
    return ServerMetric(name, kind, text, tuple(labels), opentelemetry, unit, values)


def call_table() -> str:
    """The metrics of calls as a table in `docs/metrics.md`."""
    return _table(call_metrics())


def server_table() -> str:
    """The metrics of servers as a table in `docs/metrics.md`."""
    return _table(server_metrics())


def _table(metrics: Iterable[ServerMetric]) -> str:
    rows = [
        f"| `{each.name}` | `{each.opentelemetry}` | {each.kind} "
        f"| {', '.join(f'`{label}`' for label in each.labels) or 'none'} | {each.help} |"
        for each in metrics
    ]
    return "\n".join(
        ["| name | for OpenTelemetry | type | labels | what it is |", "|---|---|---|---|---|", *rows],
    )
