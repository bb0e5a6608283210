//! Round trips to a client, and when something last came from it; after a call, too.

mod transport_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_core::transport::{
    Call, ConnectionHandle, FrameLimit, NoPong, Offence, Received, Reply, RoundTrip,
    TransportConfig, frame,
};
use tokio::sync::oneshot;
use transport_support::frames::{ACK, Frame, FrameClient, GOAWAY, PING, Script};
use transport_support::{ECHO, HELD, Server, request, soon};

const SHORT: Duration = Duration::from_millis(100);
/// Never, as far as a test can tell.
const LONG: Duration = Duration::from_secs(600);
/// Settings and the connection's window, so large that the server sends until the socket is full.
const LARGEST_WINDOW: u32 = u32::MAX >> 1;
const INITIAL_WINDOW_SIZE: u16 = 0x4;

struct Asked(oneshot::Receiver<RoundTrip>);

impl Asked {
    async fn outcome(self) -> RoundTrip {
        soon("the end of a ping", self.0).await.expect("an end")
    }
}

fn ask(connection: &ConnectionHandle, timeout: Duration) -> Asked {
    let (sender, receiver) = oneshot::channel();
    connection.ping(timeout, move |outcome| {
        let _ = sender.send(outcome);
    });
    Asked(receiver)
}

async fn connected(config: TransportConfig) -> (Server, FrameClient, Arc<Call>) {
    let mut server = Server::with_config(config);
    let mut client = FrameClient::connect(server.port, &[]);
    client.play(&Script::new().call(1, HELD, b""));
    let call = server.call().await;
    (server, client, call)
}

/// The next PING that asks for an answer.
fn ping(client: &mut FrameClient) -> Frame {
    loop {
        let frame = client.recv_any_frame().expect("a ping");
        if frame.kind == PING && frame.flags & ACK == 0 {
            return frame;
        }
    }
}

fn answer(client: &mut FrameClient, ping: &Frame) {
    client.send_frame(PING, ACK, 0, &ping.payload);
}

/// No PING has been sent until now.
fn has_not_been_pinged(client: &mut FrameClient) {
    let frames = client.round_trip();
    assert!(frames.iter().all(|frame| frame.kind != PING), "{frames:?}");
}

#[tokio::test]
async fn a_ping_tells_how_long_its_answer_took() {
    let (_server, mut client, call) = connected(TransportConfig::default()).await;
    let start = Instant::now();
    let asked = ask(&call.connection(), LONG);
    let first = ping(&mut client);
    std::thread::sleep(SHORT);
    answer(&mut client, &first);
    let took = asked.outcome().await.unwrap();
    assert!(took >= SHORT && took <= start.elapsed(), "{took:?}");
}

#[tokio::test]
async fn an_answer_is_for_those_who_asked_before_its_ping_and_others_get_the_next() {
    let (_server, mut client, call) = connected(TransportConfig::default()).await;
    let connection = call.connection();
    let early = ask(&connection, LONG);
    let first = ping(&mut client);
    let late: Vec<_> = (0..10).map(|_| ask(&connection, LONG)).collect();
    has_not_been_pinged(&mut client);
    std::thread::sleep(SHORT);
    let first_answered = Instant::now();
    answer(&mut client, &first);
    assert!(early.outcome().await.unwrap() >= SHORT);
    let second = ping(&mut client);
    answer(&mut client, &second);
    for asked in late {
        let took = asked.outcome().await.unwrap();
        let most = first_answered.elapsed();
        assert!(took <= most, "measured from its own ping: {took:?}");
    }
    has_not_been_pinged(&mut client);
}

#[tokio::test]
async fn a_ping_without_an_answer_times_out_and_the_connection_lives_on() {
    let (_server, mut client, call) = connected(TransportConfig::default()).await;
    let connection = call.connection();
    let start = Instant::now();
    let asked = ask(&connection, SHORT);
    let first = ping(&mut client);
    assert_eq!(asked.outcome().await, Err(NoPong::TimedOut));
    assert!(start.elapsed() >= SHORT);
    assert!(!connection.is_closed());
    let impatient = ask(&connection, SHORT);
    let patient = ask(&connection, LONG);
    assert_eq!(impatient.outcome().await, Err(NoPong::TimedOut));
    has_not_been_pinged(&mut client);
    answer(&mut client, &first);
    let second = ping(&mut client);
    answer(&mut client, &second);
    assert!(patient.outcome().await.is_ok());
}

#[tokio::test]
async fn a_lost_connection_ends_pings_at_once_and_refuses_more() {
    let (server, mut client, call) = connected(TransportConfig::default()).await;
    let connection = call.connection();
    let in_flight = ask(&connection, LONG);
    ping(&mut client);
    let late = ask(&connection, LONG);
    has_not_been_pinged(&mut client);
    drop(client);
    assert_eq!(in_flight.outcome().await, Err(NoPong::Closed));
    assert_eq!(late.outcome().await, Err(NoPong::Closed));
    assert!(connection.is_closed());
    assert_eq!(ask(&connection, LONG).outcome().await, Err(NoPong::Closed));
    server
        .until("it is gone", |stats| stats.connections == 0)
        .await;
    assert!(connection.peer().starts_with("ipv4:127.0.0.1:"));
}

#[tokio::test]
async fn who_remembers_a_connection_does_not_keep_it_and_may_ping_it_without_calls() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let pending = client.open(request(HELD), Some(frame(b""))).await;
    let call = server.call().await;
    let connection = call.connection();
    assert!(call.reply(Reply::ok(frame(b""))));
    drop(call);
    assert_eq!(pending.answer().await.status(), 0);
    assert!(ask(&connection, LONG).outcome().await.is_ok());
    assert!(ask(&connection, LONG).outcome().await.is_ok());
    client.vanish().await;
    server
        .until("it is gone", |stats| stats.connections == 0)
        .await;
    assert!(connection.is_closed());
}

#[tokio::test]
async fn pings_go_on_while_a_server_stops_and_end_with_it() {
    let (server, mut client, call) = connected(TransportConfig::default()).await;
    let connection = call.connection();
    server.transport.shutdown(Some(LONG), Box::new(|| ()));
    let asked = ask(&connection, LONG);
    let mut pings = 0;
    // GOAWAY comes with a ping of its own, which the other one waits for.
    while pings < 2 {
        let frame = client.recv_any_frame().expect("an open connection");
        assert!([PING, GOAWAY].contains(&frame.kind) || frame.stream == 0);
        if frame.kind == PING && frame.flags & ACK == 0 {
            answer(&mut client, &frame);
            pings += 1;
        }
    }
    assert!(asked.outcome().await.is_ok());
    let asked = ask(&connection, LONG);
    ping(&mut client);
    server.transport.shutdown(None, Box::new(|| ()));
    client.read_to_end();
    drop(client);
    assert_eq!(asked.outcome().await, Err(NoPong::Closed));
}

#[tokio::test]
async fn keepalive_and_others_ping_side_by_side() {
    let config = TransportConfig {
        keepalive_time: Some(Duration::from_millis(20)),
        keepalive_timeout: LONG,
        ..TransportConfig::default()
    };
    let (server, mut client, call) = connected(config).await;
    let connection = call.connection();
    for _ in 0..20 {
        let asked = ask(&connection, LONG);
        // Keepalive may have been first.
        let mut outcome = asked.0;
        while outcome.try_recv().is_err() {
            let frame = ping(&mut client);
            answer(&mut client, &frame);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(server.transport.stats().offences.total(), 0);
}

#[tokio::test]
async fn a_peer_that_keepalive_holds_for_dead_is_so_for_all() {
    let config = TransportConfig {
        keepalive_time: Some(SHORT),
        keepalive_timeout: SHORT,
        ..TransportConfig::default()
    };
    let (server, _client, call) = connected(config).await;
    let asked = ask(&call.connection(), LONG);
    assert_eq!(asked.outcome().await, Err(NoPong::Closed));
    assert_eq!(server.transport.stats().offences.get(Offence::DeadPeer), 1);
}

#[tokio::test]
async fn answers_to_our_pings_are_no_flood_and_others_are() {
    let config = TransportConfig {
        stray_frames: FrameLimit::new(3, LONG),
        ..TransportConfig::default()
    };
    let (server, mut client, call) = connected(config).await;
    let connection = call.connection();
    for _ in 0..20 {
        let asked = ask(&connection, LONG);
        let frame = ping(&mut client);
        answer(&mut client, &frame);
        assert!(asked.outcome().await.is_ok());
    }
    client.play(&Script::new().pong().repeated(3));
    client.round_trip();
    assert_eq!(server.transport.stats().offences.total(), 0);
    client.play(&Script::new().pong());
    client.read_to_end();
    let offences = server.transport.stats().offences;
    assert_eq!(offences.get(Offence::StrayFrameFlood), 1);
    assert!(connection.is_closed());
}

#[tokio::test]
async fn a_client_that_does_not_read_answers_no_ping_in_time() {
    let mut server = Server::start();
    let settings = [(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)];
    let mut client = FrameClient::connect(server.port, &settings);
    let more = LARGEST_WINDOW - 65_535;
    let script = Script::new().window_update(0, more).call(1, HELD, b"");
    client.play(&script);
    let call = server.call().await;
    let connection = call.connection();
    assert!(call.reply(Reply::ok(frame(&vec![0; 32 << 20]))));
    assert_eq!(
        ask(&connection, SHORT).outcome().await,
        Err(NoPong::TimedOut)
    );
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn connections_have_numbers_of_their_own_in_the_process() {
    let mut servers = [Server::start(), Server::start()];
    let (mut ids, mut clients) = (Vec::new(), Vec::new());
    for server in &mut servers {
        for _ in 0..2 {
            let mut client = FrameClient::connect(server.port, &[]);
            client.play(&Script::new().call(1, HELD, b"").call(3, HELD, b""));
            let batch = server.batch().await;
            let connections: Vec<_> = batch.iter().map(|call| call.connection().id()).collect();
            ids.push(connections[0]);
            assert!(connections.iter().all(|id| *id == connections[0]));
            clients.push(client);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn bytes_that_come_are_stamped_although_nobody_asks() {
    let (_server, mut client, call) = connected(TransportConfig::default()).await;
    let connection = call.connection();
    let first = connection.last_received();
    assert!(first <= Instant::now());
    std::thread::sleep(SHORT);
    assert_eq!(connection.last_received(), first);
    let before = Instant::now();
    client.round_trip();
    assert!(connection.last_received() >= before);
    client.play(&Script::new().call(3, ECHO, b""));
    drop(client);
    assert!(connection.last_received() <= Instant::now());
}

// When calls and messages came

#[tokio::test]
async fn a_unary_call_has_arrived_when_its_request_is_complete() {
    let mut server = Server::start();
    let mut client = FrameClient::connect(server.port, &[]);
    client.play(&Script::new().request(1, HELD));
    client.round_trip();
    let before = Instant::now();
    client.play(&Script::new().last_data(1, &frame(b"late")));
    let call = server.call().await;
    let known = Instant::now();
    std::thread::sleep(SHORT);
    assert!(before <= call.arrived() && call.arrived() <= known);
    assert_eq!(call.message_arrived(), Some(call.arrived()));
}

fn take(call: &Call) -> Instant {
    let received = call.receive();
    assert!(matches!(received, Received::Message(_)), "{received:?}");
    call.message_arrived().expect("a message was received")
}

#[tokio::test]
async fn messages_are_stamped_when_they_come_and_not_when_they_are_read() {
    let config = TransportConfig {
        request_buffer: 100,
        ..TransportConfig::default()
    };
    let streaming = |route: atoll_core::transport::Route| route.with_streaming(true, true);
    let mut server = Server::with_routes(config, streaming);
    let mut client = FrameClient::connect(server.port, &[]);
    let before = Instant::now();
    client.play(&Script::new().request(1, HELD));
    let call = server.call().await;
    assert_eq!(call.message_arrived(), None);
    let mut sent = Vec::new();
    for _ in 0..4 {
        // The third and the fourth find the buffer full.
        sent.push(Instant::now());
        client.play(&Script::new().data(1, &frame(b"message")));
        client.round_trip();
        std::thread::sleep(SHORT / 4);
    }
    let quiet = Instant::now();
    std::thread::sleep(SHORT);
    client.round_trip();
    let mut arrived = vec![take(&call), take(&call)];
    while arrived.len() < 4 {
        // The connection takes the rest up again.
        match call.receive() {
            Received::Message(_) => arrived.push(call.message_arrived().unwrap()),
            received => assert_eq!(received, Received::Nothing),
        }
        client.round_trip();
    }
    assert!(before <= call.arrived() && call.arrived() <= sent[0]);
    for (index, at) in arrived.iter().enumerate() {
        assert!(*at >= sent[index] && *at <= quiet, "message {index}");
    }
    assert!(arrived[0] < sent[1] && arrived[1] < sent[2]);
    assert_eq!(arrived[2], arrived[3], "kept together, as of the last one");
}
