//! Until when a leader may serve: one number that the lease keeping writes and every read and commit looks at.
//!
//! | field | written by | read by | under |
//! |---|---|---|---|
//! | `deadline` | the lease keeping (later), anybody (ended) | any thread | an atomic; ended is final |

use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::time::Duration;

use super::clock;
use crate::Guard;

/// Not valid, and never again.
const ENDED: u64 = 0;
/// Not valid yet.
const PENDING: u64 = 1;

/// The validity of one epoch: begins once, ends once.
#[derive(Debug)]
pub struct Validity {
    /// In nanoseconds of [`clock::now`], or one of the constants above.
    deadline: AtomicU64,
}

impl Validity {
    pub(super) fn new() -> Self {
        Self {
            deadline: AtomicU64::new(PENDING),
        }
    }

    /// For a server that was found to lead by a question sent at `sent`: it may serve until `sent + length`. Whether that was in
    /// time; too late, a validity that had begun has ended for good.
    pub(super) fn extend(&self, sent: u64, length: Duration) -> bool {
        let deadline = sent.saturating_add(clock::nanoseconds(length));
        let is_in_time = |current: u64| match current {
            ENDED => false,
            PENDING => clock::now() < deadline,
            _ => clock::now() < current,
        };
        let later = |current| is_in_time(current).then(|| current.max(deadline));
        match self.deadline.fetch_update(AcqRel, Acquire, later) {
            Ok(_) => true,
            Err(PENDING) => false,
            Err(_) => {
                self.end();
                false
            }
        }
    }

    /// Ends it at once and for good: whoever finds out that another server leads says so. Any thread.
    pub fn end(&self) {
        self.deadline.store(ENDED, Release);
    }

    /// How long it lasts yet if nothing extends it. Any thread.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let deadline = self.deadline.load(Acquire);
        Duration::from_nanos(deadline.saturating_sub(clock::now()))
    }

    /// Returns when it has ended.
    pub(super) async fn wait_end(&self) {
        loop {
            let remaining = self.remaining();
            if remaining.is_zero() {
                return;
            }
            // Not all at once: it may be ended early, and the runtime's clock stands still while the machine is suspended.
            tokio::time::sleep(remaining.min(Duration::from_millis(100))).await;
        }
    }
}

impl Guard for Validity {
    fn is_valid(&self) -> bool {
        clock::now() < self.deadline.load(Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nothing_is_valid_before_the_first_answer() {
        assert!(!Validity::new().is_valid());
    }

    #[test]
    fn a_first_answer_that_comes_too_late_may_be_followed_by_another() {
        let validity = Validity::new();
        assert!(!validity.extend(clock::now() - 2_000_000_000, SECOND));
        assert!(!validity.is_valid());
        assert!(validity.extend(clock::now(), 100 * SECOND));
    }

    #[test]
    fn it_counts_from_when_the_question_was_sent() {
        let validity = Validity::new();
        assert!(validity.extend(clock::now() - 500_000_000, 100 * SECOND));
        assert!(validity.is_valid());
        assert!(validity.remaining() <= Duration::from_millis(99_500));
    }

    #[test]
    fn an_answer_that_comes_too_late_ends_it_for_good() {
        let validity = Validity::new();
        let sent = clock::now();
        assert!(validity.extend(sent, Duration::from_millis(20)));
        while validity.is_valid() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!validity.extend(clock::now(), 100 * SECOND));
        assert!(!validity.is_valid());
        assert!(!validity.extend(clock::now(), 100 * SECOND));
    }

    #[test]
    fn what_has_ended_is_not_extended() {
        let validity = Validity::new();
        assert!(validity.extend(clock::now(), 100 * SECOND));
        validity.end();
        assert!(!validity.is_valid());
        assert!(!validity.extend(clock::now(), 100 * SECOND));
        assert!(!validity.is_valid());
    }

    #[test]
    fn an_answer_to_an_older_question_takes_nothing_away() {
        let validity = Validity::new();
        let now = clock::now();
        assert!(validity.extend(now, 100 * SECOND));
        assert!(validity.extend(now, SECOND));
        assert!(validity.remaining() > 50 * SECOND);
    }
}
