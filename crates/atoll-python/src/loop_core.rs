//! `LoopCore`: the mailbox of one loop, and what feeds and drains it. `atoll.IoContext` derives from it. Over 600 lines, for a
//! class's methods are one block for PyO3.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `shared` | any thread | any thread | see `shared.rs` |
//! | `running`, `lane`, `stop_after` and other atomics | the loop's thread | the loop's thread | relaxed atomics |
//! | `local` | the loop's thread | the loop's thread | a mutex that nobody else takes while it runs |

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use atoll_core::clock;
use atoll_core::mailbox::{Lane, LaneSettings};
use atoll_core::registry::ObservedLoop;
use atoll_core::transport::{Call, Code, Refused, Reply, Status};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::bound_handler::BoundHandler;
use crate::chaos::{RuleTuple, injector};
use crate::current;
use crate::error;
use crate::item::Item;
use crate::manual_timers::ManualTimers;
use crate::method::Method;
use crate::module_home::Residents;
use crate::notice::Callbacks;
use crate::posting::{handler_name, parse_lane};
use crate::server_call::ServerCall;
use crate::shared::Shared;
use crate::snapshot::{self, HandlerTuple};
use crate::store::completions::Completions;
use crate::work_guard::WorkGuard;

/// Locks `mutex`; every critical section here leaves its data consistent at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The settings of a loop: `atoll.loop.LoopOptions`.
#[derive(FromPyObject)]
pub(crate) struct LoopOptions {
    limits: [usize; 3],
    weights: [usize; 3],
    max_delayed: usize,
    max_handler_names: usize,
    drain_budget: f64,
    wake_interval: f64,
    max_dispatch_depth: usize,
    recording: bool,
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
    /// Whether the run ends when the mailbox is empty.
    pub(crate) until_empty: AtomicBool,
    /// The run ends when `executed` has come to this.
    pub(crate) stop_after: AtomicU64,
    /// Nothing runs any more, whatever a drain has taken out of the mailbox.
    pub(crate) closed: AtomicBool,
    /// Steps of handlers that are being taken: more than one where a handler runs another inside its own.
    pub(crate) open_steps: AtomicUsize,
    /// Whose messages have been left for the end of the step, and whether there is one; the loop's thread only.
    pub(crate) riding: Mutex<Option<Arc<Call>>>,
    pub(crate) has_riding: AtomicBool,
    /// The tasks of calls that outlive their first step, by call; the loop's thread only.
    pub(crate) tasks: Mutex<HashMap<usize, Py<PyAny>>>,
    /// The streaming calls whose handlers run, by call; the loop's thread only.
    pub(crate) streaming: Mutex<HashMap<usize, Py<ServerCall>>>,
    /// The last stamp taken on the loop's thread, so that one read of the clock serves an end and the next start.
    pub(crate) last_stamp: AtomicU64,
    /// How many handlers have been run.
    pub(crate) executed: AtomicU64,
    /// The lane of the handler that runs, which what it posts inherits.
    pub(crate) lane: AtomicU8,
    pub(crate) budget: u64,
    /// For how long posts wake the loop no more after it has run some, in seconds; zero where they always do.
    pub(crate) wake_interval: f64,
    /// Whether something of a user's has been run since the loop last rested; the loop's thread only.
    pub(crate) has_run: AtomicBool,
    /// Which run of the loop this is; the loop's thread only.
    pub(crate) run: AtomicU64,
    /// Whether asyncio calls `_come_back`, so that nobody need wake the loop; the loop's thread only.
    pub(crate) comes_back: AtomicBool,
    pub(crate) recording: bool,
    pub(crate) eager: bool,
    /// False for a guest, whose loop somebody else starts and stops.
    pub(crate) owner: bool,
    pub(crate) task_type: Py<PyAny>,
    dispatch_depth: AtomicUsize,
    max_dispatch_depth: usize,
    /// The classes of the checked modules that live here.
    pub(crate) residents: Residents,
    /// Name to slot index, for names seen before.
    pub(crate) slots: Py<PyDict>,
    /// What is called when a native thread has told of something.
    pub(crate) callbacks: Callbacks,
    /// The commits that handlers here wait for; made by the first.
    completions: OnceLock<Arc<Completions>>,
}

impl LoopCore {
    /// The commits that handlers here wait for.
    pub(crate) fn completions(&self) -> &Arc<Completions> {
        self.completions
            .get_or_init(|| Completions::new(&self.shared))
    }

    /// Whether `run()` has nothing left to do: nothing queued, delayed or running, and no guard held. The loop's thread.
    pub(crate) fn out_of_work(&self) -> bool {
        // A delayed handler stops being delayed at the moment it is queued, so look in this order.
        self.running.load(Ordering::Relaxed) == 0
            && self.shared.guards.load(Ordering::Acquire) == 0
            && self.shared.delayed_count() == 0
            && self.shared.mailbox.queued() == [0; 3]
    }

    /// The loop's time in seconds, as `IoContext.now()` tells it.
    #[cfg_attr(target_os = "linux", allow(clippy::unnecessary_wraps))]
    pub(crate) fn now(slf: &Bound<'_, Self>) -> PyResult<f64> {
        match slf.get().shared.manual_now() {
            Some(now) => Ok(now.as_nanos() as f64 / 1e9),
            #[cfg(target_os = "linux")]
            None => Ok(monotonic()),
            #[cfg(not(target_os = "linux"))]
            None => slf.call_method0(intern!(slf.py(), "now"))?.extract(),
        }
    }

    /// Asks the asyncio loop to stop, once per run. The loop's thread.
    pub(crate) fn request_stop(&self, asyncio_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        if !self.stop_requested.swap(true, Ordering::Relaxed) {
            asyncio_loop.call_method0(intern!(asyncio_loop.py(), "stop"))?;
        }
        Ok(())
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

#[pymethods]
impl LoopCore {
    #[new]
    #[pyo3(signature = (name, options, owner, clock))]
    fn new(
        py: Python<'_>,
        name: String,
        options: LoopOptions,
        owner: bool,
        clock: Option<Py<ManualTimers>>,
    ) -> PyResult<Self> {
        let budget = clock::ticks(
            Duration::try_from_secs_f64(options.drain_budget).unwrap_or(Duration::MAX),
        );
        let lanes = LaneSettings {
            limits: options.limits,
            weights: options.weights,
        };
        let timers = clock.map(|clock| Arc::clone(&clock.get().timers));
        // Nobody would move time for the loop's sake.
        let wake_interval = timers.as_ref().map_or(options.wake_interval, |_| 0.0);
        Ok(Self {
            shared: Shared::new(
                name,
                lanes,
                options.max_delayed,
                options.max_handler_names,
                options.recording,
                timers,
            )?,
            local: Mutex::default(),
            running: AtomicUsize::new(0),
            unstarted: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            stop_requested: AtomicBool::new(false),
            until_empty: AtomicBool::new(false),
            stop_after: AtomicU64::new(u64::MAX),
            closed: AtomicBool::new(false),
            open_steps: AtomicUsize::new(0),
            riding: Mutex::default(),
            has_riding: AtomicBool::new(false),
            tasks: Mutex::default(),
            streaming: Mutex::default(),
            last_stamp: AtomicU64::new(0),
            executed: AtomicU64::new(0),
            lane: AtomicU8::new(Lane::Normal as u8),
            budget,
            wake_interval,
            has_run: AtomicBool::new(false),
            run: AtomicU64::new(0),
            comes_back: AtomicBool::new(false),
            recording: options.recording,
            eager: py.version_info() >= (3, 12),
            owner,
            task_type: py.import("asyncio")?.getattr("Task")?.unbind(),
            dispatch_depth: AtomicUsize::new(0),
            max_dispatch_depth: options.max_dispatch_depth,
            residents: Residents::default(),
            slots: PyDict::new(py).unbind(),
            callbacks: Callbacks::default(),
            completions: OnceLock::new(),
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
        let lane = parse_lane(py, lane)?;
        let job = self.job(py, handler.unbind(), args, slot, lane, context)?;
        self.push_after(py, job, delay).map(drop)
    }

    /// Queues `handler(*args)`, whose outcome goes to `future`; returns its number while it waits for its time.
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
    ) -> PyResult<Option<u64>> {
        let py = handler.py();
        let slot = self.slot(&handler, name)?;
        let lane = parse_lane(py, lane)?;
        let mut job = self.job(py, handler.unbind(), args, slot, lane, context)?;
        job.future = Some(future);
        self.push_after(py, job, delay)
    }

    /// Queues `handler(*args)` after `delay` seconds; returns the number by which it can be cancelled, or None when it is
    /// queued already. Any thread.
    #[pyo3(signature = (handler, args, name, delay, lane))]
    fn _post_delayed(
        &self,
        handler: Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        name: Option<Bound<'_, PyString>>,
        delay: f64,
        lane: Option<&str>,
    ) -> PyResult<Option<u64>> {
        let py = handler.py();
        let slot = self.slot(&handler, name)?;
        let lane = parse_lane(py, lane)?;
        let job = self.job(py, handler.unbind(), args, slot, lane, None)?;
        self.push_after(py, job, delay)
    }

    /// Takes back a post that waits for its time; false when it is queued, has run, or was cancelled. Any thread, and from
    /// a destructor, too: no lock is held while Python code runs.
    fn _cancel_delayed(&self, number: u64) -> bool {
        !self.shared.is_parents() && self.shared.take_back(number).is_some()
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
        let lane = parse_lane(py, lane)?;
        let job = core.job(py, handler.unbind(), args, slot, lane, context)?;
        let depth = core.dispatch_depth.load(Ordering::Relaxed);
        if depth >= core.max_dispatch_depth || !current::check(slf)? {
            return core.push(py, job);
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
        let lane = match lane {
            None => Lane::Normal,
            lane => parse_lane(slf.py(), lane)?,
        };
        BoundHandler::create(slf, handler, name.to_string(), slot, lane)
    }

    /// Keeps `run()` from returning while the result is held.
    fn work_guard(&self) -> WorkGuard {
        WorkGuard::new(Arc::clone(&self.shared))
    }

    /// Whether the caller runs on this loop.
    fn is_current(slf: &Bound<'_, Self>) -> PyResult<bool> {
        current::check(slf)
    }

    /// Makes `run()` return after the handler that is running. Any thread; what is queued stays queued.
    fn stop(&self) -> PyResult<()> {
        self.check_fork()?;
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.poke();
        Ok(())
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

    /// Delays handlers from now on by `rules`, (pattern, shortest, longest) in microseconds, drawn from `seed`; None ends it.
    #[pyo3(signature = (rules, seed=0))]
    fn _inject_delays(&self, rules: Option<Vec<RuleTuple>>, seed: u64) -> PyResult<()> {
        self.check_fork()?;
        self.shared
            .inject(rules.map(|rules| injector(&rules, seed)));
        Ok(())
    }

    /// Says which modules live on the loop, for those who watch it.
    fn _set_modules(&self, modules: Vec<String>) {
        let mut known = self
            .shared
            .record()
            .modules
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *known = modules;
    }

    /// Whether this process has forked off the one that the loop belongs to, and can do nothing with it.
    #[getter]
    fn _is_parents(&self) -> bool {
        self.shared.is_parents()
    }

    /// Raises what a loop of the parent raises in a forked child.
    #[pyo3(name = "_check_fork")]
    #[inline]
    pub(crate) fn check_fork(&self) -> PyResult<()> {
        if self.shared.is_parents() {
            return Err(error::forked(&self.shared.name));
        }
        Ok(())
    }

    /// The time of a clock that is moved by hand, in seconds; None where time is real.
    #[getter]
    fn _manual_now(&self) -> Option<f64> {
        self.shared
            .manual_now()
            .map(|now| now.as_nanos() as f64 / 1e9)
    }

    /// Names the asyncio loop that drains the mailbox from now on, as each run begins; None detaches it. The run ends after
    /// `handlers` handlers, or, `until_empty`, when nothing is queued.
    #[pyo3(signature = (asyncio_loop, handlers=None, until_empty=false))]
    fn _attach(&self, asyncio_loop: Option<Py<PyAny>>, handlers: Option<u64>, until_empty: bool) {
        self.stop_requested.store(false, Ordering::Relaxed);
        self.run
            .store(self.run.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.comes_back.store(false, Ordering::Relaxed);
        self.until_empty.store(until_empty, Ordering::Relaxed);
        let executed = self.executed.load(Ordering::Relaxed);
        let stop_after = handlers.map_or(u64::MAX, |most| executed.saturating_add(most));
        self.stop_after.store(stop_after, Ordering::Relaxed);
        let before = std::mem::replace(&mut lock(&self.local).asyncio_loop, asyncio_loop);
        drop(before);
    }

    /// This thread runs the loop from now on: a guest's, until it ends; an owner's until `_leave_thread`.
    fn _enter_thread(slf: &Bound<'_, Self>) -> PyResult<()> {
        let core = slf.get();
        core.shared.activity().runs_on(thread_number());
        if core.owner {
            current::enter_for_good(slf)?;
        }
        Ok(())
    }

    /// Ends what `_enter_thread` began. On the same thread.
    fn _leave_thread(slf: &Bound<'_, Self>) {
        slf.get().shared.activity().runs_on(0);
        current::leave(slf);
    }

    /// Says whether the asyncio loop of a guest runs, for those who watch it: nobody tells the guest. Any thread.
    fn _host_runs(&self, runs: bool) {
        if !self.owner {
            self.shared.activity().host_runs(runs);
        }
    }

    /// Ends the run without stopping the context. On the loop's thread.
    fn _end_run(&self, py: Python<'_>) -> PyResult<()> {
        let asyncio_loop = lock(&self.local)
            .asyncio_loop
            .as_ref()
            .map(|it| it.clone_ref(py));
        match asyncio_loop {
            Some(asyncio_loop) => self.request_stop(asyncio_loop.bind(py)),
            None => Ok(()),
        }
    }

    /// Runs queued handlers for at most the drain budget. On the loop's thread only, as a reader callback.
    fn _drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::drain(slf)
    }

    /// As `_drain`, at the end of a `wake_interval` that began in the run of this number; one of an earlier run does nothing.
    fn _come_back(slf: &Bound<'_, Self>, run: u64) -> PyResult<()> {
        let core = slf.get();
        if core.run.load(Ordering::Relaxed) != run {
            return Ok(());
        }
        core.comes_back.store(false, Ordering::Relaxed);
        Self::drain(slf)
    }

    /// Runs `message()` on the loop, outside the statistics, whatever the lane's bound. Any thread; false when closed.
    fn _post_internal(&self, message: Py<PyAny>) -> bool {
        !self.shared.is_parents()
            && self
                .shared
                .mailbox
                .push_admitted(Lane::Control, Item::Internal(message))
                .is_ok()
    }

    /// Refuses further posts and gives back the futures of handlers that will never run; a second call gives those that a
    /// drain had taken while the first was made.
    fn _close(&self) -> Vec<Py<PyAny>> {
        self.closed.store(true, Ordering::Release);
        let mut left: Vec<Item> = std::mem::take(&mut lock(&self.local).batch).into();
        for item in &left {
            self.shared.mailbox.started(item.lane(), item);
        }
        left.extend(self.shared.close());
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
                    let reply = Reply::error(Status::new(Code::Unavailable, text));
                    call.turn_away(Refused::LoopClosed, reply);
                }
                Item::Notice { notice, .. } => {
                    self.shared.tracker().slot(notice.slot).dropped();
                }
                Item::Internal(_)
                | Item::Cancel(_)
                | Item::Progress(_)
                | Item::Completions(_)
                | Item::Probe { .. } => {}
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

    /// Whether nothing is queued.
    #[getter]
    fn _is_idle(&self) -> bool {
        self.shared.mailbox.is_empty() && lock(&self.local).batch.is_empty()
    }

    #[getter]
    fn _executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }

    /// (queued per lane, refused per lane, delayed, guards held, handlers, (time, uptime, idle, waiting, running), (for how long
    /// the oldest queued handler has waited, what the lag probe tells)).
    #[allow(clippy::type_complexity)]
    fn _snapshot(
        slf: &Bound<'_, Self>,
    ) -> PyResult<(
        [usize; 3],
        [u64; 3],
        usize,
        usize,
        Vec<HandlerTuple>,
        (f64, f64, f64, f64, f64),
        (f64, Option<f64>),
    )> {
        let core = slf.get();
        core.check_fork()?;
        let now = Self::now(slf)?;
        let time = core.shared.activity().time();
        let oldest = match core.shared.oldest_queued_at() {
            0 => 0,
            at => clock::now().saturating_sub(at),
        };
        let lag = core.shared.record().lag();
        Ok((
            core.shared.mailbox.queued(),
            core.shared.mailbox.refused(),
            core.shared.delayed_count(),
            core.shared.guards.load(Ordering::Relaxed),
            if core.recording {
                snapshot::handlers(core.shared.tracker())
            } else {
                Vec::new()
            },
            (
                now,
                clock::seconds(time.uptime),
                clock::seconds(time.idle),
                clock::seconds(time.waiting),
                clock::seconds(time.running),
            ),
            (
                clock::seconds(oldest),
                lag.map(|probe| clock::seconds(probe.lag())),
            ),
        ))
    }

    /// The locks of `local`, `tasks` and `streaming` are held by attached threads only, and never while Python code runs: none of
    /// them is held while the garbage collector looks, so that giving way to one costs nothing.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.task_type)?;
        visit.call(&self.slots)?;
        if let Ok(local) = self.local.try_lock() {
            visit.call(&local.asyncio_loop)?;
            local
                .batch
                .iter()
                .try_for_each(|item| item.traverse(visit))?;
        }
        if let Ok(tasks) = self.tasks.try_lock() {
            tasks.values().try_for_each(|task| visit.call(task))?;
        }
        if let Ok(streaming) = self.streaming.try_lock() {
            streaming.values().try_for_each(|it| visit.call(it))?;
        }
        self.callbacks.traverse(visit)?;
        if let Some(completions) = self.completions.get() {
            completions.traverse(visit)?;
        }
        self.shared.traverse(visit)
    }

    /// Nobody can reach it any more, so what is queued never runs.
    fn __clear__(&self) {
        if self.shared.is_parents() {
            return;
        }
        let local = std::mem::take(&mut *lock(&self.local));
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        let streaming = std::mem::take(&mut *lock(&self.streaming));
        let left = self.shared.close();
        self.callbacks.clear();
        if let Some(completions) = self.completions.get() {
            completions.clear();
        }
        drop((local, tasks, streaming, left));
    }
}

/// What Python's `time.monotonic()` tells, without a call of Python.
#[cfg(target_os = "linux")]
fn monotonic() -> f64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` has room for the answer, and every Linux has the clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// The system's number of this thread, by which a signal reaches it; zero where that is not done.
pub(crate) fn thread_number() -> i32 {
    #[cfg(target_os = "linux")]
    // SAFETY: it takes nothing and can't fail.
    return unsafe { libc::gettid() };
    #[cfg(not(target_os = "linux"))]
    return 0;
}
