//! The statistics of loops as Prometheus text (format 0.0.4), written without Python, the GIL, or a loop's help.
//!
//! [`text_of_process`] is what a scrape of this process gets, on any thread: it reads atomics, and takes for a moment the
//! mutexes that posters take. What the metrics are called and mean is [`METRICS`], mirrored by `atoll/observe/_metrics.py` and
//! `docs/metrics.md`; a test compares the three.
//!
//! What holds from scrape to scrape: counters and every bucket of a histogram only grow, and a native bucket is always
//! counted in the same exported one.

use std::collections::HashMap;

use crate::clock;
use crate::gil_wait;
use crate::registry::{self, ObservedLoop};
use crate::stats::{Distribution, EventTracker, HandlerSlot};
use crate::transport::totals_of_process;

mod calls;
mod metrics;
mod servers;
mod writer;

pub use calls::{CALL_METRICS, CallMetric};
use metrics::{
    ACTIVE, DELAYED, ERRORS, EXECUTION, GIL_WAIT, GUARDS, HANDLERS, OLDEST, PROBE, QUEUE, QUEUED,
    REFUSED, RUNNING, TIME, WALL,
};
pub use metrics::{BOUNDS, Kind, METRICS, Metric};
pub use servers::{SERVER_METRICS, ServerMetric};
use writer::Text;

/// What an HTTP response that carries the text says in its `content-type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const LANES: [&str; 3] = ["control", "normal", "bulk"];
const STATES: [&str; 3] = ["idle", "waiting", "running"];

/// What is exported of one loop; durations in seconds. What is `None` is left out.
#[derive(Debug, Clone, Copy)]
pub struct LoopView<'a> {
    /// The label `loop`. Loops of one name are exported as one: their numbers are added up, the larger lag counts.
    pub name: &'a str,
    /// How many handlers wait, by lane.
    pub queued: [u64; 3],
    /// How many handlers found no room, by lane.
    pub refused: [u64; 3],
    /// How many posts with a delay are not yet due.
    pub delayed: u64,
    /// How many work guards are held.
    pub guards: u64,
    /// Time spent idle, waiting and running.
    pub time: Option<[f64; 3]>,
    /// For how long the oldest queued handler has waited; zero when none waits.
    pub oldest: Option<f64>,
    /// What the lag probe measured last.
    pub probe: Option<f64>,
    /// The statistics of its handlers, whose number is bounded by `max_handler_names`.
    pub handlers: Option<&'a EventTracker>,
}

impl<'a> LoopView<'a> {
    /// What is exported of `observed`. Any thread.
    #[must_use]
    pub fn of(observed: &'a dyn ObservedLoop) -> Self {
        let record = observed.record();
        let time = record.activity.time();
        let oldest = match observed.oldest_queued_at() {
            0 => 0,
            at => clock::now().saturating_sub(at),
        };
        Self {
            name: observed.name(),
            queued: observed.queued().map(|count| count as u64),
            refused: observed.refused(),
            delayed: observed.delayed() as u64,
            guards: observed.guards() as u64,
            time: Some([time.idle, time.waiting, time.running].map(clock::seconds)),
            oldest: Some(clock::seconds(oldest)),
            probe: observed.record().lag().map(|it| clock::seconds(it.lag())),
            handlers: record.recording.then_some(&record.events),
        }
    }
}

/// The text of all loops of the process that are not closed, and of what its servers have counted. Any thread; waits for no loop and
/// not for the GIL.
#[must_use]
pub fn text_of_process() -> String {
    let loops = registry::loops();
    let mut all = text(
        loops
            .iter()
            .filter(|observed| !observed.is_closed())
            .map(|observed| LoopView::of(observed.as_ref())),
        &gil_wait::snapshot(),
    );
    let totals = totals_of_process();
    let mut of_servers = Text::default();
    calls::write(&mut of_servers, &totals.methods);
    servers::write(&mut of_servers, &totals);
    all.push_str(&of_servers.written());
    all
}

/// The text of all `loops` and of the waits for the GIL, each metric with its `HELP` and `TYPE` also when it has no sample.
#[must_use]
pub fn text<'a>(loops: impl IntoIterator<Item = LoopView<'a>>, gil_waits: &Distribution) -> String {
    let loops = collected(loops);
    let mut text = Text::default();
    text.handlers(HANDLERS, &loops, |handler| handler.counts.0);
    text.handlers(ERRORS, &loops, |handler| handler.counts.3);
    text.handlers(ACTIVE, &loops, |handler| handler.counts.1);
    text.handlers(RUNNING, &loops, |handler| handler.counts.2);
    text.histograms(QUEUE, &loops, |handler| &handler.queue);
    text.histograms(EXECUTION, &loops, |handler| &handler.execution);
    text.histograms(WALL, &loops, |handler| &handler.wall);
    text.by(QUEUED, &loops, "lane", LANES, |it| Some(it.queued));
    text.by(REFUSED, &loops, "lane", LANES, |it| Some(it.refused));
    text.loops(DELAYED, &loops, |it| Some(it.delayed));
    text.loops(GUARDS, &loops, |it| Some(it.guards));
    text.by(TIME, &loops, "state", STATES, |it| it.time);
    text.loops(OLDEST, &loops, |it| it.oldest);
    text.loops(PROBE, &loops, |it| it.probe);
    text.of_process(GIL_WAIT, &Histogram::of(gil_waits));
    text.written()
}

/// A native histogram, folded into the exported bounds.
#[derive(Default)]
struct Histogram {
    /// How many durations lie between a bound and the one before it.
    counts: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    /// A native bucket belongs to the first bound that it does not exceed, so that no duration counts as shorter than it was;
    /// it may count as longer by an eighth, a native bucket's width.
    fn of(seen: &Distribution) -> Self {
        let mut counts = [0; BOUNDS.len()];
        for (_, end, count) in seen.filled() {
            let end = clock::seconds(end);
            if let Some(index) = BOUNDS.iter().position(|&(bound, _)| end <= bound) {
                counts[index] += count;
            }
        }
        Self {
            counts,
            count: seen.count,
            sum: clock::seconds(seen.sum),
        }
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum += other.sum;
    }
}

/// The handlers of one name on the loops of one name.
struct Handler<'a> {
    name: &'a str,
    /// Total, active, running, errors.
    counts: (u64, u64, u64, u64),
    queue: Histogram,
    execution: Histogram,
    wall: Histogram,
}

impl<'a> Handler<'a> {
    fn of(slot: &'a HandlerSlot) -> Self {
        Self {
            name: &slot.name,
            counts: slot.counts(),
            queue: Histogram::of(&slot.queue_time.snapshot()),
            execution: Histogram::of(&slot.execution_time.snapshot()),
            wall: Histogram::of(&slot.wall_time.snapshot()),
        }
    }

    fn add(&mut self, other: &Self) {
        let (mine, theirs) = (self.counts, other.counts);
        self.counts = (
            mine.0 + theirs.0,
            mine.1 + theirs.1,
            mine.2 + theirs.2,
            mine.3 + theirs.3,
        );
        self.queue.add(&other.queue);
        self.execution.add(&other.execution);
        self.wall.add(&other.wall);
    }
}

/// The loops of one name.
struct Loops<'a> {
    sum: LoopView<'a>,
    handlers: Vec<Handler<'a>>,
    by_name: HashMap<&'a str, usize>,
}

impl<'a> Loops<'a> {
    fn add(&mut self, view: LoopView<'a>) {
        let sum = &mut self.sum;
        for (mine, theirs) in sum.queued.iter_mut().zip(view.queued) {
            *mine += theirs;
        }
        for (mine, theirs) in sum.refused.iter_mut().zip(view.refused) {
            *mine += theirs;
        }
        sum.delayed += view.delayed;
        sum.guards += view.guards;
        sum.time = either(sum.time, view.time, |mine, theirs| {
            [
                mine[0] + theirs[0],
                mine[1] + theirs[1],
                mine[2] + theirs[2],
            ]
        });
        sum.oldest = either(sum.oldest, view.oldest, f64::max);
        sum.probe = either(sum.probe, view.probe, f64::max);
        self.add_handlers(view.handlers);
    }

    fn add_handlers(&mut self, tracker: Option<&'a EventTracker>) {
        for slot in tracker.into_iter().flat_map(EventTracker::iter) {
            let handler = Handler::of(slot);
            if let Some(&index) = self.by_name.get(handler.name) {
                self.handlers[index].add(&handler);
            } else {
                self.by_name.insert(handler.name, self.handlers.len());
                self.handlers.push(handler);
            }
        }
    }
}

fn either<T>(mine: Option<T>, theirs: Option<T>, both: impl FnOnce(T, T) -> T) -> Option<T> {
    match (mine, theirs) {
        (Some(mine), Some(theirs)) => Some(both(mine, theirs)),
        (mine, theirs) => mine.or(theirs),
    }
}

/// Reads everything once. A series must not come twice, so what has the same labels is added up.
fn collected<'a>(views: impl IntoIterator<Item = LoopView<'a>>) -> Vec<Loops<'a>> {
    let mut loops: Vec<Loops<'a>> = Vec::new();
    for view in views {
        if let Some(same) = loops.iter_mut().find(|it| it.sum.name == view.name) {
            same.add(view);
            continue;
        }
        let mut new = Loops {
            sum: view,
            handlers: Vec::new(),
            by_name: HashMap::new(),
        };
        new.add_handlers(view.handlers);
        loops.push(new);
    }
    loops
}
