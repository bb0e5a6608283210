//! `prometheus_text`: the native exposition, for whoever serves it from Python.

use atoll_core::exposition::{self, CALL_METRICS, methods_of_process};
use pyo3::prelude::*;

/// The statistics of all loops as Prometheus text. Any thread; the GIL is released meanwhile.
#[pyfunction]
pub(crate) fn prometheus_text(py: Python<'_>) -> String {
    py.detach(exposition::text_of_process)
}

type CallMetricTuple = (
    &'static str,
    &'static str,
    &'static str,
    Option<&'static str>,
    &'static str,
    &'static str,
    Vec<(String, &'static str, u64)>,
);

/// The metrics of the calls of all running servers: name, type, help, second label, name and unit for OpenTelemetry, and the
/// samples (method, value of the second label, value). Any thread.
#[pyfunction]
pub(crate) fn call_metrics() -> Vec<CallMetricTuple> {
    let methods = methods_of_process();
    let tuple = |each: &exposition::CallMetric| {
        let samples = methods.iter().flat_map(|(method, stats)| {
            let samples = each.samples(stats).into_iter();
            samples.map(move |(label, value)| (method.clone(), label, value))
        });
        let metric = each.metric;
        (
            metric.name,
            metric.kind.name(),
            metric.help,
            each.label,
            each.opentelemetry,
            each.unit,
            samples.collect(),
        )
    };
    CALL_METRICS.iter().map(tuple).collect()
}
