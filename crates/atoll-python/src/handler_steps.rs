//! `HandlerSteps`: the coroutine that an `asyncio.Task` drives in place of a coroutine handler's own.
//!
//! It passes every step through, measures it, and delivers the outcome itself, so that a task needs no callback. An exception
//! of the handler ends here; only cancellation and the end of the process reach the task.
//!
//! | field | written by | read by |
//! |---|---|---|
//! | all | the loop's thread | the loop's thread; the garbage collector reads the references |

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use atoll_core::clock;
use atoll_core::mailbox::Lane;
use atoll_core::stats::SlotIndex;
use atoll_core::transport::{Code, Reply, Status};
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::{ffi, intern};

use crate::context::run_in_fresh;
use crate::current;
use crate::drain::{ends_the_process, settle};
use crate::loop_core::{LoopCore, lock};
use crate::server_call::ServerCall;

/// Who learns how a coroutine handler ended.
pub(crate) enum Completion {
    /// Nobody but the statistics and the exception hook.
    Post,
    /// The future of a `submit`.
    Future(Py<PyAny>),
    /// A gRPC call, which is answered.
    Call(Py<ServerCall>),
}

/// A step that is being taken, and what it interrupts.
struct Step {
    begin: u64,
    outer: (u32, u64),
    lane: u8,
    _entered: Option<current::Entered>,
}

/// Whose coroutine it is, and when its first step began.
#[derive(Clone, Copy)]
pub(crate) struct FirstStep {
    pub(crate) slot: SlotIndex,
    pub(crate) lane: Lane,
    pub(crate) start: u64,
}

/// Drives a handler's coroutine and measures its steps.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct HandlerSteps {
    core: Py<LoopCore>,
    coroutine: Py<PyAny>,
    slot: SlotIndex,
    lane: Lane,
    /// When the handler started.
    started_at: u64,
    /// When the step that runs first began; zero for later ones, which read the clock themselves.
    begin: AtomicU64,
    /// The sum of the steps so far.
    executed: AtomicU64,
    steps: AtomicU64,
    /// Whether the loop keeps the task, for a call that may be cancelled.
    remembered: AtomicBool,
    /// Taken when the handler ends.
    completion: Mutex<Option<Completion>>,
}

impl HandlerSteps {
    pub(crate) fn new(
        core: &Bound<'_, LoopCore>,
        coroutine: Bound<'_, PyAny>,
        FirstStep { slot, lane, start }: FirstStep,
        completion: Completion,
    ) -> Self {
        Self {
            core: core.clone().unbind(),
            coroutine: coroutine.unbind(),
            slot,
            lane,
            started_at: start,
            begin: AtomicU64::new(if core.get().eager { start } else { 0 }),
            executed: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            remembered: AtomicBool::new(false),
            completion: Mutex::new(Some(completion)),
        }
    }

    /// Gives the task to whoever may cancel it, unless the handler has ended already.
    pub(crate) fn task_started(&self, py: Python<'_>, task: Bound<'_, PyAny>) -> PyResult<()> {
        let future = match &*lock(&self.completion) {
            Some(Completion::Future(future)) => future.clone_ref(py),
            Some(Completion::Call(context)) => {
                self.remembered.store(true, Ordering::Relaxed);
                self.core.get().remember_task(context.get(), task.unbind());
                return Ok(());
            }
            _ => return Ok(()),
        };
        future.setattr(py, intern!(py, "_task"), task)
    }

    fn begin_step(&self, core: &Bound<'_, LoopCore>) -> Step {
        self.leave_unstarted();
        let begin = match self.begin.swap(0, Ordering::Relaxed) {
            0 => clock::now(),
            begin => begin,
        };
        let open = core.get().open_steps.load(Ordering::Relaxed);
        core.get().open_steps.store(open + 1, Ordering::Relaxed);
        let lane = core.get().lane.swap(self.lane as u8, Ordering::Relaxed);
        Step {
            begin,
            outer: core.get().shared.activity().step_began(self.slot, begin),
            lane,
            _entered: (!core.get().owner).then(|| current::enter(core)),
        }
    }

    /// From its first step on, or from its end before, it holds up nobody.
    fn leave_unstarted(&self) {
        let core = self.core.get();
        if !core.eager && self.steps.load(Ordering::Relaxed) == 0 {
            core.first_step();
        }
    }

    /// Adds the step, which leaves the loop as it found it.
    fn end_step(&self, core: &LoopCore, step: Step) {
        let open = core.open_steps.load(Ordering::Relaxed);
        core.open_steps.store(open - 1, Ordering::Relaxed);
        if core.has_riding.load(Ordering::Relaxed) {
            core.send_riding();
        }
        let end = clock::now();
        core.last_stamp.store(end, Ordering::Relaxed);
        core.lane.store(step.lane, Ordering::Relaxed);
        core.shared
            .activity()
            .step_ended(step.outer, step.begin, end);
        let executed = self.executed.load(Ordering::Relaxed) + end.saturating_sub(step.begin);
        self.executed.store(executed, Ordering::Relaxed);
        self.steps
            .store(self.steps.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The handler has ended: accounts for it and delivers the outcome. Gives back what must reach the task.
    fn finish(&self, py: Python<'_>, outcome: PyResult<Bound<'_, PyAny>>) -> PyResult<()> {
        let Some(completion) = lock(&self.completion).take() else {
            return Ok(());
        };
        let slf = self.core.bind(py);
        let core = slf.get();
        let slot = core.shared.tracker().slot(self.slot);
        if core.recording {
            slot.finished(self.executed.load(Ordering::Relaxed));
            if self.steps.load(Ordering::Relaxed) > 1 {
                let now = core.last_stamp.load(Ordering::Relaxed);
                slot.wall_time.record(now.saturating_sub(self.started_at));
            }
        }
        core.coroutine_ended();
        match outcome {
            Ok(result) => match completion {
                Completion::Post => Ok(()),
                Completion::Future(future) => settle(py, &future, Ok(result)),
                Completion::Call(context) => self.finish_call(py, &context, Ok(result)),
            },
            Err(raised) if is_cancelled(py, &raised)? => {
                match completion {
                    Completion::Post => {}
                    Completion::Future(future) => {
                        run_in_fresh(py, || {
                            future
                                .call_method0(py, intern!(py, "_set_cancelled"))
                                .map(drop)
                        })?;
                    }
                    Completion::Call(context) => {
                        let context = context.get();
                        core.forget_task(context);
                        core.forget_streaming(context);
                        context.send(Reply::error(Status::new(
                            Code::Cancelled,
                            "The handler was cancelled",
                        )));
                        LoopCore::run_callbacks(slf, context)?;
                        if let Some(call) = context.attached() {
                            call.release();
                        }
                    }
                }
                Err(raised)
            }
            Err(raised) => match completion {
                Completion::Post => LoopCore::handler_raised(slf, slot, None, raised),
                Completion::Future(future) => {
                    LoopCore::handler_raised(slf, slot, Some(future), raised)
                }
                Completion::Call(context) => self.finish_call(py, &context, Err(raised)),
            },
        }
    }

    /// A handler that has been thrown something runs on: if its call has been ended, the next one need not wait for it.
    fn has_been_told(&self) {
        if let Some(Completion::Call(context)) = &*lock(&self.completion) {
            let call = context.get().attached();
            if let Some(call) = call.filter(|call| call.cancelled_by().is_some()) {
                call.release();
            }
        }
    }

    fn finish_call(
        &self,
        py: Python<'_>,
        context: &Py<ServerCall>,
        outcome: PyResult<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let slf = self.core.bind(py);
        if self.remembered.load(Ordering::Relaxed) {
            slf.get().forget_task(context.get());
        }
        LoopCore::answer(slf, context.get(), outcome)
    }

    /// One step through `PyIter_Send`: what the handler yields, or None at its end.
    fn step(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        let core = self.core.bind(py);
        let step = self.begin_step(core);
        let mut result: *mut ffi::PyObject = std::ptr::null_mut();
        // SAFETY: both objects are alive and `result` has room for the new reference.
        let sent =
            unsafe { ffi::PyIter_Send(self.coroutine.as_ptr(), value.as_ptr(), &raw mut result) };
        self.end_step(core.get(), step);
        let outcome = match sent {
            ffi::PySendResult::PYGEN_NEXT => {
                // SAFETY: the call gave us a new reference.
                return Ok(Some(unsafe { Bound::from_owned_ptr(py, result) }.unbind()));
            }
            // SAFETY: the call gave us a new reference.
            ffi::PySendResult::PYGEN_RETURN => Ok(unsafe { Bound::from_owned_ptr(py, result) }),
            ffi::PySendResult::PYGEN_ERROR => Err(PyErr::fetch(py)),
        };
        let finished = self.finish(py, outcome);
        self.core.get().stamp();
        finished.map(|()| None)
    }
}

fn is_cancelled(py: Python<'_>, raised: &PyErr) -> PyResult<bool> {
    static CANCELLED: pyo3::sync::PyOnceLock<Py<PyAny>> = pyo3::sync::PyOnceLock::new();
    if ends_the_process(py, raised) {
        return Ok(false);
    }
    let cancelled = CANCELLED.get_or_try_init(py, || {
        PyResult::Ok(py.import("asyncio")?.getattr("CancelledError")?.unbind())
    })?;
    Ok(raised.is_instance(py, cancelled.bind(py)))
}

#[pymethods]
impl HandlerSteps {
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.step(py, py.None().bind(py))
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn send(&self, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.step(value.py(), value)?
            .ok_or_else(|| PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (*exception))]
    fn throw(
        &self,
        py: Python<'_>,
        exception: &Bound<'_, pyo3::types::PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        let core = self.core.bind(py);
        let step = self.begin_step(core);
        let outcome = self
            .coroutine
            .bind(py)
            .call_method1(intern!(py, "throw"), exception);
        self.end_step(core.get(), step);
        let outcome = match outcome {
            Ok(yielded) => {
                self.has_been_told();
                return Ok(yielded.unbind());
            }
            Err(raised) if raised.is_instance_of::<PyStopIteration>(py) => {
                raised.value(py).getattr(intern!(py, "value"))
            }
            outcome => outcome,
        };
        self.finish(py, outcome)?;
        Err(PyStopIteration::new_err(()))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let closed = self.coroutine.call_method0(py, intern!(py, "close"));
        let gone = PyRuntimeError::new_err("the handler's coroutine was closed before its end");
        let unfinished = lock(&self.completion).is_some();
        if unfinished {
            self.leave_unstarted();
            self.finish(py, Err(gone))?;
        }
        closed.map(drop)
    }

    #[getter]
    fn __name__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.coroutine.getattr(py, intern!(py, "__name__"))
    }

    #[getter]
    fn __qualname__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.coroutine.getattr(py, intern!(py, "__qualname__"))
    }

    #[getter]
    fn cr_frame(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.coroutine.getattr(py, intern!(py, "cr_frame"))
    }

    #[getter]
    fn cr_code(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.coroutine.getattr(py, intern!(py, "cr_code"))
    }

    #[getter]
    fn cr_running(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.coroutine.getattr(py, intern!(py, "cr_running"))
    }

    #[getter]
    fn cr_await(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.coroutine.getattr(py, intern!(py, "cr_await"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.coroutine)?;
        visit.call(&self.core)?;
        // Held by attached threads only, and never while Python code runs: so not while the garbage collector looks.
        match self.completion.try_lock().as_deref() {
            Ok(Some(Completion::Future(future))) => visit.call(future),
            Ok(Some(Completion::Call(context))) => visit.call(context),
            Ok(Some(Completion::Post) | None) | Err(_) => Ok(()),
        }
    }
}
