//! How the outcomes of commits get from the writer's thread, which never takes the GIL, to the loops that wait for them.
//!
//! A loop has one [`Completions`]. Who commits leaves a future there, under a number; the writer adds (number, outcome), and when a
//! group is complete puts one item into the mailbox of each loop concerned, unless one is there already. The drain of the loop
//! sets the futures.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `futures` | attached threads | the same | a mutex, never while Python code runs |
//! | `ready` | the writer, who commits (a refusal), the drain | the same | a mutex |
//! | `queued` | the writer, the drain | the same | atomically |

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use atoll_core::mailbox::Lane;
use atoll_store::{CommitError, Committed, Completion, GroupListener};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use crate::error;
use crate::item::Item;
use crate::loop_core::{LoopCore, lock};
use crate::shared::Shared;
use crate::store::row;

type Outcome = Result<Committed, CommitError>;

/// What a loop waits for.
pub(crate) struct Completions {
    shared: Weak<Shared>,
    next: AtomicU64,
    futures: Mutex<HashMap<u64, Py<PyAny>>>,
    ready: Mutex<Vec<(u64, Outcome)>>,
    /// Whether an item that will look at `ready` is in the mailbox.
    queued: AtomicBool,
}

impl Completions {
    pub(crate) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::downgrade(shared),
            next: AtomicU64::new(0),
            futures: Mutex::default(),
            ready: Mutex::default(),
            queued: AtomicBool::new(false),
        })
    }

    /// What tells `future` the outcome of a batch. On the loop.
    pub(crate) fn expect(
        self: &Arc<Self>,
        flush: &Arc<Flush>,
        future: Py<PyAny>,
    ) -> FutureCompletion {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.futures).insert(number, future);
        FutureCompletion {
            number,
            completions: Arc::clone(self),
            flush: Arc::clone(flush),
        }
    }

    /// Has the loop look at what is ready. Any thread.
    fn wake(self: &Arc<Self>) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if !self.queued.swap(true, Ordering::AcqRel) {
            // A loop that is closed has cancelled the tasks that waited.
            let item = Item::Completions(Arc::clone(self));
            drop(shared.mailbox.push_admitted(Lane::Control, item));
        }
    }

    fn take_ready(&self) -> Vec<(u64, Outcome)> {
        // In this order: what is added afterwards brings another item.
        self.queued.store(false, Ordering::Release);
        std::mem::take(&mut *lock(&self.ready))
    }

    /// Shows the garbage collector the futures. The lock is held by attached threads only, and never while Python code runs.
    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.futures.try_lock() {
            Ok(futures) => futures.values().try_for_each(|future| visit.call(future)),
            Err(_) => Ok(()),
        }
    }

    /// Nobody waits any more.
    pub(crate) fn clear(&self) {
        let futures = std::mem::take(&mut *lock(&self.futures));
        drop(futures);
    }
}

/// Tells one future.
pub(crate) struct FutureCompletion {
    number: u64,
    completions: Arc<Completions>,
    flush: Arc<Flush>,
}

impl Completion for FutureCompletion {
    fn complete(self: Box<Self>, outcome: Outcome) {
        let mut ready = lock(&self.completions.ready);
        ready.push((self.number, outcome));
        let is_first = ready.len() == 1;
        drop(ready);
        if is_first {
            lock(&self.flush.loops).push(Arc::clone(&self.completions));
        }
    }
}

/// The loops that have to be told when a group is complete: one of each store.
#[derive(Default)]
pub(crate) struct Flush {
    loops: Mutex<Vec<Arc<Completions>>>,
}

impl GroupListener for Flush {
    fn group_completed(&self) {
        let loops = std::mem::take(&mut *lock(&self.loops));
        for completions in loops {
            completions.wake();
        }
    }
}

impl LoopCore {
    /// Sets the futures whose batches are complete, all of them; what the first raises that can't be set is raised then. On the loop.
    pub(crate) fn commits_completed(py: Python<'_>, completions: &Completions) -> PyResult<()> {
        let mut all = Ok(());
        for (number, outcome) in completions.take_ready() {
            let future = lock(&completions.futures).remove(&number);
            let Some(future) = future else { continue };
            let set = settle(future.bind(py), outcome);
            all = all.and(set);
        }
        all
    }
}

/// Tells a future what came of its batch.
fn settle(future: &Bound<'_, PyAny>, outcome: Outcome) -> PyResult<()> {
    let py = future.py();
    if future.call_method0(intern!(py, "done"))?.is_truthy()? {
        // Who waited was cancelled. The batch is committed all the same.
        return Ok(());
    }
    match outcome {
        Ok(committed) => {
            let committed = row::Committed::new(committed);
            future.call_method1(intern!(py, "set_result"), (committed,))?;
        }
        Err(problem) => {
            let problem = error::not_committed(&problem).into_value(py);
            future.call_method1(intern!(py, "set_exception"), (problem,))?;
        }
    }
    Ok(())
}
