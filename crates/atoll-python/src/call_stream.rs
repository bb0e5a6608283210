//! What a call with several messages has besides: the loops on which they are read and written, and who waits there.
//!
//! A call lives on the loop that its path chooses. Where an interceptor has chosen a handler of another loop, that one arrives
//! as the second home: its handler reads and writes there, and it hears of progress by itself.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `second` | the second loop, before its handler begins | any thread | – (set once) |
//! | `is_moved` | the second loop | any thread | an atomic |
//! | a home's fields | its loop's thread | the same | a mutex, atomics |

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use atoll_core::clock;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use crate::loop_core::{LoopCore, lock};
use crate::{current, error};

/// The turn of a reader that has paused begins when it asks again: others may have taken longer than a turn meanwhile.
const NEXT: u64 = 0;

/// A loop on which messages are read and written.
pub(crate) struct Home {
    core: Py<LoopCore>,
    /// Futures of its tasks that wait for messages or room.
    waiters: Mutex<Vec<Py<PyAny>>>,
    /// Since when the handler has gone from message to message without waiting; in ticks, or [`NEXT`].
    turn_began: AtomicU64,
    /// The handler has been told that its turn is over.
    pauses: AtomicBool,
}

impl Home {
    fn new(core: &Bound<'_, LoopCore>) -> Self {
        Self {
            core: core.clone().unbind(),
            waiters: Mutex::default(),
            turn_began: AtomicU64::new(clock::now()),
            pauses: AtomicBool::new(false),
        }
    }

    pub(crate) fn core(&self) -> &LoopCore {
        self.core.get()
    }

    fn is(&self, core: &LoopCore) -> bool {
        std::ptr::eq(self.core.get(), core)
    }

    /// Messages that are there and room that is there are no reason to keep the loop from others: after the drain budget the
    /// handler waits for one round.
    pub(crate) fn turn_is_over(&self) -> bool {
        let now = clock::now();
        let began = self.turn_began.load(Ordering::Relaxed);
        if began == NEXT {
            self.turn_began.store(now, Ordering::Relaxed);
            return false;
        }
        let is_over = now.saturating_sub(began) > self.core.get().budget;
        if is_over {
            self.turn_began.store(now, Ordering::Relaxed);
        }
        is_over
    }

    /// The handler is to wait for a round, not for progress.
    pub(crate) fn pause(&self) {
        self.turn_began.store(NEXT, Ordering::Relaxed);
        self.pauses.store(true, Ordering::Relaxed);
    }

    /// The lock is held by attached threads only, and never while Python code runs: so not while the garbage collector looks.
    fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.core)?;
        match self.waiters.try_lock() {
            Ok(waiters) => waiters.iter().try_for_each(|it| visit.call(it)),
            Err(_) => Ok(()),
        }
    }

    /// Has `future` get its result when there is progress; false where there is nothing to wait for but one's turn.
    pub(crate) fn wait(&self, py: Python<'_>, future: Py<PyAny>) -> bool {
        if self.pauses.swap(false, Ordering::Relaxed) {
            return false;
        }
        let mut waiters = std::mem::take(&mut *lock(&self.waiters));
        // Whoever has given up waiting would otherwise be kept until there is progress.
        waiters.retain(|waiter| {
            let is_done = waiter.call_method0(py, intern!(py, "done"));
            !is_done.is_ok_and(|it| it.is_truthy(py).unwrap_or(false))
        });
        waiters.push(future);
        *lock(&self.waiters) = waiters;
        true
    }
}

/// The messages of a call, as its handler's loop sees them.
pub(crate) struct CallStream {
    first: Home,
    /// The loop of a handler that an interceptor has chosen elsewhere.
    second: OnceLock<Home>,
    /// Nobody reads or writes on the first one any more.
    is_moved: AtomicBool,
}

impl CallStream {
    pub(crate) fn on(core: &Bound<'_, LoopCore>) -> Self {
        Self {
            first: Home::new(core),
            second: OnceLock::new(),
            is_moved: AtomicBool::new(false),
        }
    }

    /// The handler runs on `core`, `alone` unless what wraps it reads and writes where it was before.
    pub(crate) fn arrive(&self, core: &Bound<'_, LoopCore>, alone: bool) -> PyResult<()> {
        let second = self.second.get_or_init(|| Home::new(core));
        if !second.is(core.get()) {
            let name = &second.core.get().shared.name;
            return Err(error::call_has_moved(name, &core.get().shared.name));
        }
        self.is_moved.store(alone, Ordering::Release);
        Ok(())
    }

    /// The home that is the caller's loop.
    pub(crate) fn here(&self, py: Python<'_>) -> PyResult<&Home> {
        let second = self.second.get();
        let is_moved = second.is_some() && self.is_moved.load(Ordering::Acquire);
        if !is_moved && current::check(self.first.core.bind(py))? {
            return Ok(&self.first);
        }
        if let Some(second) = second
            && current::check(second.core.bind(py))?
        {
            return Ok(second);
        }
        let home = second.filter(|_| is_moved).unwrap_or(&self.first);
        Err(error::call_of_another_loop(&home.core.get().shared.name))
    }

    /// The loop of the handler that reads and writes, for what it does off its loop.
    pub(crate) fn last_core(&self) -> &LoopCore {
        self.second.get().unwrap_or(&self.first).core()
    }

    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut homes = std::iter::once(&self.first).chain(self.second.get());
        homes.try_for_each(|home| home.traverse(visit))
    }

    /// Takes the futures of all who wait.
    pub(crate) fn take_all_waiters(&self) -> Vec<Py<PyAny>> {
        let homes = std::iter::once(&self.first).chain(self.second.get());
        homes
            .flat_map(|home| std::mem::take(&mut *lock(&home.waiters)))
            .collect()
    }

    /// Takes the futures of those who wait on `core`.
    pub(crate) fn take_waiters(&self, core: &LoopCore) -> Vec<Py<PyAny>> {
        let mut homes = std::iter::once(&self.first).chain(self.second.get());
        let Some(home) = homes.find(|home| home.is(core)) else {
            return Vec::new();
        };
        home.turn_began.store(clock::now(), Ordering::Relaxed);
        std::mem::take(&mut *lock(&home.waiters))
    }
}
