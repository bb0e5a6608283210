//! Which loop runs on this thread.
//!
//! An owner's `run()` names it for as long as it lasts; a guest, whose asyncio loop somebody else runs, is named while it runs
//! handlers, and found through asyncio otherwise. A name is a borrowed reference, valid because whoever entered is still there.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use atoll_core::mailbox::Lane;
use pyo3::prelude::*;
use pyo3::{ffi, intern};

use crate::loop_core::{LoopCore, lock};

thread_local! {
    static CURRENT: Cell<*mut ffi::PyObject> = const { Cell::new(std::ptr::null_mut()) };
}

/// Names the loop of this thread until it is dropped.
pub(crate) struct Entered {
    before: *mut ffi::PyObject,
}

/// `core` runs on this thread from now on.
#[inline]
pub(crate) fn enter(core: &Bound<'_, LoopCore>) -> Entered {
    Entered {
        before: CURRENT.replace(core.as_ptr()),
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// The loop that was entered on this thread.
#[inline]
pub(crate) fn current(py: Python<'_>) -> Option<Borrowed<'_, '_, LoopCore>> {
    let pointer = CURRENT.get();
    if pointer.is_null() {
        return None;
    }
    // SAFETY: whoever entered holds a reference to the loop until it leaves.
    Some(unsafe { Borrowed::from_ptr(py, pointer).cast_unchecked() })
}

/// Whether `core` was entered on this thread.
#[inline]
pub(crate) fn is_entered(core: &Bound<'_, LoopCore>) -> bool {
    CURRENT.get() == core.as_ptr()
}

/// Whether the caller runs on `core`, be it in a callback of asyncio's own.
#[inline]
pub(crate) fn check(core: &Bound<'_, LoopCore>) -> PyResult<bool> {
    Ok(is_entered(core) || runs_in_asyncio(core)?)
}

/// Whether the asyncio loop that runs on this thread is the one that drains `core`.
#[cold]
fn runs_in_asyncio(core: &Bound<'_, LoopCore>) -> PyResult<bool> {
    static GET: pyo3::sync::PyOnceLock<Py<PyAny>> = pyo3::sync::PyOnceLock::new();
    let py = core.py();
    let get = GET.get_or_try_init(py, || {
        let asyncio = py.import("asyncio")?;
        PyResult::Ok(asyncio.getattr("_get_running_loop")?.unbind())
    })?;
    let running = get.bind(py).call0()?;
    if running.is_none() {
        return Ok(false);
    }
    let attached = lock(&core.get().local)
        .asyncio_loop
        .as_ref()
        .map(|it| it.clone_ref(py));
    Ok(attached.is_some_and(|it| it.is(&running)))
}

/// The lane of the handler that runs on this thread, which what it posts inherits; `normal` when none runs.
#[inline]
pub(crate) fn lane(py: Python<'_>) -> Lane {
    match current(py) {
        None => Lane::Normal,
        Some(core) => Lane::ALL[usize::from(core.get().lane.load(Ordering::Relaxed))],
    }
}

/// The loop whose `run()` or handler is on this thread's stack; None elsewhere, a guest's plain coroutines included.
#[pyfunction]
pub(crate) fn current_loop(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    current(py).map(|core| core.to_owned().into_any())
}

/// Keeps the name that `LoopCore._enter_thread` gave, for `_leave_thread`.
pub(crate) fn enter_for_good(core: &Bound<'_, LoopCore>) -> PyResult<()> {
    let before = CURRENT.replace(core.as_ptr());
    if before.is_null() {
        return Ok(());
    }
    CURRENT.set(before);
    Err(pyo3::exceptions::PyRuntimeError::new_err(format!(
        "another loop runs on this thread while {:?} is to run there",
        core.getattr(intern!(core.py(), "name"))?.to_string()
    )))
}

/// Ends what `enter_for_good` began, if `core` is what was entered.
pub(crate) fn leave(core: &Bound<'_, LoopCore>) {
    if is_entered(core) {
        CURRENT.set(std::ptr::null_mut());
    }
}
