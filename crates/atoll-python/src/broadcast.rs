//! `BroadcastCore`: the native half of `atoll.rpc.Broadcast`.

use std::sync::Arc;

use atoll_core::transport::broadcast::{Broadcast, SlowSubscriber};
use atoll_core::transport::frame;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::server_call::ServerCall;

/// A set of streams that get the same messages. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct BroadcastCore(Broadcast);

#[pymethods]
impl BroadcastCore {
    #[new]
    fn new(max_waiting: usize, ends_slow_subscribers: bool) -> Self {
        let slow = if ends_slow_subscribers {
            SlowSubscriber::Ends
        } else {
            SlowSubscriber::Misses
        };
        Self(Broadcast::new(max_waiting, slow))
    }

    /// Sends later messages to a call, too. The number that takes it out again.
    fn subscribe(&self, context: &Bound<'_, ServerCall>) -> PyResult<usize> {
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
        Ok(self.0.subscribe(Arc::clone(call)))
    }

    /// Sends no later message to a subscriber.
    fn unsubscribe(&self, number: usize, context: &Bound<'_, ServerCall>) {
        if let Some(call) = context.get().attached() {
            self.0.unsubscribe(number, call);
        }
    }

    /// Sends a serialised message to all subscribers. Returns at once; false when it was not sent, for too much waits.
    fn send(&self, message: &Bound<'_, PyBytes>) -> PyResult<bool> {
        Ok(self.0.send(frame(message.as_bytes()))?)
    }

    /// (subscribers, messages sent, messages missed, subscribers ended).
    fn counts(&self) -> (usize, u64, u64, u64) {
        let stats = self.0.stats();
        (stats.subscribers, stats.sent, stats.missed, stats.ended)
    }
}
