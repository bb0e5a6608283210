//! Everything that can go wrong, and what to do then. Each message carries its remedy.

use std::error::Error;
use std::fmt::{Display, Formatter, Result};
use std::path::PathBuf;

use crate::types::Revision;

/// Why a batch was not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitError {
    /// The disk or a quota is full. Nothing has changed; commits work again when there is room.
    Full(String),
    /// Too much waits to be committed. Nothing has changed; try again later, or send less.
    Busy(String),
    /// Somebody else writes to the data now. Nothing has changed, and this store commits no more.
    Fenced {
        /// Who writes now; 0 if it is not known.
        epoch: u64,
    },
    /// It may or may not have happened, and this store commits no more. Open it again and look.
    Unknown(String),
    /// It did not happen. The message says whether it is worth trying again.
    Unavailable(String),
    /// Larger than a limit. Nothing has changed.
    TooLarge(String),
    /// An owner would have more than one batch can delete. Nothing has changed.
    OwnerFull(String),
    /// The caller's mistake. Nothing has changed.
    Invalid(String),
    /// The store is closed. Nothing has changed.
    Closed,
}

impl Display for CommitError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Full(reason) => write!(
                f,
                "the store has no room: {reason}; nothing was changed and reads go on; free disk space or raise the quota, then try again"
            ),
            Self::Busy(reason) => write!(
                f,
                "{reason}; nothing was changed; try again later or submit less at a time"
            ),
            Self::Fenced { epoch: 0 } => f.write_str(
                "another server may write to this store now; nothing was changed; stop this one, or find the leader",
            ),
            Self::Fenced { epoch } => write!(
                f,
                "another server (epoch {epoch}) writes to this store now; nothing was changed; stop this one, or find the leader"
            ),
            Self::Unknown(reason) => write!(
                f,
                "it is not known whether the batch was committed: {reason}; read the keys again before repeating it"
            ),
            Self::Unavailable(reason) => write!(f, "nothing was changed: {reason}"),
            Self::TooLarge(reason) | Self::OwnerFull(reason) | Self::Invalid(reason) => {
                f.write_str(reason)
            }
            Self::Closed => f.write_str("the store is closed; nothing was changed; open it again"),
        }
    }
}

impl Error for CommitError {}

/// Why a store could not be opened, checked, backed up or restored.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it.
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it: its process id, host and since when.
        holder: String,
    },
    /// The file is damaged, or is something else.
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// It was written by a newer version.
    NewerSchema {
        /// Which file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest that this version knows.
        known: i64,
    },
    /// It can't be written to.
    ReadOnly {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// There is something where nothing should be.
    Exists {
        /// Which file or folder.
        path: PathBuf,
        /// What to do.
        remedy: String,
    },
    /// A setting is wrong.
    Settings(String),
    /// A service behind the engine can't be reached, or somebody else leads.
    Unavailable(String),
    /// The caller's progress function stopped it.
    Stopped,
    /// The system refused something.
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What was tried, and what the system said.
        reason: String,
    },
}

impl Display for OpenError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Locked { path, holder } => write!(
                f,
                "{} is locked by {holder}; stop that server, or give this one a data directory of its own",
                path.display()
            ),
            Self::Corrupt { path, found } => write!(
                f,
                "{} is damaged or not a store: {found}; nothing was changed; restore a backup (`atollctl restore BACKUP --data-dir \
                 DIRECTORY`, which keeps this file beside it)",
                path.display()
            ),
            Self::NewerSchema { path, found, known } => write!(
                f,
                "{} has schema version {found}, this version knows {known} at most; run the version that wrote it, or a newer one",
                path.display()
            ),
            Self::ReadOnly { path, reason } => write!(
                f,
                "{} can't be written to ({reason}); give this user the right to write there, mount it read-write, or choose another \
                 data directory",
                path.display()
            ),
            Self::Exists { path, remedy } => {
                write!(f, "{} is there already; {remedy}", path.display())
            }
            Self::Settings(reason) | Self::Unavailable(reason) => f.write_str(reason),
            Self::Stopped => f.write_str("stopped as asked; nothing was left behind"),
            Self::Io { path, reason } => write!(f, "{}: {reason}", path.display()),
        }
    }
}

impl Error for OpenError {}

/// Why nothing was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The guard says that another server may lead by now, so that what is in memory may be old.
    NotLeader,
    /// The store is closed.
    Closed,
    /// This process was forked from the one that opened the store.
    Forked,
    /// The snapshot had to be given up: what has changed since did not fit `max_snapshot_bytes`.
    SnapshotExpired,
}

impl Display for ReadError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::NotLeader => {
                "this server's lease has run out, so it may no longer lead; ask the leader, or try again when the lease is renewed"
            }
            Self::Closed => "the store is closed; open it again",
            Self::Forked => {
                "the store belongs to the process that this one was forked from; open another one after the fork"
            }
            Self::SnapshotExpired => {
                "the snapshot was given up, for too much has changed since it was taken; take another, read it faster, or raise \
                 max_snapshot_bytes"
            }
        })
    }
}

impl Error for ReadError {}

/// The changes asked for are no longer, or not yet known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangesError {
    /// The change log begins later.
    Compacted(Compacted),
    /// Nothing may be read.
    Read(ReadError),
}

/// The change log begins later than was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The oldest revision after which all changes can be told.
    pub oldest: Revision,
}

impl Display for Compacted {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "the change log begins after revision {}; read a snapshot and go on from its revision",
            self.oldest
        )
    }
}

impl Error for Compacted {}

impl Display for ChangesError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Compacted(it) => it.fmt(f),
            Self::Read(it) => it.fmt(f),
        }
    }
}

impl Error for ChangesError {}

impl From<ReadError> for ChangesError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}
