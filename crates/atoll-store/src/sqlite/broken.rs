//! A test of what an engine does after an outcome that nobody knows, which no file system at hand brings about.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::ffi;

use super::{SqliteEngine, SqliteSettings};
use crate::check::check;
use crate::engine::{Effects, Engine, Group, Trim};
use crate::error::CommitError;
use crate::store::sink;
use crate::types::{Change, Row, TableId};

unsafe extern "C" fn refuse(_: *mut std::ffi::c_void) -> std::ffi::c_int {
    1
}

#[test]
fn after_an_unknown_outcome_nothing_is_written_and_the_file_is_not_called_clean() {
    let directory = std::env::temp_dir().join(format!("atoll-broken-{}", std::process::id()));
    let mut engine = SqliteEngine::open(&SqliteSettings::new(&directory)).unwrap();
    let mut loading = sink();
    crate::LoadSink::table(&mut loading, "kv").unwrap();
    engine.load(&mut loading).unwrap();
    let row = Row {
        value: Bytes::new(),
        created: 1,
        revision: 1,
        version: 1,
        owner: Bytes::new(),
    };
    let effects = [Effects {
        revision: 1,
        changes: vec![Change {
            revision: 1,
            table: TableId(0),
            key: "a".into(),
            row: Some(Arc::new(row)),
            previous: None,
        }],
    }];
    let trim = Trim {
        changes: &[],
        oldest: 0,
    };
    let group = Group {
        batches: &effects,
        trim,
    };
    // SAFETY: nobody closes it while it is used.
    let connection = unsafe { engine.connection.as_ref().unwrap().handle() };
    // SAFETY: the connection is open and of this thread; the function is of the kind asked for and touches nothing.
    unsafe { ffi::sqlite3_commit_hook(connection, Some(refuse), std::ptr::null_mut()) };
    let unknown = engine.commit(&group);
    assert!(
        matches!(unknown, Err(CommitError::Unknown(_))),
        "{unknown:?}"
    );
    // SAFETY: as above.
    unsafe { ffi::sqlite3_commit_hook(connection, None, std::ptr::null_mut()) };
    assert_eq!(engine.commit(&group), unknown);
    engine.close();
    let report = check(&directory).unwrap();
    assert_eq!((report.revision, report.is_clean), (0, false));
    std::fs::remove_dir_all(&directory).unwrap();
}
