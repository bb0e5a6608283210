//! Streams of requests that stop in the middle of a message.

mod transport_support;

use std::sync::Arc;
use std::time::Duration;

use atoll_core::transport::{
    CancelReason, Gate, Offence, Received, Refused, Reply, TransportConfig, WhenFull, frame,
};
use bytes::Bytes;
use transport_support::{HELD, Server, request};

const SHORT: Duration = Duration::from_millis(200);

fn config() -> TransportConfig {
    TransportConfig {
        body_timeout: Some(SHORT),
        request_buffer: 8 << 10,
        ..TransportConfig::default()
    }
}

fn server() -> Server {
    Server::with_routes(config(), |held| held.with_streaming(true, true))
}

#[tokio::test]
async fn a_stream_that_stops_in_the_middle_of_a_message_is_given_up_and_counted() {
    let mut server = server();
    let mut client = server.client().await;
    let beginnings: [&[u8]; 3] = [b"\0", b"\0\0\0\0\x05ab", b"\0\0\0\0\x01a\0\0"];
    for beginning in beginnings {
        let mut pending = client.open(request(HELD), None).await;
        let call = server.call().await;
        assert!(call.begin());
        pending
            .stream
            .send_data(Bytes::copy_from_slice(beginning), false)
            .unwrap();
        let answer = pending.answer().await;
        assert_eq!(answer.status(), 4);
        let text = answer.message();
        assert!(text.contains("no progress for 0.2 s"), "{text}");
        assert_eq!(call.cancelled_by(), Some(CancelReason::SlowBody));
        while !matches!(server.told().await, transport_support::Told::Cancelled(_)) {}
    }
    let stats = server.transport.stats();
    assert_eq!(stats.offences.get(Offence::SlowBody), 3);
    assert_eq!(stats.calls_in_flight, 0);
}

#[tokio::test]
async fn a_stream_that_stops_while_it_waits_for_its_place_is_refused_as_slow() {
    let gate = Arc::new(Gate::new(1));
    let mut server = Server::with_routes(config(), |held| {
        held.with_streaming(true, true)
            .with_gate(gate, WhenFull::Wait)
    });
    let mut client = server.client().await;
    let first = client.open(request(HELD), None).await;
    let call = server.call().await;
    let mut pending = client.open(request(HELD), None).await;
    let beginning = Bytes::from_static(b"\0\0\0\0\x05ab");
    pending.stream.send_data(beginning, false).unwrap();
    assert_eq!(pending.answer().await.status(), 4);
    let route = server.transport.routes().find(HELD).map(Arc::clone);
    let stats = route.expect("a route").stats();
    assert_eq!(stats.refused[Refused::SlowBody as usize], 1);
    assert_eq!(stats.refused[Refused::BadRequest as usize], 0);
    assert_eq!(stats.finished[4], 1);
    assert!(call.reply(Reply::end()));
    assert_eq!(first.answer().await.status(), 0);
}

#[tokio::test]
async fn a_stream_without_a_message_under_way_may_be_silent_for_as_long_as_it_likes() {
    let mut server = server();
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    let call = server.call().await;
    for _ in 0..2 {
        tokio::time::sleep(3 * SHORT).await;
        pending.stream.send_data(frame(b"whole"), false).unwrap();
    }
    tokio::time::sleep(3 * SHORT).await;
    assert!(call.reply(Reply::end()));
    assert_eq!(pending.answer().await.status(), 0);
}

#[tokio::test]
async fn a_stream_whose_handler_does_not_read_is_not_slow() {
    let mut server = server();
    let mut client = server.client().await;
    let mut pending = client.open(request(HELD), None).await;
    let call = server.call().await;
    // More than the buffer and in the middle of a message.
    let all = [frame(&vec![1; 20_000]), frame(&vec![2; 20_000])].concat();
    let (first, rest) = all.split_at(30_000);
    let send = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    pending.stream.send_data(send(first), false).unwrap();
    tokio::time::sleep(4 * SHORT).await;
    assert_eq!(call.cancelled_by(), None);
    pending.stream.send_data(send(rest), true).unwrap();
    let mut sizes = Vec::new();
    loop {
        match call.receive() {
            Received::Message(message) => sizes.push(message.bytes.len()),
            Received::End => break,
            Received::Nothing => tokio::time::sleep(Duration::from_millis(1)).await,
            Received::Over => panic!("the call is over"),
        }
    }
    assert_eq!(sizes, [20_000, 20_000]);
    assert!(call.reply(Reply::end()));
    assert_eq!(pending.answer().await.status(), 0);
}
