//! What a monitor knows of one loop, and what it concludes from a look at it. No threads, no clock: a look is at a given time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use crate::probe::Probe;
use crate::registry::ObservedLoop;

/// What a monitor expects of a loop; in ticks.
#[derive(Debug, Clone, Copy)]
pub struct Expectations {
    /// Between an answered probe and the next.
    pub interval: u64,
    /// How long a probe may wait for its turn on a healthy loop.
    pub deadline: u64,
    /// How far back the largest latency is remembered.
    pub window: u64,
    /// How many probes in a row must be in time before an unhealthy loop is healthy again.
    pub recover_after: u32,
}

/// Not answered yet.
const OUTSTANDING: u64 = u64::MAX;

/// The probe of a monitor, one per loop at any time.
#[derive(Debug)]
pub(super) struct WatchProbe {
    waited: AtomicU64,
}

impl Probe for WatchProbe {
    fn turn(self: Arc<Self>, waited: u64) {
        self.waited.store(waited.min(OUTSTANDING - 1), Release);
    }
}

#[derive(Debug)]
struct Sent {
    probe: Arc<WatchProbe>,
    at: u64,
    /// It has been found late already.
    late: bool,
}

/// A loop's responsiveness as a monitor has seen it.
#[derive(Debug)]
pub struct Responsiveness {
    sent: Option<Sent>,
    answered_at: Option<u64>,
    /// When, and how long; only those that no later one exceeds.
    window: VecDeque<(u64, u64)>,
    in_time: u32,
    /// Whether its probes have their turn in time.
    pub healthy: bool,
    /// How many probes did not have their turn in time.
    pub missed: u64,
    /// How long the last probe waited that had its turn.
    pub latency: u64,
}

impl Default for Responsiveness {
    fn default() -> Self {
        Self {
            sent: None,
            answered_at: None,
            window: VecDeque::new(),
            in_time: 0,
            healthy: true,
            missed: 0,
            latency: 0,
        }
    }
}

impl Responsiveness {
    /// Looks at a loop that runs on some thread; returns whether its health has changed.
    pub fn look(&mut self, observed: &dyn ObservedLoop, now: u64, expected: &Expectations) -> bool {
        let before = self.healthy;
        match &mut self.sent {
            None => {
                let due = self
                    .answered_at
                    .is_none_or(|at| now >= at.saturating_add(expected.interval));
                if due {
                    self.send(observed, now);
                }
            }
            Some(sent) => {
                let waited = sent.probe.waited.load(Acquire);
                let so_far = now.saturating_sub(sent.at);
                if waited != OUTSTANDING {
                    let late = sent.late;
                    self.sent = None;
                    self.answered_at = Some(now);
                    self.answered(waited, now, late, expected);
                } else if so_far > expected.deadline && !sent.late {
                    sent.late = true;
                    self.miss();
                }
            }
        }
        self.evict(now, expected);
        before != self.healthy
    }

    /// Looks at a loop that nobody runs: what it was sent is no sign of anything, and it is stuck no more. Returns whether its
    /// health has changed.
    pub fn resting(&mut self) -> bool {
        self.sent = None;
        self.answered_at = None;
        self.in_time = 0;
        !std::mem::replace(&mut self.healthy, true)
    }

    fn send(&mut self, observed: &dyn ObservedLoop, now: u64) {
        let probe = Arc::new(WatchProbe {
            waited: AtomicU64::new(OUTSTANDING),
        });
        if observed.post_probe(Arc::clone(&probe) as Arc<dyn Probe>) {
            self.sent = Some(Sent {
                probe,
                at: now,
                late: false,
            });
        }
    }

    fn answered(&mut self, waited: u64, now: u64, late: bool, expected: &Expectations) {
        self.latency = waited;
        while self
            .window
            .back()
            .is_some_and(|&(_, shorter)| shorter <= waited)
        {
            self.window.pop_back();
        }
        self.window.push_back((now, waited));
        if waited > expected.deadline {
            if !late {
                self.miss();
            }
            return;
        }
        if late {
            // Its turn came just before it was found late.
            return;
        }
        self.in_time = self.in_time.saturating_add(1);
        if self.in_time >= expected.recover_after {
            self.healthy = true;
        }
    }

    fn miss(&mut self) {
        self.missed += 1;
        self.in_time = 0;
        self.healthy = false;
    }

    fn evict(&mut self, now: u64, expected: &Expectations) {
        while self
            .window
            .front()
            .is_some_and(|&(at, _)| now.saturating_sub(at) > expected.window)
        {
            self.window.pop_front();
        }
    }

    /// The longest that a probe waited in the window; one that still waits is not counted. Zero when there was none.
    #[must_use]
    pub fn largest_latency(&self) -> u64 {
        self.window.front().map_or(0, |&(_, latency)| latency)
    }

    /// How long the probe that is out has waited.
    #[must_use]
    pub fn outstanding(&self, now: u64) -> Option<u64> {
        self.sent.as_ref().map(|sent| now.saturating_sub(sent.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::LoopRecord;
    use crate::timer::Due;
    use std::sync::{Mutex, Weak};
    use std::time::Duration;

    /// A loop whose probes have their turn when a test says so.
    struct Fake {
        record: LoopRecord,
        probes: Mutex<Vec<Arc<dyn Probe>>>,
    }

    impl ObservedLoop for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }
        fn record(&self) -> &LoopRecord {
            &self.record
        }
        fn queued(&self) -> [usize; 3] {
            [0; 3]
        }
        fn delayed(&self) -> usize {
            0
        }
        fn guards(&self) -> usize {
            0
        }
        fn refused(&self) -> [u64; 3] {
            [0; 3]
        }
        fn oldest_queued_at(&self) -> u64 {
            0
        }
        fn post_probe(&self, probe: Arc<dyn Probe>) -> bool {
            self.probes.lock().unwrap().push(probe);
            true
        }
        fn is_closed(&self) -> bool {
            false
        }
        fn set_timer(&self, _: Duration, _: Weak<dyn Due>, _: u64) {}
    }

    struct Case {
        observed: Fake,
        seen: Responsiveness,
        now: u64,
        sent_at: u64,
    }

    const EXPECTED: Expectations = Expectations {
        interval: 100,
        deadline: 50,
        window: 1_000,
        recover_after: 1,
    };

    impl Case {
        fn new() -> Self {
            let record = LoopRecord::new(1, true);
            let probes = Mutex::default();
            let mut case = Self {
                observed: Fake { record, probes },
                seen: Responsiveness::default(),
                now: 1_000,
                sent_at: 1_000,
            };
            case.look(0);
            case
        }

        /// Looks after `passed` ticks; returns whether the health has changed.
        fn look(&mut self, passed: u64) -> bool {
            self.now += passed;
            let out = self.out();
            let changed = self.seen.look(&self.observed, self.now, &EXPECTED);
            if self.out() > out {
                self.sent_at = self.now;
            }
            changed
        }

        fn out(&self) -> usize {
            self.observed.probes.lock().unwrap().len()
        }

        /// The loop gives its probes their turn, after `passed` ticks.
        fn run(&mut self, passed: u64) {
            self.now += passed;
            for probe in self.observed.probes.lock().unwrap().drain(..) {
                probe.turn(self.now - self.sent_at);
            }
        }
    }

    #[test]
    fn a_probe_that_has_its_turn_is_measured() {
        let mut case = Case::new();
        case.run(7);
        assert!(!case.look(0));
        assert_eq!(
            (case.seen.healthy, case.seen.latency, case.seen.missed),
            (true, 7, 0)
        );
    }

    #[test]
    fn a_loop_that_gives_no_turn_is_found_stuck() {
        let mut case = Case::new();
        assert!(case.look(51), "its health changes");
        assert!(!case.seen.healthy);
        assert_eq!(case.seen.missed, 1);
        assert_eq!(case.seen.outstanding(case.now), Some(51));
    }

    #[test]
    fn a_loop_is_healthy_until_the_deadline() {
        let mut case = Case::new();
        assert!(!case.look(50));
        assert!(case.seen.healthy);
        case.run(0);
        assert!(!case.look(0));
        assert!(case.seen.healthy);
    }

    #[test]
    fn no_latency_is_recorded_while_a_probe_is_out() {
        let mut case = Case::new();
        case.look(500);
        assert_eq!((case.seen.latency, case.seen.largest_latency()), (0, 0));
    }

    #[test]
    fn the_largest_latency_of_the_window_is_kept() {
        let mut case = Case::new();
        for waited in [20, 40, 10] {
            case.run(waited);
            case.look(0);
            assert!(!case.look(100), "and the next probe goes out");
        }
        assert_eq!((case.seen.latency, case.seen.largest_latency()), (10, 40));
    }

    #[test]
    fn the_largest_latency_falls_when_it_leaves_the_window() {
        let mut case = Case::new();
        case.run(40);
        case.look(0);
        case.look(100);
        case.run(10);
        case.look(0);
        case.look(950);
        assert_eq!(case.seen.largest_latency(), 10);
        case.look(1_000);
        assert_eq!(case.seen.largest_latency(), 0);
    }

    #[test]
    fn a_turn_after_the_deadline_makes_unhealthy_even_if_nobody_looked_meanwhile() {
        let mut case = Case::new();
        case.run(60);
        assert!(case.look(0));
        assert_eq!(
            (case.seen.healthy, case.seen.missed, case.seen.latency),
            (false, 1, 60)
        );
    }

    #[test]
    fn misses_add_up_probe_by_probe_and_never_dip() {
        let mut case = Case::new();
        for missed in 1..=3 {
            for _ in 0..5 {
                case.look(60);
                assert_eq!(case.seen.missed, missed, "a probe is counted once");
            }
            case.run(0);
            case.look(0);
            assert_eq!(case.seen.missed, missed);
            case.look(100);
        }
    }

    #[test]
    fn a_late_turn_does_not_restore_health_the_next_one_in_time_does() {
        let mut case = Case::new();
        case.look(60);
        case.run(0);
        assert!(!case.look(0));
        assert!(!case.seen.healthy);
        case.look(100);
        case.run(5);
        assert!(case.look(0));
        assert!(case.seen.healthy);
    }

    #[test]
    fn a_stuck_loop_gets_no_second_probe() {
        let mut case = Case::new();
        for _ in 0..20 {
            case.look(100);
        }
        assert_eq!(case.out(), 1);
    }

    #[test]
    fn an_unhealthy_loop_is_healthy_after_as_many_probes_in_time_as_asked() {
        let expected = Expectations {
            recover_after: 3,
            ..EXPECTED
        };
        let mut case = Case::new();
        case.look(60);
        case.run(0);
        case.look(0);
        for turn in 1..=3 {
            case.now += 100;
            case.seen.look(&case.observed, case.now, &expected);
            case.sent_at = case.now;
            case.run(1);
            let changed = case.seen.look(&case.observed, case.now, &expected);
            assert_eq!((changed, case.seen.healthy), (turn == 3, turn == 3));
        }
    }

    #[test]
    fn a_resting_loop_is_not_found_stuck() {
        let mut case = Case::new();
        assert!(!case.seen.resting());
        case.now += 1_000;
        assert!(!case.look(0));
        assert!(case.seen.healthy);
        assert_eq!(case.out(), 2, "it is asked anew");
    }

    #[test]
    fn a_stuck_loop_that_comes_to_rest_is_stuck_no_more() {
        let mut case = Case::new();
        case.look(60);
        assert!(!case.seen.healthy);
        assert!(case.seen.resting(), "its health changes");
        assert!(case.seen.healthy && !case.seen.resting());
    }
}
