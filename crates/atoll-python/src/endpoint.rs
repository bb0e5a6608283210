//! `EndpointCore`: the native half of `atoll.observe.ObserveEndpoint`.

use atoll_core::endpoint::{Endpoint, Limits};
use pyo3::prelude::*;

use crate::error;

/// A server that tells what the process does, from its construction to `stop()`. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct EndpointCore {
    endpoint: Endpoint,
}

#[pymethods]
impl EndpointCore {
    #[new]
    fn new(py: Python<'_>, address: &str) -> PyResult<Self> {
        let endpoint = py
            .detach(|| Endpoint::start(address, Limits::default()))
            .map_err(|problem| error::not_bound(&problem))?;
        Ok(Self { endpoint })
    }

    /// Where it listens, with the port that was taken.
    #[getter]
    fn address(&self) -> &str {
        self.endpoint.address()
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
