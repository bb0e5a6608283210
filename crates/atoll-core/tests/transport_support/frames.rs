//! A client that sends and receives single HTTP/2 frames, for what a well-behaved client would not do.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;

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
        client.send_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut payload = Vec::new();
        for (identifier, value) in settings {
            payload.extend_from_slice(&identifier.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        client.send_frame(SETTINGS, 0, 0, &payload);
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

/// HPACK without compression: each header a literal that is not indexed.
pub fn header_block(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test.example"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in usual.iter().chain(more) {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "longer ones need another encoding");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
