//! What waits in a loop's mailbox.

use std::sync::Arc;

use atoll_core::mailbox::{Lane, Post};
use atoll_core::probe::Probe;
use atoll_core::registry::LoopRecord;
use atoll_core::stats::SlotIndex;
use atoll_core::transport::Call;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::method::Method;
use crate::notice::Notice;
use crate::store::completions::Completions;

/// A posted handler.
pub(crate) struct Job {
    pub(crate) handler: Py<PyAny>,
    pub(crate) args: Py<PyTuple>,
    /// The poster's context variables, or those given with `context=`.
    pub(crate) context: Py<PyAny>,
    /// Who waits for the result: the future of a `submit`.
    pub(crate) future: Option<Py<PyAny>>,
    pub(crate) slot: SlotIndex,
    pub(crate) lane: Lane,
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
    /// What the handler of a streaming call waits for has happened.
    Progress(Arc<Call>),
    /// Batches that handlers of this loop wait for are committed.
    Completions(Arc<Completions>),
    /// Native threads have told of something, such as the changes of a store.
    Notice {
        notice: Arc<Notice>,
        /// When it was queued; in ticks.
        queued_at: u64,
    },
    /// An observer waits for its turn; outside the statistics, and no work.
    Probe {
        probe: Arc<dyn Probe>,
        /// When it was queued; in ticks.
        queued_at: u64,
    },
}

impl Item {
    /// The lane that it waits in.
    #[inline]
    pub(crate) fn lane(&self) -> Lane {
        match self {
            Self::Job(job) => job.lane,
            Self::Call { call, .. } => Method::of(call).lane,
            Self::Probe { .. } | Self::Notice { .. } => Lane::Normal,
            Self::Internal(_) | Self::Cancel(_) | Self::Progress(_) | Self::Completions(_) => {
                Lane::Control
            }
        }
    }

    /// Shows the garbage collector what it refers to in Python. A call refers to its method, as its route does, which every call
    /// of that method shares: what is not the item's alone is not its to show.
    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Job(job) => {
                visit.call(&job.handler)?;
                visit.call(&job.args)?;
                visit.call(&job.context)?;
                visit.call(&job.future)
            }
            Self::Internal(message) => visit.call(message),
            Self::Call { .. }
            | Self::Cancel(_)
            | Self::Progress(_)
            | Self::Completions(_)
            | Self::Notice { .. }
            | Self::Probe { .. } => Ok(()),
        }
    }

    /// It has waited for its time and is queued now.
    pub(crate) fn is_queued_at(&mut self, now: u64) {
        match self {
            Self::Job(job) => job.queued_at = now,
            Self::Call { queued_at, .. }
            | Self::Notice { queued_at, .. }
            | Self::Probe { queued_at, .. } => *queued_at = now,
            Self::Internal(_) | Self::Cancel(_) | Self::Progress(_) | Self::Completions(_) => {}
        }
    }
}

impl Post for Item {
    type Tracker = LoopRecord;

    #[inline]
    fn accepted(&self, record: &LoopRecord) {
        match self {
            Self::Job(job) => record.events.slot(job.slot).accepted(),
            Self::Call { call, .. } => record.events.slot(Method::of(call).slot).accepted(),
            Self::Notice { notice, .. } => record.events.slot(notice.slot).accepted(),
            Self::Internal(_)
            | Self::Cancel(_)
            | Self::Progress(_)
            | Self::Completions(_)
            | Self::Probe { .. } => {}
        }
    }

    #[inline]
    fn waking(record: &LoopRecord) {
        record.activity.became_ready();
    }

    #[inline]
    fn is_uncounted(&self) -> bool {
        matches!(self, Self::Probe { .. })
    }

    #[inline]
    fn queued_at(&self) -> u64 {
        match self {
            Self::Job(job) => job.queued_at,
            Self::Call { queued_at, .. } | Self::Notice { queued_at, .. } => *queued_at,
            // An observer that waits says nothing of handlers.
            Self::Probe { .. }
            | Self::Internal(_)
            | Self::Cancel(_)
            | Self::Progress(_)
            | Self::Completions(_) => 0,
        }
    }
}
