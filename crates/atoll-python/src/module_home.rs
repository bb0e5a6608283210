//! `ModuleHome`: which loop a module lives on; the classes of checked modules refer to it, see `module_check`.

use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::affinity::{here, may_touch};
use crate::error;
use crate::loop_core::LoopCore;

/// How many classes of checked modules a loop finds in one look; those of further modules are looked up, which takes longer.
const RESIDENTS: usize = 8;

/// The classes of the checked modules that live on a loop. Any thread reads and writes it; each entry is valid for as long as
/// the class's `ModuleHome` lives, which takes it out again.
#[derive(Default)]
pub(crate) struct Residents([AtomicPtr<ffi::PyTypeObject>; RESIDENTS]);

impl Residents {
    #[inline]
    pub(crate) fn has(&self, class: *mut ffi::PyTypeObject) -> bool {
        self.0
            .iter()
            .any(|entry| std::ptr::eq(entry.load(Ordering::Relaxed), class))
    }

    fn exchange(&self, before: *mut ffi::PyTypeObject, after: *mut ffi::PyTypeObject) {
        for entry in &self.0 {
            let exchanged =
                entry.compare_exchange(before, after, Ordering::Relaxed, Ordering::Relaxed);
            if exchanged.is_ok() {
                return;
            }
        }
    }
}

/// Which loop a module lives on.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct ModuleHome {
    pub(crate) core: Py<LoopCore>,
    /// The user's class, for messages.
    module: Py<PyType>,
    /// The class whose instances are checked; null until it has moved in.
    resident: AtomicPtr<ffi::PyTypeObject>,
}

impl ModuleHome {
    /// The home of instances of `class`, if they are checked.
    pub(crate) fn of<'py>(class: &Bound<'py, PyType>) -> PyResult<Option<Bound<'py, Self>>> {
        let home = class.getattr_opt(intern!(class.py(), "__atoll_home__"))?;
        Ok(home.and_then(|home| home.cast_into().ok()))
    }

    pub(crate) fn may_touch(&self, py: Python<'_>) -> PyResult<bool> {
        may_touch(self.core.bind(py))
    }

    /// `name` was called, read or set, as `done` says, where it may not.
    #[cold]
    pub(crate) fn refused(&self, py: Python<'_>, name: &str, done: &str) -> PyErr {
        self.message(py, name, done)
            .map_or_else(|problem| problem, error::not_on_loop)
    }

    fn message(&self, py: Python<'_>, name: &str, done: &str) -> PyResult<String> {
        let module = self.module.bind(py).name()?;
        let home = &self.core.get().shared.name;
        let here = here(py)?;
        Ok(if done == "called" {
            format!(
                "{module}.{name}() was called {here}, and the {module} lives on loop '{home}': write \
                 await provider.ref({module}).call({module}.{name}, ...)"
            )
        } else {
            format!(
                "{module}.{name} was {done} {here}, and the {module} lives on loop '{home}', where alone its data may be \
                 touched: have a method do it, await provider.ref({module}).call({module}.some_method, ...)"
            )
        })
    }
}

#[pymethods]
impl ModuleHome {
    #[new]
    fn new(io_context: Py<LoopCore>, module: Py<PyType>) -> Self {
        Self {
            core: io_context,
            module,
            resident: AtomicPtr::default(),
        }
    }

    /// `resident`, a class that refers to this home, is checked from now on at full speed.
    fn move_in(&self, resident: &Bound<'_, PyType>) {
        let class = resident.as_type_ptr();
        let moved_in = self.resident.compare_exchange(
            std::ptr::null_mut(),
            class,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if moved_in.is_ok() {
            self.core
                .get()
                .residents
                .exchange(std::ptr::null_mut(), class);
        }
    }

    fn __repr__(&self) -> String {
        format!("<ModuleHome on loop '{}'>", self.core.get().shared.name)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.core)?;
        visit.call(&self.module)
    }
}

impl Drop for ModuleHome {
    fn drop(&mut self) {
        // The class refers to its home, so this comes before its memory is another's.
        let class = self.resident.load(Ordering::Relaxed);
        if !class.is_null() {
            self.core
                .get()
                .residents
                .exchange(class, std::ptr::null_mut());
        }
    }
}
