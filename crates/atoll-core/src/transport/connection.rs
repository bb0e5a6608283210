//! One task per connection, which owns the connection and all of its streams.
//!
//! It reads requests and their bodies in place, hands the calls of one socket read to each dispatch target
//! as one batch, and sends the replies that have gathered in its [`Outbox`]. A call costs no task, no
//! channel and, unless it is the first reply after idle, no wake-up.
//!
//! A call that outlives its first batch gets its slot's waker, through which h2 says that the client has
//! reset it; a body that is not complete says so through the same waker. Nothing polls all streams.

mod ending;
mod upkeep;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use self::ending::{Stopping, deadline_exceeded, shutting_down};
use self::upkeep::Upkeep;
use super::batches::Batches;
use super::body::Assembler;
use super::call::{Call, CallHead, CancelReason};
use super::config::TransportConfig;
use super::counters::count;
use super::deadlines::{Alarm, Deadlines};
use super::offence::OffenceNotes;
use super::outbox::{Outbox, Outgoing};
use super::reply::Reply;
use super::request::{self, Refusal};
use super::routes::Routes;
use super::status::Status;
use super::streams::{BodyProgress, Reading, Stage, Stream, StreamKey, Streams};
use super::wire::Responder;

/// Rounds of the loop before other connections of the thread get their turn.
const MOST_ROUNDS: usize = 16;

/// What all connections of a server share.
pub(super) struct Service {
    pub(super) config: TransportConfig,
    pub(super) routes: Arc<Routes>,
    pub(super) notes: OffenceNotes,
}

/// An established connection; a future that ends with it.
pub(super) struct Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    h2: server::Connection<S, Bytes>,
    service: Arc<Service>,
    outbox: Arc<Outbox>,
    /// Wakes this task; given to h2 and the alarm in place of tokio's own (see [`Outbox`]).
    waker: Waker,
    streams: Streams,
    deadlines: Deadlines,
    alarm: Alarm,
    batches: Batches,
    /// Calls of the last batches, which do not have their slot's waker yet.
    unwatched: Vec<StreamKey>,
    stopping: Stopping,
    upkeep: Upkeep,
    replies: Vec<Outgoing>,
    ready: Vec<u32>,
}

/// How a round of the loop ended.
enum Round {
    Done,
    Again,
    Closed(Result<(), h2::Error>),
}

/// How far a request's body has come.
enum Progress {
    Incomplete,
    Complete,
    /// The client reset the stream.
    Lost,
    Refused(Status),
}

impl<S> Future for Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Result<(), h2::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let waker = this.waker.clone();
        let mut own = Context::from_waker(&waker);
        this.send_replies();
        this.watch_outliving_calls();
        for _ in 0..MOST_ROUNDS {
            match this.round(&mut own) {
                Round::Closed(result) => {
                    this.lose_all_calls();
                    return Poll::Ready(result);
                }
                Round::Done if this.outbox.sleep(cx) => return Poll::Pending,
                Round::Done | Round::Again => {}
            }
            if !tokio::task::coop::has_budget_remaining() {
                break;
            }
            this.send_replies();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(
        h2: server::Connection<S, Bytes>,
        service: Arc<Service>,
        outbox: Arc<Outbox>,
    ) -> Self {
        Self {
            h2,
            waker: Waker::from(Arc::clone(&outbox)),
            streams: Streams::new(Arc::clone(&outbox)),
            deadlines: Deadlines::default(),
            alarm: Alarm::default(),
            batches: Batches::new(&service.routes),
            unwatched: Vec::new(),
            stopping: Stopping::No,
            upkeep: Upkeep::new(&service.config),
            replies: Vec::new(),
            ready: Vec::new(),
            service,
            outbox,
        }
    }

    /// Everything there is to do, once. Replies have been given to h2 before, so that the first thing that
    /// h2 does here, which is to write, takes them along.
    fn round(&mut self, cx: &mut Context<'_>) -> Round {
        self.outbox.clear_woken();
        let mut now = None;
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let now = *now.get_or_insert_with(Instant::now);
                    self.accept(request, respond, now);
                }
                Poll::Ready(Some(Err(error))) => return Round::Closed(Err(error)),
                Poll::Ready(None) => return Round::Closed(Ok(())),
                Poll::Pending => break,
            }
        }
        let mut ready = std::mem::take(&mut self.ready);
        self.outbox.take_ready(&mut ready);
        for index in ready.drain(..) {
            self.look_at(index);
        }
        self.ready = ready;
        self.batches.dispatch();
        self.look_at_the_clock(cx)
    }

    // Requests

    fn accept(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>, now: Instant) {
        let responder = Responder::new(respond);
        let (parts, mut body) = request.into_parts();
        if matches!(self.stopping, Stopping::Closing { .. }) {
            return responder.refuse(Refusal::Status(shutting_down()));
        }
        let header_limit = self.service.config.max_header_list_size as usize;
        let head = match request::check(parts, &self.service.routes, header_limit, now) {
            Ok(head) => head,
            Err(refusal) => return responder.refuse(refusal),
        };
        let key = self.streams.next_key();
        let limit = head.route.max_receive_message_size();
        let mut assembler =
            Assembler::new(limit.unwrap_or(self.service.config.max_receive_message_size));
        let mut cx = Context::from_waker(self.streams.waker(key.index));
        match read(&mut body, &mut assembler, &mut cx) {
            Progress::Complete => {
                drop(body);
                match assembler.finish() {
                    Ok(message) => self.start(key, head, message, responder),
                    Err(status) => responder.refuse(Refusal::Status(status)),
                }
            }
            Progress::Incomplete => {
                let deadline = head.deadline;
                let reading = Reading {
                    head,
                    body,
                    progress: BodyProgress {
                        at: now,
                        received: assembler.received(),
                    },
                    assembler,
                };
                self.streams
                    .insert(deadline, responder, Stage::Reading(Box::new(reading)));
                if let Some(at) = deadline {
                    self.deadlines.insert(at, key);
                }
                self.watch_body(now);
            }
            Progress::Lost => {}
            Progress::Refused(status) => responder.refuse(Refusal::Status(status)),
        }
    }

    /// A call whose request came whole at once.
    fn start(&mut self, key: StreamKey, head: CallHead, message: Bytes, responder: Responder) {
        let deadline = head.deadline;
        if deadline.is_some_and(|at| at <= head.arrived) {
            count(&self.outbox.counters.deadlines_exceeded);
            return responder.refuse(Refusal::Status(deadline_exceeded()));
        }
        let call = Arc::new(Call::new(head, message, key, Arc::clone(&self.outbox)));
        self.batches.push(Arc::clone(&call));
        self.streams
            .insert(deadline, responder, Stage::Dispatched(call));
        if let Some(at) = deadline {
            self.deadlines.insert(at, key);
        }
        self.count_started(key);
    }

    fn count_started(&mut self, key: StreamKey) {
        self.unwatched.push(key);
        count(&self.outbox.counters.calls);
        self.outbox
            .counters
            .calls_in_flight
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Something happened to the stream in this slot: more of its body, or a reset.
    fn look_at(&mut self, index: u32) {
        let Some(key) = self.streams.key_at(index) else {
            return;
        };
        let waker = self.streams.waker(index).clone();
        let mut cx = Context::from_waker(&waker);
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        match &mut stream.stage {
            Stage::Dispatched(_) => {
                if stream.responder.is_reset(&mut cx) {
                    self.cancel(key, CancelReason::Client, None);
                }
            }
            Stage::Reading(reading) => {
                match read(&mut reading.body, &mut reading.assembler, &mut cx) {
                    Progress::Incomplete => {}
                    Progress::Complete => self.finish_reading(key),
                    Progress::Lost => drop(self.remove(key)),
                    Progress::Refused(status) => self.refuse_reading(key, status),
                }
            }
        }
    }

    /// The body of a stream is complete: it becomes a call, in its place.
    fn finish_reading(&mut self, key: StreamKey) {
        let Some(stream) = self.remove(key) else {
            return;
        };
        let (head, finished) = match stream.stage {
            Stage::Reading(reading) => (reading.head, reading.assembler.finish()),
            Stage::Dispatched(_) => return,
        };
        match finished {
            // The slot that was just vacated is the next one, so the stream keeps its waker.
            Ok(message) => self.start(self.streams.next_key(), head, message, stream.responder),
            Err(status) => stream.responder.refuse(Refusal::Status(status)),
        }
    }

    fn refuse_reading(&mut self, key: StreamKey, status: Status) {
        if let Some(stream) = self.remove(key) {
            stream.responder.refuse(Refusal::Status(status));
        }
    }

    /// Asks h2 to say when the calls that are still unanswered are reset. At 16 calls per read most have
    /// their reply by the time the task runs again, and never cost this.
    fn watch_outliving_calls(&mut self) {
        let mut unwatched = std::mem::take(&mut self.unwatched);
        for key in unwatched.drain(..) {
            if self.streams.contains(key) {
                self.look_at(key.index);
            }
        }
        self.unwatched = unwatched;
    }

    // Replies

    fn send_replies(&mut self) {
        let mut replies = std::mem::take(&mut self.replies);
        let stop_at = self.outbox.take_replies(&mut replies);
        for outgoing in replies.drain(..) {
            match outgoing {
                Outgoing::Reply(key, reply) => self.send_reply(key, reply),
                Outgoing::InitialMetadata(key, metadata) => {
                    if let Some(stream) = self.streams.get_mut(key) {
                        stream.responder.send_initial_metadata(*metadata);
                    }
                }
            }
        }
        self.replies = replies;
        if let Some(at) = stop_at {
            self.stop(at);
        }
    }

    fn send_reply(&mut self, key: StreamKey, reply: Reply) {
        let Some(stream) = self.remove(key) else {
            return count(&self.outbox.counters.late_replies);
        };
        let Stage::Dispatched(call) = &stream.stage else {
            return;
        };
        let limit = call.route().max_send_message_size();
        let reply = reply.checked(limit.unwrap_or(self.service.config.max_send_message_size));
        stream.responder.send_reply(reply);
    }

    /// Takes a stream out of the table and of the accounts.
    fn remove(&mut self, key: StreamKey) -> Option<Stream> {
        let stream = self.streams.remove(key)?;
        if stream.deadline.is_some() {
            let streams = &self.streams;
            self.deadlines.forget_one(|key| streams.contains(key));
        }
        if matches!(stream.stage, Stage::Dispatched(_)) {
            self.outbox
                .counters
                .calls_in_flight
                .fetch_sub(1, Ordering::Relaxed);
        }
        Some(stream)
    }
}

impl<S> Drop for Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Only a connection that panicked, or whose runtime went away, still has calls.
    fn drop(&mut self) {
        self.lose_all_calls();
    }
}

/// Reads as much of a body as there is, and lets the client send as much again.
fn read(body: &mut RecvStream, assembler: &mut Assembler, cx: &mut Context<'_>) -> Progress {
    loop {
        match body.poll_data(cx) {
            Poll::Pending => return Progress::Incomplete,
            Poll::Ready(None) => return Progress::Complete,
            Poll::Ready(Some(Err(_))) => return Progress::Lost,
            Poll::Ready(Some(Ok(chunk))) => {
                // Fails only for more than was received.
                let _ = body.flow_control().release_capacity(chunk.len());
                if let Err(status) = assembler.push(chunk) {
                    return Progress::Refused(status);
                }
                if body.is_end_stream() {
                    return Progress::Complete;
                }
            }
        }
    }
}
