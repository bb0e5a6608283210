//! The native thread behind delayed posts.
//!
//! One thread per process, started at the first delayed post, serves every loop: event loops' own timers are too coarse (for
//! 200 µs uvloop fires at once and asyncio after 1.1 ms) and wait for the GIL. A forked child has no threads of its parent's,
//! so it starts one of its own.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | the heap | schedulers and the timer thread | the same | the mutex |
//! | `TIMER` | the first scheduler, and a forked child | schedulers | `START` |
//!
//! Actions run on the timer thread, outside the mutex, in the order of their due times and, among equals, as scheduled.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicPtr, Ordering::Acquire, Ordering::Release};
use std::sync::{Condvar, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// What a timer does when it is due. It must not block.
pub type Action = Box<dyn FnOnce() + Send>;

struct Entry {
    due: Instant,
    sequence: u64,
    action: Action,
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
}

/// A thread that runs actions at their due times.
#[derive(Default)]
struct Timer {
    heap: Mutex<Heap>,
    earlier: Condvar,
}

/// Runs `action` on the timer thread after `delay`. Any thread.
///
/// # Errors
/// When the process can't start the timer thread.
pub fn schedule(delay: Duration, action: Action) -> std::io::Result<()> {
    let timer = match running() {
        Some(timer) => timer,
        None => start()?,
    };
    timer.add(Instant::now() + delay, action);
    Ok(())
}

/// The process's timer, never freed; null until its thread has been started.
static TIMER: AtomicPtr<Timer> = AtomicPtr::new(std::ptr::null_mut());

fn running() -> Option<&'static Timer> {
    // SAFETY: it is null or comes from a box that was leaked.
    unsafe { TIMER.load(Acquire).as_ref() }
}

#[cold]
fn start() -> std::io::Result<&'static Timer> {
    static START: Mutex<()> = Mutex::new(());
    static WATCH_FOR_FORKS: Once = Once::new();
    let _starting = START.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(timer) = running() {
        return Ok(timer);
    }
    // SAFETY: the function is of the kind asked for, and does nothing but an atomic store.
    WATCH_FOR_FORKS.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(forget_parents_timer));
    });
    let timer = Box::leak(Box::<Timer>::default());
    let pointer = std::ptr::from_mut(timer);
    let timer: &'static Timer = timer;
    std::thread::Builder::new()
        .name("atoll-timer".into())
        .spawn(|| timer.run())?;
    TIMER.store(pointer, Release);
    Ok(timer)
}

/// In a forked child: what the parent had scheduled stays the parent's.
unsafe extern "C" fn forget_parents_timer() {
    TIMER.store(std::ptr::null_mut(), Release);
}

impl Timer {
    fn add(&self, due: Instant, action: Action) {
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = heap.sequence;
        heap.sequence += 1;
        let first = heap
            .entries
            .peek()
            .is_none_or(|Reverse(entry)| due < entry.due);
        heap.entries.push(Reverse(Entry {
            due,
            sequence,
            action,
        }));
        drop(heap);
        if first {
            self.earlier.notify_one();
        }
    }

    fn run(&self) -> ! {
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            heap = match heap.entries.peek() {
                None => self
                    .earlier
                    .wait(heap)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(Reverse(entry)) if entry.due > now => {
                    let wait = entry.due - now;
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
                    (entry.action)();
                    self.heap.lock().unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn actions_run_in_the_order_of_their_due_times_and_among_equals_as_scheduled() {
        let timer: &'static Timer = Box::leak(Box::default());
        let (sender, receiver) = mpsc::channel();
        let start = Instant::now();
        for (name, delay) in [("late", 20), ("first", 5), ("second", 5)] {
            let sender = sender.clone();
            let due = start + Duration::from_millis(delay);
            timer.add(due, Box::new(move || sender.send(name).unwrap()));
        }
        std::thread::spawn(|| timer.run());
        let ran: Vec<_> = (0..3).map(|_| receiver.recv().unwrap()).collect();
        assert_eq!(ran, ["first", "second", "late"]);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn an_earlier_action_is_not_held_up_by_a_later_one_scheduled_before_it() {
        let (sender, receiver) = mpsc::channel();
        let other = sender.clone();
        schedule(
            Duration::from_secs(3600),
            Box::new(move || other.send("hour").unwrap()),
        )
        .unwrap();
        schedule(
            Duration::from_millis(1),
            Box::new(move || sender.send("now").unwrap()),
        )
        .unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok("now"));
    }
}
