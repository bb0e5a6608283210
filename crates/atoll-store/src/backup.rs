//! Copies of a store: a backup of a running one, whatever its engine, and a store made from a backup.
//!
//! A backup is a single `SQLite` file of the schema of [`crate::sqlite`]: all rows at one revision, and no changes. It is written under
//! a name that nobody else uses (`PATH.partial-…`, which a process that is killed leaves behind) and gets its own when it is complete,
//! unless there is such a file by then.
//!
//! A restore writes `atoll.db.restoring`, moves what is there aside, then puts it in place. Wherever that is interrupted, there is the
//! old store, or the new one, or none and a server refuses to start on what is left.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, params};

use crate::check::{Report, check_file};
use crate::engine::draw_generation;
use crate::error::{OpenError, ReadError};
use crate::sqlite::lock::{DirectoryLock, LOCK_FILE, io_error, now};
use crate::sqlite::record::PutRow;
use crate::sqlite::schema::{self, Identity, open_error};
use crate::sqlite::{
    DATABASE_FILE, DATABASE_SUFFIXES, RESTORE_SUFFIX, remove, remove_database, synchronise,
    synchronise_directory, with_suffix,
};
use crate::store::Store;
use crate::types::{Revision, TableId};

/// Rows that are read from the store at a time.
const PAGE: usize = 1000;
/// By how much the epoch rises at a restore when that of the replaced store can't be read: more than it may have been opened since.
const EPOCHS_ON_RESTORE: u64 = 10_000;

/// How far a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupProgress {
    /// Rows written.
    pub rows: u64,
    /// Rows there were when it began.
    pub total: u64,
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupInfo {
    /// Of which store.
    pub generation: String,
    /// At which revision.
    pub revision: Revision,
    /// Rows.
    pub rows: u64,
    /// The size of the file, in bytes.
    pub bytes: u64,
}

/// What a restore has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreInfo {
    /// The new generation.
    pub generation: String,
    /// The revision of the backup, and so of the store.
    pub revision: Revision,
    /// Rows.
    pub rows: u64,
    /// Where the file that was there is now.
    pub replaced: Option<PathBuf>,
}

impl Store {
    /// Writes all rows at the present revision into a new file, while reading and writing go on. Blocks meanwhile; not for the thread of
    /// a loop. `progress` is called now and then, and stops the backup by returning `false`.
    ///
    /// # Errors
    /// [`OpenError::Exists`] when the file is there already, or appears meanwhile; [`OpenError::Stopped`] when `progress` says so,
    /// [`OpenError::Unavailable`] when the store can't be read, and those of the disk. Nothing is left behind then.
    pub fn backup(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(BackupProgress) -> bool,
    ) -> Result<BackupInfo, OpenError> {
        if path.symlink_metadata().is_ok() {
            return Err(exists_already(path));
        }
        let draft = with_suffix(path, &format!(".partial-{}", draw_generation()?));
        let finished = self.write_backup(&draft, progress).and_then(|info| {
            let size = draft.metadata().map(|it| it.len());
            let bytes = size.map_err(|error| io_error(&draft, "can't look at it", &error))?;
            publish(&draft, path)?;
            Ok(BackupInfo { bytes, ..info })
        });
        if finished.is_err() {
            let _ = remove_database(&draft);
        }
        finished
    }

    fn write_backup(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(BackupProgress) -> bool,
    ) -> Result<BackupInfo, OpenError> {
        let unreadable = |error: ReadError| {
            OpenError::Unavailable(format!("the store can't be backed up: {error}"))
        };
        let fail = |error: rusqlite::Error| open_error(path, &error);
        let snapshot = self.snapshot().map_err(unreadable)?;
        let statistics = self.statistics().map_err(unreadable)?;
        let total = statistics.tables.iter().map(|it| it.keys).sum();
        let identity = Identity {
            generation: self.generation().to_owned(),
            epoch: self.epoch(),
            revision: snapshot.revision(),
            oldest: snapshot.revision(),
        };
        let connection = schema::create(path, &identity)?;
        connection
            .execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; BEGIN")
            .map_err(fail)?;
        let mut rows = 0;
        for (index, name) in self.tables().iter().enumerate() {
            connection
                .execute(
                    "INSERT INTO tables VALUES (?1, ?2)",
                    params![index as i64, name],
                )
                .map_err(fail)?;
            let mut start = Bytes::new();
            loop {
                let table = TableId(index as u8);
                let page = snapshot.scan(table, &start, None, PAGE);
                let page = page.map_err(unreadable)?;
                write_rows(&connection, index as i64, &page.rows).map_err(fail)?;
                rows += page.rows.len() as u64;
                if !progress(BackupProgress { rows, total }) {
                    return Err(OpenError::Stopped);
                }
                let Some((last, _)) = page.rows.last().filter(|_| page.more) else {
                    break;
                };
                start = [last, &b"\0"[..]].concat().into();
            }
        }
        connection.execute_batch("COMMIT").map_err(fail)?;
        connection.close().map_err(|(_, error)| fail(error))?;
        Ok(BackupInfo {
            generation: identity.generation,
            revision: identity.revision,
            rows,
            bytes: 0,
        })
    }
}

fn write_rows(
    connection: &Connection,
    table: i64,
    rows: &[(Bytes, std::sync::Arc<crate::types::Row>)],
) -> rusqlite::Result<()> {
    let mut put = PutRow::new(connection)?;
    rows.iter()
        .try_for_each(|(key, row)| put.put(table, key, row))
}

fn exists_already(path: &Path) -> OpenError {
    OpenError::Exists {
        path: path.to_owned(),
        remedy: "choose another name, or move it away".to_owned(),
    }
}

/// Gives a finished backup its name, durably, unless something has that name.
fn publish(draft: &Path, path: &Path) -> Result<(), OpenError> {
    synchronise(draft)?;
    let named = std::fs::hard_link(draft, path).or_else(|error| match error.kind() {
        // Not on every file system. Then an empty file takes the name first, and the rename replaces that.
        ErrorKind::PermissionDenied | ErrorKind::Unsupported => {
            File::create_new(path).map(drop)?;
            std::fs::rename(draft, path).inspect_err(|_| drop(remove(path)))
        }
        _ => Err(error),
    });
    named.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists_already(path),
        _ => io_error(path, "can't put it in place", &error),
    })?;
    let is_durable = remove(draft).and_then(|()| synchronise_directory(path));
    is_durable.inspect_err(|_| drop(remove(path)))
}

/// Makes a data directory from a backup, or from another store's `atoll.db`. The store gets a new generation: revisions of the old one
/// mean nothing there. No server may run on the directory.
///
/// # Errors
/// [`OpenError::Corrupt`] when the backup is damaged, [`OpenError::Exists`] when the directory is not empty and `force` is not set (with
/// it, the file that is there is kept beside the new one), [`OpenError::Locked`] while a server runs on it, and those of the disk. The
/// directory is as before then, but for the lock file.
pub fn restore(from: &Path, directory: &Path, force: bool) -> Result<RestoreInfo, OpenError> {
    // Before anything is touched. What is put in place is checked itself.
    refuse_damaged(from, &check_file(from)?)?;
    if !force {
        refuse_unless_empty(directory)?;
    }
    let _lock = DirectoryLock::acquire(directory)?;
    let path = directory.join(DATABASE_FILE);
    let draft = with_suffix(&path, RESTORE_SUFFIX);
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    let had_store = is_there(&path) || is_there(&draft);
    remove_all_but_first(&draft)?;
    empty(&draft)?;
    let restored = write_draft(from, &path, &draft).and_then(|report| {
        synchronise(&draft)?;
        Ok(RestoreInfo {
            replaced: replace(&draft, &path)?,
            generation: report.generation,
            revision: report.revision,
            rows: report.tables.iter().map(|it| it.1).sum(),
        })
    });
    if restored.is_err() {
        let _ = if had_store && !is_there(&path) {
            // No server may make an empty store where there was another that could not be put back, now or the last time.
            remove_all_but_first(&draft).and_then(|()| empty(&draft))
        } else {
            remove_database(&draft)
        };
    }
    restored
}

fn remove_all_but_first(draft: &Path) -> Result<(), OpenError> {
    let mut others = DATABASE_SUFFIXES.iter().skip(1);
    others.try_for_each(|it| remove(&with_suffix(draft, it)))
}

fn empty(draft: &Path) -> Result<(), OpenError> {
    let emptied = File::create(draft).map(drop);
    emptied.map_err(|error| io_error(draft, "can't make it", &error))
}

fn refuse_damaged(from: &Path, report: &Report) -> Result<(), OpenError> {
    match report.problems.first() {
        None => Ok(()),
        Some(problem) => Err(OpenError::Corrupt {
            path: from.to_owned(),
            found: problem.clone(),
        }),
    }
}

/// Writes the store that is to be at `path`. What it holds.
fn write_draft(from: &Path, path: &Path, draft: &Path) -> Result<Report, OpenError> {
    let (source, version) = schema::open_to_read(from)?;
    let name = draft.to_string_lossy();
    let copied = source.execute("VACUUM INTO ?1", [&name]);
    copied.map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => open_error(from, &error),
        _ => open_error(draft, &error),
    })?;
    drop(source);
    let fail = |error: rusqlite::Error| open_error(draft, &error);
    let connection = Connection::open(draft).map_err(fail)?;
    schema::migrate(draft, &connection, version)?;
    let (backup, _) = schema::identity(&connection).map_err(fail)?;
    let epoch = epoch_after(path, backup.epoch);
    connection
        .execute(
            "UPDATE store SET generation = ?1, epoch = ?2, oldest = revision, is_clean = 1",
            params![draw_generation()?, epoch as i64],
        )
        .map_err(fail)?;
    connection.close().map_err(|(_, error)| fail(error))?;
    let report = check_file(draft)?;
    refuse_damaged(from, &report)?;
    Ok(report)
}

fn refuse_unless_empty(directory: &Path) -> Result<(), OpenError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(directory, "can't look into it", &error)),
    };
    // A restore that was interrupted before it had moved anything leaves nothing that anybody needs.
    let draft = DATABASE_FILE.to_owned() + RESTORE_SUFFIX;
    let is_ours = |name: &std::ffi::OsStr| {
        name == LOCK_FILE || name.as_encoded_bytes().starts_with(draft.as_bytes())
    };
    if entries.flatten().any(|it| !is_ours(&it.file_name())) {
        return Err(OpenError::Exists {
            path: directory.to_owned(),
            remedy: "and not empty; choose another directory, or say --force: the store in it is then kept as atoll.db.replaced-TIME"
                .to_owned(),
        });
    }
    Ok(())
}

/// An epoch above that of the store that is replaced, and of the backup.
fn epoch_after(path: &Path, backup: u64) -> u64 {
    let replaced = schema::open_to_read(path)
        .ok()
        .and_then(|(connection, _)| schema::identity(&connection).ok());
    match replaced {
        Some((identity, _)) => identity.epoch.max(backup) + 1,
        None => backup + EPOCHS_ON_RESTORE,
    }
}

/// Moves the database that is there aside, and puts the draft in its place. Where the old one is now.
fn replace(draft: &Path, path: &Path) -> Result<Option<PathBuf>, OpenError> {
    let aside = with_suffix(path, &format!(".replaced-{}", now()));
    if aside.symlink_metadata().is_ok() {
        return Err(OpenError::Exists {
            path: aside,
            remedy: "wait a second, then try again".to_owned(),
        });
    }
    let mut moved = Vec::new();
    let replaced = move_all(draft, path, &aside, &mut moved);
    if replaced.is_err() {
        for (from, to) in moved.iter().rev() {
            let _ = std::fs::rename(to, from);
        }
        let _ = synchronise_directory(path);
    }
    replaced?;
    // The last is the draft.
    moved.pop();
    Ok(moved.into_iter().next().map(|(_, to)| to))
}

/// Notes in `moved` what it has moved from where to where, also if it fails.
fn move_all(
    draft: &Path,
    path: &Path,
    aside: &Path,
    moved: &mut Vec<(PathBuf, PathBuf)>,
) -> Result<(), OpenError> {
    let mut rename = |from: PathBuf, to: PathBuf| {
        let renamed = std::fs::rename(&from, &to);
        renamed.map(|()| moved.push((from, to)))
    };
    for suffix in DATABASE_SUFFIXES {
        let from = with_suffix(path, suffix);
        match rename(from.clone(), with_suffix(aside, suffix)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(io_error(&from, "can't move it aside", &error));
            }
            _ => {}
        }
    }
    // The old log must never be beside the new file.
    synchronise_directory(path)?;
    rename(draft.to_owned(), path.to_owned())
        .map_err(|error| io_error(path, "can't put it in place", &error))?;
    synchronise_directory(path)
}
