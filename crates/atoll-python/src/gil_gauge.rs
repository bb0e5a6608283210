//! `GilGauge`: how long a thread waits for the GIL, measured by a native thread that asks for it now and then.
//!
//! | field | written by | read by | under |
//! |---|---|---|---|
//! | `waits` | the gauge's thread | any | relaxed atomics |
//! | `stopped` | who stops it | the gauge's thread | the mutex |
//!
//! It must be stopped before the interpreter ends: a thread that asks for the GIL after that never returns.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atoll_core::clock;
use atoll_core::fork;
use atoll_core::gil_wait;
use atoll_core::native_thread;
use atoll_core::stats::Recorder;
use pyo3::prelude::*;

use crate::loop_core::lock;
use crate::snapshot::{DistributionTuple, distribution};

#[derive(Default)]
struct Inner {
    waits: Recorder,
    stopped: Mutex<bool>,
    ended: Condvar,
}

impl Inner {
    fn run(&self, interval: Duration) {
        let mut stopped = lock(&self.stopped);
        loop {
            let end = Instant::now() + interval;
            while !*stopped {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                stopped = self
                    .ended
                    .wait_timeout(stopped, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            if *stopped {
                return;
            }
            drop(stopped);
            let asked = clock::now();
            let got = Python::try_attach(|_| clock::now());
            let Some(got) = got else { return };
            let waited = got.saturating_sub(asked);
            self.waits.record(waited);
            gil_wait::record(waited);
            stopped = lock(&self.stopped);
        }
    }
}

/// Measures how long the GIL is waited for, from its construction to `stop()`. Any thread.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct GilGauge {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
    generation: u32,
}

#[pymethods]
impl GilGauge {
    #[new]
    fn new(interval: f64) -> PyResult<Self> {
        let inner = Arc::new(Inner::default());
        let measured = Arc::clone(&inner);
        let interval = Duration::try_from_secs_f64(interval).unwrap_or(Duration::from_secs(1));
        let thread =
            native_thread::spawn("atoll-gil-gauge".into(), move || measured.run(interval))?;
        Ok(Self {
            inner,
            thread: Mutex::new(Some(thread)),
            generation: fork::watch(),
        })
    }

    /// All waits so far.
    fn waits(&self) -> DistributionTuple {
        distribution(&self.inner.waits.snapshot())
    }

    /// Ends the thread and waits for it; a second call does nothing, and neither does a forked child's.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.end());
    }
}

impl GilGauge {
    fn end(&self) {
        if self.generation != fork::generation() {
            return;
        }
        *lock(&self.inner.stopped) = true;
        self.inner.ended.notify_all();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// (a time in seconds from an arbitrary origin, all waits until then of all gauges of the process, also of those that have been
/// stopped).
#[pyfunction]
pub(crate) fn gil_waits() -> (f64, DistributionTuple) {
    (
        clock::seconds(clock::now()),
        distribution(&gil_wait::snapshot()),
    )
}

impl Drop for GilGauge {
    fn drop(&mut self) {
        if self.generation == fork::generation() {
            // Not joined: whoever drops it may hold the GIL, which the thread may be waiting for.
            *lock(&self.inner.stopped) = true;
            self.inner.ended.notify_all();
        }
    }
}
