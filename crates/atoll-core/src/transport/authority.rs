//! Makes the `:authority` of clients on Unix sockets one that h2 accepts.
//!
//! Of the socket's path C-core makes a host name, `tmp%2Fatoll.sock`. RFC 3986 allows that, but h2 takes an authority through
//! `http::uri::Authority`, which has no `%` there, and answers `PROTOCOL_ERROR` (hyperium/h2#487). So each `%` in the literal
//! value of an `:authority` becomes a `-`: it is one byte for another, so that lengths and HPACK's tables stay as they are. Values in
//! Huffman code, which C-core does not use, pass as they are, and so does everything else.
//!
//! It follows the field lines of RFC 7541, section 6, without decoding them, byte by byte, however frames and reads cut them.
//! What is malformed is left to h2, which ends the connection.

use super::frame_heads::{CONTINUATION, FrameHead, FrameHeads, HEADERS};

const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const AUTHORITY: &[u8] = b":authority";
/// Of `:authority` in the static table.
const AUTHORITY_INDEX: u32 = 1;

/// What comes next in a header block.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// A field line, or a change of the table's size.
    Field,
    /// The rest of one that is only a number.
    Number,
    NameLength,
    Name {
        left: u32,
    },
    ValueLength,
    Value {
        left: u32,
    },
}

/// An integer whose first byte said that more follow.
#[derive(Clone, Copy, Debug)]
struct Number {
    value: u32,
    shift: u32,
}

/// Follows the frames of one connection.
pub(super) struct AuthorityMender {
    heads: FrameHeads,
    /// Bytes before the block of the present frame: the length of its padding, its priority.
    lead: u8,
    is_padded: bool,
    /// Bytes of the block that are left in the present frame.
    block: u32,
    next: Next,
    number: Option<Number>,
    is_huffman: bool,
    /// As far as the name has been read, it is `:authority`.
    is_authority: bool,
}

impl AuthorityMender {
    /// Follows frames that begin after `skip` other bytes.
    pub(super) fn after(skip: u32) -> Self {
        Self {
            heads: FrameHeads::after(skip),
            lead: 0,
            is_padded: false,
            block: 0,
            next: Next::Field,
            number: None,
            is_huffman: false,
            is_authority: false,
        }
    }

    /// Looks at the bytes that come next, and mends them.
    pub(super) fn mend(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        loop {
            let payload = (self.heads.rest() as usize).min(bytes.len() - at);
            if self.block > 0 || self.lead > 0 {
                for byte in &mut bytes[at..at + payload] {
                    self.follow_payload(byte);
                }
            }
            let Some(head) = self.heads.next(bytes, &mut at) else {
                return;
            };
            self.begin(head);
        }
    }

    fn begin(&mut self, head: FrameHead) {
        let is_first = head.kind == HEADERS;
        if is_first {
            self.next = Next::Field;
            self.number = None;
        }
        self.is_padded = is_first && head.has(PADDED);
        self.lead = u8::from(self.is_padded);
        if is_first && head.has(PRIORITY) {
            self.lead += 5;
        }
        self.block = match head.kind {
            HEADERS | CONTINUATION => head.length.saturating_sub(u32::from(self.lead)),
            _ => 0,
        };
    }

    fn follow_payload(&mut self, byte: &mut u8) {
        if self.lead > 0 {
            if std::mem::take(&mut self.is_padded) {
                self.block = self.block.saturating_sub(u32::from(*byte));
            }
            self.lead -= 1;
        } else if self.block > 0 {
            self.block -= 1;
            self.follow_block(byte);
        }
    }

    fn follow_block(&mut self, byte: &mut u8) {
        if let Some(number) = self.number {
            return self.follow_number(number, *byte);
        }
        match self.next {
            Next::Field | Next::Number => {
                // An indexed field, a literal that goes into the table, a change of the table's size, other literals.
                let (prefix, is_literal) = match *byte {
                    0x80.. => (7, false),
                    0x40.. => (6, true),
                    0x20.. => (5, false),
                    _ => (4, true),
                };
                self.next = if is_literal {
                    Next::Field
                } else {
                    Next::Number
                };
                self.begin_number(*byte, prefix);
            }
            Next::NameLength | Next::ValueLength => {
                self.is_huffman = *byte & 0x80 != 0;
                self.begin_number(*byte, 7);
            }
            Next::Name { left } => {
                let position = AUTHORITY.len().checked_sub(left as usize);
                let expected = position.and_then(|position| AUTHORITY.get(position));
                self.is_authority &= expected == Some(byte);
                self.next = match left {
                    1 => Next::ValueLength,
                    _ => Next::Name { left: left - 1 },
                };
            }
            Next::Value { left } => {
                if self.is_authority && !self.is_huffman && *byte == b'%' {
                    *byte = b'-';
                }
                self.next = match left {
                    1 => Next::Field,
                    _ => Next::Value { left: left - 1 },
                };
            }
        }
    }

    /// RFC 7541, section 5.1.
    fn begin_number(&mut self, byte: u8, prefix: u32) {
        let most = (1 << prefix) - 1;
        let value = u32::from(byte) & most;
        if value == most {
            self.number = Some(Number { value, shift: 0 });
        } else {
            self.read_number(value);
        }
    }

    fn follow_number(&mut self, number: Number, byte: u8) {
        let digit = u32::from(byte & 0x7f);
        let more = digit.checked_shl(number.shift).unwrap_or(u32::MAX);
        let value = number.value.saturating_add(more);
        self.number = (byte & 0x80 != 0).then_some(Number {
            value,
            shift: number.shift.saturating_add(7),
        });
        if self.number.is_none() {
            self.read_number(value);
        }
    }

    fn read_number(&mut self, value: u32) {
        self.next = match self.next {
            Next::Number => Next::Field,
            Next::Field if value == 0 => Next::NameLength,
            Next::Field => {
                self.is_authority = value == AUTHORITY_INDEX;
                Next::ValueLength
            }
            Next::NameLength => {
                self.is_authority = !self.is_huffman && value as usize == AUTHORITY.len();
                match value {
                    0 => Next::ValueLength,
                    left => Next::Name { left },
                }
            }
            Next::ValueLength | Next::Name { .. } | Next::Value { .. } => match value {
                0 => Next::Field,
                left => Next::Value { left },
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
        bytes.extend_from_slice(payload);
        bytes
    }

    /// A literal that goes into the table, with a name of its own.
    fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x40];
        for text in [name, value] {
            // Below 127 in one byte, below 255 in two.
            match text.len() {
                0..127 => bytes.push(text.len() as u8),
                more => bytes.extend_from_slice(&[127, (more - 127) as u8]),
            }
            bytes.extend_from_slice(text);
        }
        bytes
    }

    /// As it is sent, and as h2 is to get it.
    fn frames() -> (Vec<u8>, Vec<u8>) {
        let long_path = "tmp%2F".repeat(30);
        let block = |authority: &str, long: &str| {
            [
                b"\x3f\xe1\x1f".to_vec(), // the table's size is 4096
                literal(b":path", b"/a%2Fb"),
                vec![0x83, 0x86],
                literal(AUTHORITY, authority.as_bytes()),
                literal(b":authoritz", b"%"),
                literal(b"", b"%"),
                literal(AUTHORITY, b""),
                literal(b"x", "%".repeat(200).as_bytes()),
                vec![0xff, 0x80, 0x01],      // a large index
                b"\x41\x03%25".to_vec(),     // the authority by its index, replaced below
                b"\x01\x83%%%".to_vec(),     // the authority in Huffman code
                b"\x0f\x2f\x03%25".to_vec(), // another name by a large index
                literal(AUTHORITY, long.as_bytes()),
            ]
            .concat()
        };
        let all = |block: &[u8], by_index: &[u8]| {
            let place = block.windows(5).position(|bytes| bytes == b"\x41\x03%25");
            let place = place.unwrap() + 2;
            let mut block = block.to_vec();
            block[place..place + 3].copy_from_slice(by_index);
            let padded = [&[4, 0, 0, 0, 0, 9], &block[..], b"%%%%"].concat();
            let (first, rest) = block.split_at(70);
            [
                b"PRI %".to_vec(),
                frame(4, 0, b"%%%%%%"),
                frame(HEADERS, 4, &block),
                frame(0, 1, b"\x41\x03%25"),
                frame(HEADERS, 4 | PADDED | PRIORITY, &padded),
                frame(HEADERS, 0, first),
                frame(CONTINUATION, 0, &rest[..9]),
                frame(CONTINUATION, 4, &rest[9..]),
                frame(HEADERS, 4, b"\x41\x01%"),
            ]
            .concat()
        };
        let sent = all(&block("tmp%2Fx.sock", &long_path), b"%25");
        let dashes = long_path.replace('%', "-");
        let mut mended = all(&block("tmp-2Fx.sock", &dashes), b"-25");
        *mended.last_mut().unwrap() = b'-';
        (sent, mended)
    }

    #[test]
    fn percent_signs_of_the_authority_are_replaced_and_nothing_else_however_the_bytes_are_cut() {
        let (sent, expected) = frames();
        let cut = |sizes: &dyn Fn(usize) -> usize| {
            let mut mender = AuthorityMender::after(5);
            let mut bytes = sent.clone();
            let (mut rest, mut turn) = (&mut bytes[..], 0);
            while !rest.is_empty() {
                let size = sizes(turn).min(rest.len());
                turn += 1;
                let (part, others) = std::mem::take(&mut rest).split_at_mut(size);
                mender.mend(part);
                rest = others;
            }
            bytes
        };
        assert_eq!(cut(&|_| usize::MAX), expected);
        for size in 1..40 {
            assert_eq!(cut(&|_| size), expected, "in pieces of {size}");
            assert_eq!(cut(&|turn| 1 + (turn * 7 + size) % 23), expected);
        }
    }

    #[test]
    fn no_bytes_make_it_fail() {
        let mut state = 1_u64;
        for _ in 0..2000 {
            let mut mender = AuthorityMender::after(0);
            let payload: Vec<u8> = (0..200)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let flags = payload[0];
            let mut bytes = [
                frame(HEADERS, flags, &payload),
                frame(HEADERS, flags, &payload[..3]),
                frame(
                    CONTINUATION,
                    flags,
                    b"\x40\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                ),
                payload,
            ]
            .concat();
            mender.mend(&mut bytes);
        }
    }
}
