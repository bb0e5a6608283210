//! The store on the engine that keeps nothing: what batches, reads, changes and snapshots do on every engine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use atoll_store::error::ChangesError;
use atoll_store::{
    Batch, Change, CommitError, Committed, Effects, Engine, Group, GroupListener, Guard, LoadSink,
    Loaded, MemoryEngine, OpenError, ReadError, Receipt, Revision, Row, Settings, Store,
    Subscriber, TableId,
};
use bytes::Bytes;

const KV: TableId = TableId(0);
const NODES: TableId = TableId(1);

fn settings() -> Settings {
    Settings::new(["kv", "nodes"])
}

fn open(settings: Settings) -> Store {
    Store::open(Box::new(MemoryEngine::new()), settings).unwrap()
}

fn keys(rows: &[(Bytes, Arc<Row>)]) -> Vec<&str> {
    let keys = rows.iter().map(|it| std::str::from_utf8(&it.0).unwrap());
    keys.collect()
}

fn commit(store: &Store, batch: Batch) -> Committed {
    store.commit(batch).unwrap()
}

#[test]
fn a_row_knows_when_it_was_created_and_how_often_it_was_put() {
    let store = open(settings());
    assert_eq!(commit(&store, Batch::new().put(KV, "a", "1")).revision, 1);
    let second = commit(&store, Batch::new().put_owned(KV, "a", "2", "me"));
    assert_eq!(second.revision, 2);
    let before = second.previous[0].as_ref().unwrap();
    assert_eq!(before.value, "1");
    let row = store.get(KV, b"a").unwrap().unwrap();
    assert_eq!((row.created, row.revision, row.version), (1, 2, 2));
    assert_eq!((&row.value[..], &row.owner[..]), (&b"2"[..], &b"me"[..]));
    commit(&store, Batch::new().delete(KV, "a"));
    commit(&store, Batch::new().put(KV, "a", "3"));
    let row = store.get(KV, b"a").unwrap().unwrap();
    assert_eq!((row.created, row.revision, row.version), (4, 4, 1));
    assert_eq!(store.get(NODES, b"a").unwrap(), None);
}

#[test]
fn a_batch_whose_check_fails_changes_nothing_and_says_what_is_there() {
    let store = open(settings());
    commit(&store, Batch::new().put(KV, "a", "1"));
    let refused = commit(
        &store,
        Batch::new()
            .check_exists(KV, "a")
            .check_revision(KV, "a", 7)
            .put(KV, "a", "2")
            .put(KV, "b", "2"),
    );
    let failed = refused.failed.unwrap();
    assert_eq!((failed.index, failed.row.unwrap().revision), (1, 1));
    assert_eq!(refused.revision, 1);
    assert_eq!(store.get(KV, b"b").unwrap(), None);
    assert_eq!(store.revision().unwrap(), 1);
    for (batch, holds) in [
        (Batch::new().check_revision(KV, "a", 1), true),
        (Batch::new().check_revision(KV, "a", 0), false),
        (Batch::new().check_revision(KV, "b", 0), true),
        (Batch::new().check_absent(KV, "b"), true),
        (Batch::new().check_absent(KV, "a"), false),
        (Batch::new().check_exists(KV, "b"), false),
    ] {
        let shown = format!("{batch:?}");
        let committed = commit(&store, batch);
        assert_eq!(committed.failed.is_none(), holds, "{shown}");
        assert_eq!(committed.revision, 1);
    }
}

#[test]
fn a_batch_that_changes_nothing_uses_no_revision() {
    let store = open(settings());
    let batch = Batch::new()
        .delete(KV, "a")
        .delete_range(KV, "", None)
        .delete_owned("me");
    let nothing = commit(&store, batch);
    assert_eq!((nothing.revision, nothing.deleted), (0, vec![0, 0, 0]));
    let undone = commit(&store, Batch::new().put(KV, "a", "1").delete(KV, "a"));
    assert_eq!((undone.revision, undone.deleted), (0, vec![0, 1]));
    assert_eq!(store.changes(0, 9, 99).unwrap().changes, []);
}

#[test]
fn a_key_that_a_batch_names_twice_changes_once() {
    let store = open(settings());
    commit(&store, Batch::new().put(KV, "a", "1"));
    let batch = Batch::new()
        .put(KV, "a", "2")
        .delete(KV, "a")
        .put(KV, "b", "1")
        .put(KV, "b", "2");
    let committed = commit(&store, batch);
    let values = committed
        .previous
        .iter()
        .map(|it| it.as_ref().map(|row| row.value.clone()));
    let expected = [Some("1"), Some("2"), None, Some("1")].map(|it| it.map(Bytes::from));
    assert_eq!(values.collect::<Vec<_>>(), expected);
    let changes = store.changes(1, 9, 99).unwrap().changes;
    assert_eq!(changes.len(), 2);
    assert_eq!(
        (changes[0].row.as_ref(), &changes[0].key[..]),
        (None, &b"a"[..])
    );
    assert_eq!(changes[0].previous.as_ref().unwrap().value, "1");
    assert_eq!(changes[1].row.as_ref().unwrap().value, "2");
    assert_eq!(changes[1].previous, None);
}

#[test]
fn ranges_and_owners_are_deleted_in_one_batch() {
    let store = open(settings());
    let mut batch = Batch::new().put_owned(NODES, "n", "", "me");
    for key in ["a", "b", "c", "d"] {
        batch = batch.put_owned(KV, key, key, if key > "b" { "me" } else { "" });
    }
    commit(&store, batch);
    let end = Some(Bytes::from_static(b"c"));
    let committed = commit(&store, Batch::new().delete_range(KV, "b", end));
    assert_eq!(committed.deleted, [1]);
    let owned = store.owned(b"me").unwrap();
    let expected = [(KV, "c"), (KV, "d"), (NODES, "n")].map(|it| (it.0, Bytes::from(it.1)));
    assert_eq!(owned, expected);
    commit(&store, Batch::new().put_owned(KV, "c", "", "you"));
    let committed = commit(&store, Batch::new().delete_owned("me"));
    assert_eq!((committed.deleted, committed.revision), (vec![2], 4));
    let page = store.scan(KV, b"", None, 9, false).unwrap();
    assert_eq!(keys(&page.rows), ["a", "c"]);
    assert_eq!(store.owned(b"me").unwrap(), []);
    assert_eq!(store.owned(b"you").unwrap().len(), 1);
}

#[test]
fn an_owner_has_no_more_rows_than_can_go_in_one_batch() {
    let store = open(Settings {
        max_batch_changes: 8,
        ..settings()
    });
    let put = |key: &str, owner: &str| {
        store.commit(Batch::new().put_owned(KV, key.to_owned(), "", owner.to_owned()))
    };
    for key in ["a", "b", "c", "d"] {
        put(key, "me").unwrap();
    }
    let refused = put("e", "me").unwrap_err();
    assert!(matches!(refused, CommitError::OwnerFull(_)), "{refused:?}");
    let told = refused.to_string();
    assert!(told.contains("\"me\" would have 5 rows"), "{told}");
    assert!(told.contains("of 4 rows at most"), "{told}");
    assert!(told.contains("give rows to several owners"), "{told}");
    assert_eq!(store.get(KV, b"e").unwrap(), None);
    put("a", "me").unwrap();
    put("e", "you").unwrap();
    let swap = Batch::new().delete(KV, "a").put_owned(KV, "f", "", "me");
    commit(&store, swap);
    put("b", "you").unwrap();
    put("g", "me").unwrap();
    assert!(put("h", "me").is_err());
    let statistics = store.statistics().unwrap();
    assert_eq!((statistics.failed_checks, statistics.errors), (2, 0));
    let mut end = Batch::new().delete_owned("me");
    for key in ["1", "2", "3", "4"] {
        end = end.put(NODES, key, "");
    }
    assert_eq!(commit(&store, end).deleted[0], 4);
}

#[test]
fn pages_say_whether_there_is_more() {
    let store = open(settings());
    for key in ["a", "b", "c", "d"] {
        commit(&store, Batch::new().put(KV, key, ""));
    }
    let scan = |start: &str, end: Option<&str>, limit, is_reverse| {
        let end = end.map(str::as_bytes);
        let page = store.scan(KV, start.as_bytes(), end, limit, is_reverse);
        let page = page.unwrap();
        (keys(&page.rows).join(""), page.more)
    };
    assert_eq!(scan("", None, 9, false), ("abcd".into(), false));
    assert_eq!(scan("", None, 2, false), ("ab".into(), true));
    assert_eq!(scan("b", Some("d"), 2, false), ("bc".into(), false));
    assert_eq!(scan("b", None, 2, true), ("dc".into(), true));
    assert_eq!(scan("c", Some("b"), 2, true), (String::new(), false));
    assert_eq!(scan("c", Some("c"), 2, false), (String::new(), false));
    assert_eq!(scan("", None, 0, false), (String::new(), true));
    assert_eq!(store.count(KV, b"", None).unwrap(), 4);
    assert_eq!(store.count(KV, b"b", Some(b"d")).unwrap(), 2);
    assert_eq!(store.count(KV, b"d", Some(b"b")).unwrap(), 0);
    let rows = store.get_many(KV, &["d", "x", "a"]).unwrap();
    let revisions = rows.iter().map(|it| it.as_ref().map(|row| row.revision));
    assert_eq!(revisions.collect::<Vec<_>>(), [Some(4), None, Some(1)]);
}

#[test]
fn changes_after_any_revision_are_told_until_the_log_is_trimmed() {
    let store = open(Settings {
        max_log_changes: 4,
        ..settings()
    });
    for index in 1..=6_u64 {
        commit(&store, Batch::new().put(KV, "a", index.to_string()));
    }
    let changes = store.changes(2, 100, 1000).unwrap();
    let revisions: Vec<_> = changes.changes.iter().map(|it| it.revision).collect();
    assert_eq!((revisions, changes.through), (vec![3, 4, 5, 6], 6));
    let Err(ChangesError::Compacted(compacted)) = store.changes(1, 100, 1000) else {
        panic!("told what it no longer knows");
    };
    assert_eq!(compacted.oldest, 2);
    assert_eq!(store.statistics().unwrap().log_changes, 4);
}

#[test]
fn a_snapshot_shows_its_revision_while_writing_goes_on() {
    let store = open(settings());
    commit(&store, Batch::new().put(KV, "b", "1").put(KV, "d", "1"));
    let first = store.snapshot().unwrap();
    commit(&store, Batch::new().put(KV, "a", "2").put(KV, "b", "2"));
    let second = store.snapshot().unwrap();
    commit(&store, Batch::new().delete(KV, "b").put(KV, "c", "3"));
    commit(&store, Batch::new().put(KV, "b", "4").delete(KV, "a"));
    let content = |snapshot: &atoll_store::Snapshot| {
        let page = snapshot.scan(KV, b"", None, 9).unwrap();
        let rows = page.rows.iter().map(|(key, row)| {
            assert_eq!(snapshot.get(KV, key).unwrap().as_ref(), Some(row));
            format!("{key:?}{:?}", row.value).replace(['b', '"'], "")
        });
        rows.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(content(&first), "1 d1");
    assert_eq!(content(&second), "a2 2 d1");
    assert_eq!(first.get(KV, b"a").unwrap(), None);
    assert_eq!(store.statistics().unwrap().snapshots, 2);
    drop(first);
    assert_eq!(content(&second), "a2 2 d1");
    drop(second);
    let statistics = store.statistics().unwrap();
    assert_eq!((statistics.snapshots, statistics.snapshot_bytes), (0, 0));
}

#[test]
fn a_snapshot_that_costs_too_much_is_given_up_and_younger_ones_stay() {
    let store = open(Settings {
        max_snapshot_bytes: 10_000,
        ..settings()
    });
    for index in 0..100 {
        commit(&store, Batch::new().put(KV, format!("{index:03}"), "old"));
    }
    let old = store.snapshot().unwrap();
    for index in 0..60 {
        commit(&store, Batch::new().put(KV, format!("{index:03}"), "new"));
    }
    assert_eq!(old.scan(KV, b"", None, 200).unwrap().rows.len(), 100);
    let young = store.snapshot().unwrap();
    for index in 0..60 {
        commit(&store, Batch::new().delete(KV, format!("{index:03}")));
    }
    assert_eq!(old.scan(KV, b"", None, 1), Err(ReadError::SnapshotExpired));
    let page = young.scan(KV, b"", None, 200).unwrap();
    let new = page.rows.iter().filter(|it| it.1.value == "new");
    assert_eq!((page.rows.len(), new.count()), (100, 60));
    assert_eq!(store.statistics().unwrap().snapshots_expired, 1);
}

#[test]
fn limits_refuse_by_name_and_change_nothing() {
    let store = open(Settings {
        max_key_bytes: 3,
        max_value_bytes: 4,
        max_owner_bytes: 2,
        max_batch_bytes: 12,
        max_batch_changes: 3,
        ..settings()
    });
    for (key, owner) in [("a", "me"), ("b", "me"), ("c", ""), ("d", "")] {
        commit(&store, Batch::new().put_owned(KV, key, "", owner));
    }
    for (batch, name) in [
        (Batch::new().put(KV, "long", ""), "max_key_bytes"),
        (Batch::new().put(KV, "k", "large"), "max_value_bytes"),
        (
            Batch::new().put_owned(KV, "k", "", "own"),
            "max_owner_bytes",
        ),
        (
            Batch::new().put(KV, "abc", "1234").put(KV, "abd", "1234"),
            "max_batch_bytes",
        ),
        (
            Batch::new().put(KV, "x", "").delete_range(KV, "", None),
            "max_batch_changes",
        ),
        (
            Batch::new()
                .put(KV, "x", "")
                .put(KV, "y", "")
                .delete_owned("me"),
            "max_batch_changes",
        ),
    ] {
        let Err(CommitError::TooLarge(message)) = store.commit(batch) else {
            panic!("{name} is no limit");
        };
        assert!(message.contains(name), "{message}");
    }
    for batch in [
        Batch::new().put(KV, "", ""),
        Batch::new().put(TableId(2), "k", ""),
        Batch::new().check_absent(TableId(9), "k"),
        Batch::new().delete_owned(""),
    ] {
        let outcome = store.commit(batch);
        assert!(
            matches!(outcome, Err(CommitError::Invalid(_))),
            "{outcome:?}"
        );
    }
    assert_eq!(store.revision().unwrap(), 4);
    assert_eq!(store.count(KV, b"", None).unwrap(), 4);
    // What a refused batch had begun is not seen by the one after it.
    assert_eq!(
        commit(&store, Batch::new().delete_range(KV, "b", None)).deleted,
        [3]
    );
}

#[test]
fn tables_are_named_once_and_at_most_32() {
    let twice = Store::open(Box::new(MemoryEngine::new()), Settings::new(["a", "a"]));
    assert!(twice.unwrap_err().to_string().contains("named twice"));
    let names = (0..33).map(|it| it.to_string());
    let many = Store::open(Box::new(MemoryEngine::new()), Settings::new(names));
    assert!(
        many.unwrap_err()
            .to_string()
            .contains("more than 32 tables")
    );
}

#[test]
fn what_was_submitted_before_a_close_is_committed_and_nothing_later() {
    let store = open(settings());
    let (sender, outcomes) = std::sync::mpsc::channel();
    for index in 0..1000 {
        let sender = sender.clone();
        let batch = Batch::new().put(KV, format!("{index}"), "");
        store.submit(
            batch,
            Box::new(move |outcome| sender.send(outcome).unwrap()),
        );
    }
    store.close();
    store.close();
    let outcomes: Vec<_> = outcomes.try_iter().map(Result::unwrap).collect();
    let revisions: Vec<Revision> = outcomes.iter().map(|it| it.revision).collect();
    assert_eq!(revisions, (1..=1000).collect::<Vec<_>>());
    assert_eq!(store.commit(Batch::new()), Err(CommitError::Closed));
    assert_eq!(store.get(KV, b"1"), Err(ReadError::Closed));
    assert_eq!(store.snapshot().err(), Some(ReadError::Closed));
}

#[test]
fn a_store_that_is_dropped_commits_what_waits() {
    let store = open(settings());
    let (sender, outcomes) = std::sync::mpsc::channel();
    for index in 0..100 {
        let sender = sender.clone();
        let batch = Batch::new().put(KV, format!("{index}"), "");
        store.submit(
            batch,
            Box::new(move |outcome| sender.send(outcome).unwrap()),
        );
    }
    drop((store, sender));
    assert!(outcomes.iter().take(100).all(|it| it.is_ok()));
    assert!(outcomes.recv().is_err());
}

/// Lets each group go only when told, and gives revisions as it is told.
struct Gated {
    gate: std::sync::mpsc::Receiver<Result<Receipt, CommitError>>,
    taken: Arc<Mutex<Vec<Vec<Effects>>>>,
}

impl Engine for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }
    fn assigns_revisions(&self) -> bool {
        true
    }
    fn load(&mut self, sink: &mut dyn LoadSink) -> Result<Loaded, OpenError> {
        let extra = sink.table("extra")?;
        let row = Row {
            value: Bytes::from_static(b"v"),
            created: 5,
            revision: 6,
            version: 2,
            owner: Bytes::from_static(b"me"),
        };
        sink.row(extra, "x".into(), Arc::new(row.clone()));
        sink.change(8, KV, "k".into(), Some(Arc::new(row)));
        sink.change(9, extra, "x".into(), None);
        Ok(Loaded {
            generation: "0123456789abcdef".into(),
            epoch: 3,
            revision: 10,
            oldest: 8,
        })
    }
    fn commit(&mut self, group: &Group<'_>) -> Result<Receipt, CommitError> {
        self.taken.lock().unwrap().push(group.batches.to_vec());
        self.gate.recv().unwrap()
    }
}

type Gate = std::sync::mpsc::Sender<Result<Receipt, CommitError>>;

fn gated(settings: Settings) -> (Store, Gate, Arc<Mutex<Vec<Vec<Effects>>>>) {
    let (gate, receiver) = std::sync::mpsc::channel();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let engine = Gated {
        gate: receiver,
        taken: taken.clone(),
    };
    let store = Store::open(Box::new(engine), settings).unwrap();
    (store, gate, taken)
}

#[allow(clippy::unnecessary_wraps, reason = "it is what an engine answers")]
fn receipt(revisions: &[Revision]) -> Result<Receipt, CommitError> {
    Ok(Receipt {
        revisions: revisions.to_vec(),
        waited: std::time::Duration::from_millis(1),
    })
}

type Outcomes = std::sync::mpsc::Receiver<(usize, Result<Committed, CommitError>)>;

/// Submits all but the first batch while the first is with the engine, so that they become one group.
fn as_one_group(store: &Store, taken: &Mutex<Vec<Vec<Effects>>>, batches: Vec<Batch>) -> Outcomes {
    let (sender, outcomes) = std::sync::mpsc::channel();
    let before = taken.lock().unwrap().len();
    for (index, batch) in batches.into_iter().enumerate() {
        let sender = sender.clone();
        let completion = move |outcome| drop(sender.send((index, outcome)));
        store.submit(batch, Box::new(completion));
        while taken.lock().unwrap().len() == before {
            std::thread::yield_now();
        }
    }
    outcomes
}

#[test]
fn what_an_engine_loads_is_state_and_log() {
    let (store, _gate, _) = gated(settings());
    assert_eq!(store.tables(), ["kv", "nodes", "extra"]);
    assert_eq!((store.generation(), store.epoch()), ("0123456789abcdef", 3));
    assert_eq!(store.revision().unwrap(), 10);
    assert_eq!(store.count(TableId(2), b"", None).unwrap(), 0);
    assert_eq!(store.owned(b"me").unwrap(), [(KV, "k".into())]);
    let changes = store.changes(8, 9, 99).unwrap();
    assert_eq!((changes.changes.len(), changes.through), (1, 10));
    assert_eq!(changes.changes[0].previous.as_ref().unwrap().value, "v");
    assert!(store.changes(7, 9, 99).is_err());
}

#[test]
fn the_engines_revisions_replace_those_proposed_everywhere() {
    let (store, gate, taken) = gated(settings());
    let outcomes = as_one_group(
        &store,
        &taken,
        vec![
            Batch::new().put(KV, "first", ""),
            Batch::new().put(KV, "a", "1"),
            Batch::new().put(KV, "a", "2").put(KV, "k", "2"),
            // Revision 12 was proposed for the put of "a", which nobody can know: the engine gives 31.
            Batch::new().check_revision(KV, "a", 13).put(KV, "a", "3"),
            Batch::new().check_exists(KV, "a").delete(KV, "a"),
        ],
    );
    gate.send(receipt(&[20])).unwrap();
    gate.send(receipt(&[30, 31, 31])).unwrap();
    let outcomes: Vec<Committed> = outcomes.iter().take(5).map(|it| it.1.unwrap()).collect();
    let revisions: Vec<Revision> = outcomes.iter().map(|it| it.revision).collect();
    assert_eq!(revisions, [20, 30, 31, 31, 31]);
    assert_eq!(outcomes[2].previous[0].as_ref().unwrap().revision, 30);
    let failed = outcomes[3].failed.as_ref().unwrap();
    let row = failed.row.as_ref().unwrap();
    assert_eq!((row.created, row.revision, row.version), (30, 31, 2));
    let changes = store.changes(20, 9, 99).unwrap().changes;
    let told: Vec<_> = changes.iter().map(|it: &Change| it.revision).collect();
    assert_eq!(told, [30, 31, 31, 31]);
    assert!(Arc::ptr_eq(
        changes[1].row.as_ref().unwrap(),
        changes[3].previous.as_ref().unwrap()
    ));
    let row = store.get(KV, b"k").unwrap().unwrap();
    assert_eq!((row.created, row.revision, row.version), (5, 31, 3));
    assert_eq!(store.revision().unwrap(), 31);
}

#[test]
fn batches_of_one_group_give_an_owner_no_more_than_it_may_have_together() {
    let (store, gate, taken) = gated(Settings {
        max_batch_changes: 8,
        ..settings()
    });
    let put = |number| Batch::new().put_owned(KV, format!("{number}"), "", "me");
    // One row it has already, and what is refused or taken back does not count.
    let mut batches = vec![put(0), put(1).check_exists(KV, "x"), put(1), put(2)];
    batches.push(put(3).put_owned(KV, "4", "", "me"));
    batches.push(Batch::new().delete(KV, "1"));
    batches.extend([put(5), put(6)]);
    let outcomes = as_one_group(&store, &taken, batches);
    gate.send(receipt(&[20])).unwrap();
    gate.send(receipt(&[21, 22, 23, 24])).unwrap();
    let mut done: Vec<usize> = Vec::new();
    for (index, outcome) in outcomes.iter().take(8) {
        match outcome {
            Ok(committed) if committed.failed.is_some() => assert_eq!(index, 1),
            Ok(_) => done.push(index),
            Err(refused) => assert!(matches!(refused, CommitError::OwnerFull(_)), "{refused:?}"),
        }
    }
    assert_eq!(done, [0, 2, 3, 5, 6]);
    assert_eq!(store.owned(b"me").unwrap().len(), 4);
}

#[test]
fn nothing_is_seen_before_it_is_durable_and_nothing_at_all_if_it_is_not() {
    let (store, gate, taken) = gated(settings());
    let outcomes = as_one_group(
        &store,
        &taken,
        vec![
            Batch::new().put(KV, "a", ""),
            Batch::new().put(KV, "b", ""),
            Batch::new().check_exists(KV, "b"),
        ],
    );
    assert_eq!(store.get(KV, b"a").unwrap(), None);
    assert_eq!(store.revision().unwrap(), 10);
    gate.send(receipt(&[11])).unwrap();
    assert!(outcomes.recv().unwrap().1.is_ok());
    assert!(store.get(KV, b"a").unwrap().is_some());
    gate.send(Err(CommitError::Full("no room".into()))).unwrap();
    for _ in 0..2 {
        let outcome = outcomes.recv().unwrap().1;
        assert_eq!(outcome, Err(CommitError::Full("no room".into())));
    }
    assert_eq!(store.get(KV, b"b").unwrap(), None);
    assert_eq!(store.revision().unwrap(), 11);
    gate.send(receipt(&[12])).unwrap();
    assert_eq!(commit(&store, Batch::new().put(KV, "b", "")).revision, 12);
}

#[test]
fn after_an_unknown_outcome_nothing_is_committed_and_reads_go_on() {
    for (error, is_fenced) in [
        (CommitError::Unknown("time-out".into()), false),
        (CommitError::Fenced { epoch: 9 }, true),
    ] {
        let (store, gate, taken) = gated(settings());
        gate.send(Err(error.clone())).unwrap();
        assert_eq!(store.commit(Batch::new().put(KV, "a", "")), Err(error));
        let later = store.commit(Batch::new().put(KV, "b", ""));
        match later {
            Err(CommitError::Fenced { epoch: 9 }) if is_fenced => {}
            Err(CommitError::Unavailable(reason)) if !is_fenced => {
                assert!(reason.contains("restart the server"), "{reason}");
            }
            _ => panic!("{later:?}"),
        }
        assert!(store.get(KV, b"k").unwrap().is_some());
        assert_eq!(taken.lock().unwrap().len(), 1);
        assert!(store.statistics().unwrap().stopped.is_some());
    }
}

#[test]
fn too_much_that_waits_is_refused_as_busy() {
    let (store, gate, taken) = gated(Settings {
        max_pending_batches: 2,
        max_pending_bytes: 100,
        ..settings()
    });
    let outcomes = as_one_group(
        &store,
        &taken,
        vec![
            Batch::new().put(KV, "a", ""),
            Batch::new().put(KV, "b", [0; 60].to_vec()),
            Batch::new().put(KV, "c", [0; 60].to_vec()),
            Batch::new().put(KV, "d", ""),
            Batch::new().put(KV, "e", ""),
        ],
    );
    for (index, name) in [(2, "max_pending_bytes"), (4, "max_pending_batches")] {
        let (refused, outcome) = outcomes.recv().unwrap();
        let message = outcome.unwrap_err().to_string();
        assert_eq!(refused, index);
        assert!(message.contains(name), "{message}");
    }
    gate.send(receipt(&[])).unwrap();
    gate.send(receipt(&[])).unwrap();
    let mut done: Vec<usize> = outcomes.iter().take(3).map(|it| it.0).collect();
    done.sort_unstable();
    assert_eq!(done, [0, 1, 3]);
    assert_eq!(store.statistics().unwrap().busy, 2);
}

struct Recorder(Mutex<Vec<String>>, AtomicBool);

impl Subscriber for Recorder {
    fn committed(&self, revision: Revision) {
        self.0.lock().unwrap().push(format!("revision {revision}"));
    }
}

impl GroupListener for Recorder {
    fn group_completed(&self) {
        self.0.lock().unwrap().push("completed".to_owned());
    }
}

impl Guard for Recorder {
    fn is_valid(&self) -> bool {
        self.1.load(SeqCst)
    }
}

#[test]
fn completions_come_before_the_listener_and_that_before_the_subscribers() {
    let recorder = Arc::new(Recorder(Mutex::default(), AtomicBool::new(true)));
    let (store, gate, taken) = gated(Settings {
        listener: Some(recorder.clone()),
        ..settings()
    });
    let id = store.subscribe(recorder.clone());
    let again = store.subscribe(recorder.clone());
    store.unsubscribe(again);
    for index in 0..3 {
        let at = recorder.clone();
        let completion = move |_| at.0.lock().unwrap().push(format!("batch {index}"));
        store.submit(Batch::new().put(KV, "a", ""), Box::new(completion));
        while taken.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
    }
    gate.send(receipt(&[])).unwrap();
    gate.send(receipt(&[])).unwrap();
    let at = recorder.clone();
    let refused = move |_| at.0.lock().unwrap().push("refused".to_owned());
    store.close();
    store.unsubscribe(id);
    store.submit(Batch::new(), Box::new(refused));
    let told = recorder.0.lock().unwrap().join(", ");
    assert_eq!(
        told,
        "batch 0, completed, revision 11, batch 1, batch 2, completed, revision 13, completed, refused, completed"
    );
}

#[test]
fn a_callback_that_panics_is_counted_and_harms_nobody() {
    let store = open(settings());
    store.submit(
        Batch::new().put(KV, "a", ""),
        Box::new(|_| panic!("on purpose")),
    );
    assert_eq!(commit(&store, Batch::new().put(KV, "b", "")).revision, 2);
    assert_eq!(store.statistics().unwrap().panics, 1);
}

#[test]
fn a_guard_that_says_no_stops_reads() {
    let guard = Arc::new(Recorder(Mutex::default(), AtomicBool::new(true)));
    let store = open(Settings {
        guard: Some(guard.clone()),
        ..settings()
    });
    let snapshot = store.snapshot().unwrap();
    guard.1.store(false, SeqCst);
    assert_eq!(store.get(KV, b"a"), Err(ReadError::NotLeader));
    assert_eq!(store.check_readable(), Err(ReadError::NotLeader));
    assert_eq!(snapshot.scan(KV, b"", None, 1), Err(ReadError::NotLeader));
    assert!(matches!(
        store.changes(0, 1, 1),
        Err(ChangesError::Read(ReadError::NotLeader))
    ));
    // Batches that change nothing are reads, too: of what may be old.
    let fenced = Err(CommitError::Fenced { epoch: 0 });
    assert!(
        fenced
            .as_ref()
            .is_err_and(|it| it.to_string().starts_with("another server may write")),
        "its epoch is not known"
    );
    for batch in [
        Batch::new().check_absent(KV, "a"),
        Batch::new().check_exists(KV, "a").delete(KV, "b"),
        Batch::new().delete(KV, "a"),
    ] {
        assert_eq!(store.commit(batch), fenced);
    }
    guard.1.store(true, SeqCst);
    assert_eq!(store.get(KV, b"a"), Ok(None));
    commit(&store, Batch::new().check_absent(KV, "a"));
    assert_eq!(store.statistics().unwrap().stopped, None);
}

#[test]
fn a_forked_child_is_refused_at_once_and_its_listener_is_told() {
    let recorder = Arc::new(Recorder(Mutex::default(), AtomicBool::new(true)));
    let store = open(Settings {
        listener: Some(recorder.clone()),
        ..settings()
    });
    assert!(!store.is_forked());
    // SAFETY: the child touches locks of this thread only, and ends without running anything of the parent's.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = Arc::new(AtomicBool::new(false));
        let seen = refused.clone();
        let completion = move |outcome| {
            seen.store(matches!(outcome, Err(CommitError::Unavailable(_))), SeqCst);
        };
        store.submit(Batch::new().put(KV, "a", "1"), Box::new(completion));
        let is_told = recorder.0.lock().unwrap().concat() == "completed";
        let is_right = store.is_forked() && refused.load(SeqCst) && is_told;
        // SAFETY: it ends the process, here and now.
        unsafe { libc::_exit(i32::from(!is_right)) };
    }
    let mut status = -1;
    // SAFETY: the pointer is to a number of ours.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((ended, status), (child, 0));
    commit(&store, Batch::new().put(KV, "a", "1"));
}

#[test]
fn readers_see_whole_batches_only() {
    let store = open(settings());
    let done = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                let page = store.scan(KV, b"", None, 9, false).unwrap();
                let values: Vec<&Bytes> = page.rows.iter().map(|it| &it.1.value).collect();
                assert!(values.windows(2).all(|it| it[0] == it[1]), "{values:?}");
                assert!(matches!(values.len(), 0 | 3));
                reads.fetch_add(1, SeqCst);
            }
        });
        for index in 0..500 {
            let mut batch = Batch::new();
            for key in ["a", "b", "c"] {
                batch = batch.put(KV, key, index.to_string());
            }
            commit(&store, batch);
        }
        while reads.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        done.store(true, SeqCst);
    });
}
