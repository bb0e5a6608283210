//! What belongs to a loop checks its loop: who may touch it, and what the others are told.

use std::sync::atomic::Ordering;

use pyo3::intern;
use pyo3::prelude::*;

use crate::current;
use crate::loop_core::LoopCore;

/// Whether what lives on `core` may be touched here: on the loop itself, and anywhere when the loop is no more.
#[inline]
pub(crate) fn may_touch(core: &Bound<'_, LoopCore>) -> PyResult<bool> {
    Ok(current::is_entered(core) || may_touch_from_outside(core)?)
}

#[cold]
fn may_touch_from_outside(core: &Bound<'_, LoopCore>) -> PyResult<bool> {
    Ok(current::check(core)? || has_ended(core)?)
}

/// Whether nothing will ever run on `core` again: it is closed, with what the closing itself ran, or a forked child's parent's.
fn has_ended(core: &Bound<'_, LoopCore>) -> PyResult<bool> {
    if core.get().shared.is_parents() {
        return Ok(true);
    }
    if !core.get().closed.load(Ordering::Acquire) {
        return Ok(false);
    }
    let asyncio_loop = core.getattr(intern!(core.py(), "loop"))?;
    Ok(asyncio_loop.is_none()
        || asyncio_loop
            .call_method0(intern!(core.py(), "is_closed"))?
            .is_truthy()?)
}

/// Where the caller runs, for messages: the loop, or the thread where there is none.
pub(crate) fn here(py: Python<'_>) -> PyResult<String> {
    if let Some(core) = current::current(py) {
        return Ok(format!("on loop '{}'", core.get().shared.name));
    }
    let guest = io_context_class(py)?.call_method0(intern!(py, "current_or_none"))?;
    if !guest.is_none() {
        return Ok(format!("on loop '{}'", guest.getattr(intern!(py, "name"))?));
    }
    let thread = py
        .import("threading")?
        .call_method0("current_thread")?
        .getattr("name")?;
    Ok(format!("on thread '{thread}', where no loop runs"))
}

/// `atoll.IoContext`, which knows the loops that asyncio runs on its own: the layer above, asked when something is made or wrong.
pub(crate) fn io_context_class(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("atoll.loop")?.getattr("IoContext")
}
