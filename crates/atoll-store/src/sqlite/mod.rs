//! The engine of one machine: an `SQLite` file in a data directory that is locked.
//!
//! * `DIRECTORY/atoll.db`, with `-wal` and `-shm` beside it while it is open; [`schema`] says what is in it, [`record`] how.
//! * `DIRECTORY/atoll.lock`, the lock ([`lock`]).
//!
//! A group is one transaction: its changes are appended to one table ([`fold`] says how they get into the rows), the store's line gets
//! the new revision if the epoch is still ours, and the log is synchronised. When that has returned, the group survives the loss of
//! power, as far as the disk keeps what it says.
//!
//! One connection, used by the thread that opens the store and then by the writer thread. Other programs may read the file meanwhile
//! (`sqlite3 -readonly`), not write.

#[cfg(test)]
mod broken;
mod fold;
mod load;
pub(crate) mod lock;
pub(crate) mod record;
pub(crate) mod schema;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi, params};

use self::fold::{Fold, Left, Progress};
use self::lock::{DirectoryLock, io_error};
use self::record::checksum;
use self::schema::{Identity, open_error, system_error};
use crate::engine::{Effects, Engine, Group, LoadSink, Loaded, Receipt, draw_generation};
use crate::error::{CommitError, OpenError};
use crate::types::{Change, TableId};

/// The name of the file in a data directory.
pub const DATABASE_FILE: &str = "atoll.db";

/// A database and what belongs to it. In this order they are moved away: without the first of them, what is left of the others is
/// never taken for a new store.
pub(crate) const DATABASE_SUFFIXES: [&str; 4] = ["", "-wal", "-journal", "-shm"];
/// What a restore writes. While it is there and no database is, the restore has been interrupted.
pub(crate) const RESTORE_SUFFIX: &str = ".restoring";

/// When the structure of the file is checked before it is used. Checksums of rows are always compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOnOpen {
    /// Never.
    Never,
    /// When it was not closed cleanly.
    AfterCrash,
    /// Always.
    Always,
}

/// How an `SQLite` engine is set up. The defaults are those of the fields' comments.
#[derive(Clone, Debug)]
pub struct SqliteSettings {
    /// The data directory; made if it is not there.
    pub directory: PathBuf,
    /// When to check: after a crash.
    pub check: CheckOnOpen,
    /// How large the database file may grow, in bytes: no bound but the disk's. The log beside it (some 20 MiB) comes on top.
    pub max_database_bytes: Option<u64>,
    /// How many changes that have left the change log are moved into the rows together: 20,000.
    pub fold_changes: usize,
    /// How many bytes of such changes: 16 MiB.
    pub fold_bytes: usize,
    /// How long a commit waits for another program that writes to the file: 5 s.
    pub busy_timeout: Duration,
}

impl SqliteSettings {
    /// The defaults for a data directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            check: CheckOnOpen::AfterCrash,
            max_database_bytes: None,
            fold_changes: 20_000,
            fold_bytes: 16 << 20,
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// The pages of the log after which it is written back into the database: 16 MiB.
const CHECKPOINT_PAGES: i64 = 4000;
/// Steps of folding in each commit, besides one and a half per change; and in a pause.
const FOLD_STEPS: usize = 32;
const FOLD_STEPS_IN_PAUSE: usize = 256;

/// Keeps a store in an `SQLite` file.
#[derive(Debug)]
pub struct SqliteEngine {
    path: PathBuf,
    connection: Option<Connection>,
    epoch: u64,
    /// The file's number of each table of the store.
    table_ids: Vec<i64>,
    next_change: i64,
    fold: Fold,
    /// Something has failed so that nobody knows what is on the disk: nothing may be written after it.
    broken: Option<CommitError>,
    /// Given back after the connection.
    lock: Option<DirectoryLock>,
}

impl SqliteEngine {
    /// Locks the directory and opens the file, or makes it. Blocks meanwhile.
    ///
    /// # Errors
    /// Why not; each kind says what to do.
    pub fn open(settings: &SqliteSettings) -> Result<Self, OpenError> {
        let lock = DirectoryLock::acquire(&settings.directory)?;
        let path = settings.directory.join(DATABASE_FILE);
        if !exists(&path)? {
            make(&path)?;
        }
        let (connection, version) = schema::open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let mut engine = Self {
            epoch: 0,
            table_ids: Vec::new(),
            next_change: 1,
            fold: Fold::new(settings.fold_changes, settings.fold_bytes),
            path,
            connection: None,
            broken: None,
            lock: Some(lock),
        };
        engine.prepare(&connection, version, settings)?;
        engine.connection = Some(connection);
        Ok(engine)
    }

    fn prepare(
        &mut self,
        connection: &Connection,
        version: i64,
        settings: &SqliteSettings,
    ) -> Result<(), OpenError> {
        let fail = |error: rusqlite::Error| open_error(&self.path, &error);
        if connection.is_readonly("main").map_err(fail)? {
            return Err(OpenError::ReadOnly {
                path: self.path.clone(),
                reason: "the file is read-only for this user".to_owned(),
            });
        }
        connection
            .busy_timeout(settings.busy_timeout)
            .map_err(fail)?;
        let (_, is_clean) = schema::identity(connection).map_err(fail)?;
        if settings.check == CheckOnOpen::Always
            || (settings.check == CheckOnOpen::AfterCrash && !is_clean)
        {
            let problems = schema::problems(connection, "quick_check(3)").map_err(fail)?;
            if !problems.is_empty() {
                return Err(OpenError::Corrupt {
                    path: self.path.clone(),
                    found: problems.join("; "),
                });
            }
        }
        schema::migrate(&self.path, connection, version)?;
        let mode: String = connection
            .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
            .map_err(fail)?;
        if mode != "wal" {
            return Err(OpenError::Settings(format!(
                "{} does not work with SQLite's write-ahead log ({mode}); choose a data directory on a local disk",
                self.path.display()
            )));
        }
        connection
            .execute_batch(&format!(
                "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384; \
                 PRAGMA journal_size_limit = 67108864; PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};"
            ))
            .map_err(fail)?;
        if let Some(bytes) = settings.max_database_bytes {
            let page: i64 = connection
                .pragma_query_value(None, "page_size", |row| row.get(0))
                .map_err(fail)?;
            connection
                .execute_batch(&format!("PRAGMA max_page_count = {}", bytes as i64 / page))
                .map_err(fail)?;
        }
        connection.set_prepared_statement_cache_capacity(32);
        Ok(())
    }

    /// Writes all of a group but the end of the transaction.
    fn write(
        &self,
        connection: &Connection,
        group: &Group<'_>,
    ) -> rusqlite::Result<Option<Progress>> {
        let revision = group.batches.last().map_or(0, |it| it.revision);
        connection
            .prepare_cached("UPDATE store SET revision = ?1")?
            .execute([revision as i64])?;
        let mut insert = connection.prepare_cached(
            "INSERT INTO changes (id, revision, table_id, key, value, owner, created, version, checksum) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?;
        let changes = group.batches.iter().flat_map(|it| &it.changes);
        let mut count = 0;
        for (id, change) in (self.next_change..).zip(changes) {
            let table = self.table_ids[change.table.index()];
            let row = change.row.as_deref();
            insert.execute(params![
                id,
                change.revision as i64,
                table,
                &change.key[..],
                row.map(|it| &it.value[..]),
                row.map(|it| &it.owner[..]),
                row.map(|it| it.created as i64),
                row.map(|it| it.version as i64),
                checksum(table, &change.key, change.revision, row),
            ])?;
            count += 1;
        }
        let steps = count + count / 2 + FOLD_STEPS;
        self.fold.step(connection, steps)
    }

    fn left(&mut self, change: &Change) {
        self.fold.push(Left {
            table: self.table_ids[change.table.index()],
            key: change.key.clone(),
            revision: change.revision,
            row: change.row.clone(),
        });
    }

    /// Ends a transaction that has failed. Whether that has worked.
    fn roll_back(connection: &Connection) -> bool {
        // A full disk or a failed read may have ended it already.
        connection.is_autocommit()
            || (connection.execute_batch("ROLLBACK").is_ok() && connection.is_autocommit())
    }

    /// Begins a transaction; whose epoch it is now.
    fn begin(connection: &Connection) -> rusqlite::Result<u64> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
        connection
            .prepare_cached("SELECT epoch FROM store")?
            .query_row((), |row| row.get::<_, i64>(0))
            .map(|it| it as u64)
    }

    fn transact(
        &self,
        connection: &Connection,
        write: impl FnOnce(&Connection) -> rusqlite::Result<Option<Progress>>,
    ) -> Result<(Option<Progress>, Duration), CommitError> {
        let outcome = Self::begin(connection).and_then(|epoch| {
            let is_ours = epoch == self.epoch;
            Ok(if is_ours {
                Ok(write(connection)?)
            } else {
                Err(epoch)
            })
        });
        let progress = match outcome {
            Ok(Ok(progress)) => progress,
            Ok(Err(epoch)) => {
                Self::roll_back(connection);
                return Err(CommitError::Fenced { epoch });
            }
            Err(error) => {
                let system = system_error(connection);
                return Err(if Self::roll_back(connection) {
                    self.did_not_happen(&error, system)
                } else {
                    self.unknown(&error)
                });
            }
        };
        let start = Instant::now();
        let commit = connection.prepare_cached("COMMIT");
        if let Err(error) = commit.and_then(|mut it| it.execute(())) {
            let system = system_error(connection);
            return Err(
                if Self::roll_back(connection) && is_harmless(&error, system) {
                    self.did_not_happen(&error, system)
                } else {
                    self.unknown(&error)
                },
            );
        }
        Ok((progress, start.elapsed()))
    }

    fn did_not_happen(&self, error: &rusqlite::Error, system: i32) -> CommitError {
        let path = self.path.display();
        if is_full(error, system) {
            return CommitError::Full(format!("{path}: {error}"));
        }
        CommitError::Unavailable(match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => format!(
                "another program writes to {path}; end it, then try again (use `sqlite3 -readonly` to look)"
            ),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => format!(
                "{path} is damaged ({error}); reads go on from memory: make a backup now (`atollctl backup`), and restore it"
            ),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                format!(
                    "{path} can't be written to any more ({error}); make it writable, then try again"
                )
            }
            _ => format!(
                "writing to {path} failed ({error}); see the system's log for the disk, then try again"
            ),
        })
    }

    fn unknown(&self, error: &rusqlite::Error) -> CommitError {
        CommitError::Unknown(format!(
            "writing to {} failed in a way that leaves open what is on the disk ({error}); see the system's log for the disk",
            self.path.display()
        ))
    }
}

/// The disk, a quota of the file system, a limit of the process or our own bound on the file.
fn is_full(error: &rusqlite::Error, system: i32) -> bool {
    match error.sqlite_error() {
        Some(it) if it.code == ErrorCode::DiskFull => true,
        Some(it) if it.extended_code == ffi::SQLITE_IOERR_WRITE => {
            [libc::ENOSPC, libc::EDQUOT, libc::EFBIG].contains(&system)
        }
        _ => false,
    }
}

/// Whether a transaction whose end failed has surely not happened. The frame that would make it valid is written last: if there was no
/// room for a frame, it has not been. After any other error of writing or synchronising nobody knows what the disk has.
fn is_harmless(error: &rusqlite::Error, system: i32) -> bool {
    is_full(error, system)
        || matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
}

fn exists(path: &Path) -> Result<bool, OpenError> {
    path.try_exists()
        .map_err(|error| io_error(path, "can't look for it", &error))
}

/// Makes the file under another name first, so that one that is there is never a half-made one.
fn make(path: &Path) -> Result<(), OpenError> {
    for suffix in ["-wal", "-journal", RESTORE_SUFFIX] {
        let left = with_suffix(path, suffix);
        if exists(&left)? {
            return Err(OpenError::Corrupt {
                path: path.to_owned(),
                found: format!("it is missing, but {} is there", left.display()),
            });
        }
    }
    let draft = with_suffix(path, ".new");
    remove(&draft)?;
    let connection = schema::create(
        &draft,
        &Identity {
            generation: draw_generation()?,
            epoch: 0,
            revision: 0,
            oldest: 0,
        },
    )?;
    drop(connection);
    put_in_place(&draft, path)
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes what may be left over.
pub(crate) fn remove(path: &Path) -> Result<(), OpenError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error(path, "can't remove it", &error))
        }
        _ => Ok(()),
    }
}

/// Removes a database that is not needed, and whatever `SQLite` has put beside it.
pub(crate) fn remove_database(path: &Path) -> Result<(), OpenError> {
    let all = DATABASE_SUFFIXES.iter();
    all.rev().try_for_each(|it| remove(&with_suffix(path, it)))
}

/// Makes a finished file durable.
pub(crate) fn synchronise(path: &Path) -> Result<(), OpenError> {
    std::fs::File::open(path)
        .and_then(|it| it.sync_all())
        .map_err(|error| io_error(path, "can't synchronise it", &error))
}

/// Gives a finished file its name, durably.
fn put_in_place(draft: &Path, path: &Path) -> Result<(), OpenError> {
    synchronise(draft)?;
    std::fs::rename(draft, path)
        .map_err(|error| io_error(path, "can't put it in place", &error))?;
    synchronise_directory(path)
}

pub(crate) fn synchronise_directory(path: &Path) -> Result<(), OpenError> {
    let directory = match path.parent() {
        Some(it) if !it.as_os_str().is_empty() => it,
        _ => Path::new("."),
    };
    std::fs::File::open(directory)
        .and_then(|it| it.sync_all())
        .map_err(|error| io_error(directory, "can't synchronise it", &error))
}

impl Engine for SqliteEngine {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn load(&mut self, sink: &mut dyn LoadSink) -> Result<Loaded, OpenError> {
        let connection = self.connection.take().ok_or_else(|| {
            OpenError::Settings("an engine is loaded once; open another".to_owned())
        })?;
        let loaded = self.load_from(&connection, sink)?;
        self.connection = Some(connection);
        Ok(loaded)
    }

    fn commit(&mut self, group: &Group<'_>) -> Result<Receipt, CommitError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let Some(connection) = self.connection.take() else {
            return Err(CommitError::Closed);
        };
        let outcome = self.transact(&connection, |it| self.write(it, group));
        self.connection = Some(connection);
        if let Err(error @ CommitError::Unknown(_)) = &outcome {
            self.broken = Some(error.clone());
        }
        let (progress, waited) = outcome?;
        let count = |it: &Effects| it.changes.len() as i64;
        self.next_change += group.batches.iter().map(count).sum::<i64>();
        if let Some(progress) = progress {
            self.fold.advance(progress);
        }
        for change in group.trim.changes {
            self.left(change);
        }
        self.fold.is_due();
        Ok(Receipt {
            revisions: Vec::new(),
            waited,
        })
    }

    fn idle(&mut self) -> bool {
        let Some(connection) = self.connection.take() else {
            return false;
        };
        // What fails here without leaving doubts fails again at the next commit, which says so.
        let mut progress = None;
        if self.fold.is_due() {
            let outcome = self.transact(&connection, |it| self.fold.step(it, FOLD_STEPS_IN_PAUSE));
            match outcome {
                Ok(done) => progress = done.0,
                Err(error @ CommitError::Unknown(_)) => self.broken = Some(error),
                Err(_) => {}
            }
        }
        self.connection = Some(connection);
        if let Some(progress) = progress {
            self.fold.advance(progress);
            return self.fold.is_due();
        }
        false
    }

    fn close(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        // If this is not done, the next start takes it for a crash, and checks the file.
        if self.broken.is_none() {
            let _ = connection.execute(
                "UPDATE store SET is_clean = 1 WHERE epoch = ?1",
                [self.epoch as i64],
            );
        }
        drop(connection);
        self.lock = None;
    }
}

impl SqliteEngine {
    fn load_from(
        &mut self,
        connection: &Connection,
        sink: &mut dyn LoadSink,
    ) -> Result<Loaded, OpenError> {
        let path = self.path.clone();
        let fail = |error: rusqlite::Error| open_error(&path, &error);
        let loaded = load::load(&path, connection, sink)?;
        self.fold.begin(loaded.first_change);
        for left in loaded.left {
            self.fold.push(left);
        }
        self.next_change = loaded.next_change;
        self.epoch = loaded.identity.epoch + 1;
        connection.execute_batch("BEGIN IMMEDIATE").map_err(fail)?;
        let ids = schema::tables(connection).map_err(fail)?;
        for name in sink.tables() {
            let known = ids.iter().find(|it| it.1 == name).map(|it| it.0);
            self.table_ids.push(if let Some(id) = known {
                id
            } else {
                connection
                    .execute("INSERT INTO tables (name) VALUES (?1)", [&name])
                    .map_err(fail)?;
                connection.last_insert_rowid()
            });
        }
        connection
            .execute(
                "UPDATE store SET epoch = ?1, is_clean = 0",
                [self.epoch as i64],
            )
            .map_err(fail)?;
        connection.execute_batch("COMMIT").map_err(fail)?;
        let Identity {
            generation,
            revision,
            oldest,
            ..
        } = loaded.identity;
        Ok(Loaded {
            generation,
            epoch: self.epoch,
            revision,
            oldest,
        })
    }
}

/// Reads everything, as for loading.
pub(crate) fn check_records(
    path: &Path,
    connection: &Connection,
    sink: &mut dyn LoadSink,
) -> Result<(), OpenError> {
    load::load(path, connection, sink).map(drop)
}

/// The store's number of a table of the file.
pub(crate) type TableNumbers = std::collections::HashMap<i64, TableId>;
