//! A native thread that watches loops from outside: it needs neither their cooperation nor the GIL.
//!
//! * [`watch`]: whether a loop gives its probes their turn in time.
//! * [`stall`]: what keeps a loop's thread too long.
//! * [`stack`]: the Python stack of a thread that is stuck.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `State` | the monitor's thread, who adds loops, who takes events | the same | its mutex, also while a stack is taken |
//!
//! The thread looks at every loop a few times per stall threshold: some atomics each. Probes go out at their own interval.

pub mod stack;
pub mod stall;
pub mod watch;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock;
use crate::fork::{self, PerProcess};
use crate::native_thread;
use crate::registry::ObservedLoop;
use stall::{Records, Report, Stall, StallSettings, StallWatch};
use watch::{Expectations, Responsiveness};

/// A look is taken at least this often, however long the threshold.
const LONGEST_PERIOD: Duration = Duration::from_millis(50);
/// And at most this often, however short.
const SHORTEST_PERIOD: Duration = Duration::from_millis(1);
/// How many looks fall into a stall threshold.
const LOOKS_PER_THRESHOLD: u32 = 4;
/// Events that nobody takes are kept up to this many; the oldest go first.
const MOST_EVENTS: usize = 1_000;

/// The settings of a monitor.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What is expected of a loop.
    pub expected: Expectations,
    /// What counts as a stall unless a loop has a threshold of its own; in ticks.
    pub stalls: StallSettings,
    /// How many stalls are retained.
    pub retained: usize,
}

/// What a monitor has noticed.
#[derive(Debug, Clone)]
pub enum Event {
    /// A loop became healthy or unhealthy: its name, which of the two, and how long its probe waited, in ticks.
    Health(String, bool, u64),
    /// A stall is to be reported.
    Stall(Box<Report>),
}

/// A loop as the monitor last saw it; durations in ticks.
#[derive(Debug, Clone)]
pub struct LoopView {
    /// Its name.
    pub name: String,
    /// Tells loops of one name apart: the address of the loop's record, which no other has while the loop lives.
    pub address: usize,
    /// Whether its health counts for the whole.
    pub counts: bool,
    /// Whether some thread runs it.
    pub runs: bool,
    /// Whether its probes have their turn in time.
    pub healthy: bool,
    /// How many did not.
    pub missed: u64,
    /// How long the last one waited.
    pub latency: u64,
    /// How long the longest one waited, in the window.
    pub largest_latency: u64,
    /// How long the probe that is out has waited.
    pub outstanding: Option<u64>,
    /// How long the longest-waiting handler has waited.
    pub oldest: Option<u64>,
    /// The running handler and how long its step has taken.
    pub running: Option<(String, u64)>,
    /// How many stalls there were.
    pub stalls: u64,
    /// The stall that goes on.
    pub stall: Option<Stall>,
}

struct Watched {
    observed: Weak<dyn ObservedLoop>,
    counts: bool,
    stalls: StallSettings,
    stall_watch: StallWatch,
    responsiveness: Responsiveness,
}

struct State {
    watched: Vec<Watched>,
    records: Records,
    events: std::collections::VecDeque<Event>,
    period: Duration,
    stopped: bool,
}

struct Inner {
    settings: Settings,
    state: Mutex<State>,
    /// A loop was added, or the end has come: the monitor's thread looks again.
    changed: Condvar,
    /// There are events, or the end has come.
    noticed: Condvar,
}

/// A monitor and its thread. Any thread.
pub struct Monitor {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
    generation: u32,
}

/// The monitors of the process, for those who tell of all loops.
static MONITORS: PerProcess<Mutex<Vec<Weak<Inner>>>> = PerProcess::new();

impl Monitor {
    /// Starts a monitor that watches nothing yet.
    ///
    /// # Errors
    /// When the process can't start a thread.
    pub fn start(settings: Settings) -> std::io::Result<Self> {
        let inner = Arc::new(Inner {
            settings,
            state: Mutex::new(State {
                watched: Vec::new(),
                records: Records::new(settings.retained),
                events: std::collections::VecDeque::new(),
                period: LONGEST_PERIOD,
                stopped: false,
            }),
            changed: Condvar::new(),
            noticed: Condvar::new(),
        });
        let monitored = Arc::clone(&inner);
        let thread = native_thread::spawn("atoll-monitor".into(), move || monitored.run())?;
        let mut monitors = MONITORS
            .get()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        monitors.retain(|known| known.strong_count() > 0);
        monitors.push(Arc::downgrade(&inner));
        Ok(Self {
            inner,
            thread: Mutex::new(Some(thread)),
            generation: fork::watch(),
        })
    }

    /// Watches `observed` until it is dropped. `threshold` is its own stall threshold, in ticks.
    pub fn watch(&self, observed: &Arc<dyn ObservedLoop>, threshold: Option<u64>, counts: bool) {
        let stalls = StallSettings {
            threshold: threshold.unwrap_or(self.inner.settings.stalls.threshold),
            ..self.inner.settings.stalls
        };
        let mut state = self.inner.lock();
        state
            .watched
            .retain(|it| !std::ptr::addr_eq(it.observed.as_ptr(), Arc::as_ptr(observed)));
        state.watched.push(Watched {
            observed: Arc::downgrade(observed),
            counts,
            stalls,
            stall_watch: StallWatch::default(),
            responsiveness: Responsiveness::default(),
        });
        let shortest = state.watched.iter().map(|it| it.stalls.threshold).min();
        let shortest = clock::duration(shortest.unwrap_or(u64::MAX));
        state.period = (shortest / LOOKS_PER_THRESHOLD).clamp(SHORTEST_PERIOD, LONGEST_PERIOD);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// Waits up to `patience` for events and takes them; None once the monitor has been stopped and there are no more.
    #[must_use]
    pub fn wait_events(&self, patience: Duration) -> Option<Vec<Event>> {
        let end = Instant::now() + patience;
        let mut state = self.inner.lock();
        loop {
            if !state.events.is_empty() {
                return Some(state.events.drain(..).collect());
            }
            if state.stopped {
                return None;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(Vec::new());
            }
            state = self
                .inner
                .noticed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The loops that are watched.
    #[must_use]
    pub fn views(&self) -> Vec<LoopView> {
        self.inner.views()
    }

    /// The stalls that are retained, the oldest first.
    #[must_use]
    pub fn stalls(&self) -> Vec<Stall> {
        self.inner.lock().records.kept()
    }

    /// Whether this process has forked off the one that the monitor belongs to, and must not touch it.
    #[must_use]
    pub fn is_parents(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Ends the thread and waits for it; a second call does nothing, and neither does a forked child's.
    pub fn stop(&self) {
        if self.is_parents() {
            return;
        }
        self.inner.lock().stopped = true;
        self.inner.changed.notify_all();
        self.inner.noticed.notify_all();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the process's monitors say of their loops.
#[must_use]
pub fn all_views() -> Vec<LoopView> {
    all().iter().flat_map(|inner| inner.views()).collect()
}

/// What the process's monitors have retained, the oldest first.
#[must_use]
pub fn all_stalls() -> Vec<Stall> {
    let mut stalls: Vec<Stall> = all()
        .iter()
        .flat_map(|inner| inner.lock().records.kept())
        .collect();
    stalls.sort_by_key(|stall| stall.began);
    stalls
}

/// Those that have not been stopped: one that has sees nothing any more, however long somebody keeps it.
fn all() -> Vec<Arc<Inner>> {
    let monitors = MONITORS
        .get()
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let mut all: Vec<_> = monitors.iter().filter_map(Weak::upgrade).collect();
    drop(monitors);
    all.retain(|inner| !inner.lock().stopped);
    all
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.stopped {
            // Dropped after the lock: the last reference to a loop may be among them.
            let alive = state.look(clock::now(), &self.settings.expected);
            let noticed = !state.events.is_empty();
            let period = if state.watched.is_empty() {
                Duration::from_secs(3600)
            } else {
                state.period
            };
            drop(state);
            drop(alive);
            if noticed {
                self.noticed.notify_all();
            }
            state = self.lock();
            if state.stopped {
                return;
            }
            state = self
                .changed
                .wait_timeout(state, period)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn views(&self) -> Vec<LoopView> {
        let now = clock::now();
        let mut alive = Vec::new();
        let state = self.lock();
        let views = state
            .watched
            .iter()
            .filter_map(|watched| {
                let observed = watched.observed.upgrade()?;
                let view = watched.view(&*observed, now);
                alive.push(observed);
                Some(view)
            })
            .collect();
        drop(state);
        views
    }
}

impl State {
    /// Looks at every loop; those that are gone are forgotten, the others returned.
    fn look(&mut self, now: u64, expected: &Expectations) -> Vec<Arc<dyn ObservedLoop>> {
        let mut alive = Vec::with_capacity(self.watched.len());
        let (records, events) = (&mut self.records, &mut self.events);
        self.watched.retain_mut(|watched| {
            let Some(observed) = watched.observed.upgrade() else {
                return false;
            };
            if let Some(thread) = observed.record().activity.thread() {
                let changed = watched.responsiveness.look(&*observed, now, expected);
                if changed {
                    let seen = &watched.responsiveness;
                    let waited = seen.outstanding(now).unwrap_or(seen.latency);
                    let name = observed.name().to_owned();
                    events.push_back(Event::Health(name, seen.healthy, waited));
                }
                let stalls = &watched.stalls;
                watched
                    .stall_watch
                    .look(&*observed, thread, clock::now(), stalls, records);
            } else {
                if watched.responsiveness.resting() {
                    let name = observed.name().to_owned();
                    events.push_back(Event::Health(name, true, watched.responsiveness.latency));
                }
                watched.stall_watch.resting(now, &watched.stalls, records);
            }
            alive.push(observed);
            true
        });
        let reports = std::mem::take(&mut self.records.reports);
        self.events.extend(
            reports
                .into_iter()
                .map(|report| Event::Stall(Box::new(report))),
        );
        while self.events.len() > MOST_EVENTS {
            self.events.pop_front();
        }
        alive
    }
}

impl Watched {
    fn view(&self, observed: &dyn ObservedLoop, now: u64) -> LoopView {
        let record = observed.record();
        let seen = &self.responsiveness;
        let running = record.activity.running().map(|running| {
            let name = record.events.slot(running.slot).name.to_string();
            (name, now.saturating_sub(running.since))
        });
        LoopView {
            name: observed.name().into(),
            address: std::ptr::from_ref(record).addr(),
            counts: self.counts,
            runs: record.activity.thread().is_some(),
            healthy: seen.healthy,
            missed: seen.missed,
            latency: seen.latency,
            largest_latency: seen.largest_latency(),
            outstanding: seen.outstanding(now),
            oldest: match observed.oldest_queued_at() {
                0 => None,
                at => Some(now.saturating_sub(at)),
            },
            running,
            stalls: self.stall_watch.count,
            stall: self.stall_watch.current().cloned(),
        }
    }
}
