//! What the process's loops are doing, as `/top` tells it. Any thread; waits for no loop and not for the GIL.
//!
//! The fields are documented in `docs/top.md`. A field may be added; one that is removed or changes its meaning makes another
//! [`VERSION`]. Durations are seconds.

use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::process::{Process, cpu_time};
use crate::clock;
use crate::monitor::{self, LoopView, stall};
use crate::registry::{self, ObservedLoop};
use crate::stats::{Distribution, EventTracker, HandlerSlot};

/// The version of the JSON.
pub(super) const VERSION: u32 = 1;
/// How many of a loop's handlers are told, those whose longest execution was the longest.
const MOST_HANDLERS: usize = 20;
/// How many of the retained stalls are told, the latest.
const MOST_STALLS: usize = 20;

#[derive(Serialize)]
pub(super) struct Top {
    version: u32,
    at: f64,
    process: ProcessFacts,
    loops: Vec<Loop>,
    stalls: Vec<Stall>,
}

#[derive(Serialize)]
struct ProcessFacts {
    pid: u32,
    uptime: f64,
    command: Vec<String>,
    atoll: &'static str,
}

#[derive(Serialize)]
struct Loop {
    name: String,
    modules: Vec<String>,
    runs: bool,
    thread: Option<Thread>,
    health: Option<Health>,
    lag: Option<f64>,
    queued: Lanes,
    oldest_queued: Option<f64>,
    delayed: usize,
    guards: usize,
    running: Option<Running>,
    stall: Option<Stall>,
    time: Time,
    total: u64,
    active: u64,
    errors: u64,
    handlers: Vec<Handler>,
    handlers_left_out: usize,
}

#[derive(Serialize)]
struct Thread {
    id: i32,
    cpu: Option<f64>,
}

#[derive(Serialize)]
pub(super) struct Health {
    pub(super) healthy: bool,
    pub(super) counts: bool,
    missed: u64,
    latency: f64,
    largest_latency: f64,
    pub(super) outstanding: Option<f64>,
    stalls: u64,
}

#[derive(Serialize)]
struct Lanes {
    control: usize,
    normal: usize,
    bulk: usize,
}

#[derive(Serialize)]
pub(super) struct Running {
    pub(super) handler: String,
    pub(super) age: f64,
}

#[derive(Serialize)]
struct Time {
    uptime: f64,
    idle: f64,
    waiting: f64,
    running: f64,
}

#[derive(Serialize)]
struct Handler {
    name: String,
    total: u64,
    active: u64,
    running: u64,
    errors: u64,
    queue: Spread,
    execution: Spread,
}

#[derive(Serialize)]
struct Spread {
    count: u64,
    sum: f64,
    p50: f64,
    p99: f64,
    max: f64,
}

#[derive(Serialize)]
struct Stall {
    #[serde(rename = "loop")]
    loop_name: String,
    handler: Option<String>,
    began: f64,
    duration: f64,
    over: bool,
    stack: Option<String>,
    stack_after: f64,
}

/// What `/top` tells now.
pub(super) fn top(process: &Process) -> Top {
    let stalls = monitor::all_stalls();
    let latest = stalls.len().saturating_sub(MOST_STALLS);
    Top {
        version: VERSION,
        at: unix_seconds(SystemTime::now()),
        process: ProcessFacts {
            pid: process.id,
            uptime: process.uptime().as_secs_f64(),
            command: process.command.clone(),
            atoll: env!("CARGO_PKG_VERSION"),
        },
        loops: seen().iter().map(Loop::of).collect(),
        stalls: stalls.into_iter().skip(latest).map(Stall::of).collect(),
    }
}

/// A loop, and what monitors say of it.
pub(super) struct Seen {
    pub(super) observed: Arc<dyn ObservedLoop>,
    pub(super) views: Vec<LoopView>,
}

pub(super) fn seen() -> Vec<Seen> {
    let mut seen: Vec<Seen> = registry::loops()
        .into_iter()
        .filter(|observed| !observed.is_closed())
        .map(|observed| Seen {
            observed,
            views: Vec::new(),
        })
        .collect();
    for view in monitor::all_views() {
        let mine = seen
            .iter_mut()
            .find(|it| std::ptr::from_ref(it.observed.record()).addr() == view.address);
        if let Some(it) = mine {
            it.views.push(view);
        }
    }
    seen
}

impl Loop {
    fn of(seen: &Seen) -> Self {
        let observed = &*seen.observed;
        let record = observed.record();
        let events = record.recording.then_some(&record.events);
        let counts = events
            .into_iter()
            .flat_map(EventTracker::iter)
            .map(HandlerSlot::counts);
        let (total, active, errors) = counts.fold((0, 0, 0), |sum, each| {
            (sum.0 + each.0, sum.1 + each.1, sum.2 + each.3)
        });
        let (handlers, handlers_left_out) = slowest(events);
        let modules = record.modules.read();
        let [control, normal, bulk] = observed.queued();
        Self {
            name: observed.name().into(),
            modules: modules.unwrap_or_else(PoisonError::into_inner).clone(),
            runs: record.activity.thread().is_some(),
            thread: record.activity.thread().map(Thread::of),
            health: Health::of(&seen.views),
            lag: record.lag().map(|probe| clock::seconds(probe.lag())),
            queued: Lanes {
                control,
                normal,
                bulk,
            },
            oldest_queued: match observed.oldest_queued_at() {
                0 => None,
                at => Some(clock::seconds(clock::now().saturating_sub(at))),
            },
            delayed: observed.delayed(),
            guards: observed.guards(),
            running: Running::of(observed),
            stall: seen
                .views
                .iter()
                .find_map(|view| view.stall.clone())
                .map(Stall::of),
            time: Time::of(observed),
            total,
            active,
            errors,
            handlers,
            handlers_left_out,
        }
    }
}

impl Thread {
    fn of(id: i32) -> Self {
        Self {
            id,
            cpu: cpu_time(id),
        }
    }
}

impl Health {
    /// The worst that is said.
    pub(super) fn of(views: &[LoopView]) -> Option<Self> {
        if views.is_empty() {
            return None;
        }
        let counts = views.iter().any(|view| view.counts);
        let mut heard = views.iter().filter(|view| view.counts == counts);
        let all = |longest: fn(&LoopView) -> u64| views.iter().map(longest).max().unwrap_or(0);
        let outstanding = views.iter().filter_map(|view| view.outstanding).max();
        Some(Self {
            healthy: heard.all(|view| view.healthy),
            counts,
            missed: all(|view| view.missed),
            latency: clock::seconds(all(|view| view.latency)),
            largest_latency: clock::seconds(all(|view| view.largest_latency)),
            outstanding: outstanding.map(clock::seconds),
            stalls: all(|view| view.stalls),
        })
    }
}

impl Running {
    pub(super) fn of(observed: &dyn ObservedLoop) -> Option<Self> {
        let record = observed.record();
        let running = record.activity.running()?;
        Some(Self {
            handler: record.events.slot(running.slot).name.to_string(),
            age: clock::seconds(clock::now().saturating_sub(running.since)),
        })
    }
}

impl Time {
    fn of(observed: &dyn ObservedLoop) -> Self {
        let time = observed.record().activity.time();
        Self {
            uptime: clock::seconds(time.uptime),
            idle: clock::seconds(time.idle),
            waiting: clock::seconds(time.waiting),
            running: clock::seconds(time.running),
        }
    }
}

/// The handlers whose longest execution was the longest, and how many there are besides.
fn slowest(events: Option<&EventTracker>) -> (Vec<Handler>, usize) {
    let mut slots: Vec<&HandlerSlot> = events.into_iter().flat_map(EventTracker::iter).collect();
    slots.sort_by_cached_key(|slot| std::cmp::Reverse(slot.execution_time.longest()));
    let left_out = slots.len().saturating_sub(MOST_HANDLERS);
    slots.truncate(MOST_HANDLERS);
    (slots.into_iter().map(Handler::of).collect(), left_out)
}

impl Handler {
    fn of(slot: &HandlerSlot) -> Self {
        let (total, active, running, errors) = slot.counts();
        Self {
            name: slot.name.to_string(),
            total,
            active,
            running,
            errors,
            queue: Spread::of(&slot.queue_time.snapshot()),
            execution: Spread::of(&slot.execution_time.snapshot()),
        }
    }
}

impl Spread {
    fn of(seen: &Distribution) -> Self {
        Self {
            count: seen.count,
            sum: clock::seconds(seen.sum),
            p50: clock::seconds(seen.quantile(0.5)),
            p99: clock::seconds(seen.quantile(0.99)),
            max: clock::seconds(seen.max),
        }
    }
}

impl Stall {
    fn of(stall: stall::Stall) -> Self {
        Self {
            loop_name: stall.loop_name,
            handler: stall.handler,
            began: unix_seconds(stall.began),
            duration: stall.duration.as_secs_f64(),
            over: stall.over,
            stack: stall.stack,
            stack_after: stall.stack_after.as_secs_f64(),
        }
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
