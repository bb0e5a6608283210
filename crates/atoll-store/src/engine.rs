//! What an engine has to do, and the engine that keeps nothing.
//!
//! An engine is the durable log behind the tables in memory. After [`Engine::load`] it belongs to the writer thread alone, so it needs
//! no locks. It never sees checks or conditions, only what has come of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{CommitError, OpenError};
use crate::types::{Change, Revision, Row, TableId};

/// Where an engine puts what it has loaded: first rows, then changes to them, oldest first.
pub trait LoadSink {
    /// The number of a table; tables that the settings don't name are added.
    ///
    /// # Errors
    /// When there are more than [`crate::settings::MAX_TABLES`].
    fn table(&mut self, name: &str) -> Result<TableId, OpenError>;

    /// The names of all tables so far, by number.
    fn tables(&self) -> Vec<String>;

    /// A row of the state that the changes start from. Fastest in the order of table and key.
    fn row(&mut self, table: TableId, key: Bytes, row: Arc<Row>);

    /// A change; the sink finds out the previous row. In the order in which they happened, after all rows.
    fn change(&mut self, revision: Revision, table: TableId, key: Bytes, row: Option<Arc<Row>>);
}

/// What an engine says when it has loaded everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Which store this is: 16 hexadecimal digits.
    pub generation: String,
    /// Who writes: rises with each writer.
    pub epoch: u64,
    /// The store's revision.
    pub revision: Revision,
    /// The change log is complete after this revision: changes up to it have been given for the state only.
    pub oldest: Revision,
}

/// What one batch does. Each key comes at most once.
#[derive(Clone, Debug)]
pub struct Effects {
    /// The revision that the batch has unless the engine gives another; its rows carry it.
    pub revision: Revision,
    /// At least one.
    pub changes: Vec<Change>,
}

/// Changes that leave the change log in memory together with a group.
#[derive(Clone, Copy, Debug)]
pub struct Trim<'a> {
    /// The oldest ones, in order; mostly none.
    pub changes: &'a [Change],
    /// The change log is complete after this revision from now on.
    pub oldest: Revision,
}

/// What is to be made durable together.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// In order; at least one.
    pub batches: &'a [Effects],
    /// What the engine need not tell at the next load.
    pub trim: Trim<'a>,
}

/// What an engine says when a group is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Per batch its revision: rising, or equal within a group, and above the store's before it. Empty: those proposed.
    pub revisions: Vec<Revision>,
    /// How long it waited for the disk or the network.
    pub waited: Duration,
}

/// How much one batch can delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletionRoom {
    /// How many rows.
    pub rows: usize,
    /// How many bytes of keys, with what is sent beside each.
    pub bytes: usize,
    /// What is sent beside the key of each row, at most.
    pub row_overhead: usize,
}

/// The durable log behind a store.
pub trait Engine: Send {
    /// The engine's name in statistics: `memory`, `sqlite`, `etcd`.
    fn name(&self) -> &'static str;

    /// Whether the proposed revisions are only a guess. Then a check never finds a revision of its own group.
    fn assigns_revisions(&self) -> bool {
        false
    }

    /// Whether what one batch does fits into what the engine takes at once. Called for each batch before it joins a group.
    ///
    /// # Errors
    /// [`CommitError::TooLarge`]; then this batch alone is refused.
    fn admit(&self, effects: &Effects) -> Result<(), CommitError> {
        let _ = effects;
        Ok(())
    }

    /// How much fits into what the engine takes at once, so that no owner has more than can be deleted. Asked once, after loading.
    fn deletion_room(&self) -> DeletionRoom {
        DeletionRoom {
            rows: usize::MAX,
            bytes: usize::MAX,
            row_overhead: 0,
        }
    }

    /// Fills the tables. Called once, by the thread that opens the store.
    ///
    /// # Errors
    /// Why the store can't be opened.
    fn load(&mut self, sink: &mut dyn LoadSink) -> Result<Loaded, OpenError>;

    /// Makes a group durable, all of it or nothing.
    ///
    /// # Errors
    /// [`CommitError::Full`] and [`CommitError::Unavailable`] mean that nothing has happened and that the engine can go on. After
    /// [`CommitError::Unknown`] and [`CommitError::Fenced`] the store calls it no more, except to close: memory and engine may differ.
    fn commit(&mut self, group: &Group<'_>) -> Result<Receipt, CommitError>;

    /// Called when nothing waits: work of a few milliseconds that can be put off. Whether there is more.
    fn idle(&mut self) -> bool {
        false
    }

    /// Gives everything back. Nothing is called afterwards.
    fn close(&mut self) {}
}

/// Keeps nothing: a store on it lives as long as its process.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    generation: Option<String>,
}

impl MemoryEngine {
    /// Of a generation drawn by chance.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of that generation, for tests and simulations.
    #[must_use]
    pub fn with_generation(generation: String) -> Self {
        Self {
            generation: Some(generation),
        }
    }
}

impl Engine for MemoryEngine {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn load(&mut self, _sink: &mut dyn LoadSink) -> Result<Loaded, OpenError> {
        Ok(Loaded {
            generation: match self.generation.take() {
                Some(it) => it,
                None => draw_generation()?,
            },
            epoch: 1,
            revision: 0,
            oldest: 0,
        })
    }

    fn commit(&mut self, _group: &Group<'_>) -> Result<Receipt, CommitError> {
        Ok(Receipt {
            revisions: Vec::new(),
            waited: Duration::ZERO,
        })
    }
}

/// A new generation: 16 hexadecimal digits from the system's random numbers.
///
/// # Errors
/// When the system has none.
pub fn draw_generation() -> Result<String, OpenError> {
    let mut drawn = [0_u8; 8];
    // SAFETY: the buffer is as long as is said.
    if unsafe { libc::getentropy(drawn.as_mut_ptr().cast(), drawn.len()) } != 0 {
        return Err(OpenError::Unavailable(format!(
            "the system gave no random numbers for the store's generation: {}",
            std::io::Error::last_os_error()
        )));
    }
    Ok(format!("{:016x}", u64::from_ne_bytes(drawn)))
}
