//! Headers as hostile clients send them: too many, too long, not text, not HTTP/2. What HTTP/2 allows reaches the handler as
//! bytes; the rest costs the client its stream or its connection, and never a call that is left over.

mod transport_support;

use atoll_core::transport::{Offence, Reply, frame, metadata};
use transport_support::frames::{
    END_HEADERS, FrameClient, HEADERS, PROTOCOL_ERROR, RST_STREAM, Script, header_block, literal,
};
use transport_support::{ECHO, HELD, Server, builder, request};

/// The usual headers of a request, and literals of any bytes.
fn block(path: &str, more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = header_block(path, &[]);
    for (name, value) in more {
        block.extend(literal(name, value));
    }
    block
}

fn call_with(stream: u32, path: &str, more: &[(&[u8], &[u8])]) -> Script {
    Script::new()
        .frame(HEADERS, END_HEADERS, stream, &block(path, more))
        .last_data(stream, &frame(b""))
}

#[tokio::test]
async fn values_that_are_no_utf8_arrive_as_they_are() {
    let mut server = Server::start();
    let mut client = FrameClient::connect(server.port, &[]);
    let latin = b"caf\xe9 \xff\xfe\x80";
    client.play(&call_with(
        1,
        HELD,
        &[(b"x-latin", latin), (b"x-bytes-bin", b"/w")],
    ));
    let call = server.call().await;
    let seen: Vec<_> = metadata::application_view(call.metadata())
        .map(|(name, value)| (name.to_owned(), value.into_owned()))
        .collect();
    assert!(
        seen.contains(&("x-latin".to_owned(), latin.to_vec())),
        "{seen:?}"
    );
    assert!(
        seen.contains(&("x-bytes-bin".to_owned(), vec![0xff])),
        "{seen:?}"
    );
    assert!(call.reply(Reply::ok(frame(b""))));
    client.round_trip();
}

#[tokio::test]
async fn headers_that_http2_forbids_cost_their_stream_or_their_connection() {
    type Header = (&'static [u8], &'static [u8]);
    let forbidden: [&[Header]; 12] = [
        &[(b"X-Upper", b"v")],
        &[(b"", b"v")],
        &[(b"sp ace", b"v")],
        &[(b"na\xefve", b"v")],
        &[(b"x", b"line\nbreak")],
        &[(b"x", b"re\rturn")],
        &[(b"x", b"nu\0l")],
        &[(b"connection", b"close")],
        &[(b"transfer-encoding", b"chunked")],
        &[(b"te", b"gzip")],
        &[(b":path", b"/again")],
        &[(b":unknown", b"v")],
    ];
    for headers in forbidden {
        let mut server = Server::start();
        let mut client = FrameClient::connect(server.port, &[]);
        client.play(&call_with(1, HELD, headers));
        let answer = client.recv_frame().expect("a reset or a GOAWAY");
        assert!(
            [RST_STREAM, 0x7].contains(&answer.kind),
            "{headers:?}: {answer:?}"
        );
        assert_ne!(answer.error_code(), 0, "{headers:?}");
        server.told_nothing();
        drop(client);
        server
            .until("it is gone", |stats| stats.connections == 0)
            .await;
        assert_eq!(server.transport.calls_in_flight(), 0);
        assert_eq!(server.client().await.call(ECHO, b"").await.status(), 0);
    }
}

#[tokio::test]
async fn requests_without_what_http2_demands_are_malformed() {
    let pseudo: [(&[u8], &[u8]); 4] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/test.Service/Held"),
        (b":authority", b"test.example"),
    ];
    for left_out in [0, 1, 2] {
        let mut server = Server::start();
        let mut client = FrameClient::connect(server.port, &[]);
        let mut block = Vec::new();
        for (index, (name, value)) in pseudo.iter().enumerate() {
            if index != left_out {
                block.extend(literal(name, value));
            }
        }
        block.extend(literal(b"content-type", b"application/grpc"));
        client.play(&Script::new().frame(HEADERS, END_HEADERS, 1, &block));
        let answer = client.recv_frame().expect("a reset");
        assert_eq!(
            (answer.kind, answer.stream, answer.error_code()),
            (RST_STREAM, 1, PROTOCOL_ERROR)
        );
        server.told_nothing();
        client.round_trip();
    }
}

#[tokio::test]
async fn many_small_headers_count_as_what_they_cost() {
    let mut server = Server::start();
    let mut client = server.client().await;
    // Each costs 32 bytes and its two (RFC 9113, section 6.5.2): 16 KiB are 481 of them.
    for (count, status) in [(450, 0), (500, 8)] {
        let mut builder = builder(ECHO);
        for _ in 0..count {
            builder = builder.header("x", "y");
        }
        let answer = client
            .send(builder.body(()).unwrap(), Some(frame(b"")))
            .await;
        assert_eq!(answer.status(), status, "{count} headers");
    }
    server.told_nothing();
}

#[tokio::test]
async fn one_value_over_the_limit_is_refused_and_its_connection_lives_on() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let request = builder(HELD)
        .header("x-large-bin", "A".repeat(17 << 10))
        .body(())
        .unwrap();
    let answer = client.send(request, Some(frame(b""))).await;
    assert_eq!(answer.status(), 8);
    assert!(
        answer
            .message()
            .starts_with("SERVER: Received metadata larger than max ("),
        "{}",
        answer.message()
    );
    server.told_nothing();
    assert_eq!(client.call(ECHO, b"").await.status(), 0);
    assert_eq!(server.transport.stats().offences.total(), 0);
}

#[tokio::test]
async fn content_types_of_grpc_are_served_in_every_spelling_and_others_are_415() {
    let server = Server::start();
    let mut client = server.client().await;
    let cases = [
        ("application/grpc", 200),
        ("application/grpc+proto", 200),
        ("application/grpc+json", 200),
        ("application/grpc;charset=utf-8", 200),
        ("application/grpc-web+proto", 415),
        ("application/grpcish", 415),
        ("application/json", 415),
        ("text/plain", 415),
        ("", 415),
    ];
    for (content_type, http_status) in cases {
        let mut request = request(ECHO);
        let headers = request.headers_mut();
        headers.insert("content-type", content_type.parse().unwrap());
        let answer = client.send(request, Some(frame(b"x"))).await;
        assert_eq!(answer.http_status, http_status, "{content_type:?}");
        if http_status == 415 {
            assert!(answer.body.is_empty() && answer.trailers.is_none());
        }
    }
    assert_eq!(server.transport.stats().calls_in_flight, 0);
}

#[tokio::test]
async fn trailers_of_a_request_may_be_anything_that_headers_may() {
    let mut server = Server::start();
    let mut client = FrameClient::connect(server.port, &[]);
    let trailers = literal(b"x-late", b"caf\xe9");
    client.play(
        &Script::new()
            .request(1, HELD)
            .data(1, &frame(b"message"))
            .frame(HEADERS, 0x5, 1, &trailers),
    );
    assert_eq!(server.call().await.take_message().bytes, "message");
    // A second header block that does not end the stream is malformed.
    client.play(
        &Script::new()
            .request(3, HELD)
            .frame(HEADERS, END_HEADERS, 3, &trailers),
    );
    let answer = client.recv_frame().expect("a reset or a GOAWAY");
    assert_ne!(answer.error_code(), 0);
    drop(client);
    server
        .until("nothing is left", |stats| {
            (stats.connections, stats.calls_in_flight) == (0, 0)
        })
        .await;
    let floods = server.transport.stats().offences.get(Offence::ResetFlood);
    assert_eq!(floods, 0);
}
