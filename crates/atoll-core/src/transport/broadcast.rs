//! One message to many open streams: whoever sends it hands it over once, and a native thread passes it on.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `subscribers` | who subscribes; the fan-out thread, which forgets calls that are over | the same | its mutex |
//! | `waiting` | who sends; the fan-out thread | the same | its mutex |
//!
//! Messages reach each subscriber in the order sent. One that has more than `max_waiting` bytes on the way is slow: it misses
//! the message, or loses its stream, as chosen.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use slab::Slab;

use super::call::{Call, CancelReason};
use super::flow::Sent;
use super::status::{Code, Status};
use crate::fork::PerProcess;
use crate::native_thread;

/// What becomes of a subscriber that does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowSubscriber {
    /// It misses the message.
    Misses,
    /// Its stream ends with `RESOURCE_EXHAUSTED`.
    Ends,
}

/// What a broadcast has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BroadcastStats {
    /// Open streams.
    pub subscribers: usize,
    /// Messages handed over.
    pub sent: u64,
    /// Messages that slow subscribers missed.
    pub missed: u64,
    /// Slow subscribers whose streams were ended.
    pub ended: u64,
}

/// A set of streams that get the same messages. Any thread.
#[derive(Clone)]
pub struct Broadcast(Arc<Inner>);

struct Inner {
    subscribers: Mutex<Slab<Arc<Call>>>,
    waiting: Mutex<Waiting>,
    max_waiting: usize,
    slow: SlowSubscriber,
    sent: AtomicU64,
    missed: AtomicU64,
    ended: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
    /// The fan-out thread has been told and will take them all.
    is_told: bool,
}

/// The way to the fan-out thread of the process, which is started by the first message.
static FAN_OUT: PerProcess<Mutex<Option<Sender<Arc<Inner>>>>> = PerProcess::new();

impl Broadcast {
    /// To nobody yet.
    #[must_use]
    pub fn new(max_waiting: usize, slow: SlowSubscriber) -> Self {
        Self(Arc::new(Inner {
            subscribers: Mutex::default(),
            waiting: Mutex::default(),
            max_waiting,
            slow,
            sent: AtomicU64::default(),
            missed: AtomicU64::default(),
            ended: AtomicU64::default(),
        }))
    }

    /// Sends later messages to `call`, too, whose replies are a stream. The number that takes it out again.
    pub fn subscribe(&self, call: Arc<Call>) -> usize {
        lock(&self.0.subscribers).insert(call)
    }

    /// Sends no later message to the subscriber; does nothing when its call is over.
    pub fn unsubscribe(&self, number: usize, call: &Arc<Call>) {
        let mut subscribers = lock(&self.0.subscribers);
        if subscribers
            .get(number)
            .is_some_and(|it| Arc::ptr_eq(it, call))
        {
            let call = subscribers.remove(number);
            drop(subscribers);
            drop(call);
        }
    }

    /// Sends a message, with its prefix, to all subscribers. Returns at once; `false`, and nothing sent, while more than
    /// `max_waiting` bytes have not been passed on, which would be too much for every subscriber.
    ///
    /// # Errors
    /// When the process can't start the thread that passes it on.
    pub fn send(&self, framed: Bytes) -> std::io::Result<bool> {
        let mut fan_out = lock(FAN_OUT.get());
        if fan_out.is_none() {
            let (sender, receiver) = channel::<Arc<Inner>>();
            native_thread::spawn("atoll-broadcast".into(), move || {
                for inner in receiver {
                    inner.pass_on();
                }
            })?;
            *fan_out = Some(sender);
        }
        let sender = fan_out.clone();
        drop(fan_out);
        let mut waiting = lock(&self.0.waiting);
        if waiting.bytes > self.0.max_waiting {
            return Ok(false);
        }
        self.0.sent.fetch_add(1, Ordering::Relaxed);
        waiting.bytes += framed.len();
        waiting.messages.push_back(framed);
        if !std::mem::replace(&mut waiting.is_told, true)
            && let Some(sender) = sender
        {
            // The thread never ends before its senders.
            let _ = sender.send(Arc::clone(&self.0));
        }
        Ok(true)
    }

    /// What it has counted.
    #[must_use]
    pub fn stats(&self) -> BroadcastStats {
        BroadcastStats {
            subscribers: lock(&self.0.subscribers).len(),
            sent: self.0.sent.load(Ordering::Relaxed),
            missed: self.0.missed.load(Ordering::Relaxed),
            ended: self.0.ended.load(Ordering::Relaxed),
        }
    }
}

impl std::fmt::Debug for Broadcast {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Broadcast({:?})", self.stats())
    }
}

impl Inner {
    fn pass_on(&self) {
        let mut over = Vec::new();
        loop {
            let mut waiting = lock(&self.waiting);
            let messages = std::mem::take(&mut waiting.messages);
            waiting.bytes = 0;
            waiting.is_told = !messages.is_empty();
            drop(waiting);
            if messages.is_empty() {
                return;
            }
            let mut subscribers = lock(&self.subscribers);
            // Stream by stream, so that messages which wait together are sent together.
            for (number, call) in &*subscribers {
                if !messages.iter().all(|message| self.offer(call, message)) {
                    over.push(number);
                }
            }
            let gone: Vec<_> = over.drain(..).map(|it| subscribers.remove(it)).collect();
            drop(subscribers);
            drop(gone);
        }
    }

    /// Offers a message to one subscriber; whether its stream goes on.
    fn offer(&self, call: &Arc<Call>, message: &Bytes) -> bool {
        match call.offer_message(message.clone(), self.max_waiting) {
            Sent::Room => true,
            Sent::Over => false,
            Sent::Full if self.slow == SlowSubscriber::Misses => {
                self.missed.fetch_add(1, Ordering::Relaxed);
                true
            }
            Sent::Full => {
                self.ended.fetch_add(1, Ordering::Relaxed);
                let limit = self.max_waiting;
                let text =
                    format!("The subscriber is too slow: more than {limit} bytes wait for it");
                let status = Status::new(Code::ResourceExhausted, text);
                if call.give_up(CancelReason::SlowClient, status) {
                    call.target().cancelled(call);
                }
                false
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
