//! CPython's vectorcall protocol for classes of ours, which PyO3 does not offer: a call without a tuple and a dictionary.
//!
//! Instances keep a function pointer, the type says where: the first instance finds that out and tells it.

use std::ffi::c_ulong;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::{PyClass, ffi};

/// A type's flags: an integer where there is a GIL, an atomic one where there is none.
trait TypeFlags {
    fn add(&mut self, flag: c_ulong);
}

impl TypeFlags for c_ulong {
    fn add(&mut self, flag: c_ulong) {
        *self |= flag;
    }
}

impl TypeFlags for AtomicU64 {
    fn add(&mut self, flag: c_ulong) {
        self.fetch_or(flag, Ordering::Relaxed);
    }
}

/// Tells the type of `first`, its first instance, where instances keep their vectorcall function: at `offset` within `T`.
///
/// # Safety
/// At `offset` every instance has a `vectorcallfunc` from its construction on; the class can't be subclassed, and nobody has
/// called an instance yet.
pub(crate) unsafe fn announce<T>(first: &Bound<'_, T>, offset: usize)
where
    T: PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
{
    let within_object = std::ptr::from_ref(first.get()).addr() - first.as_ptr().addr();
    let class = first.as_any().get_type().as_type_ptr();
    // SAFETY: the class is ours, and nobody else reads these fields before the first call.
    unsafe {
        (*class).tp_vectorcall_offset =
            ffi::Py_ssize_t::try_from(within_object + offset).expect("an offset within an object");
        (*class).tp_flags.add(ffi::Py_TPFLAGS_HAVE_VECTORCALL);
    }
}
