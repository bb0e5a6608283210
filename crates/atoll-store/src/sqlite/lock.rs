//! The lock file, which keeps a second server away from a data directory.
//!
//! The lock is the system's (`flock`). It goes with the last process that has the open file, however that ends: that is the one that
//! took it, and the children that it has forked, which inherit the file, until they end or execute another program. So a directory
//! can be locked after its server has gone. What is in the file only tells who took the lock.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rusqlite::Connection;

use crate::error::OpenError;

/// Its name in a data directory.
pub(crate) const LOCK_FILE: &str = "atoll.lock";

/// A locked data directory, until it is dropped.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

pub(crate) fn io_error(path: &Path, what: &str, error: &std::io::Error) -> OpenError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly {
            path,
            reason: error.to_string(),
        },
        _ => OpenError::Io {
            path,
            reason: format!("{what}: {error}"),
        },
    }
}

impl DirectoryLock {
    /// Locks a directory, which is made if it is not there, for this user only.
    pub(crate) fn acquire(directory: &Path) -> Result<Self, OpenError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| io_error(directory, "can't make the data directory", &error))?;
        let path = directory.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| io_error(&path, "can't open the lock file", &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked {
                    holder: holder(&mut file),
                    path,
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(io_error(&path, "can't lock it", &error));
            }
        }
        // It only informs: that it can't be written, on a full disk, is no reason not to start.
        let _ = file.set_len(0).and_then(|()| {
            let pid = std::process::id();
            write!(file, "process {pid} on {} since {}", host(), now())?;
            file.flush()
        });
        Ok(Self { _file: file })
    }

    /// Who holds the lock of a directory, if somebody does. The lock is tried, and given back at once.
    pub(crate) fn holder(directory: &Path) -> Option<String> {
        let mut file = File::open(directory.join(LOCK_FILE)).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(holder(&mut file)),
            _ => None,
        }
    }
}

fn holder(file: &mut File) -> String {
    let mut holder = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.read_to_string(&mut holder));
    match read {
        Ok(_) if !holder.is_empty() => holder,
        _ => "another process".to_owned(),
    }
}

fn host() -> String {
    let mut name = [0_u8; 256];
    // SAFETY: the buffer is as long as is said, and ends with a zero that is not written over.
    let result = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    let end = name.iter().position(|it| *it == 0).unwrap_or(0);
    match std::str::from_utf8(&name[..end]) {
        Ok(name) if result == 0 && !name.is_empty() => name.to_owned(),
        _ => "this machine".to_owned(),
    }
}

/// The time by the system's clock, in UTC, as `2026-11-28T09:30:00Z`.
pub(crate) fn now() -> String {
    let text = Connection::open_in_memory().and_then(|it| {
        it.query_row("SELECT strftime('%Y-%m-%dT%H:%M:%SZ', 'now')", (), |row| {
            row.get(0)
        })
    });
    text.unwrap_or_else(|_| "an unknown time".to_owned())
}
