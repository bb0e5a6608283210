//! `BroadcastCore`: the native half of `atoll.rpc.Broadcast`; `SlowSubscribersCore`: how a loop is told of those who left.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `left` | the fan-out thread, which never takes the GIL; the loop, which takes it out | the same | its mutex |

use std::sync::{Arc, Mutex};

use atoll_core::transport::broadcast::{Broadcast, Leavers, SlowSubscriber};
use atoll_core::transport::frame;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::loop_core::{LoopCore, lock};
use crate::notice::Notice;
use crate::server_call::ServerCall;

/// Those who have left and of whom the loop has not been told.
struct Left {
    left: Mutex<Vec<(u64, u64)>>,
    notice: Arc<Notice>,
}

impl Leavers for Left {
    fn left(&self, tag: u64, position: u64) {
        lock(&self.left).push((tag, position));
        self.notice.tell(0);
    }
}

/// Tells a loop which subscribers left their broadcasts for their slowness.
#[pyclass(subclass, frozen, module = "atoll._core")]
pub(crate) struct SlowSubscribersCore {
    left: Arc<Left>,
    io_context: Py<LoopCore>,
}

#[pymethods]
impl SlowSubscribersCore {
    #[new]
    fn new(io_context: &Bound<'_, LoopCore>, callback: Bound<'_, PyAny>) -> PyResult<Self> {
        let left = Left {
            left: Mutex::default(),
            notice: Notice::new(io_context, callback)?,
        };
        Ok(Self {
            left: Arc::new(left),
            io_context: io_context.clone().unbind(),
        })
    }

    /// (tag, position) of those who left since the last time, in the order in which they did. Any thread.
    fn take(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut *lock(&self.left.left))
    }

    /// The loop is told no more. Any thread; a second call does nothing.
    fn close(&self) {
        self.left.notice.end(self.io_context.get());
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.io_context)
    }
}

impl Drop for SlowSubscribersCore {
    fn drop(&mut self) {
        self.close();
    }
}

/// A set of streams that get the same messages. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct BroadcastCore(Broadcast);

#[pymethods]
impl BroadcastCore {
    #[new]
    #[pyo3(signature = (max_waiting, ends_slow_subscribers, slow_subscribers=None))]
    fn new(
        max_waiting: usize,
        ends_slow_subscribers: bool,
        slow_subscribers: Option<&Bound<'_, SlowSubscribersCore>>,
    ) -> Self {
        let slow = match slow_subscribers {
            Some(it) => SlowSubscriber::Leaves(Arc::<Left>::clone(&it.get().left)),
            None if ends_slow_subscribers => SlowSubscriber::Ends,
            None => SlowSubscriber::Misses,
        };
        Self(Broadcast::new(max_waiting, slow))
    }

    /// Sends later messages to a call, too. The number that takes it out again.
    #[pyo3(signature = (context, tag=0, position=0))]
    fn subscribe(
        &self,
        context: &Bound<'_, ServerCall>,
        tag: u64,
        position: u64,
    ) -> PyResult<usize> {
        let context = context.get();
        let call = match context.attached() {
            Some(call) if context.response_streaming()? => Some(call),
            _ => None,
        };
        let call = call.ok_or_else(|| {
            PyRuntimeError::new_err(
                "only a call that streams its replies can subscribe to a broadcast: pass the context of such a method",
            )
        })?;
        Ok(self.0.subscribe(Arc::clone(call), tag, position))
    }

    /// Sends no later message to a subscriber. The position of the last one that it got; None when it is no subscriber.
    fn unsubscribe(&self, number: usize, context: &Bound<'_, ServerCall>) -> Option<u64> {
        let call = context.get().attached()?;
        self.0.unsubscribe(number, call)
    }

    /// Sends a serialised message to all subscribers. Returns at once; false when it was not sent, for too much waits.
    #[pyo3(signature = (message, since=0, position=0))]
    fn send(&self, message: &Bound<'_, PyBytes>, since: u64, position: u64) -> PyResult<bool> {
        Ok(self.0.send(frame(message.as_bytes()), since, position)?)
    }

    /// (subscribers, messages sent, messages missed, subscribers ended, subscribers that left).
    fn counts(&self) -> (usize, u64, u64, u64, u64) {
        let stats = self.0.stats();
        (
            stats.subscribers,
            stats.sent,
            stats.missed,
            stats.ended,
            stats.left,
        )
    }
}
