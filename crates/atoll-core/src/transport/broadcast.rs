//! One message to many open streams: whoever sends it hands it over once, and a native thread passes it on.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `subscribers` | who subscribes; the fan-out thread, which forgets calls that are over | the same | its mutex |
//! | `waiting` | who sends; the fan-out thread | the same | its mutex |
//!
//! Messages reach each subscriber in the order sent, from the first one on that was sent after it had subscribed. One that has
//! more than `max_waiting` bytes on the way is slow: it misses the message, loses its stream, or leaves the broadcast, as chosen.
//!
//! A message takes its subscribers from one position to another, which mean something to whoever sends it. A subscriber that
//! leaves is told of with its position, so that it can be given the rest in another way.

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
#[derive(Clone)]
pub enum SlowSubscriber {
    /// It misses the message.
    Misses,
    /// Its stream ends with `RESOURCE_EXHAUSTED`.
    Ends,
    /// It is no subscriber any more. Its stream goes on.
    Leaves(Arc<dyn Leavers>),
}

/// Is told of subscribers that have left for their slowness. By the fan-out thread, which it must not block.
pub trait Leavers: Send + Sync {
    /// The subscriber with this tag has got everything up to this position, and nothing after it.
    fn left(&self, tag: u64, position: u64);
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
    /// Slow subscribers that have left.
    pub left: u64,
}

/// A set of streams that get the same messages. Any thread.
#[derive(Clone)]
pub struct Broadcast(Arc<Inner>);

/// A stream, and what it has got.
struct Subscriber {
    call: Arc<Call>,
    tag: u64,
    /// Messages with a lower number were sent before it subscribed.
    first: u64,
    /// Of the last message that it got.
    position: u64,
}

/// A message on its way.
struct Message {
    framed: Bytes,
    since: u64,
    position: u64,
}

struct Inner {
    subscribers: Mutex<Slab<Subscriber>>,
    waiting: Mutex<Waiting>,
    max_waiting: usize,
    slow: SlowSubscriber,
    missed: AtomicU64,
    ended: AtomicU64,
    left: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    bytes: usize,
    /// How many messages have been sent, those that wait included.
    sent: u64,
    /// The fan-out thread has been told and will take them all.
    is_told: bool,
}

/// How many subscribers get their messages before others may subscribe or go.
const AT_A_TIME: usize = 256;

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
            missed: AtomicU64::default(),
            ended: AtomicU64::default(),
            left: AtomicU64::default(),
        }))
    }

    /// Sends later messages to `call`, too, whose replies are a stream. The number that takes it out again. Where subscribers
    /// leave for slowness, that is told with `tag`, and with `position` when it has got no message.
    pub fn subscribe(&self, call: Arc<Call>, tag: u64, position: u64) -> usize {
        let first = lock(&self.0.waiting).sent;
        lock(&self.0.subscribers).insert(Subscriber {
            call,
            tag,
            first,
            position,
        })
    }

    /// Sends no later message to the subscriber, nor one that waits. The position of the last one that it got; `None` when it is
    /// no subscriber: its call is over, or it has left.
    pub fn unsubscribe(&self, number: usize, call: &Arc<Call>) -> Option<u64> {
        let mut subscribers = lock(&self.0.subscribers);
        if !subscribers
            .get(number)
            .is_some_and(|it| Arc::ptr_eq(&it.call, call))
        {
            return None;
        }
        let subscriber = subscribers.remove(number);
        drop(subscribers);
        Some(subscriber.position)
    }

    /// Sends a message, with its prefix, to all subscribers. It tells all there is after `since` and through `position`. Returns at
    /// once; `false`, and nothing sent, while more than
    /// `max_waiting` bytes have not been passed on, which would be too much for every subscriber.
    ///
    /// # Errors
    /// When the process can't start the thread that passes it on.
    pub fn send(&self, framed: Bytes, since: u64, position: u64) -> std::io::Result<bool> {
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
        waiting.sent += 1;
        waiting.bytes += framed.len();
        waiting.messages.push_back(Message {
            framed,
            since,
            position,
        });
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
            sent: lock(&self.0.waiting).sent,
            missed: self.0.missed.load(Ordering::Relaxed),
            ended: self.0.ended.load(Ordering::Relaxed),
            left: self.0.left.load(Ordering::Relaxed),
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
        loop {
            let mut waiting = lock(&self.waiting);
            let messages = std::mem::take(&mut waiting.messages);
            let first = waiting.sent - messages.len() as u64;
            waiting.bytes = 0;
            waiting.is_told = !messages.is_empty();
            drop(waiting);
            if messages.is_empty() {
                return;
            }
            // Some at a time: whoever subscribes meanwhile does not wait for all, and wants none of these messages.
            let mut start = 0;
            while self.pass_on_to_some(&messages, first, start) {
                start += AT_A_TIME;
            }
        }
    }

    /// Passes messages, the first of which has the number `first`, on to the subscribers from `start` on; whether there are more.
    fn pass_on_to_some(&self, messages: &VecDeque<Message>, first: u64, start: usize) -> bool {
        let mut gone = Vec::new();
        let mut subscribers = lock(&self.subscribers);
        let end = subscribers.capacity().min(start + AT_A_TIME);
        for number in start..end {
            let Some(subscriber) = subscribers.get_mut(number) else {
                continue;
            };
            let known = subscriber.first.saturating_sub(first);
            let known = usize::try_from(known).unwrap_or(usize::MAX);
            // Stream by stream, so that messages which wait together are sent together.
            let mut wanted = messages.iter().skip(known);
            if !wanted.all(|message| self.offer(subscriber, message)) {
                gone.push(subscribers.remove(number));
            }
        }
        let has_more = end < subscribers.capacity();
        drop(subscribers);
        drop(gone);
        has_more
    }

    /// Offers a message to one subscriber; whether it stays one.
    fn offer(&self, subscriber: &mut Subscriber, message: &Message) -> bool {
        let call = &subscriber.call;
        match call.offer_message(message.framed.clone(), self.max_waiting) {
            Sent::Room => {
                subscriber.position = message.position;
                true
            }
            Sent::Over => false,
            Sent::Full => match &self.slow {
                SlowSubscriber::Misses => {
                    self.missed.fetch_add(1, Ordering::Relaxed);
                    true
                }
                SlowSubscriber::Leaves(leavers) => {
                    self.left.fetch_add(1, Ordering::Relaxed);
                    let position = subscriber.position.max(message.since);
                    leavers.left(subscriber.tag, position);
                    false
                }
                SlowSubscriber::Ends => {
                    self.ended.fetch_add(1, Ordering::Relaxed);
                    let limit = self.max_waiting;
                    let text =
                        format!("The subscriber is too slow: more than {limit} bytes wait for it");
                    let status = Status::new(Code::ResourceExhausted, text);
                    if call.give_up(CancelReason::SlowClient, status) {
                        call.tell_cancelled();
                    }
                    false
                }
            },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
