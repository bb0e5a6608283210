//! `WorkGuard`: keeps `run()` from returning while it is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;

use crate::shared::Shared;

/// Keeps a loop's `run()` from returning while it is held: until `reset()`, the end of its `with` block, or its collection.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct WorkGuard {
    shared: Arc<Shared>,
    held: AtomicBool,
}

impl WorkGuard {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        shared.guards.fetch_add(1, Ordering::Relaxed);
        Self {
            shared,
            held: AtomicBool::new(true),
        }
    }

    fn release(&self) {
        if self.held.swap(false, Ordering::Relaxed)
            && self.shared.guards.fetch_sub(1, Ordering::AcqRel) == 1
        {
            self.shared.poke();
        }
    }
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.release();
    }
}

#[pymethods]
impl WorkGuard {
    /// Lets the loop go. Any thread; a second call does nothing.
    fn reset(&self) {
        self.release();
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, _exc_info: &Bound<'_, PyAny>) {
        self.release();
    }

    fn __repr__(&self) -> String {
        let state = if self.held.load(Ordering::Relaxed) {
            "held"
        } else {
            "released"
        };
        format!("<WorkGuard of loop '{}', {state}>", self.shared.name)
    }
}
