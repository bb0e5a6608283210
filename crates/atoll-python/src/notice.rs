//! `Notice`: how native threads tell a loop that there is news.
//!
//! Whoever tells puts one item into the loop's mailbox, and no second one before the first has been run; the drain makes a
//! handler of it, which is measured like any other. The callback is the loop's, by number, so that native threads hold nothing
//! of Python.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use atoll_core::clock;
use atoll_core::mailbox::Lane;
use atoll_core::stats::SlotIndex;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::context::copy_current;
use crate::item::{Item, Job};
use crate::loop_core::{LoopCore, lock};
use crate::shared::Shared;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// What native threads hold of a loop that they tell of one thing.
pub(crate) struct Notice {
    shared: Weak<Shared>,
    number: u64,
    pub(crate) slot: SlotIndex,
    /// What it was told last; it means something to who tells and who is told.
    newest: AtomicU64,
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
            newest: AtomicU64::new(0),
            queued: AtomicBool::new(false),
        }))
    }

    /// Puts an item into the mailbox, unless one is there; the callback gets the newest of what was told. Any thread.
    pub(crate) fn tell(self: &Arc<Self>, news: u64) {
        self.newest.store(news, Ordering::Release);
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if !self.queued.swap(true, Ordering::AcqRel) {
            let item = Item::Notice {
                notice: Arc::clone(self),
                queued_at: clock::now(),
            };
            drop(shared.mailbox.push_admitted(Lane::Normal, item));
        }
    }

    /// The callback is called no more. `core` is that of the loop. Nothing in a forked child, whose copy of the lock may stay locked.
    pub(crate) fn end(&self, core: &LoopCore) {
        if core.shared.is_parents() {
            return;
        }
        let callback = lock(&core.callbacks.0).remove(&self.number);
        drop(callback);
    }
}

/// What is called for a notice, in which context.
struct Callback {
    callable: Py<PyAny>,
    context: Py<PyAny>,
}

/// The callbacks of a loop, by the number of their notice. The lock is held by attached threads only, and never while Python code
/// runs.
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
    /// The handler that is told; None when the notice has ended. On the loop.
    pub(crate) fn notice_job(
        &self,
        py: Python<'_>,
        notice: &Notice,
        queued_at: u64,
    ) -> PyResult<Option<Job>> {
        // In this order: what is told afterwards brings another item.
        notice.queued.store(false, Ordering::Release);
        let newest = notice.newest.load(Ordering::Acquire);
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
            args: PyTuple::new(py, [newest])?.unbind(),
            context,
            future: None,
            slot: notice.slot,
            lane: Lane::Normal,
            queued_at,
        }))
    }
}
