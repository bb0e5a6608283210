//! What a loop records about each handler, cheaply enough to be always on.
//!
//! Each handler name has a [`HandlerSlot`]. Its fields have one writer each, so that recording needs no read-modify-write
//! instruction:
//!
//! | field | written by | read by | under |
//! |---|---|---|---|
//! | `accepted` | posters | any thread | the mailbox's mutex (readers: none) |
//! | all others | the loop's thread | any thread | nothing: relaxed atomics |
//!
//! A reader may see one handler's count without its time; sums and counts agree again at the next look.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

/// Adds to a counter that only the calling thread writes.
#[inline]
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Sub-buckets per power of two: a bucket is at most 12.5 % wide.
const SUB_BUCKETS: u32 = 8;
/// Values below this many ticks share the first bucket (about 40 ns on a 3 GHz counter).
const FIRST_POWER: u32 = 7;
/// Values of this power and above share the last bucket (about 6 hours on a 3 GHz counter).
const LAST_POWER: u32 = 46;
const BUCKETS: usize = ((LAST_POWER - FIRST_POWER) * SUB_BUCKETS + 2) as usize;

fn bucket(value: u64) -> usize {
    if value < 1 << FIRST_POWER {
        return 0;
    }
    let power = value.ilog2();
    if power >= LAST_POWER {
        return BUCKETS - 1;
    }
    let sub = (value >> (power - SUB_BUCKETS.trailing_zeros())) as u32 & (SUB_BUCKETS - 1);
    ((power - FIRST_POWER) * SUB_BUCKETS + sub + 1) as usize
}

/// The smallest value that falls in bucket `index`.
fn bucket_start(index: usize) -> u64 {
    if index == 0 {
        return 0;
    }
    let index = index as u32 - 1;
    let (power, sub) = (index / SUB_BUCKETS + FIRST_POWER, index % SUB_BUCKETS);
    (u64::from(SUB_BUCKETS + sub)) << (power - SUB_BUCKETS.trailing_zeros())
}

/// A distribution of durations: sum, minimum, maximum and a log-linear histogram, in ticks. One writer.
#[derive(Debug)]
pub struct Recorder {
    sum: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            sum: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl Recorder {
    /// Adds one duration. The writer's thread only.
    #[inline]
    pub fn record(&self, ticks: u64) {
        add(&self.sum, ticks);
        if ticks < self.min.load(Relaxed) {
            self.min.store(ticks, Relaxed);
        }
        if ticks > self.max.load(Relaxed) {
            self.max.store(ticks, Relaxed);
        }
        add(&self.buckets[bucket(ticks)], 1);
    }

    /// The longest so far, zero when there is none. Any thread.
    #[must_use]
    pub fn longest(&self) -> u64 {
        self.max.load(Relaxed)
    }

    /// What has been recorded so far. Any thread.
    #[must_use]
    pub fn snapshot(&self) -> Distribution {
        let buckets: Vec<u64> = self.buckets.iter().map(|b| b.load(Relaxed)).collect();
        Distribution {
            count: buckets.iter().sum(),
            sum: self.sum.load(Relaxed),
            min: self.min.load(Relaxed),
            max: self.max.load(Relaxed),
            buckets,
        }
    }
}

/// A frozen [`Recorder`]; durations in ticks.
#[derive(Debug, Clone, Default)]
pub struct Distribution {
    /// How many durations were recorded.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The smallest, or `u64::MAX` when there is none.
    pub min: u64,
    /// The largest, or zero when there is none.
    pub max: u64,
    /// How many fell in each bucket.
    pub buckets: Vec<u64>,
}

impl Distribution {
    /// The buckets that hold something, as (smallest value, upper bound, count).
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.buckets
            .iter()
            .enumerate()
            .filter(|&(_, &n)| n > 0)
            .map(|(i, &n)| {
                let end = if i + 1 < BUCKETS {
                    bucket_start(i + 1)
                } else {
                    self.max
                };
                (bucket_start(i), end, n)
            })
    }

    /// The duration that `fraction` of all do not exceed, to an eighth of its value; zero when there is none.
    #[must_use]
    pub fn quantile(&self, fraction: f64) -> u64 {
        // As `Distribution.quantile` in `atoll/loop/_distribution.py` does it.
        let rank = fraction * self.buckets.iter().sum::<u64>() as f64;
        let mut below = 0.0;
        for (start, end, count) in self.filled() {
            let count = count as f64;
            if below + count >= rank {
                let width = end.saturating_sub(start) as f64;
                let within = start + (width * (rank - below) / count) as u64;
                return within.max(self.min.min(self.max)).min(self.max);
            }
            below += count;
        }
        self.max
    }

    /// Adds what another distribution holds.
    pub fn merge(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            *self = other.clone();
            return;
        }
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += *theirs;
        }
    }
}

/// What is known of the handlers of one name on one loop.
#[derive(Debug)]
pub struct HandlerSlot {
    /// The name, as it appears in statistics and metrics.
    pub name: Box<str>,
    accepted: AtomicU64,
    started: AtomicU64,
    finished: AtomicU64,
    errors: AtomicU64,
    /// From being queued (or due, for a delayed post) to the first step.
    pub queue_time: Recorder,
    /// The sum of a handler's steps.
    pub execution_time: Recorder,
    /// From the first step to the end, awaits included; recorded for coroutines that had to wait.
    pub wall_time: Recorder,
}

impl HandlerSlot {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            accepted: AtomicU64::new(0),
            started: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            queue_time: Recorder::default(),
            execution_time: Recorder::default(),
            wall_time: Recorder::default(),
        }
    }

    /// A handler of this name has been queued. Under the mailbox's mutex only.
    #[inline]
    pub fn accepted(&self) {
        add(&self.accepted, 1);
    }

    /// A handler takes its first step after waiting for `queued` ticks. The loop's thread only.
    #[inline]
    pub fn started(&self, queued: u64) {
        add(&self.started, 1);
        self.queue_time.record(queued);
    }

    /// A handler ended, having run for `executed` ticks. The loop's thread only.
    #[inline]
    pub fn finished(&self, executed: u64) {
        add(&self.finished, 1);
        self.execution_time.record(executed);
    }

    /// A queued handler will never run (its call was answered, its loop closed). The loop's thread, or after it has ended.
    pub fn dropped(&self) {
        add(&self.started, 1);
        add(&self.finished, 1);
    }

    /// A handler raised. The loop's thread only.
    pub fn failed(&self) {
        add(&self.errors, 1);
    }

    /// The counters as (total, active, running, errors). Any thread.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64, u64) {
        // Read in the order opposite to that in which they grow, so that no difference is negative.
        let finished = self.finished.load(Relaxed);
        let started = self.started.load(Relaxed).max(finished);
        let total = self.accepted.load(Relaxed).max(started);
        (
            total,
            total - finished,
            started - finished,
            self.errors.load(Relaxed),
        )
    }
}

/// The index of a [`HandlerSlot`] in its [`EventTracker`].
pub type SlotIndex = u32;

/// The slot that serves all names beyond the tracker's limit.
pub const OTHER: SlotIndex = 0;
/// That slot's name.
pub const OTHER_NAME: &str = "(other)";

/// The slots of one loop, found by name or by index. Any thread.
#[derive(Debug)]
pub struct EventTracker {
    slots: Box<[OnceLock<Box<HandlerSlot>>]>,
    by_name: Mutex<HashMap<Box<str>, SlotIndex>>,
}

impl EventTracker {
    /// A tracker for at most `max_names` names; handlers of further names are recorded as [`OTHER_NAME`].
    #[must_use]
    pub fn new(max_names: usize) -> Self {
        let slots: Box<[_]> = (0..=max_names).map(|_| OnceLock::new()).collect();
        let _ = slots[OTHER as usize].set(Box::new(HandlerSlot::new(OTHER_NAME)));
        Self {
            slots,
            by_name: Mutex::default(),
        }
    }

    /// The slot of `name`, made at the first use of the name.
    pub fn index(&self, name: &str) -> SlotIndex {
        if name == OTHER_NAME {
            return OTHER;
        }
        let mut names = self
            .by_name
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(&index) = names.get(name) {
            return index;
        }
        let index = names.len() + 1;
        if index >= self.slots.len() {
            return OTHER;
        }
        let _ = self.slots[index].set(Box::new(HandlerSlot::new(name)));
        names.insert(name.into(), index as SlotIndex);
        index as SlotIndex
    }

    /// The slot at `index`, which must come from [`EventTracker::index`].
    ///
    /// # Panics
    /// When the index comes from elsewhere.
    #[inline]
    #[must_use]
    pub fn slot(&self, index: SlotIndex) -> &HandlerSlot {
        self.slots[index as usize]
            .get()
            .expect("an index that index() gave")
    }

    /// All slots that have been used.
    pub fn iter(&self) -> impl Iterator<Item = &HandlerSlot> {
        self.slots
            .iter()
            .filter_map(|slot| slot.get().map(AsRef::as_ref))
            .filter(|slot| slot.accepted.load(Relaxed) > 0 || slot.started.load(Relaxed) > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_starts_at_its_own_smallest_value_and_is_at_most_an_eighth_wide() {
        for index in 1..BUCKETS - 1 {
            let (start, next) = (bucket_start(index), bucket_start(index + 1));
            assert_eq!(bucket(start), index);
            assert_eq!(bucket(next - 1), index);
            assert!(
                (next - start) * 8 <= start,
                "bucket {index} is {start}..{next}"
            );
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_distribution_keeps_count_sum_and_extremes() {
        let recorder = Recorder::default();
        for value in [1_000, 3_000, 2_000] {
            recorder.record(value);
        }
        let seen = recorder.snapshot();
        assert_eq!(
            (seen.count, seen.sum, seen.min, seen.max),
            (3, 6_000, 1_000, 3_000)
        );
        assert!(seen.filled().all(|(start, end, n)| n == 1 && start < end));
    }

    #[test]
    fn a_quantile_is_right_to_an_eighth_and_never_beyond_the_extremes() {
        let recorder = Recorder::default();
        assert_eq!(recorder.snapshot().quantile(0.99), 0, "there is none");
        for value in 1..=1_000 {
            recorder.record(value * 1_000);
        }
        let seen = recorder.snapshot();
        for (fraction, exact) in [(0.5, 500_000_u64), (0.9, 900_000), (0.99, 990_000)] {
            let found = seen.quantile(fraction);
            assert!(found.abs_diff(exact) * 8 <= exact, "{fraction}: {found}");
        }
        assert_eq!((seen.quantile(0.0), seen.quantile(1.0)), (1_000, 1_000_000));
        let one = Recorder::default();
        one.record(7_777);
        assert_eq!(one.snapshot().quantile(0.5), 7_777);
        assert_eq!(one.longest(), 7_777);
    }

    #[test]
    fn a_bucket_counts_on_where_32_bits_end() {
        let recorder = Recorder::default();
        recorder.buckets[bucket(1_000)].store(u64::from(u32::MAX), Relaxed);
        recorder.record(1_000);
        assert_eq!(recorder.snapshot().count, 1 << 32);
    }

    #[test]
    fn merging_adds_two_distributions() {
        let (first, second) = (Recorder::default(), Recorder::default());
        first.record(500);
        second.record(9_000);
        let mut both = Distribution::default();
        both.merge(&first.snapshot());
        both.merge(&second.snapshot());
        assert_eq!(
            (both.count, both.sum, both.min, both.max),
            (2, 9_500, 500, 9_000)
        );
    }

    #[test]
    fn a_handler_is_active_until_it_ends_and_running_between_start_and_end() {
        let tracker = EventTracker::new(10);
        let slot = tracker.slot(tracker.index("work"));
        slot.accepted();
        assert_eq!(slot.counts(), (1, 1, 0, 0));
        slot.started(5);
        assert_eq!(slot.counts(), (1, 1, 1, 0));
        slot.failed();
        slot.finished(7);
        assert_eq!(slot.counts(), (1, 0, 0, 1));
    }

    #[test]
    fn names_beyond_the_limit_share_one_slot() {
        let tracker = EventTracker::new(2);
        let (a, b) = (tracker.index("a"), tracker.index("b"));
        assert_ne!(a, b);
        assert_eq!(tracker.index("c"), OTHER);
        assert_eq!(tracker.index("d"), OTHER);
        assert_eq!(tracker.index("a"), a);
        assert_eq!(&*tracker.slot(OTHER).name, OTHER_NAME);
        assert_eq!(
            EventTracker::new(2).index(OTHER_NAME),
            OTHER,
            "no two slots have one name"
        );
    }
}
