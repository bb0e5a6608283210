//! `ServerCall`: one call as its handler sees it. `atoll.rpc.ServicerContext` derives from it.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `call` | the loop, before the handler sees the object | any thread | – (set once) |
//! | `found` | the loop, before the handler that was found runs | any thread | – (set once) |
//! | `stream` | the loop, before the handler reads or writes | any thread | see `call_stream.rs` |
//! | `reply` | the handler, and whatever it hands the context to | the same, and the loop at the end | a mutex |

use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::{Duration, Instant};

use atoll_core::transport::{
    AuthContext, Call, CancelReason, Code, Encoding, Framed, Received, Reply, Sent, Status,
    TlsPeer, metadata,
};
use bytes::Bytes;
use http::HeaderMap;
use pyo3::exceptions::asyncio::CancelledError;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyString, PyTuple};

use crate::call::{
    decompressed, deserialize, deserialize_bytes, serialize, undeserializable, unserializable,
};
use crate::call_stream::CallStream;
use crate::connection::ConnectionCore;
use crate::loop_core::{LoopCore, lock};
use crate::method::{LoopDispatch, Method};
use crate::{error, moment};

/// A property of the client, with its values.
type Property<'py> = (&'static str, Vec<Bound<'py, PyBytes>>);

/// What the handler has said about the reply so far.
#[derive(Default)]
struct Answer {
    code: Option<Code>,
    details: String,
    trailing: Option<HeaderMap>,
    callbacks: Vec<Py<PyAny>>,
    done: bool,
    /// The next message is sent as it is.
    skips_compression: bool,
    /// Whether the handler has aborted the call.
    is_aborted: bool,
    /// What was raised at a message that could not be read or sent, and the status of a handler that does not catch it.
    failure: Option<(Py<PyAny>, Status)>,
}

/// One call as its handler sees it; see `atoll.rpc.ServicerContext`.
#[pyclass(subclass, frozen, weakref, module = "atoll._core")]
pub(crate) struct ServerCall {
    call: OnceLock<Arc<Call>>,
    answer: Mutex<Answer>,
    /// Where the method is not known before the call.
    found: OnceLock<Box<Found>>,
    stream: OnceLock<Box<CallStream>>,
}

/// What a handler that was found only when its call had come says of messages.
struct Found {
    deserializer: Option<Py<PyAny>>,
    serializer: Option<Py<PyAny>>,
    response_streaming: bool,
}

impl Found {
    fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.deserializer)?;
        visit.call(&self.serializer)
    }
}

impl ServerCall {
    /// Ties the object to its call, before anybody sees it.
    pub(crate) fn attach(&self, call: Arc<Call>) {
        let _ = self.call.set(call);
    }

    /// How the next message of the reply is compressed.
    pub(crate) fn next_encoding(&self) -> PyResult<Encoding> {
        let encoding = self.call()?.reply_encoding();
        if encoding == Encoding::Identity {
            return Ok(encoding);
        }
        let skipped = std::mem::take(&mut lock(&self.answer).skips_compression);
        Ok(if skipped {
            Encoding::Identity
        } else {
            encoding
        })
    }

    /// The handler of a streaming call waits on `home`, which hears of progress.
    pub(crate) fn live_on(slf: &Bound<'_, Self>, home: &Bound<'_, LoopCore>) {
        let set = slf.get().stream.set(Box::new(CallStream::on(home)));
        if set.is_ok() {
            home.get().remember_streaming(slf);
        }
    }

    pub(crate) fn is_streaming(&self) -> bool {
        self.stream.get().is_some()
    }

    /// Takes the futures of those who wait on `core` for messages or room.
    pub(crate) fn take_waiters(&self, core: &LoopCore) -> Vec<Py<PyAny>> {
        let stream = self.stream.get();
        stream.map_or_else(Vec::new, |stream| stream.take_waiters(core))
    }

    fn found(&self) -> Option<&Found> {
        self.found.get().map(|found| &**found)
    }

    fn deserializer(&self) -> PyResult<Option<&Py<PyAny>>> {
        match self.found() {
            Some(found) => Ok(found.deserializer.as_ref()),
            None => Ok(Method::of(self.call()?).deserializer.as_ref()),
        }
    }

    pub(crate) fn serializer(&self) -> PyResult<Option<&Py<PyAny>>> {
        match self.found() {
            Some(found) => Ok(found.serializer.as_ref()),
            None => Ok(Method::of(self.call()?).serializer.as_ref()),
        }
    }

    /// Whether the reply is what the handler writes, not what it returns.
    pub(crate) fn response_streaming(&self) -> PyResult<bool> {
        match self.found() {
            Some(found) => Ok(found.response_streaming),
            None => Ok(Method::of(self.call()?).response_streaming),
        }
    }

    /// What the handler gets for `received`: a message, None for nothing yet, False for the end.
    fn handed(slf: &Bound<'_, Self>, received: Received) -> PyResult<Py<PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        match received {
            Received::Nothing => Ok(py.None()),
            Received::End => Ok(PyBool::new(py, false).to_owned().into_any().unbind()),
            Received::Over => Err(Self::over(slf)?),
            Received::Message(message) => {
                let Some(message) = decompressed(py, this.call()?, message) else {
                    return Err(Self::over(slf)?);
                };
                let message = deserialize(py, this.deserializer()?, message);
                message
                    .map(Bound::unbind)
                    .map_err(|raised| this.failed(py, raised, undeserializable()))
            }
        }
    }

    /// Sends a reply message with `send`; whether there is room for another.
    fn send_message(
        slf: &Bound<'_, Self>,
        message: &Bound<'_, PyAny>,
        home: &LoopCore,
        send: impl FnOnce(&LoopCore, &Arc<Call>, Framed) -> Sent,
    ) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        let call = this.call()?;
        if call.is_answered() || !this.response_streaming()? {
            return Err(Self::over(slf)?);
        }
        let encoding = this.next_encoding()?;
        let framed = serialize(py, this.serializer()?, message, encoding, &home.shared)
            .map_err(|raised| this.failed(py, raised, unserializable()))?;
        if let Err(status) = call.check_size(&framed) {
            return Err(this.failed(py, error::message_too_large(&status.message), status));
        }
        match send(home, call, framed) {
            Sent::Room => Ok(true),
            Sent::Full => Ok(false),
            Sent::Over => Err(Self::over(slf)?),
        }
    }

    /// A message could not be read or sent: a handler that does not catch `raised` ends with `status`.
    fn failed(&self, py: Python<'_>, raised: PyErr, status: Status) -> PyErr {
        let mut answer = lock(&self.answer);
        let before = if answer.done {
            None
        } else {
            let value = raised.value(py).clone().into_any().unbind();
            answer.failure.replace((value, status))
        };
        drop(answer);
        drop(before);
        raised
    }

    /// The status of a handler that has raised `raised`, where that comes from a message that could not be read or sent.
    pub(crate) fn status_of(&self, py: Python<'_>, raised: &PyErr) -> Option<Status> {
        let answer = lock(&self.answer);
        let (value, status) = answer.failure.as_ref()?;
        raised.value(py).is(value).then(|| status.clone())
    }

    /// Why nothing can be received or sent.
    fn over(slf: &Bound<'_, Self>) -> PyResult<PyErr> {
        let this = slf.get();
        let call = this.call()?;
        Ok(match call.cancelled_by() {
            Some(_) => CancelledError::new_err("the call has been cancelled"),
            None if lock(&this.answer).is_aborted => error::call_aborted(slf),
            None if call.is_answered() => error::call_answered(slf),
            None => error::one_reply(slf),
        })
    }

    fn call(&self) -> PyResult<&Arc<Call>> {
        self.call.get().ok_or_else(|| {
            PyRuntimeError::new_err(
                "a ServicerContext is made by the server for a call, not by hand",
            )
        })
    }

    /// `instant` on the clock of the call's loop, in seconds.
    fn seconds(&self, py: Python<'_>, instant: Instant) -> PyResult<f64> {
        moment::seconds(py, instant, Method::of(self.call()?).timers.as_deref())
    }

    fn auth(&self) -> PyResult<&AuthContext> {
        static INSECURE: LazyLock<AuthContext> = LazyLock::new(AuthContext::insecure);
        Ok(self.call()?.tls().map_or(&*INSECURE, TlsPeer::auth_context))
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
        let failure = answer.failure.take();
        let callbacks = std::mem::take(&mut answer.callbacks);
        drop(answer);
        drop(failure);
        callbacks
    }
}

fn all_bytes<'py>(py: Python<'py>, values: &[Vec<u8>]) -> Vec<Bound<'py, PyBytes>> {
    values.iter().map(|value| PyBytes::new(py, value)).collect()
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
            found: OnceLock::new(),
            stream: OnceLock::new(),
        }
    }

    #[getter]
    fn _path(&self) -> PyResult<&str> {
        Ok(self.call()?.path())
    }

    /// Which connection of the server the call came on, counted from 0.
    #[getter]
    fn _connection_number(&self) -> PyResult<u64> {
        Ok(self.call()?.connection_number())
    }

    fn peer(&self) -> PyResult<&str> {
        Ok(self.call()?.peer())
    }

    fn _connection(&self) -> PyResult<ConnectionCore> {
        let call = self.call()?;
        let timers = Method::of(call).timers.clone();
        Ok(ConnectionCore::new(call.connection(), timers))
    }

    /// When the network thread had the call, before it waited for anything; in seconds of its loop.
    #[getter]
    fn arrival_time(&self, py: Python<'_>) -> PyResult<f64> {
        self.seconds(py, self.call()?.arrived())
    }

    /// When the network thread had the request message that was read last; None before the first one.
    #[getter]
    fn message_arrival_time(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        let arrived = self.call()?.message_arrived();
        arrived.map(|at| self.seconds(py, at)).transpose()
    }

    /// The client's properties, each with its values.
    fn _auth_context<'py>(&self, py: Python<'py>) -> PyResult<Vec<Property<'py>>> {
        let properties = self.auth()?.properties().iter();
        Ok(properties
            .map(|(name, values)| (*name, all_bytes(py, values)))
            .collect())
    }

    fn peer_identity_key(&self) -> PyResult<Option<&'static str>> {
        Ok(self.auth()?.identity_key())
    }

    fn peer_identities<'py>(&self, py: Python<'py>) -> PyResult<Option<Vec<Bound<'py, PyBytes>>>> {
        let context = self.auth()?;
        let key = context.identity_key();
        Ok(key.map(|key| all_bytes(py, context.values(key))))
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
            CancelReason::BadRequest => "bad request",
            CancelReason::SlowClient => "slow client",
            CancelReason::SlowBody => "slow body",
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
            answer.is_aborted = true;
        }
        Ok(self.send(Reply::error(Status::new(code, details))))
    }

    /// Has replies compressed; false when the headers have been sent, which say how.
    fn _compress(&self, number: u8) -> PyResult<bool> {
        let encoding = error::encoding(number)?;
        Ok(self.call()?.compress(encoding))
    }

    fn disable_next_message_compression(&self) {
        lock(&self.answer).skips_compression = true;
    }

    /// The next request message; None when none has come yet or others are to have their turn, False after the last one. On
    /// the call's loop.
    fn _receive(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let call = slf.get().call()?;
        if let Some(stream) = slf.get().stream.get() {
            let home = stream.here(slf.py())?;
            if home.turn_is_over() {
                home.pause();
                return Ok(slf.py().None());
            }
        }
        Self::handed(slf, call.receive())
    }

    /// Blocks the thread for the next request message; False after the last one. Not on the call's loop.
    fn _receive_blocking(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let call = slf.get().call()?;
        let received = slf.py().detach(|| call.receive_blocking());
        Self::handed(slf, received)
    }

    /// Sends a reply message; whether the handler may go on, or has to wait for room or its turn. On the call's loop.
    fn _send(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(stream) = slf.get().stream.get() else {
            return Err(Self::over(slf)?);
        };
        let home = stream.here(slf.py())?;
        let room = Self::send_message(slf, message, home.core(), LoopCore::send_in_step)?;
        Ok(room && !home.turn_is_over())
    }

    /// Sends a reply message and blocks the thread until there is room for another. Not on the call's loop.
    fn _send_blocking(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(stream) = slf.get().stream.get() else {
            return Err(Self::over(slf)?);
        };
        let send = |_: &LoopCore, call: &Arc<Call>, framed| call.send_message(framed);
        if Self::send_message(slf, message, stream.last_core(), send)? {
            return Ok(());
        }
        let call = slf.get().call()?;
        match slf.py().detach(|| call.room_blocking()) {
            Sent::Over => Err(Self::over(slf)?),
            Sent::Room | Sent::Full => Ok(()),
        }
    }

    /// Whether there is room for a reply message.
    fn _has_room(slf: &Bound<'_, Self>) -> PyResult<bool> {
        match slf.get().call()?.room() {
            Sent::Room => Ok(true),
            Sent::Full => Ok(false),
            Sent::Over => Err(Self::over(slf)?),
        }
    }

    /// Has `future` get its result when a message may have come, or room; false where there is nothing to wait for but one's
    /// turn. On the call's loop.
    fn _wait(slf: &Bound<'_, Self>, future: Py<PyAny>) -> PyResult<bool> {
        let Some(stream) = slf.get().stream.get() else {
            return Err(Self::over(slf)?);
        };
        Ok(stream.here(slf.py())?.wait(slf.py(), future))
    }

    /// The method of the call is what was found for it, not what the transport knew. Returns what its handler gets of `request`,
    /// the bytes of a request that was read before: the message, or None where the handler reads it. On the call's loop.
    #[pyo3(signature = (io_context, deserializer, serializer, streams, request))]
    fn _found(
        slf: &Bound<'_, Self>,
        io_context: &Bound<'_, LoopCore>,
        deserializer: Option<Py<PyAny>>,
        serializer: Option<Py<PyAny>>,
        streams: (bool, bool),
        request: Option<&Bound<'_, PyBytes>>,
    ) -> PyResult<Py<PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let (request_streaming, response_streaming) = streams;
        let _ = this.found.set(Box::new(Found {
            deserializer,
            serializer,
            response_streaming,
        }));
        let Some(request) = request else {
            Self::live_on(slf, io_context);
            return Ok(py.None());
        };
        if request_streaming || response_streaming {
            Self::live_on(slf, io_context);
        }
        if request_streaming {
            let bytes = Bytes::copy_from_slice(request.as_bytes());
            this.call()?.put_back(bytes);
            return Ok(py.None());
        }
        let message = deserialize_bytes(this.deserializer()?, request.as_any().clone());
        message
            .map(Bound::unbind)
            .map_err(|raised| this.failed(py, raised, undeserializable()))
    }

    /// The handler runs on `io_context`, which is the caller's loop and not that of the call's path; `alone` unless messages are
    /// read and written there, too.
    fn _arrive(
        slf: &Bound<'_, Self>,
        io_context: &Bound<'_, LoopCore>,
        alone: bool,
    ) -> PyResult<()> {
        let Some(stream) = slf.get().stream.get() else {
            return Ok(());
        };
        stream.arrive(io_context, alone)?;
        io_context.get().remember_streaming(slf);
        let shared = Arc::clone(&io_context.get().shared);
        let call = slf.get().call()?;
        call.tell_also(Arc::new(LoopDispatch(shared)), alone);
        Ok(())
    }

    /// What arrived on `io_context` has ended there.
    fn _depart(&self, io_context: &Bound<'_, LoopCore>) {
        io_context.get().forget_streaming(self);
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
        if let Some(found) = self.found.get() {
            found.traverse(visit)?;
        }
        if let Some(stream) = self.stream.get() {
            stream.traverse(visit)?;
        }
        // Held by attached threads only, and never while Python code runs: so not while the garbage collector looks.
        match self.answer.try_lock() {
            Ok(answer) => {
                if let Some((raised, _)) = &answer.failure {
                    visit.call(raised)?;
                }
                answer.callbacks.iter().try_for_each(|it| visit.call(it))
            }
            Err(_) => Ok(()),
        }
    }

    fn __clear__(&self) {
        let mut answer = lock(&self.answer);
        let callbacks = std::mem::take(&mut answer.callbacks);
        let failure = answer.failure.take();
        drop(answer);
        let waiters = self.stream.get().map(|stream| stream.take_all_waiters());
        drop((callbacks, failure, waiters));
    }
}
