//! Round trips to a client: who wants one, and what it is told.
//!
//! A PING of HTTP/2 is answered by the client's transport, whatever its application does. h2 has one in flight at a time, which
//! keepalive and all who ask share: an answer counts for those who had asked before the ping was sent, and those who have asked
//! since get the next one. Only the connection task enters.

use std::mem;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};

/// Why there is no round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPong {
    /// The connection has ended.
    Closed,
    /// No answer came in time; one may still come.
    TimedOut,
}

/// How long a round trip took.
pub type RoundTrip = Result<Duration, NoPong>;

/// Somebody waits for a round trip, and is told exactly once: of the connection's end when this is dropped.
pub(super) struct PingRequest {
    until: Instant,
    told: Option<Box<dyn FnOnce(RoundTrip) + Send>>,
}

impl PingRequest {
    pub(super) fn new(until: Instant, told: Box<dyn FnOnce(RoundTrip) + Send>) -> Self {
        Self {
            until,
            told: Some(told),
        }
    }

    fn tell(mut self, round_trip: RoundTrip) {
        if let Some(told) = self.told.take() {
            told(round_trip);
        }
    }
}

impl Drop for PingRequest {
    fn drop(&mut self) {
        if let Some(told) = self.told.take() {
            told(Err(NoPong::Closed));
        }
    }
}

/// The pings of one connection.
#[derive(Default)]
pub(super) struct Pings {
    /// Made with the first ping; h2 hands it out once.
    ping_pong: Option<PingPong>,
    /// When the ping was sent whose answer has not come.
    sent: Option<Instant>,
    /// Who waits for its answer.
    waiting: Vec<PingRequest>,
    /// Who has asked since.
    late: Vec<PingRequest>,
    /// When the first of them waits no longer.
    expires: Option<Instant>,
}

impl Pings {
    pub(super) fn is_in_flight(&self) -> bool {
        self.sent.is_some()
    }

    pub(super) fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// The next ping that is sent is for `request`.
    pub(super) fn ask(&mut self, request: PingRequest) {
        let until = request.until;
        self.expires = Some(self.expires.map_or(until, |earlier| earlier.min(until)));
        self.late.push(request);
    }

    /// Has h2 send a ping, unless one is in flight; `first` gives what h2 sends the first one with.
    pub(super) fn send(&mut self, now: Instant, first: impl FnOnce() -> Option<PingPong>) {
        if self.is_in_flight() {
            return;
        }
        if self.ping_pong.is_none() {
            self.ping_pong = first();
        }
        let ping_pong = self.ping_pong.as_mut();
        // Fails only when the connection is ending.
        if ping_pong.is_some_and(|it| it.send_ping(Ping::opaque()).is_ok()) {
            self.sent = Some(now);
            self.waiting.append(&mut self.late);
        }
    }

    /// Looks whether the answer has come, and tells those who wait for it. Whether somebody wants another one.
    pub(super) fn look_for_pong(&mut self) -> bool {
        let (Some(sent), Some(ping_pong)) = (self.sent, &mut self.ping_pong) else {
            return false;
        };
        // It is the connection task that takes the answer in, just before it looks here.
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(_)) = ping_pong.poll_pong(&mut cx) else {
            return false;
        };
        self.sent = None;
        let took = sent.elapsed();
        for request in mem::take(&mut self.waiting) {
            request.tell(Ok(took));
        }
        self.find_expiry();
        !self.late.is_empty()
    }

    /// Tells those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        for requests in [&mut self.waiting, &mut self.late] {
            let is_over = |request: &PingRequest| request.until <= now;
            let (over, still) = mem::take(requests).into_iter().partition(is_over);
            *requests = still;
            let over: Vec<_> = over;
            for request in over {
                request.tell(Err(NoPong::TimedOut));
            }
        }
        self.find_expiry();
    }

    /// The connection has ended: so all are told.
    pub(super) fn close(&mut self) {
        self.expires = None;
        drop((mem::take(&mut self.waiting), mem::take(&mut self.late)));
    }

    fn find_expiry(&mut self) {
        let all = self.waiting.iter().chain(&self.late);
        self.expires = all.map(|request| request.until).min();
    }
}
