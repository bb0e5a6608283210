//! The life of a call, and why the transport may end it.

use std::sync::atomic::{AtomicU8, Ordering};

use super::super::status::Code;

/// Why the transport answered or gave up a call itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// Its deadline passed; the client got `DEADLINE_EXCEEDED`.
    Deadline,
    /// The client reset the stream.
    Client,
    /// The connection ended.
    ConnectionLost,
    /// The server stopped and the grace ran out; the client got UNAVAILABLE.
    Shutdown,
    /// A later message of the request broke the protocol or a limit; the client got the status that says so.
    BadRequest,
    /// The client does not take its messages; it got `RESOURCE_EXHAUSTED`, if it takes that.
    SlowClient,
    /// A message of its request made no progress for `body_timeout`; the client got `DEADLINE_EXCEEDED`.
    SlowBody,
}

impl CancelReason {
    /// The status with which such a call ends, unless a better one is known.
    pub(in crate::transport) fn code(self) -> Code {
        match self {
            Self::Deadline | Self::SlowBody => Code::DeadlineExceeded,
            Self::Client | Self::ConnectionLost => Code::Cancelled,
            Self::Shutdown => Code::Unavailable,
            Self::BadRequest => Code::Internal,
            Self::SlowClient => Code::ResourceExhausted,
        }
    }
}

/// The life of a call. Only these transitions happen, each exactly once, whichever threads race for them:
///
/// * `Queued → Running`: [`begin`](super::Call::begin), by the loop.
/// * `Queued | Running → Answered`: [`reply`](super::Call::reply), by any thread.
/// * `Queued | Running → Cancelled(reason)`: `cancel`, by the connection.
pub(super) struct State(AtomicU8);

impl State {
    pub(super) fn queued() -> Self {
        Self(AtomicU8::new(Self::QUEUED))
    }

    pub(super) const QUEUED: u8 = 0;
    pub(super) const RUNNING: u8 = 1;
    pub(super) const ANSWERED: u8 = 2;
    /// This and above: cancelled, one value per reason.
    pub(super) const CANCELLED: u8 = 3;

    const REASONS: [CancelReason; 7] = [
        CancelReason::Deadline,
        CancelReason::Client,
        CancelReason::ConnectionLost,
        CancelReason::Shutdown,
        CancelReason::BadRequest,
        CancelReason::SlowClient,
        CancelReason::SlowBody,
    ];

    pub(super) fn transition_to_running(&self) -> bool {
        let (queued, running) = (Self::QUEUED, Self::RUNNING);
        self.0
            .compare_exchange(queued, running, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Ends the call; the state before, unless another thread ended it first.
    pub(super) fn transition_to_end(&self, end: u8) -> Option<u8> {
        let next = |state| (state < Self::ANSWERED).then_some(end);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .ok()
    }

    pub(super) fn load(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn reason(state: u8) -> Option<CancelReason> {
        let index = state.checked_sub(Self::CANCELLED)?;
        Self::REASONS.get(usize::from(index)).copied()
    }
}
