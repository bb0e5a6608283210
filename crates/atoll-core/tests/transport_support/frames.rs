//! A client that sends and receives single HTTP/2 frames, for what a well-behaved client would not do.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const PRIORITY: u8 = 0x2;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PUSH_PROMISE: u8 = 0x5;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;
pub const CONTINUATION: u8 = 0x9;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;

pub const PROTOCOL_ERROR: u32 = 0x1;
pub const CANCEL: u32 = 0x8;
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frames to be sent in one go, one sentence per frame.
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<u8>);

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    /// The same frames again and again.
    pub fn repeated(&self, times: usize) -> Self {
        Self(self.0.repeat(times))
    }

    pub fn then(mut self, other: &Self) -> Self {
        self.0.extend_from_slice(&other.0);
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn frame(self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        self.bytes(&encode(kind, flags, stream, payload))
    }

    /// The client's preface, without its settings.
    pub fn preface(self) -> Self {
        self.bytes(PREFACE)
    }

    pub fn settings(self, settings: &[(u16, u32)]) -> Self {
        let mut payload = Vec::new();
        for (identifier, value) in settings {
            payload.extend_from_slice(&identifier.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.frame(SETTINGS, 0, 0, &payload)
    }

    /// The headers of a gRPC request whose body follows.
    pub fn request(self, stream: u32, path: &str) -> Self {
        self.frame(HEADERS, END_HEADERS, stream, &header_block(path, &[]))
    }

    /// A whole unary call.
    pub fn call(self, stream: u32, path: &str, message: &[u8]) -> Self {
        let body = atoll_core::transport::frame(message);
        self.request(stream, path).last_data(stream, &body)
    }

    pub fn data(self, stream: u32, bytes: &[u8]) -> Self {
        self.frame(DATA, 0, stream, bytes)
    }

    pub fn last_data(self, stream: u32, bytes: &[u8]) -> Self {
        self.frame(DATA, END_STREAM, stream, bytes)
    }

    pub fn reset(self, stream: u32) -> Self {
        self.frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
    }

    pub fn ping(self) -> Self {
        self.frame(PING, 0, 0, b"pingping")
    }

    pub fn pong(self) -> Self {
        self.frame(PING, ACK, 0, b"pingping")
    }

    pub fn window_update(self, stream: u32, increment: u32) -> Self {
        self.frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
    }

    pub fn priority(self, stream: u32) -> Self {
        self.frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16])
    }
}

/// A GOAWAY: why, and in which words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    pub last_stream: u32,
    pub reason: u32,
    pub words: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// What a GOAWAY says.
    pub fn farewell(&self) -> Farewell {
        let number = |at: usize| u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap());
        Farewell {
            last_stream: number(0),
            reason: number(4),
            words: String::from_utf8(self.payload[8..].to_vec()).unwrap(),
        }
    }

    /// The error code of `RST_STREAM`, or of GOAWAY.
    pub fn error_code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

pub struct FrameClient {
    socket: TcpStream,
}

impl FrameClient {
    /// Connects, and greets with the given settings (`(identifier, value)`).
    pub fn connect(port: u16, settings: &[(u16, u32)]) -> Self {
        let mut client = Self::connect_silently(port);
        client.play(&Script::new().preface().settings(settings));
        client
    }

    /// Connects and says nothing.
    pub fn connect_silently(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("a listening server");
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket }
    }

    /// Sends all frames of a script at once.
    pub fn play(&mut self, script: &Script) {
        self.send_bytes(&script.0);
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        // A server may have closed the connection already; the tests look at what it sent before.
        let _ = self.socket.write_all(bytes);
    }

    pub fn send_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send_bytes(&encode(kind, flags, stream, payload));
    }

    /// The headers of a gRPC request, and more.
    pub fn send_request(&mut self, stream: u32, path: &str, flags: u8, more: &[(&str, &str)]) {
        let block = header_block(path, more);
        self.send_frame(HEADERS, END_HEADERS | flags, stream, &block);
    }

    /// The next frame; settings and pings are answered and left out. `None` at the end of the connection.
    pub fn recv_frame(&mut self) -> Option<Frame> {
        loop {
            let frame = self.recv_any_frame()?;
            match (frame.kind, frame.flags & ACK) {
                (SETTINGS | PING, ACK) | (WINDOW_UPDATE, _) => {}
                (SETTINGS, _) => self.send_frame(SETTINGS, ACK, 0, &[]),
                (PING, _) => self.send_frame(PING, ACK, 0, &frame.payload),
                _ => return Some(frame),
            }
        }
    }

    /// The next frame, whatever it is.
    pub fn recv_any_frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        if !self.read(&mut head) {
            return None;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if !self.read(&mut payload) {
            return None;
        }
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..].try_into().unwrap()) & (u32::MAX >> 1),
            payload,
        })
    }

    /// Reads until the server closes the connection.
    pub fn read_to_end(&mut self) {
        while self.recv_any_frame().is_some() {}
    }

    /// Reads until the server closes the connection, and gives its last GOAWAY.
    pub fn farewell(&mut self) -> Option<Farewell> {
        let mut last = None;
        while let Some(frame) = self.recv_any_frame() {
            if frame.kind == GOAWAY {
                last = Some(frame.farewell());
            }
        }
        last
    }

    /// Sends a ping and reads until its answer has come, which is when the server has read everything that was sent
    /// before. Gives the other frames.
    pub fn round_trip(&mut self) -> Vec<Frame> {
        self.play(&Script::new().ping());
        let mut others = Vec::new();
        loop {
            let frame = self.recv_any_frame().expect("an open connection");
            if frame.kind == PING && frame.flags & ACK != 0 {
                return others;
            }
            others.push(frame);
        }
    }

    /// All bytes until the server closes the connection, whatever they are.
    pub fn read_bytes_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset ends the connection as well.
        let _ = self.socket.read_to_end(&mut bytes);
        bytes
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn read(&mut self, buffer: &mut [u8]) -> bool {
        match self.socket.read_exact(buffer) {
            Ok(()) => true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server neither sent a frame nor closed the connection")
            }
            Err(_) => false,
        }
    }
}

pub fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// HPACK without compression: a literal that is not indexed (RFC 7541, section 6.2.2).
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127, "longer ones need another encoding");
        bytes.push(text.len() as u8);
        bytes.extend_from_slice(text);
    }
    bytes
}

/// The headers of a gRPC request, and more.
pub fn header_block(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test.example"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let headers = usual.iter().chain(more);
    headers
        .flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes()))
        .collect()
}
