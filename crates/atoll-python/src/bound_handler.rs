//! `BoundHandler`: a handler prepared once, that posts when called.
//!
//! Posting must cost less than any other way of reaching a loop, so calls take CPython's vectorcall protocol.

use std::mem::offset_of;
use std::sync::Once;

use atoll_core::mailbox::Lane;
use atoll_core::stats::SlotIndex;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::loop_core::LoopCore;
use crate::vectorcall;

/// A handler bound to a loop: calling it posts the handler with the given arguments. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct BoundHandler {
    /// What CPython calls; at `tp_vectorcall_offset`.
    vectorcall: ffi::vectorcallfunc,
    core: Py<LoopCore>,
    #[pyo3(get)]
    handler: Py<PyAny>,
    #[pyo3(get)]
    name: String,
    slot: SlotIndex,
    lane: Lane,
}

impl BoundHandler {
    pub(crate) fn create<'py>(
        core: &Bound<'py, LoopCore>,
        handler: Bound<'py, PyAny>,
        name: String,
        slot: SlotIndex,
        lane: Lane,
    ) -> PyResult<Bound<'py, Self>> {
        static ANNOUNCED: Once = Once::new();
        let bound = Bound::new(
            core.py(),
            Self {
                vectorcall: call,
                core: core.clone().unbind(),
                handler: handler.unbind(),
                name,
                slot,
                lane,
            },
        )?;
        // SAFETY: the class is final, its instances have the function there, and this is the first.
        ANNOUNCED.call_once(|| unsafe {
            vectorcall::announce(&bound, offset_of!(BoundHandler, vectorcall));
        });
        Ok(bound)
    }

    #[inline]
    fn post(&self, py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let core = self.core.get();
        let job = core.job(
            py,
            self.handler.clone_ref(py),
            args,
            self.slot,
            self.lane,
            None,
        )?;
        core.push(py, job)
    }
}

/// `bound(*args)`.
unsafe extern "C" fn call(
    callable: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargsf: usize,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls this attached, with an instance of the class, `nargsf` arguments and a tuple or null; references
    // are counted by hand since PyO3 has not been told that the thread is attached.
    unsafe {
        let py = Python::assume_attached();
        let bound = Borrowed::from_ptr(py, callable).cast_unchecked::<BoundHandler>();
        let count = ffi::PyVectorcall_NARGS(nargsf);
        let tuple = ffi::PyTuple_New(count);
        if tuple.is_null() {
            return std::ptr::null_mut();
        }
        for index in 0..count {
            let argument = *args.offset(index);
            ffi::Py_INCREF(argument);
            ffi::PyTuple_SET_ITEM(tuple, index, argument);
        }
        let posted = if keywords.is_null() || ffi::PyTuple_GET_SIZE(keywords) == 0 {
            let args = Borrowed::from_ptr(py, tuple);
            bound.get().post(py, &args.cast_unchecked::<PyTuple>())
        } else {
            Err(PyTypeError::new_err(
                "a bound handler takes positional arguments only: bind functools.partial(handler, key=value) instead",
            ))
        };
        ffi::Py_DECREF(tuple);
        match posted {
            Ok(()) => ffi::Py_NewRef(ffi::Py_None()),
            Err(error) => {
                error.restore(py);
                std::ptr::null_mut()
            }
        }
    }
}

#[pymethods]
impl BoundHandler {
    /// CPython asks for this slot where an object has a vectorcall function, and calls that.
    #[pyo3(signature = (*args))]
    fn __call__(&self, py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.post(py, args)
    }

    fn __repr__(&self) -> String {
        format!(
            "<BoundHandler {} on loop '{}'>",
            self.name,
            self.core.get().shared.name
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.core)?;
        visit.call(&self.handler)
    }
}
