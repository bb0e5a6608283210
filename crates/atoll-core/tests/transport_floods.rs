//! Floods of frames that ask for nothing: each ends its connection with a reason, is counted, and harms nobody else. And what
//! real clients send is no flood.

mod transport_support;

use std::io::{ErrorKind, Write};
use std::time::Duration;

use atoll_core::transport::{FrameLimit, Offence, Received, TransportConfig, frame};
use bytes::Bytes;
use transport_support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FrameClient, HEADERS,
    PING, PROTOCOL_ERROR, RST_STREAM, SETTINGS, Script, header_block,
};
use transport_support::{Client, ECHO, HELD, Server, request};

/// No second chance while a test runs.
const NEVER: Duration = Duration::from_secs(3600);

fn at_most(burst: u32) -> FrameLimit {
    FrameLimit::new(burst, NEVER)
}

/// The server reads on after its GOAWAY, so that the GOAWAY is not lost, however slow the machine is.
fn patient() -> TransportConfig {
    TransportConfig {
        close_timeout: Duration::from_secs(10),
        ..TransportConfig::default()
    }
}

/// The connection of a client that has called [`HELD`] on stream 1, so that there is a call to lose.
fn connect_with_a_call(server: &Server) -> FrameClient {
    let mut client = FrameClient::connect(server.port, &[]);
    client.play(&Script::new().call(1, HELD, b""));
    client.round_trip();
    client
}

/// The connection ended for this offence and no other, no call is left, and other clients are served.
async fn assert_harmless(server: &Server, client: FrameClient, offence: Offence) {
    drop(client);
    server
        .until("no call is left", |stats| stats.calls_in_flight == 0)
        .await;
    server
        .until("the offence is counted", |stats| {
            stats.offences.get(offence) == 1
        })
        .await;
    server
        .until("the connection is an error", |stats| {
            stats.connection_errors == 1
        })
        .await;
    assert_eq!(server.transport.stats().offences.total(), 1);
    let notes = server.transport.offences();
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].offence, offence);
    assert!(notes[0].peer.starts_with("ipv4:127.0.0.1:"), "{notes:?}");
    let answer = server.client().await.call(ECHO, b"still here").await;
    assert_eq!(
        (answer.status(), &answer.body[5..]),
        (0, &b"still here"[..])
    );
}

#[tokio::test]
async fn each_flood_ends_its_connection_at_its_limit_and_says_so() {
    let with = |set: fn(&mut TransportConfig)| {
        let mut config = patient();
        set(&mut config);
        config
    };
    let cases = [
        (
            Offence::PingFlood,
            // One for each round trip of the set-up.
            with(|config| config.pings = at_most(11)),
            Script::new().ping(),
            "too_many_pings",
        ),
        (
            Offence::SettingsFlood,
            // The client's greeting is one.
            with(|config| config.settings = at_most(11)),
            Script::new().settings(&[(4, 70_000)]),
            "settings_flood",
        ),
        (
            Offence::WindowUpdateFlood,
            with(|config| config.window_updates = at_most(10)),
            Script::new().window_update(0, 1),
            "window_update_flood",
        ),
        (
            Offence::StrayFrameFlood,
            with(|config| config.stray_frames = at_most(10)),
            Script::new().priority(3),
            "stray_frame_flood",
        ),
        (
            Offence::StrayFrameFlood,
            with(|config| config.stray_frames = at_most(10)),
            Script::new().frame(0xee, 0xff, 77, b"unknown"),
            "stray_frame_flood",
        ),
        (
            Offence::StrayFrameFlood,
            with(|config| config.stray_frames = at_most(10)),
            Script::new().pong(),
            "stray_frame_flood",
        ),
    ];
    for (offence, config, frames, words) in cases {
        let server = Server::with_config(config);
        let mut client = connect_with_a_call(&server);
        client.play(&frames.repeated(10));
        client.play(&frames);
        let farewell = client.farewell().expect("a GOAWAY");
        assert_eq!(farewell.reason, ENHANCE_YOUR_CALM, "{offence:?}");
        assert_eq!((farewell.words.as_str(), farewell.last_stream), (words, 1));
        assert_harmless(&server, client, offence).await;
    }
}

#[test]
fn what_is_within_the_limits_is_answered() {
    let server = Server::with_config(TransportConfig {
        pings: at_most(10),
        settings: at_most(11),
        ..patient()
    });
    let mut client = FrameClient::connect(server.port, &[]);
    client.play(&Script::new().ping().settings(&[]).repeated(9));
    client.play(&Script::new().settings(&[]));
    let others = client.round_trip();
    // The pongs before the last were taken for the round trip's own.
    let acknowledged = others.iter().filter(|frame| frame.kind == SETTINGS).count();
    assert!(acknowledged >= 1);
    assert_eq!(server.transport.stats().offences.total(), 0);
}

#[test]
fn a_flood_is_stopped_at_its_first_frame_too_many_whatever_way_it_is_cut() {
    for cut in 1..17 {
        let server = Server::with_config(TransportConfig {
            pings: at_most(3),
            ..patient()
        });
        let mut client = FrameClient::connect(server.port, &[]);
        client.socket().set_nodelay(true).unwrap();
        client.play(&Script::new().ping().repeated(3));
        let last = transport_support::frames::encode(PING, 0, 0, b"too many");
        client.send_bytes(&last[..cut]);
        std::thread::sleep(Duration::from_millis(3));
        client.send_bytes(&last[cut..]);
        let mut pongs = 0;
        let mut words = None;
        while let Some(frame) = client.recv_any_frame() {
            pongs += usize::from(frame.kind == PING);
            words = (frame.kind == 0x7).then(|| frame.farewell().words);
        }
        assert_eq!((pongs, words.as_deref()), (3, Some("too_many_pings")));
    }
}

#[tokio::test]
async fn a_ping_for_each_reply_goes_on_for_ever() {
    // Clients measure bandwidth so. One is in store, and time earns none.
    let server = Server::with_config(TransportConfig {
        pings: at_most(2),
        window_updates: at_most(2),
        ..patient()
    });
    let mut client = FrameClient::connect(server.port, &[]);
    for stream in (1..1000).step_by(2) {
        client.play(&Script::new().call(stream, ECHO, b"some data"));
        while !client.recv_frame().expect("a reply").ends_stream() {}
        client.play(&Script::new().window_update(0, 9).window_update(stream, 9));
        client.round_trip();
    }
    assert_eq!(server.transport.stats().offences.total(), 0);
}

#[tokio::test]
async fn a_client_of_h2_with_small_windows_is_never_taken_for_a_flood() {
    let server = Server::start();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1000);
    let mut client = Client::connect(server.port, &builder).await;
    let message = vec![7; 3 << 20];
    for _ in 0..3 {
        let answer = client.call(ECHO, &message).await;
        assert_eq!((answer.status(), answer.body.len()), (0, 5 + message.len()));
    }
    for _ in 0..3000 {
        assert_eq!(client.call(ECHO, b"x").await.status(), 0);
    }
    assert_eq!(server.transport.stats().offences.total(), 0);
}

// Resets

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_are_limited() {
    let server = Server::with_config(TransportConfig {
        resets: at_most(20),
        ..patient()
    });
    let mut client = FrameClient::connect(server.port, &[]);
    for stream in 0..20 {
        let stream = 2 * stream + 1;
        client.play(&Script::new().call(stream, HELD, b"").reset(stream));
        // A ping between two keeps them from waiting together, which h2 would limit.
        client.round_trip();
    }
    client.play(&Script::new().call(41, HELD, b"").reset(41));
    let farewell = client.farewell().expect("a GOAWAY");
    assert_eq!(farewell.reason, ENHANCE_YOUR_CALM);
    assert_eq!(
        (farewell.words.as_str(), farewell.last_stream),
        ("reset_flood", 41)
    );
    assert_harmless(&server, client, Offence::ResetFlood).await;
}

#[tokio::test]
async fn a_flood_of_requests_that_are_reset_before_they_are_looked_at_is_one_too() {
    let server = Server::with_config(patient());
    let mut script = Script::new();
    for stream in (1..4000).step_by(2) {
        script = script.request(stream, HELD).reset(stream);
    }
    let mut client = FrameClient::connect(server.port, &[]);
    client.play(&script);
    let farewell = client.farewell().expect("a GOAWAY");
    assert_eq!(
        (farewell.reason, farewell.words.as_str()),
        (ENHANCE_YOUR_CALM, "too_many_resets")
    );
    assert_harmless(&server, client, Offence::ResetFlood).await;
}

#[tokio::test]
async fn a_call_that_is_given_up_after_a_while_is_no_flood() {
    let server = Server::with_config(TransportConfig {
        resets: at_most(1),
        ..patient()
    });
    let mut client = FrameClient::connect(server.port, &[]);
    let streams = || (1..200).step_by(2);
    for stream in streams() {
        client.play(&Script::new().call(stream, HELD, b""));
    }
    client.round_trip();
    // Streams ripen by the clock.
    tokio::time::sleep(Duration::from_millis(250)).await;
    for stream in streams() {
        client.play(&Script::new().reset(stream));
    }
    client.round_trip();
    server
        .until("all are cancelled", |stats| {
            stats.cancelled_by_client == 100
        })
        .await;
    assert_eq!(server.transport.stats().offences.total(), 0);
}

#[tokio::test]
async fn each_reply_earns_a_reset() {
    let server = Server::with_config(TransportConfig {
        resets: at_most(1),
        ..patient()
    });
    let mut client = FrameClient::connect(server.port, &[]);
    for stream in (1..400).step_by(4) {
        client.play(&Script::new().call(stream, HELD, b"").reset(stream));
        client.play(&Script::new().call(stream + 2, ECHO, b""));
        while !client.recv_frame().expect("a reply").ends_stream() {}
    }
    assert_eq!(server.transport.stats().offences.total(), 0);
}

// What h2 limits

#[tokio::test]
async fn a_header_block_in_too_many_pieces_is_a_flood() {
    let server = Server::with_config(patient());
    let mut client = connect_with_a_call(&server);
    let script = Script::new()
        .frame(HEADERS, 0, 3, &header_block(ECHO, &[]))
        .then(&Script::new().frame(CONTINUATION, 0, 3, b"").repeated(100));
    client.play(&script);
    let farewell = client.farewell().expect("a GOAWAY");
    assert_eq!(
        (farewell.reason, farewell.words.as_str()),
        (ENHANCE_YOUR_CALM, "too_many_continuations")
    );
    assert_harmless(&server, client, Offence::ContinuationFlood).await;
}

#[tokio::test]
async fn a_header_block_in_a_few_pieces_is_a_request() {
    let server = Server::start();
    let mut client = FrameClient::connect(server.port, &[]);
    let block = header_block(ECHO, &[]);
    let (one, two) = block.split_at(20);
    let script = Script::new()
        .frame(HEADERS, 0, 1, one)
        .frame(CONTINUATION, 0, 1, b"")
        .frame(CONTINUATION, END_HEADERS, 1, two)
        .last_data(1, &frame(b"x"));
    client.play(&script);
    assert_eq!(client.recv_frame().unwrap().kind, HEADERS);
    assert_eq!(client.recv_frame().unwrap().payload, &frame(b"x")[..]);
}

#[tokio::test]
async fn headers_that_unpack_to_far_more_than_they_are_are_a_flood() {
    let server = Server::with_config(patient());
    let mut client = connect_with_a_call(&server);
    let mut block = header_block(ECHO, &[]);
    // A literal of 3,127 bytes that the decoder remembers (RFC 7541, section 6.2.1), and 100 times a byte that refers to it.
    block.extend_from_slice(b"\x40\x01x\x7f\xb8\x17");
    block.extend_from_slice(&[b'v'; 127 + 0x38 + (0x17 << 7)]);
    block.extend_from_slice(&[0xbe; 100]);
    client.play(&Script::new().frame(HEADERS, END_HEADERS, 3, &block));
    let farewell = client.farewell().expect("a GOAWAY");
    assert_eq!(
        (farewell.reason, farewell.words.as_str()),
        (ENHANCE_YOUR_CALM, "header_list_way_too_large")
    );
    assert_harmless(&server, client, Offence::HeaderFlood).await;
}

#[tokio::test]
async fn empty_data_frames_are_a_flood() {
    let server = Server::with_config(patient());
    let mut client = connect_with_a_call(&server);
    client.play(&Script::new().request(3, HELD));
    client.play(&Script::new().data(3, b"").repeated(101));
    let farewell = client.farewell().expect("a GOAWAY");
    assert_eq!(
        (farewell.reason, farewell.words.as_str()),
        (ENHANCE_YOUR_CALM, "too_many_data_frames")
    );
    assert_harmless(&server, client, Offence::SmallFrameFlood).await;
}

#[tokio::test]
async fn a_message_in_a_hundred_thousand_frames_is_only_slow() {
    let server = Server::with_config(patient());
    let mut client = FrameClient::connect(server.port, &[(4, 1 << 20)]);
    let body = frame(&vec![9; 100_000]);
    let mut script = Script::new().window_update(0, 1 << 20).request(1, ECHO);
    for byte in body.chunks(1) {
        script = script.data(1, byte);
    }
    // Most of it is in the socket before the first of it is looked at.
    client.play(&script.last_data(1, b""));
    let mut received = 0;
    loop {
        let frame = client.recv_frame().expect("a reply");
        if frame.kind == DATA {
            received += frame.payload.len();
        }
        if frame.ends_stream() {
            break;
        }
    }
    assert_eq!(received, body.len());
    assert_eq!(server.transport.stats().offences.total(), 0);
}

#[tokio::test]
async fn errors_on_streams_are_limited() {
    let server = Server::with_config(TransportConfig {
        max_stream_errors: 10,
        max_concurrent_streams: 1,
        ..patient()
    });
    let mut client = connect_with_a_call(&server);
    for stream in (3..50).step_by(2) {
        client.play(&Script::new().request(stream, ECHO));
    }
    let farewell = client.farewell().expect("a GOAWAY");
    assert_eq!(
        (farewell.reason, farewell.words.as_str()),
        (ENHANCE_YOUR_CALM, "too_many_internal_resets")
    );
    assert_harmless(&server, client, Offence::StreamErrorFlood).await;
}

#[tokio::test]
async fn requests_that_are_refused_before_their_end_are_no_errors_of_their_streams() {
    let server = Server::with_config(TransportConfig {
        max_stream_errors: 10,
        ..patient()
    });
    let mut client = server.client().await;
    for _ in 0..200 {
        let mut pending = client.open(request("/no.Such/Method"), None).await;
        pending
            .stream
            .send_data(Bytes::from_static(b"some"), false)
            .unwrap();
        assert_eq!(pending.answer().await.status(), 12);
    }
    assert_eq!(client.call(ECHO, b"").await.status(), 0);
    assert_eq!(server.transport.stats().offences.total(), 0);
}

#[tokio::test]
async fn a_broken_protocol_is_counted_as_such() {
    let server = Server::with_config(patient());
    let mut client = connect_with_a_call(&server);
    client.play(&Script::new().data(0, b"of no stream"));
    assert_eq!(client.farewell().expect("a GOAWAY").reason, PROTOCOL_ERROR);
    assert_harmless(&server, client, Offence::ProtocolError).await;
}

// Clients that do not read

/// Sends until the server takes no more for a while, or closes; how much it took.
fn send_until_stuck(client: &FrameClient, bytes: &[u8], most: usize) -> usize {
    let mut socket = client.socket();
    socket
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut sent = 0;
    while sent < most {
        match socket.write(bytes) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    sent
}

#[tokio::test]
async fn a_client_that_never_reads_its_pongs_is_not_read_either() {
    let server = Server::with_config(TransportConfig {
        pings: FrameLimit::UNLIMITED,
        ..TransportConfig::default()
    });
    let client = FrameClient::connect(server.port, &[]);
    let most = 256 << 20;
    let pings = transport_support::frames::encode(PING, 0, 0, b"pingping").repeat(1000);
    let sent = send_until_stuck(&client, &pings, most);
    assert!(sent < most, "the server took {sent} bytes of pings");
    drop(client);
    server
        .until("the connection is closed", |stats| stats.connections == 0)
        .await;
}

#[test]
fn frames_have_their_numbers() {
    // A slip in the kit would make the tests above prove nothing.
    assert_eq!([DATA, HEADERS, RST_STREAM, SETTINGS, PING], [0, 1, 3, 4, 6]);
    assert_eq!([END_STREAM, END_HEADERS], [1, 4]);
}

#[tokio::test]
async fn small_messages_to_a_handler_that_does_not_read_are_no_flood() {
    let mut server = Server::with_routes(patient(), |held| held.with_streaming(true, true));
    let mut client = FrameClient::connect(server.port, &[]);
    // The server's window is valid once its settings are acknowledged.
    client.send_frame(SETTINGS, ACK, 0, &[]);
    let message = frame(b"ten bytes.");
    let script = Script::new().request(1, HELD);
    let messages = Script::new().data(1, &message).repeated(100_000);
    client.play(&script.then(&messages).last_data(1, b""));
    let call = server.call().await;
    assert!(call.begin());
    client.round_trip();
    let mut received = 0;
    loop {
        match call.receive() {
            Received::Message(message) => {
                assert_eq!(message.bytes, "ten bytes.");
                received += 1;
            }
            Received::Nothing => server.progress_of(&call).await,
            Received::End => break,
            Received::Over => panic!("after {received}: {:?}", server.transport.stats()),
        }
    }
    assert_eq!(received, 100_000);
    assert_eq!(server.transport.stats().offences.total(), 0);
}
