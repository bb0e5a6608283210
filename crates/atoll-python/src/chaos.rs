//! What `atoll.chaos` needs of `atoll_core::chaos`: delays to look at, their counts, and the draws of fault sites.

use atoll_core::chaos::{self, DelayInjector, Rule};
use pyo3::prelude::*;

/// (pattern, minimum, maximum), in microseconds.
pub(crate) type RuleTuple = (String, u64, u64);

/// The injector that the rules and the seed give.
pub(crate) fn injector(rules: &[RuleTuple], seed: u64) -> DelayInjector {
    let rules: Vec<Rule> = rules
        .iter()
        .map(|(pattern, min, max)| Rule::from_microseconds(pattern, *min, *max))
        .collect();
    DelayInjector::new(seed, rules)
}

/// The pattern that a handler's rule has, and the first `count` delays of the handler on a loop, in microseconds.
#[pyfunction]
pub(crate) fn preview_delays(
    rules: Vec<RuleTuple>,
    seed: u64,
    loop_name: &str,
    handler: &str,
    count: usize,
) -> Option<(String, Vec<u64>)> {
    let injector = injector(&rules, seed);
    let pattern = injector.rule(handler)?.pattern.to_string();
    let stream = injector.preview(loop_name, handler)?;
    let delays = (0..count).map(|_| stream.next().as_micros() as u64);
    Some((pattern, delays.collect()))
}

/// (loop, handler, how many delays, their sum in seconds) of everything that was delayed in this process.
#[pyfunction]
pub(crate) fn injected_delays() -> Vec<(String, String, u64, f64)> {
    chaos::injected()
        .into_iter()
        .map(|each| {
            (
                each.loop_name.into(),
                each.handler.into(),
                each.count,
                each.total.as_secs_f64(),
            )
        })
        .collect()
}

/// The draws of one fault site on one loop; see `atoll.chaos.FaultSite`. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct FaultStream {
    inner: chaos::FaultStream,
}

#[pymethods]
impl FaultStream {
    #[new]
    fn new(seed: u64, loop_name: &str, site: &str, activation: f64, firing: f64) -> Self {
        Self {
            inner: chaos::FaultStream::new(seed, loop_name, site, activation, firing),
        }
    }

    /// Whether the site fires this time.
    fn fires(&self) -> bool {
        self.inner.fires()
    }

    /// Whether the site can fire in this run.
    #[getter]
    fn activated(&self) -> bool {
        self.inner.activated()
    }

    /// How often it was reached, and how often it fired.
    fn counts(&self) -> (u64, u64) {
        self.inner.counts()
    }
}
