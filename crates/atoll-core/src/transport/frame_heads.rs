//! Finds the frames in a stream of HTTP/2 bytes, whichever way it is cut, by their heads alone.

/// Length (24 bits), type, flags, stream (RFC 9113, section 4.1).
pub(super) const HEAD: usize = 9;

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PUSH_PROMISE: u8 = 0x5;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) length: u32,
}

impl FrameHead {
    fn read(bytes: &[u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Self {
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
            length: u32::from_be_bytes([0, a, b, c]),
        }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// A GOAWAY as bytes: the last stream that was looked at, the reason, and for people a word.
    pub(super) fn goaway(last_stream: u32, reason: u32, debug_data: &str) -> Vec<u8> {
        let length = 8 + debug_data.len() as u32;
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[GOAWAY, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&last_stream.to_be_bytes());
        bytes.extend_from_slice(&reason.to_be_bytes());
        bytes.extend_from_slice(debug_data.as_bytes());
        bytes
    }
}

/// Where in the stream of frames the bytes are that come next.
#[derive(Debug)]
pub(super) struct FrameHeads {
    /// Bytes until the next head: the rest of a payload, or of the client's preface.
    skip: u32,
    /// A head that was cut, and how much of it is here.
    partial: [u8; HEAD],
    filled: u8,
}

impl FrameHeads {
    /// Frames that begin after `skip` other bytes.
    pub(super) fn after(skip: u32) -> Self {
        Self {
            skip,
            partial: [0; HEAD],
            filled: 0,
        }
    }

    /// How much is left of the payload that comes next.
    pub(super) fn rest(&self) -> u32 {
        self.skip
    }

    /// The next head whose end is in `bytes`, from `at` on, which moves behind it; `None` when there is no further one.
    pub(super) fn next(&mut self, bytes: &[u8], at: &mut usize) -> Option<FrameHead> {
        let skipped = (self.skip as usize).min(bytes.len() - *at);
        self.skip -= skipped as u32;
        *at += skipped;
        let rest = &bytes[*at..];
        let head = match rest.first_chunk() {
            Some(whole) if self.filled == 0 => {
                *at += HEAD;
                FrameHead::read(whole)
            }
            _ => {
                let filled = usize::from(self.filled);
                let taken = rest.len().min(HEAD - filled);
                self.partial[filled..filled + taken].copy_from_slice(&rest[..taken]);
                *at += taken;
                self.filled += taken as u8;
                if usize::from(self.filled) < HEAD {
                    return None;
                }
                self.filled = 0;
                FrameHead::read(&self.partial)
            }
        };
        self.skip = head.length;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<u8> {
        let mut bytes = b"preface".to_vec();
        bytes.extend_from_slice(b"\0\0\x03\x00\x01\0\0\0\x05abc");
        bytes.extend_from_slice(b"\0\0\0\x04\x00\0\0\0\0");
        bytes.extend_from_slice(b"\0\x01\x00\x01\x04\x80\0\0\x07");
        bytes.resize(bytes.len() + 256, 0xff);
        bytes.extend_from_slice(&FrameHead::goaway(7, 0xb, "why"));
        bytes
    }

    fn heads(chunks: &[&[u8]]) -> Vec<(u8, u8, u32, u32)> {
        let mut heads = FrameHeads::after(7);
        let mut found = Vec::new();
        for chunk in chunks {
            let mut at = 0;
            while let Some(head) = heads.next(chunk, &mut at) {
                found.push((head.kind, head.flags, head.stream, head.length));
            }
            assert_eq!(at, chunk.len());
        }
        found
    }

    #[test]
    fn heads_are_found_whichever_way_the_bytes_are_cut() {
        let bytes = frames();
        let expected = [
            (DATA, END_STREAM, 5, 3),
            (SETTINGS, 0, 0, 0),
            (HEADERS, 4, 7, 256),
            (GOAWAY, 0, 0, 11),
        ];
        assert_eq!(heads(&[&bytes]), expected);
        for first in 0..bytes.len() {
            let (one, rest) = bytes.split_at(first);
            assert_eq!(heads(&[one, rest]), expected, "cut at {first}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(heads(&single), expected);
    }
}
