//! Sizes, windows and numbers: what is refused, and that what is allowed gets through.

mod transport_support;

use std::time::Duration;

use atoll_core::transport::{Reply, TransportConfig, frame};
use bytes::Bytes;
use transport_support::frames::{DATA, END_STREAM, FrameClient, GOAWAY, HEADERS, RST_STREAM};
use transport_support::{Client, ECHO, HELD, Server, request, soon};

fn small_windows() -> TransportConfig {
    TransportConfig {
        initial_stream_window: 16 << 10,
        initial_connection_window: 65_535,
        max_frame_size: 16 << 10,
        ..TransportConfig::default()
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_before_its_bytes_are_kept() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    // 4 MiB and one byte are announced, and none of them sent.
    pending
        .stream
        .send_data(Bytes::from_static(b"\0\x00\x40\x00\x01"), false)
        .unwrap();
    let answer = pending.answer().await;
    assert_eq!(answer.status(), 8);
    assert_eq!(
        answer.message(),
        "SERVER: Received message larger than max (4194305 vs. 4194304)"
    );
    server.told_nothing();
    assert_eq!(client.call(ECHO, b"").await.status(), 0);
}

#[tokio::test]
async fn limits_may_be_lifted_for_the_server_or_set_for_a_route() {
    let config = TransportConfig {
        max_receive_message_size: usize::MAX,
        ..TransportConfig::default()
    };
    let mut server = Server::with_routes(config, |held| {
        held.with_max_receive_message_size(10)
            .with_max_send_message_size(20)
    });
    let mut client = server.client().await;
    let large = vec![7; 5 << 20];
    assert_eq!(client.call(ECHO, &large).await.body.len(), 5 + (5 << 20));
    assert_eq!(client.call(HELD, &[0; 11]).await.status(), 8);
    for (size, status) in [(20, 0), (21, 8)] {
        let pending = client.open(request(HELD), Some(frame(&[0; 10]))).await;
        server.call().await.reply(Reply::ok(frame(&vec![0; size])));
        let answer = pending.answer().await;
        assert_eq!(answer.status(), status);
        if status == 8 {
            assert_eq!(
                answer.message(),
                "SERVER: Sent message larger than max (21 vs. 20)"
            );
            assert!(answer.is_trailers_only());
        }
    }
}

#[tokio::test]
async fn a_large_request_gets_through_small_windows() {
    let server = Server::with_config(small_windows());
    let mut client = server.client().await;
    let message: Vec<u8> = (0..3 << 20).map(|index: u32| (index % 251) as u8).collect();
    let answer = client.call(ECHO, &message).await;
    assert_eq!(answer.status(), 0);
    assert_eq!(&answer.body[5..], &message);
}

#[tokio::test]
async fn requests_return_the_connections_window_however_they_end() {
    let mut server = Server::with_config(small_windows());
    let mut client = server.client().await;
    let body = vec![0; 15 << 10];
    // Each round uses a quarter of the connection's window in each of four ways.
    for _ in 0..20 {
        assert_eq!(client.call(ECHO, &body).await.status(), 0);
        assert_eq!(client.call("/no.Such/Method", &body).await.status(), 12);
        let mut flagged = frame(&body).to_vec();
        flagged[0] = 9;
        assert_eq!(
            client
                .send(request(ECHO), Some(flagged.into()))
                .await
                .status(),
            13
        );
        let mut pending = client.open(request(HELD), None).await;
        pending
            .stream
            .send_data(frame(&body).slice(..1000), false)
            .unwrap();
        pending.stream.send_reset(h2::Reason::CANCEL);
    }
    assert_eq!(client.call(ECHO, &body).await.status(), 0);
    server.told_nothing();
}

#[tokio::test]
async fn a_large_reply_waits_for_a_slow_reader_and_holds_up_nobody_else() {
    let server = Server::start();
    // The client's own windows are 64 KiB, and it reads nothing of the first reply for a while.
    let mut client = server.client().await;
    let message = vec![3; 4 << 20];
    let slow = client.open(request(ECHO), Some(frame(&message))).await;
    let response = soon("headers", slow.response).await.unwrap();
    let mut other = server.client().await;
    assert_eq!(other.call(ECHO, b"quick").await.status(), 0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let answer = soon("the reply", transport_support::collect(response)).await;
    assert_eq!((answer.status(), answer.body.len()), (0, 5 + (4 << 20)));
}

#[tokio::test]
async fn a_reader_that_never_reads_does_not_stop_the_others_of_its_connection() {
    let server = Server::start();
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(1000)
        .initial_connection_window_size(1 << 20);
    let mut client = Client::connect(server.port, &builder).await;
    let stuck = client
        .open(request(ECHO), Some(frame(&vec![0; 100_000])))
        .await;
    let response = soon("headers", stuck.response).await.unwrap();
    for _ in 0..10 {
        assert_eq!(client.call(ECHO, b"quick").await.status(), 0);
    }
    drop(response);
}

#[test]
fn streams_over_the_limit_are_refused_and_the_others_served() {
    let server = Server::with_config(TransportConfig {
        max_concurrent_streams: 2,
        ..TransportConfig::default()
    });
    let mut client = FrameClient::connect(server.port, &[]);
    for stream in [1, 3, 5] {
        client.send_request(stream, HELD, 0, &[]);
    }
    let refused = client.recv_frame().unwrap();
    assert_eq!(
        (refused.kind, refused.stream, refused.error_code()),
        (RST_STREAM, 5, 7)
    );
    // A place is free again once a call has been answered.
    client.send_frame(DATA, END_STREAM, 1, b"");
    assert_eq!(
        client.recv_frame().map(|frame| (frame.kind, frame.stream)),
        Some((HEADERS, 1))
    );
    client.send_request(7, ECHO, 0, &[]);
    client.send_frame(DATA, END_STREAM, 7, &frame(b"hi"));
    assert_eq!(
        client.recv_frame().map(|frame| (frame.kind, frame.stream)),
        Some((HEADERS, 7))
    );
}

#[test]
fn settings_announce_the_limits() {
    let server = Server::start();
    let mut client = FrameClient::connect(server.port, &[]);
    let settings = client.recv_any_frame().unwrap().payload;
    let announced: Vec<(u16, u32)> = settings
        .chunks(6)
        .map(|entry| {
            let identifier = u16::from_be_bytes(entry[..2].try_into().unwrap());
            (
                identifier,
                u32::from_be_bytes(entry[2..].try_into().unwrap()),
            )
        })
        .collect();
    let config = TransportConfig::default();
    assert!(announced.contains(&(3, config.max_concurrent_streams)));
    assert!(announced.contains(&(4, config.initial_stream_window)));
    assert!(announced.contains(&(5, config.max_frame_size)));
    assert!(announced.contains(&(6, 2 * config.max_header_list_size)));
}

#[tokio::test]
async fn a_flood_of_requests_that_are_reset_at_once_ends_the_connection() {
    let server = Server::start();
    let mut bytes = Vec::new();
    for stream in (1..4000).step_by(2) {
        let block = transport_support::frames::header_block(HELD, &[]);
        bytes.extend(transport_support::frames::encode(
            HEADERS, 0x4, stream, &block,
        ));
        bytes.extend(transport_support::frames::encode(
            RST_STREAM,
            0,
            stream,
            &[0, 0, 0, 8],
        ));
    }
    let mut client = FrameClient::connect(server.port, &[]);
    client.send_bytes(&bytes);
    let mut last = None;
    while let Some(frame) = client.recv_any_frame() {
        last = Some(frame);
    }
    // The system may answer what the client sends after the end with a reset, and lose the GOAWAY.
    if let Some(frame) = last.filter(|frame| frame.kind == GOAWAY) {
        assert_eq!(frame.error_code(), 0xb, "ENHANCE_YOUR_CALM");
    }
    server
        .until("the connection is closed", |stats| stats.connections == 0)
        .await;
    server
        .until("no call is left", |stats| stats.calls_in_flight == 0)
        .await;
    assert_eq!(server.client().await.call(ECHO, b"").await.status(), 0);
}

#[test]
fn a_limit_that_http2_cannot_express_is_refused_with_its_bounds() {
    let config = TransportConfig {
        max_frame_size: 1000,
        ..TransportConfig::default()
    };
    let error = config.validate().unwrap_err().to_string();
    assert_eq!(
        error,
        "max_frame_size is 1000; it must be between 16384 and 16777215"
    );
    assert!(TransportConfig::default().validate().is_ok());
}
