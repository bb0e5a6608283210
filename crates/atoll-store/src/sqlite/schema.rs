//! The file: its schema, how it is made, opened and brought up to date.
//!
//! * `store`: one line: who it is, who writes, its revision, and after which revision its changes are complete.
//! * `tables`: the names behind the numbers. They are the file's own: [`crate::TableId`] counts in the order of the settings.
//! * `changes`: every change that is not in `rows` yet, and those of the change log's window: the new row, or none for a deletion.
//! * `rows`: all rows as of some older revision. The state is `rows` with `changes` applied in the order of `id`.
//!
//! Each line of both carries a checksum of its content, since `SQLite` itself has none.

use std::fmt::Write;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::with_suffix;
use crate::error::OpenError;
use crate::types::Revision;

/// "atol", which says that a file is one of ours.
pub(crate) const APPLICATION_ID: i32 = 0x6174_6f6c;

/// The oldest `SQLite` that does not lose data when a write-ahead log is reset while it is checkpointed.
const OLDEST_SQLITE: i32 = 3_051_003;

/// What leads from each schema version to the next.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE store (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        generation TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        oldest INTEGER NOT NULL,
        is_clean INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE tables (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE rows (
        table_id INTEGER NOT NULL,
        key BLOB NOT NULL,
        value BLOB NOT NULL,
        owner BLOB NOT NULL,
        created INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        version INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (table_id, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE changes (
        id INTEGER PRIMARY KEY,
        revision INTEGER NOT NULL,
        table_id INTEGER NOT NULL,
        key BLOB NOT NULL,
        value BLOB,
        owner BLOB,
        created INTEGER,
        version INTEGER,
        checksum INTEGER NOT NULL
    ) STRICT;
"];

/// The schema version that this code writes.
pub(crate) const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// Who a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) generation: String,
    pub(crate) epoch: u64,
    pub(crate) revision: Revision,
    pub(crate) oldest: Revision,
}

/// What went wrong with a file that is being opened, checked or written as a whole.
pub(crate) fn open_error(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    let reason = error.to_string();
    match error.sqlite_error_code() {
        // None is a column of another type than the schema says.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) | None => OpenError::Corrupt {
            path,
            found: reason,
        },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            OpenError::ReadOnly { path, reason }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Locked {
            path,
            holder: "another program that writes to it".to_owned(),
        },
        Some(ErrorCode::DiskFull) => OpenError::Io {
            path,
            reason: format!("{reason}; free disk space, then try again"),
        },
        Some(_) => OpenError::Io { path, reason },
    }
}

/// Makes an empty store in a file that is not there yet. It is small, and journalled the ordinary way until it is closed.
pub(crate) fn create(path: &Path, identity: &Identity) -> Result<Connection, OpenError> {
    let fail = |error: rusqlite::Error| open_error(path, &error);
    let connection = Connection::open(path).map_err(fail)?;
    connection
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(fail)?;
    migrate(path, &connection, 0)?;
    connection
        .execute(
            "INSERT INTO store VALUES (1, ?1, ?2, ?3, ?4, 1)",
            (
                &identity.generation,
                identity.epoch as i64,
                identity.revision as i64,
                identity.oldest as i64,
            ),
        )
        .map_err(fail)?;
    Ok(connection)
}

/// Opens a file that is there, which must be a store of a schema that is known. Nothing is changed.
pub(crate) fn open(path: &Path, flags: OpenFlags) -> Result<(Connection, i64), OpenError> {
    let fail = |error: rusqlite::Error| open_error(path, &error);
    let sqlite = rusqlite::version_number();
    if sqlite < OLDEST_SQLITE {
        return Err(OpenError::Settings(format!(
            "SQLite {sqlite} can lose data when its log is reset; build with 3.51.3 or newer"
        )));
    }
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    connection
        .execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")
        .map_err(fail)?;
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = number("application_id").map_err(fail)?;
    if application != i64::from(APPLICATION_ID) {
        return Err(OpenError::Corrupt {
            path: path.to_owned(),
            found: format!("it is a database of another program (application id {application:#x})"),
        });
    }
    let version = number("user_version").map_err(fail)?;
    if version > SCHEMA_VERSION {
        return Err(OpenError::NewerSchema {
            path: path.to_owned(),
            found: version,
            known: SCHEMA_VERSION,
        });
    }
    Ok((connection, version))
}

/// Opens a file to read it only, also where nothing can be written: `SQLite` wants to make files beside one with a write-ahead log, and
/// does without them only when told that nobody writes.
pub(crate) fn open_to_read(path: &Path) -> Result<(Connection, i64), OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    match open(path, flags) {
        Err(OpenError::Io { .. }) if !with_suffix(path, "-wal").exists() => {
            let mut address = "file:".to_owned();
            for byte in path.as_os_str().as_encoded_bytes() {
                let _ = match byte {
                    b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                        write!(address, "{}", char::from(*byte))
                    }
                    _ => write!(address, "%{byte:02x}"),
                };
            }
            address.push_str("?immutable=1");
            open(Path::new(&address), flags | OpenFlags::SQLITE_OPEN_URI)
        }
        other => other,
    }
}

/// Brings a file from schema version `from` to the present one, in one transaction.
pub(crate) fn migrate(path: &Path, connection: &Connection, from: i64) -> Result<(), OpenError> {
    if from >= SCHEMA_VERSION {
        return Ok(());
    }
    let steps = MIGRATIONS[from as usize..].concat();
    let migration =
        format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;");
    connection
        .execute_batch(&migration)
        .map_err(|error| open_error(path, &error))
}

/// Who the store in an open file is, and whether it was closed cleanly.
pub(crate) fn identity(connection: &Connection) -> rusqlite::Result<(Identity, bool)> {
    connection.query_row(
        "SELECT generation, epoch, revision, oldest, is_clean FROM store",
        (),
        |row| {
            let identity = Identity {
                generation: row.get(0)?,
                epoch: row.get::<_, i64>(1)? as u64,
                revision: row.get::<_, i64>(2)? as u64,
                oldest: row.get::<_, i64>(3)? as u64,
            };
            Ok((identity, row.get(4)?))
        },
    )
}

/// The file's tables: their numbers in it and their names.
pub(crate) fn tables(connection: &Connection) -> rusqlite::Result<Vec<(i64, String)>> {
    connection
        .prepare("SELECT id, name FROM tables ORDER BY id")?
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// What `SQLite`'s own check finds; `quick_check` or `integrity_check`.
pub(crate) fn problems(connection: &Connection, check: &str) -> rusqlite::Result<Vec<String>> {
    let found: rusqlite::Result<Vec<String>> = connection
        .prepare(&format!("PRAGMA {check}"))?
        .query_map((), |row| row.get(0))?
        .collect();
    match found {
        Ok(lines) => Ok(lines.into_iter().filter(|it| it != "ok").collect()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            Ok(vec![error.to_string()])
        }
        Err(error) => Err(error),
    }
}

/// The error number of the system behind the last I/O error of a connection; 0 for none.
pub(crate) fn system_error(connection: &Connection) -> i32 {
    // SAFETY: the connection is open, and used by this thread alone.
    unsafe { ffi::sqlite3_system_errno(connection.handle()) }
}
