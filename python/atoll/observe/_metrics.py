"""The one table of metrics: what they are called and mean, wherever they go. Values; any thread.

`docs/metrics.md` shows it, and the native text (`crates/atoll-core/src/exposition/metrics.rs`) mirrors it for scrapes
that need no Python: tests compare the three.

Labels are bounded; what belongs to the process and not to a loop has none. `loop` is a loop's name, `lane` one of
three lanes, `state` one of three states; `handler` is a handler's name, of which a loop has at most `max_handler_names`
and one more, `(other)`, for those beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A family of time series.

    Attributes:
        name: Its name for Prometheus; a counter's ends in `_total`.
        kind: Whether it only grows, goes up and down, or counts durations by bounds.
        labels: Its labels, the attributes for OpenTelemetry.
        help: What it is, in a sentence.
        opentelemetry: Its name for OpenTelemetry; a histogram's is the beginning of three names.
        unit: Its unit for OpenTelemetry: `s`, or what is counted in braces.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    opentelemetry: str
    unit: str


_LOOP = ("loop",)
_HANDLER = ("loop", "handler")

HANDLERS = Metric(
    name="atoll_handlers_total",
    kind="counter",
    labels=_HANDLER,
    help="Handlers queued.",
    opentelemetry="atoll.handler.count",
    unit="{handler}",
)
ERRORS = Metric(
    name="atoll_handler_errors_total",
    kind="counter",
    labels=_HANDLER,
    help="Handlers that raised.",
    opentelemetry="atoll.handler.errors",
    unit="{handler}",
)
ACTIVE = Metric(
    name="atoll_handlers_active",
    kind="gauge",
    labels=_HANDLER,
    help="Handlers queued or running.",
    opentelemetry="atoll.handler.active",
    unit="{handler}",
)
RUNNING = Metric(
    name="atoll_handlers_running",
    kind="gauge",
    labels=_HANDLER,
    help="Handlers between their first step and their end.",
    opentelemetry="atoll.handler.running",
    unit="{handler}",
)
QUEUE = Metric(
    name="atoll_handler_queue_seconds",
    kind="histogram",
    labels=_HANDLER,
    help="From being queued, or due, to the first step.",
    opentelemetry="atoll.handler.queue",
    unit="s",
)
EXECUTION = Metric(
    name="atoll_handler_execution_seconds",
    kind="histogram",
    labels=_HANDLER,
    help="The sum of a handler's steps.",
    opentelemetry="atoll.handler.execution",
    unit="s",
)
WALL = Metric(
    name="atoll_handler_wall_seconds",
    kind="histogram",
    labels=_HANDLER,
    help="From the first step to the end, awaits included, of coroutines that had to wait.",
    opentelemetry="atoll.handler.wall",
    unit="s",
)
QUEUED = Metric(
    name="atoll_loop_queued",
    kind="gauge",
    labels=("loop", "lane"),
    help="Handlers that wait in the mailbox.",
    opentelemetry="atoll.loop.queued",
    unit="{handler}",
)
REFUSED = Metric(
    name="atoll_loop_refused_total",
    kind="counter",
    labels=("loop", "lane"),
    help="Handlers that found no room: posts that raised MailboxFull, calls answered RESOURCE_EXHAUSTED.",
    opentelemetry="atoll.loop.refused",
    unit="{handler}",
)
DELAYED = Metric(
    name="atoll_loop_delayed",
    kind="gauge",
    labels=_LOOP,
    help="Posts with a delay that are not yet due.",
    opentelemetry="atoll.loop.delayed",
    unit="{handler}",
)
GUARDS = Metric(
    name="atoll_loop_work_guards",
    kind="gauge",
    labels=_LOOP,
    help="Work guards held.",
    opentelemetry="atoll.loop.work_guards",
    unit="{guard}",
)
TIME = Metric(
    name="atoll_loop_time_seconds_total",
    kind="counter",
    labels=("loop", "state"),
    help="How the loop's time was spent: nothing to do, something ready that did not run, steps of handlers.",
    opentelemetry="atoll.loop.time",
    unit="s",
)
LAG = Metric(
    name="atoll_loop_lag_seconds",
    kind="gauge",
    labels=_LOOP,
    help="How long the oldest queued handler has waited, as seen from outside; zero when none waits.",
    opentelemetry="atoll.loop.lag",
    unit="s",
)
PROBE = Metric(
    name="io_context_event_loop_lag",
    kind="gauge",
    labels=_LOOP,
    help="How long the loop's lag probe waited in its queue the last time, in seconds.",
    opentelemetry="io_context_event_loop_lag",
    unit="s",
)
GIL_WAIT = Metric(
    name="atoll_gil_wait_seconds",
    kind="histogram",
    labels=(),
    help="How long a thread that asked for the GIL waited for it, as measured now and then.",
    opentelemetry="atoll.gil.wait",
    unit="s",
)

METRICS = (
    *(HANDLERS, ERRORS, ACTIVE, RUNNING, QUEUE, EXECUTION, WALL),
    *(QUEUED, REFUSED, DELAYED, GUARDS, TIME, LAG, PROBE, GIL_WAIT),
)

# The upper bounds of the exported buckets in seconds; what is longer is in the bucket `+Inf`.
BOUNDS = (
    *(0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005),
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)

QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class OpentelemetryInstrument:
    """What OpenTelemetry gets of a metric.

    Attributes:
        metric: The metric.
        part: Which part of a histogram it is; None for the value of another metric.
        kind: The kind of instrument.
    """

    metric: Metric
    part: Literal["count", "sum", "quantile"] | None
    kind: Literal["observable counter", "observable gauge", "observable up-down counter"]

    @property
    def name(self) -> str:
        """Its name."""
        return self.metric.opentelemetry if self.part is None else f"{self.metric.opentelemetry}.{self.part}"

    @property
    def unit(self) -> str:
        """Its unit."""
        if self.part != "count":
            return self.metric.unit
        return "{handler}" if "handler" in self.metric.labels else "{measurement}"


def opentelemetry_instruments() -> Iterator[OpentelemetryInstrument]:
    """All instruments. Numbers of things add up over loops, so they are up-down counters; durations are gauges."""
    for metric in METRICS:
        if metric.kind == "histogram":
            yield OpentelemetryInstrument(metric, "count", "observable counter")
            yield OpentelemetryInstrument(metric, "sum", "observable counter")
            yield OpentelemetryInstrument(metric, "quantile", "observable gauge")
        elif metric.kind == "counter":
            yield OpentelemetryInstrument(metric, None, "observable counter")
        else:
            yield OpentelemetryInstrument(
                metric, None, "observable gauge" if metric.unit == "s" else "observable up-down counter"
            )


def table() -> str:
    """The metrics as the table in `docs/metrics.md`."""
    rows = [
        f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels) or 'none'} | {each.help} |"
        for each in METRICS
    ]
    return "\n".join(["| name | type | labels | what it is |", "|---|---|---|---|", *rows])


def opentelemetry_table() -> str:
    """What OpenTelemetry gets of them, as the other table there."""
    rows = [
        f"| `{each.metric.name}` | `{each.name}` | {each.kind} | `{each.unit}` |"
        for each in opentelemetry_instruments()
    ]
    return "\n".join(["| for Prometheus | for OpenTelemetry | instrument | unit |", "|---|---|---|---|", *rows])
