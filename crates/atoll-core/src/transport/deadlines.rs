//! When the calls of one connection run out of time, and the one timer that watches for it.
//!
//! Most calls are answered long before their deadline, so an answered call leaves its entry behind and only
//! says that there is one fewer alive. The heap is swept when more than half of it is dead.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use super::streams::StreamKey;

/// Entries that may be dead before the first sweep; below this a sweep costs more than it frees.
const SLACK: usize = 64;

/// The deadlines of one connection's calls.
#[derive(Default)]
pub(crate) struct Deadlines {
    heap: BinaryHeap<Reverse<(Instant, StreamKey)>>,
    live: usize,
}

impl Deadlines {
    pub(crate) fn insert(&mut self, at: Instant, key: StreamKey) {
        self.heap.push(Reverse((at, key)));
        self.live += 1;
    }

    /// A call with a deadline has been answered; `alive` tells which others still wait.
    pub(crate) fn forget_one(&mut self, alive: impl Fn(StreamKey) -> bool) {
        self.live -= 1;
        if self.heap.len() > 2 * self.live + SLACK {
            self.heap.retain(|Reverse((_, key))| alive(*key));
        }
    }

    /// The earliest entry; it may belong to a call that was answered.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the next entry that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<StreamKey> {
        if self.earliest()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, key))| key)
    }
}

/// One timer for everything that a connection waits for. It may ring early, never for nothing twice.
#[derive(Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Instant>,
}

impl Alarm {
    /// Whether `at` has passed; if not, `cx` is woken when it has.
    pub(crate) fn has_rung(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        loop {
            // An alarm that is set for an earlier, forgotten deadline rings once for nothing: cheaper than
            // setting it anew for every call that is answered in time.
            if self.armed.is_none_or(|armed| at < armed) {
                match &mut self.sleep {
                    Some(sleep) => sleep.as_mut().reset(at.into()),
                    None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at.into()))),
                }
                self.armed = Some(at);
            }
            let Some(sleep) = &mut self.sleep else {
                return false;
            };
            match sleep.as_mut().poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(()) => self.armed = None,
            }
            if Instant::now() >= at {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(index: u32) -> StreamKey {
        StreamKey {
            index,
            generation: 0,
        }
    }

    #[test]
    fn deadlines_come_due_in_order_of_time() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        for index in [3, 1, 2] {
            deadlines.insert(start + Duration::from_secs(u64::from(index)), key(index));
        }
        let later = start + Duration::from_secs(2);
        assert_eq!(deadlines.pop_due(start), None);
        assert_eq!(deadlines.pop_due(later), Some(key(1)));
        assert_eq!(deadlines.pop_due(later), Some(key(2)));
        assert_eq!(deadlines.pop_due(later), None);
    }

    #[test]
    fn answered_calls_with_long_deadlines_do_not_accumulate() {
        let far = Instant::now() + Duration::from_secs(3600);
        let mut deadlines = Deadlines::default();
        deadlines.insert(far, key(0));
        for index in 1..100_000 {
            deadlines.insert(far, key(index));
            deadlines.forget_one(|key| key.index == 0);
            assert!(deadlines.heap.len() <= 2 * deadlines.live + SLACK + 1);
        }
        assert_eq!(deadlines.earliest(), Some(far));
    }
}
