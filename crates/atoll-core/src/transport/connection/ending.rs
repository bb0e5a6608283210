//! Ends that the handler does not choose: deadlines, clients that cancel, lost connections, shutdown.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Instant;

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::call::CancelReason;
use super::super::counters::count;
use super::super::status::{Code, Status};
use super::super::streams::{Stage, StreamKey};
use super::{Connection, Round};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    No,
    /// GOAWAY has been sent; calls in flight may finish.
    Draining {
        since: Instant,
    },
    /// Every call has its answer; `until` then the client may fetch it.
    Closing {
        until: Instant,
        said_goodbye: bool,
    },
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Ends a call on the transport's account, unless its reply is on the way.
    pub(super) fn cancel(&mut self, key: StreamKey, reason: CancelReason, status: Option<Status>) {
        // A target hears of a call before it hears of its end.
        self.batches.dispatch();
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let call = match stream.stage.call() {
            Some(call) if call.cancel(reason) => Some(Arc::clone(call)),
            // Its reply is on the way: the client has the time that the connection has to take it.
            Some(_) if reason == CancelReason::Shutdown || !stream.responder.is_blocked() => return,
            Some(_) => return self.abandon(key),
            None => None,
        };
        if let (Some(call), Some(status)) = (&call, &status) {
            call.ended_with(status.code);
        }
        if let Some(mut stream) = self.remove(key) {
            if let Stage::Reading(reading) = &stream.stage {
                let code = status.as_ref().map_or(reason.code(), |it| it.code);
                reading
                    .head
                    .route
                    .counters()
                    .turned_away(reason.into(), code);
            }
            match status {
                Some(status) => stream.responder.send_error(status),
                None => stream.responder.reset(Reason::CANCEL),
            }
        }
        count(self.outbox.counters.of(reason));
        // What waited for a place has never been dispatched.
        if let Some(call) = call.filter(|call| !call.is_unseen()) {
            call.tell_cancelled();
        }
    }

    /// Gives up a reply that the client does not take.
    fn abandon(&mut self, key: StreamKey) {
        if let Some(mut stream) = self.remove(key) {
            stream.responder.reset(Reason::CANCEL);
        }
    }

    /// A stream that waits for the client to have room is looked at again when it has had none for `send_timeout`.
    pub(super) fn watch_blocked(&mut self, key: StreamKey) {
        let stream = self.streams.get_mut(key);
        let moved_at = stream.and_then(|stream| stream.responder.watch());
        let limit = self.service.config.send_timeout;
        if let Some(at) = moved_at.and_then(|moved_at| moved_at.checked_add(limit)) {
            self.stalls.insert(at, key);
        }
    }

    /// The client may have had no room for too long.
    fn look_at_blocked(&mut self, key: StreamKey, now: Instant) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let (_, moved_at) = stream.responder.unwatch();
        let is_answered = stream.stage.call().is_some_and(|call| call.is_answered());
        let streams = &self.streams;
        self.stalls.forget_one(|key| streams.contains(key));
        let Some(moved_at) = moved_at else { return };
        if now.duration_since(moved_at) < self.service.config.send_timeout {
            return self.watch_blocked(key);
        }
        if is_answered {
            count(&self.outbox.counters.stalled_replies);
        }
        self.cancel(key, CancelReason::SlowClient, None);
    }

    /// All streams; first those of calls that wait for a place, so that the others' ends don't give them one.
    fn keys_to_end(&mut self) -> Vec<StreamKey> {
        let mut keys = self.streams.keys();
        keys.sort_by_key(|key| {
            let call = self.streams.get_mut(*key);
            let call = call.and_then(|stream| stream.stage.call());
            !call.is_some_and(|call| call.is_waiting())
        });
        keys
    }

    /// The connection is gone: so is whatever waits for it.
    pub(super) fn lose_all_calls(&mut self) {
        let late = self.outbox.close();
        self.outbox
            .counters
            .late_replies
            .fetch_add(late as u64, Ordering::Relaxed);
        self.pings.close();
        // Calls that their target has not seen end without it.
        for call in self.batches.take_all() {
            call.cancel(CancelReason::ConnectionLost);
        }
        for key in self.keys_to_end() {
            self.cancel(key, CancelReason::ConnectionLost, None);
            // Left over: calls that their target never saw, and calls whose reply came too late.
            drop(self.remove(key));
        }
    }

    /// Ends what has run out of time, and sets the alarm for what will be next.
    pub(super) fn look_at_the_clock(&mut self, cx: &mut Context<'_>) -> Round {
        loop {
            let stopping = match self.stopping {
                Stopping::No => None,
                Stopping::Draining { since } => {
                    let patience = since + self.service.config.close_timeout;
                    let idle = self.streams.is_empty() && !self.h2.has_streams();
                    let stop_at = self.outbox.stop_at();
                    // An idle client that does not close its connection is not waited for until the grace
                    // ends.
                    if idle {
                        Some(stop_at.map_or(patience, |at| at.min(patience)))
                    } else {
                        stop_at
                    }
                }
                Stopping::Closing {
                    until,
                    said_goodbye,
                } => {
                    if !said_goodbye && !self.h2.has_streams() {
                        self.h2.abrupt_shutdown(Reason::NO_ERROR);
                        self.stopping = Stopping::Closing {
                            until,
                            said_goodbye: true,
                        };
                        return Round::Again;
                    }
                    Some(until)
                }
            };
            let deadline = self.deadlines.earliest();
            let stall = self.stalls.earliest();
            let upkeep = self.next_upkeep();
            let times = [stopping, deadline, stall, upkeep, self.looks_again_at];
            let Some(next) = times.into_iter().flatten().min() else {
                return Round::Done;
            };
            if !self.alarm.has_rung(next, cx) {
                return Round::Done;
            }
            let now = Instant::now();
            if self.looks_again_at.is_some_and(|at| at <= now) {
                self.looks_again_at = None;
                return Round::Again;
            }
            while let Some(key) = self.deadlines.pop_due(now) {
                self.cancel(key, CancelReason::Deadline, Some(deadline_exceeded()));
            }
            while let Some(key) = self.stalls.pop_due(now) {
                self.look_at_blocked(key, now);
            }
            if upkeep.is_some_and(|at| at <= now) {
                match self.keep_up(now) {
                    Round::Done => {}
                    round => return round,
                }
            }
            if stopping.is_some_and(|at| at <= now) {
                match self.stopping {
                    Stopping::Closing { .. } => return Round::Closed(Ok(())),
                    Stopping::Draining { .. } => self.answer_everything(now),
                    Stopping::No => {}
                }
            }
        }
    }

    /// The server stops, and calls in flight have until `at`.
    pub(super) fn stop(&mut self, at: Instant) {
        let now = Instant::now();
        if self.stopping == Stopping::No {
            self.h2.graceful_shutdown();
            self.stopping = Stopping::Draining { since: now };
        }
        if at <= now && matches!(self.stopping, Stopping::Draining { .. }) {
            self.answer_everything(now);
        }
    }

    /// The grace is over.
    fn answer_everything(&mut self, now: Instant) {
        for key in self.keys_to_end() {
            self.cancel(key, CancelReason::Shutdown, Some(shutting_down()));
        }
        self.stopping = Stopping::Closing {
            until: now + self.service.config.close_timeout,
            said_goodbye: false,
        };
    }
}

pub(super) fn deadline_exceeded() -> Status {
    Status::new(Code::DeadlineExceeded, "Deadline Exceeded")
}

/// What clients of grpcio see when a server stops without grace.
pub(super) fn shutting_down() -> Status {
    Status::new(Code::Unavailable, "Cancelling all calls")
}
