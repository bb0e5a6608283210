//! `prometheus_text`: the native exposition, for whoever serves it from Python.

use atoll_core::exposition;
use pyo3::prelude::*;

/// The statistics of all loops as Prometheus text. Any thread; the GIL is released meanwhile.
#[pyfunction]
pub(crate) fn prometheus_text(py: Python<'_>) -> String {
    py.detach(exposition::text_of_process)
}
