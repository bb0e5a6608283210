//! How much an owner may have: no more than one batch can delete, together with what is recorded beside it.
//!
//! It is looked at where batches are decided, one after the other, so several that are under way at once can't go beyond it together.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use super::state::State;
use crate::engine::DeletionRoom;
use crate::error::CommitError;
use crate::settings::Settings;
use crate::types::{Change, Row};

/// How many changes are left to the batch that deletes an owner's rows for what it records beside, but at most half of all. Of the bytes
/// that is a fourth: 383 KiB with etcd's defaults.
const CHANGES_BESIDE: usize = 32;

/// What the deletion of an owner's rows takes, or by how much that changes.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    rows: isize,
    bytes: isize,
}

/// By how much the sizes of owners change.
#[derive(Debug, Default)]
pub(crate) struct Growth(HashMap<Bytes, Size>);

impl Growth {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds what another batch does.
    pub(crate) fn merge(&mut self, other: Self) {
        for (owner, more) in other.0 {
            self.add(&owner, more);
        }
    }

    fn add(&mut self, owner: &Bytes, more: Size) {
        // Mostly it is there: all rows that are deleted by owner have the same one.
        let size = match self.0.get_mut(owner) {
            Some(size) => size,
            None => self.0.entry(owner.clone()).or_default(),
        };
        size.rows += more.rows;
        size.bytes += more.bytes;
    }
}

/// What an owner may have at most.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OwnerLimit {
    rows: usize,
    bytes: usize,
    row_overhead: usize,
    largest_row: usize,
}

impl OwnerLimit {
    pub(crate) fn new(settings: &Settings, room: DeletionRoom) -> Self {
        let rows = room.rows.min(settings.max_batch_changes);
        Self {
            rows: rows - CHANGES_BESIDE.min(rows / 2),
            bytes: room.bytes - room.bytes / 4,
            row_overhead: room.row_overhead,
            largest_row: (settings.max_key_bytes + room.row_overhead).max(1),
        }
    }

    /// What the changes of a batch give to owners and take from them.
    pub(crate) fn growth(self, changes: &[Change]) -> Growth {
        let mut growth = Growth::default();
        for change in changes {
            let before = owner(change.previous.as_deref());
            let after = owner(change.row.as_deref());
            if before == after {
                continue;
            }
            let bytes = (change.key.len() + self.row_overhead).cast_signed();
            if let Some(owner) = before {
                let (rows, bytes) = (-1, -bytes);
                growth.add(owner, Size { rows, bytes });
            }
            if let Some(owner) = after {
                growth.add(owner, Size { rows: 1, bytes });
            }
        }
        growth
    }

    /// Whether the owners that a batch gives to may have that much. `group` is what the batches before it in their group have done.
    ///
    /// # Errors
    /// [`CommitError::OwnerFull`]. Who has too much already may have less, and other values.
    pub(crate) fn check(
        self,
        state: &State,
        group: &Growth,
        batch: &Growth,
    ) -> Result<(), CommitError> {
        for (owner, more) in &batch.0 {
            if more.rows <= 0 && more.bytes <= 0 {
                continue;
            }
            let before = group.0.get(owner).copied().unwrap_or_default();
            let stored = state.owners.get(owner);
            let rows = stored.map_or(0, BTreeSet::len);
            let rows = rows.saturating_add_signed(before.rows + more.rows);
            if rows > self.rows {
                return Err(full(owner, &format!("{rows} rows"), self.rows, "rows"));
            }
            // Where so many of the largest fit, sizes need not be added up.
            if rows <= self.bytes / self.largest_row {
                continue;
            }
            let keys = stored.into_iter().flatten();
            let bytes: usize = keys.map(|(_, key)| key.len() + self.row_overhead).sum();
            let bytes = bytes.saturating_add_signed(before.bytes + more.bytes);
            if bytes > self.bytes {
                let has = format!("{rows} rows whose deletion takes {bytes} bytes");
                return Err(full(owner, &has, self.bytes, "bytes"));
            }
        }
        Ok(())
    }
}

fn full(owner: &Bytes, has: &str, most: usize, unit: &str) -> CommitError {
    CommitError::OwnerFull(format!(
        "the owner {:?} would have {has}, and what an owner has must go in one batch, of {most} {unit} at most; nothing was changed; \
         give rows to several owners",
        String::from_utf8_lossy(owner)
    ))
}

fn owner(row: Option<&Row>) -> Option<&Bytes> {
    row.map(|it| &it.owner).filter(|it| !it.is_empty())
}
