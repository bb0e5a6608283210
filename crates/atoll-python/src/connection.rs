//! `ConnectionCore`: a client's connection, for who wants to know of it during a call or later; `atoll.rpc.Connection` has one.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use atoll_core::mailbox::Lane;
use atoll_core::timer::Timers;
use atoll_core::transport::{ConnectionHandle, NoPong, RoundTrip};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use crate::item::Item;
use crate::loop_core::LoopCore;
use crate::{error, moment};

/// A client's connection, open or not; it does not keep it open. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct ConnectionCore {
    handle: ConnectionHandle,
    /// Whose time it tells; the system's unless given.
    timers: Option<Arc<Timers>>,
}

impl ConnectionCore {
    pub(crate) fn new(handle: ConnectionHandle, timers: Option<Arc<Timers>>) -> Self {
        Self { handle, timers }
    }
}

#[pymethods]
impl ConnectionCore {
    /// Counts the connections of the process, from 1 on.
    #[getter]
    fn id(&self) -> u64 {
        self.handle.id()
    }

    /// The client's address in grpc's form.
    #[getter]
    fn peer(&self) -> &str {
        self.handle.peer()
    }

    /// Whether it has ended.
    #[getter]
    fn closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// When bytes last came from the client, in seconds.
    #[getter]
    fn last_received(&self, py: Python<'_>) -> PyResult<f64> {
        moment::seconds(py, self.handle.last_received(), self.timers.as_deref())
    }

    /// Pings the client. `future`, of the asyncio loop that `io_context` drains on, gets the seconds of the round trip, or
    /// `ConnectionClosedError`, or after `timeout` seconds `PingTimeoutError`.
    fn ping(
        &self,
        py: Python<'_>,
        io_context: &Bound<'_, LoopCore>,
        future: Py<PyAny>,
        timeout: f64,
    ) -> PyResult<()> {
        let shared = &io_context.get().shared;
        io_context.get().check_fork()?;
        let patience = Duration::try_from_secs_f64(timeout).ok();
        let patience = patience.filter(|it| !it.is_zero()).ok_or_else(|| {
            PyValueError::new_err(format!(
                "timeout={timeout} is not a number of seconds above 0"
            ))
        })?;
        let answer = PingAnswer {
            future,
            peer: self.handle.peer().into(),
            timeout,
            outcome: OnceLock::new(),
        };
        let (answer, shared) = (Py::new(py, answer)?, Arc::clone(shared));
        self.handle.ping(patience, move |outcome| {
            let _ = answer.get().outcome.set(outcome);
            // Nobody waits any more on a loop that is closed meanwhile.
            let answer = Item::Internal(answer.into_any());
            let _ = shared.mailbox.push_admitted(Lane::Control, answer);
        });
        Ok(())
    }
}

/// What came of a ping, on its way to the loop that waits for it.
#[pyclass(frozen, module = "atoll._core")]
struct PingAnswer {
    future: Py<PyAny>,
    peer: Box<str>,
    timeout: f64,
    outcome: OnceLock<RoundTrip>,
}

#[pymethods]
impl PingAnswer {
    /// Lets who waits go on, unless that was cancelled. On its loop.
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let future = self.future.bind(py);
        if future.call_method0(intern!(py, "done"))?.is_truthy()? {
            return Ok(());
        }
        let problem = match self.outcome.get() {
            Some(Ok(took)) => {
                let seconds = took.as_secs_f64();
                return future
                    .call_method1(intern!(py, "set_result"), (seconds,))
                    .map(drop);
            }
            Some(Err(NoPong::TimedOut)) => error::ping_timed_out(&self.peer, self.timeout),
            Some(Err(NoPong::Closed)) | None => error::connection_closed(&self.peer),
        };
        future
            .call_method1(intern!(py, "set_exception"), (problem,))
            .map(drop)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.future)
    }
}
