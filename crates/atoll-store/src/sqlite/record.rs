//! Rows as they lie in the file, with their checksums.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, params};

use crate::error::OpenError;
use crate::types::{Revision, Row};

/// The checksum of a row under its key, or of a deletion.
pub(crate) fn checksum(table: i64, key: &[u8], revision: Revision, row: Option<&Row>) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    let mut head = [0_u8; 48];
    let (created, version, value, owner) = match row {
        Some(row) => (row.created, row.version, row.value.len(), row.owner.len()),
        None => (u64::MAX, 0, 0, 0),
    };
    let sizes = (value as u64) << 20 | (owner as u64) << 10;
    let words = [
        table as u64,
        key.len() as u64,
        revision,
        created,
        version,
        sizes,
    ];
    for (place, word) in head.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    hasher.update(&head);
    hasher.update(key);
    if let Some(row) = row {
        hasher.update(&row.value);
        hasher.update(&row.owner);
    }
    i64::from(hasher.finalize())
}

/// Puts rows into `rows`, one after the other.
pub(crate) struct PutRow<'a>(CachedStatement<'a>);

impl<'a> PutRow<'a> {
    pub(crate) fn new(connection: &'a Connection) -> rusqlite::Result<Self> {
        let put = connection.prepare_cached(
            "REPLACE INTO rows (table_id, key, value, owner, created, revision, version, checksum) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        );
        Ok(Self(put?))
    }

    pub(crate) fn put(&mut self, table: i64, key: &[u8], row: &Row) -> rusqlite::Result<()> {
        let put = self.0.execute(params![
            table,
            key,
            &row.value[..],
            &row.owner[..],
            row.created as i64,
            row.revision as i64,
            row.version as i64,
            checksum(table, key, row.revision, Some(row)),
        ]);
        put.map(drop)
    }
}

/// Where the parts of a row are in a line of a query.
pub(crate) const COLUMNS_OF_ROWS: &str =
    "table_id, key, revision, value, owner, created, version, checksum";

/// A line of a query for [`COLUMNS_OF_ROWS`], of `rows` or of `changes`.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) table: i64,
    pub(crate) key: Bytes,
    pub(crate) revision: Revision,
    pub(crate) row: Option<Arc<Row>>,
}

/// Reads a line, whose checksum must be right.
pub(crate) fn read(path: &Path, line: &rusqlite::Row<'_>) -> Result<Record, OpenError> {
    let parsed = parse(line).map_err(|error| OpenError::Corrupt {
        path: path.to_owned(),
        found: format!("a row has a column of the wrong type: {error}"),
    });
    let (record, expected) = parsed?;
    let found = checksum(
        record.table,
        &record.key,
        record.revision,
        record.row.as_deref(),
    );
    if found != expected {
        return Err(OpenError::Corrupt {
            path: path.to_owned(),
            found: format!(
                "the row of key {:?} in table {} at revision {} has checksum {found:08x}, not {expected:08x} as when it was written",
                record.key, record.table, record.revision
            ),
        });
    }
    Ok(record)
}

fn parse(line: &rusqlite::Row<'_>) -> rusqlite::Result<(Record, i64)> {
    let revision = line.get::<_, i64>(2)? as u64;
    let blob = |index| -> rusqlite::Result<Bytes> {
        Ok(match line.get_ref(index)? {
            ValueRef::Blob([]) => Bytes::new(),
            it => Bytes::copy_from_slice(it.as_blob()?),
        })
    };
    let row = match line.get_ref(3)? {
        ValueRef::Null => None,
        value => Some(Arc::new(Row {
            value: Bytes::copy_from_slice(value.as_blob()?),
            owner: blob(4)?,
            created: line.get::<_, i64>(5)? as u64,
            revision,
            version: line.get::<_, i64>(6)? as u64,
        })),
    };
    let record = Record {
        table: line.get(0)?,
        key: blob(1)?,
        revision,
        row,
    };
    Ok((record, line.get(7)?))
}
