//! Faults on purpose, for tests: delays of handlers, and sites in code that misbehave now and then.
//!
//! Everything drawn is a function of (seed, loop name, handler or site name, how many were drawn before): no clock, no global
//! generator, no hash of Rust's. So one seed gives each handler of each loop the same delays in every run, process and
//! build, whatever the others do. Nothing here needs the GIL or waits; any thread may draw.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | a [`DelayStream`]'s and a [`FaultStream`]'s counters | whoever draws | any thread | relaxed atomics |
//!
//! [`DelayStream`] and [`DelayInjector`] are here, [`FaultStream`], the generator and the process's counts in files of their
//! own.

mod draws;
mod fault;
mod tallies;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub use fault::FaultStream;
use tallies::Tally;
pub use tallies::{Injected, injected};

/// The pattern that matches every handler that no other matches.
pub const EVERY_HANDLER: &str = "*";

/// How long the handlers that a pattern matches are delayed: from `min` to `max`, both included, in whole microseconds.
///
/// The bounds are meant to be in order; where they are not, the delay is `min`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// A handler's full name, its last part, or [`EVERY_HANDLER`].
    pub pattern: Box<str>,
    /// The shortest delay.
    pub min: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl Rule {
    /// A rule with its bounds in microseconds, as they are written in the environment.
    #[must_use]
    pub fn from_microseconds(pattern: &str, min: u64, max: u64) -> Self {
        Self {
            pattern: pattern.into(),
            min: Duration::from_micros(min),
            max: Duration::from_micros(max),
        }
    }
}

/// Which handlers are delayed, how long, and the seed of the delays. Any thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayInjector {
    seed: u64,
    rules: Box<[Rule]>,
}

impl DelayInjector {
    /// An injector of the delays that `rules` and `seed` give. The order of the rules means nothing.
    #[must_use]
    pub fn new(seed: u64, rules: impl Into<Box<[Rule]>>) -> Self {
        Self {
            seed,
            rules: rules.into(),
        }
    }

    /// The rule for a handler: that of its full name, else that of its last part, else that of every handler.
    ///
    /// Parts are separated by `.` or `/`. A call's full name is `Service.Method`, and its path, `/package.Service/Method`,
    /// means the same.
    #[must_use]
    pub fn rule(&self, handler: &str) -> Option<&Rule> {
        let last = handler.rsplit(['.', '/']).next().unwrap_or(handler);
        let is = |matches: &dyn Fn(&str) -> bool| self.rules.iter().find(|r| matches(&r.pattern));
        is(&|pattern| pattern == handler)
            .or_else(|| is(&|pattern| name_of_call(pattern) == name_of_call(handler)))
            .or_else(|| is(&|pattern| pattern == last))
            .or_else(|| is(&|pattern| pattern == EVERY_HANDLER))
    }

    /// The delays of a handler on a loop, from the first on, counted in [`injected`]. None for a handler without a rule.
    #[must_use]
    pub fn stream(&self, loop_name: &str, handler: &str) -> Option<DelayStream> {
        let rule = self.rule(handler)?;
        let tally = tallies::of(loop_name, handler);
        Some(self.stream_of(rule, loop_name, handler, tally))
    }

    /// The same delays as [`DelayInjector::stream`], to look at: they are counted nowhere.
    #[must_use]
    pub fn preview(&self, loop_name: &str, handler: &str) -> Option<DelayStream> {
        let rule = self.rule(handler)?;
        Some(self.stream_of(rule, loop_name, handler, Arc::default()))
    }

    fn stream_of(
        &self,
        rule: &Rule,
        loop_name: &str,
        handler: &str,
        tally: Arc<Tally>,
    ) -> DelayStream {
        let min = microseconds(rule.min);
        DelayStream {
            key: draws::key(self.seed, ["delay", loop_name, handler]),
            min,
            max: microseconds(rule.max).max(min),
            drawn: AtomicU64::new(0),
            tally,
        }
    }
}

/// A call's path as the call's name in statistics: `/package.Service/Method` as `Service.Method`. Other names as they are.
fn name_of_call(name: &str) -> Cow<'_, str> {
    let path = name.strip_prefix('/').and_then(|path| path.split_once('/'));
    match path {
        Some((service, method)) => {
            let short = service.rsplit('.').next().unwrap_or(service);
            Cow::Owned(format!("{short}.{method}"))
        }
        None => Cow::Borrowed(name),
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The delays of one handler on one loop, one after the other. Any thread: each draw is somebody's, in some order.
#[derive(Debug)]
pub struct DelayStream {
    key: u64,
    min: u64,
    max: u64,
    drawn: AtomicU64,
    tally: Arc<Tally>,
}

impl DelayStream {
    /// The next delay.
    pub fn next(&self) -> Duration {
        let n = self.drawn.fetch_add(1, Relaxed);
        let delay = self.min + draws::up_to(draws::nth(self.key, n), self.max - self.min);
        self.tally.add(delay);
        Duration::from_micros(delay)
    }

    /// The shortest and the longest delay that it gives, both included.
    #[must_use]
    pub fn bounds(&self) -> (Duration, Duration) {
        (
            Duration::from_micros(self.min),
            Duration::from_micros(self.max),
        )
    }

    /// How many delays it has given.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.drawn.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injector(seed: u64, rules: &[(&str, u64, u64)]) -> DelayInjector {
        let rules: Vec<Rule> = rules
            .iter()
            .map(|&(pattern, min, max)| Rule::from_microseconds(pattern, min, max))
            .collect();
        DelayInjector::new(seed, rules)
    }

    fn first(stream: &DelayStream, count: usize) -> Vec<u64> {
        (0..count).map(|_| microseconds(stream.next())).collect()
    }

    fn delays(seed: u64, loop_name: &str, handler: &str) -> Vec<u64> {
        let stream = injector(seed, &[("*", 0, 1_000_000)]).preview(loop_name, handler);
        first(&stream.expect("a rule for every handler"), 50)
    }

    #[test]
    fn the_full_name_beats_the_last_part_beats_every_handler() {
        let all = injector(
            1,
            &[
                ("*", 3, 3),
                ("Heartbeat", 2, 2),
                ("NodeService.Heartbeat", 1, 1),
            ],
        );
        let min = |handler| all.rule(handler).map(|rule| rule.min.as_micros());
        assert_eq!(min("NodeService.Heartbeat"), Some(1));
        assert_eq!(min("OtherService.Heartbeat"), Some(2));
        assert_eq!(min("Heartbeat"), Some(2));
        assert_eq!(min("Heartbeats"), Some(3));
        assert_eq!(min("Heartbeat.NodeService"), Some(3));
        assert_eq!(min(""), Some(3));
    }

    #[test]
    fn a_path_means_the_call_that_it_leads_to() {
        let by_path = injector(
            1,
            &[
                ("/atoll.v1.NodeService/Heartbeat", 1, 1),
                ("Heartbeat", 2, 2),
            ],
        );
        let min = |handler| by_path.rule(handler).map(|rule| rule.min.as_micros());
        assert_eq!(min("/atoll.v1.NodeService/Heartbeat"), Some(1));
        assert_eq!(min("NodeService.Heartbeat"), Some(1));
        assert_eq!(min("/atoll.v1.Other/Heartbeat"), Some(2));
        let by_name = injector(1, &[("NodeService.Heartbeat", 1, 1)]);
        assert!(by_name.rule("/atoll.v1.NodeService/Heartbeat").is_some());
        assert!(by_name.rule("/atoll.v1.NodeService/Drain").is_none());
    }

    #[test]
    fn a_handler_without_a_rule_has_no_stream() {
        assert!(injector(1, &[("a", 1, 2)]).stream("loop", "b").is_none());
    }

    #[test]
    fn the_delays_are_a_function_of_seed_loop_and_handler() {
        assert_eq!(delays(7, "nodes", "Beat"), delays(7, "nodes", "Beat"));
        assert_ne!(delays(7, "nodes", "Beat"), delays(8, "nodes", "Beat"));
        assert_ne!(delays(7, "nodes", "Beat"), delays(7, "store", "Beat"));
        assert_ne!(delays(7, "nodes", "Beat"), delays(7, "nodes", "Pull"));
        assert_ne!(delays(7, "ab", "c"), delays(7, "a", "bc"));
    }

    #[test]
    fn the_delays_of_a_seed_are_those_of_every_other_release() {
        // A seed in somebody's bug report must go on to mean what it meant: change these only with a note to users.
        assert_eq!(
            delays(42, "nodes", "NodeService.Heartbeat")[..4],
            [880_235, 100_451, 857_175, 203_037]
        );
    }

    #[test]
    fn both_bounds_are_drawn_and_nothing_beyond_them() {
        let stream = injector(3, &[("*", 5, 8)])
            .preview("loop", "handler")
            .expect("a rule");
        let mut seen = first(&stream, 1_000);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [5, 6, 7, 8]);
        assert_eq!(
            stream.bounds(),
            (Duration::from_micros(5), Duration::from_micros(8))
        );
    }

    #[test]
    fn equal_bounds_give_one_delay_and_reversed_ones_the_minimum() {
        for max in [70, 7] {
            let stream = injector(3, &[("*", 70, max)])
                .preview("loop", "handler")
                .expect("a rule");
            assert!(first(&stream, 100).iter().all(|&delay| delay == 70));
        }
    }

    #[test]
    fn delays_spread_evenly_over_their_range() {
        let stream = injector(11, &[("*", 0, 9)])
            .preview("loop", "handler")
            .expect("a rule");
        let mut counts = [0_u32; 10];
        for delay in first(&stream, 10_000) {
            counts[delay as usize] += 1;
        }
        // Six standard deviations, of 30.
        assert!(
            counts.iter().all(|&n| n.abs_diff(1_000) < 180),
            "{counts:?}"
        );
    }

    #[test]
    fn threads_that_draw_at_once_get_each_delay_of_the_stream_once() {
        let stream = injector(5, &[("*", 0, 1_000_000)])
            .preview("loop", "handler")
            .expect("a rule");
        let mut drawn: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| first(&stream, 250)))
                .collect();
            threads
                .into_iter()
                .flat_map(|t| t.join().expect("no panic"))
                .collect()
        });
        let again = injector(5, &[("*", 0, 1_000_000)])
            .preview("loop", "handler")
            .expect("a rule");
        let mut expected = first(&again, 1_000);
        drawn.sort_unstable();
        expected.sort_unstable();
        assert_eq!(drawn, expected);
        assert_eq!(stream.count(), 1_000);
    }

    #[test]
    fn what_is_injected_is_counted_by_loop_and_handler_and_previews_are_not() {
        let all = injector(1, &[("*", 10, 10)]);
        let counted = |handler: &str| {
            injected()
                .into_iter()
                .find(|each| &*each.loop_name == "counted" && &*each.handler == handler)
                .map(|each| (each.count, each.total.as_micros()))
        };
        first(&all.stream("counted", "twice").expect("a rule"), 3);
        first(&all.stream("counted", "twice").expect("a rule"), 1);
        first(&all.preview("counted", "looked at").expect("a rule"), 3);
        let _unused = all.stream("counted", "unused").expect("a rule");
        assert_eq!(counted("twice"), Some((4, 40)));
        assert_eq!(counted("looked at"), None);
        assert_eq!(counted("unused"), None);
    }
}
