//! Other protocols on a gRPC port: each gets an answer that it understands, or none, and is counted.

mod transport_support;

use std::time::Duration;

use atoll_core::transport::{Offence, TransportConfig};
use transport_support::frames::{FrameClient, PREFACE, SETTINGS, Script};
use transport_support::{ECHO, Server};

/// Sends `bytes` and gives all that the server answers until it closes.
fn answer_to(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut client = FrameClient::connect_silently(server.port);
    client.send_bytes(bytes);
    client.read_bytes_to_end()
}

fn http_answer_to(server: &Server, request: &str) -> String {
    String::from_utf8(answer_to(server, request.as_bytes())).expect("text")
}

/// What OpenSSL sends first, without its end.
const CLIENT_HELLO: [u8; 11] = [
    0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03,
];

#[tokio::test]
async fn a_liveness_probe_over_http1_is_answered() {
    let server = Server::start();
    let answer = http_answer_to(
        &server,
        "GET /livez HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.ends_with("content-length: 3\r\n\r\nok\n"),
        "{answer}"
    );
    let answer = http_answer_to(&server, "HEAD /livez?verbose HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("content-length: 3\r\n\r\n"), "{answer}");
    server
        .until("both are gone", |stats| stats.connections == 0)
        .await;
    let stats = server.transport.stats();
    assert_eq!((stats.offences.total(), stats.connection_errors), (0, 0));
}

#[tokio::test]
async fn other_requests_of_http1_are_told_what_this_port_is_for() {
    let server = Server::start();
    let long = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(20_000));
    let requests = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /livez HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi",
        "PUT /package.Service/Method HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\n\r\n",
        // With the upgrade that browsers and old curls try.
        "GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        &long,
    ];
    for request in requests {
        let answer = http_answer_to(&server, request);
        assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
        assert!(answer.contains("This is a gRPC port"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    server
        .until("all are counted", |stats| stats.connection_errors == 6)
        .await;
    assert_eq!(server.transport.stats().offences.get(Offence::Http1), 6);
    assert_eq!(server.client().await.call(ECHO, b"").await.status(), 0);
}

#[tokio::test]
async fn a_tls_client_gets_an_alert_and_the_operator_a_note() {
    let server = Server::start();
    for _ in 0..3 {
        assert_eq!(
            answer_to(&server, &CLIENT_HELLO),
            [0x15, 0x03, 0x01, 0, 2, 2, 40],
            "a fatal alert"
        );
    }
    server
        .until("all are counted", |stats| stats.connection_errors == 3)
        .await;
    assert_eq!(server.transport.stats().offences.get(Offence::Tls), 3);
    let notes = server.transport.offences();
    assert_eq!(notes[0].offence, Offence::Tls);
    assert!(notes[0].peer.starts_with("ipv4:127.0.0.1:"));
    let seen: u64 = notes.iter().map(|note| 1 + note.repeated).sum();
    assert_eq!(seen, 3);
    assert_eq!(server.client().await.call(ECHO, b"").await.status(), 0);
}

#[tokio::test]
async fn what_is_no_protocol_at_all_is_closed_without_an_answer() {
    let server = Server::start();
    let peers: [&[u8]; 6] = [
        &[0xff; 64],
        b"\x16\x02\x00\x00",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n",
        b"GET /\r\n\r\n",
        b"HELO mail.example\r\n\r\n",
        // Frames without a preface.
        b"\0\0\0\x04\0\0\0\0\0",
    ];
    for greeting in peers {
        assert_eq!(answer_to(&server, greeting), b"", "{greeting:?}");
    }
    server
        .until("all are counted", |stats| stats.connection_errors == 6)
        .await;
    let offences = server.transport.stats().offences;
    assert_eq!(
        (offences.get(Offence::UnknownProtocol), offences.total()),
        (6, 6)
    );
}

#[tokio::test]
async fn a_preface_that_goes_on_in_its_own_way_is_an_error() {
    let server = Server::start();
    answer_to(&server, b"PRI * HTTP/1.0\r\n\r\nxx and some more");
    server
        .until("it is counted", |stats| {
            stats.offences.get(Offence::ProtocolError) == 1
        })
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_before_it_has_said_anything_is_no_offence() {
    let server = Server::start();
    for greeting in [&b""[..], b"P", b"\x16", b"GET / HTT"] {
        FrameClient::connect_silently(server.port).send_bytes(greeting);
    }
    server
        .until("all have gone", |stats| {
            stats.connections == 0 && stats.connection_errors == 4
        })
        .await;
    // What was said of HTTP/1 was no request.
    let offences = server.transport.stats().offences;
    assert_eq!(offences.total(), offences.get(Offence::UnknownProtocol));
}

#[test]
fn a_preface_may_come_in_single_bytes() {
    let server = Server::start();
    let mut client = FrameClient::connect_silently(server.port);
    for byte in PREFACE {
        client.send_bytes(&[*byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    client.play(&Script::new().settings(&[]));
    assert_eq!(client.recv_any_frame().expect("settings").kind, SETTINGS);
    client.round_trip();
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_ended() {
    let server = Server::with_config(TransportConfig {
        handshake_timeout: Duration::from_millis(50),
        ..TransportConfig::default()
    });
    let unfinished: [&[u8]; 5] = [
        b"",
        &PREFACE[..2],
        &PREFACE[..20],
        b"GET /livez HTTP/1.1\r\n",
        b"\x16",
    ];
    for greeting in unfinished {
        answer_to(&server, greeting);
    }
    server
        .until("all are closed", |stats| stats.connections == 0)
        .await;
    let stats = server.transport.stats();
    assert_eq!(stats.offences.get(Offence::SlowHandshake), 5);
    assert_eq!((stats.offences.total(), stats.connection_errors), (5, 5));
}
