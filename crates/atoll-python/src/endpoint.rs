//! `EndpointCore`: the native half of `atoll.observe.ObserveEndpoint`.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::endpoint::{Endpoint, Limits, MOST_PUBLISHED, Settings};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error;
use crate::readiness::ReadinessCore;

/// A server that tells what the process does, from its construction to `stop()`. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct EndpointCore {
    endpoint: Endpoint,
}

#[pymethods]
impl EndpointCore {
    /// `liveness_threshold` in seconds.
    #[new]
    #[pyo3(signature = (address, liveness_threshold, readiness, beyond_loopback))]
    fn new(
        py: Python<'_>,
        address: &str,
        liveness_threshold: Option<f64>,
        readiness: Option<&Bound<'_, ReadinessCore>>,
        beyond_loopback: bool,
    ) -> PyResult<Self> {
        let settings = Settings {
            liveness_threshold: liveness_threshold
                .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
            readiness: readiness.map(|core| Arc::clone(&core.get().readiness)),
            beyond_loopback,
        };
        let endpoint = py
            .detach(|| Endpoint::start(address, settings, Limits::default()))
            .map_err(|problem| error::not_bound(&problem))?;
        Ok(Self { endpoint })
    }

    /// Where it listens, with the port that was taken.
    #[getter]
    fn address(&self) -> &str {
        self.endpoint.address()
    }

    /// Has `/metrics` end with this text from now on.
    fn publish(&self, text: &str) -> PyResult<()> {
        self.endpoint.publish(text).map_err(|_| {
            PyValueError::new_err(format!(
                "a text of {} bytes is longer than the {MOST_PUBLISHED} that /metrics tells of a program: export fewer series",
                text.len()
            ))
        })
    }

    /// Closes all that is open and waits for the thread, which never waits for Python.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.endpoint.stop());
    }

    /// Closes what a forked child has inherited, once.
    fn close_in_child(&self) {
        self.endpoint.close_in_child();
    }
}
