//! What a connection does by the clock: slow requests, dead peers, idle and old connections; and how many there may be.

mod transport_support;

use std::time::{Duration, Instant};

use atoll_core::transport::{CancelReason, Offence, Reply, TransportConfig, frame};
use bytes::Bytes;
use h2::Reason;
use socket2::{Domain, Socket, Type};
use transport_support::frames::{ACK, FrameClient, GOAWAY, PING, Script};
use transport_support::{ECHO, HELD, Server, request, soon};

const SHORT: Duration = Duration::from_millis(100);
/// Longer than a client takes to begin a call, even on a busy machine.
const ENOUGH: Duration = Duration::from_secs(1);
/// Never, as far as a test can tell.
const LONG: Duration = Duration::from_secs(600);

fn server_with(set: impl FnOnce(&mut TransportConfig)) -> Server {
    let mut config = TransportConfig::default();
    set(&mut config);
    Server::with_config(config)
}

// Slow requests

#[tokio::test]
async fn a_request_that_stops_in_the_middle_is_answered_and_counted() {
    let mut server = server_with(|config| config.body_timeout = Some(SHORT));
    let mut client = server.client().await;
    let beginnings: [&[u8]; 3] = [b"", b"\0\0\0", b"\0\0\0\0\x05ab"];
    for beginning in beginnings {
        let mut pending = client.open(request(HELD), None).await;
        pending
            .stream
            .send_data(Bytes::copy_from_slice(beginning), false)
            .unwrap();
        let answer = pending.answer().await;
        assert_eq!(answer.status(), 4);
        assert!(
            answer.message().contains("no progress for 0.1 s"),
            "{}",
            answer.message()
        );
    }
    server.told_nothing();
    let stats = server.transport.stats();
    assert_eq!(stats.offences.get(Offence::SlowBody), 3);
    assert_eq!((stats.calls_in_flight, stats.connection_errors), (0, 0));
    assert_eq!(
        client.call(ECHO, b"").await.status(),
        0,
        "the connection lives on"
    );
}

#[tokio::test]
async fn a_request_that_trickles_is_given_up_and_one_that_is_merely_large_is_not() {
    let server = server_with(|config| config.body_timeout = Some(Duration::from_secs(2)));
    let mut client = server.client().await;
    let mut trickle = client.open(request(ECHO), None).await;
    let mut slow = client.open(request(ECHO), None).await;
    let body = frame(&vec![7; 40_000]);
    let start = Instant::now();
    let (mut sent, mut trickled) = (0, 0);
    while sent < body.len() {
        let next = trickled + 1;
        let _ = trickle.stream.send_data(body.slice(trickled..next), false);
        trickled = next;
        let end = body.len().min(sent + 2000);
        slow.stream
            .send_data(body.slice(sent..end), end == body.len())
            .unwrap();
        sent = end;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(start.elapsed() > Duration::from_secs(4));
    assert_eq!(slow.answer().await.status(), 0);
    assert_eq!(trickle.answer().await.status(), 4);
    assert_eq!(server.transport.stats().offences.get(Offence::SlowBody), 1);
}

#[tokio::test]
async fn a_call_whose_request_is_complete_may_take_as_long_as_it_likes() {
    let mut server = server_with(|config| config.body_timeout = Some(ENOUGH));
    let pending = server
        .client()
        .await
        .open(request(HELD), Some(frame(b"")))
        .await;
    let call = server.call().await;
    tokio::time::sleep(2 * ENOUGH + SHORT).await;
    assert!(call.reply(Reply::ok(frame(b"late"))));
    assert_eq!(pending.answer().await.status(), 0);
}

// Keepalive

fn pings(client: &mut FrameClient, count: usize, answered: bool) -> usize {
    let mut seen = 0;
    while seen < count {
        let Some(frame) = client.recv_any_frame() else {
            break;
        };
        if frame.kind == PING && frame.flags & ACK == 0 {
            seen += 1;
            if answered {
                client.send_frame(PING, ACK, 0, &frame.payload);
            }
        }
    }
    seen
}

#[tokio::test]
async fn a_silent_client_with_a_call_is_pinged_and_kept_while_it_answers() {
    let server = server_with(|config| {
        config.keepalive_time = Some(SHORT);
        config.keepalive_timeout = LONG;
    });
    let mut client = FrameClient::connect(server.port, &[]);
    client.play(&Script::new().call(1, HELD, b""));
    assert_eq!(pings(&mut client, 3, true), 3);
    assert_eq!(server.transport.stats().calls_in_flight, 1);
    assert_eq!(server.transport.stats().offences.total(), 0);
}

#[tokio::test]
async fn a_dead_peer_is_found_out_and_its_calls_are_over() {
    let mut server = server_with(|config| {
        config.keepalive_time = Some(SHORT);
        config.keepalive_timeout = SHORT;
    });
    let mut client = FrameClient::connect(server.port, &[]);
    client.play(&Script::new().call(1, HELD, b""));
    let call = server.call().await;
    assert_eq!(pings(&mut client, usize::MAX, false), 1, "and then the end");
    assert_eq!(call.cancelled_by(), Some(CancelReason::ConnectionLost));
    drop(client);
    server
        .until("the connection is closed", |stats| stats.connections == 0)
        .await;
    let stats = server.transport.stats();
    assert_eq!(stats.offences.get(Offence::DeadPeer), 1);
    assert_eq!((stats.calls_in_flight, stats.connection_errors), (0, 1));
}

#[tokio::test]
async fn a_client_that_says_anything_needs_no_pings() {
    let server = server_with(|config| {
        config.keepalive_time = Some(Duration::from_secs(2));
        config.keepalive_timeout = LONG;
    });
    let mut client = FrameClient::connect(server.port, &[]);
    client.play(&Script::new().call(1, HELD, b""));
    let start = Instant::now();
    let mut frames = Vec::new();
    while start.elapsed() < Duration::from_secs(3) {
        frames.extend(client.round_trip());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(frames.iter().all(|frame| frame.kind != PING), "{frames:?}");
}

#[tokio::test]
async fn a_client_without_calls_is_pinged_only_when_asked_for() {
    for asked in [false, true] {
        let server = server_with(|config| {
            config.keepalive_time = Some(SHORT);
            config.keepalive_timeout = LONG;
            config.keepalive_without_calls = asked;
        });
        let mut client = FrameClient::connect(server.port, &[]);
        if asked {
            assert_eq!(pings(&mut client, 2, true), 2);
        } else {
            tokio::time::sleep(4 * SHORT).await;
            let frames = client.round_trip();
            assert!(frames.iter().all(|frame| frame.kind != PING), "{frames:?}");
        }
    }
}

// Idle and old connections

#[tokio::test]
async fn an_idle_connection_is_asked_to_go() {
    let server = server_with(|config| config.max_connection_idle = Some(ENOUGH));
    let mut client = FrameClient::connect(server.port, &[]);
    client.play(&Script::new().call(1, ECHO, b""));
    while !client.recv_frame().expect("a reply").ends_stream() {}
    let goodbye = client.recv_frame().expect("a GOAWAY");
    assert_eq!((goodbye.kind, goodbye.error_code()), (GOAWAY, 0));
    client.read_to_end();
    drop(client);
    server
        .until("it is gone", |stats| stats.connections == 0)
        .await;
    let stats = server.transport.stats();
    assert_eq!(
        (stats.idle_connections_closed, stats.connection_errors),
        (1, 0)
    );
    assert_eq!(stats.offences.total(), 0);
}

#[tokio::test]
async fn a_connection_with_a_call_is_not_idle() {
    let mut server = server_with(|config| config.max_connection_idle = Some(ENOUGH));
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    let call = server.call().await;
    tokio::time::sleep(2 * ENOUGH).await;
    assert_eq!(server.transport.stats().idle_connections_closed, 0);
    call.reply(Reply::ok(frame(b"")));
    assert_eq!(pending.answer().await.status(), 0);
    client.closed().await;
    assert_eq!(server.transport.stats().idle_connections_closed, 1);
}

#[tokio::test]
async fn an_old_connection_is_asked_to_go_and_its_calls_finish() {
    let mut server = server_with(|config| config.max_connection_age = Some(ENOUGH));
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    let call = server.call().await;
    server
        .until("it is old", |stats| stats.aged_connections_closed == 1)
        .await;
    // It takes a moment until the client knows, and then it opens no more streams.
    let refused = async {
        loop {
            if std::future::poll_fn(|cx| client.requests.poll_ready(cx))
                .await
                .is_err()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the client's notice", refused).await;
    assert!(call.reply(Reply::ok(frame(b"done"))));
    assert_eq!(pending.answer().await.status(), 0);
    client.closed().await;
    let stats = server.transport.stats();
    assert_eq!(
        (stats.cancelled_by_shutdown, stats.offences.total()),
        (0, 0)
    );
    let mut new = server.client().await;
    assert_eq!(new.call(ECHO, b"").await.status(), 0);
}

#[tokio::test]
async fn calls_of_an_old_connection_are_answered_when_its_grace_is_over() {
    let mut server = server_with(|config| {
        config.max_connection_age = Some(ENOUGH);
        config.max_connection_age_grace = Some(SHORT);
    });
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    let call = server.call().await;
    assert_eq!(pending.answer().await.status(), 14);
    assert_eq!(call.cancelled_by(), Some(CancelReason::Shutdown));
    client.closed().await;
    server
        .until("no call is left", |stats| stats.calls_in_flight == 0)
        .await;
}

// How many connections

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once_and_those_below_are_served() {
    let server = server_with(|config| config.max_connections = 2);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = server.client().await;
        assert_eq!(client.call(ECHO, b"").await.status(), 0);
        clients.push(client);
    }
    for _ in 0..5 {
        let mut one_too_many = FrameClient::connect_silently(server.port);
        assert_eq!(one_too_many.read_bytes_to_end(), b"");
    }
    let stats = server.transport.stats();
    assert_eq!(stats.offences.get(Offence::TooManyConnections), 5);
    assert_eq!(stats.connections, 2);
    for client in &mut clients {
        assert_eq!(client.call(ECHO, b"").await.status(), 0);
    }
    clients.pop().unwrap().vanish().await;
    server
        .until("there is a place", |stats| stats.connections == 1)
        .await;
    assert_eq!(server.client().await.call(ECHO, b"").await.status(), 0);
}

/// A client of 127.0.0.`host`; only Linux has all of that network.
#[cfg(target_os = "linux")]
fn connect_from(host: u8, port: u16) -> std::net::TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let address = |host, port| std::net::SocketAddr::from(([127, 0, 0, host], port));
    socket.bind(&address(host, 0).into()).unwrap();
    socket.connect(&address(1, port).into()).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket.into()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_peer_does_not_take_the_places_of_the_others() {
    use std::io::{Read, Write};

    let server = server_with(|config| config.max_connections_per_peer = Some(2));
    let is_served = |mut socket: std::net::TcpStream| {
        let _ = socket.write_all(transport_support::frames::PREFACE);
        let mut first = [0];
        matches!(socket.read(&mut first), Ok(1)).then_some(socket)
    };
    let greedy: Vec<_> = (0..5)
        .map(|_| is_served(connect_from(2, server.port)))
        .collect();
    assert_eq!(greedy.iter().flatten().count(), 2);
    let other = is_served(connect_from(3, server.port));
    assert!(other.is_some());
    let offences = server.transport.stats().offences;
    assert_eq!(offences.get(Offence::TooManyConnectionsOfPeer), 3);
    drop(greedy);
    server
        .until("they have gone", |stats| stats.connections == 1)
        .await;
    assert!(is_served(connect_from(2, server.port)).is_some());
}

#[test]
fn times_that_are_no_limits_are_refused() {
    type Set = fn(&mut TransportConfig);
    let cases: [(&str, Set); 6] = [
        ("body_timeout", |config| {
            config.body_timeout = Some(Duration::ZERO);
        }),
        ("max_connection_idle", |config| {
            config.max_connection_idle = Some(Duration::ZERO);
        }),
        ("max_connection_age", |config| {
            config.max_connection_age = Some(Duration::ZERO);
        }),
        ("keepalive_time", |config| {
            config.keepalive_time = Some(Duration::ZERO);
        }),
        ("keepalive_timeout", |config| {
            config.keepalive_timeout = Duration::ZERO;
        }),
        ("max_connections", |config| config.max_connections = 0),
    ];
    for (field, set) in cases {
        let mut config = TransportConfig::default();
        set(&mut config);
        let error = config.validate().unwrap_err().to_string();
        assert!(
            error.starts_with(field) && error.ends_with("must be at least 1"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_client_of_h2_answers_pings_by_itself() {
    let mut server = server_with(|config| {
        config.keepalive_time = Some(Duration::from_millis(20));
        config.keepalive_timeout = Duration::from_secs(10);
    });
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), Some(frame(b""))).await;
    let call = server.call().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    pending.stream.send_reset(Reason::CANCEL);
    server.cancelled().await;
    assert_eq!(call.cancelled_by(), Some(CancelReason::Client));
    assert_eq!(server.transport.stats().offences.total(), 0);
}
