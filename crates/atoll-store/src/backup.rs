//! Copies of a store: a backup of a running one, whatever its engine, and a store made from a backup.
//!
//! A backup is a single `SQLite` file of the schema of [`crate::sqlite`]: all rows at one revision, and no changes. It is written under
//! another name and gets its own when it is complete.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::{Connection, params};

use crate::check::check_file;
use crate::engine::draw_generation;
use crate::error::{OpenError, ReadError};
use crate::sqlite::lock::{DirectoryLock, LOCK_FILE, io_error, now};
use crate::sqlite::record::checksum;
use crate::sqlite::schema::{self, Identity, open_error};
use crate::sqlite::{DATABASE_FILE, put_in_place, remove, with_suffix};
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
    /// [`OpenError::Exists`] when the file is there already, [`OpenError::Unavailable`] when the store can't be read, and those of the
    /// disk. Nothing is left behind then.
    pub fn backup(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(BackupProgress) -> bool,
    ) -> Result<BackupInfo, OpenError> {
        if path.symlink_metadata().is_ok() {
            return Err(OpenError::Exists {
                path: path.to_owned(),
                remedy: "choose another name, or move it away".to_owned(),
            });
        }
        let draft = with_suffix(path, ".partial");
        remove(&draft)?;
        let written = self.write_backup(&draft, progress);
        let finished = written.and_then(|info| {
            put_in_place(&draft, path)?;
            let size = path.metadata().map(|it| it.len());
            let bytes = size.map_err(|error| io_error(path, "can't look at it", &error))?;
            Ok(BackupInfo { bytes, ..info })
        });
        if finished.is_err() {
            for suffix in ["", "-journal"] {
                let _ = remove(&with_suffix(&draft, suffix));
            }
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
    let mut insert = connection.prepare_cached(
        "INSERT INTO rows (table_id, key, value, owner, created, revision, version, checksum) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for (key, row) in rows {
        insert.execute(params![
            table,
            &key[..],
            &row.value[..],
            &row.owner[..],
            row.created as i64,
            row.revision as i64,
            row.version as i64,
            checksum(table, key, row.revision, Some(row)),
        ])?;
    }
    Ok(())
}

/// Makes a data directory from a backup, or from another store's `atoll.db`. The store gets a new generation: revisions of the old one
/// mean nothing there. No server may run on the directory.
///
/// # Errors
/// [`OpenError::Corrupt`] when the backup is damaged, [`OpenError::Exists`] when the directory is not empty and `force` is not set (with
/// it, the file that is there is kept beside the new one), [`OpenError::Locked`] while a server runs on it, and those of the disk. The
/// directory is as before then.
pub fn restore(from: &Path, directory: &Path, force: bool) -> Result<RestoreInfo, OpenError> {
    let report = check_file(from)?;
    if let Some(problem) = report.problems.first() {
        return Err(OpenError::Corrupt {
            path: from.to_owned(),
            found: problem.clone(),
        });
    }
    if !force {
        refuse_unless_empty(directory)?;
    }
    let _lock = DirectoryLock::acquire(directory)?;
    let path = directory.join(DATABASE_FILE);
    let draft = with_suffix(&path, ".new");
    remove(&draft)?;
    let (source, version) = schema::open_to_read(from)?;
    let fail = |error: rusqlite::Error| open_error(&draft, &error);
    let name = draft.to_string_lossy();
    source.execute("VACUUM INTO ?1", [&name]).map_err(fail)?;
    drop(source);
    let epoch = epoch_after(&path, report.epoch);
    let generation = draw_generation()?;
    let connection = Connection::open(&draft).map_err(fail)?;
    schema::migrate(&draft, &connection, version)?;
    connection
        .execute(
            "UPDATE store SET generation = ?1, epoch = ?2, oldest = revision, is_clean = 1",
            params![generation, epoch as i64],
        )
        .map_err(fail)?;
    connection.close().map_err(|(_, error)| fail(error))?;
    let replaced = keep(&path)?;
    put_in_place(&draft, &path)?;
    Ok(RestoreInfo {
        generation,
        revision: report.revision,
        rows: report.tables.iter().map(|it| it.1).sum(),
        replaced,
    })
}

fn refuse_unless_empty(directory: &Path) -> Result<(), OpenError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(directory, "can't look into it", &error)),
    };
    let is_ours = |name: &std::ffi::OsStr| name == LOCK_FILE;
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

/// Moves the file that is there, and what belongs to it, aside.
fn keep(path: &Path) -> Result<Option<PathBuf>, OpenError> {
    let aside = with_suffix(path, &format!(".replaced-{}", now()));
    if aside.exists() {
        return Err(OpenError::Exists {
            path: aside,
            remedy: "wait a second, then try again".to_owned(),
        });
    }
    let mut kept = None;
    for suffix in ["-wal", ""] {
        let (from, to) = (with_suffix(path, suffix), with_suffix(&aside, suffix));
        match std::fs::rename(&from, &to) {
            Ok(()) => kept = Some(to),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(&from, "can't move it aside", &error)),
        }
    }
    remove(&with_suffix(path, "-shm"))?;
    Ok(kept)
}
