//! What remains of a connection for those who want to know of it later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outbox::{Outbox, Outgoing};
use super::pings::{PingRequest, RoundTrip};

/// Longer than this nobody waits, and clocks can express it.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// A client's connection, also when it has ended; it does not keep it open. Any thread; no method waits for the connection.
#[derive(Clone)]
pub struct ConnectionHandle(Arc<Outbox>);

impl ConnectionHandle {
    pub(super) fn new(outbox: Arc<Outbox>) -> Self {
        Self(outbox)
    }

    /// Names the connection, in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The client's address in grpc's form.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.0.peer
    }

    /// Whether it has ended; a forked child has none of its parent's.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_parents() || self.0.is_closed()
    }

    /// When bytes last came from the client; when it was accepted, if none have.
    #[must_use]
    pub fn last_received(&self) -> Instant {
        self.0.last_read()
    }

    /// Sends the client an HTTP/2 PING and has `told` what came of it within `timeout`: by the connection's network thread, or
    /// by this one when the connection has ended. It is told exactly once, and must not block.
    pub fn ping(&self, timeout: Duration, told: impl FnOnce(RoundTrip) + Send + 'static) {
        let until = Instant::now() + timeout.min(LONGEST_WAIT);
        let request = PingRequest::new(until, Box::new(told));
        if !self.0.is_parents() {
            // One that is not taken says so itself.
            self.0.push(Outgoing::Ping(request));
        }
    }
}

impl std::fmt::Debug for ConnectionHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ConnectionHandle")
            .field("id", &self.id())
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}
