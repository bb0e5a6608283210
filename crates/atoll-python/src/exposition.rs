//! `prometheus_text`: the native exposition, for whoever serves it from Python.

use atoll_core::exposition::{
    self, CALL_METRICS, CallMetric, Metric, SERVER_METRICS, ServerMetric,
};
use atoll_core::transport::totals_of_process;
use pyo3::prelude::*;

/// The statistics of all loops as Prometheus text. Any thread; the GIL is released meanwhile.
#[pyfunction]
pub(crate) fn prometheus_text(py: Python<'_>) -> String {
    py.detach(exposition::text_of_process)
}

type Sample = (Vec<String>, u64);

type MetricTuple = (
    &'static str,
    &'static str,
    &'static str,
    Vec<&'static str>,
    &'static str,
    &'static str,
    Vec<Sample>,
);

fn tuple(
    metric: Metric,
    labels: impl Iterator<Item = &'static str>,
    (name, unit): (&'static str, &'static str),
    samples: impl Iterator<Item = Sample>,
) -> MetricTuple {
    (
        metric.name,
        metric.kind.name(),
        metric.help,
        labels.collect(),
        name,
        unit,
        samples.collect(),
    )
}

/// A label's value, unless the metric has no such label.
fn value(label: Option<&str>, value: &str) -> Option<String> {
    label.map(|_| value.to_owned())
}

/// The metrics of the calls of all servers: name, type, help, labels, name and unit for OpenTelemetry, and the samples (values of
/// the labels, value). Any thread.
#[pyfunction]
pub(crate) fn call_metrics() -> Vec<MetricTuple> {
    let methods = totals_of_process().methods;
    let of = |each: &CallMetric| {
        let samples = methods.iter().flat_map(|(method, stats)| {
            let samples = each.samples(stats).into_iter();
            samples.map(move |(second, count)| {
                let labels = std::iter::once(method.clone());
                (labels.chain(value(each.label, second)).collect(), count)
            })
        });
        let labels = std::iter::once("method").chain(each.label);
        tuple(
            each.metric,
            labels,
            (each.opentelemetry, each.unit),
            samples,
        )
    };
    CALL_METRICS.iter().map(of).collect()
}

/// The metrics of the servers themselves, as `call_metrics`.
#[pyfunction]
pub(crate) fn server_metrics() -> Vec<MetricTuple> {
    let totals = totals_of_process();
    let of = |each: &ServerMetric| {
        let samples = each.samples(&totals).into_iter();
        let samples =
            samples.map(|(first, count)| (value(each.label, first).into_iter().collect(), count));
        let labels = each.label.into_iter();
        tuple(
            each.metric,
            labels,
            (each.opentelemetry, each.unit),
            samples,
        )
    };
    SERVER_METRICS.iter().map(of).collect()
}
