//! The store on a real etcd: it does what it does on every engine, keeps it, and touches nothing else.

mod etcd_support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use atoll_store::error::ChangesError;
use atoll_store::etcd::{EtcdOptions, EtcdTls, EtcdUser};
use atoll_store::{
    Batch, Change, CommitError, Committed, MemoryEngine, OpenError, Row, Settings, Store,
};
use bytes::Bytes;
use etcd_client::{Permission, PermissionType};

use etcd_support::{Etcd, KV, NODES, Server, file, stand};

/// Numbers that look random, the same in every run.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn key(&mut self) -> String {
        ["a", "b", "b/c", "c", "d", "\u{0}", "ÿ"][self.below(7) as usize].to_owned()
    }
}

/// A batch of any kind, but for checks of revisions.
fn draw(draws: &mut Draws, step: u64) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..draws.below(2) {
        let key = draws.key();
        batch = match draws.below(4) {
            0 => batch.check_absent(KV, key),
            _ => batch.check_exists(KV, key),
        };
    }
    for number in 0..=draws.below(4) {
        let table = [KV, NODES][draws.below(2) as usize];
        let key = draws.key();
        batch = match draws.below(10) {
            0..6 => {
                let owner = ["", "me", "you"][draws.below(3) as usize];
                batch.put_owned(table, key, format!("{step}.{number}"), owner)
            }
            6 | 7 => batch.delete(table, key),
            8 => batch.delete_range(table, key, Some(Bytes::from_static(b"c"))),
            _ => batch.delete_owned("me"),
        };
    }
    batch
}

/// What a row is apart from its revisions.
type Facts = (Bytes, u64, Bytes, bool);

fn facts(row: &Row) -> Facts {
    let is_new = row.created == row.revision;
    (row.value.clone(), row.version, row.owner.clone(), is_new)
}

fn contents(store: &Store) -> BTreeMap<(u8, Bytes), Facts> {
    let mut all = BTreeMap::new();
    for table in [KV, NODES] {
        for (key, row) in store.scan(table, b"", None, 100_000, false).unwrap().rows {
            all.insert((table.0, key), facts(&row));
        }
    }
    all
}

/// The whole change log.
fn history(store: &Store, after: u64) -> Vec<Change> {
    store.changes(after, 1_000_000, usize::MAX).unwrap().changes
}

fn outcome(committed: &Committed) -> (Option<usize>, Vec<Option<Facts>>, Vec<u64>) {
    let previous = committed.previous.iter();
    let previous = previous
        .map(|it| it.as_ref().map(|row| facts(row)))
        .collect();
    let failed = committed.failed.as_ref().map(|it| it.index);
    (failed, previous, committed.deleted.clone())
}

#[test]
fn any_batches_come_to_the_same_as_in_memory_and_are_there_for_the_next_leader_with_their_history()
{
    let etcd = etcd_or_skip!();
    let options = etcd.options();
    let mut server = Server::start(&options);
    let generation = server.store.generation().to_owned();
    let model = Store::open(
        Box::new(MemoryEngine::new()),
        Settings::new(["kv", "nodes"]),
    )
    .unwrap();
    let mut draws = Draws(7);
    for step in 0..300 {
        let batch = draw(&mut draws, step);
        // The two stores number their revisions differently.
        let (key, is_wrong) = (draws.key(), u64::from(draws.below(4) == 0));
        let checked = draws.below(3) == 0;
        let with_check = |store: &Store, batch: Batch| {
            let row = store.get(KV, key.as_bytes()).unwrap();
            let revision = row.map_or(0, |it| it.revision) + is_wrong;
            if checked {
                batch.check_revision(KV, key.clone(), revision)
            } else {
                batch
            }
        };
        let expected = with_check(&model, batch.clone());
        let expected = outcome(&model.commit(expected).unwrap());
        let batch = with_check(&server.store, batch);
        let shown = format!("{batch:?}");
        let committed = server.store.commit(batch).unwrap();
        assert_eq!(outcome(&committed), expected, "{shown}");
        assert_eq!(contents(&server.store), contents(&model), "{shown}");
        if step % 100 == 99 {
            let begin = server.store.statistics().unwrap().oldest;
            let before = (
                history(&server.store, begin),
                server.store.revision().unwrap(),
            );
            let epoch = server.store.epoch();
            server.stop();
            server = Server::start(&options);
            assert_eq!(contents(&server.store), contents(&model));
            let after = (
                history(&server.store, begin),
                server.store.revision().unwrap(),
            );
            assert_eq!(before, after);
            assert_eq!(server.store.generation(), generation);
            assert!(server.store.epoch() > epoch);
        }
    }
    server.stop();
}

#[test]
fn batches_submitted_together_are_each_told_by_the_history_although_they_share_transactions() {
    let etcd = etcd_or_skip!();
    let options = etcd.options();
    let server = Server::start(&options);
    let begin = server.store.revision().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    for number in 0..500 {
        let sender = sender.clone();
        let key = format!("{}", number % 50);
        let batch = Batch::new().put(KV, key, format!("{number}"));
        let completion = move |outcome: Result<Committed, CommitError>| {
            sender.send(outcome.map(|it| it.revision)).unwrap();
        };
        server.store.submit(batch, Box::new(completion));
    }
    let revisions: Vec<u64> = receiver.iter().take(500).map(Result::unwrap).collect();
    assert!(revisions.is_sorted());
    let told = history(&server.store, begin);
    assert_eq!(told.len(), 500);
    assert!(
        server.store.statistics().unwrap().groups < 400,
        "nothing was committed together"
    );
    server.stop();
    let next = Server::start(&options);
    assert_eq!(history(&next.store, begin), told);
    let row = next.store.get(KV, b"7").unwrap().unwrap();
    assert_eq!((row.version, &row.value[..]), (10, &b"457"[..]));
    next.stop();
}

#[test]
fn ten_thousand_keys_are_loaded_and_a_thousand_of_one_owner_go_in_one_batch() {
    let etcd = etcd_or_skip!();
    let mut options = etcd.options();
    let server = Server::start(&options);
    for part in 0..10 {
        let mut batch = Batch::new();
        for number in 0..1000 {
            let owner = if number < 100 { "node" } else { "" };
            batch = batch.put_owned(KV, format!("{part}/{number:04}"), vec![7; 100], owner);
        }
        server.store.commit(batch).unwrap();
    }
    // Once from the rows alone, once from the history alone.
    server.stop();
    options.history_revisions = 0;
    let server = Server::start(&options);
    assert_eq!(server.store.count(KV, b"", None).unwrap(), 10_000);
    assert_eq!(server.store.statistics().unwrap().log_changes, 0);
    server.stop();
    options.history_revisions = 100_000;
    let server = Server::start(&options);
    assert_eq!(server.store.count(KV, b"", None).unwrap(), 10_000);
    assert_eq!(server.store.statistics().unwrap().log_changes, 10_000);
    let before = server.store.revision().unwrap();
    let committed = server
        .store
        .commit(Batch::new().delete_owned("node"))
        .unwrap();
    assert_eq!(committed.deleted, [1000]);
    let changes = server.store.changes(before, 9999, usize::MAX).unwrap();
    assert_eq!(changes.changes.len(), 1000);
    assert!(
        changes
            .changes
            .iter()
            .all(|it| it.revision == committed.revision)
    );
    server.stop();
    let server = Server::start(&options);
    assert_eq!(server.store.count(KV, b"", None).unwrap(), 9000);
    server.stop();
}

#[test]
fn a_value_of_one_mebibyte_is_kept_and_what_etcd_does_not_take_at_once_is_refused_alone() {
    let etcd = etcd_or_skip!();
    let options = etcd.options();
    let server = Server::start(&options);
    let large = Bytes::from(vec![7_u8; 1 << 20]);
    for key in ["a", "b", "c"] {
        server
            .store
            .commit(Batch::new().put(KV, key, large.clone()))
            .unwrap();
    }
    let two = Batch::new()
        .put(KV, "d", large.clone())
        .put(KV, "e", large.clone());
    let refused = server.store.commit(two).unwrap_err();
    assert!(matches!(refused, CommitError::TooLarge(_)), "{refused:?}");
    assert!(
        refused.to_string().contains("--max-request-bytes"),
        "{refused}"
    );
    let mut many = Batch::new();
    for number in 0..5000 {
        many = many.put(KV, format!("many/{number}"), "");
    }
    let refused = server.store.commit(many).unwrap_err();
    assert!(refused.to_string().contains("--max-txn-ops"), "{refused}");
    server
        .store
        .commit(Batch::new().put(KV, "f", "goes on"))
        .unwrap();
    server.stop();
    let server = Server::start(&options);
    assert_eq!(server.store.get(KV, b"c").unwrap().unwrap().value, large);
    assert_eq!(server.store.get(KV, b"d").unwrap(), None);
    assert_eq!(server.store.count(KV, b"", None).unwrap(), 4);
    server.stop();
}

#[test]
fn what_an_owner_may_have_goes_in_one_transaction_with_the_record_of_its_end() {
    let etcd = etcd_or_skip!();
    let options = etcd.options();
    let server = Server::start(&options);
    let put = |numbers: std::ops::Range<usize>, owner: &'static str, length: usize| {
        let key = |number| format!("{owner}/{number:0length$}");
        let keys = numbers.map(key);
        let batch = keys.fold(Batch::new(), |it, key| it.put_owned(KV, key, "", owner));
        server.store.commit(batch).map_err(|it| match it {
            CommitError::OwnerFull(told) => told,
            other => panic!("{other:?}"),
        })
    };
    put(0..4000, "many", 8).unwrap();
    let told = put(4000..4001, "many", 8).unwrap_err();
    assert!(told.contains("of 4000 rows at most"), "{told}");
    // Of the bytes that etcd takes, three fourths: 864 keys, or fewer below a long prefix.
    put(0..800, "long", 1280).unwrap();
    let told = put(800..900, "long", 1280).unwrap_err();
    assert!(told.contains("of 1178112 bytes at most"), "{told}");
    for owner in ["many", "long"] {
        let record = vec![7; 165 << 10];
        let end = Batch::new()
            .delete_owned(owner)
            .put(NODES, "record", record.clone())
            .put(NODES, format!("ending of {owner}"), record);
        server.store.commit(end).unwrap();
    }
    assert_eq!(server.store.count(KV, b"", None).unwrap(), 0);
    server.stop();
}

#[test]
fn limits_that_etcd_has_but_was_not_said_to_have_refuse_the_batch_and_nothing_else() {
    let etcd = etcd_or_skip!("--max-txn-ops=16", "--max-request-bytes=200000");
    let options = etcd.options();
    let server = Server::start(&options);
    let mut many = Batch::new();
    for number in 0..100 {
        many = many.put(KV, format!("{number}"), "");
    }
    for batch in [many, Batch::new().put(KV, "a", vec![7; 300_000])] {
        let refused = server.store.commit(batch).unwrap_err();
        assert!(matches!(refused, CommitError::TooLarge(_)), "{refused:?}");
    }
    server
        .store
        .commit(Batch::new().put(KV, "a", "goes on"))
        .unwrap();
    assert_eq!(server.store.count(KV, b"", None).unwrap(), 1);
    server.stop();
}

#[test]
fn a_full_etcd_is_said_to_be_full_and_reads_go_on() {
    let etcd = etcd_or_skip!("--quota-backend-bytes=8000000");
    let options = etcd.options();
    let server = Server::start(&options);
    let mut kept = 0;
    let refused = loop {
        let batch = Batch::new().put(KV, format!("{kept}"), vec![7; 1 << 20]);
        match server.store.commit(batch) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 20, "etcd has a quota of 8 MB");
    };
    assert!(matches!(refused, CommitError::Full(_)), "{refused:?}");
    assert!(
        refused.to_string().contains("--quota-backend-bytes"),
        "{refused}"
    );
    assert_eq!(server.store.count(KV, b"", None).unwrap(), kept);
    server.stop();
}

/// etcd takes a transaction while there is room, and answers that there is none if that is so when it applies it, which it does.
#[test]
fn what_a_full_etcd_has_applied_all_the_same_is_not_said_to_be_refused() {
    const OTHERS: usize = 4;
    let etcd = etcd_or_skip!("--quota-backend-bytes=16000000");
    let options = etcd.options();
    let server = Server::start(&options);
    let is_over = AtomicBool::new(false);
    let refused = std::thread::scope(|scope| {
        for other in 0..OTHERS {
            let (etcd, is_over) = (&etcd, &is_over);
            scope.spawn(move || {
                let mut number = 0;
                etcd.ask(|client| async move {
                    while !is_over.load(SeqCst) {
                        number += 1;
                        let key = format!("other/{other}/{number}");
                        let mut kv = client.kv_client();
                        if kv.put(key, vec![7; 1 << 16], None).await.is_err() {
                            break;
                        }
                    }
                    Ok(())
                });
            });
        }
        let refused = (0..100_000).find_map(|number| {
            let batch = Batch::new().put(KV, format!("{number:06}"), "value");
            server.store.commit(batch).err()
        });
        is_over.store(true, SeqCst);
        refused.expect("etcd has a quota of 16 MB")
    });
    assert!(matches!(refused, CommitError::Full(_)), "{refused:?}");
    let data = etcd.everything("/atoll/data/");
    let rows = server.store.scan(KV, b"", None, 100_000, false).unwrap();
    assert_eq!(data.len(), rows.rows.len(), "{refused}");
    server.stop();
}

#[test]
fn keys_of_others_are_neither_read_nor_changed() {
    let etcd = etcd_or_skip!();
    let options = etcd.options();
    for key in [
        "/atoll",
        "/atoll0",
        "/atol",
        "/registry/pods/a",
        "zzz",
        "/atoll-2/data/kv/a",
    ] {
        etcd.put(key, "theirs");
    }
    let theirs = |etcd: &Etcd| {
        let mut all = etcd.everything("");
        all.retain(|it| !it.0.starts_with("/atoll/"));
        all
    };
    let before = theirs(&etcd);
    let server = Server::start(&options);
    server
        .store
        .commit(Batch::new().put(KV, "a", "1").put(NODES, "b", "2"))
        .unwrap();
    server
        .store
        .commit(Batch::new().delete_range(KV, "", None))
        .unwrap();
    server.stop();
    let server = Server::start(&options);
    assert_eq!(server.store.count(NODES, b"", None).unwrap(), 1);
    // A second store beside the first.
    let mut beside = options.clone();
    beside.prefix = "/atoll-2/".into();
    let refused = Server::try_lead(&beside, stand(&beside, "b")).unwrap_err();
    assert!(
        refused.to_string().contains("/atoll-2/data/kv/a"),
        "{refused}"
    );
    beside.prefix = "/other/atoll/".into();
    let second = Server::start(&beside);
    assert_ne!(second.store.generation(), server.store.generation());
    assert_eq!(second.store.count(NODES, b"", None).unwrap(), 0);
    second.stop();
    server.stop();
    let mut after = theirs(&etcd);
    after.retain(|it| !it.0.starts_with("/other/atoll/"));
    assert_eq!(after, before);
}

#[test]
fn a_store_of_a_newer_format_is_refused() {
    let etcd = etcd_or_skip!();
    let options = etcd.options();
    Server::start(&options).stop();
    etcd.put("/atoll/meta/format", "2");
    let refused = Server::try_lead(&options, stand(&options, "a")).unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::NewerSchema {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{refused:?}"
    );
}

#[test]
fn a_key_that_the_store_did_not_write_among_its_rows_is_refused_by_name() {
    let etcd = etcd_or_skip!();
    let options = etcd.options();
    Server::start(&options).stop();
    etcd.put("/atoll/data/kv/by-hand", "text");
    let refused = Server::try_lead(&options, stand(&options, "a")).unwrap_err();
    assert!(
        refused.to_string().contains("/atoll/data/kv/by-hand"),
        "{refused}"
    );
}

#[test]
fn what_etcd_has_compacted_can_not_be_told_and_the_oldest_revision_says_so() {
    let etcd = etcd_or_skip!();
    let options = etcd.options();
    let server = Server::start(&options);
    let mut revisions = Vec::new();
    for number in 0..20 {
        let batch = Batch::new().put(KV, format!("{}", number % 3), format!("{number}"));
        revisions.push(server.store.commit(batch).unwrap().revision);
    }
    let told = history(&server.store, revisions[9]);
    server.stop();
    let compacted = revisions[9];
    etcd.ask(|client| async move {
        client
            .kv_client()
            .compact(compacted.cast_signed(), None)
            .await
    });
    let server = Server::start(&options);
    let oldest = match server.store.changes(revisions[0], 99, 9999) {
        Err(ChangesError::Compacted(it)) => it.oldest,
        other => panic!("{other:?}"),
    };
    assert_eq!(oldest, compacted);
    assert_eq!(history(&server.store, compacted), told);
    // Everything is gone but the state.
    server.stop();
    let now = revisions[19];
    etcd.ask(|client| async move { client.kv_client().compact(now.cast_signed(), None).await });
    let server = Server::start(&options);
    assert_eq!(server.store.statistics().unwrap().log_changes, 0);
    assert_eq!(server.store.count(KV, b"", None).unwrap(), 3);
    assert_eq!(server.store.revision().unwrap(), now);
    server.stop();
}

#[test]
fn a_certificate_is_asked_for_and_shown() {
    let (authority, certificate, key) = (
        file("authority.pem"),
        file("server.pem"),
        file("server.key"),
    );
    let etcd = etcd_or_skip!(
        &format!("--cert-file={certificate}"),
        &format!("--key-file={key}"),
        "--client-cert-auth",
        &format!("--trusted-ca-file={authority}")
    );
    let read = |name: &str| std::fs::read(file(name)).unwrap();
    let with = |tls: EtcdTls| EtcdOptions {
        tls: Some(tls),
        ..etcd.options()
    };
    let tls = EtcdTls {
        authority: read("authority.pem"),
        identity: Some((read("client.pem"), read("client.key"))),
        server_name: Some("localhost".into()),
    };
    let server = Server::start(&with(tls.clone()));
    server.store.commit(Batch::new().put(KV, "a", "1")).unwrap();
    server.stop();
    let server = Server::start(&with(tls.clone()));
    assert_eq!(server.store.get(KV, b"a").unwrap().unwrap().value, "1");
    server.stop();
    // Without a certificate etcd hangs up, and the election says that it can't ask.
    refused(
        &with(EtcdTls {
            identity: None,
            ..tls
        }),
        "127.0.0.1",
    );
}

#[test]
fn a_user_logs_in_and_a_wrong_password_is_told() {
    let etcd = etcd_or_skip!("--bcrypt-cost=4");
    etcd.ask(|client| async move {
        let mut auth = client.auth_client();
        auth.user_add("root", "root-password", None).await?;
        auth.user_grant_role("root", "root").await?;
        auth.role_add("atoll").await?;
        let all = Permission::new(PermissionType::Readwrite, "/atoll/").with_prefix();
        auth.role_grant_permission("atoll", all).await?;
        auth.user_add("atoll", "its-password", None).await?;
        auth.user_grant_role("atoll", "atoll").await?;
        auth.auth_enable().await
    });
    let with = |name: &str, password: &str| EtcdOptions {
        user: Some(EtcdUser {
            name: name.into(),
            password: password.into(),
        }),
        ..etcd.options()
    };
    let server = Server::start(&with("atoll", "its-password"));
    server.store.commit(Batch::new().put(KV, "a", "1")).unwrap();
    server.stop();
    let server = Server::start(&with("atoll", "its-password"));
    assert_eq!(server.store.get(KV, b"a").unwrap().unwrap().value, "1");
    server.stop();
    refused(&with("atoll", "another"), "password");
    refused(&etcd.options(), "user");
    let mut elsewhere = with("atoll", "its-password");
    elsewhere.prefix = "/elsewhere/".into();
    refused(&elsewhere, "permission denied");
}

/// Its election never leads, and says why.
fn refused(options: &EtcdOptions, mentions: &str) {
    use atoll_store::etcd::ElectionState::Standby;
    let election = stand(options, "refused");
    let has_problem = |it: &_| {
        matches!(
            it,
            Standby {
                problem: Some(_),
                ..
            }
        )
    };
    match election.wait(Duration::from_secs(60), has_problem) {
        Standby {
            problem: Some(problem),
            ..
        } => {
            assert!(
                problem.contains(mentions),
                "{problem:?} does not mention {mentions:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}
