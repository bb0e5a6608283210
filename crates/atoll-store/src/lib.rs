//! The store of the control plane: ordered tables in memory, made durable by an engine. Knows nothing of Python.
//!
//! * [`backup`]: copies of a store.
//! * [`check`]: whether a store's file is sound.
//! * [`types`]: rows, batches and what comes of them.
//! * [`error`]: everything that can go wrong, with its remedy.
//! * [`settings`]: names of tables and all limits.
//! * [`engine`]: what an engine has to do, and the one that keeps nothing.
//! * [`sqlite`]: the engine of one machine.
//! * [`store`]: the store itself: one writer thread, any number of readers.
//! * [`etcd`]: the engine for several machines, and the election of the one that writes.
//! * [`statistics`]: what a store has counted.
//!
//! Guarantees:
//! * Batches are atomic, and take effect one after the other in the order submitted.
//! * Nothing is seen by a reader, acknowledged or told to a subscriber before the engine has made it durable.
//! * Reading never waits for the engine: all data is in memory.
//! * Every change since the change log's oldest revision can be told, in order and without gaps.

#![allow(
    clippy::cast_possible_wrap,
    reason = "SQLite's numbers are signed; revisions and sizes never come near 2^63"
)]

pub mod backup;
pub mod check;
pub mod engine;
pub mod error;
pub mod etcd;
pub mod settings;
pub mod sqlite;
pub mod statistics;
pub mod store;
pub mod types;

pub use backup::{BackupInfo, BackupProgress, RestoreInfo, restore};
pub use check::{Report, check, check_file};
pub use engine::{
    DeletionRoom, Effects, Engine, Group, LoadSink, Loaded, MemoryEngine, Receipt, Trim,
};
pub use error::{CommitError, Compacted, OpenError, ReadError};
pub use settings::Settings;
pub use sqlite::{CheckOnOpen, SqliteEngine, SqliteSettings};
pub use statistics::Statistics;
pub use store::snapshot::Snapshot;
pub use store::{Completion, GroupListener, Guard, Store, Subscriber, SubscriptionId};
pub use types::{
    Batch, Change, Changes, Check, Committed, FailedCheck, Operation, Page, Revision, Row, TableId,
};
