//! What waits in a loop's mailbox.

use std::sync::Arc;

use atoll_core::mailbox::Post;
use atoll_core::stats::{EventTracker, SlotIndex};
use atoll_core::transport::Call;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::method::Method;

/// A posted handler.
pub(crate) struct Job {
    pub(crate) handler: Py<PyAny>,
    pub(crate) args: Py<PyTuple>,
    /// The poster's context variables, or those given with `context=`.
    pub(crate) context: Py<PyAny>,
    /// Who waits for the result: the future of a `submit`.
    pub(crate) future: Option<Py<PyAny>>,
    pub(crate) slot: SlotIndex,
    /// When it was queued, or due; in ticks.
    pub(crate) queued_at: u64,
}

/// An entry of the mailbox.
pub(crate) enum Item {
    /// A posted handler.
    Job(Job),
    /// Runs in the loop's own context, outside the statistics: the framework's own messages to itself.
    Internal(Py<PyAny>),
    /// A gRPC call.
    Call {
        call: Arc<Call>,
        /// When it was queued; in ticks.
        queued_at: u64,
    },
    /// The transport has ended a call: its handler is to be cancelled.
    Cancel(Arc<Call>),
}

impl Post for Item {
    type Tracker = EventTracker;

    #[inline]
    fn accepted(&self, tracker: &EventTracker) {
        match self {
            Self::Job(job) => tracker.slot(job.slot).accepted(),
            Self::Call { call, .. } => tracker.slot(Method::of(call).slot).accepted(),
            Self::Internal(_) | Self::Cancel(_) => {}
        }
    }
}
