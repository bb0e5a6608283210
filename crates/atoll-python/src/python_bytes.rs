//! Large replies that are sent from the memory of a Python `bytes` object, without a copy.
//!
//! The object is held until the last byte has been handed to the socket. Network threads, which let go of it then, never take
//! the GIL: `PyO3` keeps what they drop until a thread that has the GIL calls into the extension, and the loop that the reply
//! came from is woken to do that. So no more is kept than what was on the way when the loop last ran, or when anybody last
//! made a reply.

use std::sync::Arc;

use atoll_core::transport::{Framed, frame};
use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::shared::Shared;

/// Messages from this size on are not copied, in bytes. A smaller copy costs less than waking the loop.
const UNCOPIED: usize = 64 << 10;

/// The content of a `bytes` object, which never changes.
struct PythonBytes {
    start: *const u8,
    length: usize,
    /// Taken when it is let go of.
    object: Option<Py<PyBytes>>,
    home: Arc<Shared>,
}

// SAFETY: the pointer is into an immutable object that `object` keeps alive, wherever it is; the other fields are `Send`.
unsafe impl Send for PythonBytes {}

impl AsRef<[u8]> for PythonBytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: a `bytes` object neither moves nor changes, and `object` keeps it alive for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Drop for PythonBytes {
    fn drop(&mut self) {
        // On a thread that is not attached this queues the object, which must happen before the loop is told.
        drop(self.object.take());
        self.home.has_leftovers();
    }
}

/// A serialised message as it is sent from the loop `home`.
pub(crate) fn framed(message: &Bound<'_, PyBytes>, home: &Arc<Shared>) -> Framed {
    let bytes = message.as_bytes();
    if bytes.len() < UNCOPIED {
        return frame(bytes).into();
    }
    Framed::uncopied(Bytes::from_owner(PythonBytes {
        start: bytes.as_ptr(),
        length: bytes.len(),
        object: Some(message.clone().unbind()),
        home: Arc::clone(home),
    }))
}
