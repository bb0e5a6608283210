//! Stalls: steps of handlers, and callbacks of asyncio's own, that kept a loop's thread too long.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::stack;
use crate::activity::Running;
use crate::clock;
use crate::registry::ObservedLoop;

/// A stall is logged when it is over, or when it has lasted so long.
const LONG: Duration = Duration::from_secs(1);
/// The stack of a stall that goes on is taken again after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// Reports are counted over so long.
const MINUTE: Duration = Duration::from_secs(60);

/// One stall, as it is retained.
#[derive(Debug, Clone)]
pub struct Stall {
    /// Counts up in this monitor.
    pub number: u64,
    /// The loop's name.
    pub loop_name: String,
    /// The handler's name; None for what is no handler, such as a callback of asyncio's own.
    pub handler: Option<String>,
    /// When it began.
    pub began: SystemTime,
    /// How long it took, or has taken so far: exact to the monitor's period.
    pub duration: Duration,
    /// Whether it is over.
    pub over: bool,
    /// The Python stack of the loop's thread, the innermost frame first; the latest that was taken.
    pub stack: Option<String>,
    /// How long the stall had lasted when the stack was taken.
    pub stack_after: Duration,
}

/// What is to be reported in the log.
#[derive(Debug, Clone)]
pub struct Report {
    /// The stall.
    pub stall: Stall,
    /// How many stalls of the loop were not reported since the last report, for there were too many.
    pub suppressed: u64,
}

/// What holds a loop's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Handler(Running),
    /// Something is queued since then and nothing runs it.
    Other(u64),
}

impl Holder {
    fn since(self) -> u64 {
        match self {
            Self::Handler(running) => running.since,
            Self::Other(since) => since,
        }
    }

    /// Whether it still holds the thread.
    fn goes_on(self, observed: &dyn ObservedLoop) -> bool {
        let activity = &observed.record().activity;
        match self {
            Self::Handler(running) => activity.running() == Some(running),
            Self::Other(since) => activity.ready_since() == Some(since),
        }
    }
}

#[derive(Debug)]
struct Current {
    holder: Holder,
    stall: Stall,
    reported: bool,
    /// How long it had lasted when a stack was last asked for.
    asked_after: Duration,
    /// It waits for the GIL or a processor: some other loop's stall, if anybody's.
    innocent: bool,
}

/// Finds the stalls of one loop.
#[derive(Debug, Default)]
pub struct StallWatch {
    current: Option<Current>,
    /// How many there were.
    pub count: u64,
    reported_at: VecDeque<u64>,
    suppressed: u64,
}

/// What counts as a stall.
#[derive(Debug, Clone, Copy)]
pub struct StallSettings {
    /// How long a step may take, in ticks.
    pub threshold: u64,
    /// How many stalls of a loop are reported per minute.
    pub reports_per_minute: usize,
}

impl StallWatch {
    /// Looks at a loop that runs on the thread with the system's number `thread`. Stalls that begin or end go to `records`.
    pub fn look(
        &mut self,
        observed: &dyn ObservedLoop,
        thread: i32,
        now: u64,
        settings: &StallSettings,
        records: &mut Records,
    ) {
        let activity = &observed.record().activity;
        let holder = match activity.running() {
            Some(running) => Some(Holder::Handler(running)),
            None => activity.ready_since().map(Holder::Other),
        };
        if self
            .current
            .as_ref()
            .is_some_and(|it| Some(it.holder) != holder)
        {
            self.ended(now, settings, records);
        }
        let Some(holder) = holder else { return };
        let age = now.saturating_sub(holder.since());
        match &mut self.current {
            None if age > settings.threshold => self.began(holder, age, observed, thread, records),
            Some(current) if !current.innocent => {
                let duration = clock::duration(age);
                current.stall.duration = duration;
                if duration > current.asked_after + AGAIN {
                    current.asked_after = duration;
                    let taken = stack::take(thread);
                    if taken.is_some() && holder.goes_on(observed) {
                        current.stall.stack = taken;
                        current.stall.stack_after = duration;
                    }
                }
                records.update(&current.stall);
                if duration > LONG && !current.reported {
                    self.report(now, settings, records);
                }
            }
            _ => {}
        }
    }

    /// The loop is not run by any thread any more.
    pub fn resting(&mut self, now: u64, settings: &StallSettings, records: &mut Records) {
        if self.current.is_some() {
            self.ended(now, settings, records);
        }
    }

    fn began(
        &mut self,
        holder: Holder,
        age: u64,
        observed: &dyn ObservedLoop,
        thread: i32,
        records: &mut Records,
    ) {
        let duration = clock::duration(age);
        let taken = stack::take(thread);
        let handler = match holder {
            Holder::Handler(running) => {
                Some(observed.record().events.slot(running.slot).name.to_string())
            }
            Holder::Other(_) => None,
        };
        let innocent = handler.is_none() && taken.as_deref().is_none_or(waits_in_the_loop_itself);
        let mut stall = Stall {
            number: 0,
            loop_name: observed.name().into(),
            handler,
            began: SystemTime::now() - duration,
            duration,
            over: false,
            stack: taken,
            stack_after: duration,
        };
        // Else it has ended while the stack was being taken, which is of something else.
        if !holder.goes_on(observed) {
            stall.stack = None;
        }
        if !innocent {
            self.count += 1;
            stall.number = records.add(stall.clone());
        }
        self.current = Some(Current {
            holder,
            stall,
            reported: false,
            asked_after: duration,
            innocent,
        });
    }

    fn ended(&mut self, now: u64, settings: &StallSettings, records: &mut Records) {
        let Some(mut current) = self.current.take() else {
            return;
        };
        if current.innocent {
            return;
        }
        current.stall.duration = clock::duration(now.saturating_sub(current.holder.since()));
        current.stall.over = true;
        records.update(&current.stall);
        if !current.reported {
            self.current = Some(current);
            self.report(now, settings, records);
            self.current = None;
        }
    }

    fn report(&mut self, now: u64, settings: &StallSettings, records: &mut Records) {
        let Some(current) = &mut self.current else {
            return;
        };
        current.reported = true;
        let minute = clock::ticks(MINUTE);
        while self
            .reported_at
            .front()
            .is_some_and(|&at| now.saturating_sub(at) > minute)
        {
            self.reported_at.pop_front();
        }
        if self.reported_at.len() >= settings.reports_per_minute {
            self.suppressed += 1;
            return;
        }
        self.reported_at.push_back(now);
        records.reports.push(Report {
            stall: current.stall.clone(),
            suppressed: std::mem::take(&mut self.suppressed),
        });
    }

    /// The stall that goes on.
    #[must_use]
    pub fn current(&self) -> Option<&Stall> {
        self.current
            .as_ref()
            .filter(|current| !current.innocent)
            .map(|current| &current.stall)
    }
}

/// Whether the innermost frame is the loop's own: it waits for events, or, coming from there, for the GIL.
fn waits_in_the_loop_itself(stack: &str) -> bool {
    stack.lines().next().is_some_and(|frame| {
        [
            "selectors.py\"",
            "_io_context.py\"",
            "asyncio/base_events.py\"",
            "asyncio/runners.py\"",
        ]
        .iter()
        .any(|file| frame.contains(file))
    })
}

/// The stalls that are retained, and those that are to be reported.
#[derive(Debug)]
pub struct Records {
    kept: VecDeque<Stall>,
    most: usize,
    next: u64,
    /// To be reported.
    pub reports: Vec<Report>,
}

impl Records {
    /// Retains the last `most`.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            most,
            next: 1,
            reports: Vec::new(),
        }
    }

    fn add(&mut self, mut stall: Stall) -> u64 {
        stall.number = self.next;
        self.next += 1;
        if self.kept.len() >= self.most {
            self.kept.pop_front();
        }
        self.kept.push_back(stall);
        self.next - 1
    }

    fn update(&mut self, stall: &Stall) {
        if let Some(kept) = self
            .kept
            .iter_mut()
            .rev()
            .find(|it| it.number == stall.number)
        {
            kept.clone_from(stall);
        }
    }

    /// What is retained, the oldest first.
    #[must_use]
    pub fn kept(&self) -> Vec<Stall> {
        self.kept.iter().cloned().collect()
    }
}
