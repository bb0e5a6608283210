//! Whether the process lives and whether its loops are well, by what its monitors say. Any thread; waits for no loop.

use std::fmt::Write as _;
use std::time::Duration;

use super::top::{Health, Running, Seen, seen};
use crate::clock;
use crate::readiness::Told;

/// The condition of `/readyz` that monitors set.
const LOOPS: &str = "loops";

/// Whether no loop that counts has been without progress for longer than `threshold`, and what `/livez` says of it. Without a
/// threshold it lives while it answers.
pub(crate) fn livez(threshold: Option<Duration>) -> (bool, String) {
    let seen = seen();
    let mut said = String::new();
    for each in &seen {
        let Some(threshold) = threshold else { break };
        let waited = each.views.iter().filter(|view| view.counts);
        let waited = waited.filter_map(|view| view.outstanding).max();
        let Some(waited) = waited.map(clock::duration).filter(|it| *it > threshold) else {
            continue;
        };
        let _ = write!(said, "{}", stuck(each, waited));
    }
    if !said.is_empty() {
        return (false, said);
    }
    let watched = seen.iter().filter(|it| !it.views.is_empty()).count();
    if watched == 0 {
        return (true, "alive; no monitor watches the loops\n".into());
    }
    let unhealthy = seen.iter().filter_map(unhealthy).count();
    let mut text = format!("alive; {watched} loops are watched");
    if unhealthy > 0 {
        let _ = write!(text, ", of which {unhealthy} unhealthy: see /readyz");
    }
    text.push('\n');
    (true, text)
}

fn stuck(each: &Seen, waited: Duration) -> String {
    let name = each.observed.name();
    let waited = waited.as_secs_f64();
    let mut line = format!("loop {name} has made no progress for {waited:.1} s");
    push_running(&mut line, each);
    line.push('\n');
    line
}

/// Whether every loop is healthy that counts; none where no monitor watches any.
pub(super) fn loops() -> Option<Told> {
    let seen = seen();
    if seen.iter().all(|it| it.views.is_empty()) {
        return None;
    }
    let said: Vec<String> = seen.iter().filter_map(unhealthy).collect();
    Some(Told::new(LOOPS, said.is_empty(), said.join(", and ")))
}

fn unhealthy(each: &Seen) -> Option<String> {
    let health = Health::of(&each.views).filter(|it| it.counts && !it.healthy)?;
    let mut line = format!("loop {} is unhealthy", each.observed.name());
    if let Some(waited) = health.outstanding {
        let _ = write!(line, ": a probe has waited {waited:.1} s for its turn");
    }
    push_running(&mut line, each);
    Some(line)
}

fn push_running(line: &mut String, each: &Seen) {
    if let Some(running) = Running::of(&*each.observed) {
        let _ = write!(line, "; {} runs for {:.1} s", running.handler, running.age);
    }
}
