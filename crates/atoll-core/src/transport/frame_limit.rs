//! How many frames of a kind a client may send: a budget that time and work done for the client fill up again.

use std::time::{Duration, Instant};

/// What a connection's client may send of one kind of frame that asks for nothing: `burst` frames at once, and one more for
/// each `interval` that has passed. Work done for the client earns it more, never above `burst` in store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimit {
    /// Frames that may come at once; [`u32::MAX`] is unlimited.
    pub burst: u32,
    /// How long it takes to be allowed one more.
    pub interval: Duration,
}

impl FrameLimit {
    /// No limit.
    pub const UNLIMITED: Self = Self::new(u32::MAX, Duration::from_secs(1));

    /// `burst` at once and one more for each `interval`.
    #[must_use]
    pub const fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval }
    }
}

/// The frames of one kind that a client may still send.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    filled: Instant,
}

impl Budget {
    pub(super) fn new(limit: FrameLimit, now: Instant) -> Self {
        Self {
            left: limit.burst,
            filled: now,
        }
    }

    /// Takes one; `false` when there is none left.
    pub(super) fn take(&mut self, limit: FrameLimit, now: Instant) -> bool {
        if limit.burst == u32::MAX {
            return true;
        }
        if self.left == 0 {
            self.fill(limit, now);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }

    /// The client has been served: it may send `count` more.
    pub(super) fn earn(&mut self, limit: FrameLimit, count: u32) {
        self.left = self.left.saturating_add(count).min(limit.burst);
    }

    /// Adds what time has earned since it was last asked. The rest of an interval is not lost.
    fn fill(&mut self, limit: FrameLimit, now: Instant) {
        let interval = limit.interval.as_nanos().max(1);
        let intervals = now.saturating_duration_since(self.filled).as_nanos() / interval;
        if intervals >= u128::from(limit.burst) {
            self.left = limit.burst;
            self.filled = now;
        } else {
            // Fewer than `burst`, so it fits.
            let earned = intervals as u32;
            self.left = earned;
            self.filled += limit.interval * earned;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: FrameLimit = FrameLimit::new(3, Duration::from_secs(10));

    fn takes(budget: &mut Budget, limit: FrameLimit, now: Instant) -> usize {
        (0..100).filter(|_| budget.take(limit, now)).count()
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_for_each_interval() {
        let start = Instant::now();
        let mut budget = Budget::new(LIMIT, start);
        assert_eq!(takes(&mut budget, LIMIT, start), 3);
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(takes(&mut budget, LIMIT, later(9)), 0);
        assert_eq!(takes(&mut budget, LIMIT, later(15)), 1);
        assert_eq!(takes(&mut budget, LIMIT, later(19)), 0);
        assert_eq!(
            takes(&mut budget, LIMIT, later(20)),
            1,
            "half an interval was kept"
        );
        assert_eq!(
            takes(&mut budget, LIMIT, later(1000)),
            3,
            "never more than the burst"
        );
    }

    #[test]
    fn one_for_each_interval_may_go_on_for_ever() {
        let start = Instant::now();
        let mut budget = Budget::new(LIMIT, start);
        for round in 0..1000 {
            assert!(budget.take(LIMIT, start + LIMIT.interval * round));
        }
    }

    #[test]
    fn work_earns_more_up_to_the_burst() {
        let start = Instant::now();
        let mut budget = Budget::new(LIMIT, start);
        for _ in 0..1000 {
            assert!(budget.take(LIMIT, start));
            budget.earn(LIMIT, 1);
        }
        budget.earn(LIMIT, 1000);
        assert_eq!(takes(&mut budget, LIMIT, start), 3);
    }

    #[test]
    fn without_a_limit_there_is_no_end() {
        let start = Instant::now();
        let mut budget = Budget::new(FrameLimit::UNLIMITED, start);
        assert_eq!(takes(&mut budget, FrameLimit::UNLIMITED, start), 100);
    }
}
