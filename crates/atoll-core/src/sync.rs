//! The synchronisation primitives, swapped for loom's under `--cfg atoll_loom` (not `loom`, which tokio claims for itself).

#[cfg(atoll_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};

#[cfg(not(atoll_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

/// Locks `mutex`, whether or not a holder has panicked: every critical section here leaves its data consistent at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
