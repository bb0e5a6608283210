//! The engine of one machine: what is on the disk, and what happens when that fails.

mod support;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use atoll_store::{
    Batch, CheckOnOpen, CommitError, OpenError, SqliteEngine, SqliteSettings, Store,
};
use support::{Directory, KV, NODES, open, open_with, settings};

fn put(store: &Store, key: &str, value: impl Into<bytes::Bytes>) {
    store
        .commit(Batch::new().put(KV, key.to_owned(), value))
        .unwrap();
}

fn failure(directory: &Path) -> OpenError {
    let sqlite = SqliteSettings {
        check: CheckOnOpen::Always,
        ..SqliteSettings::new(directory)
    };
    match SqliteEngine::open(&sqlite) {
        Err(error) => error,
        Ok(engine) => Store::open(Box::new(engine), settings()).unwrap_err(),
    }
}

#[test]
fn a_store_that_is_opened_again_is_the_same_with_a_higher_epoch() {
    let directory = Directory::new();
    let store = open(directory.path());
    let generation = store.generation().to_owned();
    assert_eq!((generation.len(), store.epoch()), (16, 1));
    store
        .commit(
            Batch::new()
                .put_owned(NODES, "n", "", "me")
                .put(KV, "a", "1"),
        )
        .unwrap();
    put(&store, "a", "2");
    let (rows, changes) = (store.get(KV, b"a"), store.changes(0, 9, 999).unwrap());
    store.close();
    let store = open(directory.path());
    assert_eq!((store.generation(), store.epoch()), (&*generation, 2));
    assert_eq!(store.get(KV, b"a"), rows);
    assert_eq!(store.changes(0, 9, 999).unwrap(), changes);
    assert_eq!(store.owned(b"me").unwrap().len(), 1);
}

#[test]
fn tables_keep_their_rows_whatever_order_they_are_named_in() {
    let directory = Directory::new();
    let store = open(directory.path());
    put(&store, "a", "1");
    store.close();
    let settings = atoll_store::Settings::new(["new", "nodes"]);
    let store = open_with(&SqliteSettings::new(directory.path()), settings);
    assert_eq!(store.tables(), ["new", "nodes", "kv"]);
    let kv = store.table("kv").unwrap();
    assert!(store.get(kv, b"a").unwrap().is_some());
    store.commit(Batch::new().put(kv, "a", "2")).unwrap();
    store.close();
    let store = open(directory.path());
    assert_eq!(store.get(KV, b"a").unwrap().unwrap().value, "2");
}

#[test]
fn a_second_server_is_told_who_has_the_directory() {
    let directory = Directory::new();
    let store = open(directory.path());
    let error = failure(directory.path());
    let message = error.to_string();
    assert!(matches!(error, OpenError::Locked { .. }), "{message}");
    let pid = format!("process {} on ", std::process::id());
    for part in ["atoll.lock", &pid, " since 20", "data directory of its own"] {
        assert!(message.contains(part), "{message}");
    }
    let report = atoll_store::check(directory.path()).unwrap();
    assert!(report.locked_by.unwrap().starts_with(&pid));
    store.close();
    open(directory.path()).close();
    let report = atoll_store::check(directory.path()).unwrap();
    assert_eq!((report.locked_by, report.is_clean), (None, true));
}

/// Fills a store until it says that it is full. The number of puts that succeeded.
fn fill(store: &Store) -> u64 {
    for index in 0..10_000 {
        let batch = Batch::new().put(KV, format!("{index:05}"), vec![index as u8; 10_000]);
        match store.commit(batch) {
            Ok(_) => {}
            Err(CommitError::Full(_)) => return index,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("it is never full");
}

fn check_full(store: &Store, puts: u64) {
    assert_eq!(store.revision().unwrap(), puts);
    assert_eq!(store.count(KV, b"", None).unwrap(), puts);
    assert!(store.get(KV, b"00000").unwrap().is_some());
    let error = store
        .commit(Batch::new().put(KV, "more", vec![0; 100_000]))
        .unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("free disk space or raise the quota"),
        "{message}"
    );
    assert_eq!(store.statistics().unwrap().stopped, None);
}

#[test]
fn a_full_quota_refuses_commits_while_reads_go_on() {
    let directory = Directory::new();
    let sqlite = SqliteSettings {
        max_database_bytes: Some(1 << 20),
        ..SqliteSettings::new(directory.path())
    };
    let store = open_with(&sqlite, settings());
    let puts = fill(&store);
    check_full(&store, puts);
    store.close();
    let store = open(directory.path());
    assert_eq!(store.count(KV, b"", None).unwrap(), puts);
    put(&store, "more", vec![0; 100_000]);
}

#[test]
fn a_full_disk_refuses_commits_and_they_work_again_when_there_is_room() {
    let Some(directory) = Directory::file_system("size=16m") else {
        return;
    };
    let ballast = directory.file("ballast");
    fs::write(&ballast, vec![0; 10 << 20]).unwrap();
    let data = directory.file("data");
    let store = open(&data);
    let puts = fill(&store);
    check_full(&store, puts);
    fs::remove_file(&ballast).unwrap();
    put(&store, "more", vec![0; 100_000]);
    assert_eq!(store.revision().unwrap(), puts + 1);
    // What was refused is not there after a restart either.
    store.close();
    let store = open(&data);
    assert_eq!(store.count(KV, b"", None).unwrap(), puts + 1);
    assert_eq!(store.revision().unwrap(), puts + 1);
    store.close();
    assert_eq!(atoll_store::check(&data).unwrap().problems, [] as [&str; 0]);
}

#[test]
fn a_read_only_directory_is_refused_with_the_remedy() {
    let Some(directory) = Directory::file_system("size=4m") else {
        return;
    };
    open(&directory.file("data")).close();
    directory.remount("remount,ro");
    let error = failure(&directory.file("data"));
    let message = error.to_string();
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{message}");
    assert!(message.contains("mount it read-write"), "{message}");
    let error = failure(&directory.file("other"));
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error}");
    assert_eq!(
        atoll_store::check(&directory.file("data"))
            .unwrap()
            .problems,
        [] as [&str; 0]
    );
}

fn corrupt(directory: &Directory) -> String {
    let error = failure(directory.path());
    let message = error.to_string();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{message}");
    assert!(message.contains("atollctl restore"), "{message}");
    message
}

fn filled() -> Directory {
    let directory = Directory::new();
    let sqlite = SqliteSettings {
        fold_changes: 50,
        ..SqliteSettings::new(directory.path())
    };
    let settings = atoll_store::Settings {
        max_log_changes: 100,
        ..settings()
    };
    let store = open_with(&sqlite, settings);
    for index in 0..30 {
        let mut batch = Batch::new();
        for key in 0..20 {
            batch = batch.put(KV, format!("{:04}", index * 20 + key), vec![b'v'; 200]);
        }
        store.commit(batch).unwrap();
    }
    store.close();
    directory
}

#[test]
fn overwritten_bytes_are_found_wherever_they_are() {
    let directory = filled();
    let path = directory.file("atoll.db");
    assert!(fs::metadata(&path).unwrap().len() > 100_000);
    let store = open(directory.path());
    let rows = store.scan(KV, b"", None, 10_000, false).unwrap().rows;
    store.close();
    let sound = fs::read(&path).unwrap();
    // One byte of a value, in the rows and in the changes, leaves the structure as it is.
    let mut flipped = 0;
    for place in (4096..sound.len() - 8).step_by(4096 * 3 + 700) {
        if sound[place..place + 8] != *b"vvvvvvvv" {
            continue;
        }
        let mut damaged = sound.clone();
        damaged[place + 3] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let sqlite = SqliteSettings::new(directory.path());
        match Store::open(Box::new(SqliteEngine::open(&sqlite).unwrap()), settings()) {
            Err(error) => {
                assert!(error.to_string().contains("checksum"), "{error}");
                flipped += 1;
            }
            // In a page that is free it does no harm.
            Ok(store) => {
                let found = store.scan(KV, b"", None, 10_000, false).unwrap().rows;
                assert_eq!(found, rows);
                store.close();
            }
        }
    }
    assert!(flipped > 2);
    for (from, to) in [(0, 100), (4096, 8192), (8192, 90_000)] {
        let mut damaged = sound.clone();
        damaged[from..to].fill(0xa5);
        fs::write(&path, &damaged).unwrap();
        corrupt(&directory);
    }
    fs::write(&path, &sound).unwrap();
    open(directory.path()).close();
}

#[test]
fn a_file_that_is_cut_short_or_something_else_is_refused() {
    let directory = filled();
    let path = directory.file("atoll.db");
    let sound = fs::read(&path).unwrap();
    for length in [0, 50, 4096, sound.len() / 2, sound.len() - 5000] {
        fs::write(&path, &sound[..length]).unwrap();
        corrupt(&directory);
        assert_eq!(fs::read(&path).unwrap(), &sound[..length], "it was changed");
    }
    fs::write(&path, b"This is a text.".repeat(1000)).unwrap();
    assert!(corrupt(&directory).contains("not a database"));
    fs::remove_file(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE theirs (id)").unwrap();
    drop(other);
    assert!(corrupt(&directory).contains("another program"));
}

#[test]
fn a_log_without_its_file_is_not_taken_for_a_new_store() {
    let directory = Directory::new();
    fs::write(directory.file("atoll.db-wal"), b"something").unwrap();
    assert!(corrupt(&directory).contains("atoll.db-wal is there"));
}

#[test]
fn a_file_of_a_newer_version_is_left_alone() {
    let directory = filled();
    let raw = rusqlite::Connection::open(directory.file("atoll.db")).unwrap();
    raw.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(raw);
    let message = failure(directory.path()).to_string();
    assert!(message.contains("schema version 99"), "{message}");
    assert!(message.contains("or a newer one"), "{message}");
}

#[test]
fn a_writer_whose_epoch_has_passed_is_fenced() {
    let directory = Directory::new();
    let store = open(directory.path());
    put(&store, "a", "1");
    let raw = rusqlite::Connection::open(directory.file("atoll.db")).unwrap();
    raw.execute_batch("UPDATE store SET epoch = 7").unwrap();
    for _ in 0..2 {
        let refused = store.commit(Batch::new().put(KV, "a", "2"));
        assert_eq!(refused, Err(CommitError::Fenced { epoch: 7 }));
    }
    assert_eq!(store.get(KV, b"a").unwrap().unwrap().value, "1");
}

#[test]
fn another_program_that_writes_makes_commits_unavailable_not_unknown() {
    let directory = Directory::new();
    let sqlite = SqliteSettings {
        busy_timeout: std::time::Duration::from_millis(10),
        ..SqliteSettings::new(directory.path())
    };
    let store = open_with(&sqlite, settings());
    let raw = rusqlite::Connection::open(directory.file("atoll.db")).unwrap();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = store.commit(Batch::new().put(KV, "a", "1"));
    assert!(
        matches!(&refused, Err(CommitError::Unavailable(it)) if it.contains("another program"))
    );
    raw.execute_batch("COMMIT").unwrap();
    put(&store, "a", "1");
    assert_eq!(store.revision().unwrap(), 1);
}

#[test]
fn damage_that_a_running_store_meets_stops_neither_reads_nor_a_backup() {
    let directory = filled();
    let sqlite = SqliteSettings {
        fold_changes: 1,
        ..SqliteSettings::new(directory.path())
    };
    let small = atoll_store::Settings {
        max_log_changes: 1,
        ..settings()
    };
    let store = open_with(&sqlite, small);
    let length = fs::metadata(directory.file("atoll.db")).unwrap().len();
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(directory.file("atoll.db"))
        .unwrap();
    file.seek(SeekFrom::Start(8192)).unwrap();
    file.write_all(&vec![0xa5; length as usize - 8192]).unwrap();
    // Another program that writes makes the store forget the pages that it remembers from before the damage.
    let raw = rusqlite::Connection::open(directory.file("atoll.db")).unwrap();
    raw.execute("UPDATE store SET is_clean = 1", ()).unwrap();
    let count = store.count(KV, b"", None).unwrap();
    // A row is touched when its change has left the log, which the next commit but one finds out at the latest.
    let met = (0..10).find_map(|index| {
        let batch = Batch::new().put(KV, format!("{index:04}"), "new");
        store.commit(batch).err()
    });
    let Some(CommitError::Unavailable(message)) = met else {
        panic!("the damage was not met as such: {met:?}");
    };
    assert!(message.contains("make a backup now"), "{message}");
    assert_eq!(store.count(KV, b"", None).unwrap(), count);
    let backup = directory.file("backup");
    store.backup(&backup, &mut |_| true).unwrap();
    assert_eq!(
        atoll_store::check_file(&backup).unwrap().problems,
        [] as [&str; 0]
    );
}
