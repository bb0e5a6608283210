//! `Gate`: what calls of methods with `max_active_rpcs` pass. Methods that share a limit share one.

use std::sync::Arc;

use atoll_core::transport;
use pyo3::prelude::*;

/// A limit of how many calls run at a time. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct Gate {
    pub(crate) gate: Arc<transport::Gate>,
}

#[pymethods]
impl Gate {
    #[new]
    #[pyo3(signature = (limit))]
    fn new(limit: usize) -> Self {
        Self {
            gate: Arc::new(transport::Gate::new(limit)),
        }
    }

    /// How many calls have a place now.
    #[getter]
    fn active(&self) -> usize {
        self.gate.active()
    }
}
