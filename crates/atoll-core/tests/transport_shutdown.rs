//! Stopping: with grace, without, twice, and never for ever.

mod transport_support;

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use atoll_core::transport::{CancelReason, Reply, TransportConfig, frame};
use transport_support::frames::{DATA, END_STREAM, FrameClient, GOAWAY};
use transport_support::{ECHO, HELD, Server, request, soon};

const LONG: Duration = Duration::from_secs(60);

/// A `done` callback, and the name of the thread on which it runs.
fn done() -> (Box<dyn FnOnce() + Send>, Receiver<Option<String>>) {
    let (sender, receiver) = channel();
    let done = move || drop(sender.send(thread::current().name().map(str::to_owned)));
    (Box::new(done), receiver)
}

fn within_seconds(receiver: &Receiver<Option<String>>) -> Option<String> {
    receiver
        .recv_timeout(Duration::from_secs(5))
        .expect("done is called in time")
}

#[tokio::test]
async fn calls_in_flight_finish_within_the_grace_and_new_ones_are_not_taken() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    let call = server.call().await;
    let (callback, called) = done();
    server.transport.shutdown(Some(LONG), callback);
    // The port is closed soon, and the client hears that it must not open more streams.
    let start = Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", server.port))
        .await
        .is_ok()
    {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "the port stays open"
        );
    }
    assert!(called.try_recv().is_err(), "a call is in flight");
    assert_eq!(call.cancelled_by(), None);
    assert!(call.reply(Reply::ok(frame(b"finished"))));
    assert_eq!(pending.answer().await.body, frame(b"finished"));
    client.closed().await;
    assert_eq!(within_seconds(&called).as_deref(), Some("atoll-net-0"));
    server.transport.join();
    server.told_nothing();
}

#[tokio::test]
async fn what_has_not_finished_when_the_grace_ends_is_unavailable_and_cancelled() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    let call = server.call().await;
    let (callback, called) = done();
    let start = Instant::now();
    server
        .transport
        .shutdown(Some(Duration::from_millis(80)), callback);
    let answer = pending.answer().await;
    assert!(start.elapsed() >= Duration::from_millis(80));
    assert_eq!(answer.status(), 14);
    server.cancelled().await;
    assert_eq!(call.cancelled_by(), Some(CancelReason::Shutdown));
    client.closed().await;
    within_seconds(&called);
    assert_eq!(server.transport.stats().cancelled_by_shutdown, 1);
    assert_eq!(
        (
            server.transport.connections(),
            server.transport.calls_in_flight()
        ),
        (0, 0)
    );
}

#[tokio::test]
async fn without_grace_everything_ends_at_once() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    server.call().await;
    let (callback, called) = done();
    server.transport.shutdown(None, callback);
    assert_eq!(pending.answer().await.status(), 14);
    client.closed().await;
    within_seconds(&called);
    server.transport.join();
}

#[tokio::test]
async fn a_second_shutdown_shortens_the_grace_and_both_are_told() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    server.call().await;
    let ((first, first_called), (second, second_called), (third, third_called)) =
        (done(), done(), done());
    server.transport.shutdown(Some(LONG), first);
    server
        .transport
        .shutdown(Some(Duration::from_millis(20)), second);
    server.transport.shutdown(Some(LONG), third);
    assert_eq!(pending.answer().await.status(), 14);
    for called in [first_called, second_called, third_called] {
        within_seconds(&called);
    }
    let (callback, called) = done();
    server.transport.shutdown(None, callback);
    within_seconds(&called);
}

#[tokio::test]
async fn idle_clients_do_not_hold_up_a_shutdown() {
    let server = Server::start();
    let mut client = server.client().await;
    assert_eq!(client.call(ECHO, b"").await.status(), 0);
    let (callback, called) = done();
    server.transport.shutdown(Some(LONG), callback);
    client.closed().await;
    within_seconds(&called);
}

#[test]
fn clients_that_say_nothing_more_do_not_hold_up_a_shutdown() {
    let server = Server::start();
    // One has not even greeted; the other is idle and answers no ping.
    let _silent = FrameClient::connect_silently(server.port);
    let mut idle = FrameClient::connect(server.port, &[]);
    idle.send_request(1, ECHO, 0, &[]);
    idle.send_frame(DATA, END_STREAM, 1, &frame(b""));
    while !idle.recv_any_frame().unwrap().ends_stream() {}
    let (callback, called) = done();
    server.transport.shutdown(Some(LONG), callback);
    within_seconds(&called);
    let mut last = None;
    while let Some(frame) = idle.recv_any_frame() {
        last = Some(frame);
    }
    assert_eq!(
        last.map(|frame| (frame.kind, frame.error_code())),
        Some((GOAWAY, 0))
    );
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_hold_up_a_shutdown() {
    let server = Server::start();
    let mut client = FrameClient::connect(server.port, &[(4, 0)]);
    client.send_request(1, ECHO, 0, &[]);
    client.send_frame(DATA, END_STREAM, 1, &frame(&[0; 10_000]));
    server
        .until("the call is answered", |stats| {
            stats.calls == 1 && stats.calls_in_flight == 0
        })
        .await;
    let (callback, called) = done();
    server
        .transport
        .shutdown(Some(Duration::from_millis(10)), callback);
    within_seconds(&called);
    server.transport.join();
}

#[test]
fn a_transport_without_clients_or_listeners_stops_too() {
    let server = Server::start();
    let (callback, called) = done();
    server.transport.shutdown(Some(LONG), callback);
    assert_eq!(within_seconds(&called).as_deref(), Some("atoll-net-0"));
    server.transport.join();

    let transport = atoll_core::transport::Transport::start(
        TransportConfig::default(),
        std::sync::Arc::default(),
        Vec::new(),
    );
    transport.unwrap().join();
}

#[tokio::test]
async fn join_and_drop_are_shutdowns_without_grace() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    server.call().await;
    server.transport.join();
    assert_eq!(pending.answer().await.status(), 14);

    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    let call = server.call().await;
    drop(server);
    assert_eq!(pending.answer().await.status(), 14);
    soon("the connection's end", client.closed()).await;
    assert!(!call.reply(Reply::ok(frame(b""))));
}

#[tokio::test]
async fn joining_on_a_network_thread_returns() {
    let server = std::sync::Arc::new(Server::start());
    let (sender, receiver) = channel();
    let same = std::sync::Arc::clone(&server);
    let joined = move || {
        same.transport.join();
        drop(same);
        let _ = sender.send(());
    };
    server.transport.shutdown(None, Box::new(joined));
    receiver
        .recv_timeout(Duration::from_secs(5))
        .expect("join returned");
}

#[tokio::test]
async fn a_shutdown_under_load_answers_every_call_or_closes_its_connection() {
    let server = Server::with_config(TransportConfig {
        network_threads: 2,
        ..TransportConfig::default()
    });
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = server.client().await;
        clients.push(tokio::spawn(async move {
            let mut answered = 0;
            loop {
                let Ok(mut ready) = client.requests.clone().ready().await else {
                    return answered;
                };
                let Ok((response, mut stream)) = ready.send_request(request(ECHO), false) else {
                    return answered;
                };
                let _ = stream.send_data(frame(b"x"), true);
                match response.await {
                    Ok(response) => {
                        let answer = transport_support::collect(response).await;
                        assert!(matches!(answer.status(), 0 | 14));
                        answered += 1;
                    }
                    Err(error) => {
                        assert!(
                            error.is_go_away() || error.is_io() || error.is_reset(),
                            "{error:?}"
                        );
                        return answered;
                    }
                }
                client.requests = ready;
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (callback, called) = done();
    server.transport.shutdown(Some(LONG), callback);
    for client in clients {
        assert!(soon("the client's end", client).await.unwrap() > 0);
    }
    within_seconds(&called);
    assert_eq!(
        (
            server.transport.connections(),
            server.transport.calls_in_flight()
        ),
        (0, 0)
    );
}
