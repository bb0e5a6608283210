//! `ManualTimers`: time that passes only when told to; `atoll.testing.ManualClock` derives from it.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::timer::Timers;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// What the delayed posts of loops with a manual clock wait in.
#[pyclass(subclass, frozen, module = "atoll._core")]
pub(crate) struct ManualTimers {
    pub(crate) timers: Arc<Timers>,
}

#[pymethods]
impl ManualTimers {
    #[new]
    fn new() -> Self {
        Self {
            timers: Timers::manual(),
        }
    }

    /// Seconds since the clock was made.
    fn now(&self) -> f64 {
        // Correctly rounded, as `Duration::as_secs_f64` is not.
        self.timers.now().as_nanos() as f64 / 1e9
    }

    /// When the next delayed post is due, or None.
    fn _next_due(&self) -> Option<f64> {
        self.timers.next_due().map(|due| due.as_secs_f64())
    }

    /// Moves time on to `time`, and what is due by then to its mailbox.
    fn _advance_to(&self, py: Python<'_>, time: f64) -> PyResult<()> {
        let nanos = (time * 1e9).round();
        if !(0.0..=u64::MAX as f64).contains(&nanos) {
            return Err(PyValueError::new_err(format!(
                "time={time} is not a number of seconds since the clock was made"
            )));
        }
        py.detach(|| self.timers.advance_to(Duration::from_nanos(nanos as u64)));
        Ok(())
    }
}
