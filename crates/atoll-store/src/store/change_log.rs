//! The latest changes in memory, bounded by number and bytes.
//!
//! The log is complete after `oldest`: it holds every change with a higher revision, in order.

use std::collections::VecDeque;

use crate::error::Compacted;
use crate::types::{Change, Changes, Revision};

#[derive(Debug, Default)]
pub(crate) struct ChangeLog {
    changes: VecDeque<Change>,
    bytes: usize,
    oldest: Revision,
}

impl ChangeLog {
    pub(crate) fn oldest(&self) -> Revision {
        self.oldest
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, change: Change) {
        self.bytes += change.bytes();
        self.changes.push_back(change);
    }

    /// How many of the oldest changes have to go so that `more` changes with `more_bytes` fit into the bounds: whole revisions, never
    /// the newest of what would be there. And the revision after which the log is complete then.
    pub(crate) fn excess(
        &self,
        (more, more_bytes): (usize, usize),
        (max, max_bytes): (usize, usize),
    ) -> (usize, Revision) {
        let (mut count, mut bytes) = (self.changes.len() + more, self.bytes + more_bytes);
        let (mut gone, mut oldest) = (0, self.oldest);
        while (count > max || bytes > max_bytes) && gone < self.changes.len() {
            let revision = self.changes[gone].revision;
            let whole = self
                .changes
                .range(gone..)
                .take_while(|it| it.revision == revision);
            let (number, size) = whole.fold((0, 0), |sum, it| (sum.0 + 1, sum.1 + it.bytes()));
            if more == 0 && gone + number == self.changes.len() {
                break;
            }
            gone += number;
            count -= number;
            bytes -= size;
            oldest = revision;
        }
        (gone, oldest)
    }

    /// The oldest `count` changes.
    pub(crate) fn first(&self, count: usize) -> Vec<Change> {
        self.changes.range(..count).cloned().collect()
    }

    /// Takes the oldest `count` changes out; the log is complete after `oldest` from now on.
    pub(crate) fn trim(&mut self, count: usize, oldest: Revision) -> Vec<Change> {
        self.oldest = oldest;
        let gone: Vec<Change> = self.changes.drain(..count).collect();
        self.bytes -= gone.iter().map(Change::bytes).sum::<usize>();
        gone
    }

    /// Takes the changes up to `oldest` out.
    pub(crate) fn trim_through(&mut self, oldest: Revision) -> Vec<Change> {
        let count = self.changes.partition_point(|it| it.revision <= oldest);
        self.trim(count, oldest)
    }

    /// Whole revisions after `after`: at least one if there is one, and no further ones beyond `limit` changes or `max_bytes`.
    /// `revision` is the store's.
    pub(crate) fn after(
        &self,
        after: Revision,
        limit: usize,
        max_bytes: usize,
        revision: Revision,
    ) -> Result<Changes, Compacted> {
        if after < self.oldest {
            return Err(Compacted {
                oldest: self.oldest,
            });
        }
        let start = self.changes.partition_point(|it| it.revision <= after);
        let (mut end, mut bytes) = (start, 0);
        let mut through = revision.max(after);
        while end < self.changes.len() {
            let next = self.changes[end].revision;
            let whole = self
                .changes
                .range(end..)
                .take_while(|it| it.revision == next);
            let (number, size) = whole.fold((0, 0), |sum, it| (sum.0 + 1, sum.1 + it.bytes()));
            if end > start && (end - start + number > limit || bytes + size > max_bytes) {
                through = self.changes[end - 1].revision;
                break;
            }
            end += number;
            bytes += size;
        }
        Ok(Changes {
            changes: self.changes.range(start..end).cloned().collect(),
            through,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ChangeLog;
    use crate::types::{Change, TableId};
    use bytes::Bytes;

    fn log(revisions: &[u64]) -> ChangeLog {
        let mut log = ChangeLog::default();
        for &revision in revisions {
            log.push(Change {
                revision,
                table: TableId(0),
                key: Bytes::from_static(b"0123456789"),
                row: None,
                previous: None,
            });
        }
        log
    }

    fn revisions(log: &ChangeLog, after: u64, limit: usize, max_bytes: usize) -> (Vec<u64>, u64) {
        let changes = log.after(after, limit, max_bytes, 9).unwrap();
        let found = changes.changes.iter().map(|it| it.revision).collect();
        (found, changes.through)
    }

    #[test]
    fn only_whole_revisions_are_told_and_at_least_one() {
        let log = log(&[1, 3, 3, 3, 7, 8]);
        assert_eq!(revisions(&log, 0, 100, 1000), (vec![1, 3, 3, 3, 7, 8], 9));
        assert_eq!(revisions(&log, 0, 2, 1000), (vec![1], 1));
        assert_eq!(revisions(&log, 1, 2, 1000), (vec![3, 3, 3], 3));
        assert_eq!(revisions(&log, 1, 4, 1000), (vec![3, 3, 3, 7], 7));
        assert_eq!(revisions(&log, 3, 100, 10), (vec![7], 7));
        assert_eq!(revisions(&log, 2, 0, 0), (vec![3, 3, 3], 3));
    }

    #[test]
    fn a_revision_without_changes_of_its_own_is_a_place_to_go_on_from() {
        let log = log(&[1, 3, 8]);
        assert_eq!(revisions(&log, 2, 100, 1000), (vec![3, 8], 9));
        assert_eq!(revisions(&log, 9, 100, 1000), (vec![], 9));
        assert_eq!(revisions(&log, 12, 100, 1000), (vec![], 12));
    }

    #[test]
    fn what_has_been_trimmed_is_refused_with_the_oldest_revision() {
        let mut log = log(&[1, 3, 3, 8]);
        assert_eq!(log.trim_through(3).len(), 3);
        assert_eq!(log.after(2, 9, 99, 8).unwrap_err().oldest, 3);
        assert_eq!(revisions(&log, 3, 100, 1000), (vec![8], 9));
        assert_eq!(log.bytes(), 10);
    }

    #[test]
    fn whole_revisions_go_until_the_rest_fits_and_the_newest_stays() {
        let log = log(&[1, 3, 3, 8]);
        assert_eq!(log.excess((0, 0), (4, 40)), (0, 0));
        assert_eq!(log.excess((0, 0), (3, 99)), (1, 1));
        assert_eq!(log.excess((0, 0), (2, 99)), (3, 3));
        assert_eq!(log.excess((0, 0), (0, 99)), (3, 3));
        assert_eq!(log.excess((1, 10), (2, 99)), (3, 3));
        assert_eq!(log.excess((1, 10), (9, 30)), (3, 3));
        assert_eq!(log.excess((5, 50), (2, 99)), (4, 8));
    }
}
