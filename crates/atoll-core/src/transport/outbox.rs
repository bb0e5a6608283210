//! The one place through which other threads reach a connection.
//!
//! | field      | written by                         | read by             | under        |
//! |------------|------------------------------------|---------------------|--------------|
//! | `replies`  | any thread that answers a call     | the connection task | the lock     |
//! | `ready`    | wakers of the connection's streams | the connection task | the lock     |
//! | `sleeper`  | the connection task, taken by wakers | wakers            | the lock     |
//! | `stop_at`  | `Transport::shutdown`, the connection task | the connection task | the lock |
//! | `last_read` | the connection task               | any thread          | an atomic    |
//! | `tls`      | the connection task                | any thread          | – (set once) |
//!
//! The wake-up protocol: the task leaves its waker in `sleeper` only when, under the lock, there is nothing
//! to do. Whoever adds something takes the waker, so the first reply after idle wakes the task and the
//! others ride along. A handler that sends message after message may let them ride although the task sleeps: for as long as
//! its last one that the task has seen is no older than a moment, until then [`Outbox::wake_riding`] is called or
//! [`MOST_RIDING`] bytes wait, and at the latest until the task looks by itself, [`LOOKS_AGAIN`] after it has seen a message:
//! no moment is longer.
//! The lock is never held while h2 is called, because h2 calls wakers under its own
//! lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use http::HeaderMap;

use super::counters::Counters;
use super::pings::PingRequest;
use super::reply::{Framed, Reply};
use super::streams::StreamKey;
use super::tls::TlsPeer;
use crate::{clock, fork};

/// Bytes of messages that may wait for a connection's task without waking it.
const MOST_RIDING: usize = 16 << 10;

/// When the task, asleep since it has sent a message, looks whether more have come without waking it.
pub(super) const LOOKS_AGAIN: Duration = Duration::from_millis(1);

/// How a message was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    /// The task is awake, or has been woken.
    Seen,
    /// The task sleeps.
    Rides,
    /// The connection is gone.
    Gone,
}

/// What a connection is asked to send.
pub(super) enum Outgoing {
    InitialMetadata(StreamKey, Box<HeaderMap>),
    /// A message of a streaming reply.
    Message(StreamKey, Framed),
    Reply(StreamKey, Reply),
    Ping(PingRequest),
}

/// The name of all clients on Unix sockets, as grpc has it.
pub(super) const UNIX_PEER: &str = "unix:";

/// The last connection's [`Outbox::id`].
static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// The part of a connection that its calls share with it.
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    pub(super) peer: Box<str>,
    /// Set when a TLS handshake is done, before there are calls.
    pub(super) tls: OnceLock<TlsPeer>,
    /// Counts the connections of the transport, from 0 on.
    pub(super) number: u64,
    /// Counts the connections of the process, from 1 on.
    pub(super) id: u64,
    /// The process whose connection it is.
    generation: u32,
    pub(super) counters: Arc<Counters>,
    opened: Instant,
    /// Nanoseconds from `opened` to the last time that something came from the client.
    last_read: AtomicU64,
}

#[derive(Default)]
struct Inner {
    replies: Vec<Outgoing>,
    /// Bytes of `replies` that have not woken the task.
    riding: usize,
    /// When a message was last queued that the task sees without further ado; in ticks.
    seen_at: u64,
    ready: Vec<u32>,
    sleeper: Option<Waker>,
    /// A wake-up that arrived while the task ran: it must go round once more.
    woken: bool,
    stop_at: Option<Instant>,
    /// The task has not seen the present `stop_at`. Not a part of `woken`, which the task forgets before it
    /// polls h2: polling h2 is no answer to a stop.
    stop_is_news: bool,
    closed: bool,
}

impl Outbox {
    pub(super) fn new(peer: Box<str>, counters: Arc<Counters>) -> Self {
        Self {
            inner: Mutex::default(),
            peer,
            tls: OnceLock::new(),
            number: 0,
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            generation: fork::watch(),
            counters,
            opened: Instant::now(),
            last_read: AtomicU64::new(0),
        }
    }

    pub(super) fn with_number(mut self, number: u64) -> Self {
        self.number = number;
        self
    }

    /// Whether the client is on a Unix socket.
    pub(super) fn is_unix(&self) -> bool {
        &*self.peer == UNIX_PEER
    }

    /// Whether this process has forked off the one whose connection it is: its lock may be held for ever.
    pub(super) fn is_parents(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Whether the connection is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Something has come from the client.
    pub(super) fn has_read(&self, now: Instant) {
        let since_opened = now.saturating_duration_since(self.opened);
        self.last_read
            .store(since_opened.as_nanos() as u64, Ordering::Relaxed);
    }

    /// When something last came from the client, or the connection itself.
    pub(super) fn last_read(&self) -> Instant {
        self.instant(self.last_read_at())
    }

    /// The same in nanoseconds since the connection was accepted.
    pub(super) fn last_read_at(&self) -> u64 {
        self.last_read.load(Ordering::Relaxed)
    }

    /// What was `nanoseconds` after the connection was accepted.
    pub(super) fn instant(&self, nanoseconds: u64) -> Instant {
        self.opened + Duration::from_nanos(nanoseconds)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics under this lock; if it ever does, the vectors are still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues something to send; `false` when the connection is gone.
    pub(super) fn push(&self, outgoing: Outgoing) -> bool {
        let mut inner = self.lock();
        if inner.closed {
            // Whoever waits for a ping is told when it is dropped, and that not under the lock.
            drop(inner);
            return false;
        }
        inner.replies.push(outgoing);
        wake(inner);
        true
    }

    /// Queues a message of a stream, of `bytes` bytes. It rides while the last one that was seen is younger than `moment`, at most
    /// [`LOOKS_AGAIN`], by the time `now`; both in ticks.
    pub(super) fn push_riding(
        &self,
        outgoing: Outgoing,
        bytes: usize,
        moment: u64,
        now: impl FnOnce() -> u64,
    ) -> Queued {
        let moment = moment.min(clock::ticks(LOOKS_AGAIN));
        let mut inner = self.lock();
        if inner.closed {
            return Queued::Gone;
        }
        inner.replies.push(outgoing);
        // Read under the lock: whoever is delayed before it would take for young what the task has looked again for.
        let now = now();
        let is_early = now.saturating_sub(inner.seen_at) < moment;
        if inner.sleeper.is_some() && is_early && inner.riding + bytes < MOST_RIDING {
            inner.riding += bytes;
            return Queued::Rides;
        }
        inner.seen_at = now;
        wake(inner);
        Queued::Seen
    }

    /// Wakes the task for what rides.
    pub(super) fn wake_riding(&self) {
        let inner = self.lock();
        if inner.riding > 0 {
            wake(inner);
        }
    }

    /// Asks the connection to look at the stream in a slot.
    pub(super) fn look_at(&self, index: u32) {
        let mut inner = self.lock();
        inner.ready.push(index);
        wake(inner);
    }

    /// Asks the connection to finish by `at`; the earliest of several instants counts.
    pub(super) fn stop(&self, at: Instant) {
        let mut inner = self.lock();
        inner.stop_at = Some(inner.stop_at.map_or(at, |earlier| earlier.min(at)));
        inner.stop_is_news = true;
        wake(inner);
    }

    pub(super) fn stop_at(&self) -> Option<Instant> {
        self.lock().stop_at
    }

    /// Swaps what has been queued into `replies`, which must be empty; says when to stop.
    pub(super) fn take_replies(&self, replies: &mut Vec<Outgoing>) -> Option<Instant> {
        debug_assert!(replies.is_empty());
        let mut inner = self.lock();
        std::mem::swap(&mut inner.replies, replies);
        inner.riding = 0;
        inner.stop_is_news = false;
        inner.stop_at
    }

    /// Forgets wake-ups whose cause is about to be polled.
    pub(super) fn clear_woken(&self) {
        self.lock().woken = false;
    }

    /// Swaps the streams that something happened to into `ready`, which must be empty.
    pub(super) fn take_ready(&self, ready: &mut Vec<u32>) {
        debug_assert!(ready.is_empty());
        std::mem::swap(&mut self.lock().ready, ready);
    }

    /// Lets the task sleep, unless there is something to do: then it returns `false`.
    pub(super) fn sleep(&self, cx: &Context<'_>) -> bool {
        let mut inner = self.lock();
        let idle = inner.replies.is_empty() && inner.ready.is_empty();
        if inner.woken || inner.stop_is_news || !idle {
            return false;
        }
        inner.sleeper = Some(cx.waker().clone());
        true
    }

    /// Like [`Self::sleep`] for a connection whose handshake is not done: only a stop keeps it awake.
    pub(super) fn sleep_until_stopped(&self, cx: &Context<'_>) -> bool {
        let mut inner = self.lock();
        inner.sleeper = Some(cx.waker().clone());
        inner.stop_at.is_none()
    }

    /// The connection is gone: what is queued and what comes later is dropped. Returns how many replies were.
    pub(super) fn close(&self) -> usize {
        let mut inner = self.lock();
        inner.closed = true;
        inner.sleeper = None;
        let replies = std::mem::take(&mut inner.replies);
        drop(inner);
        replies
            .iter()
            .filter(|outgoing| matches!(outgoing, Outgoing::Reply(..)))
            .count()
    }
}

fn wake(mut inner: MutexGuard<'_, Inner>) {
    let sleeper = inner.sleeper.take();
    drop(inner);
    if let Some(sleeper) = sleeper {
        sleeper.wake();
    }
}

/// The connection's own waker, given to h2 and to the timer. A wake-up while the task runs becomes another
/// round of its loop instead of a trip through the scheduler.
impl Wake for Outbox {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut inner = self.lock();
        inner.woken = true;
        wake(inner);
    }
}

/// The waker of one slot in the stream table: it says which stream to look at.
pub(super) struct StreamWaker {
    pub(super) outbox: Arc<Outbox>,
    pub(super) index: u32,
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.outbox.look_at(self.index);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::transport::status::{Code, Status};

    struct CountWakes(AtomicUsize);

    impl Wake for CountWakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn reply() -> Outgoing {
        let key = StreamKey {
            index: 0,
            generation: 0,
        };
        Outgoing::Reply(key, Reply::error(Status::new(Code::Internal, "")))
    }

    #[test]
    fn the_first_reply_after_idle_wakes_the_connection_and_the_rest_ride_along() {
        let outbox = Outbox::new("".into(), Arc::default());
        let counter = Arc::new(CountWakes(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&counter));
        let cx = Context::from_waker(&waker);
        assert!(outbox.sleep(&cx));
        for _ in 0..10 {
            assert!(outbox.push(reply()));
        }
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        assert!(!outbox.sleep(&cx), "there are replies to send");
        let mut replies = Vec::new();
        outbox.take_replies(&mut replies);
        assert_eq!(replies.len(), 10);
        assert!(outbox.sleep(&cx));
    }

    #[test]
    fn a_wake_up_while_the_task_runs_sends_it_round_again() {
        let outbox = Arc::new(Outbox::new("".into(), Arc::default()));
        let cx = Context::from_waker(Waker::noop());
        Waker::from(Arc::clone(&outbox)).wake();
        assert!(!outbox.sleep(&cx));
        outbox.clear_woken();
        assert!(outbox.sleep(&cx));
    }

    #[test]
    fn a_stop_that_comes_while_the_task_runs_is_not_forgotten() {
        let outbox = Outbox::new("".into(), Arc::default());
        let cx = Context::from_waker(Waker::noop());
        let at = Instant::now();
        assert_eq!(outbox.take_replies(&mut Vec::new()), None);
        outbox.stop(at);
        outbox.clear_woken();
        assert!(!outbox.sleep(&cx), "the stop has not been seen");
        assert_eq!(outbox.take_replies(&mut Vec::new()), Some(at));
        assert!(outbox.sleep(&cx));
    }

    #[test]
    fn messages_of_a_moment_ride_until_they_are_called_for_or_many() {
        let outbox = Outbox::new("".into(), Arc::default());
        let counter = Arc::new(CountWakes(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&counter));
        let cx = Context::from_waker(&waker);
        let woken = || counter.0.load(Ordering::Relaxed);
        let push = |now, bytes| outbox.push_riding(reply(), bytes, 100, || now);
        let seen = || outbox.take_replies(&mut Vec::new());
        assert!(outbox.sleep(&cx));
        assert_eq!((push(1000, 10), woken()), (Queued::Seen, 1));
        assert_eq!(push(1010, 10), Queued::Seen, "the task is awake");
        seen();
        assert!(outbox.sleep(&cx));
        assert_eq!((push(1109, 10), woken()), (Queued::Rides, 1));
        assert!(!outbox.sleep(&cx), "there is something to send");
        outbox.wake_riding();
        assert_eq!(woken(), 2);
        seen();
        outbox.wake_riding();
        assert!(outbox.sleep(&cx));
        assert_eq!((push(1110, 10), woken()), (Queued::Seen, 3));
        seen();
        assert!(outbox.sleep(&cx));
        assert_eq!(push(1120, MOST_RIDING / 2), Queued::Rides);
        assert_eq!((push(1130, MOST_RIDING), woken()), (Queued::Seen, 4));
        outbox.close();
        assert_eq!(push(1140, 10), Queued::Gone);
    }

    #[test]
    fn no_message_rides_when_the_task_will_not_look_by_itself() {
        let outbox = Outbox::new("".into(), Arc::default());
        let cx = Context::from_waker(Waker::noop());
        let looks_again = clock::ticks(LOOKS_AGAIN);
        let push = |now| outbox.push_riding(reply(), 10, u64::MAX, || now);
        let seen_at = 10 * looks_again;
        for (now, queued) in [
            (seen_at, Queued::Seen),
            (seen_at + looks_again - 1, Queued::Rides),
            (seen_at + looks_again, Queued::Seen),
        ] {
            assert!(outbox.sleep(&cx));
            assert_eq!(push(now), queued, "{}", now - seen_at);
            outbox.take_replies(&mut Vec::new());
        }
    }

    #[test]
    fn a_closed_connection_takes_no_replies_and_counts_those_it_drops() {
        let outbox = Outbox::new("".into(), Arc::default());
        assert!(outbox.push(reply()));
        assert_eq!(outbox.close(), 1);
        assert!(!outbox.push(reply()));
    }
}
