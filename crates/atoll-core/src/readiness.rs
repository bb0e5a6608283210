//! Whether a process is ready for work, as conditions that it names and sets itself, told without Python.
//!
//! A condition may carry a time to live: whoever set it and does not set it again in time is taken to be stuck, and the
//! condition does not hold any more.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `conditions` | who sets and removes conditions | who answers | its mutex |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// How many conditions there may be.
pub const MOST_CONDITIONS: usize = 100;
/// How long a reason may be, in characters; the rest of a longer one is left out.
pub const LONGEST_REASON: usize = 500;

#[derive(Debug)]
struct Condition {
    holds: bool,
    reason: String,
    set_at: Instant,
    time_to_live: Option<Duration>,
}

/// Why a condition can't be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionError {
    /// A name is letters, digits, `-`, `_` and `.`.
    BadName,
    /// There are [`MOST_CONDITIONS`] already.
    TooMany,
}

/// A condition as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Its name.
    pub name: String,
    /// Whether it holds.
    #[serde(rename = "ok")]
    pub holds: bool,
    /// Why, or why not; may be empty.
    pub reason: String,
}

impl Told {
    pub(crate) fn new(name: &str, holds: bool, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            holds,
            reason: reason.into(),
        }
    }
}

/// The conditions of a process. Any thread.
#[derive(Debug, Default)]
pub struct Readiness {
    conditions: Mutex<BTreeMap<String, Condition>>,
}

impl Readiness {
    /// Says whether the condition `name` holds, from now until it is said again, or for `time_to_live`.
    ///
    /// # Errors
    /// When the name is none, or one too many.
    pub fn set(
        &self,
        name: &str,
        holds: bool,
        reason: &str,
        time_to_live: Option<Duration>,
    ) -> Result<(), ConditionError> {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(is_fine) {
            return Err(ConditionError::BadName);
        }
        let condition = Condition {
            holds,
            reason: one_line(reason),
            set_at: Instant::now(),
            time_to_live,
        };
        let mut conditions = self.lock();
        if conditions.len() >= MOST_CONDITIONS && !conditions.contains_key(name) {
            return Err(ConditionError::TooMany);
        }
        conditions.insert(name.into(), condition);
        Ok(())
    }

    /// Forgets a condition; false when there is none of that name.
    pub fn remove(&self, name: &str) -> bool {
        self.lock().remove(name).is_some()
    }

    /// All conditions as they are now, by name.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        self.told_at(Instant::now())
    }

    fn told_at(&self, now: Instant) -> Vec<Told> {
        let conditions = self.lock();
        let told = |(name, condition): (&String, &Condition)| condition.told(name, now);
        conditions.iter().map(told).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Condition>> {
        self.conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    fn told(&self, name: &str, now: Instant) -> Told {
        let age = now.saturating_duration_since(self.set_at);
        match self.time_to_live {
            Some(limit) if age > limit && self.holds => {
                let (age, limit) = (age.as_secs_f64(), limit.as_secs_f64());
                let limit = Short(limit);
                let text = format!("said to hold {age:.1} s ago, for {limit} s");
                Told::new(name, false, text)
            }
            _ => Told::new(name, self.holds, self.reason.clone()),
        }
    }
}

/// A number without needless digits.
struct Short(f64);

impl std::fmt::Display for Short {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.3}", self.0);
        formatter.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A reason is told in a line of its own.
fn one_line(reason: &str) -> String {
    let blank = |c: char| if c.is_control() { ' ' } else { c };
    reason
        .trim()
        .chars()
        .take(LONGEST_REASON)
        .map(blank)
        .collect()
}

/// What is asked of `/readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// In the manner of Kubernetes.
    Text,
    Json,
}

impl Format {
    /// As the query says, else the header `accept`.
    pub(crate) fn of(query: Option<&str>, accept: Option<&str>) -> Self {
        let formats = query.into_iter().flat_map(|query| query.split('&'));
        match formats
            .filter_map(|it| it.strip_prefix("format="))
            .next_back()
        {
            Some("json") => Self::Json,
            None if accept.is_some_and(prefers_json) => Self::Json,
            Some(_) | None => Self::Text,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/json",
        }
    }
}

/// Whether JSON is named, and text is not.
fn prefers_json(accept: &str) -> bool {
    let names = |wanted: &str| {
        let mut ranges = accept.split(',');
        ranges.any(|range| {
            range
                .split(';')
                .next()
                .is_some_and(|it| it.trim() == wanted)
        })
    };
    names("application/json") && !names("text/plain")
}

#[derive(Serialize)]
struct Whole<'a> {
    ready: bool,
    conditions: &'a [Told],
}

/// Whether all conditions hold, and the body that says so.
pub(crate) fn readyz(told: &[Told], format: Format) -> (bool, String) {
    let ready = told.iter().all(|condition| condition.holds);
    if format == Format::Json {
        let whole = Whole {
            ready,
            conditions: told,
        };
        // Nothing in it can fail.
        let mut json = serde_json::to_string(&whole).unwrap_or_default();
        json.push('\n');
        return (ready, json);
    }
    let mut text = String::new();
    for Told {
        name,
        holds,
        reason,
    } in told
    {
        let _ = match (holds, reason.is_empty()) {
            (true, true) => writeln!(text, "[+]{name} ok"),
            (true, false) => writeln!(text, "[+]{name} ok: {reason}"),
            (false, true) => writeln!(text, "[-]{name}: not ready"),
            (false, false) => writeln!(text, "[-]{name}: {reason}"),
        };
    }
    text.push_str(if ready {
        "readyz check passed\n"
    } else {
        "readyz check failed\n"
    });
    (ready, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_told_by_name_and_all_must_hold() {
        let readiness = Readiness::default();
        assert_eq!(
            readyz(&readiness.told(), Format::Text),
            (true, "readyz check passed\n".into())
        );
        readiness.set("store", true, "", None).unwrap();
        readiness
            .set("leader", false, "standby of\n10.0.0.1", None)
            .unwrap();
        readiness.set("recovery", true, "3 keys", None).unwrap();
        readiness.set("disk", false, "", None).unwrap();
        let (ready, text) = readyz(&readiness.told(), Format::Text);
        assert!(!ready);
        assert_eq!(
            text,
            "[-]disk: not ready\n[-]leader: standby of 10.0.0.1\n[+]recovery ok: 3 keys\n[+]store ok\nreadyz check failed\n"
        );
        assert!(readiness.remove("leader"));
        assert!(!readiness.remove("leader"));
        readiness.set("disk", true, "", None).unwrap();
        assert!(readyz(&readiness.told(), Format::Text).0);
    }

    #[test]
    fn a_condition_with_a_time_to_live_holds_only_until_its_end() {
        let readiness = Readiness::default();
        let second = Duration::from_secs(1);
        readiness
            .set("leader", true, "", Some(10 * second))
            .unwrap();
        readiness
            .set("store", false, "as it is", Some(second))
            .unwrap();
        let now = Instant::now();
        let holds = |at: Instant| readiness.told_at(at)[0].holds;
        assert!(holds(now + 9 * second));
        let late = &readiness.told_at(now + 12 * second);
        assert!(!late[0].holds);
        assert!(
            late[0].reason.ends_with("s ago, for 10 s"),
            "{}",
            late[0].reason
        );
        assert_eq!(late[1].reason, "as it is");
    }

    #[test]
    fn names_are_words_and_their_number_and_reasons_are_bounded() {
        let readiness = Readiness::default();
        for bad in ["", "a b", "a\n", "ä", "[+]"] {
            let refused = readiness.set(bad, true, "", None);
            assert_eq!(refused, Err(ConditionError::BadName), "{bad:?}");
        }
        for number in 0..MOST_CONDITIONS {
            readiness
                .set(&format!("c-{number}"), true, "", None)
                .unwrap();
        }
        assert_eq!(
            readiness.set("more", true, "", None),
            Err(ConditionError::TooMany)
        );
        let long = "ä".repeat(2 * LONGEST_REASON);
        readiness.set("c-0", true, &long, None).unwrap();
        assert_eq!(readiness.told()[0].reason, "ä".repeat(LONGEST_REASON));
    }

    #[test]
    fn json_is_told_to_those_who_ask_for_it() {
        let told = [Told::new("leader", false, "standby")];
        let (ready, json) = readyz(&told, Format::Json);
        assert!(!ready);
        let expected =
            r#"{"ready":false,"conditions":[{"name":"leader","ok":false,"reason":"standby"}]}"#;
        assert_eq!(json, format!("{expected}\n"));
        assert_eq!(Format::of(Some("verbose&format=json"), None), Format::Json);
        assert_eq!(
            Format::of(Some("format=text"), Some("application/json")),
            Format::Text
        );
        assert_eq!(
            Format::of(None, Some("application/json; q=1, */*")),
            Format::Json
        );
        assert_eq!(
            Format::of(None, Some("text/plain, application/json")),
            Format::Text
        );
        assert_eq!(Format::of(None, Some("*/*")), Format::Text);
        assert_eq!(Format::of(Some("verbose"), None), Format::Text);
    }
}
