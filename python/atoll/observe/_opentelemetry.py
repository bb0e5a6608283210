"""Loops for OpenTelemetry, through observable instruments of its API. Any thread.

| state | written by | read by | under |
|---|---|---|---|
| `_Observed`, all of it | threads that collect | the same | its lock |
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from atoll.loop import Distribution, LoopStats
from atoll.observe import _metrics as metrics
from atoll.observe import _samples as samples
from atoll.observe._calls import ServerMetric, all_metrics
from atoll.observe._gil_gauge import gil_waits
from atoll.observe._sources import Sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

    from atoll.loop import IoContext

_S = TypeVar("_S", LoopStats, Distribution)

_KEPT_PER_WINDOW = 6

_Point = tuple[float, dict[str, str | float]]


def instrument_opentelemetry(
    meter_provider: MeterProvider | None = None,
    io_contexts: Iterable[IoContext] | None = None,
    *,
    quantile_window: float = 60.0,
) -> None:
    """Registers observable instruments that export loops; see `docs/metrics.md` for their names.

    Counts and times are observable counters and gauges. OpenTelemetry has no observable histogram, and feeding an
    ordinary one would cost each handler what its statistics are not allowed to. So of each histogram its count and sum
    go out as counters, for means over any window, and p50, p90 and p99 as gauges, of the last `quantile_window`
    seconds. Whoever needs whole histograms scrapes the Prometheus text, which the OpenTelemetry Collector can do, too.

    The instruments are read on the thread that collects and never on a loop, so that works while every loop is stuck.
    OpenTelemetry has no way to take an instrument back: call it once per provider.

    Args:
        meter_provider: Where the instruments belong; None for the global provider, also when that is set later.
        io_contexts: The loops to export; None for all that run when somebody collects, and what all servers have
            counted. They are not kept alive.
        quantile_window: How many seconds back the quantiles look, about.

    Raises:
        ImportError: Without OpenTelemetry's API.
        ValueError: When the window is not a positive number of seconds.
    """
    if not quantile_window > 0:
        raise ValueError(f"quantile_window={quantile_window!r} is not a positive number of seconds: give 60.0, say")
    try:
        from opentelemetry.metrics import Observation, get_meter  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError(
            "instrument_opentelemetry needs OpenTelemetry's API: pip install 'atoll[opentelemetry]'"
        ) from error
    observed = _Observed(Sources(io_contexts), quantile_window)
    meter = get_meter("atoll", meter_provider=meter_provider)

    def callback(name: str, points: Callable[[_Observed], Iterable[_Point]]) -> Callable[..., Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> list[Observation]:
            with observed.lock:
                observed.refresh_for(name)
                return [Observation(value, attributes) for value, attributes in points(observed)]

        return observe

    create: dict[str, Callable[..., Any]] = {
        "observable counter": meter.create_observable_counter,
        "observable gauge": meter.create_observable_gauge,
        "observable up-down counter": meter.create_observable_up_down_counter,
    }
    for instrument in metrics.opentelemetry_instruments():
        points = _points(instrument)
        create[instrument.kind](
            instrument.name,
            callbacks=[callback(instrument.name, points)],
            unit=instrument.unit,
            description=instrument.metric.help,
        )
    for metric in all_metrics() if io_contexts is None else ():

        def observe_servers(_options: CallbackOptions, name: str = metric.name) -> list[Observation]:
            return [Observation(value, attributes) for value, attributes in _server_points(name)]

        create[metric.instrument](
            metric.opentelemetry, callbacks=[observe_servers], unit=metric.unit, description=metric.help
        )


def _server_points(name: str) -> Iterable[_Point]:
    found: ServerMetric = next(metric for metric in all_metrics() if metric.name == name)
    for labels, value in found.samples:
        yield value, dict(zip(found.labels, labels, strict=True))


def _points(instrument: metrics.OpentelemetryInstrument) -> Callable[[_Observed], Iterable[_Point]]:
    metric, part = instrument.metric, instrument.part

    def attributes(labels: tuple[str, ...]) -> dict[str, str | float]:
        return dict(zip(metric.labels, labels, strict=True))

    def values(observed: _Observed) -> Iterable[_Point]:
        return ((value, attributes(labels)) for labels, value in samples.samples(metric, observed.loops))

    def count_or_sum(observed: _Observed) -> Iterable[_Point]:
        for labels, seen in samples.distributions(metric, observed.loops, observed.gil_waits):
            yield (seen.count if part == "count" else seen.sum), attributes(labels)

    def quantiles(observed: _Observed) -> Iterable[_Point]:
        for labels, seen in samples.distributions(metric, observed.windows, observed.gil_window):
            for fraction in metrics.QUANTILES:
                yield seen.quantile(fraction), {**attributes(labels), "quantile": fraction}

    if part is None:
        return values
    return quantiles if part == "quantile" else count_or_sum


class _Observed:
    """The loops as the instruments of one collection see them: all in one snapshot, which is taken once."""

    def __init__(self, sources: Sources, window: float) -> None:
        self.lock = threading.Lock()
        self.loops: list[LoopStats] = []
        self.windows: list[LoopStats] = []
        self.gil_waits = self.gil_window = Distribution()
        self._sources = sources
        self._window = window
        self._earlier: WeakKeyDictionary[IoContext, deque[tuple[float, LoopStats]]] = WeakKeyDictionary()
        self._earlier_gil_waits: deque[tuple[float, Distribution]] = deque()
        self._seen_by: set[str] | None = None

    def refresh_for(self, instrument: str) -> None:
        """Takes new snapshots unless `instrument` has not seen the present ones. Under the lock.

        A collection asks each instrument once, so the first that asks again belongs to the next collection.
        """
        if self._seen_by is None or instrument in self._seen_by:
            self._seen_by = set()
            snapshots = {io_context: io_context.stats() for io_context in self._sources.io_contexts()}
            self.loops = samples.by_name(snapshots.values())
            self.windows = samples.by_name(
                self._since(self._earlier.setdefault(io_context, deque()), now, now.uptime)
                for io_context, now in snapshots.items()
            )
            at, self.gil_waits = gil_waits()
            self.gil_window = self._since(self._earlier_gil_waits, self.gil_waits, at)
        self._seen_by.add(instrument)

    def _since(self, earlier: deque[tuple[float, _S]], now: _S, at: float) -> _S:
        """The last `quantile_window` seconds of `now`, taken at `at` seconds; all of it while that is younger.

        The snapshots to start from are kept some distance apart, so that frequent collections don't pile them up, and
        the window is longer than asked for by one such distance at most, or by the time between two collections.
        """
        while len(earlier) > 1 and at - earlier[1][0] >= self._window:
            earlier.popleft()
        window = now
        if earlier and at - earlier[0][0] >= self._window:
            window = now - earlier[0][1]
        if not earlier or at - earlier[-1][0] >= self._window / _KEPT_PER_WINDOW:
            earlier.append((at, now))
        return window
