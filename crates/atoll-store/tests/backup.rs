//! Copies of stores: consistent while writing goes on, and good for a new start.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use atoll_store::{
    Batch, MemoryEngine, OpenError, SqliteEngine, SqliteSettings, Store, check, check_file, restore,
};
use support::{Directory, KV, NODES, Pinned, open, settings};

/// Each revision sets both keys to the same number, so that a mixture would show.
fn write(store: &Store, number: u64) {
    let batch = Batch::new()
        .put(KV, "number", number.to_string())
        .put_owned(NODES, "number", number.to_string(), "me")
        .put(KV, format!("{number:06}"), vec![b'v'; 100]);
    store.commit(batch).unwrap();
}

#[test]
fn a_backup_under_load_is_one_state_and_restores_to_another_generation() {
    let directory = Directory::new();
    let store = open(&directory.file("data"));
    for number in 1..=3000 {
        write(&store, number);
    }
    let done = AtomicBool::new(false);
    let mut reports = Vec::new();
    let info = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 3001.. {
                if done.load(SeqCst) {
                    break;
                }
                write(&store, number);
            }
        });
        while store.revision().unwrap() < 3010 {
            std::thread::yield_now();
        }
        let info = store.backup(&directory.file("backup"), &mut |progress| {
            reports.push(progress);
            // Something is written between any two pages.
            let revision = store.revision().unwrap();
            while store.revision().unwrap() == revision {
                std::thread::yield_now();
            }
            true
        });
        done.store(true, SeqCst);
        info.unwrap()
    });
    assert!(store.revision().unwrap() > info.revision);
    assert_eq!(info.generation, store.generation());
    assert!(reports.len() > 3);
    assert_eq!(reports.last().unwrap().rows, info.rows);
    let report = check_file(&directory.file("backup")).unwrap();
    assert_eq!((report.problems, report.bytes), (vec![], info.bytes));
    assert_eq!(
        report.tables,
        [("kv".into(), info.revision + 1), ("nodes".into(), 1)]
    );
    store.close();

    let refused = restore(&directory.file("backup"), &directory.file("data"), false);
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("--force"), "{message}");
    let restored = restore(&directory.file("backup"), &directory.file("data"), true).unwrap();
    assert_eq!(
        (restored.revision, restored.rows),
        (info.revision, info.rows)
    );
    let replaced = check_file(&restored.replaced.unwrap()).unwrap();
    assert_eq!(
        (replaced.generation, replaced.problems),
        (info.generation.clone(), vec![])
    );
    assert!(replaced.revision > info.revision);

    let store = open(&directory.file("data"));
    assert_eq!(store.generation(), restored.generation);
    assert_ne!(store.generation(), info.generation);
    assert!(store.epoch() > 2);
    assert_eq!(store.revision().unwrap(), info.revision);
    for table in [KV, NODES] {
        let row = store.get(table, b"number").unwrap().unwrap();
        assert_eq!(row.value, info.revision.to_string());
        assert_eq!((row.revision, row.version), (info.revision, info.revision));
    }
    assert_eq!(store.count(KV, b"", None).unwrap(), info.revision + 1);
    assert_eq!(store.owned(b"me").unwrap().len(), 1);
    assert!(store.changes(info.revision - 1, 1, 1).is_err());
    assert_eq!(store.changes(info.revision, 1, 1).unwrap().changes, []);
    write(&store, 1_000_000);
    store.close();
    assert_eq!(
        check(&directory.file("data")).unwrap().problems,
        [] as [&str; 0]
    );
}

#[test]
fn a_store_in_memory_has_backups_too() {
    let directory = Directory::new();
    let store = Store::open(Box::new(MemoryEngine::new()), settings()).unwrap();
    write(&store, 1);
    store
        .backup(&directory.file("backup"), &mut |_| true)
        .unwrap();
    let restored = restore(&directory.file("backup"), &directory.file("data"), false).unwrap();
    assert_eq!((restored.rows, restored.replaced), (3, None));
    let again = open(&directory.file("data"));
    assert_eq!(again.get(KV, b"number"), store.get(KV, b"number"));
}

#[test]
fn the_file_of_a_store_that_was_not_closed_can_be_restored_with_its_log() {
    let directory = Directory::new();
    let store = open(&directory.file("data"));
    write(&store, 1);
    write(&store, 2);
    let restored = restore(
        &directory.file("data/atoll.db"),
        &directory.file("copy"),
        false,
    );
    assert_eq!(restored.unwrap().revision, 2);
    let copy = open(&directory.file("copy"));
    assert_eq!(copy.get(NODES, b"number"), store.get(NODES, b"number"));
    let locked = restore(
        &directory.file("copy/atoll.db"),
        &directory.file("data"),
        true,
    );
    assert!(
        matches!(locked, Err(OpenError::Locked { .. })),
        "{locked:?}"
    );
}

#[test]
fn a_backup_replaces_nothing_and_leaves_nothing_when_it_is_stopped() {
    let directory = Directory::new();
    let store = open(&directory.file("data"));
    write(&store, 1);
    let path = directory.file("backup");
    let stopped = store.backup(&path, &mut |_| false);
    assert!(matches!(stopped, Err(OpenError::Stopped)), "{stopped:?}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    std::fs::write(&path, "precious").unwrap();
    let refused = store.backup(&path, &mut |_| true);
    assert!(
        matches!(refused, Err(OpenError::Exists { .. })),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert_eq!(store.statistics().unwrap().snapshots, 0);
}

#[test]
fn a_damaged_backup_changes_nothing() {
    let directory = Directory::new();
    let store = open(&directory.file("data"));
    for number in 1..200 {
        write(&store, number);
    }
    let path = directory.file("backup");
    store.backup(&path, &mut |_| true).unwrap();
    store.close();
    let mut bytes = std::fs::read(&path).unwrap();
    let place = bytes.windows(8).rposition(|it| it == b"vvvvvvvv").unwrap();
    bytes[place] = b'w';
    std::fs::write(&path, bytes).unwrap();
    let refused = restore(&path, &directory.file("data"), true);
    assert!(
        matches!(&refused, Err(OpenError::Corrupt { found, .. }) if found.contains("checksum"))
    );
    let store = open(&directory.file("data"));
    assert_eq!(store.revision().unwrap(), 199);
}

/// As a restore in so many seconds will write it.
fn time(seconds: u32) -> String {
    let database = rusqlite::Connection::open_in_memory().unwrap();
    let ask = "SELECT strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?1)";
    let seconds = format!("+{seconds} seconds");
    database
        .query_row(ask, [seconds], |row| row.get(0))
        .unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_that_appears_while_a_backup_is_written_is_not_replaced() {
    let directory = Directory::new();
    let store = open(&directory.file("data"));
    write(&store, 1);
    let path = directory.file("backup");
    let refused = store.backup(&path, &mut |_| {
        std::fs::write(&path, "precious").unwrap();
        true
    });
    assert!(
        matches!(refused, Err(OpenError::Exists { .. })),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert_eq!(names(directory.path()), ["backup", "data"]);
}

#[test]
fn of_two_backups_to_one_path_the_first_to_end_is_kept_and_the_other_refused() {
    let directory = Directory::new();
    let store = open(&directory.file("data"));
    write(&store, 1);
    let path = directory.file("backup");
    let mut first = None;
    let refused = store.backup(&path, &mut |_| {
        first.get_or_insert_with(|| store.backup(&path, &mut |_| true).unwrap());
        true
    });
    assert!(
        matches!(refused, Err(OpenError::Exists { .. })),
        "{refused:?}"
    );
    let report = check_file(&path).unwrap();
    assert_eq!(
        (report.problems, report.bytes),
        (vec![], first.unwrap().bytes)
    );
    assert_eq!(names(directory.path()), ["backup", "data"]);
}

#[test]
fn a_restore_that_fails_half_way_leaves_the_store_with_all_of_its_commits() {
    let directory = Directory::new();
    let live = open(&directory.file("live"));
    write(&live, 1);
    let backup = directory.file("backup");
    live.backup(&backup, &mut |_| true).unwrap();
    write(&live, 2);
    for pinned in ["atoll.db", "atoll.db-wal"] {
        let data = directory.file("data");
        std::fs::create_dir(&data).unwrap();
        // As a killed server leaves it: what was committed is in the log only.
        for name in ["atoll.db", "atoll.db-wal"] {
            std::fs::copy(directory.file("live").join(name), data.join(name)).unwrap();
        }
        let Some(pin) = Pinned::new(data.join(pinned)) else {
            return;
        };
        let failed = restore(&backup, &data, true);
        assert!(matches!(failed, Err(OpenError::Io { .. })), "{failed:?}");
        drop(pin);
        let left = names(&data).into_iter().filter(|it| it != "atoll.db-shm");
        assert_eq!(
            left.collect::<Vec<_>>(),
            ["atoll.db", "atoll.db-wal", "atoll.lock"]
        );
        let store = open(&data);
        assert_eq!(store.revision().unwrap(), 2);
        store.close();
        std::fs::remove_dir_all(&data).unwrap();
    }
}

#[test]
fn a_restore_for_which_there_is_no_room_can_be_repeated_when_there_is() {
    let directory = Directory::new();
    let store = Store::open(Box::new(MemoryEngine::new()), settings()).unwrap();
    write(&store, 1);
    store
        .commit(Batch::new().put(KV, "large", vec![b'v'; 500_000]))
        .unwrap();
    let backup = directory.file("backup");
    store.backup(&backup, &mut |_| true).unwrap();
    let Some(small) = Directory::file_system("size=200k") else {
        return;
    };
    let data = small.file("data");
    let full = restore(&backup, &data, false);
    assert!(matches!(full, Err(OpenError::Io { .. })), "{full:?}");
    assert_eq!(names(&data), ["atoll.lock"]);
    small.remount("remount,size=16m");
    assert_eq!(restore(&backup, &data, false).unwrap().rows, 4);
}

#[test]
fn where_a_restore_was_interrupted_no_server_starts_and_it_can_be_repeated() {
    let directory = Directory::new();
    let store = open(&directory.file("old"));
    write(&store, 1);
    let backup = directory.file("backup");
    store.backup(&backup, &mut |_| true).unwrap();
    let data = directory.file("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("atoll.db.restoring"), "half of it").unwrap();
    std::fs::write(data.join("atoll.db.restoring-journal"), "and more").unwrap();
    let refused = SqliteEngine::open(&SqliteSettings::new(&data)).unwrap_err();
    let message = refused.to_string();
    assert!(
        message.contains("missing, but") && message.contains("atoll.db.restoring is there"),
        "{message}"
    );
    for elsewhere in 0..120 {
        let aside = data.join(format!("atoll.db.replaced-{}", time(elsewhere)));
        std::fs::create_dir(aside).unwrap();
    }
    let failed = restore(&backup, &data, true);
    assert!(
        matches!(failed, Err(OpenError::Exists { .. })),
        "{failed:?}"
    );
    SqliteEngine::open(&SqliteSettings::new(&data)).unwrap_err();
    for name in names(&data).iter().filter(|it| it.contains("replaced")) {
        std::fs::remove_dir(data.join(name)).unwrap();
    }
    assert_eq!(names(&data), ["atoll.db.restoring", "atoll.lock"]);
    restore(&backup, &data, false).unwrap();
    assert_eq!(names(&data), ["atoll.db", "atoll.lock"]);
    let store = open(&data);
    assert_eq!(store.revision().unwrap(), 1);
}
