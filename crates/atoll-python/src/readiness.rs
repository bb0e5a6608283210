//! `ReadinessCore`: the conditions of `/readyz`. `atoll.observe.Readiness` derives from it.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::readiness::{ConditionError, MOST_CONDITIONS, Readiness};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Conditions that are told without Python. Any thread.
#[pyclass(subclass, frozen, module = "atoll._core")]
pub(crate) struct ReadinessCore {
    pub(crate) readiness: Arc<Readiness>,
}

#[pymethods]
impl ReadinessCore {
    #[new]
    fn new() -> Self {
        Self {
            readiness: Arc::default(),
        }
    }

    /// Says whether a condition holds; `time_to_live` in seconds.
    #[pyo3(signature = (name, ok, reason, time_to_live))]
    fn _set(&self, name: &str, ok: bool, reason: &str, time_to_live: Option<f64>) -> PyResult<()> {
        let limit = time_to_live
            .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
        let set = self.readiness.set(name, ok, reason, limit);
        set.map_err(|problem| {
            PyValueError::new_err(match problem {
                ConditionError::BadName => format!(
                    "{name:?} is no name of a condition: use letters, digits, '-', '_' and '.', as in \"store\""
                ),
                ConditionError::TooMany => format!(
                    "there are {MOST_CONDITIONS} conditions, the most there may be: remove() those that are no longer needed"
                ),
            })
        })
    }

    /// Forgets a condition; false when there is none of that name.
    fn remove(&self, name: &str) -> bool {
        self.readiness.remove(name)
    }

    /// (name, whether it holds, reason) of each condition.
    fn _told(&self) -> Vec<(String, bool, String)> {
        let told = self.readiness.told().into_iter();
        told.map(|it| (it.name, it.holds, it.reason)).collect()
    }
}
