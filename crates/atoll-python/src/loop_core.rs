//! `LoopCore`: the mailbox of one loop, and what feeds and drains it. `atoll.IoContext` derives from it.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | mailbox, slots | any thread | any thread | see `atoll_core` |
//! | `guards`, `delayed` counts | any thread | the loop's thread | atomics |
//! | `running` (coroutine handlers) | the loop's thread | the loop's thread | an atomic |
//! | `local` | the loop's thread | the loop's thread | a mutex that nobody else takes while it runs |
//! | `delayed` items | posters, timer thread | the same | a mutex |

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use atoll_core::clock;
use atoll_core::mailbox::{Lane, Mailbox, PushError};
use atoll_core::stats::{EventTracker, SlotIndex};
use atoll_core::timer;
use atoll_core::transport::{Code, Status};
use atoll_core::wake::{Wake, WakeFd};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::bound_handler::BoundHandler;
use crate::context::{checked, copy_current};
use crate::error;
use crate::item::{Item, Job};
use crate::method::Method;
use crate::snapshot::{self, HandlerTuple};
use crate::work_guard::WorkGuard;

/// Locks `mutex`; every critical section here leaves its data consistent at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The settings of a loop: `atoll.loop.LoopOptions`.
#[derive(FromPyObject)]
pub(crate) struct LoopOptions {
    max_queued: usize,
    max_handler_names: usize,
    drain_budget: f64,
    max_dispatch_depth: usize,
    recording: bool,
}

/// Handlers that wait for their time, by number.
#[derive(Default)]
struct Delayed {
    items: HashMap<u64, (Lane, Job)>,
    closed: bool,
}

/// What threads without the GIL may hold of a loop.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) mailbox: Mailbox<Item, WakeFd>,
    pub(crate) guards: AtomicUsize,
    delayed: Mutex<Delayed>,
    delayed_count: AtomicUsize,
    next_delayed: AtomicU64,
    pub(crate) stopped: AtomicBool,
}

impl Shared {
    /// Has the loop look again whether it is stopped or out of work.
    pub(crate) fn poke(&self) {
        self.mailbox.waker().wake();
    }

    pub(crate) fn tracker(&self) -> &EventTracker {
        self.mailbox.tracker()
    }

    /// Moves a delayed handler to the mailbox. The timer thread.
    fn deliver(&self, id: u64) {
        // Locked until it is in the mailbox, so that `close` finds it either here or there.
        let mut delayed = lock(&self.delayed);
        let Some((lane, mut job)) = delayed.items.remove(&id) else {
            return;
        };
        job.queued_at = clock::now();
        // At once, so that the loop never sees neither, and never goes to sleep for having seen both.
        let _ = self.mailbox.push_moved(lane, Item::Job(job), || {
            self.delayed_count.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

/// What only the loop's thread touches.
#[derive(Default)]
pub(crate) struct Local {
    /// Taken from the mailbox and not yet run: what a stop, an exception or the time budget left over.
    pub(crate) batch: VecDeque<Item>,
    /// The asyncio loop that drains the mailbox.
    pub(crate) asyncio_loop: Option<Py<PyAny>>,
}

/// The native half of a loop; see `atoll.IoContext`.
#[pyclass(subclass, frozen, weakref, module = "atoll._core")]
pub(crate) struct LoopCore {
    pub(crate) shared: Arc<Shared>,
    pub(crate) local: Mutex<Local>,
    /// Coroutine handlers between their first step and their end.
    pub(crate) running: AtomicUsize,
    /// Those of them whose first step waits for asyncio's next round, as it does before Python 3.12.
    pub(crate) unstarted: AtomicUsize,
    pub(crate) draining: AtomicBool,
    /// The asyncio loop has been asked to stop: once per run, for uvloop keeps a second request for its next run.
    pub(crate) stop_requested: AtomicBool,
    /// Nothing runs any more, whatever a drain has taken out of the mailbox.
    pub(crate) closed: AtomicBool,
    /// The tasks of calls that outlive their first step, by call; the loop's thread only.
    pub(crate) tasks: Mutex<HashMap<usize, Py<PyAny>>>,
    /// The last stamp taken on the loop's thread, so that one read of the clock serves an end and the next start.
    pub(crate) last_stamp: AtomicU64,
    /// How many handlers have been run.
    pub(crate) executed: AtomicU64,
    pub(crate) budget: u64,
    pub(crate) recording: bool,
    pub(crate) eager: bool,
    /// False for a guest, whose loop somebody else starts and stops.
    pub(crate) owner: bool,
    pub(crate) task_type: Py<PyAny>,
    dispatch_depth: AtomicUsize,
    max_dispatch_depth: usize,
    /// Name to slot index, for names seen before.
    slots: Py<PyDict>,
}

impl LoopCore {
    /// A handler ready to be queued, with the poster's context unless another is given.
    #[inline]
    pub(crate) fn job(
        &self,
        py: Python<'_>,
        handler: Py<PyAny>,
        args: &Bound<'_, PyTuple>,
        slot: SlotIndex,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Job> {
        let context = match context {
            Some(context) => checked(context)?,
            None => copy_current(py)?,
        };
        Ok(Job {
            handler,
            args: args.clone().unbind(),
            context,
            future: None,
            slot,
            queued_at: if self.recording { clock::now() } else { 0 },
        })
    }

    /// Queues `job`. Any attached thread.
    #[inline]
    pub(crate) fn push(&self, _py: Python<'_>, lane: Lane, job: Job) -> PyResult<()> {
        match self.shared.mailbox.push(lane, Item::Job(job)) {
            Ok(()) => Ok(()),
            Err(refused) => Err(self.refused(lane, &refused)),
        }
    }

    #[cold]
    fn refused(&self, lane: Lane, refused: &PushError<Item>) -> PyErr {
        match refused {
            PushError::Full(_) => error::mailbox_full(
                &self.shared.name,
                lane.name(),
                self.shared.mailbox.limit(lane),
            ),
            PushError::Closed(_) => error::loop_closed(&self.shared.name),
        }
    }

    fn push_delayed(&self, lane: Lane, job: Job, delay: f64) -> PyResult<()> {
        if !(0.0..=error::MAX_DELAY_SECONDS).contains(&delay) {
            return Err(error::bad_delay(delay));
        }
        let shared = &self.shared;
        let id = shared.next_delayed.fetch_add(1, Ordering::Relaxed);
        {
            let mut delayed = lock(&shared.delayed);
            if delayed.closed {
                return Err(error::loop_closed(&shared.name));
            }
            let limit = shared.mailbox.limit(lane);
            if delayed.items.len() >= limit {
                return Err(error::mailbox_full(&shared.name, lane.name(), limit));
            }
            shared.delayed_count.fetch_add(1, Ordering::AcqRel);
            delayed.items.insert(id, (lane, job));
        }
        let target: Weak<Shared> = Arc::downgrade(shared);
        let action = move || {
            if let Some(shared) = target.upgrade() {
                shared.deliver(id);
            }
        };
        if let Err(problem) = timer::schedule(Duration::from_secs_f64(delay), Box::new(action)) {
            // Nobody will deliver it.
            let undelivered = lock(&shared.delayed).items.remove(&id);
            if undelivered.is_some() {
                shared.delayed_count.fetch_sub(1, Ordering::AcqRel);
                shared.poke();
            }
            return Err(problem.into());
        }
        Ok(())
    }

    /// The slot for `name`, which defaults to the handler's qualified name.
    fn slot(
        &self,
        handler: &Bound<'_, PyAny>,
        name: Option<Bound<'_, PyString>>,
    ) -> PyResult<SlotIndex> {
        if !handler.is_callable() {
            return Err(error::not_callable(handler));
        }
        let name = match name {
            Some(name) => name,
            None => handler_name(handler)?,
        };
        self.named_slot(&name)
    }

    pub(crate) fn named_slot(&self, name: &Bound<'_, PyString>) -> PyResult<SlotIndex> {
        let slots = self.slots.bind(name.py());
        if let Some(index) = slots.get_item(name)? {
            return index.extract();
        }
        let index = self.shared.tracker().index(name.to_str()?);
        if index != atoll_core::stats::OTHER {
            slots.set_item(name, index)?;
        }
        Ok(index)
    }

    /// Whether `run()` has nothing left to do: nothing queued, delayed or running, and no guard held. The loop's thread.
    pub(crate) fn out_of_work(&self) -> bool {
        // A delayed handler stops being delayed at the moment it is queued, so look in this order.
        self.running.load(Ordering::Relaxed) == 0
            && self.shared.guards.load(Ordering::Acquire) == 0
            && self.shared.delayed_count.load(Ordering::Acquire) == 0
            && self.shared.mailbox.queued() == [0; 3]
    }

    /// A coroutine handler that could not be eager takes its first step, or never will. The loop's thread.
    pub(crate) fn first_step(&self) {
        self.unstarted.store(
            self.unstarted.load(Ordering::Relaxed) - 1,
            Ordering::Relaxed,
        );
    }

    /// A coroutine handler has ended. The loop's thread.
    pub(crate) fn coroutine_ended(&self) {
        let left = self.running.load(Ordering::Relaxed) - 1;
        self.running.store(left, Ordering::Relaxed);
        if left == 0 && self.owner && !self.draining.load(Ordering::Relaxed) && self.out_of_work() {
            self.shared.poke();
        }
    }
}

/// How deep the function of a handler may be wrapped to give its name.
const MAX_WRAPPERS: usize = 16;

/// A handler's qualified name; for an object that has none, that of the function it wraps, or of its class.
fn handler_name<'py>(handler: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    let py = handler.py();
    let mut named = handler.clone();
    // Bounded: every attribute of a mock is another mock.
    for _ in 0..MAX_WRAPPERS {
        if let Some(name) = named.getattr_opt(intern!(py, "__qualname__"))? {
            return Ok(name.cast_into::<PyString>()?);
        }
        let Some(wrapped) = named.getattr_opt(intern!(py, "func"))? else {
            break;
        };
        named = wrapped;
    }
    named.get_type().qualname()
}

/// The lane named `lane`; `normal` when none is.
fn parse_lane(lane: Option<&str>) -> PyResult<Lane> {
    match lane {
        None => Ok(Lane::Normal),
        Some(name) => Lane::ALL
            .into_iter()
            .find(|lane| lane.name() == name)
            .ok_or_else(|| error::unknown_lane(name)),
    }
}

#[pymethods]
impl LoopCore {
    #[new]
    #[pyo3(signature = (name, options, owner))]
    fn new(py: Python<'_>, name: String, options: LoopOptions, owner: bool) -> PyResult<Self> {
        let budget = clock::ticks(
            Duration::try_from_secs_f64(options.drain_budget).unwrap_or(Duration::MAX),
        );
        Ok(Self {
            shared: Arc::new(Shared {
                name,
                mailbox: Mailbox::new(
                    [options.max_queued; 3],
                    WakeFd::new()?,
                    EventTracker::new(options.max_handler_names),
                ),
                guards: AtomicUsize::new(0),
                delayed: Mutex::default(),
                delayed_count: AtomicUsize::new(0),
                next_delayed: AtomicU64::new(0),
                stopped: AtomicBool::new(false),
            }),
            local: Mutex::default(),
            running: AtomicUsize::new(0),
            unstarted: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            stop_requested: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            tasks: Mutex::default(),
            last_stamp: AtomicU64::new(0),
            executed: AtomicU64::new(0),
            budget,
            recording: options.recording,
            eager: py.version_info() >= (3, 12),
            owner,
            task_type: py.import("asyncio")?.getattr("Task")?.unbind(),
            dispatch_depth: AtomicUsize::new(0),
            max_dispatch_depth: options.max_dispatch_depth,
            slots: PyDict::new(py).unbind(),
        })
    }

    /// The loop's name.
    #[getter]
    fn name(&self) -> &str {
        &self.shared.name
    }

    /// Queues `handler(*args)` to run on the loop. Any thread; never runs it at once.
    #[pyo3(signature = (handler, /, *args, name=None, delay=0.0, lane=None, context=None))]
    #[allow(clippy::too_many_arguments)]
    fn post(
        &self,
        handler: Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        name: Option<Bound<'_, PyString>>,
        delay: f64,
        lane: Option<&str>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = handler.py();
        let slot = self.slot(&handler, name)?;
        let lane = parse_lane(lane)?;
        let job = self.job(py, handler.unbind(), args, slot, context)?;
        if delay == 0.0 {
            self.push(py, lane, job)
        } else {
            self.push_delayed(lane, job, delay)
        }
    }

    /// Queues `handler(*args)`, whose outcome goes to `future`.
    #[pyo3(signature = (future, handler, args, name, delay, lane, context))]
    #[allow(clippy::too_many_arguments)]
    fn _submit(
        &self,
        future: Py<PyAny>,
        handler: Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        name: Option<Bound<'_, PyString>>,
        delay: f64,
        lane: Option<&str>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = handler.py();
        let slot = self.slot(&handler, name)?;
        let lane = parse_lane(lane)?;
        let mut job = self.job(py, handler.unbind(), args, slot, context)?;
        job.future = Some(future);
        if delay == 0.0 {
            self.push(py, lane, job)
        } else {
            self.push_delayed(lane, job, delay)
        }
    }

    /// Runs `handler(*args)` at once when called on the loop, unless too deeply nested; else queues it.
    #[pyo3(signature = (handler, /, *args, name=None, lane=None, context=None))]
    fn dispatch(
        slf: &Bound<'_, Self>,
        handler: Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        name: Option<Bound<'_, PyString>>,
        lane: Option<&str>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let slot = core.slot(&handler, name)?;
        let lane = parse_lane(lane)?;
        let job = core.job(py, handler.unbind(), args, slot, context)?;
        let depth = core.dispatch_depth.load(Ordering::Relaxed);
        let on_loop: bool = slf.call_method0(intern!(py, "is_current"))?.extract()?;
        if !on_loop || depth >= core.max_dispatch_depth {
            return core.push(py, lane, job);
        }
        core.dispatch_depth.store(depth + 1, Ordering::Relaxed);
        let ran = Self::run_inline(slf, job);
        core.dispatch_depth.store(depth, Ordering::Relaxed);
        ran
    }

    /// Prepares `handler`: calling the result posts it, faster than `post` does.
    #[pyo3(signature = (handler, /, *, name=None, lane=None))]
    fn bind<'py>(
        slf: &Bound<'py, Self>,
        handler: Bound<'py, PyAny>,
        name: Option<Bound<'py, PyString>>,
        lane: Option<&str>,
    ) -> PyResult<Bound<'py, BoundHandler>> {
        let slot = slf.get().slot(&handler, name.clone())?;
        let name = match name {
            Some(name) => name,
            None => handler_name(&handler)?,
        };
        BoundHandler::create(slf, handler, name.to_string(), slot, parse_lane(lane)?)
    }

    /// Keeps `run()` from returning while the result is held.
    fn work_guard(&self) -> WorkGuard {
        WorkGuard::new(Arc::clone(&self.shared))
    }

    /// Makes `run()` return after the handler that is running. Any thread; what is queued stays queued.
    fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.poke();
    }

    /// Whether `stop()` was called or `run()` ran out of work, and `restart()` not since.
    #[getter]
    fn stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    /// Lets `run()` run again after a stop.
    fn restart(&self) {
        self.shared.stopped.store(false, Ordering::Release);
    }

    #[getter]
    fn _fileno(&self) -> i32 {
        self.shared.mailbox.waker().fd()
    }

    /// Names the asyncio loop that drains the mailbox from now on, as each run begins; None detaches it.
    #[pyo3(signature = (asyncio_loop))]
    fn _attach(&self, asyncio_loop: Option<Py<PyAny>>) {
        self.stop_requested.store(false, Ordering::Relaxed);
        let before = std::mem::replace(&mut lock(&self.local).asyncio_loop, asyncio_loop);
        drop(before);
    }

    /// Runs queued handlers for at most the drain budget. On the loop's thread only, as a reader callback.
    fn _drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::drain(slf)
    }

    /// Runs `message()` on the loop, outside the statistics, whatever the lane's bound. Any thread; false when closed.
    fn _post_internal(&self, message: Py<PyAny>) -> bool {
        self.shared
            .mailbox
            .push_admitted(Lane::Control, Item::Internal(message))
            .is_ok()
    }

    /// Refuses further posts and gives back the futures of handlers that will never run; a second call gives those that a
    /// drain had taken while the first was made.
    fn _close(&self) -> Vec<Py<PyAny>> {
        self.closed.store(true, Ordering::Release);
        let mut left: Vec<Item> = std::mem::take(&mut lock(&self.local).batch).into();
        let delayed = {
            let mut delayed = lock(&self.shared.delayed);
            delayed.closed = true;
            left.extend(self.shared.mailbox.close());
            std::mem::take(&mut delayed.items)
        };
        self.shared
            .delayed_count
            .fetch_sub(delayed.len(), Ordering::AcqRel);
        left.extend(delayed.into_values().map(|(_, job)| Item::Job(job)));
        let mut futures = Vec::new();
        for item in left {
            match item {
                Item::Job(job) => {
                    self.shared.tracker().slot(job.slot).dropped();
                    futures.extend(job.future);
                }
                Item::Call { call, .. } => {
                    self.shared.tracker().slot(Method::of(&call).slot).dropped();
                    let text = format!("Loop {} is closed", self.shared.name);
                    call.refuse(Status::new(Code::Unavailable, text));
                }
                Item::Internal(_) | Item::Cancel(_) => {}
            }
        }
        futures
    }

    /// The tasks of calls whose handlers wait for something. On the loop's thread.
    fn _call_tasks(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        lock(&self.tasks)
            .values()
            .map(|task| task.clone_ref(py))
            .collect()
    }

    #[getter]
    fn _out_of_work(&self) -> bool {
        self.out_of_work() && lock(&self.local).batch.is_empty()
    }

    #[getter]
    fn _executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }

    /// (queued per lane, delayed, guards held, handlers).
    fn _snapshot(&self) -> ([usize; 3], usize, usize, Vec<HandlerTuple>) {
        (
            self.shared.mailbox.queued(),
            self.shared.delayed_count.load(Ordering::Relaxed),
            self.shared.guards.load(Ordering::Relaxed),
            if self.recording {
                snapshot::handlers(self.shared.tracker())
            } else {
                Vec::new()
            },
        )
    }
}
