//! What has been delayed in this process, by loop and handler: the counts outlive the loops.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | a [`Tally`] | whoever draws a delay | [`injected`] | relaxed atomics |
//! | the tallies of a process | the first use of a handler name on a loop | [`injected`] | their mutex |
//! | `TALLIES` | the first to need them in a process | all | an atomic |

use std::collections::BTreeMap;
use std::sync::atomic::{
    AtomicPtr, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::fork;

/// How often a handler name on a loop name has been delayed, by all streams; the sum is in microseconds.
#[derive(Debug, Default)]
pub(super) struct Tally {
    count: AtomicU64,
    total: AtomicU64,
}

impl Tally {
    /// Counts a delay of so many microseconds.
    pub(super) fn add(&self, delay: u64) {
        self.count.fetch_add(1, Relaxed);
        self.total.fetch_add(delay, Relaxed);
    }
}

/// What [`injected`] tells of one handler name on one loop name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// The loop's name.
    pub loop_name: Box<str>,
    /// The handler's name.
    pub handler: Box<str>,
    /// How many delays.
    pub count: u64,
    /// Their sum.
    pub total: Duration,
}

/// How many pairs of loop and handler are counted one by one; the delays of later ones share [`OTHERS`].
const MAX_TALLIES: usize = 10_000;
/// The loop and the handler of delays beyond that.
const OTHERS: (&str, &str) = ("(other)", "(other)");

/// A loop's name and a handler's.
type Pair = (Box<str>, Box<str>);

#[derive(Default)]
struct Tallies {
    by_pair: Mutex<BTreeMap<Pair, Arc<Tally>>>,
    generation: u32,
}

impl Tallies {
    fn of(&self, loop_name: &str, handler: &str) -> Arc<Tally> {
        let mut tallies = self.by_pair.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pair = (loop_name.into(), handler.into());
        if tallies.len() >= MAX_TALLIES && !tallies.contains_key(&pair) {
            pair = (OTHERS.0.into(), OTHERS.1.into());
        }
        tallies.entry(pair).or_default().clone()
    }

    fn injected(&self) -> Vec<Injected> {
        let tallies = self.by_pair.lock().unwrap_or_else(PoisonError::into_inner);
        tallies
            .iter()
            .map(|((loop_name, handler), tally)| Injected {
                loop_name: loop_name.clone(),
                handler: handler.clone(),
                count: tally.count.load(Relaxed),
                total: Duration::from_micros(tally.total.load(Relaxed)),
            })
            .filter(|each| each.count > 0)
            .collect()
    }
}

/// The process's tallies, never freed; of another process after a fork, whose lock may be held for ever.
static TALLIES: AtomicPtr<Tallies> = AtomicPtr::new(std::ptr::null_mut());

fn tallies() -> &'static Tallies {
    loop {
        let current = TALLIES.load(Acquire);
        // SAFETY: it is null or comes from a box that was leaked.
        let known = unsafe { current.as_ref() };
        let generation = fork::watch();
        if let Some(tallies) = known.filter(|tallies| tallies.generation == generation) {
            return tallies;
        }
        let fresh = Box::into_raw(Box::new(Tallies {
            generation,
            ..Tallies::default()
        }));
        if TALLIES
            .compare_exchange(current, fresh, Release, Acquire)
            .is_err()
        {
            // SAFETY: nobody else has seen it.
            drop(unsafe { Box::from_raw(fresh) });
        }
    }
}

/// The tally of a handler on a loop.
pub(super) fn of(loop_name: &str, handler: &str) -> Arc<Tally> {
    tallies().of(loop_name, handler)
}

/// What has been delayed in this process so far, ordered by loop and handler. Any thread.
#[must_use]
pub fn injected() -> Vec<Injected> {
    tallies().injected()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_and_handlers_beyond_the_limit_are_counted_together() {
        let tallies = Tallies::default();
        for number in 0..MAX_TALLIES {
            tallies.of("loop", &number.to_string()).add(1);
        }
        tallies.of("loop", "0").add(1);
        tallies.of("loop", "one more").add(5);
        tallies.of("another", "0").add(6);
        let seen = tallies.injected();
        let others = seen
            .iter()
            .find(|each| (&*each.loop_name, &*each.handler) == OTHERS);
        assert_eq!(
            others.map(|each| (each.count, each.total.as_micros())),
            Some((2, 11))
        );
        assert_eq!(seen.len(), MAX_TALLIES + 1);
        assert_eq!(
            seen.iter().map(|each| each.count).sum::<u64>(),
            MAX_TALLIES as u64 + 3
        );
    }
}
