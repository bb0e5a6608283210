//! `StoreSubscription`: a loop is told when a store or an election has changed, by a native thread, in a [`Notice`].

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::loop_core::LoopCore;
use crate::notice::Notice;

/// A loop is told when a store or an election has changed, until this is closed or collected. Made by `subscribe()`.
#[pyclass(frozen, module = "atoll._core", name = "StoreSubscription")]
pub(crate) struct Subscription {
    notice: Arc<Notice>,
    io_context: Py<LoopCore>,
    unsubscribe: Box<dyn Fn() + Send + Sync>,
}

impl Subscription {
    /// `subscribe` has somebody tell the notice, and returns how that ends.
    pub(crate) fn new<Unsubscribe: Fn() + Send + Sync + 'static>(
        io_context: &Bound<'_, LoopCore>,
        callback: Bound<'_, PyAny>,
        subscribe: impl FnOnce(Arc<Notice>) -> Unsubscribe,
    ) -> PyResult<Self> {
        let notice = Notice::new(io_context, callback)?;
        Ok(Self {
            unsubscribe: Box::new(subscribe(Arc::clone(&notice))),
            notice,
            io_context: io_context.clone().unbind(),
        })
    }

    /// Nothing in a forked child, where the thread that tells may have left its lock locked.
    fn end(&self) {
        let io_context = self.io_context.get();
        if !io_context.shared.is_parents() {
            (self.unsubscribe)();
            self.notice.end(io_context);
        }
    }
}

#[pymethods]
impl Subscription {
    /// The loop is told no more. Any thread; a second call does nothing.
    fn close(&self) {
        self.end();
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, _exc_info: &Bound<'_, PyAny>) {
        self.end();
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.io_context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.end();
    }
}
