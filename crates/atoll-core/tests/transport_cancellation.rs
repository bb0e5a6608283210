//! Calls that end without their handler: deadlines, clients that cancel, connections that are lost.

mod transport_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_core::transport::{Call, CancelReason, Reply, TransportConfig, frame};
use bytes::Bytes;
use h2::Reason;
use http::Request;
use transport_support::{ECHO, HELD, Server, builder, request, soon};

fn with_timeout(timeout: &str) -> Request<()> {
    builder(HELD)
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap()
}

fn assert_over(call: &Arc<Call>, reason: CancelReason) {
    assert_eq!(call.cancelled_by(), Some(reason));
    assert!(call.is_answered());
    assert!(!call.begin(), "the handler must not run any more");
}

#[tokio::test]
async fn a_deadline_is_answered_while_the_target_never_runs() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let start = Instant::now();
    let pending = client.open(with_timeout("50m"), Some(frame(b"x"))).await;
    let call = server.call().await;
    let answer = pending.answer().await;
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(answer.is_trailers_only());
    assert_eq!(
        (answer.status(), answer.message()),
        (4, "Deadline Exceeded")
    );
    let cancelled = server.cancelled().await;
    assert!(Arc::ptr_eq(&call, &cancelled));
    assert_over(&call, CancelReason::Deadline);
    assert_eq!(call.time_remaining(), Some(Duration::ZERO));
    assert_eq!(
        call.take_message().bytes,
        "",
        "a message that nobody will read is freed"
    );
    assert_eq!(server.transport.calls_in_flight(), 0);
}

#[tokio::test]
async fn a_reply_after_the_deadline_is_dropped_and_counted() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(with_timeout("20m"), Some(frame(b"x"))).await;
    let call = server.call().await;
    assert!(call.begin());
    assert_eq!(pending.answer().await.status(), 4);
    assert_eq!(
        call.take_message().bytes,
        "x",
        "a handler that has begun keeps its message"
    );
    assert!(!call.reply(Reply::ok(frame(b"late"))));
    assert!(!call.send_initial_metadata(http::HeaderMap::new()));
    assert_eq!(server.transport.stats().late_replies, 1);
    assert_eq!(client.call(ECHO, b"").await.status(), 0);
}

#[tokio::test]
async fn deadlines_fire_each_at_its_time() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut pendings = Vec::new();
    for milliseconds in [120_u64, 40, 80, 3_600_000] {
        let request = with_timeout(&format!("{milliseconds}m"));
        pendings.push((
            milliseconds,
            Instant::now(),
            client.open(request, Some(frame(b""))).await,
        ));
    }
    let mut calls = Vec::new();
    while calls.len() < 4 {
        calls.extend(server.batch().await);
    }
    for (milliseconds, start, pending) in pendings {
        if milliseconds > 1000 {
            calls[3].reply(Reply::ok(frame(b"in time")));
            assert_eq!(pending.answer().await.status(), 0);
            continue;
        }
        assert_eq!(pending.answer().await.status(), 4);
        assert!(start.elapsed() >= Duration::from_millis(milliseconds));
    }
    assert_eq!(server.transport.stats().deadlines_exceeded, 3);
}

#[tokio::test]
async fn a_deadline_that_has_passed_on_arrival_never_reaches_the_target() {
    let mut server = Server::start();
    let answer = server
        .client()
        .await
        .send(with_timeout("0n"), Some(frame(b"")))
        .await;
    assert_eq!(answer.status(), 4);
    server.told_nothing();
}

#[tokio::test]
async fn the_longest_timeout_of_the_protocol_is_served() {
    let mut server = Server::start();
    let mut client = server.client().await;
    for _ in 0..2 {
        let pending = client
            .open(with_timeout("99999999H"), Some(frame(b"")))
            .await;
        let call = server.call().await;
        assert!(call.time_remaining().unwrap() > Duration::from_secs(1 << 33));
        call.reply(Reply::ok(frame(b"")));
        assert_eq!(pending.answer().await.status(), 0);
    }
}

#[tokio::test]
async fn a_deadline_also_ends_a_request_that_never_becomes_complete() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut pending = client.open(with_timeout("30m"), None).await;
    pending
        .stream
        .send_data(Bytes::from_static(b"\0\0"), false)
        .unwrap();
    assert_eq!(pending.answer().await.status(), 4);
    server.told_nothing();
    assert_eq!(server.transport.calls_in_flight(), 0);
}

#[tokio::test]
async fn a_client_that_cancels_ends_its_call_and_no_other() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut cancelled = client.open(request(HELD), Some(frame(b"a"))).await;
    let call = server.call().await;
    let kept = client.open(request(HELD), Some(frame(b"b"))).await;
    let other = server.call().await;
    cancelled.stream.send_reset(Reason::CANCEL);
    assert!(Arc::ptr_eq(&server.cancelled().await, &call));
    assert_over(&call, CancelReason::Client);
    assert!(!call.reply(Reply::ok(frame(b""))));
    other.reply(Reply::ok(frame(b"")));
    assert_eq!(kept.answer().await.status(), 0);
    let stats = server.transport.stats();
    assert_eq!(
        (
            stats.cancelled_by_client,
            stats.late_replies,
            stats.calls_in_flight
        ),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn a_client_that_drops_its_call_at_once_is_noticed_too() {
    let mut server = Server::start();
    let mut client = server.client().await;
    for _ in 0..20 {
        let mut pending = client.open(request(HELD), Some(frame(b""))).await;
        let call = server.call().await;
        pending.stream.send_reset(Reason::CANCEL);
        drop(pending);
        assert!(Arc::ptr_eq(&server.cancelled().await, &call));
    }
    assert_eq!(server.transport.calls_in_flight(), 0);
}

#[tokio::test]
async fn a_cancel_after_initial_metadata_is_noticed() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), Some(frame(b""))).await;
    let call = server.call().await;
    call.send_initial_metadata(http::HeaderMap::new());
    soon("headers", &mut pending.response).await.unwrap();
    pending.stream.send_reset(Reason::CANCEL);
    server.cancelled().await;
    assert_over(&call, CancelReason::Client);
}

#[tokio::test]
async fn a_cancel_in_the_middle_of_the_request_leaves_nothing_behind() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    pending
        .stream
        .send_data(Bytes::from_static(b"\0\0\0\0\x09abc"), false)
        .unwrap();
    assert_eq!(client.call(ECHO, b"").await.status(), 0);
    pending.stream.send_reset(Reason::CANCEL);
    assert_eq!(client.call(ECHO, b"").await.status(), 0);
    server.told_nothing();
    assert_eq!(server.transport.calls_in_flight(), 0);
}

#[tokio::test]
async fn a_lost_connection_ends_all_of_its_calls() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut pendings = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..5 {
        pendings.push(client.open(request(HELD), Some(frame(b""))).await);
        calls.push(server.call().await);
    }
    client.vanish().await;
    for _ in 0..5 {
        server.cancelled().await;
    }
    for call in &calls {
        assert_over(call, CancelReason::ConnectionLost);
        assert!(!call.reply(Reply::ok(frame(b""))));
    }
    server
        .until("the connection is gone", |stats| stats.connections == 0)
        .await;
    let stats = server.transport.stats();
    assert_eq!(
        (
            stats.lost_with_connection,
            stats.late_replies,
            stats.calls_in_flight
        ),
        (5, 5, 0)
    );
}

#[tokio::test]
async fn a_reply_and_a_lost_connection_may_race() {
    let mut server = Server::with_config(TransportConfig {
        network_threads: 2,
        ..TransportConfig::default()
    });
    for _ in 0..50 {
        let mut client = server.client().await;
        let mut pendings = Vec::new();
        for _ in 0..8 {
            pendings.push(client.open(request(HELD), Some(frame(b""))).await);
        }
        let mut calls = Vec::new();
        while calls.len() < 8 {
            calls.extend(server.batch().await);
        }
        let replies = std::thread::spawn(move || {
            for call in calls {
                call.reply(Reply::ok(frame(b"")));
            }
        });
        client.vanish().await;
        replies.join().unwrap();
        server
            .until("every call is over", |stats| {
                stats.calls_in_flight == 0 && stats.connections == 0
            })
            .await;
        while let Ok(told) = tokio::time::timeout(Duration::ZERO, server.told()).await {
            assert!(matches!(told, transport_support::Told::Cancelled(_)));
        }
    }
}

#[tokio::test]
async fn a_reply_and_a_deadline_may_race() {
    let mut server = Server::start();
    let mut client = server.client().await;
    for round in 0..100_u32 {
        let pending = client.open(with_timeout("2m"), Some(frame(b""))).await;
        let call = match server.told().await {
            transport_support::Told::Dispatched(mut calls) => calls.remove(0),
            told => panic!("unexpected: {told:?}"),
        };
        tokio::time::sleep(Duration::from_micros(u64::from(round * 40))).await;
        let replied = call.reply(Reply::ok(frame(b"")));
        let status = pending.answer().await.status();
        assert_eq!(status, if replied { 0 } else { 4 });
        if !replied {
            server.cancelled().await;
        }
    }
    server.told_nothing();
    assert_eq!(server.transport.calls_in_flight(), 0);
}
