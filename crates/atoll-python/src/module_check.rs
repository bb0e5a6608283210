//! What makes a module check its loop: two classes that a checked module's class derives from.
//!
//! `ModuleCheck` checks what is read and set, `ModuleReadCheck`, for classes with a `__setattr__` of their own, what is read. They
//! have no fields and nothing but the slots for attributes, so that Python's own rules for several bases make the class: none of
//! its fields is written by hand. On the module's loop an access is the plain one. Elsewhere methods are bound as usual, but to a
//! `CheckedFunction`; names with double underscores are Python's and free for all; data is refused.

use std::ffi::{CStr, c_int};

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyMapping, PyString, PyType};

use crate::checked_function::CheckedFunction;
use crate::current;
use crate::module_home::ModuleHome;

/// Adds the two classes to the extension module.
pub(crate) fn add_classes(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let methods = ffi::PyType_Slot {
        slot: ffi::Py_tp_methods,
        pfunc: METHODS.0.as_ptr().cast_mut().cast(),
    };
    let get = ffi::PyType_Slot {
        slot: ffi::Py_tp_getattro,
        pfunc: getattro as *mut _,
    };
    let set = ffi::PyType_Slot {
        slot: ffi::Py_tp_setattro,
        pfunc: setattro as *mut _,
    };
    let py = module.py();
    module.add(
        intern!(py, "ModuleCheck"),
        class(py, c"atoll._core.ModuleCheck", &[methods, get, set])?,
    )?;
    module.add(
        intern!(py, "ModuleReadCheck"),
        class(py, c"atoll._core.ModuleReadCheck", &[methods, get])?,
    )
}

/// A table of methods, which CPython never changes.
struct Methods([ffi::PyMethodDef; 2]);

// SAFETY: it holds functions and texts that live for good.
unsafe impl Sync for Methods {}

/// The class of a checked module is no new class of its author's: those who count subclasses are not told of it.
static METHODS: Methods = Methods([
    ffi::PyMethodDef {
        ml_name: c"__init_subclass__".as_ptr(),
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunctionWithKeywords: init_subclass,
        },
        ml_flags: ffi::METH_CLASS | ffi::METH_VARARGS | ffi::METH_KEYWORDS,
        ml_doc: std::ptr::null(),
    },
    ffi::PyMethodDef::zeroed(),
]);

unsafe extern "C" fn init_subclass(
    _class: *mut ffi::PyObject,
    _args: *mut ffi::PyObject,
    _kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: None lives for good.
    unsafe { ffi::Py_NewRef(ffi::Py_None()) }
}

/// A class without fields that has `slots`.
fn class<'py>(
    py: Python<'py>,
    name: &'static CStr,
    slots: &[ffi::PyType_Slot],
) -> PyResult<Bound<'py, PyAny>> {
    let end = ffi::PyType_Slot {
        slot: 0,
        pfunc: std::ptr::null_mut(),
    };
    let mut slots = [slots, &[end]].concat();
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: 0,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE) as _,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the spec is complete and ends with the empty slot; CPython copies it, and the name lives for good.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec)) }
}

/// Whether instances of a class read attributes, and set them, in the plain way: `__getattr__` may come on top.
#[pyfunction]
pub(crate) fn plain_attributes(class: &Bound<'_, PyType>) -> PyResult<(bool, bool)> {
    let py = class.py();
    let mut reads = false;
    if let Some(base) = first_with(class, intern!(py, "__getattribute__"))? {
        // SAFETY: the type is alive, and the slot of one that defines the method is never changed.
        let slot = unsafe { (*base.as_type_ptr()).tp_getattro };
        reads = slot.is_some_and(|it| {
            std::ptr::fn_addr_eq(it, ffi::PyObject_GenericGetAttr as ffi::getattrofunc)
        });
    }
    let mut sets = true;
    for name in [intern!(py, "__setattr__"), intern!(py, "__delattr__")] {
        if let Some(base) = first_with(class, name)? {
            // SAFETY: as above.
            let slot = unsafe { (*base.as_type_ptr()).tp_setattro };
            sets &= slot.is_some_and(|it| {
                std::ptr::fn_addr_eq(it, ffi::PyObject_GenericSetAttr as ffi::setattrofunc)
            });
        }
    }
    Ok((reads, sets))
}

// ----------------------------------------------------------------------------------------------------------- the slots

/// Whether instances of `class` live on the loop that runs here: true only if so, false also when it has to be looked up.
#[inline]
fn lives_here(py: Python<'_>, class: *mut ffi::PyTypeObject) -> bool {
    current::current(py).is_some_and(|core| core.get().residents.has(class))
}

unsafe extern "C" fn getattro(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls this attached, with an instance of a class that derives from ours and the name of an attribute.
    unsafe {
        if lives_here(Python::assume_attached(), ffi::Py_TYPE(object)) {
            return ffi::PyObject_GenericGetAttr(object, name);
        }
        match from_outside(object, name, get_from_outside) {
            Outcome::Done(value) => value.into_ptr(),
            Outcome::Raised => std::ptr::null_mut(),
            Outcome::Unchecked => ffi::PyObject_GenericGetAttr(object, name),
        }
    }
}

unsafe extern "C" fn setattro(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    let check = if value.is_null() {
        check_delete
    } else {
        check_set
    };
    // SAFETY: CPython calls this attached, with an instance of a class that derives from ours, the name of an attribute, and its
    // value, or null to delete it.
    unsafe {
        if !lives_here(Python::assume_attached(), ffi::Py_TYPE(object))
            && matches!(from_outside(object, name, check), Outcome::Raised)
        {
            return -1;
        }
        ffi::PyObject_GenericSetAttr(object, name, value)
    }
}

/// What came of an access from elsewhere.
enum Outcome<T> {
    Done(T),
    /// Python's error is set.
    Raised,
    /// The interpreter ends, when nobody asks for checks any more, or the name is none.
    Unchecked,
}

/// What `access` makes of `object` and `name`.
///
/// # Safety
/// The thread is attached; `object` and `name` are alive.
#[cold]
unsafe fn from_outside<T>(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    access: impl for<'py> FnOnce(&Bound<'py, PyAny>, &Bound<'py, PyString>) -> PyResult<T>,
) -> Outcome<T> {
    // PyO3 has to be told that the thread is attached.
    let outcome = Python::try_attach(|py| {
        // SAFETY: as the caller says.
        let (object, name) =
            unsafe { (Borrowed::from_ptr(py, object), Borrowed::from_ptr(py, name)) };
        let Ok(name) = name.cast::<PyString>() else {
            return Outcome::Unchecked;
        };
        match access(&object, &name) {
            Ok(value) => Outcome::Done(value),
            Err(problem) => {
                problem.restore(py);
                Outcome::Raised
            }
        }
    });
    outcome.unwrap_or(Outcome::Unchecked)
}

// ------------------------------------------------------------------------------------------------- seen from elsewhere

/// What a class has under a name, as others than the module's loop may see it.
enum Kind {
    /// What checks its loop when it is called.
    Method,
    /// What has nothing to do with an instance: static and class methods, nested classes.
    OfTheClass,
    Data,
}

fn get_from_outside(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
    let Some(home) = home_unless_allowed(object, name)? else {
        return get(object, name).map(Bound::unbind);
    };
    match found_on_class(&object.get_type(), name)? {
        Some(found) => match kind(&found)? {
            Kind::OfTheClass => return get(object, name).map(Bound::unbind),
            Kind::Method => {
                return checked(&home, object, get(object, name)?).map(Bound::unbind);
            }
            Kind::Data => {}
        },
        // A name that nobody knows is nobody's data.
        None => drop(get(object, name)?),
    }
    Err(home
        .get()
        .refused(object.py(), name.to_cow()?.as_ref(), "read"))
}

fn check_set(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> PyResult<()> {
    check_change(object, name, "set")
}

fn check_delete(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> PyResult<()> {
    check_change(object, name, "deleted")
}

fn check_change(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>, done: &str) -> PyResult<()> {
    let Some(home) = home_unless_allowed(object, name)? else {
        return Ok(());
    };
    Err(home
        .get()
        .refused(object.py(), name.to_cow()?.as_ref(), done))
}

/// The home of `object`, unless `name` is free for all or the caller may touch the module.
fn home_unless_allowed<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, ModuleHome>>> {
    let text = name.to_cow()?;
    if text.starts_with("__") && text.ends_with("__") {
        return Ok(None);
    }
    let home = ModuleHome::of(&object.get_type())?;
    match home {
        Some(home) if !home.get().may_touch(object.py())? => Ok(Some(home)),
        _ => Ok(None),
    }
}

/// The plain access.
fn get<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: both are alive and the thread is attached; the result is a new reference, or null with an error set.
    unsafe {
        let value = ffi::PyObject_GenericGetAttr(object.as_ptr(), name.as_ptr());
        Bound::from_owned_ptr_or_err(object.py(), value)
    }
}

/// What the class or one of its bases has under `name`, as it is there.
fn found_on_class<'py>(
    class: &Bound<'py, PyType>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    match first_with(class, name)? {
        Some(base) => names_of(&base)?.get_item(name).map(Some),
        None => Ok(None),
    }
}

/// The first of a class and its bases that has `name` itself.
fn first_with<'py>(
    class: &Bound<'py, PyType>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyType>>> {
    for base in class.mro() {
        let base = base.cast_into::<PyType>()?;
        if names_of(&base)?.contains(name)? {
            return Ok(Some(base));
        }
    }
    Ok(None)
}

fn names_of<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyMapping>> {
    let names = class.getattr(intern!(class.py(), "__dict__"))?;
    Ok(names.cast_into::<PyMapping>()?)
}

fn kind(found: &Bound<'_, PyAny>) -> PyResult<Kind> {
    let py = found.py();
    let functools = py.import("functools")?;
    let is = |class: Bound<'_, PyAny>| found.is_instance(&class);
    // SAFETY: these are types of Python's own.
    let (static_method, class_method) = unsafe {
        (
            Bound::from_borrowed_ptr(py, (&raw mut ffi::PyStaticMethod_Type).cast()),
            Bound::from_borrowed_ptr(py, (&raw mut ffi::PyClassMethod_Type).cast()),
        )
    };
    if found.is_instance_of::<PyType>() || is(static_method)? || is(class_method)? {
        return Ok(Kind::OfTheClass);
    }
    // They can't be called themselves, but what they give an instance can.
    if is(functools.getattr("partialmethod")?)? || is(functools.getattr("singledispatchmethod")?)? {
        return Ok(Kind::Method);
    }
    let sets = found.get_type().hasattr(intern!(py, "__set__"))?;
    Ok(if found.is_callable() && !sets {
        Kind::Method
    } else {
        Kind::Data
    })
}

/// The method `value` of `object`, such that it checks its loop when it is called.
fn checked<'py>(
    home: &Bound<'py, ModuleHome>,
    object: &Bound<'py, PyAny>,
    value: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    let method_type = py.import("types")?.getattr("MethodType")?;
    if value.is_exact_instance(&method_type) && value.getattr(intern!(py, "__self__"))?.is(object) {
        let function = value.getattr(intern!(py, "__func__"))?;
        return method_type.call1((CheckedFunction::create(home, function)?, object));
    }
    Ok(CheckedFunction::create(home, value)?.into_any())
}
