//! What a call looks like to its handler, and what its reply looks like on the wire.

mod transport_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_core::transport::{
    Call, Code, Dispatch, Listener, Reply, Route, Routes, Status, Transport, TransportConfig,
    frame, metadata,
};
use bytes::Bytes;
use http::HeaderMap;
use transport_support::frames::{DATA, END_STREAM, FrameClient, HEADERS};
use transport_support::{Client, ECHO, HELD, Server, builder, request};

fn entries(pairs: &[(&str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (key, value) in pairs {
        metadata::append(&mut map, key, value).unwrap();
    }
    map
}

#[tokio::test]
async fn a_reply_is_headers_then_the_message_then_trailers() {
    let server = Server::start();
    let answer = server.client().await.call(ECHO, b"hello").await;
    assert_eq!(answer.http_status, 200);
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert!(!answer.headers.contains_key("grpc-status"));
    assert_eq!(answer.body, frame(b"hello"));
    assert_eq!(answer.status(), 0);
    assert_eq!(
        answer.trailers.unwrap().len(),
        1,
        "grpc-status and nothing else"
    );
}

#[test]
fn a_reply_takes_three_frames_and_an_error_one() {
    let server = Server::start();
    let mut client = FrameClient::connect(server.port, &[]);
    client.send_request(1, ECHO, 0, &[]);
    client.send_frame(DATA, END_STREAM, 1, &frame(b"hi"));
    let frames: Vec<_> = (0..3).map(|_| client.recv_frame().unwrap()).collect();
    let kinds: Vec<_> = frames
        .iter()
        .map(|frame| (frame.kind, frame.ends_stream()))
        .collect();
    assert_eq!(kinds, [(HEADERS, false), (DATA, false), (HEADERS, true)]);
    assert_eq!(frames[1].payload, frame(b"hi"));

    client.send_request(3, "/no.Such/Method", 0, &[]);
    client.send_frame(DATA, END_STREAM, 3, &frame(b"hi"));
    let only = client.recv_frame().unwrap();
    assert_eq!(
        (only.kind, only.stream, only.ends_stream()),
        (HEADERS, 3, true)
    );
}

#[tokio::test]
async fn a_handler_sees_path_peer_metadata_authority_and_times() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let request = builder(HELD)
        .header("x-text", "one")
        .header("x-text", "two")
        .header("x-bytes-bin", "AAH/")
        .header("grpc-timeout", "10S")
        .body(())
        .unwrap();
    let before = Instant::now();
    let pending = client.open(request, Some(frame(b"message"))).await;
    let call = server.call().await;
    assert_eq!(call.path(), HELD);
    assert_eq!(call.route().path(), HELD);
    assert_eq!(call.route().data().downcast_ref::<&str>(), Some(&"held"));
    assert!(
        call.peer().starts_with("ipv4:127.0.0.1:"),
        "{}",
        call.peer()
    );
    assert_eq!(call.authority(), "test.example");
    assert!(call.arrived() >= before);
    assert_eq!(
        call.deadline(),
        Some(call.arrived() + Duration::from_secs(10))
    );
    let remaining = call.time_remaining().unwrap();
    assert!(remaining <= Duration::from_secs(10) && remaining > Duration::from_secs(5));
    let seen: Vec<_> = metadata::application_view(call.metadata()).collect();
    let seen: Vec<_> = seen
        .iter()
        .map(|(name, value)| (*name, value.as_ref()))
        .collect();
    assert_eq!(
        seen,
        [
            ("x-text", &b"one"[..]),
            ("x-text", b"two"),
            ("x-bytes-bin", b"\x00\x01\xff")
        ]
    );
    assert_eq!(
        call.metadata()["te"],
        "trailers",
        "the transport's own headers are there as well"
    );
    assert_eq!(call.take_message().bytes, "message");
    assert_eq!(call.take_message().bytes, "", "a message is taken once");

    assert!(!call.is_answered());
    assert!(call.begin());
    assert!(!call.begin(), "a call begins once");
    assert!(call.reply(Reply::ok(frame(b"done"))));
    assert!(call.is_answered());
    assert_eq!(call.cancelled_by(), None);
    assert_eq!(pending.answer().await.body, frame(b"done"));
}

#[tokio::test]
async fn the_first_answer_wins() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    let call = server.call().await;
    assert!(call.reply(Reply::ok(frame(b"first"))));
    assert!(!call.reply(Reply::ok(frame(b"second"))));
    assert!(!call.refuse(Status::new(Code::Internal, "third")));
    assert!(!call.begin(), "the handler must not run any more");
    assert!(!call.send_initial_metadata(HeaderMap::new()));
    assert_eq!(pending.answer().await.body, frame(b"first"));
    assert_eq!(
        server.transport.stats().late_replies,
        0,
        "the transport gave nothing up"
    );
}

#[tokio::test]
async fn an_error_is_trailers_only_and_its_text_percent_encoded() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    let text = "50% of \u{e9}\n";
    server
        .call()
        .await
        .refuse(Status::new(Code::FailedPrecondition, text));
    let answer = pending.answer().await;
    assert!(answer.is_trailers_only());
    assert_eq!(answer.http_status, 200);
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert_eq!(
        (answer.status(), answer.message()),
        (9, "50%25 of %C3%A9%0A")
    );
}

#[tokio::test]
async fn metadata_goes_where_it_was_put() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    let reply = Reply::ok(frame(b"ok"))
        .with_initial_metadata(entries(&[("x-initial", b"1"), ("x-initial", b"2")]))
        .with_trailing_metadata(entries(&[("x-trailing-bin", &[0, 1, 255])]));
    server.call().await.reply(reply);
    let answer = pending.answer().await;
    let initial: Vec<_> = answer.headers.get_all("x-initial").iter().collect();
    assert_eq!(initial, ["1", "2"]);
    assert_eq!(answer.trailers.as_ref().unwrap()["x-trailing-bin"], "AAH/");
    assert_eq!(answer.status(), 0);

    // An error with initial metadata keeps the two apart, so it is not Trailers-Only.
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    let reply = Reply::error(Status::new(Code::Aborted, "no"))
        .with_initial_metadata(entries(&[("x-initial", b"1")]))
        .with_trailing_metadata(entries(&[("grpc-status-details-bin", b"details")]));
    server.call().await.reply(reply);
    let answer = pending.answer().await;
    assert_eq!(answer.headers["x-initial"], "1");
    assert!(!answer.headers.contains_key("grpc-status"));
    assert_eq!(
        answer.trailers.as_ref().unwrap()["grpc-status-details-bin"],
        "ZGV0YWlscw"
    );
    assert_eq!(answer.status(), 10);
    assert_eq!(answer.body, "");
}

#[tokio::test]
async fn initial_metadata_may_be_sent_once_ahead_of_the_reply() {
    let mut server = Server::start();
    let mut client = server.client().await;
    for status in [Status::OK, Status::new(Code::NotFound, "gone")] {
        let pending = client.open(request(HELD), Some(frame(b""))).await;
        let call = server.call().await;
        assert!(call.send_initial_metadata(entries(&[("x-early", b"1")])));
        assert!(!call.send_initial_metadata(entries(&[("x-late", b"1")])));
        let response = pending.response.await.unwrap();
        assert_eq!(response.headers()["x-early"], "1");
        assert!(!call.is_answered());
        let reply = Reply {
            status: status.clone(),
            ..Reply::ok(frame(b"body"))
        };
        call.reply(reply.with_initial_metadata(entries(&[("x-ignored", b"1")])));
        let answer = transport_support::collect(response).await;
        assert_eq!(answer.status(), status.code.as_u8());
        assert_eq!(
            answer.body,
            if status.code == Code::Ok {
                frame(b"body")
            } else {
                Bytes::new()
            }
        );
    }
}

#[tokio::test]
async fn a_status_other_than_ok_drops_the_message_and_ok_needs_one() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let replies = [
        (
            Status::new(Code::DataLoss, "lost"),
            Some(frame(b"partial")),
            15,
        ),
        (Status::OK, None, 13),
    ];
    for (status, message, expected) in replies {
        let pending = client.open(request(HELD), Some(frame(b""))).await;
        let reply = Reply {
            status,
            message: message.map(Into::into),
            trailing_metadata: None,
            initial_metadata: None,
        };
        server.call().await.reply(reply);
        let answer = pending.answer().await;
        assert_eq!((answer.status(), answer.body.len()), (expected, 0));
    }
}

#[tokio::test]
async fn metadata_that_http2_forbids_resets_the_stream_and_not_the_server() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), Some(frame(b""))).await;
    let mut forbidden = HeaderMap::new();
    forbidden.insert("connection", "close".parse().unwrap());
    server
        .call()
        .await
        .reply(Reply::ok(frame(b"")).with_initial_metadata(forbidden));
    assert_eq!(pending.reset_reason().await, h2::Reason::INTERNAL_ERROR);
    assert_eq!(client.call(ECHO, b"alive").await.status(), 0);
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_without_leaving_the_network_thread() {
    let mut server = Server::start();
    let answer = server
        .client()
        .await
        .call("/test.Service/NoSuch", b"")
        .await;
    assert!(answer.is_trailers_only());
    assert_eq!(
        (answer.status(), answer.message()),
        (12, "Method not found!")
    );
    server.told_nothing();
}

/// Answers with the path that was called.
struct Fallback;

impl Dispatch for Fallback {
    fn dispatch(&self, calls: &mut Vec<Arc<Call>>) {
        for call in calls.drain(..) {
            let path = call.path().to_owned();
            call.reply(Reply::ok(frame(path.as_bytes())));
        }
    }

    fn cancelled(&self, _: &Arc<Call>) {}
}

/// Breaks the rule that every call is taken.
struct Forgetful;

impl Dispatch for Forgetful {
    fn dispatch(&self, _: &mut Vec<Arc<Call>>) {}

    fn cancelled(&self, _: &Arc<Call>) {}
}

/// Breaks the rule that dispatching does not panic.
struct Clumsy;

impl Dispatch for Clumsy {
    fn dispatch(&self, _: &mut Vec<Arc<Call>>) {
        panic!("this panic belongs to the test");
    }

    fn cancelled(&self, _: &Arc<Call>) {}
}

fn serve(routes: Routes, address: &str) -> (Transport, Option<u16>) {
    let listener = Listener::bind(address).unwrap();
    let port = listener.port();
    let transport =
        Transport::start(TransportConfig::default(), Arc::new(routes), vec![listener]).unwrap();
    (transport, port)
}

#[tokio::test]
async fn a_fallback_route_decides_about_unknown_methods() {
    let fallback = Route::new("*", Arc::new(Fallback), Arc::new(()));
    let (_transport, port) = serve(Routes::new([], Some(fallback)), "127.0.0.1:0");
    let mut client = Client::connect(port.unwrap(), &h2::client::Builder::new()).await;
    assert_eq!(
        client.call("/any.Service/Method", b"").await.body,
        frame(b"/any.Service/Method")
    );
}

#[tokio::test]
async fn a_call_that_its_target_leaves_behind_is_answered_unavailable() {
    let route = Route::new(HELD, Arc::new(Forgetful), Arc::new(()));
    let (transport, port) = serve(Routes::new([route], None), "127.0.0.1:0");
    let mut client = Client::connect(port.unwrap(), &h2::client::Builder::new()).await;
    assert_eq!(client.call(HELD, b"").await.status(), 14);
    assert_eq!(transport.calls_in_flight(), 0);
}

#[tokio::test]
async fn a_target_that_panics_costs_its_connection_and_nothing_else() {
    let routes = [
        Route::new(HELD, Arc::new(Clumsy), Arc::new(())),
        Route::new(ECHO, Arc::new(transport_support::Echo), Arc::new(())),
    ];
    let (transport, port) = serve(Routes::new(routes, None), "127.0.0.1:0");
    let builder = h2::client::Builder::new();
    let mut unlucky = Client::connect(port.unwrap(), &builder).await;
    let mut other = Client::connect(port.unwrap(), &builder).await;
    let pending = unlucky.open(request(HELD), Some(frame(b""))).await;
    unlucky.closed().await;
    assert!(pending.response.await.is_err());
    assert_eq!(other.call(ECHO, b"").await.status(), 0);
    assert_eq!(
        (transport.connections(), transport.calls_in_flight()),
        (1, 0)
    );
}

#[tokio::test]
async fn calls_of_one_read_arrive_in_order_as_one_batch_per_target() {
    let mut server = Server::start();
    // One write, so that one read of the server has it all.
    let mut bytes = Vec::new();
    for index in 0..20_u32 {
        let stream = 1 + 2 * index;
        let path = if index % 2 == 0 { HELD } else { ECHO };
        let block = transport_support::frames::header_block(path, &[]);
        bytes.extend(transport_support::frames::encode(
            HEADERS, 0x4, stream, &block,
        ));
        bytes.extend(transport_support::frames::encode(
            DATA,
            END_STREAM,
            stream,
            &frame(&[index as u8]),
        ));
    }
    let mut client = FrameClient::connect(server.port, &[]);
    client.recv_any_frame().expect("the server's settings");
    client.send_bytes(&bytes);
    let batch = server.batch().await;
    let messages: Vec<_> = batch
        .iter()
        .map(|call| call.take_message().bytes[0])
        .collect();
    assert_eq!(messages, (0..20).step_by(2).collect::<Vec<_>>());
    server
        .until("the echoes are answered", |stats| {
            stats.calls_in_flight == 10
        })
        .await;
    for call in batch {
        call.reply(Reply::ok(frame(b"")));
    }
    server
        .until("all answered", |stats| stats.calls_in_flight == 0)
        .await;
}

#[tokio::test]
async fn a_slow_handler_does_not_hold_back_the_finished_replies_of_its_batch() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let slow = client.open(request(HELD), Some(frame(b"slow"))).await;
    let quick = client.open(request(HELD), Some(frame(b"quick"))).await;
    let mut calls = server.batch().await;
    while calls.len() < 2 {
        calls.extend(server.batch().await);
    }
    calls[1].reply(Reply::ok(frame(b"quick")));
    assert_eq!(quick.answer().await.body, frame(b"quick"));
    calls[0].reply(Reply::ok(frame(b"slow")));
    assert_eq!(slow.answer().await.body, frame(b"slow"));
}

#[tokio::test]
async fn nothing_of_an_answered_call_is_kept() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let request = builder(HELD).header("grpc-timeout", "1H").body(()).unwrap();
    let pending = client.open(request, Some(frame(b"x"))).await;
    let call = server.call().await;
    assert_eq!(server.transport.calls_in_flight(), 1);
    let observer = Arc::downgrade(&call);
    call.reply(Reply::ok(frame(b"")));
    drop(call);
    pending.answer().await;
    assert!(
        observer.upgrade().is_none(),
        "the transport still holds the call"
    );
    assert_eq!(server.transport.calls_in_flight(), 0);
    assert_eq!(server.transport.stats().calls, 1);
}

#[tokio::test]
async fn replies_may_come_from_many_threads_at_once() {
    let mut server = Server::start();
    let mut client = server.client().await;
    for _ in 0..10 {
        let mut pendings = Vec::new();
        for index in 0..64_u8 {
            pendings.push((
                index,
                client.open(request(HELD), Some(frame(&[index]))).await,
            ));
        }
        let mut received = 0;
        while received < 64 {
            let batch = server.batch().await;
            received += batch.len();
            for call in batch {
                std::thread::spawn(move || {
                    assert!(call.begin());
                    call.reply(Reply::ok(frame(&call.take_message().bytes)))
                });
            }
        }
        for (index, pending) in pendings {
            assert_eq!(pending.answer().await.body, frame(&[index]));
        }
    }
    assert_eq!(server.transport.calls_in_flight(), 0);
}
