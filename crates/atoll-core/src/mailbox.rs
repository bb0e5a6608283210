//! The queue in front of every loop, and the protocol that wakes the loop.
//!
//! Guarantees:
//! * What one thread pushes to one lane comes out in the order pushed.
//! * The consumer is woken at most once per idle→busy change, and a push is never left behind without a wake-up, unless the
//!   consumer dozes: then it comes back by itself, and is woken only when a lane is half full.
//! * No lane starves: while a lane has items, each [`Mailbox::take`] brings some of them.
//! * A lane holds at most its bound, what the consumer has taken and not yet started included; a push beyond it is counted, and
//!   gives the item back.
//!
//! | field | written by | read by | under |
//! |---|---|---|---|
//! | `lanes`, `consumer`, `noted`, `closed` | posters and consumer | the same | the mutex |
//! | `taken` | the consumer, more under the mutex | any thread | relaxed atomics |
//! | `refused` | posters | any thread | relaxed atomics |
//! | `settings`, `tracker` | nobody after construction | posters | – |
//!
//! The mutex is held for a few instructions and never while Python code, a destructor or a system call runs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::sync::{Mutex, lock};
use crate::wake::Wake;

/// A priority class within a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// What keeps the system alive: heartbeats, cancellations.
    Control = 0,
    /// Everything else.
    Normal = 1,
    /// What can wait: scans, exports.
    Bulk = 2,
}

impl Lane {
    /// All lanes, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Control, Self::Normal, Self::Bulk];

    /// The lane's name, as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }
}

/// How much each lane may hold, and how much of it goes into one batch; in the order of [`Lane::ALL`].
#[derive(Debug, Clone, Copy)]
pub struct LaneSettings {
    /// How many items a lane holds at most.
    pub limits: [usize; 3],
    /// How many items of a lane one [`Mailbox::take`] brings at most: the lanes' weights. At least one each.
    pub weights: [usize; 3],
}

impl LaneSettings {
    /// Lanes of `limit` items each with the weights that loops have unless told otherwise.
    #[must_use]
    pub const fn with_limit(limit: usize) -> Self {
        Self {
            limits: [limit; 3],
            weights: [64, 32, 8],
        }
    }
}

/// An item that is counted when it is accepted.
pub trait Post {
    /// What keeps the count; it belongs to the mailbox.
    type Tracker;

    /// Called under the mailbox's mutex when the item has been accepted, before the consumer can see it.
    fn accepted(&self, tracker: &Self::Tracker);

    /// Called under the mailbox's mutex when an item ends the consumer's sleep.
    fn waking(_tracker: &Self::Tracker) {}

    /// Whether the item takes up none of its lane's room: an observer's.
    fn is_uncounted(&self) -> bool {
        false
    }

    /// When the item was queued, in ticks; zero where nobody asks.
    fn queued_at(&self) -> u64 {
        0
    }
}

/// When the first of `items` was queued that knows it, in ticks; zero when none does. An observer's probe, which does not, may
/// be in front of what it observes.
#[inline]
#[must_use]
pub fn first_queued_at<T: Post>(items: &VecDeque<T>) -> u64 {
    match items.front().map(Post::queued_at) {
        None => 0,
        Some(0) => first_that_knows(items),
        Some(at) => at,
    }
}

#[cold]
fn first_that_knows<T: Post>(items: &VecDeque<T>) -> u64 {
    // Of many that don't know it, enough are asked.
    let mut asked = items.iter().take(256).map(Post::queued_at);
    asked.find(|&at| at > 0).unwrap_or(0)
}

/// Why an item was not accepted; the item comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum PushError<T> {
    /// The lane holds as many items as it may.
    Full(T),
    /// The mailbox has been closed.
    Closed(T),
}

/// What the consumer does, and so what the next push has to do for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consumer {
    /// Nothing: it looks again before it sleeps.
    Busy,
    /// Nothing but to note that something waits, until much does: it looks again after a while.
    Dozes,
    /// To wake it.
    Sleeps,
}

#[derive(Debug)]
struct State<T: Post> {
    lanes: [VecDeque<T>; 3],
    /// How many of each lane's items take up no room.
    uncounted: [usize; 3],
    /// How many items of the control lane may still go before the rest of the present batch.
    urgent_credit: usize,
    consumer: Consumer,
    /// Whether it has been noted that something waits for a consumer that dozes.
    noted: bool,
    closed: bool,
}

impl<T: Post> State<T> {
    fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    /// How many items of `lane` take up room.
    fn counted(&self, lane: usize) -> usize {
        self.lanes[lane].len() - self.uncounted[lane]
    }
}

/// A bounded queue with lanes, many producers and one consumer.
#[derive(Debug)]
pub struct Mailbox<T: Post, W> {
    state: Mutex<State<T>>,
    /// How many items of each lane have been taken and not yet started.
    taken: [AtomicUsize; 3],
    /// How many items of each lane found no room.
    refused: [AtomicU64; 3],
    settings: LaneSettings,
    waker: W,
    tracker: T::Tracker,
}

impl<T: Post, W: Wake> Mailbox<T, W> {
    /// An empty mailbox. The consumer counts as asleep.
    pub fn new(settings: LaneSettings, waker: W, tracker: T::Tracker) -> Self {
        let lanes = [VecDeque::new(), VecDeque::new(), VecDeque::new()];
        Self {
            state: Mutex::new(State {
                lanes,
                uncounted: [0; 3],
                urgent_credit: 0,
                consumer: Consumer::Sleeps,
                noted: false,
                closed: false,
            }),
            taken: [const { AtomicUsize::new(0) }; 3],
            refused: [const { AtomicU64::new(0) }; 3],
            settings,
            waker,
            tracker,
        }
    }

    /// What counts the accepted items.
    pub fn tracker(&self) -> &T::Tracker {
        &self.tracker
    }

    /// How many items `lane` holds at most.
    pub fn limit(&self, lane: Lane) -> usize {
        self.settings.limits[lane as usize]
    }

    /// The waker given at construction.
    pub fn waker(&self) -> &W {
        &self.waker
    }

    /// Lets `count` write the counters of accepted items, for one that is run without being queued. Any thread.
    pub fn count(&self, count: impl FnOnce(&T::Tracker)) {
        let _state = lock(&self.state);
        count(&self.tracker);
    }

    /// Appends `item`. Any thread.
    ///
    /// # Errors
    /// The item comes back when the lane is full or the mailbox closed.
    pub fn push(&self, lane: Lane, item: T) -> Result<(), PushError<T>> {
        self.append(lane, item, self.settings.limits[lane as usize], || ())
    }

    /// Appends an item that has been admitted before (a delayed post, a cancellation), whatever the lane's bound. Any thread.
    ///
    /// # Errors
    /// The item comes back when the mailbox is closed.
    pub fn push_admitted(&self, lane: Lane, item: T) -> Result<(), PushError<T>> {
        self.append(lane, item, usize::MAX, || ())
    }

    /// As [`Self::push_admitted`], and calls `moved` at the same moment: whoever looks into the mailbox and finds the item
    /// there, or finds nothing to [`Self::arm`] for, sees what it did. It runs under the mutex.
    ///
    /// # Errors
    /// The item comes back when the mailbox is closed; `moved` has not been called then.
    pub fn push_moved(
        &self,
        lane: Lane,
        item: T,
        moved: impl FnOnce(),
    ) -> Result<(), PushError<T>> {
        self.append(lane, item, usize::MAX, moved)
    }

    #[inline]
    fn append(
        &self,
        lane: Lane,
        item: T,
        limit: usize,
        moved: impl FnOnce(),
    ) -> Result<(), PushError<T>> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(PushError::Closed(item));
        }
        if self.held(&state, lane as usize) >= limit {
            self.count_refused(lane, 1);
            return Err(PushError::Full(item));
        }
        item.accepted(&self.tracker);
        state.uncounted[lane as usize] += usize::from(item.is_uncounted());
        state.lanes[lane as usize].push_back(item);
        moved();
        let wake = self.must_wake(&mut state, lane as usize);
        drop(state);
        if wake {
            self.waker.wake();
        }
        Ok(())
    }

    /// Appends as many of `items` as the lane has room for, in order, under one lock and with at most one wake-up; the rest
    /// stays in `items`. Any thread.
    pub fn push_all(&self, lane: Lane, items: &mut Vec<T>) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        let held = self.held(&state, lane as usize);
        let room = self.settings.limits[lane as usize].saturating_sub(held);
        let count = room.min(items.len());
        self.count_refused(lane, items.len() - count);
        if count == 0 {
            return;
        }
        for item in &items[..count] {
            item.accepted(&self.tracker);
        }
        state.lanes[lane as usize].extend(items.drain(..count));
        let wake = self.must_wake(&mut state, lane as usize);
        drop(state);
        if wake {
            self.waker.wake();
        }
    }

    /// Something waits in `lane` now. Returns whether the consumer must be woken.
    #[inline]
    fn must_wake(&self, state: &mut State<T>, lane: usize) -> bool {
        match state.consumer {
            Consumer::Busy => false,
            Consumer::Sleeps => {
                state.consumer = Consumer::Busy;
                T::waking(&self.tracker);
                true
            }
            Consumer::Dozes => self.must_rouse(state, lane),
        }
    }

    fn must_rouse(&self, state: &mut State<T>, lane: usize) -> bool {
        if !std::mem::replace(&mut state.noted, true) {
            T::waking(&self.tracker);
        }
        let is_crowded = self.held(state, lane) > self.settings.limits[lane] / 2;
        if is_crowded {
            state.consumer = Consumer::Busy;
        }
        is_crowded
    }

    /// How many items of `lane` wait, be it here or with the consumer.
    fn held(&self, state: &State<T>, lane: usize) -> usize {
        state.counted(lane) + self.taken[lane].load(Relaxed)
    }

    /// `count` items of `lane` found no room, here or wherever else they were to wait. Any thread.
    pub fn count_refused(&self, lane: Lane, count: usize) {
        if count > 0 {
            self.refused[lane as usize].fetch_add(count as u64, Relaxed);
        }
    }

    /// How many items of each lane found no room so far. Any thread.
    pub fn refused(&self) -> [u64; 3] {
        self.refused.each_ref().map(|count| count.load(Relaxed))
    }

    /// Appends the next items to run to `batch`, urgent lanes first, each within its weight. Returns false when there is
    /// nothing. They count as queued until they are [`Self::started`]. The consumer only.
    pub fn take(&self, batch: &mut VecDeque<T>) -> bool {
        let mut state = lock(&self.state);
        state.consumer = Consumer::Busy;
        let before = batch.len();
        state.urgent_credit = self.settings.weights[Lane::Control as usize];
        for lane in [0, 1, 2] {
            let first = batch.len();
            let queue = &mut state.lanes[lane];
            let count = queue.len().min(self.settings.weights[lane]);
            batch.extend(queue.drain(..count));
            if lane == Lane::Control as usize {
                state.urgent_credit -= count;
            }
            let mut counted = count;
            if state.uncounted[lane] > 0 {
                let probes = batch.range(first..).filter(|item| item.is_uncounted());
                let probes = probes.count();
                state.uncounted[lane] -= probes;
                counted -= probes;
            }
            let taken = &self.taken[lane];
            taken.store(taken.load(Relaxed) + counted, Relaxed);
        }
        batch.len() > before
    }

    /// Puts what has come into the control lane before what is left of `batch`, behind those of its items that are urgent
    /// themselves; so it need not wait for the rest of a batch that takes longer than a drain. Between two calls of
    /// [`Self::take`] no more items than the lane's weight come this way and that together, so that no lane starves. The
    /// consumer only.
    pub fn take_urgent(&self, batch: &mut VecDeque<T>, is_urgent: impl Fn(&T) -> bool) {
        let lane = Lane::Control as usize;
        let mut state = lock(&self.state);
        let count = state.lanes[lane].len().min(state.urgent_credit);
        if count == 0 {
            return;
        }
        state.urgent_credit -= count;
        let first = batch.iter().take_while(|item| is_urgent(item)).count();
        let rest = batch.split_off(first);
        batch.extend(state.lanes[lane].drain(..count));
        let probes = batch.range(first..).filter(|item| item.is_uncounted());
        let probes = probes.count();
        state.uncounted[lane] -= probes;
        let taken = &self.taken[lane];
        taken.store(taken.load(Relaxed) + count - probes, Relaxed);
        drop(state);
        batch.extend(rest);
    }

    /// `item`, which has been taken from `lane`, is queued no more: it runs now, or never will. The consumer only.
    #[inline]
    pub fn started(&self, lane: Lane, item: &T) {
        if !item.is_uncounted() {
            let taken = &self.taken[lane as usize];
            taken.store(taken.load(Relaxed).saturating_sub(1), Relaxed);
        }
    }

    /// Goes to sleep unless there is something to take: the next push wakes. Returns whether it sleeps. The consumer only.
    pub fn arm(&self) -> bool {
        self.rest(Consumer::Sleeps)
    }

    /// As [`Self::arm`], but no push wakes before a lane is half full: the consumer looks again by itself, and soon. The consumer only.
    pub fn doze(&self) -> bool {
        self.rest(Consumer::Dozes)
    }

    fn rest(&self, how: Consumer) -> bool {
        let mut state = lock(&self.state);
        let rests = state.is_empty();
        state.consumer = if rests { how } else { Consumer::Busy };
        state.noted = false;
        rests
    }

    /// How many items of each lane wait, here or taken and not yet started; those that take up no room are left out. Any thread.
    pub fn queued(&self) -> [usize; 3] {
        let state = lock(&self.state);
        [0, 1, 2].map(|lane| self.held(&state, lane))
    }

    /// Shows every item that waits here to `look`, until one is an error. Under the mutex, so `look` must be short, and neither
    /// run Python code nor wait. Any thread.
    ///
    /// # Errors
    /// The first that `look` returns.
    pub fn look_at_all<E>(&self, mut look: impl FnMut(&T) -> Result<(), E>) -> Result<(), E> {
        let state = lock(&self.state);
        state.lanes.iter().flatten().try_for_each(&mut look)
    }

    /// Whether nothing waits here to be taken, be it counted or not. Any thread.
    pub fn is_empty(&self) -> bool {
        lock(&self.state).is_empty()
    }

    /// When the longest-waiting item that knows it was queued, in ticks; zero when there is none. Any thread.
    pub fn oldest_queued_at(&self) -> u64 {
        let state = lock(&self.state);
        let oldest = state.lanes.iter().map(first_queued_at);
        oldest.filter(|&at| at > 0).min().unwrap_or(0)
    }

    /// Refuses every later push and gives back what waits, urgent lanes first. Any thread; a second call gives nothing.
    pub fn close(&self) -> Vec<T> {
        let mut state = lock(&self.state);
        state.closed = true;
        state.uncounted = [0; 3];
        let mut left = Vec::new();
        for queue in &mut state.lanes {
            left.extend(std::mem::take(queue));
        }
        left
    }
}
