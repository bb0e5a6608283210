//! What waits for the writer thread.
//!
//! | field | written by | read by | under |
//! |---|---|---|---|
//! | `batches`, `bytes`, `is_closed`, `is_asleep` | submitters, the writer | the same | the mutex |
//!
//! A submitter wakes the writer only when it sleeps. The mutex is held for a few instructions, and never while callbacks run.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Completion;
use crate::error::CommitError;
use crate::types::Batch;

pub(crate) struct Pending {
    pub(crate) batch: Batch,
    pub(crate) bytes: usize,
    pub(crate) completion: Box<dyn Completion>,
    pub(crate) since: Instant,
}

#[derive(Default)]
struct Waiting {
    batches: VecDeque<Pending>,
    bytes: usize,
    is_closed: bool,
    is_asleep: bool,
}

#[derive(Default)]
pub(crate) struct Queue {
    inner: Mutex<Waiting>,
    changed: Condvar,
}

/// What the writer found.
pub(crate) enum Found {
    /// There are batches.
    Batches,
    /// Nothing waits just now.
    Nothing,
    /// Nothing will ever come again.
    End,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Any thread. Gives the batch back with the reason if it is not taken.
    #[allow(clippy::result_large_err)] // it is the argument, given back
    pub(crate) fn push(
        &self,
        pending: Pending,
        max_batches: usize,
        max_bytes: usize,
    ) -> Result<(), (Pending, CommitError)> {
        let mut inner = self.lock();
        if inner.is_closed {
            return Err((pending, CommitError::Closed));
        }
        if inner.batches.len() >= max_batches {
            let reason =
                format!("{max_batches} batches wait to be committed (max_pending_batches)");
            return Err((pending, CommitError::Busy(reason)));
        }
        if inner.bytes + pending.bytes > max_bytes && !inner.batches.is_empty() {
            let reason =
                format!("{max_bytes} bytes of batches wait to be committed (max_pending_bytes)");
            return Err((pending, CommitError::Busy(reason)));
        }
        inner.bytes += pending.bytes;
        inner.batches.push_back(pending);
        let is_asleep = std::mem::take(&mut inner.is_asleep);
        drop(inner);
        if is_asleep {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// The writer thread: moves a group into `group`, in order. Sleeps while nothing waits, if it `may_sleep`.
    pub(crate) fn take(
        &self,
        group: &mut Vec<Pending>,
        max_batches: usize,
        max_bytes: usize,
        may_sleep: bool,
    ) -> Found {
        let mut inner = self.lock();
        while inner.batches.is_empty() {
            if inner.is_closed {
                return Found::End;
            }
            if !may_sleep {
                return Found::Nothing;
            }
            inner.is_asleep = true;
            inner = self
                .changed
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let mut bytes = 0;
        while group.len() < max_batches
            && let Some(next) = inner.batches.front()
            && (group.is_empty() || bytes + next.bytes <= max_bytes)
        {
            bytes += next.bytes;
            group.extend(inner.batches.pop_front());
        }
        inner.bytes -= bytes;
        Found::Batches
    }

    /// Nothing is taken from now on; what waits is still committed.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Batches and bytes that wait.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.batches.len(), inner.bytes)
    }
}
