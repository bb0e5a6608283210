//! Who leads on a real etcd: taking over, fencing, and an etcd that stalls, dies and comes back.

mod etcd_support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use atoll_store::etcd::{Election, ElectionState, LeaseTimes};
use atoll_store::{Batch, CommitError, ReadError};

use etcd_support::{DEADLINE, KV, Server, observed, stand, wait_leading, wait_standby, wait_until};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_standby_knows_where_the_leader_is_and_leads_at_once_when_it_resigns() {
    let etcd = etcd_or_skip!();
    let mut options = etcd.options();
    // Whoever had to wait for the lease would wait this long.
    options.lease.lease = 600 * SECOND;
    let states = observed();
    let first = Election::start(options.clone(), "first", "first:1", Some(states.clone())).unwrap();
    let epoch = wait_leading(&first);
    let second = stand(&options, "second");
    let leader = wait_standby(&second);
    assert_eq!(
        (leader.name.as_str(), leader.address.as_str()),
        ("first", "first:1")
    );
    assert_eq!(leader.epoch, epoch);
    assert!(leader.started > 1_600_000_000);
    let leadership = first.leadership().unwrap();
    first.resign();
    assert_eq!(first.state(), ElectionState::Resigned);
    assert!(leadership.validity.remaining().is_zero());
    assert!(wait_leading(&second) > epoch);
    let told = states.0.lock().unwrap().clone();
    assert_eq!(
        told,
        [ElectionState::Leading { epoch }, ElectionState::Resigned]
    );
    drop(first);
    // Dropped without a word, it resigns, too.
    let third = stand(&options, "third");
    wait_standby(&third);
    drop(second);
    wait_leading(&third);
}

#[test]
fn a_standby_leads_when_the_lease_of_a_leader_that_is_gone_has_run_out() {
    let etcd = etcd_or_skip!();
    let mut options = etcd.options();
    options.lease = LeaseTimes::default();
    let first = stand(&options, "first");
    let epoch = wait_leading(&first);
    let second = stand(&options, "second");
    wait_standby(&second);
    let since = Instant::now();
    first.abandon();
    assert!(wait_leading(&second) > epoch);
    let took = since.elapsed();
    println!("take-over {took:?} after the leader was gone");
    assert!(took >= SECOND, "the lease had not run out");
    assert!(took < 15 * SECOND, "the lease is 3 s");
}

#[test]
fn an_old_leader_that_believes_in_itself_writes_nothing_and_then_serves_nothing() {
    let etcd = etcd_or_skip!();
    let mut options = etcd.options();
    // The old one does not ask again during this test.
    options.lease.keepalive = 30 * SECOND;
    let old = Server::start(&options);
    old.store.commit(Batch::new().put(KV, "a", "old")).unwrap();
    let begin = old.store.revision().unwrap();
    etcd.delete("/atoll/leader");
    let new = Server::lead(&options, stand(&options, "new"));
    new.store.commit(Batch::new().put(KV, "a", "new")).unwrap();
    assert_eq!(old.store.get(KV, b"a").unwrap().unwrap().value, "old");
    let refused = old.store.commit(Batch::new().put(KV, "a", "too late"));
    let epoch = new.store.epoch();
    assert_eq!(refused.unwrap_err(), CommitError::Fenced { epoch });
    assert_eq!(old.store.get(KV, b"a"), Err(ReadError::NotLeader));
    let again = old.store.commit(Batch::new().put(KV, "b", "too late"));
    assert!(matches!(again.unwrap_err(), CommitError::Fenced { .. }));
    assert_eq!(new.store.get(KV, b"a").unwrap().unwrap().value, "new");
    new.stop();
    let next = Server::start(&options);
    assert_eq!(next.store.count(KV, b"", None).unwrap(), 1);
    let values: Vec<_> = next.store.changes(begin, 9, 999).unwrap().changes;
    assert_eq!(values.len(), 1);
    assert_eq!(values[0].row.as_ref().unwrap().value, "new");
    next.stop();
}

#[test]
fn a_leader_whose_key_is_deleted_finds_out_with_its_next_keep_alive() {
    let etcd = etcd_or_skip!();
    let server = Server::start(&etcd.options());
    etcd.delete("/atoll/leader");
    let state = server.election.wait(DEADLINE, ElectionState::is_final);
    match state {
        ElectionState::Lost { reason, .. } => assert!(reason.contains("leader key"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.store.get(KV, b"a"), Err(ReadError::NotLeader));
}

#[test]
fn while_etcd_says_nothing_a_leader_stops_serving_in_time_and_for_good() {
    let etcd = etcd_or_skip!();
    let mut options = etcd.options();
    options.lease = LeaseTimes {
        lease: 6 * SECOND,
        keepalive: SECOND / 2,
        validity: 4 * SECOND,
    };
    let server = Server::start(&options);
    server.store.commit(Batch::new().put(KV, "a", "1")).unwrap();
    etcd.pause();
    let since = Instant::now();
    let outcome = server.store.commit(Batch::new().put(KV, "a", "2"));
    let took = since.elapsed();
    // It was sent, and nobody said what came of it.
    assert!(
        matches!(outcome, Err(CommitError::Unknown(_))),
        "{outcome:?}"
    );
    println!("{took:?} after etcd was stopped: {}", outcome.unwrap_err());
    assert!(took < 30 * SECOND, "validity is 4 s");
    assert_eq!(server.store.get(KV, b"a"), Err(ReadError::NotLeader));
    let state = server.election.wait(DEADLINE, ElectionState::is_final);
    assert!(matches!(state, ElectionState::Lost { .. }), "{state:?}");
    etcd.resume();
    std::thread::sleep(SECOND);
    assert_eq!(server.store.get(KV, b"a"), Err(ReadError::NotLeader));
    let epoch = server.store.epoch();
    drop(server);
    let next = Server::start(&options);
    assert!(next.store.epoch() > epoch);
    // Once or not at all: the store knows.
    let row = next.store.get(KV, b"a").unwrap().unwrap();
    assert_eq!(row.version, if row.value == "2" { 2 } else { 1 });
    next.stop();
}

/// Commits without a pause until told to stop; returns how many came through, each of which put the next number.
fn write_until(server: &Server, stop: &AtomicBool) -> u64 {
    let mut written = 0;
    while !stop.load(SeqCst) {
        let batch = Batch::new().put(KV, "counter", format!("{}", written + 1));
        server.store.commit(batch).unwrap();
        written += 1;
    }
    written
}

/// Every number was put, in order, once.
fn check_written(server: &Server, begin: u64, written: u64) {
    let row = server.store.get(KV, b"counter").unwrap().unwrap();
    assert_eq!(row.value, format!("{written}"));
    assert_eq!(row.version, written);
    let changes = server
        .store
        .changes(begin, usize::MAX, usize::MAX)
        .unwrap()
        .changes;
    let values = changes
        .iter()
        .map(|it| it.row.as_ref().unwrap().value.clone());
    assert!(
        values.eq((1..=written).map(|it| format!("{it}"))),
        "the history has a gap"
    );
}

#[test]
fn a_commit_whose_answer_stays_away_is_resolved_and_done_once() {
    let etcd = etcd_or_skip!();
    let mut options = etcd.options();
    options.request_timeout = SECOND / 5;
    let server = Server::start(&options);
    let begin = server.store.revision().unwrap();
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_until(&server, &stop));
        for _ in 0..5 {
            std::thread::sleep(SECOND / 5);
            etcd.pause();
            std::thread::sleep(SECOND);
            etcd.resume();
        }
        wait_until("a commit after the last pause", || {
            let before = server.store.revision().unwrap();
            std::thread::sleep(SECOND / 20);
            server.store.revision().unwrap() > before
        });
        stop.store(true, SeqCst);
        writer.join().unwrap()
    });
    println!("{written} commits around five pauses of 1 s");
    check_written(&server, begin, written);
    server.stop();
    let next = Server::start(&options);
    check_written(&next, begin, written);
    next.stop();
}

#[test]
fn a_commit_survives_an_etcd_that_is_killed_and_started_again() {
    let mut etcd = etcd_or_skip!();
    let options = etcd.options();
    let server = Server::start(&options);
    let begin = server.store.revision().unwrap();
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_until(&server, &stop));
        for _ in 0..3 {
            std::thread::sleep(SECOND / 5);
            etcd.start_again();
            let before = server.store.revision().unwrap();
            wait_until("a commit after the start", || {
                server.store.revision().unwrap() > before
            });
        }
        stop.store(true, SeqCst);
        writer.join().unwrap()
    });
    println!("{written} commits around three kills");
    check_written(&server, begin, written);
    assert!(server.election.leadership().is_some());
    server.stop();
    let next = Server::start(&options);
    check_written(&next, begin, written);
    next.stop();
}

#[test]
fn changes_go_on_without_a_gap_at_the_next_leader() {
    let etcd = etcd_or_skip!();
    let mut options = etcd.options();
    let old = Server::start(&options);
    let mut seen = Vec::new();
    let mut at = old.store.revision().unwrap();
    for number in 0..30 {
        old.store
            .commit(Batch::new().put(KV, "a", format!("{number}")))
            .unwrap();
        if number < 12 {
            let changes = old.store.changes(at, 99, 9999).unwrap();
            seen.extend(changes.changes);
            at = changes.through;
        }
    }
    let generation = old.store.generation().to_owned();
    etcd.delete("/atoll/leader");
    options.history_revisions = 50;
    let new = Server::lead(&options, stand(&options, "new"));
    new.store.commit(Batch::new().put(KV, "a", "30")).unwrap();
    assert_eq!(new.store.generation(), generation);
    seen.extend(new.store.changes(at, 99, 9999).unwrap().changes);
    let values = seen.iter().map(|it| it.row.as_ref().unwrap().value.clone());
    assert!(values.eq((0..=30).map(|it| format!("{it}"))), "{seen:?}");
    let previous = seen
        .iter()
        .map(|it| it.previous.as_ref().map(|row| row.value.clone()));
    assert!(
        previous
            .skip(1)
            .eq((0..30).map(|it| Some(format!("{it}").into()))),
        "{seen:?}"
    );
    new.stop();
}

#[test]
fn the_members_that_can_not_be_reached_are_passed_over() {
    let etcd = etcd_or_skip!();
    let mut options = etcd.options();
    options.endpoints.insert(0, "http://127.0.0.1:1".into());
    options.endpoints.push("http://127.0.0.1:2".into());
    let server = Server::start(&options);
    server.store.commit(Batch::new().put(KV, "a", "1")).unwrap();
    server.stop();
}

#[test]
fn without_etcd_a_standby_says_so_and_stops_when_told() {
    let mut options = atoll_store::etcd::EtcdOptions::new(["http://127.0.0.1:1"]);
    options.request_timeout = SECOND;
    let election = stand(&options, "alone");
    let has_problem = |it: &_| {
        matches!(
            it,
            ElectionState::Standby {
                problem: Some(_),
                ..
            }
        )
    };
    match election.wait(DEADLINE, has_problem) {
        ElectionState::Standby {
            leader: None,
            problem: Some(problem),
        } => {
            assert!(problem.contains("127.0.0.1:1"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
    election.resign();
    assert_eq!(election.state(), ElectionState::Resigned);
}
