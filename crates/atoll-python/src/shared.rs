//! What threads without the GIL may hold of a loop: its mailbox, its delayed handlers, its record.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | mailbox, record | any thread | any thread | see `atoll_core` |
//! | `guards`, `delayed_count`, `stopped` | any thread | any thread | atomics |
//! | `injection` | posters, who switches it | the same | a mutex |
//! | `delayed` items | posters, whoever drives the timers | the same | a mutex |

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use atoll_core::activity::Activity;
use atoll_core::chaos::{DelayInjector, DelayStream};
use atoll_core::clock;
use atoll_core::fork;
use atoll_core::mailbox::{Lane, LaneSettings, Mailbox};
use atoll_core::probe::Probe;
use atoll_core::registry::{self, LoopRecord, ObservedLoop};
use atoll_core::stats::{EventTracker, SlotIndex};
use atoll_core::timer::{self, Due, Timers};
use atoll_core::wake::{Wake, WakeFd};
use pyo3::gc::{PyTraverseError, PyVisit};

use crate::item::Item;
use crate::loop_core::lock;

/// Handlers that wait for their time, by number.
#[derive(Default)]
struct Delayed {
    items: HashMap<u64, (Lane, Item)>,
    closed: bool,
}

/// The delays that are injected, for tests.
struct Injection {
    injector: DelayInjector,
    /// By slot; None for handlers that no rule matches.
    streams: HashMap<SlotIndex, Option<DelayStream>>,
    /// Those that have been delayed and not yet announced.
    unannounced: Vec<SlotIndex>,
}

/// Why a handler can't wait for its time.
pub(crate) enum DelayError {
    Closed,
    Full,
    NoThread(std::io::Error),
}

/// What threads without the GIL may hold of a loop.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) mailbox: Mailbox<Item, WakeFd>,
    pub(crate) guards: AtomicUsize,
    delayed: Mutex<Delayed>,
    delayed_count: AtomicUsize,
    next_delayed: AtomicU64,
    pub(crate) max_delayed: usize,
    pub(crate) stopped: AtomicBool,
    /// Whether delays are injected: read for every post, so that it costs nothing when they are not.
    injecting: AtomicBool,
    injection: Mutex<Option<Injection>>,
    /// Whose time the delayed handlers wait for; the process's unless given.
    timers: Option<Arc<Timers>>,
    /// Objects that were let go of without the GIL wait for the loop to drop them.
    leftovers: AtomicBool,
    /// The process that the loop belongs to.
    generation: u32,
}

impl Shared {
    /// Makes the native half of a loop and lists it.
    pub(crate) fn new(
        name: String,
        lanes: LaneSettings,
        max_delayed: usize,
        max_names: usize,
        recording: bool,
        timers: Option<Arc<Timers>>,
    ) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Self {
            name,
            mailbox: Mailbox::new(lanes, WakeFd::new()?, LoopRecord::new(max_names, recording)),
            guards: AtomicUsize::new(0),
            delayed: Mutex::default(),
            delayed_count: AtomicUsize::new(0),
            next_delayed: AtomicU64::new(0),
            max_delayed,
            stopped: AtomicBool::new(false),
            injecting: AtomicBool::new(false),
            injection: Mutex::default(),
            timers,
            leftovers: AtomicBool::new(false),
            generation: fork::watch(),
        });
        let observed: Weak<Self> = Arc::downgrade(&shared);
        registry::register(observed);
        Ok(shared)
    }

    /// Whether this process has forked off the one that the loop belongs to: its locks may be held for ever.
    #[inline]
    pub(crate) fn is_parents(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Has the loop look again whether it is stopped or out of work.
    pub(crate) fn poke(&self) {
        // The descriptor is the parent's, too.
        if !self.is_parents() {
            self.mailbox.waker().wake();
        }
    }

    /// An object of Python has been dropped by a thread that does not have the GIL; the loop is woken to see to it. Any thread.
    pub(crate) fn has_leftovers(&self) {
        if !self.leftovers.swap(true, Ordering::AcqRel) {
            self.poke();
        }
    }

    /// Drops what was let go of without the GIL.
    #[inline]
    pub(crate) fn drop_leftovers(&self) {
        if self.leftovers.load(Ordering::Relaxed) && self.leftovers.swap(false, Ordering::AcqRel) {
            // Attaching is when PyO3 drops them, also where the thread is attached already.
            pyo3::Python::attach(|_| ());
        }
    }

    pub(crate) fn tracker(&self) -> &EventTracker {
        &self.mailbox.tracker().events
    }

    pub(crate) fn activity(&self) -> &Activity {
        &self.mailbox.tracker().activity
    }

    pub(crate) fn delayed_count(&self) -> usize {
        self.delayed_count.load(Ordering::Acquire)
    }

    /// The seconds of a clock that is moved by hand; None where time is real.
    pub(crate) fn manual_now(&self) -> Option<Duration> {
        self.timers.as_ref().map(|timers| timers.now())
    }

    /// The clock that is moved by hand; None where time is real.
    pub(crate) fn manual_timers(&self) -> Option<&Arc<Timers>> {
        self.timers.as_ref()
    }

    pub(crate) fn timers(&self) -> std::io::Result<&Timers> {
        match &self.timers {
            Some(timers) => Ok(timers),
            None => timer::process(),
        }
    }

    /// Lets `item` wait for `delay` before it is queued; returns its number. Any thread.
    ///
    /// # Errors
    /// The item comes back, so that it is dropped where no lock is held.
    pub(crate) fn delay(
        self: &Arc<Self>,
        lane: Lane,
        item: Item,
        delay: Duration,
    ) -> Result<u64, (DelayError, Item)> {
        let timers = match self.timers() {
            Ok(timers) => timers,
            Err(problem) => return Err((DelayError::NoThread(problem), item)),
        };
        let number = self.next_delayed.fetch_add(1, Ordering::Relaxed);
        {
            let mut delayed = lock(&self.delayed);
            if delayed.closed {
                return Err((DelayError::Closed, item));
            }
            if delayed.items.len() >= self.max_delayed {
                self.mailbox.count_refused(lane, 1);
                return Err((DelayError::Full, item));
            }
            self.delayed_count.fetch_add(1, Ordering::AcqRel);
            delayed.items.insert(number, (lane, item));
        }
        let target: Weak<Self> = Arc::downgrade(self);
        timers.schedule(delay, target, number);
        Ok(number)
    }

    /// Injects the delays of `injector` from now on, or none.
    pub(crate) fn inject(&self, injector: Option<DelayInjector>) {
        let active = injector.is_some();
        *lock(&self.injection) = injector.map(|injector| Injection {
            injector,
            streams: HashMap::new(),
            unannounced: Vec::new(),
        });
        self.injecting.store(active, Ordering::Release);
    }

    /// Whether delays are injected.
    #[inline]
    pub(crate) fn is_injecting(&self) -> bool {
        self.injecting.load(Ordering::Relaxed)
    }

    /// How long the next handler of this name is to be delayed on purpose. Any thread.
    #[cold]
    pub(crate) fn injected_delay(&self, slot: SlotIndex) -> Duration {
        let mut injection = lock(&self.injection);
        let Some(injection) = &mut *injection else {
            return Duration::ZERO;
        };
        let Injection {
            injector,
            streams,
            unannounced,
        } = injection;
        let stream = streams.entry(slot).or_insert_with(|| {
            let stream = injector.stream(&self.name, &self.tracker().slot(slot).name);
            if stream.is_some() {
                unannounced.push(slot);
            }
            stream
        });
        stream.as_ref().map_or(Duration::ZERO, DelayStream::next)
    }

    /// The handlers delayed for the first time since the last call: (name, shortest, longest).
    pub(crate) fn unannounced(&self) -> Vec<(String, Duration, Duration)> {
        let mut injection = lock(&self.injection);
        let Some(injection) = &mut *injection else {
            return Vec::new();
        };
        let slots = std::mem::take(&mut injection.unannounced);
        slots
            .into_iter()
            .filter_map(|slot| {
                let (min, max) = injection.streams.get(&slot)?.as_ref()?.bounds();
                Some((self.tracker().slot(slot).name.to_string(), min, max))
            })
            .collect()
    }

    /// Takes back what waits under `number`; None when it has been queued or taken back. Any thread.
    pub(crate) fn take_back(&self, number: u64) -> Option<Item> {
        let (_, item) = lock(&self.delayed).items.remove(&number)?;
        if let Ok(timers) = self.timers() {
            timers.cancelled();
        }
        if self.delayed_count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.poke();
        }
        Some(item)
    }

    /// Shows the garbage collector what waits, until it has seen enough.
    ///
    /// It looks several times, and frees what it saw at first and did not find again: so each look must see everything, and
    /// giving way to a thread that holds a lock (`try_lock`) would free what is in use. These locks can be waited for. Who holds
    /// one runs no Python code, allocates no Python object and never waits for the GIL, as posters, who hold the GIL, rely on,
    /// too; and while a look goes on, nobody who is not attached adds or takes anything. The timers' thread only moves what
    /// waits from one to the other, both of which are locked here, in its order. A forked child's locks may be held for ever;
    /// there nothing is shown, and so nothing freed.
    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.is_parents() {
            return Ok(());
        }
        let delayed = lock(&self.delayed);
        let mut waiting = delayed.items.values();
        waiting.try_for_each(|(_, item)| item.traverse(visit))?;
        self.mailbox.look_at_all(|item| item.traverse(visit))
    }

    /// Refuses everything from now on and gives back what waits: what is queued, then what waits for its time.
    pub(crate) fn close(&self) -> Vec<Item> {
        let mut delayed = lock(&self.delayed);
        delayed.closed = true;
        let mut left = self.mailbox.close();
        let waiting = std::mem::take(&mut delayed.items);
        drop(delayed);
        self.delayed_count
            .fetch_sub(waiting.len(), Ordering::AcqRel);
        left.extend(waiting.into_values().map(|(_, item)| item));
        left
    }
}

impl Due for Shared {
    /// Moves a delayed handler to the mailbox.
    fn due(&self, number: u64) {
        // Locked until it is in the mailbox, so that `close` finds it either here or there.
        let mut delayed = lock(&self.delayed);
        let Some((lane, mut item)) = delayed.items.remove(&number) else {
            return;
        };
        item.is_queued_at(clock::now());
        // At once, so that the loop never sees neither, and never goes to sleep for having seen both.
        let refused = self.mailbox.push_moved(lane, item, || {
            self.delayed_count.fetch_sub(1, Ordering::AcqRel);
        });
        drop(delayed);
        drop(refused);
    }

    fn waits_for(&self, number: u64) -> bool {
        lock(&self.delayed).items.contains_key(&number)
    }
}

impl ObservedLoop for Shared {
    fn name(&self) -> &str {
        &self.name
    }

    fn record(&self) -> &LoopRecord {
        self.mailbox.tracker()
    }

    fn is_closed(&self) -> bool {
        lock(&self.delayed).closed
    }

    fn queued(&self) -> [usize; 3] {
        self.mailbox.queued()
    }

    fn delayed(&self) -> usize {
        self.delayed_count()
    }

    fn guards(&self) -> usize {
        self.guards.load(Ordering::Acquire)
    }

    fn refused(&self) -> [u64; 3] {
        self.mailbox.refused()
    }

    fn oldest_queued_at(&self) -> u64 {
        match (
            self.activity().next_queued_at(),
            self.mailbox.oldest_queued_at(),
        ) {
            (0, at) | (at, 0) => at,
            (taken, waiting) => taken.min(waiting),
        }
    }

    fn post_probe(&self, probe: Arc<dyn Probe>) -> bool {
        if self.is_parents() {
            return false;
        }
        let queued_at = clock::now();
        let item = Item::Probe { probe, queued_at };
        self.mailbox.push_admitted(Lane::Normal, item).is_ok()
    }

    fn set_timer(&self, delay: Duration, target: Weak<dyn Due>, number: u64) {
        // Without a thread nothing that is delayed works, and whoever posts is told so.
        if let Ok(timers) = self.timers() {
            timers.schedule(delay, target, number);
        }
    }
}
