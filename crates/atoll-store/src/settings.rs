//! What a store is told when it is opened: the names of its tables, and every limit.

use std::sync::Arc;

use crate::store::{GroupListener, Guard};

/// The most tables that a store can have.
pub const MAX_TABLES: usize = 32;

/// How a store is opened. The defaults are those of the fields' comments.
#[derive(Clone)]
pub struct Settings {
    /// The tables, by name; at most [`MAX_TABLES`]. A table that the engine holds and that is not named is kept and comes after these.
    pub tables: Vec<String>,
    /// The longest key, in bytes: 4,096.
    pub max_key_bytes: usize,
    /// The largest value, in bytes: 1 MiB and 64 KiB, so that a value of 1 MiB may have a frame around it.
    pub max_value_bytes: usize,
    /// The longest owner, in bytes: 256.
    pub max_owner_bytes: usize,
    /// The largest batch, in bytes of its keys, values and owners: 4 MiB.
    pub max_batch_bytes: usize,
    /// How many keys one batch may change: 50,000. It bounds deletions of ranges and owners, and so what an owner may have: 32 fewer, or
    /// what the engine takes at once if that is less.
    pub max_batch_changes: usize,
    /// How many batches are made durable together: 512.
    pub max_group_batches: usize,
    /// How many bytes are made durable together: 4 MiB. One batch always fits.
    pub max_group_bytes: usize,
    /// How many batches may wait: 16,384. A batch beyond that is refused as busy.
    pub max_pending_batches: usize,
    /// How many bytes of batches may wait: 64 MiB. One batch always fits.
    pub max_pending_bytes: usize,
    /// How many changes the change log keeps: 100,000. The newest revision stays whole.
    pub max_log_changes: usize,
    /// How many bytes of keys and rows the change log keeps: 64 MiB. The newest revision stays whole.
    pub max_log_bytes: usize,
    /// How many bytes of old rows are kept for all open snapshots together: 256 MiB. Beyond that the oldest one is given up.
    pub max_snapshot_bytes: usize,
    /// Who says whether this server may still answer; none: always.
    pub guard: Option<Arc<dyn Guard>>,
    /// Who is told when the completions of a group have all been called.
    pub listener: Option<Arc<dyn GroupListener>>,
}

impl Settings {
    /// With these tables and the default limits.
    pub fn new<Name: Into<String>>(tables: impl IntoIterator<Item = Name>) -> Self {
        Self {
            tables: tables.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tables: Vec::new(),
            max_key_bytes: 4096,
            max_value_bytes: (1 << 20) + (64 << 10),
            max_owner_bytes: 256,
            max_batch_bytes: 4 << 20,
            max_batch_changes: 50_000,
            max_group_batches: 512,
            max_group_bytes: 4 << 20,
            max_pending_batches: 16_384,
            max_pending_bytes: 64 << 20,
            max_log_changes: 100_000,
            max_log_bytes: 64 << 20,
            max_snapshot_bytes: 256 << 20,
            guard: None,
            listener: None,
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}
