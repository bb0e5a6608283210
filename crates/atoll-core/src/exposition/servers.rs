//! What servers count besides calls, in the same text. This is the one table of these metrics: Python's exporters ask for it and
//! its samples, and a test compares `docs/metrics.md`.
//!
//! Every value of a label has a sample, also at zero: the first offence of a kind is an increase, and may ring an alarm. A
//! process that has started no server has none.

use super::metrics::{Kind, Metric, metric};
use super::writer::Text;
use crate::transport::{Offence, Refused, Totals, TransportStats};

/// A metric of servers, its label if it has one, and the name it has for OpenTelemetry.
#[derive(Debug, Clone, Copy)]
pub struct ServerMetric {
    /// Name, type and help.
    pub metric: Metric,
    /// The label, if there is one.
    pub label: Option<&'static str>,
    /// For OpenTelemetry.
    pub opentelemetry: &'static str,
    /// Its unit there.
    pub unit: &'static str,
    samples: fn(&TransportStats) -> Vec<(&'static str, u64)>,
}

const fn server_metric(
    metric: Metric,
    label: Option<&'static str>,
    opentelemetry: &'static str,
    unit: &'static str,
    samples: fn(&TransportStats) -> Vec<(&'static str, u64)>,
) -> ServerMetric {
    ServerMetric {
        metric,
        label,
        opentelemetry,
        unit,
        samples,
    }
}

/// All metrics of servers, in the order in which they are written.
pub const SERVER_METRICS: [ServerMetric; 6] = [
    server_metric(
        metric(
            "atoll_server_connections",
            Kind::Gauge,
            "Connections that are open.",
        ),
        None,
        "atoll.server.connections",
        "{connection}",
        |stats| vec![("", stats.connections as u64)],
    ),
    server_metric(
        metric(
            "atoll_server_connection_errors_total",
            Kind::Counter,
            "Connections that ended with an error: garbage, a broken protocol, a flood, a lost client.",
        ),
        None,
        "atoll.server.connection_errors",
        "{connection}",
        |stats| vec![("", stats.connection_errors)],
    ),
    server_metric(
        metric(
            "atoll_server_accept_errors_total",
            Kind::Counter,
            "Times that accepting a connection failed, for example for want of file descriptors.",
        ),
        None,
        "atoll.server.accept_errors",
        "{error}",
        |stats| vec![("", stats.accept_errors)],
    ),
    server_metric(
        metric(
            "atoll_server_tls_handshakes_total",
            Kind::Counter,
            "TLS handshakes by how they ended.",
        ),
        Some("outcome"),
        "atoll.server.tls_handshakes",
        "{handshake}",
        |stats| stats.tls_outcomes().to_vec(),
    ),
    server_metric(
        metric(
            "atoll_server_refused_total",
            Kind::Counter,
            "Requests that named no method of the server, refused for that or for something else.",
        ),
        Some("reason"),
        "atoll.server.refused",
        "{request}",
        |stats| {
            let requests = Refused::OF_REQUESTS.into_iter();
            let count = |reason: Refused| (reason.name(), stats.refused[reason as usize]);
            requests.map(count).collect()
        },
    ),
    server_metric(
        metric(
            "atoll_server_offences_total",
            Kind::Counter,
            "What clients did that no well-behaved client does.",
        ),
        Some("offence"),
        "atoll.server.offences",
        "{offence}",
        |stats| {
            let count = |offence: Offence| (offence.name(), stats.offences.get(offence));
            Offence::ALL.into_iter().map(count).collect()
        },
    ),
];

impl ServerMetric {
    /// The metric's samples: the value of its label, and its value.
    #[must_use]
    pub fn samples(&self, totals: &Totals) -> Vec<(&'static str, u64)> {
        if totals.servers == 0 {
            return Vec::new();
        }
        (self.samples)(&totals.transport)
    }
}

/// Appends what all servers have counted.
pub(super) fn write(text: &mut Text, totals: &Totals) {
    for metric in &SERVER_METRICS {
        text.servers(metric, totals);
    }
}
