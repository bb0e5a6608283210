//! All living loops of the process, for those who watch them.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | the list of a process | threads that make loops | watchers | its mutex |
//!
//! A loop is listed from its construction until its last reference is gone; nothing here keeps one alive.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::activity::Activity;
use crate::fork::PerProcess;
use crate::lag::LagProbe;
use crate::probe::Probe;
use crate::stats::EventTracker;
use crate::timer::Due;

/// What is recorded of one loop.
#[derive(Debug)]
pub struct LoopRecord {
    /// Its handlers' statistics.
    pub events: EventTracker,
    /// What its thread is doing.
    pub activity: Activity,
    /// Whether its handlers' statistics are kept; without that they are counted when queued, and nothing else.
    pub recording: bool,
    /// The modules that live on it, as a provider has placed them.
    pub modules: RwLock<Vec<String>>,
    lag: RwLock<Option<Arc<LagProbe>>>,
}

impl LoopRecord {
    /// A record of a loop that has run nothing, with statistics for at most `max_names` handler names if it is `recording`.
    #[must_use]
    pub fn new(max_names: usize, recording: bool) -> Self {
        Self {
            events: EventTracker::new(max_names),
            activity: Activity::default(),
            recording,
            modules: RwLock::default(),
            lag: RwLock::default(),
        }
    }

    /// The probe that measures the loop from inside.
    #[must_use]
    pub fn lag(&self) -> Option<Arc<LagProbe>> {
        let lag = self.lag.read().unwrap_or_else(PoisonError::into_inner);
        lag.clone()
    }

    /// The probe that measures the loop from now on.
    pub fn set_lag(&self, probe: Option<Arc<LagProbe>>) {
        *self.lag.write().unwrap_or_else(PoisonError::into_inner) = probe;
    }

    /// `probe` measures the loop no more; another one that has replaced it does.
    pub fn clear_lag(&self, probe: &Arc<LagProbe>) {
        let mut lag = self.lag.write().unwrap_or_else(PoisonError::into_inner);
        if lag
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, probe))
        {
            *lag = None;
        }
    }
}

/// A loop as its watchers see it. Any thread; nothing here waits for the loop or the GIL.
pub trait ObservedLoop: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// What is recorded of it.
    fn record(&self) -> &LoopRecord;

    /// Whether it has been closed: nothing runs on it any more, whoever still holds it.
    fn is_closed(&self) -> bool;

    /// How many handlers wait in each lane.
    fn queued(&self) -> [usize; 3];

    /// How many posts with a delay are not yet due.
    fn delayed(&self) -> usize;

    /// How many work guards are held.
    fn guards(&self) -> usize;

    /// How many handlers found no room, by lane.
    fn refused(&self) -> [u64; 3];

    /// When the longest-waiting handler was queued, in ticks; zero when none waits.
    fn oldest_queued_at(&self) -> u64;

    /// Has `probe` told when its turn on the loop comes; false when the loop is closed. Probes are never work.
    fn post_probe(&self, probe: Arc<dyn Probe>) -> bool;

    /// Has `target` told after `delay` of the loop's own time that its timer `number` is due. Timers of observers are no work.
    fn set_timer(&self, delay: Duration, target: Weak<dyn Due>, number: u64);
}

impl fmt::Debug for dyn ObservedLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loop {}", self.name())
    }
}

static LOOPS: PerProcess<Mutex<Vec<Weak<dyn ObservedLoop>>>> = PerProcess::new();

/// Lists `observed` until it is dropped.
pub fn register(observed: Weak<dyn ObservedLoop>) {
    let mut loops = LOOPS.get().lock().unwrap_or_else(PoisonError::into_inner);
    loops.retain(|known| known.strong_count() > 0);
    loops.push(observed);
}

/// All living loops, in the order of their construction.
#[must_use]
pub fn loops() -> Vec<Arc<dyn ObservedLoop>> {
    let loops = LOOPS.get().lock().unwrap_or_else(PoisonError::into_inner);
    let weak = loops.clone();
    // An upgraded reference may be the last one when it is dropped, and what that frees must not run under the mutex.
    drop(loops);
    weak.iter().filter_map(Weak::upgrade).collect()
}
