//! `LagProbeCore`: the native half of `atoll.observe.LagProbe`.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::clock;
use atoll_core::lag::LagProbe;
use atoll_core::registry::ObservedLoop;
use pyo3::prelude::*;

use crate::loop_core::LoopCore;
use crate::snapshot::{DistributionTuple, distribution};

/// Measures one loop from inside, from its construction to `stop()`. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct LagProbeCore {
    probe: Arc<LagProbe>,
    observed: Arc<dyn ObservedLoop>,
}

#[pymethods]
impl LagProbeCore {
    #[new]
    fn new(io_context: &Bound<'_, LoopCore>, interval: f64) -> Self {
        let observed: Arc<dyn ObservedLoop> = Arc::clone(&io_context.get().shared) as _;
        let interval = Duration::try_from_secs_f64(interval).unwrap_or(Duration::MAX);
        let probe = LagProbe::start(&observed, interval);
        observed.record().set_lag(Some(Arc::clone(&probe)));
        Self { probe, observed }
    }

    /// The lag in seconds.
    fn lag(&self) -> f64 {
        clock::seconds(self.probe.lag())
    }

    /// All lags so far.
    fn latencies(&self) -> DistributionTuple {
        distribution(&self.probe.latencies())
    }

    /// Measures no more.
    fn stop(&self) {
        self.probe.stop();
        self.observed.record().clear_lag(&self.probe);
    }
}

impl Drop for LagProbeCore {
    fn drop(&mut self) {
        self.stop();
    }
}
