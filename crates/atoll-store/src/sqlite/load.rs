//! Reading a file into memory: the rows, then the changes since.

use std::path::Path;

use rusqlite::Connection;

use super::TableNumbers;
use super::fold::Left;
use super::record::{self, COLUMNS_OF_ROWS, Record};
use super::schema::{self, Identity, open_error};
use crate::engine::LoadSink;
use crate::error::OpenError;
use crate::types::TableId;

/// What else was found.
#[derive(Debug)]
pub(super) struct LoadedFile {
    pub(super) identity: Identity,
    /// Changes before the window, which may be in the rows already or not.
    pub(super) left: Vec<Left>,
    pub(super) first_change: i64,
    pub(super) next_change: i64,
}

pub(super) fn load(
    path: &Path,
    connection: &Connection,
    sink: &mut dyn LoadSink,
) -> Result<LoadedFile, OpenError> {
    let fail = |error: rusqlite::Error| open_error(path, &error);
    let (identity, _) = schema::identity(connection).map_err(fail)?;
    let mut numbers = TableNumbers::new();
    for (id, name) in schema::tables(connection).map_err(fail)? {
        numbers.insert(id, sink.table(&name)?);
    }
    let number = |record: &Record| -> Result<TableId, OpenError> {
        let found = numbers.get(&record.table).copied();
        found.ok_or_else(|| OpenError::Corrupt {
            path: path.to_owned(),
            found: format!("a row is of table {}, which is not there", record.table),
        })
    };
    let query = format!("SELECT {COLUMNS_OF_ROWS} FROM rows ORDER BY table_id, key");
    let mut statement = connection.prepare(&query).map_err(fail)?;
    let mut lines = statement.query(()).map_err(fail)?;
    while let Some(line) = lines.next().map_err(fail)? {
        let record = record::read(path, line)?;
        let table = number(&record)?;
        if let Some(row) = record.row {
            sink.row(table, record.key, row);
        }
    }
    let query = format!("SELECT {COLUMNS_OF_ROWS}, id FROM changes ORDER BY id");
    let mut statement = connection.prepare(&query).map_err(fail)?;
    let mut lines = statement.query(()).map_err(fail)?;
    let mut loaded = LoadedFile {
        identity,
        left: Vec::new(),
        first_change: 1,
        next_change: 1,
    };
    let (mut is_first, mut revision) = (true, 0);
    while let Some(line) = lines.next().map_err(fail)? {
        let record = record::read(path, line)?;
        let id: i64 = line.get(8).map_err(fail)?;
        if std::mem::take(&mut is_first) {
            loaded.first_change = id;
        } else if id != loaded.next_change || record.revision < revision {
            return Err(OpenError::Corrupt {
                path: path.to_owned(),
                found: format!("the change before {id} is missing, or they are out of order"),
            });
        }
        revision = record.revision;
        loaded.next_change = id + 1;
        let table = number(&record)?;
        if record.revision <= loaded.identity.oldest {
            loaded.left.push(Left {
                table: record.table,
                key: record.key.clone(),
                revision: record.revision,
                row: record.row.clone(),
            });
        }
        sink.change(record.revision, table, record.key, record.row);
    }
    if revision > loaded.identity.revision {
        return Err(OpenError::Corrupt {
            path: path.to_owned(),
            found: format!(
                "it has a change of revision {revision}, but is at revision {} itself",
                loaded.identity.revision
            ),
        });
    }
    Ok(loaded)
}
