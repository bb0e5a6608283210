//! How long threads waited for Python's GIL: what all gauges of the process have measured, for those who export it.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | the recorder of a process | the gauges' threads | any | its mutex (readers: none) |
//!
//! It outlives the gauges: to those who collect it, counts that fall have started again from zero.

use std::sync::{Mutex, PoisonError};

use crate::fork::PerProcess;
use crate::stats::{Distribution, Recorder};

#[derive(Default)]
struct Waits {
    recorder: Recorder,
    /// A recorder has one writer at a time.
    writing: Mutex<()>,
}

static WAITS: PerProcess<Waits> = PerProcess::new();

/// A thread waited for `ticks`. Any thread.
pub fn record(ticks: u64) {
    let waits = WAITS.get();
    let _writing = waits.writing.lock().unwrap_or_else(PoisonError::into_inner);
    waits.recorder.record(ticks);
}

/// All waits so far; none where no gauge has measured any. Any thread.
#[must_use]
pub fn snapshot() -> Distribution {
    WAITS.get().recorder.snapshot()
}
