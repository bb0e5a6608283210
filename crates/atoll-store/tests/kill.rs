//! Processes that are killed while they commit: what they acknowledged is there, whole.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use atoll_store::{Batch, Settings, SqliteSettings, Store};
use support::{Chance, Directory, KV, NODES, open_with, settings};

const DIRECTORY: &str = "ATOLL_TEST_KILL_DIRECTORY";
const WRITERS: usize = 8;

/// Bounds so small that folding, checkpoints of it and trimming are always under way.
fn open(directory: &std::path::Path) -> Store {
    let sqlite = SqliteSettings {
        fold_changes: 60,
        ..SqliteSettings::new(directory)
    };
    let settings = Settings {
        max_log_changes: 100,
        ..settings()
    };
    open_with(&sqlite, settings)
}

fn counter(store: &Store, writer: usize) -> u64 {
    let row = store.get(NODES, writer.to_string().as_bytes()).unwrap();
    row.map_or(0, |it| {
        std::str::from_utf8(&it.value).unwrap().parse().unwrap()
    })
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "is run by the test below, and killed"]
fn commits_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let store = open(directory.as_ref());
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                for number in counter(store, writer) + 1.. {
                    let batch = Batch::new()
                        .put(NODES, writer.to_string(), number.to_string())
                        .put(KV, format!("{writer}-{number}"), vec![b'v'; 300])
                        .delete(KV, format!("{writer}-{}", number.saturating_sub(200)));
                    let committed = store.commit(batch).unwrap();
                    let line = format!("ack {writer} {number} {}\n", committed.revision);
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn every_acknowledged_batch_survives_twenty_kills_at_random_moments() {
    let directory = Directory::new();
    let mut chance = Chance(u64::from(std::process::id()));
    eprintln!("seed {}", chance.0);
    let mut acknowledged = [0_u64; WRITERS];
    let mut revision = 0;
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "commits_until_it_is_killed",
            ])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 1 + chance.below(400);
        while left > 0 {
            let line = lines.next().expect("the child has ended").unwrap();
            left -= u64::from(note(&line, &mut acknowledged, &mut revision));
        }
        std::thread::sleep(Duration::from_micros(chance.below(3000)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            note(&line.unwrap(), &mut acknowledged, &mut revision);
        }

        let report = atoll_store::check(directory.path()).unwrap();
        assert_eq!(report.problems, [] as [&str; 0], "round {round}");
        let store = open(directory.path());
        assert!(store.revision().unwrap() >= revision);
        for (writer, acknowledged) in acknowledged.iter_mut().enumerate() {
            let number = counter(&store, writer);
            assert!(
                number >= *acknowledged,
                "{writer} lost {acknowledged}, has {number}"
            );
            // One more may have happened, without the child living to tell.
            assert!(number <= *acknowledged + 1);
            // The next process goes on from here.
            *acknowledged = number;
            let first = number.saturating_sub(199).max(1);
            let kept = (first..=number).map(|it| format!("{writer}-{it}"));
            let rows = store.get_many(KV, &kept.collect::<Vec<_>>()).unwrap();
            assert!(rows.iter().all(Option::is_some), "round {round}: {writer}");
            let end = format!("{writer}.");
            let prefix = format!("{writer}-");
            let count = store.count(KV, prefix.as_bytes(), Some(end.as_bytes()));
            assert_eq!(count.unwrap(), number.min(200));
        }
        store.close();
    }
}

/// Whether the line is an acknowledgement; the last line of a killed process may be cut.
fn note(line: &str, acknowledged: &mut [u64], revision: &mut u64) -> bool {
    // The test harness may have begun the line.
    let Some(start) = line.find("ack ") else {
        return false;
    };
    let words: Vec<u64> = line[start..]
        .split(' ')
        .filter_map(|it| it.parse().ok())
        .collect();
    let [writer, number, at] = words[..] else {
        return false;
    };
    acknowledged[writer as usize] = number;
    *revision = at.max(*revision);
    true
}
