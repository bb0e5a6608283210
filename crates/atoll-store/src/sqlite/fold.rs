//! Moving changes that have left the window into `rows`.
//!
//! A commit only appends to `changes`, which is what makes it cheap: a few pages in one place, however the keys are spread. The rows are
//! brought up to date later, many changes at a time: of a key that changed often only the last change counts, and in the order of
//! the keys a page that has several of them is written once. The work is spread over the commits and the pauses between them.
//!
//! It is safe to be stopped anywhere: `rows` may then hold some rows that are newer than others, but all changes since the oldest
//! of them are still in `changes`, and applying them in order leads to the same state. Only what was before each of them would be wrong,
//! so `oldest` is raised past them first, in the same transaction as the first row.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::record::PutRow;
use crate::types::{Revision, Row};

type Target = (i64, Bytes);

/// How many lines of `changes` are deleted for the price of one row.
const DELETIONS_PER_ROW: i64 = 16;

/// A change that has left the window.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) table: i64,
    pub(crate) key: Bytes,
    pub(crate) revision: Revision,
    pub(crate) row: Option<Arc<Row>>,
}

#[derive(Debug)]
struct Job {
    rows: Vec<(Target, Option<Arc<Row>>)>,
    next: usize,
    /// The lines of `changes` that are superfluous then.
    first: i64,
    last: i64,
    oldest: Revision,
}

/// What one transaction has done, to be counted when it is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    next: usize,
    first: i64,
}

#[derive(Debug)]
pub(crate) struct Fold {
    waiting: BTreeMap<Target, Option<Arc<Row>>>,
    /// How many changes, and how many bytes of them, wait.
    changes: usize,
    bytes: usize,
    /// The oldest line of `changes`, and the first that has not left the window.
    first: i64,
    end: i64,
    oldest: Revision,
    job: Option<Job>,
    max_changes: usize,
    max_bytes: usize,
}

impl Fold {
    pub(crate) fn new(max_changes: usize, max_bytes: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            changes: 0,
            bytes: 0,
            first: 0,
            end: 0,
            oldest: 0,
            job: None,
            max_changes,
            max_bytes,
        }
    }

    /// Where the lines of `changes` begin.
    pub(crate) fn begin(&mut self, first: i64) {
        self.first = first;
        self.end = first;
    }

    /// The next change has left the window.
    pub(crate) fn push(&mut self, left: Left) {
        self.changes += 1;
        self.bytes += left.key.len() + left.row.as_ref().map_or(0, |it| it.value.len());
        self.end += 1;
        self.oldest = left.revision;
        self.waiting.insert((left.table, left.key), left.row);
    }

    pub(crate) fn is_due(&mut self) -> bool {
        if self.job.is_none() && (self.changes >= self.max_changes || self.bytes >= self.max_bytes)
        {
            self.job = Some(Job {
                rows: std::mem::take(&mut self.waiting).into_iter().collect(),
                next: 0,
                first: self.first,
                last: self.end - 1,
                oldest: self.oldest,
            });
            self.changes = 0;
            self.bytes = 0;
            self.first = self.end;
        }
        self.job.is_some()
    }

    /// Does up to `steps` rows, or the deletions of as many, of a job that is due, within the transaction that is open.
    pub(crate) fn step(
        &self,
        connection: &Connection,
        steps: usize,
    ) -> rusqlite::Result<Option<Progress>> {
        let Some(job) = &self.job else {
            return Ok(None);
        };
        if job.next == 0 {
            connection
                .prepare_cached("UPDATE store SET oldest = max(oldest, ?1)")?
                .execute([job.oldest as i64])?;
        }
        let end = job.rows.len().min(job.next + steps);
        if job.next < end {
            let mut put = PutRow::new(connection)?;
            let mut delete =
                connection.prepare_cached("DELETE FROM rows WHERE table_id = ?1 AND key = ?2")?;
            for ((table, key), row) in &job.rows[job.next..end] {
                match row {
                    Some(row) => put.put(*table, key, row)?,
                    None => delete.execute(params![table, &key[..]]).map(drop)?,
                }
            }
            return Ok(Some(Progress {
                next: end,
                first: job.first,
            }));
        }
        let first = job.first + steps as i64 * DELETIONS_PER_ROW;
        connection
            .prepare_cached("DELETE FROM changes WHERE id <= ?1")?
            .execute([job.last.min(first)])?;
        Ok(Some(Progress {
            next: job.next,
            first: first + 1,
        }))
    }

    /// The transaction of that progress is durable.
    pub(crate) fn advance(&mut self, progress: Progress) {
        if let Some(job) = &mut self.job {
            job.next = progress.next;
            job.first = progress.first;
            if job.first > job.last {
                self.job = None;
            }
        }
    }
}
