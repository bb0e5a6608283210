//! Statistics as plain Python tuples, in seconds; `atoll.observe` gives them names.

use atoll_core::clock;
use atoll_core::stats::{Distribution, EventTracker};

/// (count, sum, minimum, maximum, buckets as (from, to, count)).
pub(crate) type DistributionTuple = (u64, f64, f64, f64, Vec<(f64, f64, u64)>);

/// (name, total, active, running, errors, queue time, execution time, wall time).
pub(crate) type HandlerTuple = (
    String,
    u64,
    u64,
    u64,
    u64,
    DistributionTuple,
    DistributionTuple,
    DistributionTuple,
);

pub(crate) fn distribution(seen: &Distribution) -> DistributionTuple {
    let buckets = seen
        .filled()
        .map(|(start, end, count)| (clock::seconds(start), clock::seconds(end), count))
        .collect();
    let min = if seen.count == 0 {
        0.0
    } else {
        clock::seconds(seen.min)
    };
    (
        seen.count,
        clock::seconds(seen.sum),
        min,
        clock::seconds(seen.max),
        buckets,
    )
}

/// What `tracker` knows of every handler, in the order of their first use.
pub(crate) fn handlers(tracker: &EventTracker) -> Vec<HandlerTuple> {
    tracker
        .iter()
        .map(|slot| {
            let (total, active, running, errors) = slot.counts();
            (
                slot.name.to_string(),
                total,
                active,
                running,
                errors,
                distribution(&slot.queue_time.snapshot()),
                distribution(&slot.execution_time.snapshot()),
                distribution(&slot.wall_time.snapshot()),
            )
        })
        .collect()
}
