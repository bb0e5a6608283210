//! `BoundHandler`: a handler prepared once, that posts when called.

use atoll_core::mailbox::Lane;
use atoll_core::stats::SlotIndex;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::loop_core::LoopCore;

/// A handler bound to a loop: calling it posts the handler with the given arguments. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct BoundHandler {
    pub(crate) core: Py<LoopCore>,
    #[pyo3(get)]
    pub(crate) handler: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) name: String,
    pub(crate) slot: SlotIndex,
    pub(crate) lane: Lane,
}

#[pymethods]
impl BoundHandler {
    #[pyo3(signature = (*args))]
    fn __call__(&self, py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let job = LoopCore::job(py, self.handler.clone_ref(py), args, self.slot, None)?;
        self.core.get().push(py, self.lane, job)
    }

    fn __repr__(&self) -> String {
        format!("<BoundHandler {} on loop '{}'>", self.name, self.core.get().shared.name)
    }
}
