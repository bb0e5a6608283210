//! Requests that are not what gRPC wants, and peers that do not speak it at all.

mod transport_support;

use bytes::Bytes;
use h2::Reason;
use http::{Request, StatusCode};
use transport_support::frames::{
    DATA, END_STREAM, FrameClient, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use transport_support::{Answer, ECHO, HELD, Server, builder, request};

use atoll_core::transport::frame;

async fn answer_to(request: Request<()>, body: &'static [u8]) -> Answer {
    let mut server = Server::start();
    let answer = server
        .client()
        .await
        .send(request, Some(Bytes::from_static(body)))
        .await;
    server.told_nothing();
    assert_eq!(server.transport.calls_in_flight(), 0);
    answer
}

#[tokio::test]
async fn a_content_type_other_than_grpc_is_http_415() {
    for content_type in ["image/jpeg", "application/grpc-web", "application/json"] {
        let mut request = request(HELD);
        request
            .headers_mut()
            .insert("content-type", content_type.parse().unwrap());
        assert_eq!(
            answer_to(request, b"").await.http_status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
    }
    let mut request = request(HELD);
    request.headers_mut().remove("content-type");
    assert_eq!(
        answer_to(request, b"").await.http_status,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
}

#[tokio::test]
async fn message_formats_are_the_applications_business() {
    let mut server = Server::start();
    let mut request = request(HELD);
    request
        .headers_mut()
        .insert("content-type", "application/grpc+json".parse().unwrap());
    let pending = server
        .client()
        .await
        .open(request, Some(frame(b"{}")))
        .await;
    assert_eq!(server.call().await.take_message().bytes, "{}");
    drop(pending);
}

#[tokio::test]
async fn a_request_without_te_is_served_for_the_sake_of_proxies() {
    let server = Server::start();
    let mut request = request(ECHO);
    request.headers_mut().remove("te");
    assert_eq!(
        server
            .client()
            .await
            .send(request, Some(frame(b"")))
            .await
            .status(),
        0
    );
}

#[tokio::test]
async fn a_method_other_than_post_is_http_405_and_grpc_13() {
    for method in ["GET", "PUT", "DELETE"] {
        let mut request = request(HELD);
        *request.method_mut() = method.parse().unwrap();
        let answer = answer_to(request, b"\0\0\0\0\0").await;
        assert_eq!(answer.http_status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers["allow"], "POST");
        assert_eq!(answer.status(), 13);
    }
}

#[tokio::test]
async fn a_malformed_timeout_is_internal() {
    for timeout in ["", "10", "S", "1s", "123456789S", "-1S"] {
        let request = builder(HELD)
            .header("grpc-timeout", timeout)
            .body(())
            .unwrap();
        let answer = answer_to(request, b"\0\0\0\0\0").await;
        assert_eq!(answer.status(), 13, "{timeout:?}");
        assert!(
            answer.message().contains("grpc-timeout"),
            "{}",
            answer.message()
        );
    }
}

#[tokio::test]
async fn an_encoding_that_is_not_supported_is_unimplemented_and_says_which_are() {
    let request = builder(HELD)
        .header("grpc-encoding", "foo")
        .body(())
        .unwrap();
    let answer = answer_to(request, b"\x01\0\0\0\x01x").await;
    assert_eq!(answer.status(), 12);
    assert_eq!(
        answer.headers["grpc-accept-encoding"],
        "identity,deflate,gzip"
    );
}

#[tokio::test]
async fn identity_is_an_encoding_and_a_compressed_flag_with_it_is_internal() {
    let server = Server::start();
    let mut client = server.client().await;
    let identity = || {
        builder(ECHO)
            .header("grpc-encoding", "identity")
            .body(())
            .unwrap()
    };
    assert_eq!(client.send(identity(), Some(frame(b"x"))).await.status(), 0);
    for request in [identity(), request(ECHO)] {
        let flagged = Bytes::from_static(b"\x01\0\0\0\x01x");
        assert_eq!(client.send(request, Some(flagged)).await.status(), 13);
    }
}

#[tokio::test]
async fn a_unary_request_has_exactly_one_message() {
    let cases: [(&[u8], u8); 6] = [
        (b"", 12),
        (b"\0\0\0\0\x01a\0\0\0\0\x01b", 12),
        (b"\0\0\0\0\x01ab", 12),
        (b"\0\0\0", 13),
        (b"\0\0\0\0\x02a", 13),
        (b"\x02\0\0\0\x01a", 13),
    ];
    for (body, status) in cases {
        let answer = answer_to(request(HELD), body).await;
        assert_eq!(answer.status(), status, "{body:?}: {}", answer.message());
    }
}

#[test]
fn headers_that_end_the_stream_are_a_request_without_a_message() {
    let server = Server::start();
    let mut client = FrameClient::connect(server.port, &[]);
    client.send_request(1, HELD, END_STREAM, &[]);
    let frame = client.recv_frame().unwrap();
    assert_eq!((frame.kind, frame.ends_stream()), (HEADERS, true));
}

#[tokio::test]
async fn a_second_message_in_a_later_frame_is_unimplemented_too() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    pending.stream.send_data(frame(b"one"), false).unwrap();
    // The first one is complete, but a unary call begins when its request ends.
    assert_eq!(client.call(ECHO, b"later").await.status(), 0);
    server.told_nothing();
    pending.stream.send_data(frame(b"two"), true).unwrap();
    assert_eq!(pending.answer().await.status(), 12);
    server.told_nothing();
}

#[tokio::test]
async fn a_message_may_come_in_many_frames_with_an_empty_end() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    for byte in frame(b"message") {
        pending
            .stream
            .send_data(Bytes::copy_from_slice(&[byte]), false)
            .unwrap();
        tokio::task::yield_now().await;
    }
    pending.stream.send_data(Bytes::new(), true).unwrap();
    let call = server.call().await;
    assert_eq!(call.take_message().bytes, "message");
    call.reply(atoll_core::transport::Reply::ok(frame(b"")));
    assert_eq!(pending.answer().await.status(), 0);
}

#[tokio::test]
async fn trailers_end_a_request_as_well() {
    let mut server = Server::start();
    let mut pending = server.client().await.open(request(HELD), None).await;
    pending.stream.send_data(frame(b"message"), false).unwrap();
    pending
        .stream
        .send_trailers(http::HeaderMap::new())
        .unwrap();
    assert_eq!(server.call().await.take_message().bytes, "message");
}

#[tokio::test]
async fn a_request_answered_before_its_end_is_reset_without_an_error() {
    let server = Server::start();
    let mut client = server.client().await;
    let mut pending = client.open(request("/test.Service/NoSuch"), None).await;
    let answer = transport_support::soon("an answer", &mut pending.response)
        .await
        .unwrap();
    assert_eq!(transport_support::collect(answer).await.status(), 12);
    assert_eq!(pending.reset_reason().await, Reason::NO_ERROR);
    assert_eq!(
        client.call(ECHO, b"").await.status(),
        0,
        "the connection lives on"
    );
}

#[tokio::test]
async fn headers_over_the_limit_are_refused_and_far_over_it_not_decoded() {
    let server = Server::start();
    let mut client = server.client().await;
    for (count, http_status) in [(20, 200), (40, 431)] {
        let mut builder = builder(ECHO);
        for index in 0..count {
            builder = builder.header(format!("x-{index}"), "x".repeat(1000));
        }
        let answer = client
            .send(builder.body(()).unwrap(), Some(frame(b"")))
            .await;
        assert_eq!(answer.http_status, http_status);
        if http_status == 200 {
            assert_eq!(answer.status(), 8);
        }
    }
    assert_eq!(
        client.call(ECHO, b"").await.status(),
        0,
        "the connection lives on"
    );
}

#[tokio::test]
async fn garbage_and_other_protocols_get_their_connection_closed() {
    let server = Server::start();
    let tls = [
        0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03,
    ];
    let peers: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        &tls,
        &[0xff; 64],
        b"PRI * HTTP/1.0\r\n\r\nxx",
    ];
    for greeting in peers {
        let mut client = FrameClient::connect_silently(server.port);
        client.send_bytes(greeting);
        client.read_to_end();
    }
    server
        .until("every connection is closed", |stats| stats.connections == 0)
        .await;
    assert_eq!(server.transport.stats().connection_errors, 4);
    assert_eq!(server.client().await.call(ECHO, b"").await.status(), 0);
}

#[tokio::test]
async fn broken_frames_end_the_connection_and_nothing_else() {
    let server = Server::start();
    let oversize = vec![0; 70_000];
    let scripts: [(&str, u8, u8, u32, &[u8]); 8] = [
        ("headers that are not HPACK", HEADERS, 0x5, 1, &[0xff; 20]),
        ("data on a stream that was never opened", DATA, 0, 1, b"x"),
        ("data on the connection", DATA, 0, 0, b"x"),
        ("a ping of the wrong size", PING, 0, 0, b"xxx"),
        ("settings with half an entry", SETTINGS, 0, 0, b"xxx"),
        (
            "a window that overflows",
            WINDOW_UPDATE,
            0,
            0,
            &[0x7f, 0xff, 0xff, 0xff],
        ),
        (
            "a reset of a stream that was never opened",
            RST_STREAM,
            0,
            1,
            &[0, 0, 0, 8],
        ),
        ("a frame over the size limit", DATA, 0, 1, &oversize),
    ];
    for (what, kind, flags, stream, payload) in scripts {
        let mut client = FrameClient::connect(server.port, &[]);
        client.send_frame(kind, flags, stream, payload);
        let mut last = None;
        while let Some(frame) = client.recv_any_frame() {
            last = Some(frame);
        }
        assert_eq!(last.map(|frame| frame.kind), Some(GOAWAY), "{what}");
    }
    server
        .until("every connection is closed", |stats| stats.connections == 0)
        .await;
    assert_eq!(server.client().await.call(ECHO, b"").await.status(), 0);
}

#[tokio::test]
async fn bytes_at_random_never_stop_the_server() {
    let server = Server::start();
    // A linear congruential generator: the same bytes on each run.
    let mut seed = 42_u64;
    let mut random = move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    };
    for _ in 0..200 {
        let mut client = FrameClient::connect(server.port, &[]);
        client.send_request(1, HELD, 0, &[]);
        for _ in 0..8 {
            let payload: Vec<u8> = (0..random() % 32).map(|_| random()).collect();
            client.send_frame(random() % 10, random(), u32::from(random() % 4), &payload);
        }
    }
    server
        .until("every connection is closed", |stats| stats.connections == 0)
        .await;
    server
        .until("every call is over", |stats| stats.calls_in_flight == 0)
        .await;
    assert_eq!(server.client().await.call(ECHO, b"").await.status(), 0);
}
