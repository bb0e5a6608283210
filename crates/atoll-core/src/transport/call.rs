//! A call, as its handler and its dispatch target see it.
//!
//! Calls are shared between the connection that received them, the loop that runs them, and whoever answers
//! first:
//!
//! | field           | written by                                  | read by     | under                     |
//! |-----------------|---------------------------------------------|-------------|---------------------------|
//! | `state`         | whoever begins, answers or cancels the call | everyone    | atomically, see `State`   |
//! | `message`       | the connection; taken once by the handler   | the handler | its lock, never contended |
//! | `outcome`       | whoever ends the call                       | the connection | atomically              |
//! | `admission`     | see `admission`                             | everyone    | its lock                  |
//! | `reply_encoding`| the handler                                 | the handler | atomically                |
//! | `sent_metadata` | the handler                                 | the handler | atomically                |
//! | `flow`          | see `flow`                                  | both        | its lock                  |
//! | `other`         | the loop of a handler that was found there  | the connection | nothing, it is set once |
//! | all others      | the connection, before it shares the call   | everyone    | nothing, they are frozen  |

mod state;

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Uri};

pub use self::state::CancelReason;
use self::state::State;
use super::admission::Admission;
use super::body::Message;
use super::compression::Encoding;
use super::connection_handle::ConnectionHandle;
use super::counters::count;
use super::flow::{Flow, Received, Sent};
use super::method_counters::Refused;
use super::outbox::{Outbox, Outgoing, Queued};
use super::reply::{Framed, Reply, too_large};
use super::routes::{Dispatch, Route};
use super::status::{Code, Status};
use super::streams::StreamKey;
use super::tls::TlsPeer;
use super::wire::{GRPC_ACCEPT_ENCODING, GRPC_ENCODING};
use crate::clock;

/// One call: its request, and the way to answer it. Any thread may use it; no method blocks but those that say so.
pub struct Call {
    route: Arc<Route>,
    /// Which of the route's destinations it goes to.
    destination: usize,
    uri: Uri,
    headers: HeaderMap,
    arrived: Instant,
    deadline: Option<Instant>,
    message: Mutex<Message>,
    /// Of a call that has several messages in either direction.
    flow: Option<Box<Flow>>,
    state: State,
    /// The status with which it ended, for statistics.
    outcome: AtomicU8,
    /// Of a call whose method or server limits how many run.
    admission: Option<Box<Admission>>,
    encoding: Encoding,
    reply_encoding: AtomicU8,
    max_receive_message_size: usize,
    max_send_message_size: usize,
    sent_metadata: AtomicBool,
    other: OnceLock<OtherTarget>,
    key: StreamKey,
    outbox: Arc<Outbox>,
}

/// Where messages are read and written that the call's own target has passed on.
struct OtherTarget {
    target: Arc<dyn Dispatch>,
    /// The call's own target need not hear of progress.
    alone: bool,
}

/// What is known of a call when its headers have been read.
pub(super) struct CallHead {
    pub(super) route: Arc<Route>,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) arrived: Instant,
    pub(super) deadline: Option<Instant>,
    /// Of the request's messages that are marked as compressed.
    pub(super) encoding: Encoding,
    /// Which of the route's targets takes it.
    pub(super) destination: usize,
}

impl Call {
    pub(super) fn new(
        head: CallHead,
        message: Message,
        flow: Option<Box<Flow>>,
        key: StreamKey,
        outbox: Arc<Outbox>,
        (max_receive_message_size, max_send_message_size): (usize, usize),
    ) -> Self {
        Self {
            destination: head.destination,
            flow,
            encoding: head.encoding,
            reply_encoding: AtomicU8::new(Encoding::Identity as u8),
            max_receive_message_size,
            max_send_message_size,
            route: head.route,
            uri: head.uri,
            headers: head.headers,
            arrived: head.arrived,
            deadline: head.deadline,
            message: Mutex::new(message),
            state: State::queued(),
            outcome: AtomicU8::new(Code::Ok as u8),
            admission: None,
            sent_metadata: AtomicBool::new(false),
            other: OnceLock::new(),
            key,
            outbox,
        }
    }

    /// Ties it to the place that it has taken, or waits for.
    pub(super) fn admitted(mut self, admission: Option<Box<Admission>>) -> Self {
        self.admission = admission;
        self
    }

    /// The route that the call took.
    #[must_use]
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// What the target that takes the call was given with the route.
    #[must_use]
    pub fn data(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.route.destination(self.destination).data
    }

    pub(super) fn target(&self) -> &Arc<dyn Dispatch> {
        &self.route.destination(self.destination).target
    }

    /// Has `target` told of progress as well, or, `alone`, in place of the call's own target; before anything is awaited there.
    /// The first one counts.
    pub fn tell_also(&self, target: Arc<dyn Dispatch>, alone: bool) {
        let _ = self.other.set(OtherTarget { target, alone });
    }

    /// Tells the other target of progress, if there is one. Whether the call's own need not be told.
    pub(super) fn tell_other(self: &Arc<Self>) -> bool {
        let Some(other) = self.other.get() else {
            return false;
        };
        other.target.progress(&mut vec![Arc::clone(self)]);
        other.alone
    }

    /// Tells those who run it that the transport has ended it.
    pub(super) fn tell_cancelled(self: &Arc<Self>) {
        self.target().cancelled(self);
        // Whoever waits there sees that it is over, however long the first one takes.
        self.tell_other();
    }

    pub(super) fn target_index(&self) -> usize {
        self.route.destination(self.destination).target_index
    }

    /// The number of the connection that it came on: 0 for the transport's first one.
    #[must_use]
    pub fn connection_number(&self) -> u64 {
        self.outbox.number
    }

    /// The path that the client called, such as `"/package.Service/Method"`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// All request headers as received; see
    /// [`metadata::application_view`](super::metadata::application_view).
    #[must_use]
    pub fn metadata(&self) -> &HeaderMap {
        &self.headers
    }

    /// The client's address in grpc's form: `"ipv4:127.0.0.1:1234"`, `"ipv6:%5B::1%5D:1234"` or `"unix:"`.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.outbox.peer
    }

    /// Who the client is, on a connection with TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsPeer> {
        self.outbox.tls.get()
    }

    /// The host that the client meant to reach (`:authority`, else the header `host`); empty if it did not
    /// say. On a Unix socket with `-` in place of each `%`.
    #[must_use]
    pub fn authority(&self) -> &str {
        match self.uri.authority() {
            Some(authority) => authority.as_str(),
            None => self
                .headers
                .get(http::header::HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or(""),
        }
    }

    /// When the network thread had the call: the whole request, or of a stream of requests the headers. Before it waited for
    /// anything.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// When the network thread had the message that was last received; `None` before the first one. The request of a call that
    /// has only one has [`arrived`](Self::arrived).
    #[must_use]
    pub fn message_arrived(&self) -> Option<Instant> {
        if !self.route.streams_requests {
            return Some(self.arrived);
        }
        let at = self.flow.as_ref()?.received_at()?;
        Some(self.outbox.instant(at))
    }

    /// The connection that it came on.
    #[must_use]
    pub fn connection(&self) -> ConnectionHandle {
        ConnectionHandle::new(Arc::clone(&self.outbox))
    }

    /// When the client stops waiting, if it said so.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The time until the deadline, zero when it has passed; `None` without a deadline.
    #[must_use]
    pub fn time_remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Takes the message of a unary request; empty when taken already.
    #[must_use]
    pub fn take_message(&self) -> Message {
        std::mem::take(&mut *self.message.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A streaming call's handler reads the message that has been taken.
    pub fn put_back(&self, bytes: Bytes) {
        if let Some(flow) = &self.flow {
            let message = Message {
                bytes,
                is_compressed: false,
            };
            // Nobody waits yet; and when it came is known, see `message_arrived`.
            let _ = flow.arrived(message, 0);
        }
    }

    /// Marks the call as running. `false` when it has been answered already: then its handler must not run.
    #[must_use]
    pub fn begin(&self) -> bool {
        self.state.transition_to_running()
    }

    /// Whether the call has its answer, from the handler or from the transport.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.state.load() >= State::ANSWERED
    }

    /// The handler of a call that the transport has ended has been told so, or has ended: the call's place is free for the
    /// next one. Others give theirs back by themselves.
    pub fn release(&self) {
        if let Some(admission) = &self.admission {
            admission.leave();
        }
    }

    /// Whether [`Self::release`] is waited for.
    #[must_use]
    pub fn holds_place(&self) -> bool {
        self.admission.as_ref().is_some_and(|it| it.is_active())
    }

    /// Has the call wait for a place, unless it has one.
    pub(super) fn wait_for_place(self: &Arc<Self>) {
        if let Some(admission) = &self.admission {
            admission.wait(self);
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.admission.as_ref().is_some_and(|it| it.is_waiting())
    }

    /// Whether its target has never heard of it.
    pub(super) fn is_unseen(&self) -> bool {
        self.admission.as_ref().is_some_and(|it| it.is_unseen())
    }

    pub(super) fn stops_waiting(&self) -> bool {
        self.admission.as_ref().is_some_and(|it| it.stops_waiting())
    }

    /// Hands a call that has waited to its target, on whatever thread has made room for it.
    pub(super) fn dispatch_alone(self: Arc<Self>) {
        let target = Arc::clone(self.target());
        let mut calls = vec![self];
        target.dispatch(&mut calls);
        for call in calls {
            call.not_taken();
        }
    }

    /// Its target has left it in the batch.
    pub(super) fn not_taken(&self) {
        let text = "The loop of this method did not take the call";
        let status = Status::new(Code::Unavailable, text);
        self.turn_away(Refused::LoopClosed, Reply::error(status));
    }

    /// Answers a call whose handler will not run; as [`Self::reply`], and counted by the reason.
    pub fn turn_away(&self, reason: Refused, reply: Reply) -> bool {
        let sent = self.reply(reply);
        if sent {
            self.route.counters().refused(reason);
        }
        sent
    }

    /// The call has waited too long on an overloaded loop; counted, whether or not it is refused for that.
    pub fn count_overdue(&self) {
        self.route.counters().overdue();
    }

    /// The status with which it ended.
    pub(super) fn outcome(&self) -> Code {
        Code::from_u8(self.outcome.load(Ordering::Relaxed)).unwrap_or(Code::Unknown)
    }

    /// It ended otherwise than whoever ended it could know.
    pub(super) fn ended_with(&self, code: Code) {
        self.outcome.store(code as u8, Ordering::Relaxed);
    }

    /// Why the transport answered or gave up the call, if it did.
    #[must_use]
    pub fn cancelled_by(&self) -> Option<CancelReason> {
        State::reason(self.state.load())
    }

    /// A request message as it was before its client compressed it. This may take milliseconds.
    ///
    /// # Errors
    ///
    /// The status with which to [`reject`](Self::reject) a message that is none, or would be larger than is allowed.
    pub fn decompress(&self, message: Message) -> Result<Bytes, Status> {
        if !message.is_compressed {
            return Ok(message.bytes);
        }
        self.encoding
            .decompress(&message.bytes, self.max_receive_message_size)
    }

    /// Has replies compressed from now on, if the client understands that. `false` when the headers have been sent, which
    /// say so.
    pub fn compress(&self, encoding: Encoding) -> bool {
        if self.sent_metadata.load(Ordering::Acquire) {
            return false;
        }
        let is_accepted = encoding == Encoding::Identity || self.client_accepts(encoding);
        let encoding = if is_accepted {
            encoding
        } else {
            Encoding::Identity
        };
        self.reply_encoding.store(encoding as u8, Ordering::Release);
        true
    }

    /// How the messages of the reply are compressed.
    #[must_use]
    pub fn reply_encoding(&self) -> Encoding {
        Encoding::from_u8(self.reply_encoding.load(Ordering::Acquire)).unwrap_or_default()
    }

    fn client_accepts(&self, encoding: Encoding) -> bool {
        let lists = self.headers.get_all(GRPC_ACCEPT_ENCODING);
        let names = lists
            .iter()
            .flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
        names
            .into_iter()
            .any(|name| name.trim_ascii() == encoding.name().as_bytes())
    }

    /// The next message of a streaming request. After [`Received::Nothing`] the target is told of progress.
    #[must_use]
    pub fn receive(&self) -> Received {
        self.received(Flow::receive)
    }

    /// Blocks the thread for the next message of a streaming request; never [`Received::Nothing`].
    #[must_use]
    pub fn receive_blocking(&self) -> Received {
        self.received(Flow::receive_blocking)
    }

    fn received(&self, receive: impl FnOnce(&Flow) -> (Received, bool)) -> Received {
        // A unary request has been read before the handler began.
        let Some(flow) = &self.flow else {
            return Received::End;
        };
        let (received, reads_on) = receive(flow);
        if reads_on {
            self.outbox.look_at(self.key.index);
        }
        received
    }

    /// Whether a message of a streaming reply is within the limit.
    ///
    /// # Errors
    ///
    /// The status of a call that sends it nevertheless.
    pub fn check_size(&self, framed: &Framed) -> Result<(), Status> {
        match too_large(framed, self.max_send_message_size) {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }

    /// Sends a message of a streaming reply, which has its prefix (see [`frame`](super::frame)) or is
    /// [`Framed::uncopied`]. The messages of one thread are sent in order.
    pub fn send_message(&self, framed: impl Into<Framed>) -> Sent {
        let framed = framed.into();
        let counted = self.open_reply().map(|flow| flow.send(framed.len()));
        match counted {
            Some(sent @ (Sent::Room | Sent::Full)) => self.push_message(framed, sent),
            Some(Sent::Over) | None => Sent::Over,
        }
    }

    /// Sends a message as [`send_message`](Self::send_message) does, but may leave it for later: whoever sends calls
    /// [`let_go`](Self::let_go) when it has sent its last one for now. Also whether it has been left. A message is not left
    /// when the connection has seen none for `moment`, in ticks of the [`clock`](crate::clock), or for a millisecond.
    pub fn send_riding(&self, framed: Framed, moment: u64) -> (Sent, bool) {
        let bytes = framed.len();
        let counted = self.open_reply().map(|flow| flow.send(bytes));
        let Some(sent @ (Sent::Room | Sent::Full)) = counted else {
            return (Sent::Over, false);
        };
        let message = Outgoing::Message(self.key, framed);
        match self.outbox.push_riding(message, bytes, moment, clock::now) {
            Queued::Seen => (sent, false),
            Queued::Rides => (sent, true),
            Queued::Gone => (Sent::Over, false),
        }
    }

    /// Has messages sent that have been left for later. Does nothing where there are none.
    pub fn let_go(&self) {
        self.outbox.wake_riding();
    }

    /// Sends a message as [`send_message`](Self::send_message) does, unless more than `limit` bytes would then be on the way
    /// and some are already: then there is [`Sent::Full`], and it has not been sent.
    pub fn offer_message(&self, framed: impl Into<Framed>, limit: usize) -> Sent {
        let framed = framed.into();
        let counted = self
            .open_reply()
            .map(|flow| flow.offer(framed.len(), limit));
        match counted {
            Some(Sent::Full) => Sent::Full,
            Some(Sent::Room) => self.push_message(framed, Sent::Room),
            Some(Sent::Over) | None => Sent::Over,
        }
    }

    /// The flow of a streaming reply that goes on, whose headers are sent before its first message.
    fn open_reply(&self) -> Option<&Flow> {
        let is_open = self.route.streams_replies && !self.is_answered();
        let flow = self.flow.as_ref().filter(|_| is_open)?;
        if self.reply_encoding() != Encoding::Identity {
            // Unless they have been sent, the headers say how it is compressed.
            self.send_initial_metadata(HeaderMap::new());
        }
        self.sent_metadata.store(true, Ordering::Release);
        Some(flow)
    }

    /// Hands the connection a message that has been counted; `sent`, unless the connection is gone.
    fn push_message(&self, framed: Framed, sent: Sent) -> Sent {
        if self.outbox.push(Outgoing::Message(self.key, framed)) {
            sent
        } else {
            Sent::Over
        }
    }

    /// Whether another message may be sent. After [`Sent::Full`] the target is told of progress.
    #[must_use]
    pub fn room(&self) -> Sent {
        self.flow.as_ref().map_or(Sent::Over, |flow| flow.room())
    }

    /// Blocks the thread until another message may be sent; never [`Sent::Full`].
    #[must_use]
    pub fn room_blocking(&self) -> Sent {
        self.flow
            .as_ref()
            .map_or(Sent::Over, |flow| flow.room_blocking())
    }

    /// Whether there may be several messages in either direction.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.flow.is_some()
    }

    /// The messages of a streaming call.
    pub(super) fn flow(&self) -> Option<&Flow> {
        self.flow.as_deref()
    }

    /// Sends the headers now, with this metadata, ahead of the reply. `false` when they have been sent or
    /// the call has been answered.
    pub fn send_initial_metadata(&self, mut metadata: HeaderMap) -> bool {
        if self.is_answered() || self.sent_metadata.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.name_encoding(&mut metadata);
        self.outbox
            .push(Outgoing::InitialMetadata(self.key, Box::new(metadata)))
    }

    fn name_encoding(&self, metadata: &mut HeaderMap) {
        let encoding = self.reply_encoding();
        if encoding != Encoding::Identity {
            metadata.insert(GRPC_ENCODING, HeaderValue::from_static(encoding.name()));
        }
    }

    /// Answers the call; the first answer wins. `false` when there is one already, or nobody left to
    /// receive it.
    pub fn reply(&self, mut reply: Reply) -> bool {
        if self.state.transition_to_end(State::ANSWERED).is_none() {
            if self.cancelled_by().is_some() {
                count(&self.outbox.counters.late_replies);
            }
            return false;
        }
        self.ended_with(reply.status.code);
        self.end_flow();
        if reply.message.is_some() && self.reply_encoding() != Encoding::Identity {
            // Ignored where headers have been sent before.
            self.name_encoding(reply.initial_metadata.get_or_insert_default());
        }
        let sent = self.outbox.push(Outgoing::Reply(self.key, reply));
        self.release();
        if !sent {
            count(&self.outbox.counters.late_replies);
        }
        sent
    }

    /// Ends the call because its request is bad; `false` when it has ended already.
    pub fn reject(&self, status: Status) -> bool {
        let given_up = self.give_up(CancelReason::BadRequest, status);
        if given_up {
            // Whoever reads the messages is told by this.
            self.release();
        }
        given_up
    }

    /// Ends the call on behalf of the transport; `false` when it has ended already.
    pub(super) fn give_up(&self, reason: CancelReason, status: Status) -> bool {
        if !self.cancel(reason) {
            return false;
        }
        count(self.outbox.counters.of(reason));
        // A connection that is lost at this moment takes it no more, and finds the call ended: nobody else tells of its end.
        self.outbox
            .push(Outgoing::Reply(self.key, Reply::error(status)));
        true
    }

    /// Answers the call with a status and nothing else; as [`reply`](Self::reply).
    pub fn refuse(&self, status: Status) -> bool {
        self.reply(Reply::error(status))
    }

    /// Ends the call on the transport's account; `false` when an answer came first.
    pub(super) fn cancel(&self, reason: CancelReason) -> bool {
        let Some(before) = self
            .state
            .transition_to_end(State::CANCELLED + reason as u8)
        else {
            return false;
        };
        if before == State::QUEUED {
            // No handler will run, so the message need not wait for the loop to come by. A running one may be
            // about to take it.
            drop(self.take_message());
            self.route.counters().refused(reason.into());
        }
        self.ended_with(reason.code());
        self.end_flow();
        if before == State::QUEUED {
            self.release();
        }
        true
    }

    fn end_flow(&self) {
        if let Some(flow) = &self.flow {
            flow.end();
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Call")
            .field("path", &self.path())
            .field("peer", &self.peer())
            .field("answered", &self.is_answered())
            .field("cancelled_by", &self.cancelled_by())
            .finish_non_exhaustive()
    }
}
