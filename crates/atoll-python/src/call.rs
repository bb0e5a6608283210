//! Running one call on its loop: from the request's bytes to the reply's.
//!
//! Guarantees: a call that was answered while it waited never reaches Python; whatever the handler does, the call is answered;
//! an exception becomes UNKNOWN and is counted, named and handed to the exception hook.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use atoll_core::transport::{Call, Code, Encoding, Framed, Message, Reply, Sent, Status};
use bytes::Bytes;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCFunction, PyFloat};

use crate::context::{fresh, run_in, run_in_fresh};
use crate::error;
use crate::handler_steps::{Completion, FirstStep};
use crate::loop_core::{LoopCore, lock};
use crate::method::Method;
use crate::python_bytes::framed;
use crate::server_call::ServerCall;
use crate::shared::Shared;

/// Seconds after which the place of a call goes to the next one although its cancelled handler has not seen that.
const CANCELLATION_PATIENCE: f64 = 1.0;

/// A message may be left for the end of its step while the last one that was sent is younger than this part of the drain
/// budget: a handler that goes on without a pause wakes the connection ten times in a turn, not for every message.
const MOMENTS: u64 = 10;

/// The address of a call, which names it while anybody holds it.
fn key(call: &Arc<Call>) -> usize {
    Arc::as_ptr(call) as usize
}

impl LoopCore {
    /// Runs one call, a coroutine up to its first await.
    pub(crate) fn run_call(
        slf: &Bound<'_, Self>,
        asyncio_loop: &Bound<'_, PyAny>,
        call: Arc<Call>,
        queued_at: u64,
    ) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let method = Method::of(&call);
        let slot = core.shared.tracker().slot(method.slot);
        let start = core.last_stamp.load(Ordering::Relaxed);
        let waited = start.saturating_sub(queued_at);
        let is_shed = method
            .overload
            .as_ref()
            .is_some_and(|watch| watch.sheds(&call, method.lane, waited, start));
        if is_shed || !call.begin() {
            slot.dropped();
            core.stamp();
            return Ok(());
        }
        core.begin(method.slot, method.lane, start);
        if core.recording {
            slot.started(waited);
        }
        core.executed
            .store(core.executed.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let request = if method.request_streaming {
            // Its handler reads the messages one by one.
            Ok(py.None().into_bound(py))
        } else {
            let Some(message) = decompressed(py, &call, call.take_message()) else {
                core.handler_ended(slot, start);
                return Ok(());
            };
            deserialize(py, method.deserializer.as_ref(), message)
        };
        let request = match request {
            Ok(request) => request,
            Err(raised) => {
                core.handler_ended(slot, start);
                call.refuse(undeserializable());
                slot.failed();
                return Self::raised(slf, &slot.name, raised);
            }
        };
        let context = method
            .context_type
            .bind(py)
            .call0()?
            .cast_into::<ServerCall>()?;
        context.get().attach(Arc::clone(&call));
        if method.compression != Encoding::Identity {
            call.compress(method.compression);
        }
        if call.is_streaming() && !method.finds_handler {
            ServerCall::live_on(&context, slf);
        }
        let variables = deadline_variables(slf, &call)?;
        let handle = || call_two(py, &method.handler, &request, context.as_any());
        let result = match (&variables, method.is_coroutine) {
            // Its task runs in them.
            (_, true) => handle(),
            (Some(variables), false) => run_in(variables, handle),
            (None, false) => run_in_fresh(py, handle),
        };
        drop(request);
        // SAFETY: the object is alive.
        let coroutine = result
            .as_ref()
            .is_ok_and(|result| unsafe { ffi::PyCoro_CheckExact(result.as_ptr()) } != 0);
        if coroutine {
            let completion = Completion::Call(context.unbind());
            let step = FirstStep {
                slot: method.slot,
                lane: method.lane,
                start,
            };
            return Self::start_coroutine(
                slf,
                asyncio_loop,
                result?,
                variables.as_ref(),
                step,
                completion,
            );
        }
        let finished = Self::answer(slf, context.get(), result);
        core.handler_ended(slot, start);
        finished
    }

    /// Answers the call with what its handler returned or raised.
    pub(crate) fn answer(
        slf: &Bound<'_, Self>,
        context: &ServerCall,
        outcome: PyResult<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let Some(call) = context.attached() else {
            return Ok(());
        };
        slf.get().forget_streaming(context);
        let method = Method::of(call);
        let raised = match outcome {
            Ok(result) => match reply(slf, context, &result) {
                Ok(reply) => {
                    context.send(reply);
                    None
                }
                Err(raised) => {
                    context.send(Reply::error(unserializable()));
                    Some(raised)
                }
            },
            // Raised by another call's `abort`, or by hand, it has answered nobody.
            Err(raised) if call.is_answered() && error::is_abort(py, &raised) => None,
            Err(raised) => {
                let status = context.status_of(py, &raised).unwrap_or_else(|| {
                    let status = context.status_set();
                    let code = status.map_or(Code::Unknown, |status| status.code);
                    Status::new(code, unexpected(py, &raised))
                });
                context.send(Reply::error(status));
                Some(raised)
            }
        };
        Self::run_callbacks(slf, context)?;
        // Where the transport has ended the call.
        call.release();
        match raised {
            None => Ok(()),
            Some(raised) => {
                let slot = slf.get().shared.tracker().slot(method.slot);
                slot.failed();
                Self::raised(slf, &slot.name, raised)
            }
        }
    }

    /// Remembers the task of a call that outlives its first step, so that the call's end can cancel it.
    pub(crate) fn remember_task(&self, context: &ServerCall, task: Py<PyAny>) {
        if let Some(call) = context.attached() {
            // A message that cancels the call is run after this, whenever it came.
            lock(&self.tasks).insert(key(call), task);
        }
    }

    pub(crate) fn forget_task(&self, context: &ServerCall) {
        let task = context
            .attached()
            .and_then(|call| lock(&self.tasks).remove(&key(call)));
        drop(task);
    }

    /// Remembers a streaming call whose handler may wait here.
    pub(crate) fn remember_streaming(&self, context: &Bound<'_, ServerCall>) {
        if let Some(call) = context.get().attached() {
            let before = lock(&self.streaming).insert(key(call), context.clone().unbind());
            drop(before);
        }
    }

    /// Sends a message of a streaming reply; in a handler's step it may be left for the end of that, or for the next one that
    /// the step sends. The loop's thread.
    pub(crate) fn send_in_step(&self, call: &Arc<Call>, framed: Framed) -> Sent {
        let moment = if self.open_steps.load(Ordering::Relaxed) == 0 {
            // Nobody would send what is left.
            0
        } else {
            self.budget / MOMENTS
        };
        let (sent, rides) = call.send_riding(framed, moment);
        if rides {
            self.has_riding.store(true, Ordering::Relaxed);
            let mut riding = lock(&self.riding);
            if !riding.as_ref().is_some_and(|it| Arc::ptr_eq(it, call))
                && let Some(other) = riding.replace(Arc::clone(call))
            {
                other.let_go();
            }
        }
        sent
    }

    /// The step has ended: sends what it has left.
    #[cold]
    pub(crate) fn send_riding(&self) {
        self.has_riding.store(false, Ordering::Relaxed);
        let riding = lock(&self.riding).take();
        if let Some(call) = riding {
            call.let_go();
        }
    }

    pub(crate) fn forget_streaming(&self, context: &ServerCall) {
        let call = context.attached().filter(|_| context.is_streaming());
        let context = call.and_then(|call| lock(&self.streaming).remove(&key(call)));
        drop(context);
    }

    /// What the handler of a streaming call waits for has happened: lets it look again.
    pub(crate) fn call_progressed(slf: &Bound<'_, Self>, call: &Arc<Call>) -> PyResult<()> {
        let py = slf.py();
        let context = lock(&slf.get().streaming)
            .get(&key(call))
            .map(|context| context.clone_ref(py));
        let Some(context) = context else {
            return Ok(());
        };
        for waiter in context.get().take_waiters(slf.get()) {
            let_go_on(py, &waiter)?;
        }
        Ok(())
    }

    /// The transport has ended a call: cancels its handler, if that has begun and not ended.
    pub(crate) fn cancel_call(slf: &Bound<'_, Self>, call: &Arc<Call>) -> PyResult<()> {
        let py = slf.py();
        let task = lock(&slf.get().tasks)
            .get(&key(call))
            .map(|task| task.clone_ref(py));
        let Some(task) = task else {
            call.release();
            return Ok(());
        };
        task.call_method0(py, intern!(py, "cancel"))?;
        if call.holds_place() {
            Self::release_later(slf, call)?;
        }
        Ok(())
    }

    /// Frees the place of a call whose cancelled handler keeps its cancellation waiting, as one does that waits for a task
    /// that refuses to end.
    fn release_later(slf: &Bound<'_, Self>, call: &Arc<Call>) -> PyResult<()> {
        let py = slf.py();
        let asyncio_loop = lock(&slf.get().local)
            .asyncio_loop
            .as_ref()
            .map(|it| it.clone_ref(py));
        let Some(asyncio_loop) = asyncio_loop else {
            call.release();
            return Ok(());
        };
        let call = Arc::clone(call);
        let release = PyCFunction::new_closure(py, None, None, move |_, _| call.release())?;
        asyncio_loop
            .call_method1(
                py,
                intern!(py, "call_later"),
                (CANCELLATION_PATIENCE, release),
            )
            .map(drop)
    }

    pub(crate) fn run_callbacks(slf: &Bound<'_, Self>, context: &ServerCall) -> PyResult<()> {
        for callback in context.take_callbacks() {
            if let Err(raised) = run_in_fresh(slf.py(), || callback.call0(slf.py())) {
                Self::raised(slf, "done callback", raised)?;
            }
        }
        Ok(())
    }
}

/// Context variables of a call that has a deadline, with that; None for one that has none, and so needs none.
fn deadline_variables<'py>(
    slf: &Bound<'py, LoopCore>,
    call: &Call,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    static VARIABLE: pyo3::sync::PyOnceLock<Py<PyAny>> = pyo3::sync::PyOnceLock::new();
    let Some(remaining) = call.time_remaining() else {
        return Ok(None);
    };
    let py = slf.py();
    let variable = VARIABLE.get_or_try_init(py, || {
        let module = py.import("atoll.loop._deadline")?;
        PyResult::Ok(module.getattr("DEADLINE")?.unbind())
    })?;
    let now = LoopCore::now(slf)?;
    let deadline = PyFloat::new(py, now + remaining.as_secs_f64());
    let variables = fresh(py)?;
    run_in(&variables, || {
        // SAFETY: both objects are alive; the call returns a new reference or sets an exception.
        unsafe {
            Bound::from_owned_ptr_or_err(
                py,
                ffi::PyContextVar_Set(variable.as_ptr(), deadline.as_ptr()),
            )
        }
        .map(drop)
    })?;
    Ok(Some(variables))
}

/// Lets whoever awaits a future go on, unless it has been cancelled.
fn let_go_on(py: Python<'_>, future: &Py<PyAny>) -> PyResult<()> {
    if future
        .call_method0(py, intern!(py, "done"))?
        .is_truthy(py)?
    {
        return Ok(());
    }
    future
        .call_method1(py, intern!(py, "set_result"), (py.None(),))
        .map(drop)
}

pub(crate) fn undeserializable() -> Status {
    Status::new(Code::Internal, "Exception deserializing request!")
}

pub(crate) fn unserializable() -> Status {
    Status::new(Code::Internal, "Failed to serialize response!")
}

/// A request message without its compression; `None` when the call has been rejected for it.
pub(crate) fn decompressed(py: Python<'_>, call: &Call, message: Message) -> Option<Bytes> {
    if !message.is_compressed {
        return Some(message.bytes);
    }
    match py.detach(|| call.decompress(message)) {
        Ok(bytes) => Some(bytes),
        Err(status) => {
            call.reject(status);
            None
        }
    }
}

/// A request message as the handler gets it.
pub(crate) fn deserialize<'py>(
    py: Python<'py>,
    deserializer: Option<&Py<PyAny>>,
    message: Bytes,
) -> PyResult<Bound<'py, PyAny>> {
    let bytes = PyBytes::new(py, &message).into_any();
    // Memory that the handler may need.
    drop(message);
    deserialize_bytes(deserializer, bytes)
}

/// As [`deserialize`], from an object of Python's.
pub(crate) fn deserialize_bytes<'py>(
    deserializer: Option<&Py<PyAny>>,
    bytes: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = bytes.py();
    match deserializer {
        // SAFETY: both objects are alive, and the call returns a new reference or sets an exception.
        Some(deserializer) => unsafe {
            Bound::from_owned_ptr_or_err(
                py,
                ffi::PyObject_CallOneArg(deserializer.as_ptr(), bytes.as_ptr()),
            )
        },
        None => Ok(bytes),
    }
}

/// The reply to a handler's result: the status that it set, or the message that it returned.
fn reply(
    slf: &Bound<'_, LoopCore>,
    context: &ServerCall,
    result: &Bound<'_, PyAny>,
) -> PyResult<Reply> {
    if let Some(status) = context.status_set() {
        return Ok(Reply::error(status));
    }
    if context.response_streaming()? {
        return Ok(Reply::end());
    }
    let encoding = context.next_encoding()?;
    let (serializer, home) = (context.serializer()?, &slf.get().shared);
    serialize(slf.py(), serializer, result, encoding, home).map(Reply::ok)
}

/// A reply message as it is sent from the loop `home`.
pub(crate) fn serialize(
    py: Python<'_>,
    serializer: Option<&Py<PyAny>>,
    message: &Bound<'_, PyAny>,
    encoding: Encoding,
    home: &Arc<Shared>,
) -> PyResult<Framed> {
    let serialized = match serializer {
        // SAFETY: both objects are alive, and the call returns a new reference or sets an exception.
        Some(serializer) => unsafe {
            Bound::from_owned_ptr_or_err(
                py,
                ffi::PyObject_CallOneArg(serializer.as_ptr(), message.as_ptr()),
            )?
        },
        None => message.clone(),
    };
    let message = serialized
        .cast::<PyBytes>()
        .map_err(|_| error::reply_is_not_bytes(&serialized, serializer.is_some()))?;
    Ok(if encoding == Encoding::Identity {
        framed(message, home)
    } else {
        let bytes = message.as_bytes();
        py.detach(|| encoding.frame(bytes)).into()
    })
}

fn call_two<'py>(
    py: Python<'py>,
    handler: &Py<PyAny>,
    request: &Bound<'py, PyAny>,
    context: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let arguments = [request.as_ptr(), context.as_ptr()];
    // SAFETY: the array holds the two arguments, alive during the call, which returns a new reference or sets an exception.
    unsafe {
        let result = ffi::PyObject_Vectorcall(
            handler.as_ptr(),
            arguments.as_ptr(),
            2,
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// What the client is told of an exception, in grpcio's words.
fn unexpected(py: Python<'_>, raised: &PyErr) -> String {
    let class = raised.get_type(py);
    let class = class
        .repr()
        .map_or_else(|_| "exception".into(), |repr| repr.to_string());
    let text = raised
        .value(py)
        .str()
        .map_or_else(|_| String::new(), |text| text.to_string());
    format!("Unexpected {class}: {text}")
}
