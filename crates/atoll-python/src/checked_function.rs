//! `CheckedFunction`: a module's function as others than its loop see it, which checks its loop when it is called.
//!
//! What looks at functions (`inspect`, gRPC's generated code) sees the wrapped one: every attribute but those of the call is its.

use std::mem::offset_of;
use std::sync::Once;

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::current;
use crate::module_home::ModuleHome;
use crate::vectorcall;

/// A function that may be called on its module's loop only.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct CheckedFunction {
    /// What CPython calls; at `tp_vectorcall_offset`.
    vectorcall: ffi::vectorcallfunc,
    home: Py<ModuleHome>,
    function: Py<PyAny>,
}

impl CheckedFunction {
    pub(crate) fn create<'py>(
        home: &Bound<'py, ModuleHome>,
        function: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Self>> {
        static ANNOUNCED: Once = Once::new();
        let checked = Bound::new(
            home.py(),
            Self {
                vectorcall: call,
                home: home.clone().unbind(),
                function: function.unbind(),
            },
        )?;
        // SAFETY: the class is final, its instances have the function there, and this is the first.
        ANNOUNCED.call_once(|| unsafe {
            vectorcall::announce(&checked, offset_of!(CheckedFunction, vectorcall));
        });
        Ok(checked)
    }

    #[cold]
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        let home = self.home.get();
        if home.may_touch(py)? {
            return Ok(());
        }
        let name = self
            .function
            .bind(py)
            .getattr_opt(intern!(py, "__name__"))?
            .map_or_else(|| "(function)".to_owned(), |name| name.to_string());
        Err(home.refused(py, &name, "called"))
    }
}

/// `checked(*args, **kwargs)`.
unsafe extern "C" fn call(
    callable: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargsf: usize,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls this attached, with an instance of the class and arguments that are passed on as they came.
    unsafe {
        let py = Python::assume_attached();
        let checked = Borrowed::from_ptr(py, callable).cast_unchecked::<CheckedFunction>();
        let checked = checked.get();
        if !current::is_entered(checked.home.get().core.bind(py)) {
            // PyO3 has to be told that the thread is attached; when the interpreter ends nobody asks for checks any more.
            let refused = Python::try_attach(|py| {
                checked
                    .check(py)
                    .map_err(|problem| problem.restore(py))
                    .is_err()
            });
            if refused == Some(true) {
                return std::ptr::null_mut();
            }
        }
        ffi::PyObject_Vectorcall(checked.function.as_ptr(), args, nargsf, keywords)
    }
}

#[pymethods]
impl CheckedFunction {
    /// CPython asks for this slot where an object has a vectorcall function, and calls that.
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.check(py)?;
        self.function.bind(py).call(args, kwargs)
    }

    /// The function itself, which does not check anything.
    #[getter]
    fn __wrapped__(&self, py: Python<'_>) -> Py<PyAny> {
        self.function.clone_ref(py)
    }

    fn __getattribute__<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        match name.to_cow()?.as_ref() {
            "__wrapped__" | "__class__" | "__call__" => {
                // SAFETY: both are alive and the thread is attached; the result is a new reference or null with an error set.
                unsafe {
                    let value = ffi::PyObject_GenericGetAttr(slf.as_ptr(), name.as_ptr());
                    Bound::from_owned_ptr_or_err(py, value)
                }
            }
            _ => slf.get().function.bind(py).getattr(name),
        }
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        let function = self.function.bind(other.py());
        match other.cast::<Self>() {
            Ok(other) => function.eq(&other.get().function),
            Err(_) => function.eq(other),
        }
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.function.bind(py).hash()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let function = self.function.bind(py).repr()?;
        let home = self.home.get().core.get();
        Ok(format!(
            "<CheckedFunction {function} of loop '{}'>",
            home.shared.name
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.home)?;
        visit.call(&self.function)
    }
}
