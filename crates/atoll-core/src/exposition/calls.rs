//! The calls of servers by method, in the same text. This is the one table of these metrics: Python's exporters ask for it and its
//! samples, and a test compares `docs/metrics.md`.

use std::collections::BTreeMap;

use super::metrics::{Kind, Metric, metric};
use super::writer::Text;
use crate::transport::{Code, MethodStats, Refused};

/// A metric of calls, its second label besides `method`, and the name it has for OpenTelemetry.
#[derive(Debug, Clone, Copy)]
pub struct CallMetric {
    /// Name, type and help.
    pub metric: Metric,
    /// The second label, if there is one.
    pub label: Option<&'static str>,
    /// For OpenTelemetry.
    pub opentelemetry: &'static str,
    /// Its unit there.
    pub unit: &'static str,
    samples: fn(&MethodStats) -> Vec<(&'static str, u64)>,
}

const fn call_metric(
    metric: Metric,
    label: Option<&'static str>,
    opentelemetry: &'static str,
    unit: &'static str,
    samples: fn(&MethodStats) -> Vec<(&'static str, u64)>,
) -> CallMetric {
    CallMetric {
        metric,
        label,
        opentelemetry,
        unit,
        samples,
    }
}

/// All metrics of calls, in the order in which they are written.
pub const CALL_METRICS: [CallMetric; 8] = [
    call_metric(
        metric("atoll_rpc_started_total", Kind::Counter, "Calls that came."),
        None,
        "atoll.rpc.started",
        "{call}",
        |stats| vec![("", stats.started)],
    ),
    call_metric(
        metric(
            "atoll_rpc_finished_total",
            Kind::Counter,
            "Calls that ended.",
        ),
        Some("code"),
        "atoll.rpc.finished",
        "{call}",
        |stats| named(Code::ALL.map(Code::name).into_iter().zip(stats.finished)),
    ),
    call_metric(
        metric(
            "atoll_rpc_refused_total",
            Kind::Counter,
            "Calls that never reached their handler.",
        ),
        Some("reason"),
        "atoll.rpc.refused",
        "{call}",
        |stats| {
            named(
                Refused::ALL
                    .map(Refused::name)
                    .into_iter()
                    .zip(stats.refused),
            )
        },
    ),
    call_metric(
        metric(
            "atoll_rpc_overdue_total",
            Kind::Counter,
            "Calls that had waited too long on an overloaded loop, refused for that or not.",
        ),
        None,
        "atoll.rpc.overdue",
        "{call}",
        |stats| vec![("", stats.overdue)],
    ),
    call_metric(
        metric(
            "atoll_rpc_in_flight",
            Kind::Gauge,
            "Calls that have come and not ended.",
        ),
        None,
        "atoll.rpc.in_flight",
        "{call}",
        |stats| vec![("", stats.in_flight())],
    ),
    call_metric(
        metric(
            "atoll_rpc_waiting",
            Kind::Gauge,
            "Calls that wait for their method to run fewer.",
        ),
        None,
        "atoll.rpc.waiting",
        "{call}",
        |stats| vec![("", stats.waiting)],
    ),
    call_metric(
        metric(
            "atoll_rpc_received_bytes_total",
            Kind::Counter,
            "Bytes of request messages, as they were sent.",
        ),
        None,
        "atoll.rpc.received",
        "By",
        |stats| vec![("", stats.bytes_received)],
    ),
    call_metric(
        metric(
            "atoll_rpc_sent_bytes_total",
            Kind::Counter,
            "Bytes of reply messages, as they were sent.",
        ),
        None,
        "atoll.rpc.sent",
        "By",
        |stats| vec![("", stats.bytes_sent)],
    ),
];

/// Those that were counted: a method has a reason or a code from the first call on that had it.
fn named(counts: impl Iterator<Item = (&'static str, u64)>) -> Vec<(&'static str, u64)> {
    counts.filter(|(_, count)| *count > 0).collect()
}

impl CallMetric {
    /// What the metric has for a method: the value of its second label, and its value.
    #[must_use]
    pub fn samples(&self, stats: &MethodStats) -> Vec<(&'static str, u64)> {
        (self.samples)(stats)
    }
}

/// Appends the calls of all servers.
pub(super) fn write(text: &mut Text, methods: &BTreeMap<String, MethodStats>) {
    for metric in &CALL_METRICS {
        text.calls(metric, methods);
    }
}
