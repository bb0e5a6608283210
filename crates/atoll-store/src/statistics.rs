//! What a store has counted. Each number stands for itself, so relaxed atomics are enough; [`Counters`] says who writes them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::types::Revision;

/// The upper bounds of the buckets of a [`Timing`], in seconds; the last bucket has none.
pub const BUCKETS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_6, 0.003_2, 0.006_4, 0.0128, 0.0256,
    0.0512, 0.1024, 0.2048, 0.4096, 0.8192, 1.6384, 3.2768, 6.5536,
];

/// How long something took, as counted so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timing {
    /// How often.
    pub count: u64,
    /// Seconds, in all.
    pub sum: f64,
    /// Seconds, the longest.
    pub max: f64,
    /// How often it took at most the bound in [`BUCKETS`], and more than the one before; the last: more than all.
    pub buckets: Vec<u64>,
}

/// A table's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStatistics {
    /// Its name.
    pub name: String,
    /// Rows.
    pub keys: u64,
    /// Bytes of keys, values and owners.
    pub bytes: u64,
}

/// What a store holds and has done, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// The engine's name.
    pub engine: &'static str,
    /// By number.
    pub tables: Vec<TableStatistics>,
    /// The store's revision.
    pub revision: Revision,
    /// The change log is complete after this revision.
    pub oldest: Revision,
    /// Changes in the change log.
    pub log_changes: u64,
    /// Bytes in the change log, as its bound counts them.
    pub log_bytes: u64,
    /// Open snapshots.
    pub snapshots: u64,
    /// Bytes of old rows kept for them.
    pub snapshot_bytes: u64,
    /// Snapshots that were given up.
    pub snapshots_expired: u64,
    /// Batches that wait.
    pub pending_batches: u64,
    /// Bytes of batches that wait.
    pub pending_bytes: u64,
    /// Groups made durable.
    pub groups: u64,
    /// Batches in them.
    pub batches: u64,
    /// Changes in them.
    pub changes: u64,
    /// Batches whose checks failed, or that would have given an owner too much.
    pub failed_checks: u64,
    /// Batches refused because too much waited.
    pub busy: u64,
    /// Batches that ended with another error.
    pub errors: u64,
    /// Callbacks that panicked.
    pub panics: u64,
    /// From submission to acknowledgement, per batch.
    pub commit: Timing,
    /// Waiting for the disk or the network, per group.
    pub wait: Timing,
    /// Whether the store still commits, or why not.
    pub stopped: Option<String>,
}

/// Timings under construction.
#[derive(Debug, Default)]
pub(crate) struct TimingCounters {
    sum: AtomicU64,
    max: AtomicU64,
    buckets: [AtomicU64; BUCKETS.len() + 1],
}

impl TimingCounters {
    pub(crate) fn record(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum
            .store(self.sum.load(Relaxed) + nanoseconds, Relaxed);
        if nanoseconds > self.max.load(Relaxed) {
            self.max.store(nanoseconds, Relaxed);
        }
        // Each bound is twice the one before, from 50 µs.
        let doublings = nanoseconds.saturating_sub(1) / 50_000;
        let bucket = (64 - doublings.leading_zeros() as usize).min(BUCKETS.len());
        let bucket = &self.buckets[bucket];
        bucket.store(bucket.load(Relaxed) + 1, Relaxed);
    }

    pub(crate) fn read(&self) -> Timing {
        let buckets: Vec<u64> = self.buckets.iter().map(|it| it.load(Relaxed)).collect();
        Timing {
            count: buckets.iter().sum(),
            sum: self.sum.load(Relaxed) as f64 / 1e9,
            max: self.max.load(Relaxed) as f64 / 1e9,
            buckets,
        }
    }
}

/// Written by the writer thread; `busy`, `errors` and `panics` by any thread, so they are added to atomically.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) groups: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) changes: AtomicU64,
    pub(crate) failed_checks: AtomicU64,
    pub(crate) busy: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) commit: TimingCounters,
    pub(crate) wait: TimingCounters,
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, TimingCounters};
    use std::time::Duration;

    #[test]
    fn each_duration_falls_into_the_bucket_of_the_first_bound_that_is_not_below_it() {
        for (index, bound) in BUCKETS.iter().enumerate() {
            let counters = TimingCounters::default();
            let exact = Duration::from_nanos((bound * 1e9).round() as u64);
            counters.record(exact);
            counters.record(exact + Duration::from_nanos(1));
            let buckets = counters.read().buckets;
            assert_eq!((buckets[index], buckets[index + 1]), (1, 1), "{bound}");
        }
    }
}
