//! Calls with several messages: order, bounds both ways, and their ends.

mod transport_support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atoll_core::clock;
use atoll_core::transport::broadcast::{Broadcast, Leavers, SlowSubscriber};
use atoll_core::transport::{
    Call, CancelReason, Code, Dispatch, Framed, Received, Reply, Route, Sent, Status,
    TransportConfig, frame,
};
use bytes::Bytes;
use transport_support::frames::{
    DATA, END_STREAM, FrameClient, HEADERS, RST_STREAM, WINDOW_UPDATE,
};
use transport_support::{Client, HELD, Pending, Server, builder, request, soon};

fn both_ways(route: Route) -> Route {
    route.with_streaming(true, true)
}

fn server(config: TransportConfig) -> Server {
    Server::with_routes(config, both_ways)
}

/// The next message, which has come or will.
async fn next(server: &mut Server, call: &Arc<Call>) -> Option<Bytes> {
    loop {
        match call.receive() {
            Received::Message(message) => return Some(message.bytes),
            Received::End => return None,
            Received::Nothing => server.progress_of(call).await,
            Received::Over => panic!("the call is over"),
        }
    }
}

async fn data(pending: &mut Pending) -> (h2::RecvStream, Bytes) {
    let response = soon("headers", &mut pending.response).await.unwrap();
    let mut body = response.into_body();
    let chunk = soon("data", body.data()).await.unwrap().unwrap();
    (body, chunk)
}

#[tokio::test]
async fn a_streaming_call_is_dispatched_before_its_first_message() {
    let mut server = server(TransportConfig::default());
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    let call = server.call().await;
    assert!(call.begin());
    assert_eq!(call.receive(), Received::Nothing);
    pending.stream.send_data(frame(b"one"), false).unwrap();
    server.progress_of(&call).await;
    assert_eq!(next(&mut server, &call).await.unwrap(), "one");
    pending.stream.send_data(frame(b"two"), true).unwrap();
    assert_eq!(next(&mut server, &call).await.unwrap(), "two");
    assert_eq!(next(&mut server, &call).await, None);
    assert!(call.reply(Reply::end()));
    let answer = pending.answer().await;
    assert_eq!((answer.status(), answer.body.len()), (0, 0));
    server
        .until("no call", |stats| stats.calls_in_flight == 0)
        .await;
}

#[tokio::test]
async fn replies_come_in_order_and_before_the_status() {
    let mut server = server(TransportConfig::default());
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b"go"))).await;
    let call = server.call().await;
    let mut expected = Vec::new();
    for number in 0..1000_u32 {
        let framed = frame(&number.to_be_bytes());
        expected.extend_from_slice(&framed);
        if call.send_message(framed) == Sent::Full {
            while call.room() == Sent::Full {
                server.progress_of(&call).await;
            }
        }
    }
    assert!(call.reply(Reply::end()));
    let answer = pending.answer().await;
    assert_eq!(answer.status(), 0);
    assert_eq!(answer.body, expected);
}

#[test]
fn messages_that_come_together_share_a_frame() {
    let mut server = server(TransportConfig::default());
    let mut client = FrameClient::connect(server.port, &[]);
    client.send_request(1, HELD, END_STREAM, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let call = runtime.block_on(server.call());
    for text in [&b"a"[..], b"b", b"c"] {
        call.send_message(frame(text));
    }
    call.reply(Reply::end());
    let mut bytes = Vec::new();
    let mut frames = 0;
    loop {
        let frame = client.recv_frame().unwrap();
        if frame.kind == DATA {
            frames += 1;
            bytes.extend_from_slice(&frame.payload);
        }
        if frame.ends_stream() {
            break;
        }
    }
    assert_eq!(bytes, [frame(b"a"), frame(b"b"), frame(b"c")].concat());
    assert!(frames <= 3);
}

#[tokio::test]
async fn a_handler_that_does_not_read_stops_its_client() {
    let config = TransportConfig {
        initial_stream_window: 64 << 10,
        request_buffer: 32 << 10,
        ..TransportConfig::default()
    };
    let mut server = server(config);
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    let call = server.call().await;
    let message = frame(&[7; 1000]);
    let mut sent = 0;
    // The client sends while its window lets it.
    let blocked = async {
        loop {
            pending.stream.reserve_capacity(message.len());
            while pending.stream.capacity() < message.len() {
                let more = std::future::poll_fn(|cx| pending.stream.poll_capacity(cx));
                if tokio::time::timeout(Duration::from_millis(300), more)
                    .await
                    .is_err()
                {
                    return;
                }
            }
            pending.stream.send_data(message.clone(), false).unwrap();
            sent += message.len();
            assert!(sent < 1 << 20, "nothing stops it");
        }
    };
    blocked.await;
    assert!(sent >= 63 << 10, "the window and what is queued: {sent}");
    assert!(
        sent <= (64 << 10) + (34 << 10) + 2 * message.len(),
        "{sent}"
    );
    // A handler that reads lets it go on.
    let mut read = 0;
    while read + message.len() <= sent {
        assert_eq!(next(&mut server, &call).await.unwrap().len(), 1000);
        read += message.len();
    }
    pending.stream.send_data(message, true).unwrap();
    while next(&mut server, &call).await.is_some() {}
    assert!(call.reply(Reply::end()));
    assert_eq!(pending.answer().await.status(), 0);
}

#[test]
fn a_client_that_does_not_read_stops_its_handler() {
    let mut server = server(TransportConfig::default());
    // A window of 1000 bytes.
    let mut client = FrameClient::connect(server.port, &[(4, 1000)]);
    client.send_request(1, HELD, END_STREAM, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let call = runtime.block_on(server.call());
    let mut sent = 0;
    while call.send_message(frame(&[1; 995])) == Sent::Room {
        sent += 1000;
        assert!(sent < 1 << 20, "nothing stops it");
    }
    assert!(call.room() == Sent::Full, "{sent}");
    assert_eq!(client.recv_frame().unwrap().kind, HEADERS);
    assert_eq!(client.recv_frame().unwrap().payload.len(), 1000);
    // With room for everything it goes on.
    client.send_frame(WINDOW_UPDATE, 0, 1, &(1_u32 << 20).to_be_bytes());
    runtime.block_on(server.progress_of(&call));
    assert_eq!(call.room(), Sent::Room);
}

#[test]
fn a_deadline_resets_a_stream_whose_message_is_cut_and_answers_any_other() {
    let mut server = server(TransportConfig::default());
    let mut client = FrameClient::connect(server.port, &[(4, 1000)]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    for (stream, size, end) in [(1, 1500, RST_STREAM), (3, 995, HEADERS)] {
        client.send_request(stream, HELD, END_STREAM, &[("grpc-timeout", "300m")]);
        let call = runtime.block_on(server.call());
        call.send_message(frame(&vec![1; size]));
        call.send_message(frame(&vec![1; size]));
        assert_eq!(client.recv_frame().unwrap().kind, HEADERS);
        assert_eq!(client.recv_frame().unwrap().kind, DATA);
        let last = client.recv_frame().unwrap();
        assert_eq!((last.kind, last.stream), (end, stream));
        assert_eq!(call.cancelled_by(), Some(CancelReason::Deadline));
        let cancelled = runtime.block_on(server.cancelled());
        assert!(Arc::ptr_eq(&cancelled, &call));
        assert_eq!(call.receive(), Received::Over);
        assert_eq!(call.send_message(frame(b"late")), Sent::Over);
    }
    assert_eq!(server.transport.calls_in_flight(), 0);
}

/// The bytes of an uncopied message; says when it is let go of.
struct Owner(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

fn uncopied(message: Vec<u8>) -> (Framed, Arc<AtomicBool>) {
    let is_let_go = Arc::new(AtomicBool::new(false));
    let owner = Owner(message, Arc::clone(&is_let_go));
    (Framed::uncopied(Bytes::from_owner(owner)), is_let_go)
}

async fn let_go(is_let_go: &AtomicBool) {
    soon("the owner's end", async {
        while !is_let_go.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_uncopied_message_comes_behind_its_prefix_through_any_window_and_is_let_go() {
    // Windows that cut the prefix, end with it, and cut the rest.
    for (window, size) in [(1, 100), (3, 100), (5, 100), (6, 100), (65_535, 300_000)] {
        let mut server = server(TransportConfig::default());
        let mut settings = h2::client::Builder::new();
        settings.initial_window_size(window);
        let mut client = Client::connect(server.port, &settings).await;
        let pending = client.open(request(HELD), Some(frame(b"go"))).await;
        let call = server.call().await;
        let message: Vec<u8> = (0..size).map(|number| number as u8).collect();
        let (framed, is_let_go) = uncopied(message.clone());
        call.send_message(frame(b"before"));
        call.send_message(framed);
        call.send_message(frame(b"after"));
        assert!(call.reply(Reply::end()));
        let answer = pending.answer().await;
        assert_eq!(answer.status(), 0);
        let all = [frame(b"before"), frame(&message), frame(b"after")].concat();
        assert_eq!(answer.body, all, "window {window}");
        let_go(&is_let_go).await;
    }
}

#[tokio::test]
async fn an_uncopied_unary_reply_comes_whole() {
    let mut server = Server::start();
    let mut client = server.client().await;
    for size in [0, 100, 100_000] {
        let pending = client.open(request(HELD), Some(frame(b""))).await;
        let (framed, is_let_go) = uncopied(vec![7; size]);
        assert!(server.call().await.reply(Reply::ok(framed)));
        let answer = pending.answer().await;
        assert_eq!((answer.status(), answer.body), (0, frame(&vec![7; size])));
        let_go(&is_let_go).await;
    }
}

#[tokio::test]
async fn an_uncopied_message_of_a_client_that_vanishes_is_let_go() {
    let mut server = server(TransportConfig::default());
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b"go"))).await;
    let call = server.call().await;
    let (framed, is_let_go) = uncopied(vec![7; 4 << 20]);
    call.send_message(framed);
    drop(pending);
    client.vanish().await;
    let_go(&is_let_go).await;
}

#[test]
fn a_deadline_resets_a_stream_of_which_only_the_prefix_has_been_sent() {
    let mut server = server(TransportConfig::default());
    let mut client = FrameClient::connect(server.port, &[(4, 5)]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    client.send_request(1, HELD, END_STREAM, &[("grpc-timeout", "300m")]);
    let call = runtime.block_on(server.call());
    let (framed, is_let_go) = uncopied(vec![7; 100_000]);
    call.send_message(framed);
    let kinds: Vec<u8> = (0..3).map(|_| client.recv_frame().unwrap().kind).collect();
    assert_eq!(kinds, [HEADERS, DATA, RST_STREAM]);
    runtime.block_on(let_go(&is_let_go));
}

#[tokio::test]
async fn messages_that_ride_come_in_order_also_when_nobody_lets_them_go() {
    let mut server = server(TransportConfig::default());
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b"go"))).await;
    let call = server.call().await;
    let moment = clock::ticks(Duration::from_secs(3600));
    let start = Instant::now();
    let mut expected = Vec::new();
    let (mut number, mut rode) = (0_u32, 0);
    // The last one rides, too.
    while rode < 20 {
        let framed = frame(&number.to_be_bytes());
        expected.extend_from_slice(&framed);
        let (sent, rides) = call.send_riding(framed.into(), moment);
        assert_ne!(sent, Sent::Over);
        rode += u32::from(rides);
        number += 1;
        assert!(start.elapsed() < Duration::from_secs(30), "{rode}");
        // The connection falls asleep; what comes within a millisecond does not wake it.
        std::thread::sleep(Duration::from_micros(100));
    }
    let (mut body, mut come) = data_of(pending).await;
    while come.len() < expected.len() {
        let chunk = soon("data", body.data()).await.unwrap().unwrap();
        let _ = body.flow_control().release_capacity(chunk.len());
        come.extend_from_slice(&chunk);
    }
    assert_eq!(come, expected);
    assert!(call.reply(Reply::end()));
}

async fn data_of(mut pending: Pending) -> (h2::RecvStream, Vec<u8>) {
    let (body, chunk) = data(&mut pending).await;
    (body, chunk.to_vec())
}

#[tokio::test]
async fn a_later_message_over_the_limit_ends_the_call_with_the_status_that_says_so() {
    let config = TransportConfig {
        max_receive_message_size: 10,
        ..TransportConfig::default()
    };
    let mut server = server(config);
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    let call = server.call().await;
    pending.stream.send_data(frame(b"small"), false).unwrap();
    assert_eq!(next(&mut server, &call).await.unwrap(), "small");
    pending.stream.send_data(frame(&[0; 11]), false).unwrap();
    let answer = pending.answer().await;
    assert_eq!(answer.status(), Code::ResourceExhausted.as_u8());
    assert!(Arc::ptr_eq(&server.cancelled().await, &call));
    assert_eq!(call.cancelled_by(), Some(CancelReason::BadRequest));
    assert_eq!(server.transport.stats().bad_requests, 1);
    assert_eq!(server.transport.calls_in_flight(), 0);
}

#[tokio::test]
async fn a_stream_that_ends_in_the_middle_of_a_message_is_internal() {
    let mut server = server(TransportConfig::default());
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    let call = server.call().await;
    pending
        .stream
        .send_data(Bytes::from_static(b"\0\0\0\0\x09abc"), true)
        .unwrap();
    assert_eq!(pending.answer().await.status(), Code::Internal.as_u8());
    assert!(Arc::ptr_eq(&server.cancelled().await, &call));
}

#[tokio::test]
async fn a_client_that_resets_its_stream_cancels_the_call() {
    let mut server = server(TransportConfig::default());
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    let call = server.call().await;
    pending.stream.send_reset(h2::Reason::CANCEL);
    assert!(Arc::ptr_eq(&server.cancelled().await, &call));
    assert_eq!(call.cancelled_by(), Some(CancelReason::Client));
    assert_eq!(call.receive(), Received::Over);
    server
        .until("no call", |stats| stats.calls_in_flight == 0)
        .await;
}

#[tokio::test]
async fn a_call_may_be_answered_before_its_client_has_sent_everything() {
    let mut server = server(TransportConfig::default());
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    let call = server.call().await;
    call.send_message(frame(b"enough"));
    let (body, chunk) = data(&mut pending).await;
    assert_eq!(chunk, frame(b"enough"));
    drop(body);
    call.refuse(Status::new(Code::Aborted, "that will do"));
    server
        .until("no call", |stats| stats.calls_in_flight == 0)
        .await;
}

#[test]
fn a_reply_that_the_client_never_takes_is_given_up() {
    let config = TransportConfig {
        send_timeout: Duration::from_millis(100),
        ..TransportConfig::default()
    };
    let mut server = server(config);
    let mut client = FrameClient::connect(server.port, &[(4, 1000)]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    client.send_request(1, HELD, END_STREAM, &[]);
    let streaming = runtime.block_on(server.call());
    streaming.send_message(frame(&[1; 5000]));
    client.send_request(3, HELD, END_STREAM, &[]);
    let answered = runtime.block_on(server.call());
    answered.send_message(frame(&[1; 5000]));
    answered.reply(Reply::end());
    let mut resets = 0;
    while resets < 2 {
        if client.recv_frame().unwrap().kind == RST_STREAM {
            resets += 1;
        }
    }
    assert_eq!(streaming.cancelled_by(), Some(CancelReason::SlowClient));
    assert_eq!(server.transport.stats().stalled_replies, 2);
    assert_eq!(server.transport.calls_in_flight(), 0);
}

#[tokio::test]
async fn a_call_without_streaming_knows_no_messages() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client
        .open(builder(HELD).body(()).unwrap(), Some(frame(b"x")))
        .await;
    let call = server.call().await;
    assert_eq!(call.receive(), Received::End);
    assert_eq!(call.send_message(frame(b"y")), Sent::Over);
    call.reply(Reply::ok(frame(b"z")));
    assert_eq!(pending.answer().await.body, frame(b"z"));
}

/// Where the handler of a call lives that is not at its own target: told that the call is over.
#[derive(Default)]
struct Elsewhere(AtomicBool);

impl Dispatch for Elsewhere {
    fn dispatch(&self, _: &mut Vec<Arc<Call>>) {}

    fn cancelled(&self, _: &Arc<Call>) {}

    fn progress(&self, calls: &mut Vec<Arc<Call>>) {
        if calls.drain(..).any(|call| call.cancelled_by().is_some()) {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// Who has left, and with which position.
#[derive(Default)]
struct Told(Mutex<Vec<(u64, u64)>>);

impl Leavers for Told {
    fn left(&self, tag: u64, position: u64) {
        self.0.lock().unwrap().push((tag, position));
    }
}

#[test]
fn a_broadcast_reaches_every_stream_in_order_and_one_that_is_slow_misses_ends_or_leaves() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let leavers = Arc::new(Told::default());
    for slow in [
        SlowSubscriber::Misses,
        SlowSubscriber::Ends,
        SlowSubscriber::Leaves(Arc::<Told>::clone(&leavers)),
    ] {
        let mut server = server(TransportConfig::default());
        let broadcast = Broadcast::new(2000, slow.clone());
        let mut quick = FrameClient::connect(server.port, &[(4, 1 << 20)]);
        let mut stuck = FrameClient::connect(server.port, &[(4, 100)]);
        quick.send_request(1, HELD, END_STREAM, &[]);
        let first = runtime.block_on(server.call());
        let number = broadcast.subscribe(Arc::clone(&first), 1, 0);
        stuck.send_request(1, HELD, END_STREAM, &[]);
        let second = runtime.block_on(server.call());
        let elsewhere = Arc::new(Elsewhere::default());
        second.tell_also(Arc::<Elsewhere>::clone(&elsewhere), false);
        let stuck_number = broadcast.subscribe(Arc::clone(&second), 2, 0);
        assert_eq!(broadcast.stats().subscribers, 2);
        let mut expected = Vec::new();
        let mut received = Vec::new();
        assert!(broadcast.send(frame(b"first"), 0, 1).unwrap());
        assert_eq!(quick.recv_frame().unwrap().kind, HEADERS);
        expected.extend_from_slice(&frame(b"first"));
        for number in 1..11_u8 {
            let message = frame(&[number; 995]);
            expected.extend_from_slice(&message);
            let since = u64::from(number) * 10;
            assert!(broadcast.send(message, since, since + 5).unwrap());
            while received.len() < expected.len() {
                received.extend_from_slice(&quick.recv_frame().unwrap().payload);
            }
        }
        assert_eq!(received, expected);
        match slow {
            SlowSubscriber::Misses => {
                assert!(broadcast.stats().missed >= 7, "{broadcast:?}");
                assert_eq!(second.cancelled_by(), None);
            }
            SlowSubscriber::Ends => {
                assert_eq!(second.cancelled_by(), Some(CancelReason::SlowClient));
                let cancelled = runtime.block_on(server.cancelled());
                assert!(Arc::ptr_eq(&cancelled, &second));
                runtime.block_on(soon("the other target is told", async {
                    while !elsewhere.0.load(Ordering::Acquire) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }));
                assert_eq!(broadcast.stats().ended, 1);
                assert_eq!(broadcast.stats().subscribers, 1);
            }
            SlowSubscriber::Leaves(_) => {
                assert_eq!(second.cancelled_by(), None);
                let told = leavers.0.lock().unwrap().clone();
                let [(2, position)] = told[..] else {
                    panic!("one has left: {told:?}");
                };
                // What its first missed message does not tell it has.
                assert!(position >= 20 && position.is_multiple_of(10), "{position}");
                assert_eq!(broadcast.stats().left, 1);
                assert_eq!(broadcast.unsubscribe(stuck_number, &second), None);
            }
        }
        let got = broadcast.unsubscribe(number, &first);
        assert_eq!(got, Some(105));
        assert_eq!(broadcast.unsubscribe(number, &first), None);
        assert!(broadcast.stats().subscribers <= 1);
    }
}
