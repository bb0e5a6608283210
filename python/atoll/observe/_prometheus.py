"""Loops for Prometheus: the native text, and a collector for programs that run prometheus_client. Any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll import _core
from atoll.loop import Distribution
from atoll.observe import _metrics as metrics
from atoll.observe import _samples as samples
from atoll.observe._calls import all_metrics
from atoll.observe._gil_gauge import gil_waits
from atoll.observe._sources import Sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    from atoll.loop import IoContext, LoopStats

    Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def prometheus_text() -> str:
    """The metrics of all loops in Prometheus' text format, version 0.0.4; see `docs/metrics.md`.

    It is written natively, from what the loops have recorded and with the GIL released: nothing runs on a loop, so it
    works while every loop is stuck. Serve it with the content type `text/plain; version=0.0.4; charset=utf-8`. Loops
    that are closed are not in it. Any thread.
    """
    return _core.prometheus_text()


class PrometheusCollector:
    """A collector for a registry of prometheus_client: the metrics of loops beside the program's own.

        prometheus_client.REGISTRY.register(atoll.observe.PrometheusCollector())

    A scrape reads snapshots on the thread that scrapes and never runs on a loop, so it works while every loop is stuck;
    it does need the GIL. The metrics are those of `docs/metrics.md`; the waits for the GIL are the process's, whatever
    loops are chosen.

    Args:
        io_contexts: The loops to export; None for all that run when a scrape comes, and what all servers have counted.
            They are not kept alive.

    Raises:
        ImportError: Without prometheus_client.
    """

    def __init__(self, io_contexts: Iterable[IoContext] | None = None) -> None:
        try:
            import prometheus_client  # noqa: F401, PLC0415 - an extra, looked for when it is asked for
        except ImportError as error:
            raise ImportError(
                "PrometheusCollector needs prometheus_client: pip install 'atoll[prometheus]'; or serve "
                "atoll.observe.prometheus_text(), which does not"
            ) from error
        self._sources = Sources(io_contexts)
        self._has_servers = io_contexts is None

    def describe(self) -> Iterator[Family]:
        """The metrics without samples: a registry asks for them to find names that are taken."""
        yield from self._families([], Distribution())
        yield from self._servers(with_samples=False)

    def collect(self) -> Iterator[Family]:
        """The metrics with the samples of this moment."""
        yield from self._families(samples.by_name(self._sources.snapshots()), gil_waits()[1])
        yield from self._servers(with_samples=True)

    def _servers(self, *, with_samples: bool) -> Iterator[Family]:
        from prometheus_client import core  # noqa: PLC0415 - an extra

        for metric in all_metrics() if self._has_servers else ():
            kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in metric.samples if with_samples else ():
                family.add_metric(labels, value)
            yield family

    def _families(self, loops: list[LoopStats], waits: Distribution) -> Iterator[Family]:
        from prometheus_client import core, utils  # noqa: PLC0415 - an extra

        bounds = [*map(utils.floatToGoString, metrics.BOUNDS), "+Inf"]
        for metric in metrics.METRICS:
            if metric.kind == "histogram":
                histogram = core.HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for labels, seen in samples.distributions(metric, loops, waits):
                    buckets = list(zip(bounds, map(float, samples.cumulative(seen)), strict=True))
                    histogram.add_metric(labels, buckets, seen.sum)
                yield histogram
                continue
            kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in samples.samples(metric, loops):
                family.add_metric(labels, value)
            yield family
