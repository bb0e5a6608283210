//! What a loop's thread is doing, readable from any thread at any moment, the GIL held or not.
//!
//! Time is split in three, as Seastar does it: *running* handlers; *waiting*, when something is queued and the thread is not
//! running it, because it waits for the GIL or for the kernel, or runs asyncio's own callbacks; and *idle*, all the rest.
//!
//! | field | written by | read by | under |
//! |---|---|---|---|
//! | `ready_since` | the poster that ends the loop's sleep, under the mailbox's mutex; else the loop's thread | any | an atomic |
//! | `told` | readers | readers | an atomic maximum |
//! | `rests` | whoever can tell whether a guest's host runs; the loop's thread | any | an atomic |
//! | all others | the loop's thread | any | relaxed atomics |
//!
//! The loop's thread writes a few words per handler and never waits. A reader may see two fields of different moments:
//! [`Activity::running`] reads its pair again until it agrees.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64};
use std::sync::atomic::{
    Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence,
};

use crate::clock;
use crate::stats::SlotIndex;

/// Adds to a counter that only the calling thread writes.
#[inline]
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// A handler that is running: its slot, and since when, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// The handler's slot in the loop's event tracker.
    pub slot: SlotIndex,
    /// When its present step began.
    pub since: u64,
}

/// How a loop's time went since it was made; in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeSplit {
    /// Since the loop was made.
    pub uptime: u64,
    /// While there was nothing to do.
    pub idle: u64,
    /// While something was queued and nothing ran it.
    pub waiting: u64,
    /// In handlers.
    pub running: u64,
}

/// What one loop's thread is doing.
#[derive(Debug)]
pub struct Activity {
    made_at: u64,
    /// The system's number of the thread that runs the loop; zero while none does.
    thread: AtomicI32,
    /// Whether it does not run the loop for now: nobody tells a guest when its host stops.
    rests: AtomicBool,
    /// Since when it does.
    runs_since: AtomicU64,
    /// The running handler's slot plus one; zero when none runs.
    running: AtomicU32,
    running_since: AtomicU64,
    /// When the handler was queued that runs next, of those taken from the mailbox; zero when there is none.
    next_queued_at: AtomicU64,
    /// Since when something is queued and not being run; zero when nothing is.
    ready_since: AtomicU64,
    /// Until when the loop does nothing on purpose, whatever waits.
    dozes_until: AtomicU64,
    /// Since when the mailbox is being drained; zero while it is not.
    drained_since: AtomicU64,
    ran: AtomicU64,
    waited: AtomicU64,
    /// How much of the time since `ready_since` went into steps outside a drain.
    stepped: AtomicU64,
    /// The largest idle, waiting and running times that a reader has been told.
    told: [AtomicU64; 3],
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            made_at: clock::now(),
            thread: AtomicI32::new(0),
            rests: AtomicBool::new(false),
            runs_since: AtomicU64::new(0),
            running: AtomicU32::new(0),
            running_since: AtomicU64::new(0),
            next_queued_at: AtomicU64::new(0),
            ready_since: AtomicU64::new(0),
            dozes_until: AtomicU64::new(0),
            drained_since: AtomicU64::new(0),
            ran: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            stepped: AtomicU64::new(0),
            told: [const { AtomicU64::new(0) }; 3],
        }
    }
}

impl Activity {
    /// Something has been queued while the loop slept, or dozed: then it is ready at the doze's end. Under the mailbox's mutex.
    pub fn became_ready(&self) {
        let at = clock::now().max(self.dozes_until.load(Relaxed));
        self.ready_since.store(at, Release);
    }

    /// The loop leaves what comes to wait until then, in ticks. The loop's thread, before it dozes.
    pub fn dozes_until(&self, at: u64) {
        self.dozes_until.store(at, Relaxed);
    }

    /// The thread that runs the loop from now on; zero for none.
    pub fn runs_on(&self, thread: i32) {
        self.runs_since.store(clock::now(), Release);
        self.thread.store(thread, Release);
        self.rests.store(false, Release);
    }

    /// Whoever can tell says whether a guest's host runs. Any thread; the loop's own says so by [`Self::runs_on`].
    pub fn host_runs(&self, runs: bool) {
        if self.rests.swap(!runs, AcqRel) && runs {
            self.runs_since.store(clock::now(), Release);
        }
    }

    /// Whether a guest's host was last seen not to run. Any thread.
    #[inline]
    #[must_use]
    pub fn rests(&self) -> bool {
        self.rests.load(Relaxed)
    }

    /// Since when the thread that runs the loop does so, in ticks. Any thread.
    #[must_use]
    pub fn runs_since(&self) -> u64 {
        self.runs_since.load(Acquire)
    }

    /// The mailbox is being drained from `now` on. The loop's thread.
    pub fn drain_began(&self, now: u64) {
        let ready = self.ready_since.swap(0, Acquire);
        let stepped = self.stepped.swap(0, Relaxed);
        if ready > 0 {
            add(
                &self.waited,
                now.saturating_sub(ready).saturating_sub(stepped),
            );
        }
        self.drained_since.store(now, Relaxed);
    }

    /// The drain leaves something behind, the first of it queued at `next_queued_at`. Before [`Self::drain_ended`].
    pub fn left_behind(&self, now: u64, next_queued_at: u64) {
        self.next_queued_at.store(next_queued_at, Relaxed);
        self.ready_since.store(now, Release);
    }

    /// The drain is over. The loop's thread.
    pub fn drain_ended(&self, now: u64) {
        self.running.store(0, Relaxed);
        let began = self.drained_since.swap(0, Relaxed);
        add(&self.ran, now.saturating_sub(began));
    }

    /// A handler's step begins within a drain; `next_queued_at` is when the one after it was queued. The loop's thread.
    #[inline]
    pub fn handler_began(&self, slot: SlotIndex, since: u64) {
        self.running_since.store(since, Relaxed);
        self.running.store(slot + 1, Release);
    }

    /// What comes next was queued at `at`; zero when nothing comes next. The loop's thread.
    #[inline]
    pub fn next_is(&self, at: u64) {
        self.next_queued_at.store(at, Relaxed);
    }

    /// What runs now is no handler. The loop's thread.
    #[inline]
    pub fn no_handler(&self) {
        self.running.store(0, Relaxed);
    }

    /// A step begins, maybe inside another one, which is returned and goes to [`Self::step_ended`]. The loop's thread.
    #[inline]
    pub fn step_began(&self, slot: SlotIndex, since: u64) -> (u32, u64) {
        let outer = (self.running.load(Relaxed), self.running_since.load(Relaxed));
        self.handler_began(slot, since);
        outer
    }

    /// The step that began at `began` ends, and the outer one goes on. The loop's thread.
    #[inline]
    pub fn step_ended(&self, outer: (u32, u64), began: u64, now: u64) {
        self.running_since.store(outer.1, Relaxed);
        self.running.store(outer.0, Release);
        if outer.0 == 0 && self.drained_since.load(Relaxed) == 0 {
            add(&self.ran, now.saturating_sub(began));
            let ready = self.ready_since.load(Relaxed);
            if ready > 0 {
                add(&self.stepped, now.saturating_sub(began.max(ready)));
            }
        }
    }

    /// The handler that is running. Any thread.
    #[must_use]
    pub fn running(&self) -> Option<Running> {
        for _ in 0..8 {
            let since = self.running_since.load(Acquire);
            let slot = self.running.load(Acquire);
            fence(Acquire);
            if slot == 0 {
                return None;
            }
            if self.running_since.load(Relaxed) == since {
                return Some(Running {
                    slot: slot - 1,
                    since,
                });
            }
        }
        // It changes faster than it can be read, so nothing is stuck.
        None
    }

    /// The system's number of the thread that runs the loop; None while none does. Any thread.
    #[must_use]
    pub fn thread(&self) -> Option<i32> {
        Some(self.thread.load(Acquire)).filter(|&thread| thread != 0 && !self.rests())
    }

    /// Since when something is queued that nothing runs, in ticks. Any thread.
    #[must_use]
    pub fn ready_since(&self) -> Option<u64> {
        Some(self.ready_since.load(Acquire)).filter(|&since| since != 0)
    }

    /// When the first of those that a drain has taken and not yet run was queued; zero when there is none. Any thread.
    #[must_use]
    pub fn next_queued_at(&self) -> u64 {
        self.next_queued_at.load(Relaxed)
    }

    /// How the loop's time went, what goes on now included. Any thread.
    ///
    /// No part ever gets less: exporters count them up, and to those a counter that falls has started again from zero. Its
    /// fields are read one after the other while they change, so a part may be told too large, by as much as changed at that
    /// moment, and then stands still until it is true.
    #[must_use]
    pub fn time(&self) -> TimeSplit {
        let now = clock::now();
        let open = |since: u64| match since {
            0 => 0,
            since => now.saturating_sub(since),
        };
        let mut running = self.ran.load(Relaxed);
        let mut waiting = self.waited.load(Relaxed);
        let drained_since = self.drained_since.load(Relaxed);
        running += open(drained_since);
        let stepped = self.stepped.load(Relaxed);
        waiting += open(self.ready_since.load(Relaxed)).saturating_sub(stepped);
        if drained_since == 0 && self.running.load(Relaxed) > 0 {
            let step = open(self.running_since.load(Relaxed));
            running += step;
            waiting = waiting.saturating_sub(step.min(open(self.ready_since.load(Relaxed))));
        }
        let uptime = open(self.made_at);
        let idle = uptime.saturating_sub(waiting).saturating_sub(running);
        let tell = |told: &AtomicU64, part| told.fetch_max(part, Relaxed).max(part);
        TimeSplit {
            uptime,
            idle: tell(&self.told[0], idle),
            waiting: tell(&self.told[1], waiting),
            running: tell(&self.told[2], running),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_handler_is_seen_until_its_drain_ends() {
        let activity = Activity::default();
        activity.drain_began(100);
        activity.handler_began(7, 110);
        assert_eq!(
            activity.running(),
            Some(Running {
                slot: 7,
                since: 110
            })
        );
        activity.drain_ended(120);
        assert_eq!(activity.running(), None);
    }

    #[test]
    fn a_guest_rests_until_its_host_is_seen_to_run_or_runs_it() {
        let activity = Activity::default();
        activity.runs_on(7);
        let since = activity.runs_since();
        activity.host_runs(true);
        assert_eq!((activity.thread(), activity.runs_since()), (Some(7), since));
        activity.host_runs(false);
        assert_eq!((activity.thread(), activity.rests()), (None, true));
        activity.host_runs(true);
        assert_eq!(activity.thread(), Some(7));
        assert!(activity.runs_since() > since, "it is another run");
        activity.host_runs(false);
        activity.runs_on(8);
        assert_eq!(activity.thread(), Some(8));
    }

    #[test]
    fn a_step_inside_another_gives_way_to_it_again() {
        let activity = Activity::default();
        let none = activity.step_began(1, 100);
        let outer = activity.step_began(2, 110);
        assert_eq!(activity.running().map(|it| it.slot), Some(2));
        activity.step_ended(outer, 110, 120);
        assert_eq!(
            activity.running(),
            Some(Running {
                slot: 1,
                since: 100
            })
        );
        activity.step_ended(none, 100, 130);
        assert_eq!(activity.running(), None);
        assert_eq!(activity.ran.load(Relaxed), 30, "the inner step counts once");
    }

    #[test]
    fn waiting_ends_when_the_drain_begins_and_a_step_meanwhile_is_no_waiting() {
        let activity = Activity::default();
        activity.ready_since.store(100, Relaxed);
        let outer = activity.step_began(1, 90);
        activity.step_ended(outer, 90, 130);
        activity.drain_began(150);
        assert_eq!(
            activity.waited.load(Relaxed),
            20,
            "150 - 100, less 130 - 100"
        );
        activity.drain_ended(160);
        assert_eq!(activity.ran.load(Relaxed), 40 + 10);
        assert_eq!(activity.ready_since(), None);
    }

    #[test]
    fn what_a_drain_leaves_behind_waits_on() {
        let activity = Activity::default();
        activity.drain_began(100);
        activity.left_behind(200, 90);
        activity.drain_ended(200);
        assert_eq!(activity.ready_since(), Some(200));
        assert_eq!(activity.next_queued_at(), 90);
        activity.drain_began(250);
        assert_eq!(activity.waited.load(Relaxed), 50);
    }

    #[test]
    fn no_part_of_the_time_ever_gets_less_though_a_reader_comes_amid_the_end_of_a_drain() {
        let activity = Activity::default();
        activity
            .drained_since
            .store(clock::now().saturating_sub(1_000_000), Relaxed);
        let open = activity.time();
        assert!(open.running >= 1_000_000);
        // Between the two stores the drain is neither open nor counted.
        activity.drained_since.store(0, Relaxed);
        let amid = activity.time();
        assert_eq!(amid.running, open.running);
        activity.ran.store(open.running, Relaxed);
        let after = activity.time();
        assert_eq!(after.running, open.running);
        assert!(after.idle >= amid.idle);
    }

    #[test]
    fn the_parts_of_the_time_add_up_to_the_uptime() {
        let activity = Activity::default();
        activity.drain_began(clock::now());
        let TimeSplit {
            uptime,
            idle,
            waiting,
            running,
        } = activity.time();
        assert_eq!(idle + waiting + running, uptime);
    }
}
