//! Every request is counted: for its method where it names one, else for the server.

mod transport_support;

use std::sync::Arc;
use std::time::Duration;

use atoll_core::transport::{
    Authentication, Code, MethodStats, Refused, Reply, Route, Routes, TransportConfig, frame,
    totals_of_process,
};
use bytes::Bytes;
use http::Request;
use transport_support::{ECHO, HELD, Server, builder, request};

const NOWHERE: &str = "/no.Such/Method";

fn stats(server: &Server, path: &str) -> MethodStats {
    let routes: &Arc<Routes> = server.transport.routes();
    let route: &Arc<Route> = routes.find(path).unwrap();
    route.stats()
}

type Case = (Refused, Code, fn(http::request::Builder) -> Request<()>);

/// Requests that are refused by their headers.
fn cases() -> [Case; 6] {
    [
        (Refused::HttpMethod, Code::Internal, |builder| {
            builder.method("PUT").body(()).unwrap()
        }),
        (Refused::ContentType, Code::Unknown, |builder| {
            let mut request = builder.body(()).unwrap();
            let json = "application/json".parse().unwrap();
            request.headers_mut().insert("content-type", json);
            request
        }),
        (Refused::MetadataSize, Code::ResourceExhausted, |builder| {
            builder.header("x-large", "v".repeat(600)).body(()).unwrap()
        }),
        (Refused::Unauthenticated, Code::Unauthenticated, |builder| {
            let mut request = builder.body(()).unwrap();
            request.headers_mut().remove("authorization");
            request
        }),
        (Refused::BadTimeout, Code::Internal, |builder| {
            builder.header("grpc-timeout", "soon").body(()).unwrap()
        }),
        (Refused::BadEncoding, Code::Unimplemented, |builder| {
            builder.header("grpc-encoding", "zip").body(()).unwrap()
        }),
    ]
}

fn strict() -> Server {
    let token = b"secret".to_vec().into_boxed_slice();
    Server::with_config(TransportConfig {
        max_header_list_size: 500,
        authentication: Some(Arc::new(Authentication::new(
            Some(vec![token]),
            None,
            false,
        ))),
        ..TransportConfig::default()
    })
}

#[tokio::test]
async fn a_call_that_is_refused_by_its_headers_is_counted_for_its_method() {
    for (reason, code, make) in cases() {
        let server = strict();
        let mut client = server.client().await;
        let request = make(builder(ECHO).header("authorization", "Bearer secret"));
        client.send(request, Some(frame(b""))).await;
        let stats = stats(&server, ECHO);
        assert_eq!(stats.refused[reason as usize], 1, "{}", reason.name());
        assert_eq!(stats.refused.iter().sum::<u64>(), 1);
        assert_eq!(stats.finished[code as usize], 1, "{}", reason.name());
        assert_eq!((stats.started, stats.in_flight()), (1, 0));
        assert_eq!(server.transport.stats().refused, [0; Refused::ALL.len()]);
    }
}

#[tokio::test]
async fn a_request_that_names_no_method_is_counted_for_the_server() {
    for (reason, _, make) in cases() {
        // Of a path that nobody has, this is not looked at.
        let reason = match reason {
            Refused::BadEncoding => Refused::UnknownMethod,
            reason => reason,
        };
        let server = strict();
        let mut client = server.client().await;
        let request = make(builder(NOWHERE).header("authorization", "Bearer secret"));
        client.send(request, Some(frame(b""))).await;
        let refused = server.transport.stats().refused;
        assert_eq!(refused[reason as usize], 1, "{}", reason.name());
        assert_eq!(refused.iter().sum::<u64>(), 1);
        assert!(Refused::OF_REQUESTS.contains(&reason));
    }
}

#[tokio::test]
async fn a_unary_request_whose_message_is_bad_is_counted_for_its_method() {
    let bodies: [(&[u8], Code); 4] = [
        (b"\x09\0\0\0\x01a", Code::Internal),
        (b"\0\0\0\0\x09a", Code::Internal),
        (b"\0\x7f\0\0\0a", Code::ResourceExhausted),
        (b"\0\0\0\0\x01aa", Code::Unimplemented),
    ];
    for (body, code) in bodies {
        let server = Server::start();
        let mut client = server.client().await;
        for cut in [0, 2] {
            // Once at once, and once in two pieces.
            let mut pending = client.open(request(ECHO), None).await;
            let send = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
            pending.stream.send_data(send(&body[..cut]), false).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            // It may have been refused before its end.
            let _ = pending.stream.send_data(send(&body[cut..]), true);
            assert_eq!(pending.answer().await.status(), code as u8);
        }
        let stats = stats(&server, ECHO);
        assert_eq!(stats.refused[Refused::BadRequest as usize], 2);
        assert_eq!(stats.finished[code as usize], 2);
        assert_eq!((stats.started, stats.in_flight()), (2, 0));
    }
}

#[tokio::test]
async fn a_unary_request_that_does_not_become_complete_is_counted_for_its_method() {
    let server = Server::with_config(TransportConfig {
        body_timeout: Some(Duration::from_millis(100)),
        ..TransportConfig::default()
    });
    let mut client = server.client().await;
    let slow = client.open(request(ECHO), None).await;
    assert_eq!(slow.answer().await.status(), 4);
    let late = builder(ECHO)
        .header("grpc-timeout", "10m")
        .body(())
        .unwrap();
    assert_eq!(client.open(late, None).await.answer().await.status(), 4);
    let mut gone = client.open(request(ECHO), None).await;
    gone.stream.send_reset(h2::Reason::CANCEL);
    let refused = |reason: Refused| stats(&server, ECHO).refused[reason as usize];
    server
        .until("all are counted", |_| refused(Refused::Client) == 1)
        .await;
    assert_eq!(refused(Refused::SlowBody), 1);
    assert_eq!(refused(Refused::Deadline), 1);
    let stats = stats(&server, ECHO);
    assert_eq!((stats.started, stats.in_flight()), (3, 0));
    assert_eq!(stats.finished[Code::Cancelled as usize], 1);
}

#[tokio::test]
async fn what_a_server_has_counted_is_in_the_processs_totals_after_its_end() {
    let mut server = Server::with_routes(TransportConfig::default(), |held| held);
    let mut client = server.client().await;
    let before = totals_of_process();
    let pending = client.open(request(HELD), Some(frame(b"12345"))).await;
    server.call().await.reply(Reply::ok(frame(b"")));
    pending.answer().await;
    assert_eq!(client.call(NOWHERE, b"").await.status(), 12);
    server
        .until("no call", |stats| stats.calls_in_flight == 0)
        .await;
    let name = HELD.trim_start_matches('/');
    // Other tests count in the same totals, and never less.
    let check = |when: &str| {
        let totals = totals_of_process();
        let count = |stats: &MethodStats| (stats.started, stats.bytes_received);
        let (calls, bytes) = count(&totals.methods[name]);
        let (calls_before, bytes_before) = count(&before.methods[name]);
        assert!(calls > calls_before && bytes >= bytes_before + 5, "{when}");
        let unknown = Refused::UnknownMethod as usize;
        assert!(
            totals.transport.refused[unknown] > before.transport.refused[unknown],
            "{when}"
        );
    };
    check("while it runs");
    client.vanish().await;
    server.transport.join();
    check("when it has stopped");
    drop(server);
    check("when it is gone");
}
