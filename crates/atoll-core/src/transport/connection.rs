//! One task per connection, which owns the connection and all of its streams.
//!
//! It reads requests and their bodies in place, hands the calls of one socket read to each dispatch target
//! as one batch, and sends the replies that have gathered in its [`Outbox`]. A call costs no task, no
//! channel and, unless it is the first reply after idle, no wake-up.
//!
//! A call that outlives its first batch gets its slot's waker, through which h2 says that the client has
//! reset it; a body that is not complete says so through the same waker. Nothing polls all streams.

mod ending;
mod incoming;
mod refusing;
mod upkeep;
mod windows;

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
use self::windows::Windows;
use super::admission::{Doors, ServerDoors};
use super::batches::Batches;
use super::body::{Assembler, Decoder, Message};
use super::call::{Call, CallHead, CancelReason};
use super::compression::Encoding;
use super::config::TransportConfig;
use super::counters::count;
use super::deadlines::{Alarm, Deadlines};
use super::flow::Flow;
use super::method_counters::Refused;
use super::offence::OffenceNotes;
use super::outbox::{LOOKS_AGAIN, Outbox, Outgoing};
use super::pings::Pings;
use super::reply::Reply;
use super::request::{self, Refusal, TurnedAway};
use super::routes::Routes;
use super::status::{Code, Status};
use super::streams::{BodyProgress, Incoming, Reading, Stage, Stream, StreamKey, Streams};
use super::wire::{Progress, Responder};

/// Rounds of the loop before other connections of the thread get their turn.
const MOST_ROUNDS: usize = 16;

/// What all connections of a server share.
pub(super) struct Service {
    pub(super) config: TransportConfig,
    pub(super) routes: Arc<Routes>,
    pub(super) doors: Arc<ServerDoors>,
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
    /// When to look at streams whose client has no room.
    stalls: Deadlines,
    alarm: Alarm,
    batches: Batches,
    doors: Doors,
    /// Calls of the last batches, which do not have their slot's waker yet.
    unwatched: Vec<StreamKey>,
    stopping: Stopping,
    upkeep: Upkeep,
    pings: Pings,
    windows: Windows,
    replies: Vec<Outgoing>,
    /// Streams with messages to be sent.
    unsent: Vec<StreamKey>,
    /// When to look whether messages have come that did not wake the task.
    looks_again_at: Option<Instant>,
    ready: Vec<u32>,
}

/// How a round of the loop ended.
enum Round {
    Done,
    Again,
    Closed(Result<(), h2::Error>),
}

/// How far a request's body has come.
enum Body {
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
            stalls: Deadlines::default(),
            alarm: Alarm::default(),
            batches: Batches::new(&service.routes),
            doors: Doors::new(&service.doors),
            unwatched: Vec::new(),
            stopping: Stopping::No,
            upkeep: Upkeep::new(&service.config),
            pings: Pings::default(),
            windows: Windows::new(&service.config),
            replies: Vec::new(),
            unsent: Vec::new(),
            looks_again_at: None,
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
        if self.pings.is_in_flight() {
            self.look_for_pong();
        }
        let mut ready = std::mem::take(&mut self.ready);
        self.outbox.take_ready(&mut ready);
        for index in ready.drain(..) {
            self.look_at(index);
        }
        self.ready = ready;
        self.windows.adjust(&mut self.h2, &mut self.streams);
        self.batches.dispatch();
        self.look_at_the_clock(cx)
    }

    // Requests

    fn accept(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>, now: Instant) {
        let responder = Responder::new(respond);
        let (parts, mut body) = request.into_parts();
        if matches!(self.stopping, Stopping::Closing { .. }) {
            let route = self.service.routes.find(request::path(&parts.uri));
            let refusal = Refusal::Status(shutting_down());
            return self.turn_away(route, Refused::Shutdown, refusal, responder);
        }
        let header_limit = self.service.config.max_header_list_size as usize;
        let authentication = self.service.config.authentication.as_deref();
        let routes = &self.service.routes;
        let mut head = match request::check(parts, routes, header_limit, authentication, now) {
            Ok(head) => head,
            Err(TurnedAway {
                route,
                reason,
                refusal,
            }) => return self.turn_away(route.as_ref(), reason, refusal, responder),
        };
        head.destination = head.route.choose(self.outbox.number, &head.headers);
        if let Some((reason, status)) = self.doors.turn_away(&head.route, head.destination) {
            let refusal = Refusal::Status(status);
            return self.turn_away(Some(&head.route), reason, refusal, responder);
        }
        let key = self.streams.next_key();
        let (limit, _) = self.service.config.message_limits(&head.route);
        let is_compressed = head.encoding != Encoding::Identity;
        if head.route.streams_requests {
            let decoder = Decoder::new(limit, is_compressed);
            let incoming = Box::new(Incoming::new(body, decoder));
            self.start(key, head, Message::default(), Some(incoming), responder);
            return self.read_requests(key);
        }
        let mut assembler = Assembler::new(limit, is_compressed);
        let mut cx = Context::from_waker(self.streams.waker(key.index));
        match read(&mut body, &mut assembler, &mut cx) {
            Body::Complete => {
                drop(body);
                match assembler.finish() {
                    Ok(message) => self.start(key, head, message, None, responder),
                    Err(status) => self.refuse_body(&head.route, status, responder),
                }
            }
            Body::Incomplete => {
                let deadline = head.deadline;
                let reading = Reading {
                    head,
                    body,
                    progress: BodyProgress {
                        at: now,
                        completed: 0,
                        received: assembler.received(),
                    },
                    assembler,
                };
                self.streams
                    .insert(deadline, responder, Stage::Reading(Box::new(reading)));
                if let Some(at) = deadline {
                    self.deadlines.insert(at, key);
                }
                self.upkeep.watch_body(&self.service.config, now);
            }
            Body::Lost => head
                .route
                .counters()
                .turned_away(Refused::Client, Code::Cancelled),
            Body::Refused(status) => self.refuse_body(&head.route, status, responder),
        }
    }

    /// A call whose request came whole, or whose `incoming` messages its handler reads one by one.
    fn start(
        &mut self,
        key: StreamKey,
        head: CallHead,
        message: Message,
        incoming: Option<Box<Incoming>>,
        mut responder: Responder,
    ) {
        let deadline = head.deadline;
        if deadline.is_some_and(|at| at <= head.arrived) {
            count(&self.outbox.counters.deadlines_exceeded);
            let counters = head.route.counters();
            counters.turned_away(Refused::Deadline, Code::DeadlineExceeded);
            return responder.send_error(deadline_exceeded());
        }
        let bytes = message.bytes.len();
        let admission = match self.doors.enter(&head.route, head.destination, bytes) {
            Ok(admission) => admission,
            Err((reason, status)) => {
                let refusal = Refusal::Status(status);
                return self.turn_away(Some(&head.route), reason, refusal, responder);
            }
        };
        head.route.counters().started();
        head.route.counters().received(message.bytes.len());
        let is_streaming = incoming.is_some() || head.route.streams_replies;
        let config = &self.service.config;
        let flow =
            is_streaming.then(|| Box::new(Flow::new(config.request_buffer, config.reply_buffer)));
        if let (None, Some(flow)) = (&incoming, &flow) {
            // The request is complete; no handler has begun that could wait for more of it.
            let _ = flow.complete();
        }
        let limits = config.message_limits(&head.route);
        let call = Call::new(head, message, flow, key, Arc::clone(&self.outbox), limits);
        let call = Arc::new(call.admitted(admission));
        let waiting = call.is_waiting().then(|| Arc::clone(&call));
        if waiting.is_none() {
            self.batches.push(Arc::clone(&call));
        }
        let stage = if is_streaming {
            Stage::Streaming(call, incoming)
        } else {
            Stage::Dispatched(call)
        };
        self.streams.insert(deadline, responder, stage);
        if let Some(at) = deadline {
            self.deadlines.insert(at, key);
        }
        self.count_started(key);
        if let Some(call) = waiting {
            call.wait_for_place();
        }
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
        let Some((stream, waker)) = self.streams.get_with_waker(key) else {
            return;
        };
        let mut cx = Context::from_waker(waker);
        match &mut stream.stage {
            Stage::Dispatched(_) | Stage::Streaming(..) if stream.responder.is_reset(&mut cx) => {
                self.cancel(key, CancelReason::Client, None);
            }
            Stage::Dispatched(_) | Stage::Streaming(..) => {
                if stream.responder.is_blocked() {
                    self.flush(key);
                }
                self.read_requests(key);
            }
            Stage::Reading(reading) => {
                match read(&mut reading.body, &mut reading.assembler, &mut cx) {
                    Body::Incomplete => {}
                    Body::Complete => self.finish_reading(key),
                    Body::Lost => {
                        let counters = reading.head.route.counters();
                        counters.turned_away(Refused::Client, Code::Cancelled);
                        drop(self.remove(key));
                    }
                    Body::Refused(status) => {
                        self.refuse_reading(key, Refused::BadRequest, status);
                    }
                }
            }
        }
    }

    /// The body of a stream is complete: it becomes a call, in its place.
    fn finish_reading(&mut self, key: StreamKey) {
        let Some(stream) = self.remove(key) else {
            return;
        };
        let Stage::Reading(reading) = stream.stage else {
            return;
        };
        let mut head = reading.head;
        head.arrived = Instant::now();
        match reading.assembler.finish() {
            // The slot that was just vacated is the next one, so the stream keeps its waker.
            Ok(message) => {
                let key = self.streams.next_key();
                self.start(key, head, message, None, stream.responder);
            }
            Err(status) => self.refuse_body(&head.route, status, stream.responder),
        }
    }

    /// Reads messages of a streaming request, as long as its handler keeps up.
    fn read_requests(&mut self, key: StreamKey) {
        let Some((stream, waker)) = self.streams.get_with_waker(key) else {
            return;
        };
        let mut cx = Context::from_waker(waker);
        let Stage::Streaming(call, incoming) = &mut stream.stage else {
            return;
        };
        let (Some(flow), Some(reading)) = (call.flow(), incoming.as_deref_mut()) else {
            return;
        };
        let mut tell = false;
        let held_before = reading.kept.len();
        let now = self.outbox.last_read_at();
        let outcome = reading.read(flow, now, &mut cx, |message, at| {
            call.route().counters().received(message.bytes.len());
            tell |= flow.arrived(message, at);
            Ok(())
        });
        self.windows.held(held_before, reading.kept.len());
        if !self.upkeep.watches_bodies() && reading.is_due(call, flow) {
            let now = Instant::now();
            reading.progress = Some(reading.progress(now));
            self.upkeep.watch_body(&self.service.config, now);
        }
        if matches!(outcome, Body::Complete) {
            tell |= flow.complete();
            *incoming = None;
        }
        if tell {
            self.batches.push_progress(call);
        }
        match outcome {
            Body::Incomplete | Body::Complete => {}
            Body::Lost => self.cancel(key, CancelReason::Client, None),
            Body::Refused(status) => self.cancel(key, CancelReason::BadRequest, Some(status)),
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
        let mut has_messages = false;
        for outgoing in replies.drain(..) {
            match outgoing {
                Outgoing::Reply(key, reply) => self.send_reply(key, reply),
                Outgoing::Message(key, message) => {
                    has_messages = true;
                    if let Some(stream) = self.streams.get_mut(key) {
                        if let Some(call) = stream.stage.call() {
                            call.route().counters().sent(message.len());
                        }
                        if stream.responder.queue(message) {
                            self.unsent.push(key);
                        }
                    }
                }
                Outgoing::InitialMetadata(key, metadata) => {
                    if let Some(stream) = self.streams.get_mut(key) {
                        stream.responder.send_initial_metadata(*metadata);
                    }
                }
                Outgoing::Ping(request) => self.ping(request),
            }
        }
        self.replies = replies;
        if has_messages {
            self.looks_again_at = Instant::now().checked_add(LOOKS_AGAIN);
        }
        // Only now, so that messages which came together are sent together.
        let mut unsent = std::mem::take(&mut self.unsent);
        for key in unsent.drain(..) {
            self.flush(key);
        }
        self.unsent = unsent;
        if let Some(at) = stop_at {
            self.stop(at);
        }
    }

    /// Sends what a stream has to send, as far as its client has room.
    fn flush(&mut self, key: StreamKey) {
        let Some((stream, waker)) = self.streams.get_with_waker(key) else {
            return;
        };
        let mut cx = Context::from_waker(waker);
        let (progress, sent) = stream.responder.flush(&mut cx);
        self.flushed(key, progress, sent);
    }

    /// Something of a stream has been sent.
    fn flushed(&mut self, key: StreamKey, progress: Progress, sent: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if let Some(call) = stream.stage.call()
            && call.flow().is_some_and(|flow| flow.taken(sent))
        {
            self.batches.push_progress(call);
        }
        match progress {
            Progress::Idle => {}
            Progress::Blocked => self.watch_blocked(key),
            Progress::Ended => self.ended(key),
        }
    }

    /// Nothing more can be sent on a stream.
    fn ended(&mut self, key: StreamKey) {
        let is_answered = |stream: &Stream| stream.stage.call().is_some_and(|it| it.is_answered());
        if self.streams.get_mut(key).is_some_and(|it| is_answered(it)) {
            drop(self.remove(key));
        } else {
            // It is the client that has ended it.
            self.cancel(key, CancelReason::Client, None);
        }
    }

    fn send_reply(&mut self, key: StreamKey, reply: Reply) {
        let Some((stream, waker)) = self.streams.get_with_waker(key) else {
            return count(&self.outbox.counters.late_replies);
        };
        let Some(call) = stream.stage.call() else {
            return;
        };
        let route = call.route();
        let (_, limit) = self.service.config.message_limits(route);
        let reply = reply.checked(limit, route.streams_replies);
        call.ended_with(reply.status.code);
        if call.cancelled_by().is_some() {
            // Given up: what waits for the client is not sent before.
            stream.responder.send_error(reply.status);
            return drop(self.remove(key));
        }
        if let Some(message) = &reply.message {
            route.counters().sent(message.len());
        }
        let mut cx = Context::from_waker(waker);
        let (progress, sent) = stream.responder.send_reply(reply, &mut cx);
        match progress {
            Progress::Ended => drop(self.remove(key)),
            Progress::Idle | Progress::Blocked => self.flushed(key, progress, sent),
        }
    }

    /// Takes a stream out of the table and of the accounts.
    fn remove(&mut self, key: StreamKey) -> Option<Stream> {
        let mut stream = self.streams.remove(key)?;
        if stream.deadline.is_some() {
            let streams = &self.streams;
            self.deadlines.forget_one(|key| streams.contains(key));
        }
        if let (true, _) = stream.responder.unwatch() {
            let streams = &self.streams;
            self.stalls.forget_one(|key| streams.contains(key));
        }
        if let Stage::Streaming(_, Some(incoming)) = &stream.stage {
            // h2 takes back what it has lent the stream.
            self.windows.held(incoming.kept.len(), 0);
        }
        if let Some(call) = stream.stage.call() {
            call.route().counters().finished(call.outcome());
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
fn read(body: &mut RecvStream, assembler: &mut Assembler, cx: &mut Context<'_>) -> Body {
    loop {
        match body.poll_data(cx) {
            Poll::Pending => return Body::Incomplete,
            Poll::Ready(None) => return Body::Complete,
            Poll::Ready(Some(Err(_))) => return Body::Lost,
            Poll::Ready(Some(Ok(chunk))) => {
                // Fails only for more than was received.
                let _ = body.flow_control().release_capacity(chunk.len());
                if let Err(status) = assembler.push(chunk) {
                    return Body::Refused(status);
                }
                if body.is_end_stream() {
                    return Body::Complete;
                }
            }
        }
    }
}
