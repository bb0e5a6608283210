//! `StoreSubscription`: a loop is told when a store has changed, by the writer's thread, in a [`Notice`].

use std::sync::Arc;

use atoll_store::{Store, Subscriber, SubscriptionId};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::loop_core::LoopCore;
use crate::notice::Notice;

/// The store's.
struct Notifier(Arc<Notice>);

impl Subscriber for Notifier {
    fn committed(&self, revision: u64) {
        self.0.tell(revision);
    }
}

/// A loop is told when a store has changed, until this is closed or collected. Made by `store.subscribe()`.
#[pyclass(frozen, module = "atoll._core", name = "StoreSubscription")]
pub(crate) struct Subscription {
    store: Store,
    id: SubscriptionId,
    notice: Arc<Notice>,
    io_context: Py<LoopCore>,
}

impl Subscription {
    pub(crate) fn new(
        store: &Store,
        io_context: &Bound<'_, LoopCore>,
        callback: Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let notice = Notice::new(io_context, callback)?;
        Ok(Self {
            store: store.clone(),
            id: store.subscribe(Arc::new(Notifier(Arc::clone(&notice)))),
            notice,
            io_context: io_context.clone().unbind(),
        })
    }

    fn end(&self) {
        self.store.unsubscribe(self.id);
        self.notice.end(self.io_context.get());
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
