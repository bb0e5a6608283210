//! What is counted of each method, on the network threads, always.
//!
//! | field      | written by                                        | read by    | under           |
//! |------------|---------------------------------------------------|------------|-----------------|
//! | all        | network threads; `refused` by loops, too          | any thread | relaxed atomics |

use std::sync::atomic::{AtomicU64, Ordering};

use super::call::CancelReason;
use super::status::Code;

/// How many status codes gRPC has.
const CODES: usize = 17;

/// Why a call never reached its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refused {
    /// Its method runs as many as it may, and others do not wait: `max_active_rpcs`.
    MethodLimit,
    /// The server runs as many as it may: `maximum_concurrent_rpcs`.
    ServerLimit,
    /// It was to wait for its method, and as much waits as may.
    WaitingFull,
    /// The lane of its loop's mailbox is full.
    MailboxFull,
    /// Its loop is closed.
    LoopClosed,
    /// It had waited too long on a loop that is overloaded.
    Overload,
    /// Its deadline passed first.
    Deadline,
    /// Its client gave it up, or was lost.
    Client,
    /// The server stopped.
    Shutdown,
    /// Its messages broke the protocol or a limit before its handler began.
    BadRequest,
    /// Its message did not come in time: `body_timeout`.
    SlowBody,
    /// It was no POST.
    HttpMethod,
    /// Its content type is not gRPC's.
    ContentType,
    /// Its metadata is larger than `max_header_list_size`.
    MetadataSize,
    /// Its token or cluster id was missing, or is not valid here.
    Unauthenticated,
    /// Its `grpc-timeout` is no time.
    BadTimeout,
    /// Its `grpc-encoding` is not known here.
    BadEncoding,
    /// No method has its path.
    UnknownMethod,
}

impl Refused {
    /// All reasons.
    pub const ALL: [Self; 18] = [
        Self::MethodLimit,
        Self::ServerLimit,
        Self::WaitingFull,
        Self::MailboxFull,
        Self::LoopClosed,
        Self::Overload,
        Self::Deadline,
        Self::Client,
        Self::Shutdown,
        Self::BadRequest,
        Self::SlowBody,
        Self::HttpMethod,
        Self::ContentType,
        Self::MetadataSize,
        Self::Unauthenticated,
        Self::BadTimeout,
        Self::BadEncoding,
        Self::UnknownMethod,
    ];

    /// Those for which a request is refused that names no method of the server.
    pub const OF_REQUESTS: [Self; 7] = [
        Self::UnknownMethod,
        Self::HttpMethod,
        Self::ContentType,
        Self::MetadataSize,
        Self::Unauthenticated,
        Self::BadTimeout,
        Self::Shutdown,
    ];

    /// The reason as statistics and metrics name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MethodLimit => "method_limit",
            Self::ServerLimit => "server_limit",
            Self::WaitingFull => "waiting_full",
            Self::MailboxFull => "mailbox_full",
            Self::LoopClosed => "loop_closed",
            Self::Overload => "overload",
            Self::Deadline => "deadline",
            Self::Client => "client",
            Self::Shutdown => "shutdown",
            Self::BadRequest => "bad_request",
            Self::SlowBody => "slow_body",
            Self::HttpMethod => "http_method",
            Self::ContentType => "content_type",
            Self::MetadataSize => "metadata_size",
            Self::Unauthenticated => "unauthenticated",
            Self::BadTimeout => "bad_timeout",
            Self::BadEncoding => "bad_encoding",
            Self::UnknownMethod => "unknown_method",
        }
    }
}

impl From<CancelReason> for Refused {
    fn from(reason: CancelReason) -> Self {
        match reason {
            CancelReason::Deadline => Self::Deadline,
            CancelReason::Client | CancelReason::ConnectionLost | CancelReason::SlowClient => {
                Self::Client
            }
            CancelReason::Shutdown => Self::Shutdown,
            CancelReason::BadRequest => Self::BadRequest,
            CancelReason::SlowBody => Self::SlowBody,
        }
    }
}

/// How many calls were refused, by the index of the reason in [`Refused::ALL`].
pub type RefusedCounts = [u64; Refused::ALL.len()];

/// The counters behind [`RefusedCounts`].
#[derive(Debug, Default)]
pub(super) struct RefusedCounters([AtomicU64; Refused::ALL.len()]);

impl RefusedCounters {
    pub(super) fn count(&self, reason: Refused) {
        add(&self.0[reason as usize], 1);
    }

    pub(super) fn add_to(&self, counts: &mut RefusedCounts) {
        for (sum, counter) in counts.iter_mut().zip(&self.0) {
            *sum += counter.load(Ordering::Relaxed);
        }
    }
}

/// The counters of one method.
#[derive(Debug, Default)]
pub(super) struct MethodCounters {
    started: AtomicU64,
    finished: [AtomicU64; CODES],
    refused: RefusedCounters,
    overdue: AtomicU64,
    waiting: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
}

/// What has been counted of one method so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodStats {
    /// Calls that came.
    pub started: u64,
    /// Calls that ended, by the number of their status code.
    pub finished: [u64; CODES],
    /// Those of them that never reached their handler.
    pub refused: RefusedCounts,
    /// Calls that had waited too long on an overloaded loop, whether or not they were refused for it.
    pub overdue: u64,
    /// Calls that wait for their method to run fewer.
    pub waiting: u64,
    /// Bytes of request messages as they were sent, prefixes left out.
    pub bytes_received: u64,
    /// Bytes of reply messages that were given to their connection, with their prefixes.
    pub bytes_sent: u64,
}

impl MethodStats {
    /// Calls that have come and not ended.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.started
            .saturating_sub(self.finished.iter().sum::<u64>())
    }

    /// Adds those of the same method of another server.
    pub fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.overdue += other.overdue;
        self.waiting += other.waiting;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        for (mine, theirs) in self.finished.iter_mut().zip(other.finished) {
            *mine += theirs;
        }
        for (mine, theirs) in self.refused.iter_mut().zip(other.refused) {
            *mine += theirs;
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl MethodCounters {
    pub(super) fn started(&self) {
        add(&self.started, 1);
    }

    pub(super) fn finished(&self, code: Code) {
        // Whoever sees the end sees the start.
        self.finished[usize::from(code.as_u8())].fetch_add(1, Ordering::Release);
    }

    pub(super) fn refused(&self, reason: Refused) {
        self.refused.count(reason);
    }

    /// A call that was answered before it became one.
    pub(super) fn turned_away(&self, reason: Refused, code: Code) {
        self.started();
        self.refused(reason);
        self.finished(code);
    }

    pub(super) fn overdue(&self) {
        add(&self.overdue, 1);
    }

    pub(super) fn waits(&self) {
        add(&self.waiting, 1);
    }

    pub(super) fn stops_waiting(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        add(&self.bytes_received, bytes as u64);
    }

    pub(super) fn sent(&self, bytes: usize) {
        add(&self.bytes_sent, bytes as u64);
    }

    pub(super) fn snapshot(&self) -> MethodStats {
        let relaxed = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Ends before starts, so that no more calls have ended than have come.
        let finished = self.finished.each_ref();
        let finished = finished.map(|counter| counter.load(Ordering::Acquire));
        let mut refused = RefusedCounts::default();
        self.refused.add_to(&mut refused);
        MethodStats {
            finished,
            refused,
            overdue: relaxed(&self.overdue),
            waiting: relaxed(&self.waiting),
            bytes_received: relaxed(&self.bytes_received),
            bytes_sent: relaxed(&self.bytes_sent),
            started: relaxed(&self.started),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_in_flight_from_its_start_to_its_end() {
        let counters = MethodCounters::default();
        counters.started();
        counters.started();
        counters.finished(Code::Ok);
        let seen = counters.snapshot();
        assert_eq!(
            (seen.started, seen.finished[0], seen.in_flight()),
            (2, 1, 1)
        );
    }

    #[test]
    fn a_call_that_is_turned_away_has_come_and_ended() {
        let counters = MethodCounters::default();
        counters.turned_away(Refused::Overload, Code::ResourceExhausted);
        let seen = counters.snapshot();
        assert_eq!(
            (seen.started, seen.finished[8], seen.in_flight()),
            (1, 1, 0)
        );
        assert_eq!(seen.refused[Refused::Overload as usize], 1);
    }

    #[test]
    fn every_reason_stands_where_its_number_says() {
        for (index, reason) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.name());
        }
    }
}
