//! A fault site's draws on one loop: activated for the whole run or not at all, then firing now and then.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::draws;

/// The draws of one site on one loop, in the manner of `FoundationDB`'s BUGGIFY. Any thread.
///
/// Whether the site is *activated* depends on the seed and the site alone, so it holds for every loop and process of a run;
/// whether it *fires*, on the loop's name and on how often it was reached there before, too.
#[derive(Debug)]
pub struct FaultStream {
    key: u64,
    activated: bool,
    firing: f64,
    reached: AtomicU64,
    fired: AtomicU64,
}

impl FaultStream {
    /// The stream of `site` on the loop `loop_name`, which is empty outside of loops. Probabilities are from 0 to 1.
    #[must_use]
    pub fn new(seed: u64, loop_name: &str, site: &str, activation: f64, firing: f64) -> Self {
        let run = draws::key(seed, ["site", site]);
        Self {
            key: draws::key(seed, ["site", loop_name, site]),
            activated: draws::is_within(draws::nth(run, 0), activation),
            firing,
            reached: AtomicU64::new(0),
            fired: AtomicU64::new(0),
        }
    }

    /// Whether the site fires this time.
    pub fn fires(&self) -> bool {
        let n = self.reached.fetch_add(1, Relaxed);
        let fires = self.activated && draws::is_within(draws::nth(self.key, n), self.firing);
        if fires {
            self.fired.fetch_add(1, Relaxed);
        }
        fires
    }

    /// Whether the site can fire in this run.
    #[must_use]
    pub fn activated(&self) -> bool {
        self.activated
    }

    /// How often it was reached, and how often it fired.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        // In this order, so that it never seems to have fired more often than it was reached.
        let fired = self.fired.load(Relaxed);
        (self.reached.load(Relaxed).max(fired), fired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires(stream: &FaultStream, times: usize) -> Vec<bool> {
        (0..times).map(|_| stream.fires()).collect()
    }

    #[test]
    fn a_site_is_activated_on_all_loops_of_a_run_or_on_none() {
        for seed in 0..200 {
            let activated = ["", "nodes", "store"]
                .map(|name| FaultStream::new(seed, name, "site", 0.25, 1.0).activated());
            assert!(activated.iter().all(|&one| one == activated[0]));
        }
    }

    #[test]
    fn a_quarter_of_the_runs_activate_a_site_and_there_a_quarter_of_its_draws_fire() {
        let runs: Vec<FaultStream> = (0..4_000)
            .map(|seed| FaultStream::new(seed, "loop", "site", 0.25, 0.25))
            .collect();
        let activated: Vec<_> = runs.iter().filter(|run| run.activated()).collect();
        // Six standard deviations, of 27.
        assert!(activated.len().abs_diff(1_000) < 165, "{}", activated.len());
        let fired = activated
            .iter()
            .flat_map(|run| fires(run, 10))
            .filter(|&fired| fired)
            .count();
        let expected = activated.len() * 10 / 4;
        assert!(fired.abs_diff(expected) < 260, "{fired} of {expected}");
    }

    #[test]
    fn a_site_that_is_not_activated_is_counted_and_never_fires() {
        let off = FaultStream::new(1, "loop", "site", 0.0, 1.0);
        assert!(!off.activated());
        assert_eq!(fires(&off, 100), [false; 100]);
        assert_eq!(off.counts(), (100, 0));
    }

    #[test]
    fn certainty_fires_every_time() {
        let on = FaultStream::new(1, "loop", "site", 1.0, 1.0);
        assert_eq!(fires(&on, 100), [true; 100]);
        assert_eq!(on.counts(), (100, 100));
    }

    #[test]
    fn the_draws_are_a_function_of_seed_loop_and_site() {
        let draws =
            |seed, loop_name, site| fires(&FaultStream::new(seed, loop_name, site, 1.0, 0.5), 64);
        assert_eq!(draws(1, "nodes", "slow"), draws(1, "nodes", "slow"));
        assert_ne!(draws(1, "nodes", "slow"), draws(2, "nodes", "slow"));
        assert_ne!(draws(1, "nodes", "slow"), draws(1, "store", "slow"));
        assert_ne!(draws(1, "nodes", "slow"), draws(1, "nodes", "lost"));
    }
}
