//! Looking whether a store's file is sound: its structure, and the checksum of every row.

use std::path::{Path, PathBuf};

use crate::engine::LoadSink;
use crate::error::OpenError;
use crate::sqlite::lock::DirectoryLock;
use crate::sqlite::schema::{self, open_error};
use crate::sqlite::{DATABASE_FILE, check_records};
use crate::store::sink;
use crate::types::Revision;

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// Its schema version.
    pub schema_version: i64,
    /// Which store it is.
    pub generation: String,
    /// Who wrote last.
    pub epoch: u64,
    /// Its revision.
    pub revision: Revision,
    /// Its tables and how many rows each has.
    pub tables: Vec<(String, u64)>,
    /// The size of the file, in bytes.
    pub bytes: u64,
    /// Who has the directory locked, if somebody has.
    pub locked_by: Option<String>,
    /// Whether it was closed cleanly; it is not while a server runs on it.
    pub is_clean: bool,
    /// What is wrong; empty when it is sound. The remedy is to restore a backup.
    pub problems: Vec<String>,
}

/// Checks the store in a data directory, also while a server runs on it. Reads the whole file; blocks meanwhile.
///
/// # Errors
/// When there is no store that can be looked at; [`OpenError::Corrupt`] when it is not even recognised as one.
pub fn check(directory: &Path) -> Result<Report, OpenError> {
    let mut report = check_file(&directory.join(DATABASE_FILE))?;
    report.locked_by = DirectoryLock::holder(directory);
    Ok(report)
}

/// Checks a backup, or the file of a store.
///
/// # Errors
/// As [`check`].
pub fn check_file(path: &Path) -> Result<Report, OpenError> {
    let fail = |error: rusqlite::Error| open_error(path, &error);
    let metadata = path.metadata().map_err(|error| OpenError::Io {
        path: path.to_owned(),
        reason: format!("there is no store to look at: {error}"),
    })?;
    let (connection, schema_version) = schema::open_to_read(path)?;
    // One transaction: while a server writes, all parts must be of one moment.
    connection.execute_batch("BEGIN").map_err(fail)?;
    let (identity, is_clean) = schema::identity(&connection).map_err(fail)?;
    let mut problems = schema::problems(&connection, "integrity_check(20)").map_err(fail)?;
    let mut loading = sink();
    if let Err(error) = check_records(path, &connection, &mut loading) {
        match error {
            OpenError::Corrupt { found, .. } => problems.push(found),
            other => return Err(other),
        }
    }
    let names = loading.tables();
    let state = loading.finish();
    let counts = state.tables.iter().map(|it| it.rows.len() as u64);
    Ok(Report {
        path: path.to_owned(),
        schema_version,
        generation: identity.generation,
        epoch: identity.epoch,
        revision: identity.revision,
        tables: names.into_iter().zip(counts).collect(),
        bytes: metadata.len(),
        locked_by: None,
        is_clean,
        problems,
    })
}
