//! What a connection does by the clock although nobody asks for it: it looks after slow requests, pings a silent client, and
//! asks a client to go that is idle or has been here for long. It also gives up pings that somebody did ask for.
//!
//! Nothing here costs a call anything: the alarm rings when something may be due, and then it is looked up.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::call::CancelReason;
use super::super::config::TransportConfig;
use super::super::counters::count;
use super::super::method_counters::Refused;
use super::super::offence::{self, Offence};
use super::super::pings::PingRequest;
use super::super::status::{Code, Status};
use super::super::streams::{BodyProgress, Stage, StreamKey};
use super::ending::Stopping;
use super::{Connection, Round};

/// What a request must bring, at least, in each `body_timeout`: less is no progress.
const LEAST_PROGRESS: usize = 1 << 10;

/// How much of a connection's greatest age is left to chance, so that connections made together do not come back together.
const JITTER: f64 = 0.1;

/// A grace that is not limited; clocks can express it.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) struct Upkeep {
    /// When the connection is too old.
    old_at: Option<Instant>,
    /// When the last stream went.
    idle_since: Option<Instant>,
    /// When requests that are still incomplete are looked at; `None` without any.
    bodies_at: Option<Instant>,
    keepalive_at: Option<Instant>,
    /// When a ping was sent whose answer has not been seen.
    pinged: Option<Instant>,
}

impl Upkeep {
    pub(super) fn new(config: &TransportConfig) -> Self {
        let now = Instant::now();
        let after = |limit: Option<Duration>| limit.and_then(|limit| now.checked_add(limit));
        Self {
            old_at: after(config.max_connection_age.map(jittered)),
            idle_since: None,
            bodies_at: None,
            keepalive_at: after(config.keepalive_time),
            pinged: None,
        }
    }

    /// Whether messages that are not complete are looked after already.
    pub(super) fn watches_bodies(&self) -> bool {
        self.bodies_at.is_some()
    }

    /// A message is not complete: it will be looked after.
    pub(super) fn watch_body(&mut self, config: &TransportConfig, now: Instant) {
        if self.bodies_at.is_none() {
            let timeout = config.body_timeout;
            self.bodies_at = timeout.and_then(|timeout| now.checked_add(timeout));
        }
    }
}

/// `age`, give or take a tenth.
fn jittered(age: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    let factor = 1.0 + JITTER * (2.0 * random - 1.0);
    Duration::try_from_secs_f64(age.as_secs_f64() * factor).unwrap_or(age)
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// When there may be something to do.
    pub(super) fn next_upkeep(&mut self) -> Option<Instant> {
        let (old, idle) = if self.stopping == Stopping::No {
            (self.upkeep.old_at, self.idle_until())
        } else {
            (None, None)
        };
        let (bodies, keepalive) = (self.upkeep.bodies_at, self.upkeep.keepalive_at);
        let times = [old, idle, bodies, keepalive, self.pings.expires()];
        times.into_iter().flatten().min()
    }

    /// When the connection has been idle for too long, if it is idle.
    fn idle_until(&mut self) -> Option<Instant> {
        let limit = self.service.config.max_connection_idle?;
        if !self.streams.is_empty() || self.h2.has_streams() {
            self.upkeep.idle_since = None;
            return None;
        }
        let since = *self.upkeep.idle_since.get_or_insert_with(Instant::now);
        since.checked_add(limit)
    }

    /// Does what is due. `Done` when there is nothing more to do for the connection's h2.
    pub(super) fn keep_up(&mut self, now: Instant) -> Round {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.upkeep.bodies_at) {
            self.look_after_bodies(now);
        }
        if due(self.pings.expires()) {
            self.pings.expire(now);
        }
        if due(self.upkeep.keepalive_at)
            && let Round::Closed(end) = self.keep_alive(now)
        {
            return Round::Closed(end);
        }
        if self.stopping != Stopping::No {
            return Round::Again;
        }
        if due(self.idle_until()) {
            count(&self.outbox.counters.idle_connections_closed);
            self.outbox.stop(now + LONGEST_GRACE);
        } else if due(self.upkeep.old_at) {
            count(&self.outbox.counters.aged_connections_closed);
            let grace = self.service.config.max_connection_age_grace;
            self.outbox
                .stop(now + grace.map_or(LONGEST_GRACE, |grace| grace.min(LONGEST_GRACE)));
        }
        Round::Again
    }

    // Requests

    /// Gives up requests whose message has made no progress; one is found out between one and two times-out after its last
    /// progress.
    fn look_after_bodies(&mut self, now: Instant) {
        self.upkeep.bodies_at = None;
        let Some(timeout) = self.service.config.body_timeout else {
            return;
        };
        let mut slow = Vec::new();
        let mut next: Option<Instant> = None;
        for (key, stage) in self.streams.stages() {
            let Some(since) = waits_since(stage, now) else {
                continue;
            };
            if now.saturating_duration_since(since) >= timeout {
                slow.push(key);
                continue;
            }
            let at = since + timeout;
            next = Some(next.map_or(at, |earlier| earlier.min(at)));
        }
        self.upkeep.bodies_at = next;
        for key in slow {
            self.give_up_body(key, timeout);
        }
    }

    fn give_up_body(&mut self, key: StreamKey, timeout: Duration) {
        offence::report(&self.service, &self.outbox, Offence::SlowBody);
        let text = format!(
            "SERVER: The request's message made no progress for {} s",
            timeout.as_secs_f64()
        );
        let status = Status::new(Code::DeadlineExceeded, text);
        let stream = self.streams.get_mut(key);
        if stream.is_some_and(|stream| stream.stage.call().is_some()) {
            return self.cancel(key, CancelReason::SlowBody, Some(status));
        }
        self.refuse_reading(key, Refused::SlowBody, status);
    }

    // Keepalive

    /// Pings a client from which nothing has come for `keepalive_time`, and gives it up when nothing comes for
    /// `keepalive_timeout` after that. As with grpc, a connection without calls is left alone unless it is asked for.
    fn keep_alive(&mut self, now: Instant) -> Round {
        let config = &self.service.config;
        let (time, timeout) = (config.keepalive_time, config.keepalive_timeout);
        let without_calls = config.keepalive_without_calls;
        let Some(time) = time else {
            self.upkeep.keepalive_at = None;
            return Round::Done;
        };
        let last_read = self.outbox.last_read();
        let mut next = last_read + time;
        match self.upkeep.pinged {
            Some(at) if last_read < at => {
                if now.saturating_duration_since(at) >= timeout {
                    offence::report(&self.service, &self.outbox, Offence::DeadPeer);
                    return Round::Closed(Err(Reason::NO_ERROR.into()));
                }
                next = (at + timeout).min(now + time);
            }
            _ if next > now => self.upkeep.pinged = None,
            _ if without_calls || !self.streams.is_empty() => {
                self.send_ping(now);
                self.upkeep.pinged = Some(now);
                // The answer moves the next ping, and may be there long before the time-out.
                next = now + timeout.min(time);
            }
            _ => {
                self.upkeep.pinged = None;
                next = now + time;
            }
        }
        self.upkeep.keepalive_at = Some(next);
        Round::Again
    }

    // Pings

    /// One that is in flight already does as well.
    fn send_ping(&mut self, now: Instant) {
        self.pings.send(now, || self.h2.ping_pong());
    }

    /// Somebody wants to know how long a round trip takes.
    pub(super) fn ping(&mut self, request: PingRequest) {
        self.pings.ask(request);
        self.send_ping(Instant::now());
    }

    /// h2 may have received the answer to a ping.
    pub(super) fn look_for_pong(&mut self) {
        if self.pings.look_for_pong() {
            self.send_ping(Instant::now());
            // h2 sends it when it is polled once more.
            self.waker.wake_by_ref();
        }
    }
}

/// Since when a message that is due has made no progress; `None` when none is due.
fn waits_since(stage: &mut Stage, now: Instant) -> Option<Instant> {
    let (before, present) = match stage {
        Stage::Reading(reading) => {
            let present = BodyProgress {
                at: now,
                completed: 0,
                received: reading.assembler.received(),
            };
            (&mut reading.progress, present)
        }
        Stage::Streaming(call, Some(incoming)) => {
            if !incoming.is_due(call, call.flow()?) {
                incoming.progress = None;
                return None;
            }
            let present = incoming.progress(now);
            (incoming.progress.get_or_insert(present), present)
        }
        Stage::Dispatched(_) | Stage::Streaming(_, None) => return None,
    };
    let is_another = present.completed != before.completed;
    if is_another || present.received >= before.received + LEAST_PROGRESS {
        *before = present;
    }
    Some(before.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_differ_by_up_to_a_tenth() {
        let age = Duration::from_secs(1000);
        let ages: Vec<_> = (0..1000).map(|_| jittered(age)).collect();
        let (least, most) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(900) && *most <= Duration::from_secs(1100));
        assert!(*most > *least + Duration::from_secs(100));
    }
}
