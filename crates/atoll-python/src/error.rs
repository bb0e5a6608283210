//! Where Rust errors become Python exceptions.

use atoll_core::transport::{BindError, CertificateError, Encoding};
use atoll_store::error::{ChangesError, CommitError, OpenError, ReadError};
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::server_call::ServerCall;

mod classes {
    #![allow(missing_docs)]
    pyo3::import_exception!(atoll.errors, CertificateError);
    pyo3::import_exception!(atoll.errors, ConnectionClosedError);
    pyo3::import_exception!(atoll.errors, ForkedError);
    pyo3::import_exception!(atoll.errors, LoopClosedError);
    pyo3::import_exception!(atoll.errors, MailboxFull);
    pyo3::import_exception!(atoll.errors, NotOnLoopError);
    pyo3::import_exception!(atoll.errors, PingTimeoutError);
    pyo3::import_exception!(atoll.errors, ServerStateError);
    pyo3::import_exception!(atoll.errors, AbortError);
    pyo3::import_exception!(atoll.errors, CommitTooLargeError);
    pyo3::import_exception!(atoll.errors, CompactedError);
    pyo3::import_exception!(atoll.errors, NotLeaderError);
    pyo3::import_exception!(atoll.errors, OutcomeUnknownError);
    pyo3::import_exception!(atoll.errors, OwnerFullError);
    pyo3::import_exception!(atoll.errors, SnapshotExpiredError);
    pyo3::import_exception!(atoll.errors, StoreBusyError);
    pyo3::import_exception!(atoll.errors, StoreClosedError);
    pyo3::import_exception!(atoll.errors, StoreCorruptError);
    pyo3::import_exception!(atoll.errors, StoreError);
    pyo3::import_exception!(atoll.errors, StoreFencedError);
    pyo3::import_exception!(atoll.errors, StoreFullError);
    pyo3::import_exception!(atoll.errors, StoreLockedError);
    pyo3::import_exception!(atoll.errors, StoreUnavailableError);
}

/// The lane has no room for another handler.
pub(crate) fn mailbox_full(loop_name: &str, lane: &str, limit: usize) -> PyErr {
    classes::MailboxFull::new_err(format!(
        "the {lane} lane of loop {loop_name:?} holds {limit} handlers, its bound: post less, wait for the loop to catch up, \
         or construct it with a larger max_queued",
        loop_name = Quoted(loop_name),
    ))
}

/// No more posts may wait for their time.
pub(crate) fn too_many_delayed(loop_name: &str, limit: usize) -> PyErr {
    classes::MailboxFull::new_err(format!(
        "{limit} posts wait for their time on loop {loop_name:?}, its bound: cancel what is no longer needed, or construct it \
         with a larger max_delayed",
        loop_name = Quoted(loop_name),
    ))
}

/// The loop belongs to the process that this one has forked off.
pub(crate) fn forked(loop_name: &str) -> PyErr {
    classes::ForkedError::new_err(format!(
        "loop {loop_name:?} belongs to the parent of this process, whose threads a fork does not copy: construct loops after \
         the fork, or start the process with multiprocessing's method \"spawn\"",
        loop_name = Quoted(loop_name),
    ))
}

/// The monitor belongs to the process that this one has forked off.
pub(crate) fn forked_monitor() -> PyErr {
    classes::ForkedError::new_err(
        "the monitor belongs to the parent of this process, whose threads a fork does not copy: start one after the fork",
    )
}

/// The election belongs to the process that this one has forked off.
pub(crate) fn forked_election() -> PyErr {
    classes::ForkedError::new_err(
        "the election belongs to the parent of this process, whose threads a fork does not copy: start one after the fork",
    )
}

/// The loop has been closed.
pub(crate) fn loop_closed(loop_name: &str) -> PyErr {
    classes::LoopClosedError::new_err(format!(
        "loop {loop_name:?} is closed and runs no more handlers: post before close(), or to another loop",
        loop_name = Quoted(loop_name),
    ))
}

/// What belongs to a loop was touched elsewhere; see `affinity`.
pub(crate) fn not_on_loop(message: String) -> PyErr {
    classes::NotOnLoopError::new_err(message)
}

/// `handler` can't be called; a coroutine is told how to be posted.
pub(crate) fn not_callable(handler: &Bound<'_, PyAny>) -> PyErr {
    // SAFETY: the object is alive.
    if unsafe { pyo3::ffi::PyCoro_CheckExact(handler.as_ptr()) } != 0 {
        // Closed, or Python would warn that it was never awaited.
        let _ = handler.call_method0("close");
        let name = handler
            .getattr("__qualname__")
            .map_or_else(|_| "handler".into(), |name| name.to_string());
        return PyTypeError::new_err(format!(
            "a loop takes the function, not the coroutine that it returns: write post({name}, ...) instead of post({name}(...))"
        ));
    }
    PyTypeError::new_err(format!(
        "{handler:?} is no handler: it is a function, a coroutine function, or anything else that can be called"
    ))
}

/// `context` is no context.
pub(crate) fn no_context(context: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!(
        "context={context:?} is no contextvars.Context: pass what contextvars.copy_context() returns"
    ))
}

/// An address can't be listened on: never, or not now.
pub(crate) fn not_bound(problem: &BindError) -> PyErr {
    match problem.io_error() {
        None => PyValueError::new_err(problem.to_string()),
        Some(_) => PyOSError::new_err(problem.to_string()),
    }
}

/// Certificates or keys can't be used.
pub(crate) fn certificates(problem: &CertificateError) -> PyErr {
    classes::CertificateError::new_err(problem.to_string())
}

/// The server has been started.
pub(crate) fn server_started() -> PyErr {
    classes::ServerStateError::new_err(
        "the server has been started: add ports and services before start()",
    )
}

/// What a handler returned, or its serializer made of it, can't be sent.
pub(crate) fn reply_is_not_bytes(reply: &Bound<'_, PyAny>, serialized: bool) -> PyErr {
    PyTypeError::new_err(if serialized {
        format!("the response serializer returned {reply:?}: it has to return bytes")
    } else {
        format!(
            "the handler returned {reply:?}, and its method has no response serializer: return bytes, or register one"
        )
    })
}

/// Whether `raised` is how a handler ends that has aborted its call.
pub(crate) fn is_abort(py: Python<'_>, raised: &PyErr) -> bool {
    raised.is_instance_of::<classes::AbortError>(py)
}

/// `lane` is not the name of a lane.
pub(crate) fn unknown_lane(lane: &str) -> PyErr {
    PyValueError::new_err(format!(
        "unknown lane {lane:?}: it is one of 'control', 'normal' and 'bulk'"
    ))
}

/// `delay` can't be waited for.
pub(crate) fn bad_delay(delay: f64) -> PyErr {
    PyValueError::new_err(format!(
        "delay={delay} is not a number of seconds from 0 to {MAX_DELAY_SECONDS}"
    ))
}

/// The longest delay of a post: a year.
pub(crate) const MAX_DELAY_SECONDS: f64 = 365.0 * 86_400.0;

/// A name in Python's quotes.
struct Quoted<'a>(&'a str);

impl std::fmt::Debug for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "'{}'", self.0)
    }
}

/// A context was used wrongly: an exception of the class that the context names by `attribute`.
fn of_context(context: &Bound<'_, ServerCall>, attribute: &str, text: &str) -> PyErr {
    let made = context
        .getattr(attribute)
        .and_then(|class| class.call1((text,)));
    made.map_or_else(|problem| problem, PyErr::from_value)
}

/// A call was read or written after its end.
pub(crate) fn call_answered(context: &Bound<'_, ServerCall>) -> PyErr {
    let text = "the call has been answered already: read and write before the handler returns";
    of_context(context, "_usage_error", text)
}

/// A call was read or written after its handler had aborted it.
pub(crate) fn call_aborted(context: &Bound<'_, ServerCall>) -> PyErr {
    let text = "the call has been aborted already: let what abort() raises end the handler";
    of_context(context, "_abort_error", text)
}

/// A message was written to a call that has one reply.
pub(crate) fn one_reply(context: &Bound<'_, ServerCall>) -> PyErr {
    let text =
        "this method answers with one message: return it from the handler instead of writing it";
    of_context(context, "_usage_error", text)
}

/// A message of a streaming reply is larger than the server may send.
pub(crate) fn message_too_large(text: &str) -> PyErr {
    PyValueError::new_err(format!(
        "{text}: send smaller messages, or give the server a larger grpc.max_send_message_length"
    ))
}

/// A streaming call was awaited on a loop that is not its own.
pub(crate) fn call_of_another_loop(home: &str) -> PyErr {
    not_on_loop(format!(
        "the call's messages are read and written on its own loop {home:?}: post the work there, or pass the messages on",
        home = Quoted(home),
    ))
}

/// A client was pinged whose connection has ended.
pub(crate) fn connection_closed(peer: &str) -> PyErr {
    classes::ConnectionClosedError::new_err(format!(
        "the connection of the client {peer} has ended: ping the connection of its next call, which comes on another one"
    ))
}

/// A client did not answer a ping in time.
pub(crate) fn ping_timed_out(peer: &str, timeout: f64) -> PyErr {
    classes::PingTimeoutError::new_err(format!(
        "the client {peer} has not answered a ping for {timeout} s: hold it for dead or cut off, or give it a longer timeout"
    ))
}

/// A streaming call that is answered on one loop can't go on to another.
pub(crate) fn call_has_moved(home: &str, other: &str) -> PyErr {
    pyo3::exceptions::PyRuntimeError::new_err(format!(
        "the call's messages went to loop {home:?} with the first handler of another loop, and can't go on to loop {other:?}: \
         have an interceptor ask one handler per streaming call",
        home = Quoted(home),
        other = Quoted(other),
    ))
}

/// The encoding of a number of `grpc.Compression`.
pub(crate) fn encoding(number: u8) -> PyResult<Encoding> {
    Encoding::from_u8(number).ok_or_else(|| {
        PyValueError::new_err(format!(
            "{number} is no compression: it is rpc.Compression.NoCompression, Deflate or Gzip"
        ))
    })
}

/// A store can't be opened, checked, backed up or restored.
pub(crate) fn store_not_opened(problem: &OpenError) -> PyErr {
    let text = problem.to_string();
    match problem {
        OpenError::Locked { .. } => classes::StoreLockedError::new_err(text),
        OpenError::Corrupt { .. } => classes::StoreCorruptError::new_err(text),
        OpenError::Settings(_) => PyValueError::new_err(text),
        OpenError::Unavailable(_) => classes::StoreUnavailableError::new_err(text),
        _ => classes::StoreError::new_err(text),
    }
}

/// A batch was not committed.
pub(crate) fn not_committed(problem: &CommitError) -> PyErr {
    let text = problem.to_string();
    match problem {
        CommitError::Full(_) => classes::StoreFullError::new_err(text),
        CommitError::Busy(_) => classes::StoreBusyError::new_err(text),
        CommitError::Fenced { .. } => classes::StoreFencedError::new_err(text),
        CommitError::Unknown(_) => classes::OutcomeUnknownError::new_err(text),
        CommitError::Unavailable(_) => classes::StoreUnavailableError::new_err(text),
        CommitError::TooLarge(_) => classes::CommitTooLargeError::new_err(text),
        CommitError::OwnerFull(_) => classes::OwnerFullError::new_err(text),
        CommitError::Invalid(_) => PyValueError::new_err(text),
        CommitError::Closed => classes::StoreClosedError::new_err(text),
    }
}

/// Nothing was read.
pub(crate) fn not_read(problem: ReadError) -> PyErr {
    let text = problem.to_string();
    match problem {
        ReadError::NotLeader => classes::NotLeaderError::new_err(text),
        ReadError::Closed => classes::StoreClosedError::new_err(text),
        ReadError::Forked => classes::ForkedError::new_err(text),
        ReadError::SnapshotExpired => classes::SnapshotExpiredError::new_err(text),
    }
}

/// Changes are no longer kept, or nothing may be read. The exception says where the change log begins.
pub(crate) fn no_changes(problem: &ChangesError) -> PyErr {
    match problem {
        ChangesError::Compacted(compacted) => {
            classes::CompactedError::new_err((compacted.to_string(), compacted.oldest))
        }
        ChangesError::Read(problem) => not_read(*problem),
    }
}

/// A snapshot was read after it had been closed.
pub(crate) fn snapshot_closed() -> PyErr {
    PyValueError::new_err("the snapshot has been closed: read it before, or take another one")
}
