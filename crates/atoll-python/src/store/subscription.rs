//! `StoreSubscription`: a loop is told when a store has changed.
//!
//! The writer's thread puts one item into the loop's mailbox, and no second one before the first has been run; the drain makes a
//! handler of it, which is measured like any other. The callback is the loop's, by number, so that the writer holds nothing
//! of Python.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use atoll_core::clock;
use atoll_core::mailbox::Lane;
use atoll_core::stats::SlotIndex;
use atoll_store::{Store, Subscriber, SubscriptionId};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::context::copy_current;
use crate::item::{Item, Job};
use crate::loop_core::{LoopCore, lock};
use crate::shared::Shared;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// What the writer's thread, or another native one, holds of a loop that it tells something.
pub(crate) struct Notice {
    shared: Weak<Shared>,
    pub(crate) number: u64,
    pub(crate) slot: SlotIndex,
    /// The newest revision that it was told.
    revision: AtomicU64,
    /// Whether an item is in the mailbox that has not been run.
    queued: AtomicBool,
}

impl Notice {
    /// Has the loop of `io_context` call `callback` whenever it is told. The callback is the loop's, until [`Notice::end`].
    pub(crate) fn new(
        io_context: &Bound<'_, LoopCore>,
        callback: Bound<'_, PyAny>,
    ) -> PyResult<Arc<Self>> {
        let (py, core) = (io_context.py(), io_context.get());
        core.check_fork()?;
        let slot = core.slot(&callback, None)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let callback = Callback {
            callable: callback.unbind(),
            context: copy_current(py)?,
        };
        let before = lock(&core.callbacks.0).insert(number, callback);
        drop(before);
        Ok(Arc::new(Self {
            shared: Arc::downgrade(&core.shared),
            number,
            slot,
            revision: AtomicU64::new(0),
            queued: AtomicBool::new(false),
        }))
    }

    /// Puts an item into the mailbox, unless one is there. Any thread.
    pub(crate) fn tell(self: &Arc<Self>, revision: u64) {
        self.revision.store(revision, Ordering::Release);
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if !self.queued.swap(true, Ordering::AcqRel) {
            let item = Item::Committed {
                notice: Arc::clone(self),
                queued_at: clock::now(),
            };
            drop(shared.mailbox.push_admitted(Lane::Normal, item));
        }
    }

    /// The callback is called no more. `core` is that of the loop.
    pub(crate) fn end(&self, core: &LoopCore) {
        let callback = lock(&core.callbacks.0).remove(&self.number);
        drop(callback);
    }
}

/// The store's.
struct Notifier(Arc<Notice>);

impl Subscriber for Notifier {
    fn committed(&self, revision: u64) {
        self.0.tell(revision);
    }
}

/// What is called for a subscription, in which context.
struct Callback {
    callable: Py<PyAny>,
    context: Py<PyAny>,
}

/// The callbacks of a loop, by the number of their subscription. The lock is held by attached threads only, and never while Python
/// code runs.
#[derive(Default)]
pub(crate) struct Callbacks(Mutex<HashMap<u64, Callback>>);

impl Callbacks {
    /// Shows the garbage collector what they refer to.
    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(callbacks) = self.0.try_lock() else {
            return Ok(());
        };
        callbacks.values().try_for_each(|callback| {
            visit.call(&callback.callable)?;
            visit.call(&callback.context)
        })
    }

    /// Nobody is told any more.
    pub(crate) fn clear(&self) {
        let callbacks = std::mem::take(&mut *lock(&self.0));
        drop(callbacks);
    }
}

impl LoopCore {
    /// The handler that tells a subscriber; None when the subscription has ended. On the loop.
    pub(crate) fn committed_job(
        &self,
        py: Python<'_>,
        notice: &Notice,
        queued_at: u64,
    ) -> PyResult<Option<Job>> {
        // In this order: what is committed afterwards brings another item.
        notice.queued.store(false, Ordering::Release);
        let revision = notice.revision.load(Ordering::Acquire);
        let found = {
            let callbacks = lock(&self.callbacks.0);
            callbacks
                .get(&notice.number)
                .map(|it| (it.callable.clone_ref(py), it.context.clone_ref(py)))
        };
        let Some((handler, context)) = found else {
            self.shared.tracker().slot(notice.slot).dropped();
            return Ok(None);
        };
        Ok(Some(Job {
            handler,
            args: PyTuple::new(py, [revision])?.unbind(),
            context,
            future: None,
            slot: notice.slot,
            lane: Lane::Normal,
            queued_at,
        }))
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
