//! `ServerCall`: one call as its handler sees it. `atoll.rpc.ServicerContext` derives from it.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `call` | the loop, before the handler sees the object | any thread | – (set once) |
//! | `reply` | the handler, and whatever it hands the context to | the same, and the loop at the end | a mutex |

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use atoll_core::transport::{Call, CancelReason, Code, Reply, Status, metadata};
use http::HeaderMap;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::loop_core::lock;

/// What the handler has said about the reply so far.
#[derive(Default)]
struct Answer {
    code: Option<Code>,
    details: String,
    trailing: Option<HeaderMap>,
    callbacks: Vec<Py<PyAny>>,
    done: bool,
}

/// One call as its handler sees it; see `atoll.rpc.ServicerContext`.
#[pyclass(subclass, frozen, weakref, module = "atoll._core")]
pub(crate) struct ServerCall {
    call: OnceLock<Arc<Call>>,
    answer: Mutex<Answer>,
}

impl ServerCall {
    /// Ties the object to its call, before anybody sees it.
    pub(crate) fn attach(&self, call: Arc<Call>) {
        let _ = self.call.set(call);
    }

    fn call(&self) -> PyResult<&Arc<Call>> {
        self.call.get().ok_or_else(|| {
            PyRuntimeError::new_err(
                "a ServicerContext is made by the server for a call, not by hand",
            )
        })
    }

    pub(crate) fn attached(&self) -> Option<&Arc<Call>> {
        self.call.get()
    }

    /// The status that the handler set, if it is not OK.
    pub(crate) fn status_set(&self) -> Option<Status> {
        let answer = lock(&self.answer);
        let code = answer.code?;
        (code != Code::Ok).then(|| Status::new(code, answer.details.clone()))
    }

    /// Sends the reply with the trailing metadata that the handler set.
    pub(crate) fn send(&self, mut reply: Reply) -> bool {
        let mut answer = lock(&self.answer);
        reply.trailing_metadata = answer.trailing.take().map(Box::new);
        drop(answer);
        self.call.get().is_some_and(|call| call.reply(reply))
    }

    /// The handler has ended or its call has been cancelled: gives back the callbacks, once.
    pub(crate) fn take_callbacks(&self) -> Vec<Py<PyAny>> {
        let mut answer = lock(&self.answer);
        answer.done = true;
        std::mem::take(&mut answer.callbacks)
    }
}

/// Metadata from Python: pairs of a name and a string, or bytes for names that end in `-bin`.
fn header_map(pairs: &Bound<'_, PyAny>) -> PyResult<HeaderMap> {
    let mut map = HeaderMap::new();
    for pair in pairs.try_iter()? {
        let pair = pair?;
        let (key, value): (String, Bound<'_, PyAny>) = pair.extract().map_err(|_| {
            PyTypeError::new_err(format!(
                "metadata is a sequence of pairs such as (\"key\", \"value\"), and {pair:?} is none"
            ))
        })?;
        let value: Vec<u8> = if let Ok(text) = value.cast::<PyString>() {
            text.to_str()?.as_bytes().to_vec()
        } else if let Ok(bytes) = value.cast::<PyBytes>() {
            bytes.as_bytes().to_vec()
        } else {
            return Err(PyTypeError::new_err(format!(
                "the metadata value for {key:?} is {value:?}: it is a str, or bytes for keys that end in -bin"
            )));
        };
        metadata::append(&mut map, &key, &value)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
    }
    Ok(map)
}

fn code(number: u8) -> PyResult<Code> {
    Code::from_u8(number).ok_or_else(|| {
        PyValueError::new_err(format!(
            "{number} is no gRPC status code: they go from 0 to 16"
        ))
    })
}

#[pymethods]
impl ServerCall {
    #[new]
    fn new() -> Self {
        Self {
            call: OnceLock::new(),
            answer: Mutex::default(),
        }
    }

    #[getter]
    fn _path(&self) -> PyResult<&str> {
        Ok(self.call()?.path())
    }

    fn peer(&self) -> PyResult<&str> {
        Ok(self.call()?.peer())
    }

    #[getter]
    fn _authority(&self) -> PyResult<&str> {
        Ok(self.call()?.authority())
    }

    /// Pairs as the application may see them; binary values decoded.
    fn _metadata<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        metadata::application_view(self.call()?.metadata())
            .map(|(key, value)| {
                let value = if metadata::is_binary(key) {
                    PyBytes::new(py, &value).into_any()
                } else {
                    PyString::new(py, &String::from_utf8_lossy(&value)).into_any()
                };
                PyTuple::new(py, [PyString::new(py, key).into_any(), value])
            })
            .collect()
    }

    /// Seconds until the deadline; None without one.
    fn time_remaining(&self) -> PyResult<Option<f64>> {
        Ok(self
            .call()?
            .time_remaining()
            .map(|left: Duration| left.as_secs_f64()))
    }

    fn done(&self) -> PyResult<bool> {
        Ok(self.call()?.is_answered())
    }

    fn cancelled(&self) -> PyResult<bool> {
        Ok(self.call()?.cancelled_by().is_some())
    }

    /// Why the transport ended the call, or None.
    #[getter]
    fn _cancel_reason(&self) -> PyResult<Option<&'static str>> {
        Ok(self.call()?.cancelled_by().map(|reason| match reason {
            CancelReason::Deadline => "deadline",
            CancelReason::Client => "client",
            CancelReason::ConnectionLost => "connection lost",
            CancelReason::Shutdown => "shutdown",
        }))
    }

    fn _set_code(&self, number: u8) -> PyResult<()> {
        lock(&self.answer).code = Some(code(number)?);
        Ok(())
    }

    fn set_details(&self, details: String) {
        lock(&self.answer).details = details;
    }

    #[getter]
    fn _code(&self) -> Option<u8> {
        lock(&self.answer).code.map(Code::as_u8)
    }

    fn details(&self) -> String {
        lock(&self.answer).details.clone()
    }

    fn _set_trailing(&self, pairs: &Bound<'_, PyAny>) -> PyResult<()> {
        let map = header_map(pairs)?;
        lock(&self.answer).trailing = Some(map);
        Ok(())
    }

    /// Sends the headers now; false when they have been sent or the call has been answered.
    fn _send_initial_metadata(&self, pairs: &Bound<'_, PyAny>) -> PyResult<bool> {
        let map = header_map(pairs)?;
        Ok(self.call()?.send_initial_metadata(map))
    }

    /// Answers at once with a status and nothing else; false when the call has been answered.
    fn _abort(&self, number: u8, details: String) -> PyResult<bool> {
        let code = code(number)?;
        self.call()?;
        {
            let mut answer = lock(&self.answer);
            answer.code = Some(code);
            answer.details.clone_from(&details);
        }
        Ok(self.send(Reply::error(Status::new(code, details))))
    }

    /// Runs `callback` when the call has ended; false when it has already.
    fn _add_callback(&self, callback: Py<PyAny>) -> bool {
        let mut answer = lock(&self.answer);
        if !answer.done {
            answer.callbacks.push(callback);
        }
        !answer.done
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Held by attached threads only, and never while Python code runs: so not while the garbage collector looks.
        match self.answer.try_lock() {
            Ok(answer) => answer.callbacks.iter().try_for_each(|it| visit.call(it)),
            Err(_) => Ok(()),
        }
    }

    fn __clear__(&self) {
        let callbacks = std::mem::take(&mut lock(&self.answer).callbacks);
        drop(callbacks);
    }
}
