//! Compressed messages on the wire.

mod transport_support;

use atoll_core::transport::{Code, Encoding, Reply, Sent, TransportConfig, frame};
use http::Request;
use transport_support::{HELD, Server, builder, request};

const TEXT: &[u8] = &[b'x'; 1000];

fn accepting(encodings: &str) -> Request<()> {
    builder(HELD)
        .header("grpc-accept-encoding", encodings)
        .body(())
        .unwrap()
}

fn sending(encoding: Encoding) -> Request<()> {
    builder(HELD)
        .header("grpc-encoding", encoding.name())
        .body(())
        .unwrap()
}

#[tokio::test]
async fn a_request_is_decompressed_by_whoever_asks() {
    let mut server = Server::start();
    let mut client = server.client().await;
    for encoding in [Encoding::Gzip, Encoding::Deflate] {
        for (body, flagged) in [(encoding.frame(TEXT), true), (frame(TEXT), false)] {
            let pending = client.open(sending(encoding), Some(body)).await;
            let call = server.call().await;
            let message = call.take_message();
            assert_eq!(message.is_compressed, flagged);
            assert_eq!(call.decompress(message).unwrap(), TEXT);
            call.reply(Reply::ok(frame(b"ok")));
            assert_eq!(pending.answer().await.status(), 0);
        }
    }
}

#[tokio::test]
async fn a_message_that_unfolds_beyond_the_limit_or_is_garbage_is_rejected() {
    let config = TransportConfig {
        max_receive_message_size: 500,
        ..TransportConfig::default()
    };
    let mut server = Server::with_config(config);
    let mut client = server.client().await;
    let mut garbage = frame(b"garbage").to_vec();
    garbage[0] = 1;
    for (body, code) in [
        (Encoding::Gzip.frame(TEXT), Code::ResourceExhausted),
        (garbage.into(), Code::Internal),
    ] {
        let pending = client.open(sending(Encoding::Gzip), Some(body)).await;
        let call = server.call().await;
        assert!(call.begin());
        let status = call.decompress(call.take_message()).unwrap_err();
        assert!(call.reject(status.clone()));
        assert!(!call.reject(status), "it has its answer");
        assert_eq!(pending.answer().await.status(), code.as_u8());
    }
    assert_eq!(server.transport.stats().bad_requests, 2);
    assert_eq!(server.transport.calls_in_flight(), 0);
}

#[tokio::test]
async fn a_reply_is_compressed_where_the_client_understands_it_and_its_headers_say_so() {
    let mut server = Server::start();
    let mut client = server.client().await;
    for (accepted, compressed) in [
        ("identity, gzip", true),
        ("gzip", true),
        ("identity,deflate", false),
        ("gzippy", false),
    ] {
        let pending = client.open(accepting(accepted), Some(frame(b"x"))).await;
        let call = server.call().await;
        assert!(call.compress(Encoding::Gzip));
        call.reply(Reply::ok(call.reply_encoding().frame(TEXT)));
        let answer = pending.answer().await;
        assert_eq!(answer.status(), 0);
        assert_eq!(answer.body[0], u8::from(compressed), "{accepted}");
        let header = answer.headers.get("grpc-encoding");
        assert_eq!(header.is_some_and(|it| it == "gzip"), compressed);
    }
}

#[tokio::test]
async fn a_stream_says_how_it_is_compressed_before_its_first_message() {
    let mut server = Server::with_routes(TransportConfig::default(), |held| {
        held.with_streaming(false, true)
    });
    let mut client = server.client().await;
    let pending = client.open(accepting("gzip"), Some(frame(b"x"))).await;
    let call = server.call().await;
    assert!(call.compress(Encoding::Gzip));
    assert_eq!(call.send_message(Encoding::Gzip.frame(TEXT)), Sent::Room);
    assert!(!call.compress(Encoding::Identity), "the headers are sent");
    call.reply(Reply::end());
    let answer = pending.answer().await;
    assert_eq!(answer.headers["grpc-encoding"], "gzip");
    assert_eq!(answer.body, Encoding::Gzip.frame(TEXT));
}

#[tokio::test]
async fn a_call_that_asks_for_no_compression_gets_none() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b"x"))).await;
    let call = server.call().await;
    assert!(call.compress(Encoding::Gzip));
    assert_eq!(call.reply_encoding(), Encoding::Identity);
    call.reply(Reply::ok(frame(b"y")));
    assert!(!pending.answer().await.headers.contains_key("grpc-encoding"));
}

#[tokio::test]
async fn what_is_offered_to_a_stream_leaves_its_headers_as_what_is_sent_does() {
    let mut server = Server::with_routes(TransportConfig::default(), |held| {
        held.with_streaming(false, true)
    });
    let mut client = server.client().await;
    let pending = client.open(accepting("gzip"), Some(frame(b"x"))).await;
    let call = server.call().await;
    assert!(call.compress(Encoding::Gzip));
    assert_eq!(call.offer_message(frame(b"plain"), 1000), Sent::Room);
    assert!(
        !call.send_initial_metadata(http::HeaderMap::new()),
        "the headers are sent"
    );
    call.send_message(Encoding::Gzip.frame(TEXT));
    call.reply(Reply::end());
    assert_eq!(pending.answer().await.headers["grpc-encoding"], "gzip");
}

#[tokio::test]
async fn nothing_can_be_offered_to_a_call_that_has_one_reply() {
    let mut server = Server::with_routes(TransportConfig::default(), |held| {
        held.with_streaming(true, false)
    });
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b"x"))).await;
    let call = server.call().await;
    assert_eq!(call.offer_message(frame(b"y"), 1000), Sent::Over);
    call.reply(Reply::ok(frame(b"z")));
    assert_eq!(pending.answer().await.body, frame(b"z"));
}
