//! Clients that make things up: scripts of frames that are valid, nearly valid, or neither, each from one number.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, FrameClient, GOAWAY, HEADERS, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, encode, header_block,
};

/// `SplitMix64`: any number is a good seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Small and edge values are the interesting ones.
    fn number(&mut self) -> u32 {
        let any = self.next() as u32;
        self.one_of(&[
            0,
            1,
            2,
            3,
            100,
            16_384,
            65_535,
            65_536,
            (1 << 31) - 1,
            1 << 31,
            u32::MAX,
            any,
        ])
    }
}

/// One client's script in the making.
pub struct Inventor<'a> {
    random: Random,
    paths: &'a [&'a str],
    /// Whether frames are sent that end a connection; if not, it lives long enough to get into strange states.
    is_wild: bool,
    next_stream: u32,
    /// Streams whose request has no end yet.
    open: Vec<u32>,
    bytes: Vec<u8>,
}

impl<'a> Inventor<'a> {
    pub fn new(seed: u64, paths: &'a [&'a str]) -> Self {
        let mut random = Random::new(seed);
        Self {
            is_wild: random.once_in(2),
            random,
            paths,
            next_stream: 1,
            open: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Everything that the client will send.
    pub fn script(&mut self) -> Vec<u8> {
        self.greet();
        for _ in 0..=self.random.below(60) {
            let at = self.bytes.len();
            self.add_something();
            if self.wildly(20) {
                self.damage(at);
            }
        }
        std::mem::take(&mut self.bytes)
    }

    /// Once in `times` in a wild script.
    fn wildly(&mut self, times: usize) -> bool {
        self.random.once_in(times) && self.is_wild
    }

    fn greet(&mut self) {
        if self.wildly(20) {
            let greetings: [&[u8]; 5] = [
                b"GET /livez HTTP/1.1\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01",
                b"PRI * HTTP/2.0\r\n",
                b"",
                b"\xff\xff",
            ];
            let greeting = self.random.one_of(&greetings);
            return self.bytes.extend_from_slice(greeting);
        }
        self.bytes.extend_from_slice(PREFACE);
        self.add_settings();
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes.extend(encode(kind, flags, stream, payload));
    }

    /// Mostly one that is open or was.
    fn stream(&mut self) -> u32 {
        if self.wildly(15) {
            return self.random.number();
        }
        let opened = self.next_stream as usize / 2;
        2 * self.random.below(opened.max(1)) as u32 + 1
    }

    fn add_something(&mut self) {
        match self.random.below(20) {
            _ if self.next_stream == 1 && !self.is_wild => self.add_request(),
            0..=4 => self.add_request(),
            5..=8 => self.add_data(),
            9 => self.add_call(),
            10 => self.add_settings(),
            11 => {
                let (stream, code) = (self.stream(), self.random.number());
                self.frame(RST_STREAM, 0, stream, &code.to_be_bytes());
                self.open.retain(|open| *open != stream);
            }
            12 | 13 => {
                let stream = self.stream() * u32::from(self.random.once_in(2));
                let mut increment = 1 + self.random.below(10_000) as u32;
                if self.wildly(4) {
                    increment = self.random.number();
                }
                self.frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
            }
            14 => {
                let flags = self.random.one_of(&[0, 0, 0, 1, 0xff]);
                self.frame(6, flags, 0, b"01234567");
            }
            15 => {
                let stream = self.stream();
                let payload = self.random.number().to_be_bytes();
                self.frame(PRIORITY, 0, stream, &[&payload[..], &[7]].concat());
            }
            16 => {
                let (last, code) = (self.random.number(), self.random.number());
                let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
                if self.wildly(10) {
                    self.frame(GOAWAY, 0, 0, &payload);
                }
            }
            17 => {
                let (stream, block) = (self.stream(), self.random.bytes(30));
                let kind = self.random.one_of(&[CONTINUATION, PUSH_PROMISE, HEADERS]);
                if self.wildly(5) {
                    self.frame(kind, END_HEADERS, stream, &block);
                }
            }
            _ => {
                let kind = self.random.one_of(&[0xa, 0xb, 0xee, self.next_kind()]);
                let flags = self.random.next() as u8;
                let (stream, payload) = (self.stream(), self.random.bytes(40));
                if (kind > 9 && self.random.once_in(4)) || self.wildly(10) {
                    self.frame(kind, flags, stream, &payload);
                }
            }
        }
    }

    fn next_kind(&self) -> u8 {
        (self.next_stream % 10) as u8
    }

    fn add_settings(&mut self) {
        let mut payload = Vec::new();
        for _ in 0..self.random.below(4) {
            let identifier = self.random.below(9) as u16;
            // Often values that HTTP/2 allows.
            let value = match (identifier, self.wildly(10)) {
                (5, false) => 16_384 + self.random.below(50_000) as u32,
                (2 | 0, false) => 0,
                (8, false) => 1,
                (_, false) => self.random.below(100_000) as u32,
                (_, true) => self.random.number(),
            };
            payload.extend_from_slice(&identifier.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.frame(SETTINGS, 0, 0, &payload);
    }

    fn headers(&mut self) -> Vec<u8> {
        let path = self.random.one_of(self.paths);
        let timeouts = ["0n", "1m", "20m", "1S", "99999999H", "1", "-1S", ""];
        let mut more = Vec::new();
        for _ in 0..self.random.below(3) {
            let long = ["v"; 100].concat();
            match self.random.below(6) {
                0 | 1 => more.push(("grpc-timeout", self.random.one_of(&timeouts).to_owned())),
                2 => more.push((
                    "x-bytes-bin",
                    self.random
                        .one_of(&["AAE", "!", "AA,BB", "\u{e9}"])
                        .to_owned(),
                )),
                3 => more.push((
                    "grpc-encoding",
                    self.random.one_of(&["gzip", "identity", ""]).to_owned(),
                )),
                4 => {
                    let names = ["x", "x-y", "connection", "X-Upper", ":path", ""];
                    let most = if self.is_wild { 6 } else { 2 };
                    more.push((names[self.random.below(most)], long));
                }
                _ => more.push(("x-long", long)),
            }
        }
        let repeated = if self.random.once_in(30) { 300 } else { 1 };
        let more: Vec<_> = more
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        header_block(path, &more.repeat(repeated))
    }

    fn add_request(&mut self) {
        let stream = if self.wildly(20) {
            self.stream()
        } else {
            let stream = self.next_stream;
            self.next_stream += 2;
            stream
        };
        let block = self.headers();
        let flags = END_STREAM * u8::from(self.random.once_in(12));
        if self.random.once_in(10) {
            let cut = self.random.below(block.len());
            self.frame(HEADERS, flags, stream, &block[..cut]);
            self.frame(CONTINUATION, END_HEADERS, stream, &block[cut..]);
        } else {
            for piece in block.chunks(16_000) {
                let last = piece.as_ptr_range().end == block.as_ptr_range().end;
                let kind = if piece.as_ptr() == block.as_ptr() {
                    HEADERS
                } else {
                    CONTINUATION
                };
                self.frame(kind, flags | (END_HEADERS * u8::from(last)), stream, piece);
            }
        }
        if flags == 0 {
            self.open.push(stream);
            if self.random.once_in(2) {
                self.add_body(stream);
            }
        }
    }

    fn add_call(&mut self) {
        let stream = self.next_stream;
        self.next_stream += 2;
        let path = self.random.one_of(self.paths);
        self.frame(HEADERS, END_HEADERS, stream, &header_block(path, &[]));
        let message = self.random.bytes(200);
        let body = atoll_core::transport::frame(&message);
        self.frame(DATA, END_STREAM, stream, &body);
    }

    /// Messages, cut anywhere, with or without an end.
    fn add_body(&mut self, stream: u32) {
        let mut body = Vec::new();
        for _ in 0..=self.random.below(3) {
            let message = self.random.bytes(3000);
            body.extend_from_slice(&atoll_core::transport::frame(&message));
        }
        let ends = !self.random.once_in(3);
        let size = 1 + self.random.below(1500);
        for piece in body.chunks(size) {
            let last = piece.as_ptr_range().end == body.as_ptr_range().end;
            self.data(stream, END_STREAM * u8::from(last && ends), piece);
        }
    }

    fn add_data(&mut self) {
        let payload = self.random.bytes(60);
        let mut flags = END_STREAM * u8::from(self.random.once_in(4));
        let mut stream = self.stream();
        if self.is_wild && self.random.once_in(3) {
            flags |= 8;
        } else if self.open.is_empty() {
            return self.add_request();
        } else {
            stream = self.random.one_of(&self.open);
        }
        self.data(stream, flags, &payload);
    }

    fn data(&mut self, stream: u32, flags: u8, payload: &[u8]) {
        self.frame(DATA, flags, stream, payload);
        if flags & END_STREAM != 0 {
            self.open.retain(|open| *open != stream);
        }
    }

    /// A bit here and there of what was added last.
    fn damage(&mut self, from: usize) {
        let length = self.bytes.len() - from;
        for _ in 0..=self.random.below(3) {
            if length > 0 {
                let at = from + self.random.below(length);
                self.bytes[at] ^= 1 << self.random.below(8);
            }
        }
    }

    /// Connects, sends a script in pieces, reads as it likes, and leaves in one of several ways.
    pub fn play(mut self, port: u16) {
        let script = self.script();
        let random = &mut self.random;
        let client = FrameClient::connect_silently(port);
        let mut socket = client.socket();
        let briefly = Some(Duration::from_millis(5));
        socket.set_read_timeout(briefly).expect("a socket");
        socket.set_write_timeout(briefly).expect("a socket");
        let mut scrap = vec![0; 4096];
        let mut rest = &script[..];
        // One after the other, so that the server acts on one frame before the next.
        let is_slow = random.once_in(5);
        while !rest.is_empty() {
            let size = if is_slow || random.once_in(6) {
                1 + random.below(120)
            } else {
                rest.len()
            };
            let (piece, later) = rest.split_at(size.min(rest.len()));
            if socket.write_all(piece).is_err() {
                return;
            }
            rest = later;
            if is_slow {
                std::thread::sleep(Duration::from_micros(300));
            }
            if random.once_in(8) {
                // What comes, and whether anything does, is the server's business.
                let _ = std::io::Read::read(&mut socket, &mut scrap);
            }
        }
        match random.below(4) {
            0 => {}
            1 if random.once_in(15) => std::thread::sleep(Duration::from_millis(500)),
            1 => {
                let _ = socket.shutdown(Shutdown::Write);
                let _ = std::io::Read::read(&mut socket, &mut scrap);
            }
            _ => {
                for _ in 0..random.below(20) {
                    if !matches!(std::io::Read::read(&mut socket, &mut scrap), Ok(1..)) {
                        break;
                    }
                }
            }
        }
    }
}
