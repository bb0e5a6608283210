//! The messages of a streaming call between its handler and its connection, both ways, within bounds.
//!
//! Requests: the connection queues what it reads and stops reading while more than `request_buffer` bytes wait; what the client
//! sends then fills its window and no more. Replies: the handler's messages count until the connection has handed them to
//! HTTP/2, which takes only what the client's window allows; a handler that has more than `reply_buffer` bytes on the way
//! waits.
//!
//! | field           | written by              | read by    | under    |
//! |-----------------|-------------------------|------------|----------|
//! | `requests`      | the connection; handler | both       | the lock |
//! | `received_at`   | the handler             | any thread | the lock |
//! | `reader_waits`  | the handler             | connection | the lock |
//! | `is_withheld`   | the connection; handler | both       | the lock |
//! | `unsent`        | the handler; connection | both       | the lock |
//! | `writer_waits`  | the handler             | connection | the lock |
//!
//! A handler waits in one of two ways: its loop is told of progress ([`Dispatch::progress`](super::Dispatch::progress)), or
//! its thread blocks.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::body::Message;

/// What a queued message counts besides its bytes, so that empty ones are bounded, too.
const OVERHEAD: usize = 64;

/// What a handler gets that asks for the next request message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message.
    Message(Message),
    /// None has come yet.
    Nothing,
    /// The client has sent its last one.
    End,
    /// The call has ended otherwise.
    Over,
}

/// What became of a reply message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// There is room for more.
    Room,
    /// It is on its way, and the handler should wait before it sends another.
    Full,
    /// The call has ended; nobody will receive it.
    Over,
}

pub(super) struct Flow {
    state: Mutex<State>,
    /// Something has changed for a thread that blocks.
    changed: Condvar,
    request_limit: usize,
    reply_limit: usize,
}

/// A message of a streaming request that waits for its handler.
struct Arrived {
    message: Message,
    /// In nanoseconds since its connection was accepted.
    at: u64,
}

#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "two directions with two states each, that combine freely"
)]
struct State {
    requests: VecDeque<Arrived>,
    /// What `requests` holds, with the overhead.
    waiting: usize,
    /// When the message arrived that was last taken out.
    received_at: Option<u64>,
    /// The client has sent its last message.
    is_complete: bool,
    reader_waits: bool,
    /// The connection has stopped reading.
    is_withheld: bool,
    /// Reply bytes that HTTP/2 has not taken.
    unsent: usize,
    writer_waits: bool,
    /// Nobody receives or sends any more.
    is_over: bool,
    blocked_threads: usize,
}

impl State {
    fn next(&mut self) -> Received {
        if self.is_over {
            return Received::Over;
        }
        match self.requests.pop_front() {
            Some(Arrived { message, at }) => {
                self.waiting -= message.bytes.len() + OVERHEAD;
                self.received_at = Some(at);
                Received::Message(message)
            }
            None if self.is_complete => Received::End,
            None => Received::Nothing,
        }
    }

    /// Whether the connection is to read on: it had stopped, and half of what it may queue is gone.
    fn resumes(&mut self, limit: usize) -> bool {
        let resumes = self.is_withheld && self.waiting <= limit / 2;
        self.is_withheld &= !resumes;
        resumes
    }
}

impl Flow {
    pub(super) fn new(request_limit: usize, reply_limit: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            request_limit,
            reply_limit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_threads(&self, state: &State) {
        if state.blocked_threads > 0 {
            self.changed.notify_all();
        }
    }

    // The connection's side. What returns a bool says whether the handler's loop is to be told.

    /// Queues a request message that came `at` so many nanoseconds after its connection.
    pub(super) fn arrived(&self, message: Message, at: u64) -> bool {
        let mut state = self.lock();
        if state.is_over {
            return false;
        }
        state.waiting += message.bytes.len() + OVERHEAD;
        state.requests.push_back(Arrived { message, at });
        self.wake_threads(&state);
        std::mem::take(&mut state.reader_waits)
    }

    /// The client has sent its last message.
    pub(super) fn complete(&self) -> bool {
        let mut state = self.lock();
        state.is_complete = true;
        self.wake_threads(&state);
        std::mem::take(&mut state.reader_waits)
    }

    /// Whether the connection must stop reading until [`Self::receive`] says that it goes on.
    pub(super) fn withholds(&self) -> bool {
        let mut state = self.lock();
        state.is_withheld = state.waiting > self.request_limit;
        state.is_withheld
    }

    /// Whether the connection has stopped reading because of the handler.
    pub(super) fn is_withheld(&self) -> bool {
        self.lock().is_withheld
    }

    /// HTTP/2 has taken reply bytes.
    pub(super) fn taken(&self, bytes: usize) -> bool {
        let mut state = self.lock();
        state.unsent -= bytes.min(state.unsent);
        if state.unsent > self.reply_limit / 2 {
            return false;
        }
        self.wake_threads(&state);
        std::mem::take(&mut state.writer_waits)
    }

    /// The call has ended: what waits is dropped, and whoever waits goes on.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        state.waiting = 0;
        let dropped = std::mem::take(&mut state.requests);
        self.wake_threads(&state);
        drop(state);
        drop(dropped);
    }

    // The handler's side.

    /// The next request message. Where there is [`Received::Nothing`], progress will be told. Also whether the connection is
    /// to read on.
    pub(super) fn receive(&self) -> (Received, bool) {
        let mut state = self.lock();
        let received = state.next();
        state.reader_waits = received == Received::Nothing;
        (received, state.resumes(self.request_limit))
    }

    /// When the message came that was last received, in nanoseconds since its connection.
    pub(super) fn received_at(&self) -> Option<u64> {
        self.lock().received_at
    }

    /// Blocks for the next request message; never [`Received::Nothing`].
    pub(super) fn receive_blocking(&self) -> (Received, bool) {
        let mut state = self.lock();
        loop {
            match state.next() {
                Received::Nothing => state = self.block(state),
                received => return (received, state.resumes(self.request_limit)),
            }
        }
    }

    /// Counts a reply message that is about to be sent.
    pub(super) fn send(&self, bytes: usize) -> Sent {
        let mut state = self.lock();
        if state.is_over {
            return Sent::Over;
        }
        state.unsent += bytes;
        if state.unsent > self.reply_limit {
            Sent::Full
        } else {
            Sent::Room
        }
    }

    /// Counts a reply message that is about to be sent, unless more than `limit` bytes would then be on the way and some are
    /// already.
    pub(super) fn offer(&self, bytes: usize, limit: usize) -> Sent {
        let mut state = self.lock();
        if state.is_over {
            return Sent::Over;
        }
        if state.unsent > 0 && state.unsent + bytes > limit {
            return Sent::Full;
        }
        state.unsent += bytes;
        Sent::Room
    }

    /// Whether another reply message may be sent; where it may not, progress will be told.
    pub(super) fn room(&self) -> Sent {
        let mut state = self.lock();
        let sent = self.room_in(&state);
        state.writer_waits = sent == Sent::Full;
        sent
    }

    /// Blocks until another reply message may be sent; never [`Sent::Full`].
    pub(super) fn room_blocking(&self) -> Sent {
        let mut state = self.lock();
        loop {
            match self.room_in(&state) {
                Sent::Full => state = self.block(state),
                sent => return sent,
            }
        }
    }

    fn room_in(&self, state: &State) -> Sent {
        if state.is_over {
            Sent::Over
        } else if state.unsent > self.reply_limit / 2 {
            Sent::Full
        } else {
            Sent::Room
        }
    }

    fn block<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.blocked_threads += 1;
        let mut state = self
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
        state.blocked_threads -= 1;
        state
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use bytes::Bytes;

    use super::*;

    fn message(size: usize) -> Message {
        Message {
            bytes: Bytes::from(vec![0; size]),
            is_compressed: false,
        }
    }

    #[test]
    fn the_loop_is_told_only_when_the_handler_waits() {
        let flow = Flow::new(1000, 1000);
        assert!(!flow.arrived(message(1), 0));
        assert_eq!(flow.receive().0, Received::Message(message(1)));
        assert_eq!(flow.receive().0, Received::Nothing);
        assert!(flow.arrived(message(2), 0));
        assert!(!flow.arrived(message(3), 0), "it has been told");
    }

    #[test]
    fn reading_stops_over_the_limit_and_goes_on_when_half_of_it_is_gone() {
        let flow = Flow::new(1000, 1000);
        for _ in 0..4 {
            flow.arrived(message(300), 0);
        }
        assert!(flow.withholds());
        assert!(!flow.receive().1);
        assert!(!flow.receive().1);
        assert!(flow.receive().1, "one of four is left");
        assert!(!flow.receive().1, "it reads already");
    }

    #[test]
    fn a_writer_waits_over_the_limit_and_goes_on_when_half_of_it_is_gone() {
        let flow = Flow::new(1000, 1000);
        assert_eq!(flow.send(900), Sent::Room);
        assert_eq!(flow.send(900), Sent::Full);
        assert_eq!(flow.room(), Sent::Full);
        assert!(!flow.taken(900));
        assert!(flow.taken(400));
        assert_eq!(flow.room(), Sent::Room);
    }

    #[test]
    fn empty_messages_are_bounded_too() {
        let flow = Flow::new(1000, 1000);
        for _ in 0..20 {
            flow.arrived(message(0), 0);
        }
        assert!(flow.withholds());
    }

    #[test]
    fn the_end_comes_after_the_last_message_and_over_at_once() {
        let flow = Flow::new(1000, 1000);
        flow.arrived(message(1), 0);
        flow.complete();
        assert!(matches!(flow.receive().0, Received::Message(_)));
        assert_eq!(flow.receive().0, Received::End);
        flow.end();
        assert_eq!(flow.receive().0, Received::Over);
        assert_eq!(flow.send(1), Sent::Over);
    }

    #[test]
    fn threads_that_block_are_woken_by_messages_room_and_the_end() {
        let flow = Arc::new(Flow::new(1000, 1000));
        let reader = thread::spawn({
            let flow = Arc::clone(&flow);
            move || (flow.receive_blocking().0, flow.receive_blocking().0)
        });
        let writer = thread::spawn({
            let flow = Arc::clone(&flow);
            move || (flow.send(1001), flow.room_blocking())
        });
        flow.arrived(message(1), 0);
        while flow.lock().unsent == 0 || !flow.lock().requests.is_empty() {
            thread::yield_now();
        }
        flow.taken(1001);
        assert_eq!(writer.join().unwrap(), (Sent::Full, Sent::Room));
        flow.end();
        let (first, second) = reader.join().unwrap();
        assert_eq!(first, Received::Message(message(1)));
        assert_eq!(second, Received::Over);
    }
}
