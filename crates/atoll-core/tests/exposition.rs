//! The Prometheus text: its grammar, what it says, and what holds from scrape to scrape.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use atoll_core::clock;
use atoll_core::exposition::{self, BOUNDS, Kind, LoopView, METRICS, text_of_process};
use atoll_core::gil_wait;
use atoll_core::probe::Probe;
use atoll_core::registry::{self, LoopRecord, ObservedLoop};
use atoll_core::stats::{Distribution, EventTracker, Recorder};
use atoll_core::timer::Due;

type Labels = Vec<(String, String)>;
/// Values by name and labels.
type Samples = HashMap<(String, Labels), f64>;

/// The text where nobody measures the GIL.
fn text<'a>(loops: impl IntoIterator<Item = LoopView<'a>>) -> String {
    exposition::text(loops, &Distribution::default())
}

/// The samples of a text, checked against the format's grammar on the way.
fn parsed(text: &str) -> Samples {
    assert!(text.is_empty() || text.ends_with('\n'));
    let mut samples = HashMap::new();
    let mut families = HashSet::new();
    let mut current = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help");
            assert!(!help.is_empty() && !help.contains('"'));
            let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE "));
            let (typed, kind) = kind.expect("a type").split_once(' ').expect("a kind");
            assert_eq!(name, typed);
            assert!(
                families.insert(name.to_owned()),
                "{name} comes a second time"
            );
            current = Some((name.to_owned(), kind.to_owned()));
            continue;
        }
        let (family, kind) = current.as_ref().expect("a head before the first sample");
        let (name, labels, value) = sample(line);
        let suffix = name.strip_prefix(family.as_str()).expect("of this family");
        if kind == "histogram" {
            assert!(["_bucket", "_sum", "_count"].contains(&suffix));
        } else {
            assert_eq!(suffix, "");
        }
        let names: HashSet<_> = labels.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), labels.len(), "a label comes twice: {line}");
        let again = samples.insert((name, labels), value);
        assert!(again.is_none(), "a series comes twice: {line}");
    }
    samples
}

/// `name{label="text",...} value`, or `name value`.
fn sample(line: &str) -> (String, Labels, f64) {
    let Some((name, mut rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ').expect("a value");
        assert!(is_name(name), "{name}");
        return (
            name.to_owned(),
            Vec::new(),
            value.parse().expect("a number"),
        );
    };
    assert!(is_name(name), "{name}");
    let mut labels = Vec::new();
    loop {
        let (label, quoted) = rest.split_once("=\"").expect("a label");
        assert!(is_name(label), "{label}");
        let (text, after) = unescaped(quoted);
        labels.push((label.to_owned(), text));
        match after.split_at(1) {
            (",", next) => rest = next,
            ("}", next) => {
                let value = next.strip_prefix(' ').expect("a space").parse();
                return (name.to_owned(), labels, value.expect("a number"));
            }
            (other, _) => panic!("{other:?} after a label in {line:?}"),
        }
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A label's value up to its closing quote, and what follows.
fn unescaped(quoted: &str) -> (String, &str) {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (text, &quoted[index + 1..]),
            '\\' => match characters.next().expect("something escaped").1 {
                'n' => text.push('\n'),
                other @ ('\\' | '"') => text.push(other),
                other => panic!("\\{other} is no escape"),
            },
            other => text.push(other),
        }
    }
    panic!("no closing quote in {quoted:?}")
}

fn view<'a>(name: &'a str, handlers: &'a EventTracker) -> LoopView<'a> {
    LoopView {
        name,
        queued: [1, 2, 3],
        refused: [0, 7, 0],
        delayed: 4,
        guards: 5,
        time: Some([30.5, 1.25, 0.25]),
        oldest: Some(0.5),
        probe: Some(0.001),
        handlers: Some(handlers),
    }
}

/// A handler of `name` that waited and ran for so long.
fn record(tracker: &EventTracker, name: &str, queued: Duration, executed: Duration) {
    let slot = tracker.slot(tracker.index(name));
    slot.accepted();
    slot.started(clock::ticks(queued));
    slot.finished(clock::ticks(executed));
}

const MILLISECOND: Duration = Duration::from_millis(1);

#[track_caller]
fn value(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels = labels
        .iter()
        .map(|&(name, text)| (name.to_owned(), text.to_owned()))
        .collect();
    let key = (name.to_owned(), labels);
    *samples
        .get(&key)
        .unwrap_or_else(|| panic!("{key:?} is not there"))
}

#[test]
fn each_metric_has_its_help_and_type_also_where_there_is_no_loop() {
    let text = text([]);
    assert!(parsed(&text).is_empty());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2 * METRICS.len());
    for (head, metric) in lines.chunks(2).zip(METRICS) {
        assert_eq!(head[0], format!("# HELP {} {}", metric.name, metric.help));
        assert_eq!(
            head[1],
            format!("# TYPE {} {}", metric.name, metric.kind.name())
        );
        assert_eq!(
            metric.kind == Kind::Counter,
            metric.name.ends_with("_total")
        );
    }
}

#[test]
fn a_loops_numbers_are_what_its_view_says() {
    let tracker = EventTracker::new(10);
    let samples = parsed(&text([view("node_manager", &tracker)]));
    let of_loop = ("loop", "node_manager");
    for (lane, queued) in [("control", 1.0), ("normal", 2.0), ("bulk", 3.0)] {
        let found = value(&samples, "atoll_loop_queued", &[of_loop, ("lane", lane)]);
        assert!((found - queued).abs() < f64::EPSILON);
    }
    for (lane, refused) in [("control", 0.0), ("normal", 7.0), ("bulk", 0.0)] {
        let labels = [of_loop, ("lane", lane)];
        let found = value(&samples, "atoll_loop_refused_total", &labels);
        assert!((found - refused).abs() < f64::EPSILON);
    }
    for (state, seconds) in [("idle", 30.5), ("waiting", 1.25), ("running", 0.25)] {
        let labels = [of_loop, ("state", state)];
        let found = value(&samples, "atoll_loop_time_seconds_total", &labels);
        assert!((found - seconds).abs() < f64::EPSILON);
    }
    for (name, expected) in [
        ("atoll_loop_delayed", 4.0),
        ("atoll_loop_work_guards", 5.0),
        ("atoll_loop_lag_seconds", 0.5),
        ("io_context_event_loop_lag", 0.001),
    ] {
        assert!((value(&samples, name, &[of_loop]) - expected).abs() < f64::EPSILON);
    }
}

#[test]
fn what_a_loop_does_not_know_is_left_out() {
    let tracker = EventTracker::new(10);
    let unknown = LoopView {
        time: None,
        oldest: None,
        probe: None,
        handlers: None,
        ..view("node_manager", &tracker)
    };
    record(&tracker, "unknown", MILLISECOND, MILLISECOND);
    let samples = parsed(&text([unknown]));
    assert!(samples.keys().all(|(name, _)| {
        [
            "atoll_loop_queued",
            "atoll_loop_refused_total",
            "atoll_loop_delayed",
            "atoll_loop_work_guards",
        ]
        .contains(&name.as_str())
    }));
}

#[test]
fn a_handlers_counts_and_times_are_exported() {
    let tracker = EventTracker::new(10);
    for _ in 0..3 {
        record(&tracker, "Put", MILLISECOND * 3, MILLISECOND * 30);
    }
    let waiting = tracker.slot(tracker.index("Put"));
    waiting.accepted();
    waiting.failed();
    let samples = parsed(&text([view("kv", &tracker)]));
    let labels = [("loop", "kv"), ("handler", "Put")];
    for (name, expected) in [
        ("atoll_handlers_total", 4.0),
        ("atoll_handlers_active", 1.0),
        ("atoll_handlers_running", 0.0),
        ("atoll_handler_errors_total", 1.0),
        ("atoll_handler_queue_seconds_count", 3.0),
        ("atoll_handler_execution_seconds_count", 3.0),
        ("atoll_handler_queue_seconds_sum", 0.009),
        ("atoll_handler_execution_seconds_sum", 0.09),
    ] {
        let found = value(&samples, name, &labels);
        assert!((found - expected).abs() < 1e-6, "{name} is {found}");
    }
    assert!(
        samples
            .keys()
            .all(|(name, _)| !name.starts_with("atoll_handler_wall")),
        "nothing has awaited"
    );
}

#[test]
fn a_duration_is_counted_at_each_bound_from_its_own_upwards_and_never_as_shorter() {
    let exact = [9e-6, 1.1e-5, 4e-4, 6e-4, 0.3, 0.7, 11.0, 3600.0];
    let tracker = EventTracker::new(10);
    for seconds in exact {
        record(
            &tracker,
            "work",
            MILLISECOND,
            Duration::from_secs_f64(seconds),
        );
    }
    let samples = parsed(&text([view("kv", &tracker)]));
    let mut before = 0.0;
    for (bound, le) in BOUNDS {
        let labels = [("loop", "kv"), ("handler", "work"), ("le", le)];
        let counted = value(&samples, "atoll_handler_execution_seconds_bucket", &labels);
        let not_longer = exact.iter().filter(|&&it| it <= bound).count() as f64;
        let surely_shorter = exact.iter().filter(|&&it| it * 1.125 <= bound).count() as f64;
        assert!(
            surely_shorter <= counted && counted <= not_longer,
            "{le}: {counted}"
        );
        assert!(before <= counted, "the counts are cumulative");
        before = counted;
    }
    let labels = [("loop", "kv"), ("handler", "work"), ("le", "+Inf")];
    let all = value(&samples, "atoll_handler_execution_seconds_bucket", &labels);
    assert!((all - 8.0).abs() < f64::EPSILON);
}

#[test]
fn the_bounds_are_numbers_in_ascending_order_as_their_labels_say() {
    assert!(BOUNDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for (bound, label) in BOUNDS {
        assert_eq!(label.parse(), Ok(bound));
    }
}

#[test]
fn names_with_any_character_come_back_as_they_were() {
    let odd = "a \"quoted\" \\ back\nslash{}=, läuft – 🏝";
    let tracker = EventTracker::new(10);
    record(&tracker, odd, MILLISECOND, MILLISECOND);
    let samples = parsed(&text([view(odd, &tracker)]));
    let labels = [("loop", odd), ("handler", odd)];
    assert!((value(&samples, "atoll_handlers_total", &labels) - 1.0).abs() < f64::EPSILON);
}

#[test]
fn loops_of_one_name_are_added_up_so_that_no_series_comes_twice() {
    let (first, second) = (EventTracker::new(10), EventTracker::new(10));
    record(&first, "both", MILLISECOND, MILLISECOND);
    record(&second, "second only", MILLISECOND, MILLISECOND);
    record(&second, "both", MILLISECOND, MILLISECOND * 2);
    let later = LoopView {
        time: None,
        oldest: Some(2.0),
        probe: None,
        ..view("worker", &second)
    };
    let samples = parsed(&text([view("worker", &first), later]));
    let of_loop = ("loop", "worker");
    for (name, labels, expected) in [
        (
            "atoll_handlers_total",
            vec![of_loop, ("handler", "both")],
            2.0,
        ),
        (
            "atoll_handlers_total",
            vec![of_loop, ("handler", "second only")],
            1.0,
        ),
        (
            "atoll_handler_execution_seconds_sum",
            vec![of_loop, ("handler", "both")],
            0.003,
        ),
        (
            "atoll_handler_execution_seconds_count",
            vec![of_loop, ("handler", "both")],
            2.0,
        ),
        ("atoll_loop_queued", vec![of_loop, ("lane", "normal")], 4.0),
        (
            "atoll_loop_refused_total",
            vec![of_loop, ("lane", "normal")],
            14.0,
        ),
        ("atoll_loop_delayed", vec![of_loop], 8.0),
        ("atoll_loop_lag_seconds", vec![of_loop], 2.0),
        ("io_context_event_loop_lag", vec![of_loop], 0.001),
        (
            "atoll_loop_time_seconds_total",
            vec![of_loop, ("state", "idle")],
            30.5,
        ),
    ] {
        let found = value(&samples, name, &labels);
        assert!(
            (found - expected).abs() < 1e-6,
            "{name} {labels:?} is {found}"
        );
    }
}

#[test]
fn counters_and_buckets_only_grow_while_a_loop_works() {
    let tracker = EventTracker::new(10);
    let index = tracker.index("work");
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let slot = tracker.slot(index);
            for round in 0..50_000u64 {
                slot.accepted();
                slot.started(round * 1_000);
                slot.finished(round * 100);
            }
        });
        let mut before = Samples::new();
        loop {
            let ended = worker.is_finished();
            let now = parsed(&text([view("kv", &tracker)]));
            for (key, value) in &before {
                let gauge = ["atoll_handlers_active", "atoll_handlers_running"];
                if !gauge.contains(&key.0.as_str()) {
                    assert!(now[key] >= *value, "{key:?} went back");
                }
            }
            before = now;
            if ended {
                break;
            }
        }
        let labels = [("loop", "kv"), ("handler", "work"), ("le", "+Inf")];
        let all = value(&before, "atoll_handler_queue_seconds_bucket", &labels);
        assert!((all - 50_000.0).abs() < f64::EPSILON);
    });
}

#[test]
fn the_waits_for_the_gil_are_the_processs_and_bear_no_labels() {
    let waits = Recorder::default();
    for _ in 0..3 {
        waits.record(clock::ticks(MILLISECOND * 3));
    }
    let samples = parsed(&exposition::text([], &waits.snapshot()));
    assert!((value(&samples, "atoll_gil_wait_seconds_count", &[]) - 3.0).abs() < f64::EPSILON);
    assert!((value(&samples, "atoll_gil_wait_seconds_sum", &[]) - 0.009).abs() < 1e-6);
    for (le, expected) in [("0.002", 0.0), ("0.005", 3.0), ("+Inf", 3.0)] {
        let found = value(&samples, "atoll_gil_wait_seconds_bucket", &[("le", le)]);
        assert!((found - expected).abs() < f64::EPSILON, "{le}: {found}");
    }
}

#[test]
fn all_gauges_of_the_process_measure_into_one_distribution() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(gil_wait::record));
        }
    });
    assert_eq!(gil_wait::snapshot().count, 4_000);
}

struct Listed {
    name: &'static str,
    closed: bool,
    record: LoopRecord,
}

impl ObservedLoop for Listed {
    fn set_timer(&self, _: Duration, _: Weak<dyn Due>, _: u64) {}

    fn name(&self) -> &str {
        self.name
    }

    fn record(&self) -> &LoopRecord {
        &self.record
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn queued(&self) -> [usize; 3] {
        [0, 7, 0]
    }

    fn delayed(&self) -> usize {
        0
    }

    fn guards(&self) -> usize {
        1
    }

    fn refused(&self) -> [u64; 3] {
        [0; 3]
    }

    fn oldest_queued_at(&self) -> u64 {
        clock::now() - clock::ticks(MILLISECOND * 100)
    }

    fn post_probe(&self, _probe: Arc<dyn Probe>) -> bool {
        false
    }
}

#[test]
fn the_text_of_the_process_has_the_loops_that_are_not_closed() {
    let listed: Vec<_> = [
        ("open", false, true),
        ("closed", true, true),
        ("not recording", false, false),
    ]
    .into_iter()
    .map(|(name, closed, recording)| {
        let record = LoopRecord::new(10, recording);
        record.events.slot(record.events.index("work")).accepted();
        let listed = Arc::new(Listed {
            name,
            closed,
            record,
        });
        let weak: Weak<Listed> = Arc::downgrade(&listed);
        registry::register(weak);
        listed
    })
    .collect();
    let samples = parsed(&text_of_process());
    for (name, handlers) in [("open", 1), ("closed", 0), ("not recording", 0)] {
        let of_loop = |family: &str| {
            let label = ("loop".to_owned(), name.to_owned());
            let matches =
                |key: &&(String, Labels)| key.0 == family && key.1.first() == Some(&label);
            samples.keys().filter(matches).count()
        };
        assert_eq!(of_loop("atoll_handlers_total"), handlers);
        assert_eq!(
            of_loop("atoll_loop_work_guards"),
            usize::from(name != "closed")
        );
    }
    let lag = value(&samples, "atoll_loop_lag_seconds", &[("loop", "open")]);
    assert!(lag >= 0.1, "{lag}");
    drop(listed);
    let of_loops = |samples: &Samples| {
        let names = samples.keys().map(|(name, _)| name);
        names.filter(|name| !name.starts_with("atoll_gil_")).count()
    };
    assert_eq!(of_loops(&parsed(&text_of_process())), 0, "they are gone");
}
