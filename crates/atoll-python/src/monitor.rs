//! `MonitorCore`: the native half of `atoll.observe.LoopMonitor`.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::clock;
use atoll_core::monitor::stall::{Stall, StallSettings};
use atoll_core::monitor::watch::Expectations;
use atoll_core::monitor::{Event, LoopView, Monitor, Settings, stack};
use atoll_core::registry::ObservedLoop;
use pyo3::prelude::*;

use crate::error;
use crate::loop_core::LoopCore;

/// The settings of a monitor: `atoll.observe.MonitorOptions`; durations in seconds.
#[derive(FromPyObject)]
struct MonitorOptions {
    interval: f64,
    deadline: f64,
    window: f64,
    recover_after: u32,
    stall_threshold: f64,
    stall_reports_per_minute: usize,
    stalls_retained: usize,
}

/// (number, loop, handler, began as seconds since 1970, duration, over, stack, duration when the stack was taken).
type StallTuple = (
    u64,
    String,
    Option<String>,
    f64,
    f64,
    bool,
    Option<String>,
    f64,
);

fn stall_tuple(stall: &Stall) -> StallTuple {
    let began = stall.began.duration_since(std::time::UNIX_EPOCH);
    (
        stall.number,
        stall.loop_name.clone(),
        stall.handler.clone(),
        began.unwrap_or_default().as_secs_f64(),
        stall.duration.as_secs_f64(),
        stall.over,
        stall.stack.clone(),
        stall.stack_after.as_secs_f64(),
    )
}

/// (loop, counts, runs, healthy, missed, latency, largest latency, outstanding, oldest queued, running handler, its age,
/// stalls).
type ViewTuple = (
    (String, bool, bool, bool),
    (u64, f64, f64),
    Option<f64>,
    Option<f64>,
    Option<(String, f64)>,
    u64,
);

fn view_tuple(view: LoopView) -> ViewTuple {
    (
        (view.name, view.counts, view.runs, view.healthy),
        (
            view.missed,
            clock::seconds(view.latency),
            clock::seconds(view.largest_latency),
        ),
        view.outstanding.map(clock::seconds),
        view.oldest.map(clock::seconds),
        view.running.map(|(name, age)| (name, clock::seconds(age))),
        view.stalls,
    )
}

/// A health event: (loop, healthy, how long its probe waited).
type HealthTuple = (String, bool, f64);

/// A native thread that watches loops. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct MonitorCore {
    monitor: Monitor,
}

fn ticks(seconds: f64) -> u64 {
    clock::ticks(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

impl MonitorCore {
    fn check_fork(&self) -> PyResult<()> {
        if self.monitor.is_parents() {
            return Err(error::forked_monitor());
        }
        Ok(())
    }
}

#[pymethods]
impl MonitorCore {
    #[new]
    fn new(options: MonitorOptions) -> PyResult<Self> {
        let settings = Settings {
            expected: Expectations {
                interval: ticks(options.interval),
                deadline: ticks(options.deadline),
                window: ticks(options.window),
                recover_after: options.recover_after,
            },
            stalls: StallSettings {
                threshold: ticks(options.stall_threshold),
                reports_per_minute: options.stall_reports_per_minute,
            },
            retained: options.stalls_retained,
        };
        Ok(Self {
            monitor: Monitor::start(settings)?,
        })
    }

    /// Watches a loop until it is gone.
    #[pyo3(signature = (io_context, stall_threshold, counts_for_health))]
    fn watch(
        &self,
        py: Python<'_>,
        io_context: &Bound<'_, LoopCore>,
        stall_threshold: Option<f64>,
        counts_for_health: bool,
    ) -> PyResult<()> {
        self.check_fork()?;
        let observed: Arc<dyn ObservedLoop> = Arc::clone(&io_context.get().shared) as _;
        let threshold = stall_threshold.map(ticks);
        // The monitor's lock is held while it takes a stack, from a thread that may hold the GIL.
        py.detach(|| self.monitor.watch(&observed, threshold, counts_for_health));
        Ok(())
    }

    /// Waits up to `patience` seconds and returns (health changes, stalls with how many were suppressed); None when stopped.
    #[allow(clippy::type_complexity)]
    fn wait_events(
        &self,
        py: Python<'_>,
        patience: f64,
    ) -> Option<(Vec<HealthTuple>, Vec<(StallTuple, u64)>)> {
        let patience = Duration::try_from_secs_f64(patience).unwrap_or_default();
        let events = py.detach(|| self.monitor.wait_events(patience))?;
        let (mut health, mut stalls) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Health(name, healthy, waited) => {
                    health.push((name, healthy, clock::seconds(waited)));
                }
                Event::Stall(report) => {
                    stalls.push((stall_tuple(&report.stall), report.suppressed));
                }
            }
        }
        Some((health, stalls))
    }

    /// The loops as they are now.
    fn views(&self, py: Python<'_>) -> PyResult<Vec<ViewTuple>> {
        self.check_fork()?;
        let views = py.detach(|| self.monitor.views());
        Ok(views.into_iter().map(view_tuple).collect())
    }

    /// The stalls that are retained, the oldest first.
    fn stalls(&self, py: Python<'_>) -> PyResult<Vec<StallTuple>> {
        self.check_fork()?;
        let stalls = py.detach(|| self.monitor.stalls());
        Ok(stalls.iter().map(stall_tuple).collect())
    }

    /// Ends the thread and waits for it.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.monitor.stop());
    }
}

/// Makes the pipe for stacks that `signal` causes; returns the descriptor for faulthandler, or None where it can't be done.
#[pyfunction]
pub(crate) fn prepare_stack_sampler(py: Python<'_>, signal: i32) -> PyResult<Option<i32>> {
    Ok(py.detach(|| stack::prepare(signal))?)
}

/// faulthandler has taken `signal`: it may be sent from now on. Returns the signal by which stacks are taken.
#[pyfunction]
pub(crate) fn activate_stack_sampler(py: Python<'_>, signal: i32) -> Option<i32> {
    py.detach(|| {
        stack::activate(signal);
        stack::active()
    })
}

/// A Python thread answers questions from now on; returns its number for `wait_stack_question`.
#[pyfunction]
pub(crate) fn begin_stack_answers(py: Python<'_>) -> u64 {
    py.detach(stack::begin_answers)
}

/// The thread with that number answers no more, and `wait_stack_question` gives it None at once.
#[pyfunction]
pub(crate) fn end_stack_answers(py: Python<'_>, answerer: u64) {
    py.detach(|| stack::end_answers(answerer));
}

/// Waits for the number of a question and the system's number of the thread it is about.
#[pyfunction]
pub(crate) fn wait_stack_question(py: Python<'_>, answerer: u64) -> Option<(u64, i32)> {
    py.detach(|| stack::wait_for_question(answerer))
}

/// Answers a question with a stack in faulthandler's form, empty when there is none.
#[pyfunction]
pub(crate) fn answer_stack_question(py: Python<'_>, number: u64, stack: String) {
    py.detach(|| stack::answer(number, stack));
}
