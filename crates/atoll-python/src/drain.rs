//! Running what is in the mailbox, on the thread of the asyncio loop.
//!
//! Guarantees: handlers of one poster and lane start in the order posted; none runs while another does; after each budget's
//! worth of time asyncio's own timers and tasks get their turn; a handler that raises is counted, named and handed to the
//! exception hook, and the next one runs. Only `KeyboardInterrupt` and `SystemExit` leave the loop, and lose nothing.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atoll_core::clock;
use atoll_core::mailbox::{Lane, first_queued_at};
use atoll_core::stats::{HandlerSlot, SlotIndex};
use atoll_core::wake::Wake;
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{ffi, intern};

use crate::context::{run_in, run_in_fresh};
use crate::current;
use crate::handler_steps::{Completion, FirstStep, HandlerSteps};
use crate::item::{Item, Job};
use crate::loop_core::{LoopCore, lock, thread_number};

/// Keeps what a drain did not run, however the drain ends.
struct Batch<'a> {
    core: &'a LoopCore,
    items: VecDeque<Item>,
    /// Whether the drain has emptied the mailbox and gone to sleep.
    asleep: bool,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let (core, now) = (self.core, clock::now());
        let activity = core.shared.activity();
        if self.asleep || (self.items.is_empty() && core.shared.mailbox.is_empty()) {
            activity.next_is(0);
        } else {
            activity.left_behind(now, first_queued_at(&self.items));
        }
        activity.drain_ended(now);
        core.lane.store(Lane::Normal as u8, Ordering::Relaxed);
        core.draining.store(false, Ordering::Relaxed);
        let empty = std::mem::replace(
            &mut lock(&self.core.local).batch,
            std::mem::take(&mut self.items),
        );
        debug_assert!(empty.is_empty(), "a drain ran inside a drain");
    }
}

impl LoopCore {
    /// Runs queued handlers for at most the budget. The loop's thread.
    pub(crate) fn drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        let drained = Self::drain_within_budget(slf);
        if let Err(raised) = &drained {
            let core = slf.get();
            if core.owner && ends_the_process(slf.py(), raised) {
                // It ends the run; uvloop finishes its round before that. asyncio goes on after any other.
                core.stop_requested.store(true, Ordering::Relaxed);
            }
            // It neither emptied the mailbox nor armed it: a guest's loop that runs on, or again, must come back.
            core.shared.poke();
        }
        drained
    }

    #[allow(clippy::too_many_lines)] // one decision after the other, in the order that matters
    fn drain_within_budget(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        if core.stop_requested.load(Ordering::Relaxed) {
            // The run has ended, and the next one begins with a drain.
            return Ok(());
        }
        if core.draining.swap(true, Ordering::Relaxed) {
            // A handler runs the asyncio loop recursively; what is queued waits for the outer drain.
            return Ok(());
        }
        let mailbox = &core.shared.mailbox;
        mailbox.waker().clear();
        core.shared.drop_leftovers();
        let (items, asyncio_loop) = {
            let mut local = lock(&core.local);
            let asyncio_loop = local
                .asyncio_loop
                .as_ref()
                .map(|asyncio_loop| asyncio_loop.clone_ref(py));
            (std::mem::take(&mut local.batch), asyncio_loop)
        };
        let mut batch = Batch {
            core,
            items,
            asleep: false,
        };
        if !core.owner && core.shared.activity().rests() {
            // Its host runs again, maybe on another thread.
            core.shared.activity().runs_on(thread_number());
        }
        let Some(asyncio_loop) = asyncio_loop else {
            return Ok(());
        };
        let asyncio_loop = asyncio_loop.bind(py);
        let _entered = (!core.owner).then(|| current::enter(slf));
        let activity = core.shared.activity();
        let now = clock::now();
        activity.drain_began(now);
        let end = now.saturating_add(core.budget);
        core.last_stamp.store(now, Ordering::Relaxed);
        if core.shared.is_injecting() {
            Self::announce_delays(slf)?;
        }
        if !batch.items.is_empty() {
            mailbox.take_urgent(&mut batch.items, |item| item.lane() == Lane::Control);
        }
        loop {
            if core.closed.load(Ordering::Relaxed) {
                // A handler of a guest has closed it, or this drain was asked for before the end.
                drop(batch);
                slf.call_method0(intern!(py, "_discard_queued"))?;
                return Ok(());
            }
            if core.owner && core.run_ends() {
                if core.has_unstarted() && !core.shared.stopped.load(Ordering::Acquire) {
                    return Self::drain_later(slf, asyncio_loop);
                }
                return core.request_stop(asyncio_loop);
            }
            let Some(item) = batch.items.pop_front() else {
                if mailbox.take(&mut batch.items) {
                    continue;
                }
                if core.owner && core.out_of_work() {
                    core.shared.stopped.store(true, Ordering::Release);
                    continue;
                }
                if Self::rest(slf, asyncio_loop)? {
                    batch.asleep = true;
                    if core.until_empty.load(Ordering::Relaxed) {
                        if core.has_unstarted() {
                            return Self::drain_later(slf, asyncio_loop);
                        }
                        core.request_stop(asyncio_loop)?;
                    }
                    return Ok(());
                }
                continue;
            };
            if core.has_unstarted() {
                // What was posted after it must wait, too, whoever starts the next drain.
                batch.items.push_front(item);
                return Self::drain_later(slf, asyncio_loop);
            }
            if !matches!(item, Item::Probe { .. } | Item::Internal(_)) {
                core.has_run.store(true, Ordering::Relaxed);
            }
            mailbox.started(item.lane(), &item);
            if core.recording {
                // Otherwise nobody knows when it was queued, and finding that out costs more than recording.
                activity.next_is(first_queued_at(&batch.items));
            }
            match item {
                Item::Job(job) => Self::run_job(slf, asyncio_loop, job)?,
                Item::Call { call, queued_at } => {
                    Self::run_call(slf, asyncio_loop, call, queued_at)?;
                }
                Item::Cancel(call) => {
                    activity.no_handler();
                    Self::cancel_call(slf, &call)?;
                    core.stamp();
                }
                Item::Progress(call) => {
                    activity.no_handler();
                    Self::call_progressed(slf, &call)?;
                    core.stamp();
                }
                Item::Completions(completions) => {
                    activity.no_handler();
                    Self::commits_completed(py, &completions)?;
                    core.stamp();
                }
                Item::Notice { notice, queued_at } => {
                    if let Some(job) = core.notice_job(py, &notice, queued_at)? {
                        Self::run_job(slf, asyncio_loop, job)?;
                    }
                }
                Item::Probe { probe, queued_at } => {
                    activity.no_handler();
                    core.stamp();
                    let now = core.last_stamp.load(Ordering::Relaxed);
                    probe.turn(now.saturating_sub(queued_at));
                }
                Item::Internal(callable) => {
                    activity.no_handler();
                    if let Err(raised) = callable.call0(py) {
                        Self::raised(slf, "internal", raised)?;
                    }
                    core.stamp();
                }
            }
            if core.last_stamp.load(Ordering::Relaxed) > end {
                mailbox.waker().wake();
                return Ok(());
            }
        }
    }

    /// Whether a coroutine has not taken its first step: before 3.12 that waits for asyncio's next round.
    fn has_unstarted(&self) -> bool {
        self.unstarted.load(Ordering::Relaxed) > 0
    }

    /// Has asyncio drain the mailbox in its next round, after the coroutines that have not started.
    fn drain_later(slf: &Bound<'_, Self>, asyncio_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let drain = slf.getattr(intern!(slf.py(), "_drain"))?;
        asyncio_loop
            .call_method1(intern!(slf.py(), "call_soon"), (drain,))
            .map(drop)
    }

    /// Goes to sleep unless there is something to take: the next post wakes the loop. Where that is not wanted so soon after the
    /// loop has run something, it dozes. Returns whether it rests.
    fn rest(slf: &Bound<'_, Self>, asyncio_loop: &Bound<'_, PyAny>) -> PyResult<bool> {
        let core = slf.get();
        let mailbox = &core.shared.mailbox;
        if core.wake_interval == 0.0 || core.until_empty.load(Ordering::Relaxed) {
            return Ok(mailbox.arm());
        }
        let comes_back = core.comes_back.load(Ordering::Relaxed);
        if !comes_back && !core.has_run.load(Ordering::Relaxed) {
            return Ok(mailbox.arm());
        }
        if !comes_back {
            let interval = Duration::try_from_secs_f64(core.wake_interval).unwrap_or_default();
            let until = clock::now().saturating_add(clock::ticks(interval));
            core.shared.activity().dozes_until(until);
        }
        if !mailbox.doze() {
            return Ok(false);
        }
        core.has_run.store(false, Ordering::Relaxed);
        if !comes_back {
            let come_back = slf.getattr(intern!(slf.py(), "_come_back"))?;
            let run = core.run.load(Ordering::Relaxed);
            let arguments = (core.wake_interval, come_back, run);
            asyncio_loop.call_method1(intern!(slf.py(), "call_later"), arguments)?;
            core.comes_back.store(true, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Says which handlers are delayed on purpose, each once.
    #[cold]
    fn announce_delays(slf: &Bound<'_, Self>) -> PyResult<()> {
        for (name, min, max) in slf.get().shared.unannounced() {
            let arguments = (name, min.as_secs_f64(), max.as_secs_f64());
            slf.call_method1(intern!(slf.py(), "_handler_delayed"), arguments)?;
        }
        Ok(())
    }

    /// Runs a dispatched handler inside the one that is running.
    pub(crate) fn run_inline(slf: &Bound<'_, Self>, job: Job) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let asyncio_loop = lock(&core.local)
            .asyncio_loop
            .as_ref()
            .map(|it| it.clone_ref(py));
        let Some(asyncio_loop) = asyncio_loop else {
            return Ok(());
        };
        core.shared
            .mailbox
            .count(|record| record.events.slot(job.slot).accepted());
        core.stamp();
        let now = core.last_stamp.load(Ordering::Relaxed);
        let lane = core.lane.load(Ordering::Relaxed);
        let outer = core.shared.activity().step_began(job.slot, now);
        let executed = core.executed.load(Ordering::Relaxed);
        let ran = Self::run_job(slf, asyncio_loop.bind(py), job);
        // A part of the handler that runs, as far as runs count.
        core.executed.store(executed, Ordering::Relaxed);
        let ended = core.last_stamp.load(Ordering::Relaxed);
        core.shared.activity().step_ended(outer, now, ended);
        core.lane.store(lane, Ordering::Relaxed);
        ran
    }

    /// Whether the run is over: stopped, or all handlers that it was to run have been run. The loop's thread.
    fn run_ends(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
            || self.executed.load(Ordering::Relaxed) >= self.stop_after.load(Ordering::Relaxed)
    }

    /// Runs one handler, a coroutine up to its first await.
    #[inline]
    fn run_job(slf: &Bound<'_, Self>, asyncio_loop: &Bound<'_, PyAny>, job: Job) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let slot = core.shared.tracker().slot(job.slot);
        // Bound to the thread's attachment, so that dropping them at the end need not look whether there is one.
        let (handler, args) = (job.handler.into_bound(py), job.args.into_bound(py));
        let context = job.context.into_bound(py);
        if let Some(future) = &job.future {
            let wanted = future.call_method0(py, intern!(py, "set_running_or_notify_cancel"))?;
            if !wanted.is_truthy(py)? {
                slot.dropped();
                core.stamp();
                return Ok(());
            }
        }
        let start = core.last_stamp.load(Ordering::Relaxed);
        core.begin(job.slot, job.lane, start);
        if core.recording {
            slot.started(start.saturating_sub(job.queued_at));
        }
        core.executed
            .store(core.executed.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let result = match call_in_context(&context, &handler, &args) {
            Ok(result) => result,
            Err(raised) => {
                core.handler_ended(slot, start);
                return Self::handler_raised(slf, slot, job.future, raised);
            }
        };
        // SAFETY: the object is alive.
        if unsafe { ffi::PyCoro_CheckExact(result.as_ptr()) } == 0 {
            core.handler_ended(slot, start);
            if let Some(future) = job.future {
                let settled = settle(py, &future, Ok(result));
                core.stamp();
                return settled;
            }
            return Ok(());
        }
        let completion = job.future.map_or(Completion::Post, Completion::Future);
        let step = FirstStep {
            slot: job.slot,
            lane: job.lane,
            start,
        };
        Self::start_coroutine(slf, asyncio_loop, result, Some(&context), step, completion)
    }

    /// A handler takes its first step.
    #[inline]
    pub(crate) fn begin(&self, slot: SlotIndex, lane: Lane, start: u64) {
        self.lane.store(lane as u8, Ordering::Relaxed);
        self.shared.activity().handler_began(slot, start);
    }

    /// Stamps the end of a handler that has run to its end; the budget counts whether or not statistics are kept.
    #[inline]
    pub(crate) fn handler_ended(&self, slot: &HandlerSlot, start: u64) {
        let end = clock::now();
        if self.recording {
            slot.finished(end.saturating_sub(start));
        }
        self.last_stamp.store(end, Ordering::Relaxed);
    }

    /// Stamps the end of what is no handler's own time, such as a future's callbacks: the next handler is not charged for it,
    /// and the budget is.
    #[inline]
    pub(crate) fn stamp(&self) {
        self.last_stamp.store(clock::now(), Ordering::Relaxed);
    }

    /// Makes a task of a coroutine handler; its first step runs at once where Python can do that.
    pub(crate) fn start_coroutine(
        slf: &Bound<'_, Self>,
        asyncio_loop: &Bound<'_, PyAny>,
        coroutine: Bound<'_, PyAny>,
        context: Option<&Bound<'_, PyAny>>,
        step: FirstStep,
        completion: Completion,
    ) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let steps = Bound::new(py, HandlerSteps::new(slf, coroutine, step, completion))?;
        core.running
            .store(core.running.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        if !core.eager {
            core.unstarted.store(
                core.unstarted.load(Ordering::Relaxed) + 1,
                Ordering::Relaxed,
            );
        }
        let task = new_task(py, core, asyncio_loop, &steps, context)?;
        steps.get().task_started(py, task)
    }

    /// Accounts for an exception that ended a handler and passes it to whoever waits, or to the exception hook.
    pub(crate) fn handler_raised(
        slf: &Bound<'_, Self>,
        slot: &HandlerSlot,
        future: Option<Py<PyAny>>,
        raised: PyErr,
    ) -> PyResult<()> {
        let py = slf.py();
        slot.failed();
        if ends_the_process(py, &raised) {
            if let Some(future) = future {
                settle(py, &future, Err(raised.clone_ref(py)))?;
            }
            return Err(raised);
        }
        let delivered = match future {
            Some(future) => settle(py, &future, Err(raised)),
            None => Self::raised(slf, &slot.name, raised),
        };
        slf.get().stamp();
        delivered
    }

    /// Hands an exception to the hook.
    pub(crate) fn raised(slf: &Bound<'_, Self>, name: &str, raised: PyErr) -> PyResult<()> {
        let py = slf.py();
        if ends_the_process(py, &raised) {
            return Err(raised);
        }
        run_in_fresh(py, || {
            slf.call_method1(intern!(py, "_handler_raised"), (name, raised))
                .map(drop)
        })
    }
}

pub(crate) fn ends_the_process(py: Python<'_>, raised: &PyErr) -> bool {
    raised.is_instance_of::<PyKeyboardInterrupt>(py) || raised.is_instance_of::<PySystemExit>(py)
}

/// Calls the handler with its own context entered.
#[inline]
fn call_in_context<'py>(
    context: &Bound<'py, PyAny>,
    handler: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    run_in(context, || {
        // SAFETY: handler and arguments are alive, and the call returns a new reference or sets an exception.
        unsafe {
            let result = if args.is_empty() {
                ffi::PyObject_CallNoArgs(handler.as_ptr())
            } else {
                ffi::PyObject_Call(handler.as_ptr(), args.as_ptr(), std::ptr::null_mut())
            };
            Bound::from_owned_ptr_or_err(context.py(), result)
        }
    })
}

/// Tells a future how its handler ended; what waits for it runs without the handler's context.
pub(crate) fn settle(
    py: Python<'_>,
    future: &Py<PyAny>,
    outcome: PyResult<Bound<'_, PyAny>>,
) -> PyResult<()> {
    run_in_fresh(py, || {
        match outcome {
            Ok(result) => future.call_method1(py, intern!(py, "set_result"), (result,)),
            Err(raised) => future.call_method1(py, intern!(py, "set_exception"), (raised,)),
        }
        .map(drop)
    })
}

/// `asyncio.Task(steps, loop=…, context=…, eager_start=True)`.
fn new_task<'py>(
    py: Python<'py>,
    core: &LoopCore,
    asyncio_loop: &Bound<'py, PyAny>,
    steps: &Bound<'py, HandlerSteps>,
    context: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let none = py.None();
    let context = context.unwrap_or(none.bind(py));
    let yes = pyo3::types::PyBool::new(py, true);
    let arguments = [
        steps.as_ptr(),
        asyncio_loop.as_ptr(),
        context.as_ptr(),
        yes.as_ptr(),
    ];
    let names = if core.eager {
        intern_names(py, &TASK_ARGUMENTS, ("loop", "context", "eager_start"))
    } else {
        intern_names(py, &LAZY_TASK_ARGUMENTS, ("loop", "context"))
    };
    // SAFETY: the array holds one positional argument and one value per name, all alive during the call.
    unsafe {
        Bound::from_owned_ptr_or_err(
            py,
            ffi::PyObject_Vectorcall(
                core.task_type.as_ptr(),
                arguments.as_ptr(),
                1,
                names.as_ptr(),
            ),
        )
    }
}

static TASK_ARGUMENTS: pyo3::sync::PyOnceLock<Py<pyo3::types::PyTuple>> =
    pyo3::sync::PyOnceLock::new();
static LAZY_TASK_ARGUMENTS: pyo3::sync::PyOnceLock<Py<pyo3::types::PyTuple>> =
    pyo3::sync::PyOnceLock::new();

fn intern_names<
    'a,
    'py: 'a,
    N: IntoPyObject<'py, Target = pyo3::types::PyTuple, Output = Bound<'py, pyo3::types::PyTuple>>,
>(
    py: Python<'py>,
    cell: &'a pyo3::sync::PyOnceLock<Py<pyo3::types::PyTuple>>,
    names: N,
) -> &'a Py<pyo3::types::PyTuple>
where
    N::Error: std::fmt::Debug,
{
    cell.get_or_init(py, || {
        let names = names.into_pyobject(py).expect("a tuple of names");
        let interned = names.iter().map(|name| {
            let name = name.cast_into::<pyo3::types::PyString>().expect("a name");
            pyo3::types::PyString::intern(py, name.to_str().expect("ASCII"))
        });
        pyo3::types::PyTuple::new(py, interned.collect::<Vec<_>>())
            .expect("a tuple of names")
            .unbind()
    })
}
