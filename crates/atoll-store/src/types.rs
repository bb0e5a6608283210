//! What a store holds, what it is asked to do, and what comes of it: plain data, shared freely between threads.

use std::sync::Arc;

use bytes::Bytes;

/// A point in the history of a store. It rises with every batch that changes something, not always by one.
pub type Revision = u64;

/// Which table: its index in [`crate::Store::tables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u8);

impl TableId {
    /// The table's place in [`crate::Store::tables`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What was put.
    pub value: Bytes,
    /// The revision at which the key came to be.
    pub created: Revision,
    /// The revision of the last put.
    pub revision: Revision,
    /// How often it has been put since it came to be, from 1.
    pub version: u64,
    /// With whom it goes, see [`Operation::DeleteOwned`]; empty for nobody.
    pub owner: Bytes,
}

/// One step of a batch.
///
/// Keys, values and owners are kept as they are for as long as the row lives: each should have its own allocation, not be a slice of
/// a large network buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates or replaces a row.
    Put {
        /// In which table.
        table: TableId,
        /// Under which key; not empty.
        key: Bytes,
        /// What to store.
        value: Bytes,
        /// With whom the row goes; empty for nobody.
        owner: Bytes,
    },
    /// Deletes a row, if it is there.
    Delete {
        /// In which table.
        table: TableId,
        /// Which key.
        key: Bytes,
    },
    /// Deletes all rows from `start` on.
    DeleteRange {
        /// In which table.
        table: TableId,
        /// The first key.
        start: Bytes,
        /// The first key that stays; none for all to the end of the table.
        end: Option<Bytes>,
    },
    /// Deletes the rows of an owner, in all tables.
    DeleteOwned {
        /// Whose; not empty.
        owner: Bytes,
    },
}

/// What must hold before a batch, or nothing of it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The row's last put was at this revision.
    Revision {
        /// In which table.
        table: TableId,
        /// Which key.
        key: Bytes,
        /// The revision; 0: there is no such row.
        revision: Revision,
    },
    /// There is such a row.
    Exists {
        /// In which table.
        table: TableId,
        /// Which key.
        key: Bytes,
    },
    /// There is no such row.
    Absent {
        /// In which table.
        table: TableId,
        /// Which key.
        key: Bytes,
    },
}

/// Steps that are done together or not at all, if all checks hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// What must hold. Checks look at the state before the batch.
    pub checks: Vec<Check>,
    /// What is done, in order: each step sees what those before it have done.
    pub operations: Vec<Operation>,
}

impl Batch {
    /// How many bytes of keys, values and owners it carries.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let checks = self.checks.iter().map(|it| it.target().1.len());
        let operations = self.operations.iter().map(|it| match it {
            Operation::Put {
                key, value, owner, ..
            } => key.len() + value.len() + owner.len(),
            Operation::Delete { key, .. } => key.len(),
            Operation::DeleteRange { start, end, .. } => {
                start.len() + end.as_ref().map_or(0, Bytes::len)
            }
            Operation::DeleteOwned { owner } => owner.len(),
        });
        checks.chain(operations).sum()
    }
}

impl Check {
    /// The table and the key that it looks at.
    #[must_use]
    pub fn target(&self) -> (TableId, &Bytes) {
        match self {
            Self::Revision { table, key, .. }
            | Self::Exists { table, key }
            | Self::Absent { table, key } => (*table, key),
        }
    }
}

/// What came of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The batch's revision; if it changed nothing, the store's at that point.
    pub revision: Revision,
    /// The first check that did not hold; then nothing was done.
    pub failed: Option<FailedCheck>,
    /// Per operation the row before it, of a put or a delete. Empty if a check failed.
    pub previous: Vec<Option<Arc<Row>>>,
    /// Per operation how many rows it deleted. Empty if a check failed.
    pub deleted: Vec<u64>,
}

/// A check that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedCheck {
    /// Its index in [`Batch::checks`].
    pub index: usize,
    /// The row that is there, if one is.
    pub row: Option<Arc<Row>>,
}

/// What happened to a key. One batch changes a key at most once, however often its operations name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub revision: Revision,
    /// In which table.
    pub table: TableId,
    /// Which key.
    pub key: Bytes,
    /// The row from then on; none if it was deleted.
    pub row: Option<Arc<Row>>,
    /// The row until then; none if it was created.
    pub previous: Option<Arc<Row>>,
}

impl Change {
    /// What it counts in the change log's bound: its key, and the values and owners of both rows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of =
            |row: &Option<Arc<Row>>| row.as_ref().map_or(0, |it| it.value.len() + it.owner.len());
        self.key.len() + of(&self.row) + of(&self.previous)
    }
}

/// A part of the change log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// In order, whole revisions only.
    pub changes: Vec<Change>,
    /// Everything up to this revision has now been told; go on from here.
    pub through: Revision,
}

/// Rows in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Keys and rows.
    pub rows: Vec<(Bytes, Arc<Row>)>,
    /// At which revision they were read.
    pub revision: Revision,
    /// There are more in the range beyond the last of these.
    pub more: bool,
}
