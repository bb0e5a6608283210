//! Instants of the network threads as `IoContext.now()` would have told them.

use std::time::{Duration, Instant};

use atoll_core::timer::Timers;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// How often the two clocks are read to relate them; the closest of the readings counts.
const READINGS: usize = 8;

/// `instant` in seconds: of `time.monotonic()`, or of the clock that a loop has instead, which is moved by hand.
pub(crate) fn seconds(py: Python<'_>, instant: Instant, timers: Option<&Timers>) -> PyResult<f64> {
    // Both are the same clock of the system, read from different origins.
    static RELATION: PyOnceLock<(Instant, f64)> = PyOnceLock::new();
    if let Some(timers) = timers {
        return Ok(timers.at(instant).as_nanos() as f64 / 1e9);
    }
    let (origin, told) = RELATION.get_or_try_init(py, || relation(py))?;
    let since = match instant.checked_duration_since(*origin) {
        Some(since) => since.as_secs_f64(),
        None => -origin.duration_since(instant).as_secs_f64(),
    };
    Ok(told + since)
}

/// An instant, and what `time.monotonic()` told then.
fn relation(py: Python<'_>) -> PyResult<(Instant, f64)> {
    let monotonic = py.import("time")?.getattr(intern!(py, "monotonic"))?;
    let mut closest = (Duration::MAX, (Instant::now(), 0.0));
    for _ in 0..READINGS {
        let before = Instant::now();
        let told: f64 = monotonic.call0()?.extract()?;
        let width = before.elapsed();
        if width < closest.0 {
            closest = (width, (before + width / 2, told));
        }
    }
    Ok(closest.1)
}
