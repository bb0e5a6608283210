//! The lines of the text format, one metric at a time.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use super::calls::CallMetric;
use super::metrics::{BOUNDS, Metric};
use super::servers::ServerMetric;
use super::{Handler, Histogram, LoopView, Loops};
use crate::transport::{MethodStats, Totals};

/// Writes the format. Formatting into a `String` can't fail, which is why results are dropped here.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// All that has been written.
    pub(super) fn written(self) -> String {
        self.0
    }

    fn head(&mut self, metric: Metric) {
        let Metric { name, kind, help } = metric;
        let _ = write!(self.0, "# HELP {name} ");
        self.escaped(help, false);
        let _ = write!(self.0, "\n# TYPE {name} {}\n", kind.name());
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "{name}{suffix}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if index == 0 { '{' } else { ',' });
            self.escaped(text, true);
            self.0.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// A label's value escapes its quotes; a `HELP` does not.
    fn escaped(&mut self, text: &str, quotes: bool) {
        for character in text.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '\n' => self.0.push_str("\\n"),
                '"' if quotes => self.0.push_str("\\\""),
                other => self.0.push(other),
            }
        }
    }

    pub(super) fn loops<T: Display>(
        &mut self,
        metric: Metric,
        loops: &[Loops<'_>],
        value: impl Fn(&LoopView<'_>) -> Option<T>,
    ) {
        self.head(metric);
        for Loops { sum, .. } in loops {
            if let Some(value) = value(sum) {
                self.sample(metric.name, "", &[("loop", sum.name)], value);
            }
        }
    }

    pub(super) fn by<T: Display>(
        &mut self,
        metric: Metric,
        loops: &[Loops<'_>],
        label: &str,
        texts: [&str; 3],
        values: impl Fn(&LoopView<'_>) -> Option<[T; 3]>,
    ) {
        self.head(metric);
        for Loops { sum, .. } in loops {
            for (text, value) in texts.into_iter().zip(values(sum).into_iter().flatten()) {
                let labels = [("loop", sum.name), (label, text)];
                self.sample(metric.name, "", &labels, value);
            }
        }
    }

    /// The samples of calls by method, which is followed by the value of the metric's second label.
    pub(super) fn calls(&mut self, metric: &CallMetric, methods: &BTreeMap<String, MethodStats>) {
        let name = metric.metric.name;
        self.head(metric.metric);
        for (method, stats) in methods {
            for (text, value) in metric.samples(stats) {
                let of_method = ("method", method.as_str());
                match metric.label {
                    Some(label) => self.sample(name, "", &[of_method, (label, text)], value),
                    None => self.sample(name, "", &[of_method], value),
                }
            }
        }
    }

    /// The samples of servers, of which some have one label.
    pub(super) fn servers(&mut self, metric: &ServerMetric, totals: &Totals) {
        self.head(metric.metric);
        for (text, value) in metric.samples(totals) {
            let labels = metric.label.map(|label| (label, text));
            self.sample(metric.metric.name, "", labels.as_slice(), value);
        }
    }

    pub(super) fn handlers(
        &mut self,
        metric: Metric,
        loops: &[Loops<'_>],
        value: impl Fn(&Handler<'_>) -> u64,
    ) {
        self.head(metric);
        for Loops { sum, handlers, .. } in loops {
            for handler in handlers {
                let labels = [("loop", sum.name), ("handler", handler.name)];
                self.sample(metric.name, "", &labels, value(handler));
            }
        }
    }

    /// Histograms that have recorded something: most handlers never have a wall time.
    pub(super) fn histograms(
        &mut self,
        metric: Metric,
        loops: &[Loops<'_>],
        seen: impl for<'h> Fn(&'h Handler<'_>) -> &'h Histogram,
    ) {
        self.head(metric);
        for Loops { sum, handlers, .. } in loops {
            for handler in handlers {
                let histogram = seen(handler);
                if histogram.count > 0 {
                    let labels = [("loop", sum.name), ("handler", handler.name)];
                    self.histogram(metric.name, &labels, histogram);
                }
            }
        }
    }

    /// What belongs to the process and not to a loop, if anything was recorded.
    pub(super) fn of_process(&mut self, metric: Metric, histogram: &Histogram) {
        self.head(metric);
        if histogram.count > 0 {
            self.histogram(metric.name, &[], histogram);
        }
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut below = 0;
        let mut bucket = labels.to_vec();
        for ((_, bound), count) in BOUNDS.iter().zip(histogram.counts) {
            below += count;
            bucket.push(("le", bound));
            self.sample(name, "_bucket", &bucket, below);
            bucket.pop();
        }
        bucket.push(("le", "+Inf"));
        self.sample(name, "_bucket", &bucket, histogram.count);
        self.sample(name, "_sum", labels, histogram.sum);
        self.sample(name, "_count", labels, histogram.count);
    }
}
