//! How long a handler that is posted now waits for its turn, measured by waiting for it.
//!
//! A probe is posted, and when its turn comes, the time it waited is the loop's lag. The next one follows after the rest of the
//! interval, or at once when the lag has used it up: overload must not slow down what measures it. The first measured
//! probe is posted from the loop itself, so that the time before it runs does not count.
//!
//! | field | written by | read by | under |
//! |---|---|---|---|
//! | `latencies`, `last`, `begun` | the loop's thread | any | relaxed atomics |
//! | `sent_at` | whoever sends the one probe there is | any | an atomic |
//! | `stopped` | any | any | an atomic |

use std::sync::atomic::{
    AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::clock;
use crate::probe::Probe;
use crate::registry::ObservedLoop;
use crate::stats::{Distribution, Recorder};
use crate::timer::Due;

/// Measures one loop from inside.
#[derive(Debug)]
pub struct LagProbe {
    observed: Weak<dyn ObservedLoop>,
    myself: Weak<Self>,
    interval: u64,
    latencies: Recorder,
    last: AtomicU64,
    sent_at: AtomicU64,
    begun: AtomicBool,
    stopped: AtomicBool,
}

impl LagProbe {
    /// Starts to measure `observed` every `interval`, until [`Self::stop`] or the loop's end.
    pub fn start(observed: &Arc<dyn ObservedLoop>, interval: Duration) -> Arc<Self> {
        let probe = Arc::new_cyclic(|myself| Self {
            observed: Arc::downgrade(observed),
            myself: myself.clone(),
            interval: clock::ticks(interval),
            latencies: Recorder::default(),
            last: AtomicU64::new(0),
            sent_at: AtomicU64::new(0),
            begun: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        probe.send();
        probe
    }

    /// Measures no more. Any thread.
    pub fn stop(&self) {
        self.stopped.store(true, Release);
    }

    /// The lag in ticks: that of the last probe, or of the one that waits, when that is longer. Any thread.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let waits = match self.sent_at.load(Acquire) {
            0 => 0,
            _ if !self.begun.load(Relaxed) => 0,
            at => clock::now().saturating_sub(at),
        };
        self.last.load(Relaxed).max(waits)
    }

    /// All lags so far. Any thread.
    #[must_use]
    pub fn latencies(&self) -> Distribution {
        self.latencies.snapshot()
    }

    fn send(&self) {
        let (Some(observed), Some(myself)) = (self.observed.upgrade(), self.myself.upgrade())
        else {
            return;
        };
        if !self.stopped.load(Acquire) {
            self.sent_at.store(clock::now(), Release);
            observed.post_probe(myself);
        }
    }
}

impl Probe for LagProbe {
    fn turn(self: Arc<Self>, waited: u64) {
        let sent_at = self.sent_at.swap(0, Relaxed);
        let Some(observed) = self.observed.upgrade() else {
            return;
        };
        // The first is only the way into the loop, and one from before the loop's present run waited for nobody.
        let counts =
            self.begun.swap(true, Relaxed) && sent_at >= observed.record().activity.runs_since();
        if counts {
            self.last.store(waited, Relaxed);
            self.latencies.record(waited);
        }
        let rest = self
            .interval
            .saturating_sub(if counts { waited } else { self.interval });
        if rest == 0 {
            self.send();
            return;
        }
        let target: Weak<Self> = self.myself.clone();
        observed.set_timer(clock::duration(rest), target, 0);
    }
}

impl Due for LagProbe {
    fn due(&self, _number: u64) {
        self.send();
    }

    fn waits_for(&self, _number: u64) -> bool {
        !self.stopped.load(Acquire)
    }
}
