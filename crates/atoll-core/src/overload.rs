//! Telling an overloaded queue from one that is only busy, by how long things wait in it: `CoDel`, as Folly has it.
//!
//! A burst makes a queue long for a moment; it is overloaded when even the shortest wait of a whole interval was above a
//! target. Then what has waited twice the target is overdue: whoever asked for it has probably given up, and answering it late
//! makes everything behind it late, too.
//!
//! Times are ticks of whatever clock the caller reads. One writer; nothing here reads a clock or waits.

/// When a queue is overloaded. Ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodelSettings {
    /// The shortest wait of an interval that still is no overload.
    pub target: u64,
    /// How long the shortest wait is looked for.
    pub interval: u64,
}

/// Judges the waits in one queue.
#[derive(Clone, Copy, Debug)]
pub struct Codel {
    settings: CodelSettings,
    /// The shortest wait of the present interval; none has been seen yet at `u64::MAX`.
    shortest: u64,
    interval_ends_at: u64,
    is_overloaded: bool,
}

impl Codel {
    /// A judge who has seen nothing.
    #[must_use]
    pub const fn new(settings: CodelSettings) -> Self {
        Self {
            settings,
            shortest: u64::MAX,
            interval_ends_at: 0,
            is_overloaded: false,
        }
    }

    /// Something has waited for `waited` and is taken out at `now`: whether it is overdue.
    #[inline]
    pub fn is_overdue(&mut self, waited: u64, now: u64) -> bool {
        let CodelSettings { target, interval } = self.settings;
        if now >= self.interval_ends_at {
            let is_first = self.shortest == u64::MAX;
            self.is_overloaded = !is_first && self.shortest > target;
            self.interval_ends_at = now.saturating_add(interval);
            // The one that opens an interval is let through: it is what the next judgement begins with, and after a pause
            // the last interval says nothing of now.
            self.shortest = waited;
            return false;
        }
        self.shortest = self.shortest.min(waited);
        self.is_overloaded && waited > target.saturating_mul(2)
    }

    /// Whether the last interval was one of overload.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.is_overloaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000;
    const SETTINGS: CodelSettings = CodelSettings {
        target: 5 * MILLISECOND,
        interval: 100 * MILLISECOND,
    };

    /// A queue whose items wait as told, one taken out per millisecond. How many were overdue.
    fn overdue(codel: &mut Codel, from: u64, waits: impl IntoIterator<Item = u64>) -> usize {
        let times = (from..).map(|time| time * MILLISECOND);
        times
            .zip(waits)
            .filter(|(now, waited)| codel.is_overdue(waited * MILLISECOND, *now))
            .count()
    }

    #[test]
    fn a_queue_in_which_everything_waits_long_is_overloaded_after_an_interval() {
        let mut codel = Codel::new(SETTINGS);
        assert_eq!(overdue(&mut codel, 0, [50; 100]), 0, "the first interval");
        assert_eq!(overdue(&mut codel, 100, [50; 100]), 99);
        assert!(codel.is_overloaded());
    }

    #[test]
    fn a_queue_that_empties_once_per_interval_is_only_busy() {
        let mut codel = Codel::new(SETTINGS);
        let bursts = (0..1000).map(|time| if time % 90 == 0 { 1 } else { 50 });
        assert_eq!(overdue(&mut codel, 0, bursts), 0);
        assert!(!codel.is_overloaded());
    }

    #[test]
    fn what_has_waited_less_than_twice_the_target_is_not_overdue() {
        let mut codel = Codel::new(SETTINGS);
        overdue(&mut codel, 0, [50; 101]);
        assert_eq!(overdue(&mut codel, 101, [10; 50]), 0);
        assert_eq!(overdue(&mut codel, 151, [11; 10]), 10);
    }

    #[test]
    fn overload_ends_with_the_first_interval_that_sees_a_short_wait() {
        let mut codel = Codel::new(SETTINGS);
        overdue(&mut codel, 0, [50; 101]);
        assert!(codel.is_overloaded());
        overdue(&mut codel, 101, [1]);
        assert_eq!(overdue(&mut codel, 200, [50; 100]), 0);
        assert!(!codel.is_overloaded());
    }

    #[test]
    fn after_a_pause_the_first_is_let_through_and_short_waits_end_the_overload() {
        let mut codel = Codel::new(SETTINGS);
        overdue(&mut codel, 0, [50; 150]);
        assert_eq!(overdue(&mut codel, 10_000, [50, 1, 1]), 0);
        assert_eq!(overdue(&mut codel, 10_100, [50; 100]), 0);
    }
}
