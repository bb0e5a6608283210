//! What the transport counts, always.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::authentication::AuthenticationStats;
use super::call::CancelReason;
use super::method_counters::{RefusedCounters, RefusedCounts};
use super::offence::{OffenceCounters, OffenceCounts};

/// Counters of one network thread. All are written relaxed: they are read for people, not for decisions,
/// except `connections`, by which new connections are spread.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicUsize,
    pub(super) calls_in_flight: AtomicUsize,
    pub(super) calls: AtomicU64,
    pub(super) late_replies: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) connection_errors: AtomicU64,
    pub(super) tls_handshakes: AtomicU64,
    pub(super) tls_plaintext: AtomicU64,
    pub(super) tls_without_http2: AtomicU64,
    pub(super) tls_client_certificates_refused: AtomicU64,
    pub(super) tls_handshakes_failed: AtomicU64,
    pub(super) deadlines_exceeded: AtomicU64,
    pub(super) cancelled_by_client: AtomicU64,
    pub(super) lost_with_connection: AtomicU64,
    pub(super) cancelled_by_shutdown: AtomicU64,
    pub(super) idle_connections_closed: AtomicU64,
    pub(super) aged_connections_closed: AtomicU64,
    pub(super) offences: OffenceCounters,
    /// Requests that were refused before anybody knew their method.
    pub(super) refused: RefusedCounters,
    pub(super) bad_requests: AtomicU64,
    pub(super) stalled_replies: AtomicU64,
}

/// What the transport has counted since its start, over all network threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Connections now open.
    pub connections: usize,
    /// Calls that were received whole and are not answered.
    pub calls_in_flight: usize,
    /// Calls that were received whole.
    pub calls: u64,
    /// Replies that came after the transport had given up the call, and were dropped.
    pub late_replies: u64,
    /// Times that accepting a connection failed, for example for want of file descriptors.
    pub accept_errors: u64,
    /// Connections that ended with an error: garbage, a broken protocol, a flood, a lost peer.
    pub connection_errors: u64,
    /// Connections that finished a TLS handshake.
    pub tls_handshakes: u64,
    /// Connections to a TLS port that did not speak TLS; these and the following three are `connection_errors`, too.
    pub tls_plaintext: u64,
    /// TLS clients that did not offer the protocol `h2`.
    pub tls_without_http2: u64,
    /// TLS clients that showed no certificate although one is required, or one that was not accepted.
    pub tls_client_certificates_refused: u64,
    /// TLS handshakes that failed otherwise: out of time, nothing in common, or the client did not trust the server.
    pub tls_handshakes_failed: u64,
    /// Calls answered by the transport because their deadline passed.
    pub deadlines_exceeded: u64,
    /// Calls that their client reset.
    pub cancelled_by_client: u64,
    /// Calls whose connection ended first.
    pub lost_with_connection: u64,
    /// Calls answered by the transport because the server stopped.
    pub cancelled_by_shutdown: u64,
    /// Connections asked to go because nobody used them.
    pub idle_connections_closed: u64,
    /// Connections asked to go because of their age.
    pub aged_connections_closed: u64,
    /// What clients did that no well-behaved client does, by kind. A connection that was closed for it is one of
    /// `connection_errors`, too.
    pub offences: OffenceCounts,
    /// Requests that named no method of the server, and were refused for that or for something else. The others are in their
    /// methods' statistics.
    pub refused: RefusedCounts,
    /// Calls answered by the transport because a message broke the protocol or a limit, `body_timeout` among them.
    pub bad_requests: u64,
    /// Calls given up because their client did not take its messages: none for `send_timeout`, or too few of a broadcast.
    pub stalled_replies: u64,
    /// Calls that were refused because of who sent them.
    pub authentication: AuthenticationStats,
}

impl Counters {
    /// The counter of calls that end for `reason`.
    pub(super) fn of(&self, reason: CancelReason) -> &AtomicU64 {
        match reason {
            CancelReason::Deadline => &self.deadlines_exceeded,
            CancelReason::Client => &self.cancelled_by_client,
            CancelReason::ConnectionLost => &self.lost_with_connection,
            CancelReason::Shutdown => &self.cancelled_by_shutdown,
            CancelReason::BadRequest | CancelReason::SlowBody => &self.bad_requests,
            CancelReason::SlowClient => &self.stalled_replies,
        }
    }

    pub(super) fn add_to(&self, stats: &mut TransportStats) {
        stats.connections += self.connections.load(Ordering::Relaxed);
        stats.calls_in_flight += self.calls_in_flight.load(Ordering::Relaxed);
        stats.calls += self.calls.load(Ordering::Relaxed);
        stats.late_replies += self.late_replies.load(Ordering::Relaxed);
        stats.accept_errors += self.accept_errors.load(Ordering::Relaxed);
        stats.connection_errors += self.connection_errors.load(Ordering::Relaxed);
        stats.tls_handshakes += self.tls_handshakes.load(Ordering::Relaxed);
        stats.tls_plaintext += self.tls_plaintext.load(Ordering::Relaxed);
        stats.tls_without_http2 += self.tls_without_http2.load(Ordering::Relaxed);
        stats.tls_client_certificates_refused +=
            self.tls_client_certificates_refused.load(Ordering::Relaxed);
        stats.tls_handshakes_failed += self.tls_handshakes_failed.load(Ordering::Relaxed);
        stats.deadlines_exceeded += self.deadlines_exceeded.load(Ordering::Relaxed);
        stats.cancelled_by_client += self.cancelled_by_client.load(Ordering::Relaxed);
        stats.lost_with_connection += self.lost_with_connection.load(Ordering::Relaxed);
        stats.cancelled_by_shutdown += self.cancelled_by_shutdown.load(Ordering::Relaxed);
        stats.idle_connections_closed += self.idle_connections_closed.load(Ordering::Relaxed);
        stats.aged_connections_closed += self.aged_connections_closed.load(Ordering::Relaxed);
        self.offences.add_to(&mut stats.offences);
        self.refused.add_to(&mut stats.refused);
        stats.bad_requests += self.bad_requests.load(Ordering::Relaxed);
        stats.stalled_replies += self.stalled_replies.load(Ordering::Relaxed);
    }
}

impl TransportStats {
    /// How TLS handshakes ended, each outcome by its name in metrics.
    #[must_use]
    pub fn tls_outcomes(&self) -> [(&'static str, u64); 5] {
        [
            ("finished", self.tls_handshakes),
            ("plaintext", self.tls_plaintext),
            ("without_http2", self.tls_without_http2),
            ("client_certificate", self.tls_client_certificates_refused),
            ("failed", self.tls_handshakes_failed),
        ]
    }
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
