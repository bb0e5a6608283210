//! What waits for its time: the native thread behind delayed posts, and the clock that a test moves by hand.
//!
//! One thread per process, started at the first delayed post, serves every loop: event loops' own timers are too coarse (for
//! 200 µs uvloop fires at once and asyncio after 1.1 ms) and wait for the GIL. A forked child has no threads of its parent's,
//! so it starts one of its own. [`Timers::manual`] has no thread: time stands still until [`Timers::advance_to`].
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | the heap | schedulers and whoever drives the timers | the same | the mutex |
//! | `Manual::nanos` | whoever advances it | any thread | an atomic |
//! | `Manual::history` | whoever advances it | any thread | its mutex |
//! | `PROCESS` | the first scheduler of a process | schedulers | `STARTING` |
//!
//! Targets are told outside the mutex, in the order of the due times and, among equals, as scheduled.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::fork;
use crate::native_thread;

/// What timers are set for.
pub trait Due: Send + Sync {
    /// The timer `number` is due. On the thread that drives the timers; must not block.
    fn due(&self, number: u64);

    /// Whether the timer `number` has not been cancelled. Called while the timers are locked: must not set one.
    fn waits_for(&self, number: u64) -> bool;
}

struct Entry {
    /// Since the timers' origin.
    due: Duration,
    sequence: u64,
    target: Weak<dyn Due>,
    number: u64,
}

impl Entry {
    /// Whether its target is alive and has not cancelled it; the target goes to `targets`.
    fn is_waited_for(&self, targets: &mut Vec<Arc<dyn Due>>) -> bool {
        let Some(target) = self.target.upgrade() else {
            return false;
        };
        let waits = target.waits_for(self.number);
        targets.push(target);
        waits
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

#[derive(Default)]
struct Heap {
    entries: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    /// At most this many entries have been cancelled and are still in the heap.
    cancelled: usize,
}

/// Below this many entries, cancelled ones wait for their time: looking for them would cost more.
const FEW: usize = 1_024;

enum Time {
    Real(Instant),
    Manual(Manual),
}

/// How many moves of manual time are remembered.
const MOST_MOVES: usize = 4_096;

#[derive(Default)]
struct Manual {
    /// Since the origin.
    nanos: AtomicU64,
    history: Mutex<History>,
}

/// When manual time was moved.
#[derive(Default)]
struct History {
    /// What time it was before the first of the moves that are remembered.
    before: Duration,
    /// When, and to what time.
    moves: VecDeque<(Instant, Duration)>,
}

impl Manual {
    fn move_to(&self, time: Duration) {
        let nanos = time.as_nanos() as u64;
        if self.nanos.fetch_max(nanos, Release) >= nanos {
            return;
        }
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.moves.len() == MOST_MOVES
            && let Some((_, time)) = history.moves.pop_front()
        {
            history.before = time;
        }
        history.moves.push_back((Instant::now(), time));
    }

    fn at(&self, instant: Instant) -> Duration {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let later = history.moves.partition_point(|(at, _)| *at <= instant);
        let last = later
            .checked_sub(1)
            .and_then(|last| history.moves.get(last));
        last.map_or(history.before, |(_, time)| *time)
    }
}

/// Timers in the order of their due times.
pub struct Timers {
    heap: Mutex<Heap>,
    earlier: Condvar,
    time: Time,
    /// The process that drives them.
    generation: u32,
}

/// The process's timers, never freed; of another process after a fork.
static PROCESS: AtomicPtr<Timers> = AtomicPtr::new(std::ptr::null_mut());

/// The timers that the native thread drives, which is started at the first call. Any thread.
///
/// # Errors
/// When the process can't start the timer thread.
pub fn process() -> std::io::Result<&'static Timers> {
    match running() {
        Some(timers) => Ok(timers),
        None => start(),
    }
}

fn running() -> Option<&'static Timers> {
    // SAFETY: it is null or comes from a box that was leaked.
    let timers = unsafe { PROCESS.load(Acquire).as_ref() };
    timers.filter(|timers| timers.generation == fork::generation())
}

#[cold]
fn start() -> std::io::Result<&'static Timers> {
    static STARTING: Mutex<()> = Mutex::new(());
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(timers) = running() {
        return Ok(timers);
    }
    let timers = Box::leak(Box::new(Timers::new(Time::Real(Instant::now()))));
    let pointer = std::ptr::from_mut(timers);
    let timers: &'static Timers = timers;
    native_thread::spawn("atoll-timer".into(), || timers.run())?;
    PROCESS.store(pointer, Release);
    Ok(timers)
}

impl Timers {
    fn new(time: Time) -> Self {
        Self {
            heap: Mutex::default(),
            earlier: Condvar::new(),
            time,
            generation: fork::watch(),
        }
    }

    /// Timers whose time, zero at first, passes only in [`Self::advance_to`].
    #[must_use]
    pub fn manual() -> Arc<Self> {
        Arc::new(Self::new(Time::Manual(Manual::default())))
    }

    /// The time since the timers' origin. Any thread.
    pub fn now(&self) -> Duration {
        match &self.time {
            Time::Real(origin) => origin.elapsed(),
            Time::Manual(manual) => Duration::from_nanos(manual.nanos.load(Acquire)),
        }
    }

    /// What time it was at `instant`, which is not in the future; of manual time the last 4,096 moves are remembered. Any thread.
    #[must_use]
    pub fn at(&self, instant: Instant) -> Duration {
        match &self.time {
            Time::Real(origin) => instant.saturating_duration_since(*origin),
            Time::Manual(manual) => manual.at(instant),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells `target` after `delay` that its timer `number` is due. Any thread.
    pub fn schedule(&self, delay: Duration, target: Weak<dyn Due>, number: u64) {
        let mut heap = self.lock();
        // Under the mutex, so that equal delays are due in the order in which they were scheduled.
        let due = self.now().saturating_add(delay);
        let sequence = heap.sequence;
        heap.sequence += 1;
        let first = heap
            .entries
            .peek()
            .is_none_or(|Reverse(entry)| due < entry.due);
        heap.entries.push(Reverse(Entry {
            due,
            sequence,
            target,
            number,
        }));
        drop(heap);
        if first {
            self.earlier.notify_one();
        }
    }

    /// A target waits no longer for one of its timers, which is forgotten when cancelled ones are the larger part. Any thread.
    pub fn cancelled(&self) {
        // Dropped after the lock: what the last reference frees may set a timer.
        let mut targets = Vec::new();
        let mut heap = self.lock();
        heap.cancelled += 1;
        if heap.entries.len() < FEW || heap.cancelled * 2 < heap.entries.len() {
            return;
        }
        heap.entries
            .retain(|Reverse(entry)| entry.is_waited_for(&mut targets));
        heap.cancelled = 0;
        drop(heap);
    }

    /// How many timers are set, cancelled ones that have not been forgotten included. Any thread.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether no timer is set. Any thread.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the next timer is due that has not been cancelled, since the origin. Any thread.
    pub fn next_due(&self) -> Option<Duration> {
        let mut targets = Vec::new();
        let mut heap = self.lock();
        loop {
            let Reverse(entry) = heap.entries.peek()?;
            if entry.is_waited_for(&mut targets) {
                return Some(entry.due);
            }
            heap.entries.pop();
            heap.cancelled = heap.cancelled.saturating_sub(1);
        }
    }

    /// Moves manual time on to `time` and tells the targets of what is due by then; never back. One thread at a time.
    ///
    /// # Panics
    /// On timers whose time is real.
    pub fn advance_to(&self, time: Duration) {
        let Time::Manual(manual) = &self.time else {
            panic!("real time passes by itself");
        };
        manual.move_to(time);
        loop {
            let mut heap = self.lock();
            match heap.entries.peek() {
                Some(Reverse(entry)) if entry.due <= time => {}
                _ => return,
            }
            let entry = heap.entries.pop();
            drop(heap);
            if let Some(Reverse(entry)) = entry {
                tell(&entry);
            }
        }
    }

    fn run(&self) -> ! {
        let mut heap = self.lock();
        loop {
            let now = self.now();
            heap = match heap.entries.peek() {
                None => self
                    .earlier
                    .wait(heap)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(Reverse(entry)) if entry.due > now => {
                    let wait = entry.due.saturating_sub(now);
                    self.earlier
                        .wait_timeout(heap, wait)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                Some(_) => {
                    let Some(Reverse(entry)) = heap.entries.pop() else {
                        continue;
                    };
                    drop(heap);
                    tell(&entry);
                    self.lock()
                }
            };
        }
    }
}

fn tell(entry: &Entry) {
    if let Some(target) = entry.target.upgrade() {
        target.due(entry.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::mpsc;

    /// Remembers what was due, and forgets what was cancelled.
    struct Target {
        ran: mpsc::Sender<u64>,
        cancelled: Mutex<HashSet<u64>>,
    }

    impl Due for Target {
        fn due(&self, number: u64) {
            self.ran.send(number).unwrap();
        }

        fn waits_for(&self, number: u64) -> bool {
            !self.cancelled.lock().unwrap().contains(&number)
        }
    }

    fn target() -> (Arc<Target>, Weak<dyn Due>, mpsc::Receiver<u64>) {
        let (ran, receiver) = mpsc::channel();
        let target = Arc::new(Target {
            ran,
            cancelled: Mutex::default(),
        });
        let weak: Weak<Target> = Arc::downgrade(&target);
        (target, weak, receiver)
    }

    fn millis(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn timers_are_due_in_the_order_of_their_times_and_among_equals_as_scheduled() {
        let timers = Timers::manual();
        let (_target, weak, ran) = target();
        for (number, delay) in [(3, 20), (1, 5), (2, 5)] {
            timers.schedule(millis(delay), weak.clone(), number);
        }
        assert_eq!(timers.next_due(), Some(millis(5)));
        timers.advance_to(millis(19));
        assert_eq!(ran.try_iter().collect::<Vec<_>>(), [1, 2]);
        timers.advance_to(millis(20));
        assert_eq!(ran.try_iter().collect::<Vec<_>>(), [3]);
        assert_eq!(timers.now(), millis(20));
    }

    #[test]
    fn manual_time_never_goes_back() {
        let timers = Timers::manual();
        timers.advance_to(millis(20));
        timers.advance_to(millis(10));
        assert_eq!(timers.now(), millis(20));
    }

    #[test]
    fn manual_time_remembers_what_it_was_at_a_real_instant() {
        let timers = Timers::manual();
        let first = Instant::now();
        timers.advance_to(millis(20));
        let second = Instant::now();
        timers.advance_to(millis(30));
        let third = Instant::now();
        let known = [first, second, third].map(|instant| timers.at(instant));
        assert_eq!(known, [0, 20, 30].map(millis));
        for step in 0..2 * MOST_MOVES as u64 {
            timers.advance_to(millis(31 + step));
        }
        let forgotten = timers.at(first);
        assert_eq!(
            forgotten,
            millis(30 + MOST_MOVES as u64),
            "the oldest known"
        );
        assert_eq!(timers.at(Instant::now()), timers.now());
    }

    #[test]
    fn the_threads_timers_are_due_after_their_delay_the_earlier_first() {
        let (_target, weak, ran) = target();
        let timers = process().unwrap();
        let start = Instant::now();
        timers.schedule(Duration::from_secs(3600), weak.clone(), 1);
        timers.schedule(millis(20), weak.clone(), 2);
        timers.schedule(millis(1), weak, 3);
        assert_eq!(ran.recv_timeout(Duration::from_secs(10)), Ok(3));
        assert_eq!(ran.recv_timeout(Duration::from_secs(10)), Ok(2));
        assert!(start.elapsed() >= millis(20));
    }

    #[test]
    fn a_timer_whose_target_is_gone_is_passed_over() {
        let timers = Timers::manual();
        let (target, weak, ran) = target();
        timers.schedule(millis(1), weak, 1);
        drop(target);
        assert_eq!(timers.next_due(), None);
        timers.advance_to(millis(1));
        assert_eq!(ran.try_iter().count(), 0);
    }

    #[test]
    fn cancelled_timers_are_forgotten_before_they_are_the_larger_part() {
        let timers = Timers::manual();
        let (target, weak, _ran) = target();
        for number in 0..10_000 {
            timers.schedule(Duration::from_secs(3600), weak.clone(), number);
            target.cancelled.lock().unwrap().insert(number);
            timers.cancelled();
            assert!(
                timers.len() <= 2 * FEW,
                "{} timers after {number}",
                timers.len()
            );
        }
        assert_eq!(timers.next_due(), None);
    }
}
