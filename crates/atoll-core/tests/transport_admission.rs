//! Calls that are counted, that wait for their turn, and that are refused: `max_active_rpcs` and `maximum_concurrent_rpcs`.

mod transport_support;

use std::sync::Arc;
use std::time::Duration;

use atoll_core::transport::{
    Call, Code, Gate, MethodStats, Refused, Reply, Route, Status, TransportConfig, WhenFull, frame,
};
use bytes::Bytes;
use h2::Reason;
use http::Request;
use transport_support::{Client, ECHO, HELD, Pending, Server, builder, request};

fn gated(limit: usize, when_full: WhenFull) -> Server {
    gated_with(TransportConfig::default(), limit, when_full)
}

fn gated_with(config: TransportConfig, limit: usize, when_full: WhenFull) -> Server {
    let gate = Arc::new(Gate::new(limit));
    Server::with_routes(config, |held| held.with_gate(gate, when_full))
}

fn with_timeout(timeout: &str) -> Request<()> {
    builder(HELD)
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap()
}

async fn open(client: &mut Client, message: &[u8]) -> Pending {
    client.open(request(HELD), Some(frame(message))).await
}

/// Calls to a method that is counted with what comes before it on the connection.
async fn settle(client: &mut Client) {
    assert_eq!(client.call(ECHO, b"").await.status(), 0);
}

fn ok(call: &Arc<Call>) {
    assert!(call.begin());
    assert!(call.reply(Reply::ok(frame(b"done"))));
}

fn stats(server: &Server) -> MethodStats {
    let route = server.transport.routes().find(HELD).map(Arc::clone);
    route.expect("a route").stats()
}

fn refused(stats: &MethodStats, reason: Refused) -> u64 {
    stats.refused[reason as usize]
}

#[tokio::test]
async fn a_call_beyond_the_limit_is_refused_and_an_answer_gives_the_place_back() {
    let mut server = gated(2, WhenFull::Refuse);
    let mut client = server.client().await;
    let first = open(&mut client, b"1").await;
    let call = server.call().await;
    let second = open(&mut client, b"2").await;
    server.call().await;
    let answer = open(&mut client, b"3").await.answer().await;
    assert_eq!(answer.status(), 8);
    assert!(answer.message().contains("at most 2 calls"), "{answer:?}");
    server.told_nothing();
    ok(&call);
    assert_eq!(first.answer().await.status(), 0);
    let third = open(&mut client, b"3").await;
    ok(&server.call().await);
    assert_eq!(third.answer().await.status(), 0);
    drop(second);
    let stats = stats(&server);
    assert_eq!((stats.started, stats.in_flight()), (4, 1));
    assert_eq!((stats.finished[0], stats.finished[8]), (2, 1));
    assert_eq!(refused(&stats, Refused::MethodLimit), 1);
}

#[tokio::test]
async fn a_call_that_finds_no_place_is_refused_before_its_message_is_read() {
    let mut server = gated(1, WhenFull::Refuse);
    let mut client = server.client().await;
    let _first = open(&mut client, b"1").await;
    server.call().await;
    let mut pending = client.open(request(HELD), None).await;
    pending
        .stream
        .send_data(Bytes::from_static(b"\0\x00\x10\x00\x00"), false)
        .unwrap();
    assert_eq!(pending.answer().await.status(), 8);
}

#[tokio::test]
async fn calls_wait_for_their_turn_and_start_in_order() {
    let mut server = gated(1, WhenFull::Wait);
    let mut client = server.client().await;
    let mut pending = Vec::new();
    for number in 0..20_u8 {
        pending.push(open(&mut client, &[number]).await);
    }
    for (number, pending) in pending.into_iter().enumerate() {
        let call = server.call().await;
        server.told_nothing();
        assert_eq!(call.take_message().bytes, [number as u8][..]);
        ok(&call);
        assert_eq!(pending.answer().await.status(), 0);
    }
    assert_eq!(stats(&server).waiting, 0);
}

#[tokio::test]
async fn calls_of_several_connections_wait_in_one_row() {
    let mut server = gated(1, WhenFull::Wait);
    let (mut one, mut two) = (server.client().await, server.client().await);
    let first = open(&mut one, b"1").await;
    let call = server.call().await;
    let second = open(&mut two, b"2").await;
    settle(&mut two).await;
    let third = open(&mut one, b"3").await;
    settle(&mut one).await;
    ok(&call);
    for (message, pending) in [(b"2", second), (b"3", third)] {
        let call = server.call().await;
        assert_eq!(call.take_message().bytes, message[..]);
        ok(&call);
        assert_eq!(pending.answer().await.status(), 0);
    }
    assert_eq!(first.answer().await.status(), 0);
}

#[tokio::test]
async fn the_wait_counts_against_the_deadline_and_who_waited_in_vain_is_never_dispatched() {
    let mut server = gated(1, WhenFull::Wait);
    let mut client = server.client().await;
    let first = open(&mut client, b"1").await;
    let call = server.call().await;
    let pending = client.open(with_timeout("30m"), Some(frame(b"2"))).await;
    assert_eq!(pending.answer().await.status(), 4);
    ok(&call);
    assert_eq!(first.answer().await.status(), 0);
    settle(&mut client).await;
    server.told_nothing();
    let stats = stats(&server);
    assert_eq!((stats.in_flight(), stats.waiting), (0, 0));
    assert_eq!((stats.finished[0], stats.finished[4]), (1, 1));
    assert_eq!(refused(&stats, Refused::Deadline), 1);
}

#[tokio::test]
async fn a_client_that_goes_leaves_the_row() {
    let mut server = gated(1, WhenFull::Wait);
    let (mut client, mut other) = (server.client().await, server.client().await);
    let first = open(&mut client, b"1").await;
    let call = server.call().await;
    let mut second = open(&mut client, b"2").await;
    let _third = open(&mut other, b"3").await;
    settle(&mut other).await;
    let fourth = open(&mut client, b"4").await;
    settle(&mut client).await;
    assert_eq!(stats(&server).waiting, 3);
    second.stream.send_reset(Reason::CANCEL);
    other.vanish().await;
    server
        .until("both have gone", |stats| {
            (stats.cancelled_by_client, stats.lost_with_connection) == (1, 1)
        })
        .await;
    ok(&call);
    assert_eq!(first.answer().await.status(), 0);
    let call = server.call().await;
    assert_eq!(call.take_message().bytes, "4");
    ok(&call);
    assert_eq!(fourth.answer().await.status(), 0);
    assert_eq!(refused(&stats(&server), Refused::Client), 2);
}

#[tokio::test]
async fn the_place_of_a_handler_that_runs_on_is_free_when_it_has_been_told() {
    let mut server = gated(1, WhenFull::Wait);
    let mut client = server.client().await;
    let pending = client.open(with_timeout("30m"), Some(frame(b"1"))).await;
    let call = server.call().await;
    assert!(call.begin());
    let second = open(&mut client, b"2").await;
    assert_eq!(pending.answer().await.status(), 4);
    assert!(Arc::ptr_eq(&server.cancelled().await, &call));
    settle(&mut client).await;
    server.told_nothing();
    assert!(call.holds_place());
    call.release();
    assert!(!call.holds_place());
    ok(&server.call().await);
    assert_eq!(second.answer().await.status(), 0);
    call.release();
    assert_eq!(stats(&server).in_flight(), 0);
}

#[tokio::test]
async fn a_handler_that_is_never_told_gives_its_place_back_when_nobody_holds_its_call() {
    let mut server = gated(1, WhenFull::Wait);
    let mut client = server.client().await;
    let pending = client.open(with_timeout("30m"), Some(frame(b"1"))).await;
    let call = server.call().await;
    assert!(call.begin());
    let second = open(&mut client, b"2").await;
    assert_eq!(pending.answer().await.status(), 4);
    drop((call, server.cancelled().await));
    ok(&server.call().await);
    assert_eq!(second.answer().await.status(), 0);
}

#[tokio::test]
async fn a_lost_connection_gives_the_places_of_calls_back_that_no_handler_has_begun() {
    let mut server = gated(1, WhenFull::Refuse);
    let mut client = server.client().await;
    let _first = open(&mut client, b"1").await;
    server.call().await;
    client.vanish().await;
    server.cancelled().await;
    let mut client = server.client().await;
    let second = open(&mut client, b"2").await;
    ok(&server.call().await);
    assert_eq!(second.answer().await.status(), 0);
}

#[tokio::test]
async fn what_waits_is_bounded_in_bytes_per_connection_and_per_server() {
    let config = TransportConfig {
        max_waiting_bytes_per_connection: 1000,
        max_waiting_bytes: 1500,
        ..TransportConfig::default()
    };
    let mut server = gated_with(config, 1, WhenFull::Wait);
    let (mut one, mut two) = (server.client().await, server.client().await);
    let _running = open(&mut one, b"running").await;
    let call = server.call().await;
    let _waits = open(&mut one, &[0; 900]).await;
    settle(&mut one).await;
    let answer = open(&mut one, &[0; 101]).await.answer().await;
    assert_eq!(answer.status(), 8);
    assert!(answer.message().contains("max_waiting_bytes"), "{answer:?}");
    let fits = open(&mut two, &[0; 600]).await;
    settle(&mut two).await;
    assert_eq!(open(&mut two, &[0; 1]).await.answer().await.status(), 8);
    assert_eq!(refused(&stats(&server), Refused::WaitingFull), 2);
    // Who stops waiting makes room.
    ok(&call);
    let call = server.call().await;
    let more = open(&mut two, &[0; 1]).await;
    settle(&mut two).await;
    ok(&call);
    ok(&server.call().await);
    ok(&server.call().await);
    assert_eq!(fits.answer().await.status(), 0);
    assert_eq!(more.answer().await.status(), 0);
}

#[tokio::test]
async fn half_of_a_connections_streams_may_wait() {
    let config = TransportConfig {
        max_concurrent_streams: 8,
        ..TransportConfig::default()
    };
    let mut server = gated_with(config, 1, WhenFull::Wait);
    let mut client = server.client().await;
    let _running = open(&mut client, b"").await;
    server.call().await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(open(&mut client, b"").await);
    }
    assert_eq!(open(&mut client, b"").await.answer().await.status(), 8);
    assert_eq!(client.call(ECHO, b"heartbeat").await.status(), 0);
}

#[tokio::test]
async fn a_call_that_streams_its_request_counts_as_what_its_client_may_send_meanwhile() {
    let config = TransportConfig::default();
    let two_windows = 2 * config.initial_stream_window as usize;
    assert_eq!(config.max_waiting_bytes_per_connection, two_windows);
    let gate = Arc::new(Gate::new(1));
    let mut server = Server::with_routes(config, |held: Route| {
        held.with_gate(gate, WhenFull::Wait)
            .with_streaming(true, false)
    });
    let mut client = server.client().await;
    let _running = client.open(request(HELD), None).await;
    server.call().await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(client.open(request(HELD), None).await);
    }
    let refused = client.open(request(HELD), None).await;
    assert_eq!(refused.answer().await.status(), 8);
}

#[tokio::test]
async fn the_servers_limit_is_over_all_methods_and_told_in_grpcios_words() {
    let config = TransportConfig {
        max_concurrent_calls: Some(1),
        ..TransportConfig::default()
    };
    let mut server = Server::with_config(config);
    let mut client = server.client().await;
    let first = open(&mut client, b"").await;
    let call = server.call().await;
    let answer = client.call(ECHO, b"").await;
    let told = (answer.status(), answer.message());
    assert_eq!(told, (8, "Concurrent RPC limit exceeded!"));
    ok(&call);
    assert_eq!(first.answer().await.status(), 0);
    assert_eq!(client.call(ECHO, b"").await.status(), 0);
}

#[tokio::test]
async fn a_target_that_refuses_everybody_empties_a_long_row() {
    let config = TransportConfig {
        max_concurrent_streams: 20_000,
        ..TransportConfig::default()
    };
    let mut server = gated_with(config, 1, WhenFull::Wait);
    let mut client = server.client().await;
    let first = open(&mut client, b"").await;
    let call = server.call().await;
    let mut waiting = Vec::new();
    for _ in 0..5_000 {
        waiting.push(open(&mut client, b"").await);
    }
    // As a loop does that has been closed: answers whatever it is handed, at once.
    let refusing = tokio::spawn(async move {
        for _ in 0..5_000 {
            server
                .call()
                .await
                .refuse(Status::new(Code::Unavailable, "closed"));
        }
        server
    });
    ok(&call);
    let server = refusing.await.unwrap();
    for pending in waiting {
        assert_eq!(pending.answer().await.status(), 14);
    }
    assert_eq!(first.answer().await.status(), 0);
    assert_eq!(stats(&server).in_flight(), 0);
}

#[tokio::test]
async fn a_shutdown_answers_those_who_wait() {
    let mut server = gated(1, WhenFull::Wait);
    let mut client = server.client().await;
    let first = open(&mut client, b"1").await;
    server.call().await;
    let second = open(&mut client, b"2").await;
    settle(&mut client).await;
    server
        .transport
        .shutdown(Some(Duration::ZERO), Box::new(|| ()));
    assert_eq!(first.answer().await.status(), 14);
    assert_eq!(second.answer().await.status(), 14);
    server.cancelled().await;
    server.transport.join();
    server.told_nothing();
    let stats = stats(&server);
    assert_eq!(stats.in_flight(), 0);
    assert_eq!(refused(&stats, Refused::Shutdown), 2);
}

#[tokio::test]
async fn bytes_are_counted_both_ways() {
    let server = Server::start();
    let mut client = server.client().await;
    client.call(ECHO, &[0; 1000]).await;
    let route = Arc::clone(server.transport.routes().find(ECHO).unwrap());
    let stats = route.stats();
    assert_eq!((stats.bytes_received, stats.bytes_sent), (1000, 1005));
}
