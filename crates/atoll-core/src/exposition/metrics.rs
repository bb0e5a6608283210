//! What the metrics are called and mean. Additions go to `atoll/observe/_metrics.py` and `docs/metrics.md`, too.

/// The `TYPE` of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations by the bounds in [`BOUNDS`].
    Histogram,
}

impl Kind {
    /// The word in the `TYPE` line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A family of time series.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, a counter's with `_total`.
    pub name: &'static str,
    /// Its `TYPE`.
    pub kind: Kind,
    /// Its `HELP`.
    pub help: &'static str,
}

pub(super) const fn metric(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { name, kind, help }
}

pub(super) const HANDLERS: Metric =
    metric("atoll_handlers_total", Kind::Counter, "Handlers queued.");
pub(super) const ERRORS: Metric = metric(
    "atoll_handler_errors_total",
    Kind::Counter,
    "Handlers that raised.",
);
pub(super) const ACTIVE: Metric = metric(
    "atoll_handlers_active",
    Kind::Gauge,
    "Handlers queued or running.",
);
pub(super) const RUNNING: Metric = metric(
    "atoll_handlers_running",
    Kind::Gauge,
    "Handlers between their first step and their end.",
);
pub(super) const QUEUE: Metric = metric(
    "atoll_handler_queue_seconds",
    Kind::Histogram,
    "From being queued, or due, to the first step.",
);
pub(super) const EXECUTION: Metric = metric(
    "atoll_handler_execution_seconds",
    Kind::Histogram,
    "The sum of a handler's steps.",
);
pub(super) const WALL: Metric = metric(
    "atoll_handler_wall_seconds",
    Kind::Histogram,
    "From the first step to the end, awaits included, of coroutines that had to wait.",
);
pub(super) const QUEUED: Metric = metric(
    "atoll_loop_queued",
    Kind::Gauge,
    "Handlers that wait in the mailbox.",
);
pub(super) const REFUSED: Metric = metric(
    "atoll_loop_refused_total",
    Kind::Counter,
    "Handlers that found no room: posts that raised MailboxFull, calls answered RESOURCE_EXHAUSTED.",
);
pub(super) const DELAYED: Metric = metric(
    "atoll_loop_delayed",
    Kind::Gauge,
    "Posts with a delay that are not yet due.",
);
pub(super) const GUARDS: Metric =
    metric("atoll_loop_work_guards", Kind::Gauge, "Work guards held.");
pub(super) const TIME: Metric = metric(
    "atoll_loop_time_seconds_total",
    Kind::Counter,
    "How the loop's time was spent: nothing to do, something ready that did not run, steps of handlers.",
);
pub(super) const OLDEST: Metric = metric(
    "atoll_loop_lag_seconds",
    Kind::Gauge,
    "How long the oldest queued handler has waited, as seen from outside; zero when none waits.",
);
pub(super) const PROBE: Metric = metric(
    "io_context_event_loop_lag",
    Kind::Gauge,
    "How long the loop's lag probe waited in its queue the last time, in seconds.",
);

pub(super) const GIL_WAIT: Metric = metric(
    "atoll_gil_wait_seconds",
    Kind::Histogram,
    "How long a thread that asked for the GIL waited for it, as measured now and then.",
);

/// All metrics, in the order in which they are written.
pub const METRICS: [Metric; 15] = [
    HANDLERS, ERRORS, ACTIVE, RUNNING, QUEUE, EXECUTION, WALL, QUEUED, REFUSED, DELAYED, GUARDS,
    TIME, OLDEST, PROBE, GIL_WAIT,
];

/// The upper bounds of the exported buckets in seconds, and as the label `le` has them: as Python writes them, so that both
/// ways of exporting give the same series.
pub const BOUNDS: [(f64, &str); 19] = [
    (1e-5, "1e-05"),
    (2e-5, "2e-05"),
    (5e-5, "5e-05"),
    (1e-4, "0.0001"),
    (2e-4, "0.0002"),
    (5e-4, "0.0005"),
    (1e-3, "0.001"),
    (2e-3, "0.002"),
    (5e-3, "0.005"),
    (1e-2, "0.01"),
    (2e-2, "0.02"),
    (5e-2, "0.05"),
    (0.1, "0.1"),
    (0.2, "0.2"),
    (0.5, "0.5"),
    (1.0, "1.0"),
    (2.0, "2.0"),
    (5.0, "5.0"),
    (10.0, "10.0"),
];
