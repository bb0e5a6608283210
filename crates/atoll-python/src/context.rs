//! Context variables: a post carries its poster's, and no handler's changes reach what runs after it.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::error;

/// A copy of the calling thread's context.
#[inline]
pub(crate) fn copy_current(py: Python<'_>) -> PyResult<Py<PyAny>> {
    // SAFETY: the call takes no arguments and returns a new reference or sets an exception.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()).map(Bound::unbind) }
}

/// `context` itself, if it is one.
///
/// # Errors
/// `TypeError` when it is not.
pub(crate) fn checked(context: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    // SAFETY: the object is alive.
    if unsafe { ffi::PyContext_CheckExact(context.as_ptr()) } == 0 {
        return Err(error::no_context(&context));
    }
    Ok(context.unbind())
}

/// Runs `work` in `context`.
///
/// # Errors
/// Those of `work`; `TypeError` when it is no context, `RuntimeError` when it has been entered elsewhere.
#[inline]
pub(crate) fn run_in<T>(
    context: &Bound<'_, PyAny>,
    work: impl FnOnce() -> PyResult<T>,
) -> PyResult<T> {
    let py = context.py();
    // SAFETY: the object is alive, and entering checks that it is a context.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } < 0 {
        return Err(PyErr::fetch(py));
    }
    let result = work();
    // SAFETY: the context has been entered just above, and is exited on every path.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } < 0 {
        return Err(PyErr::fetch(py));
    }
    result
}

/// A context with no variables set.
pub(crate) fn fresh(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the call takes no arguments and returns a new reference or sets an exception.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()) }
}

/// Runs `work` with no context variables set.
pub(crate) fn run_in_fresh<T>(py: Python<'_>, work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    run_in(&fresh(py)?, work)
}
