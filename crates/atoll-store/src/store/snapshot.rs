//! The store as it was at one revision, however much is written meanwhile.

use std::sync::Arc;

use super::{Shared, Store};
use crate::error::ReadError;
use crate::types::{Page, Revision, Row, TableId};

/// The store at one revision, until it is dropped. Any thread.
///
/// Taking one costs nothing; while it is open, rows that are replaced are kept for it.
#[derive(Debug)]
pub struct Snapshot {
    shared: Arc<Shared>,
    revision: Revision,
}

impl Snapshot {
    pub(super) fn new(store: &Store) -> Result<Self, ReadError> {
        let shared = store.shared().clone();
        shared.check()?;
        let mut state = shared.write();
        if state.is_closed {
            return Err(ReadError::Closed);
        }
        let revision = state.revision;
        state.history.open(revision);
        drop(state);
        Ok(Self { shared, revision })
    }

    /// The revision that it shows.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The row of a key.
    ///
    /// # Errors
    /// [`ReadError::SnapshotExpired`] when too much has changed since.
    pub fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Arc<Row>>, ReadError> {
        let state = self.read()?;
        Ok(state.row_at(self.revision, table, key).cloned())
    }

    /// Up to `limit` rows from `start` on, before `end`.
    ///
    /// # Errors
    /// [`ReadError::SnapshotExpired`] when too much has changed since.
    pub fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page, ReadError> {
        let state = self.read()?;
        Ok(state.scan_at(self.revision, table, (start, end), limit))
    }

    fn read(&self) -> Result<std::sync::RwLockReadGuard<'_, super::state::State>, ReadError> {
        let state = self.shared.readable()?;
        if state.history.is_readable(self.revision) {
            Ok(state)
        } else {
            Err(ReadError::SnapshotExpired)
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            return;
        }
        let garbage = self.shared.write().history.close(self.revision);
        drop(garbage);
    }
}
