//! Random batches against a model that is obviously right, on each engine that needs nothing installed.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_store::{
    Batch, Check, Committed, MemoryEngine, Operation, Revision, Row, Settings, Snapshot,
    SqliteSettings, Store, TableId,
};
use bytes::Bytes;
use support::{Chance, Directory, open_with, settings};

type Tables = BTreeMap<(TableId, Bytes), Row>;

/// All that a store is to know, kept the simplest way.
#[derive(Clone, Default)]
struct Model {
    rows: Tables,
    revision: Revision,
}

impl Model {
    fn commit(&mut self, batch: &Batch) -> Committed {
        let before = self.rows.clone();
        let mut committed = Committed {
            revision: self.revision,
            failed: None,
            previous: Vec::new(),
            deleted: Vec::new(),
        };
        for (index, check) in batch.checks.iter().enumerate() {
            let (table, key) = check.target();
            let row = self.rows.get(&(table, key.clone()));
            let holds = match check {
                Check::Revision { revision, .. } => row.map_or(0, |it| it.revision) == *revision,
                Check::Exists { .. } => row.is_some(),
                Check::Absent { .. } => row.is_none(),
            };
            if !holds {
                committed.failed = Some(atoll_store::FailedCheck {
                    index,
                    row: row.cloned().map(Arc::new),
                });
                return committed;
            }
        }
        let revision = self.revision + 1;
        for operation in &batch.operations {
            let mut previous = None;
            let mut deleted = 0;
            match operation.clone() {
                Operation::Put {
                    table,
                    key,
                    value,
                    owner,
                } => {
                    previous = self.rows.get(&(table, key.clone())).cloned();
                    let row = Row {
                        value,
                        owner,
                        revision,
                        created: previous.as_ref().map_or(revision, |it| it.created),
                        version: previous.as_ref().map_or(1, |it| it.version + 1),
                    };
                    self.rows.insert((table, key), row);
                }
                Operation::Delete { table, key } => {
                    previous = self.rows.remove(&(table, key));
                    deleted = u64::from(previous.is_some());
                }
                Operation::DeleteRange { table, start, end } => self.rows.retain(|(of, key), _| {
                    let goes =
                        *of == table && *key >= start && end.as_ref().is_none_or(|end| key < end);
                    deleted += u64::from(goes);
                    !goes
                }),
                Operation::DeleteOwned { owner } => self.rows.retain(|_, row| {
                    deleted += u64::from(row.owner == owner);
                    row.owner != owner
                }),
            }
            committed.previous.push(previous.map(Arc::new));
            committed.deleted.push(deleted);
        }
        if self.rows != before {
            self.revision = revision;
            committed.revision = revision;
        }
        committed
    }
}

fn key(chance: &mut Chance) -> Bytes {
    Bytes::from(format!("key-{:02}", chance.below(14)))
}

fn owner(chance: &mut Chance) -> Bytes {
    Bytes::from(["", "", "me", "you"][chance.below(4) as usize])
}

fn random_batch(chance: &mut Chance, model: &Model) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..chance.below(3) / 2 {
        let (table, key) = (TableId(chance.below(2) as u8), key(chance));
        let now = model.rows.get(&(table, key.clone()));
        let revision = match chance.below(4) {
            0 => 0,
            1 => chance.below(model.revision + 2),
            _ => now.map_or(0, |it| it.revision),
        };
        batch.checks.push(match chance.below(3) {
            0 => Check::Exists { table, key },
            1 => Check::Absent { table, key },
            _ => Check::Revision {
                table,
                key,
                revision,
            },
        });
    }
    for _ in 0..chance.below(5) {
        let (table, key) = (TableId(chance.below(2) as u8), key(chance));
        batch.operations.push(match chance.below(12) {
            0..=7 => Operation::Put {
                table,
                key,
                value: Bytes::from(vec![b'v'; chance.below(300) as usize]),
                owner: owner(chance),
            },
            8 | 9 => Operation::Delete { table, key },
            10 => Operation::DeleteRange {
                table,
                end: (chance.below(2) == 0).then(|| self::key(chance)),
                start: key,
            },
            _ => Operation::DeleteOwned {
                owner: Bytes::from_static(b"me"),
            },
        });
    }
    batch
}

fn content(store: &Store) -> Tables {
    let mut found = Tables::new();
    for table in [TableId(0), TableId(1)] {
        let page = store.scan(table, b"", None, 1000, false).unwrap();
        let rows = page.rows.into_iter();
        found.extend(rows.map(|(key, row)| ((table, key), Row::clone(&row))));
        let count = store.count(table, b"", None).unwrap();
        assert_eq!(
            count as usize,
            found.keys().filter(|it| it.0 == table).count()
        );
    }
    found
}

fn content_of_snapshot(snapshot: &Snapshot, chance: &mut Chance) -> Tables {
    let mut found = Tables::new();
    for table in [TableId(0), TableId(1)] {
        let mut start = Bytes::new();
        loop {
            let limit = 1 + chance.below(5) as usize;
            let page = snapshot.scan(table, &start, None, limit).unwrap();
            assert_eq!(page.revision, snapshot.revision());
            for (key, row) in &page.rows {
                assert_eq!(snapshot.get(table, key).unwrap().as_ref(), Some(row));
                found.insert((table, key.clone()), Row::clone(row));
            }
            let Some((last, _)) = page.rows.last().filter(|_| page.more) else {
                break;
            };
            start = [last, &b"\0"[..]].concat().into();
        }
    }
    found
}

/// The changes after a revision, applied to the state at it, lead to the present state.
fn check_changes(store: &Store, after: &Model, now: &Model, chance: &mut Chance) {
    let oldest = store.statistics().unwrap().oldest;
    let limit = 1 + chance.below(40) as usize;
    let mut rows = after.rows.clone();
    let mut through = after.revision;
    if through < oldest {
        assert!(store.changes(through, limit, 1 << 20).is_err());
        return;
    }
    while through < now.revision {
        let changes = store.changes(through, limit, 1 << 20).unwrap();
        for change in changes.changes {
            assert!(change.revision > through && change.revision <= changes.through);
            let target = (change.table, change.key);
            assert_eq!(rows.get(&target), change.previous.as_deref());
            match change.row {
                Some(row) => rows.insert(target, Row::clone(&row)),
                None => rows.remove(&target),
            };
        }
        through = changes.through;
    }
    assert_eq!(rows, now.rows);
}

struct Case<'a> {
    chance: Chance,
    open: Box<dyn Fn() -> Store + 'a>,
    can_reopen: bool,
    batches: usize,
}

fn run(mut case: Case<'_>) {
    let chance = &mut case.chance;
    let mut store = (case.open)();
    let mut states = vec![Model::default()];
    let mut snapshots: Vec<(Snapshot, Tables)> = Vec::new();
    let mut done = 0;
    while done < case.batches {
        // Several at once, so that some share a group.
        let mut model = states.last().unwrap().clone();
        let (sender, outcomes) = std::sync::mpsc::channel();
        let mut expected = Vec::new();
        for _ in 0..=chance.below(12) {
            let batch = random_batch(chance, &model);
            expected.push((batch.clone(), model.commit(&batch)));
            if model.revision > states.last().unwrap().revision {
                states.push(model.clone());
            }
            let sender = sender.clone();
            store.submit(batch, Box::new(move |it| sender.send(it).unwrap()));
            done += 1;
        }
        for (batch, expected) in expected {
            assert_eq!(outcomes.recv().unwrap(), Ok(expected), "{batch:?}");
        }
        let now = states.last().unwrap();
        assert_eq!(store.revision().unwrap(), now.revision);
        assert_eq!(content(&store), now.rows);
        for owner in ["me", "you"] {
            let owned = now.rows.iter().filter(|it| it.1.owner == owner);
            let owned: Vec<_> = owned.map(|it| it.0.clone()).collect();
            assert_eq!(store.owned(owner.as_bytes()).unwrap(), owned);
        }
        let after = &states[chance.below(states.len() as u64) as usize];
        check_changes(&store, after, now, chance);
        for (snapshot, rows) in &snapshots {
            assert_eq!(content_of_snapshot(snapshot, chance), *rows);
        }
        if chance.below(3) == 0 {
            snapshots.push((store.snapshot().unwrap(), now.rows.clone()));
        }
        if snapshots.len() > 4 {
            snapshots.swap_remove(chance.below(4) as usize);
        }
        if case.can_reopen && chance.below(10) == 0 {
            snapshots.clear();
            store.close();
            store = (case.open)();
        }
    }
}

fn small() -> Settings {
    Settings {
        max_log_changes: 60,
        ..settings()
    }
}

#[test]
fn the_memory_engine_does_what_the_model_does() {
    for seed in 0..20 {
        eprintln!("seed {seed}");
        run(Case {
            chance: Chance(seed),
            open: Box::new(|| Store::open(Box::new(MemoryEngine::new()), small()).unwrap()),
            can_reopen: false,
            batches: 400,
        });
    }
}

#[test]
fn the_sqlite_engine_does_what_the_model_does_also_when_it_is_opened_again() {
    for seed in 0..6 {
        eprintln!("seed {seed}");
        let directory = Directory::new();
        let open = || {
            let sqlite = SqliteSettings {
                fold_changes: 25,
                ..SqliteSettings::new(directory.path())
            };
            open_with(&sqlite, small())
        };
        run(Case {
            chance: Chance(seed),
            open: Box::new(open),
            can_reopen: true,
            batches: 300,
        });
        let report = atoll_store::check(directory.path()).unwrap();
        assert_eq!(report.problems, [] as [&str; 0]);
    }
}
