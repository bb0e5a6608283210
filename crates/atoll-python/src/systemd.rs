//! `SystemdCore`: the native half of `atoll.observe.SystemdNotifier`.

use std::io;
use std::time::Duration;

use atoll_core::systemd::{Notifier, Settings};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

/// The line to systemd, from its construction to `stop()`. Any thread; raises `OSError` for what can't be told.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct SystemdCore {
    notifier: Notifier,
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` has it")]
fn failed(problem: io::Error) -> PyErr {
    PyOSError::new_err(problem.to_string())
}

#[pymethods]
impl SystemdCore {
    /// Durations in seconds.
    #[new]
    #[pyo3(signature = (socket, watchdog, liveness_threshold))]
    fn new(
        socket: String,
        watchdog: Option<f64>,
        liveness_threshold: Option<f64>,
    ) -> PyResult<Self> {
        let settings = Settings {
            socket,
            watchdog: watchdog.map(duration),
            liveness_threshold: liveness_threshold.map(duration),
        };
        let notifier = Notifier::start(&settings).map_err(failed)?;
        Ok(Self { notifier })
    }

    fn ready(&self) -> PyResult<()> {
        self.notifier.ready().map_err(failed)
    }

    fn status(&self, text: &str) -> PyResult<()> {
        self.notifier.status(text).map_err(failed)
    }

    fn stopping(&self) -> PyResult<()> {
        self.notifier.stopping().map_err(failed)
    }

    /// Ends the thread, which never waits for Python.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.notifier.stop());
    }
}
