//! Handlers that do not read: what their connection holds for them is bounded, and its other streams go on.

mod transport_support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_core::transport::{Call, FrameLimit, Received, Reply, TransportConfig, frame};
use bytes::Bytes;
use transport_support::frames::{ACK, DATA, Frame, FrameClient, SETTINGS, Script, WINDOW_UPDATE};
use transport_support::{ECHO, HELD, Server, request};

const STREAM_WINDOW: usize = 64 << 10;
const CONNECTION_WINDOW: usize = 256 << 10;
const MOST_UNREAD: usize = 4 << 20;
const STREAMS: usize = 100;

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u16 = 4;

/// What a stream may still send when half of what is allowed is held.
const TIGHT: usize = (MOST_UNREAD / 2 - CONNECTION_WINDOW) / STREAMS;

fn config() -> TransportConfig {
    TransportConfig {
        initial_stream_window: STREAM_WINDOW as u32,
        initial_connection_window: CONNECTION_WINDOW as u32,
        max_unread_bytes: MOST_UNREAD,
        max_concurrent_streams: STREAMS as u32,
        request_buffer: 8 << 10,
        // A ping per step tells the client what the server has said.
        pings: FrameLimit::new(u32::MAX, Duration::from_secs(1)),
        ..TransportConfig::default()
    }
}

fn server() -> Server {
    Server::with_routes(config(), |held| held.with_streaming(true, true))
}

#[tokio::test]
async fn many_handlers_that_do_not_read_hold_up_no_other_stream_of_their_connection() {
    let mut server = server();
    let mut client = server.client().await;
    let mut stuck = Vec::new();
    for _ in 0..STREAMS - 1 {
        let mut pending = client.open(request(HELD), None).await;
        // Far more than its window: it is sent as far as the server lets it be.
        for _ in 0..20 {
            let message = frame(&[1; 10_000]);
            pending.stream.send_data(message, false).unwrap();
        }
        stuck.push(pending);
    }
    let mut calls = Vec::new();
    while calls.len() < stuck.len() {
        calls.extend(server.batch().await);
    }
    for _ in 0..3 {
        let answer = client.call(ECHO, &vec![7; 1 << 20]).await;
        assert_eq!((answer.status(), answer.body.len()), (0, 5 + (1 << 20)));
    }
    // Once the handlers read, everything that was sent comes.
    for pending in &mut stuck {
        pending.stream.send_data(Bytes::new(), true).unwrap();
    }
    for call in &calls {
        assert!(call.begin());
        assert_eq!(read_to_end(call).await, 20);
        assert!(call.reply(Reply::end()));
    }
    for pending in stuck {
        assert_eq!(pending.answer().await.status(), 0);
    }
    assert_eq!(client.call(ECHO, &vec![7; 1 << 20]).await.status(), 0);
}

async fn read_to_end(call: &Arc<Call>) -> usize {
    let start = Instant::now();
    let mut messages = 0;
    loop {
        match call.receive() {
            Received::Message(_) => messages += 1,
            Received::End => return messages,
            Received::Nothing => tokio::time::sleep(Duration::from_millis(1)).await,
            Received::Over => panic!("the call is over"),
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{messages}");
    }
}

/// A client that keeps account of its windows.
struct Accountant {
    client: FrameClient,
    /// What it may send on the connection.
    window: usize,
    /// What it was ever allowed to send there.
    allowed: usize,
    /// The window of new streams that the server last asked for.
    stream_window: Option<usize>,
    /// SETTINGS that the server has sent.
    settings: usize,
    acknowledges: bool,
    /// How far the windows of streams were opened.
    opened: HashMap<u32, usize>,
}

impl Accountant {
    fn connect(server: &Server, acknowledges: bool) -> Self {
        let mut accountant = Self {
            client: FrameClient::connect(server.port, &[]),
            window: 65_535,
            allowed: 65_535,
            stream_window: None,
            settings: 0,
            acknowledges: true,
            opened: HashMap::new(),
        };
        accountant.look();
        accountant.acknowledges = acknowledges;
        accountant
    }

    /// Everything that the server has said so far.
    fn look(&mut self) {
        for frame in self.client.round_trip() {
            self.account(&frame);
        }
    }

    fn account(&mut self, frame: &Frame) {
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        match (frame.kind, frame.stream, frame.flags & ACK) {
            (WINDOW_UPDATE, 0, _) => {
                let more = number(&frame.payload) as usize;
                self.window += more;
                self.allowed += more;
            }
            (WINDOW_UPDATE, stream, _) => {
                *self.opened.entry(stream).or_default() += number(&frame.payload) as usize;
            }
            (SETTINGS, _, 0) => {
                self.settings += 1;
                for setting in frame.payload.chunks(6) {
                    if setting[..2] == INITIAL_WINDOW.to_be_bytes() {
                        self.stream_window = Some(number(&setting[2..]) as usize);
                    }
                }
                if self.acknowledges {
                    self.client.send_frame(SETTINGS, ACK, 0, &[]);
                }
            }
            _ => {}
        }
    }

    /// Sends `bytes` of one message that is never complete on a stream, as far as the connection's window goes.
    fn fill(&mut self, stream: u32, bytes: usize) {
        let mut left = bytes.min(self.window);
        self.window -= left;
        while left > 0 {
            let size = left.min(16 << 10);
            // Messages of 1,019 bytes with their prefixes.
            let body = frame(&[0; 1019]).repeat(size / 1024);
            let size = body.len();
            if size == 0 {
                self.window += left;
                return;
            }
            self.client.send_frame(DATA, 0, stream, &body);
            left -= size;
        }
    }
}

#[tokio::test]
async fn a_client_that_ignores_smaller_windows_is_held_to_the_connections() {
    let mut server = server();
    let mut client = Accountant::connect(&server, false);
    for index in 0..STREAMS as u32 {
        let stream = 2 * index + 1;
        client.client.send_request(stream, HELD, 0, &[]);
        client.fill(stream, STREAM_WINDOW);
        client.look();
    }
    let mut calls = 0;
    while calls < STREAMS {
        calls += server.batch().await.len();
    }
    assert_eq!(client.stream_window, Some(TIGHT));
    // What is held besides are messages that have been decoded, up to the request buffer and one piece.
    let decoded = STREAMS * (32 << 10);
    let bound = CONNECTION_WINDOW + MOST_UNREAD + decoded;
    assert!(client.allowed <= bound, "{} of {bound}", client.allowed);
    assert!(client.allowed > MOST_UNREAD, "{}", client.allowed);
}

#[tokio::test]
async fn streams_have_their_full_windows_again_when_the_handlers_read() {
    let mut server = server();
    let mut client = Accountant::connect(&server, true);
    let mut calls = Vec::new();
    let mut stream = 1;
    while client.stream_window != Some(TIGHT) {
        client.client.send_request(stream, HELD, 0, &[]);
        client.fill(stream, STREAM_WINDOW);
        client.look();
        calls.extend(server.batch().await);
        stream += 2;
        assert!(calls.len() < STREAMS);
    }
    for call in &calls {
        assert!(call.begin());
        while matches!(call.receive(), Received::Message(_)) {}
    }
    let start = Instant::now();
    while client.stream_window != Some(STREAM_WINDOW) {
        for call in &calls {
            while matches!(call.receive(), Received::Message(_)) {}
        }
        client.look();
        assert!(start.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_stream_whose_bytes_were_all_read_is_open_after_the_windows_have_shrunk() {
    let mut server = server();
    let mut client = Accountant::connect(&server, true);
    // Less than what h2 would tell the client of, and more than the small window.
    let sent = 20 << 10;
    client.client.send_request(1, HELD, 0, &[]);
    client.fill(1, sent);
    let call = server.call().await;
    let start = Instant::now();
    let mut read = 0;
    while read < sent {
        if let Received::Message(message) = call.receive() {
            read += message.bytes.len() + 5;
        }
        client.look();
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    assert_eq!(client.opened.get(&1), None);
    let mut stream = 3;
    while client.stream_window != Some(TIGHT) {
        client.client.send_request(stream, HELD, 0, &[]);
        client.fill(stream, STREAM_WINDOW);
        client.look();
        stream += 2;
    }
    while client.opened.get(&1) != Some(&sent) {
        client.look();
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "it is closed for ever"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn answers_to_the_servers_own_settings_are_no_flood_however_often_the_windows_change() {
    let most_settings = 100;
    let server = Server::with_routes(
        TransportConfig {
            initial_connection_window: 128 << 10,
            max_unread_bytes: 1 << 20,
            max_concurrent_streams: 20,
            settings: FrameLimit::new(most_settings, Duration::from_secs(3600)),
            close_timeout: Duration::from_secs(10),
            ..config()
        },
        |held| held.with_streaming(true, true),
    );
    let mut client = Accountant::connect(&server, true);
    let start = Instant::now();
    let mut stream = 1;
    for swing in 0..70 {
        let first = stream;
        let is_tight = |client: &Accountant| client.stream_window < Some(STREAM_WINDOW);
        while !is_tight(&client) {
            client.client.send_request(stream, HELD, 0, &[]);
            client.fill(stream, STREAM_WINDOW);
            client.look();
            stream += 2;
            assert!(start.elapsed() < Duration::from_secs(60), "{swing}");
        }
        // What was held goes with the calls, to which no reply earns the client anything.
        for stream in (first..stream).step_by(2) {
            client.client.play(&Script::new().reset(stream));
        }
        while is_tight(&client) {
            client.look();
            assert!(start.elapsed() < Duration::from_secs(60), "{swing}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(client.settings > most_settings as usize);
    assert_eq!(server.transport.stats().offences.total(), 0);
    // Those that nobody has asked for count as ever.
    let settings = Script::new().settings(&[]);
    client
        .client
        .play(&settings.repeated(most_settings as usize + 1));
    let farewell = client.client.farewell().expect("a GOAWAY");
    assert_eq!(farewell.words, "settings_flood");
}
