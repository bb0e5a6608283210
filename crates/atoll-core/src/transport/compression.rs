//! Compression of single messages: gRPC's `gzip` and `deflate` (which is zlib's format).
//!
//! It runs on the thread of whoever asks, never on a network thread: a module that wants compression pays for it alone.

use std::io::{self, Read, Write};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use super::reply::{MESSAGE_PREFIX, frame};
use super::status::{Code, Status};

/// How messages of a call may be compressed. The numbers are those of `grpc.Compression`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// Not at all.
    #[default]
    Identity = 0,
    /// zlib's format (RFC 1950).
    Deflate = 1,
    /// RFC 1952.
    Gzip = 2,
}

/// All encodings, as `grpc-accept-encoding` lists them.
pub(super) const ENCODINGS: &str = "identity,deflate,gzip";

/// The level: what gRPC's other servers use.
const LEVEL: u32 = 6;

impl Encoding {
    /// The encoding of a number, or `None` for one that stands for none.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        [Self::Identity, Self::Deflate, Self::Gzip]
            .into_iter()
            .find(|encoding| *encoding as u8 == number)
    }

    /// The encoding with a name in `grpc-encoding`.
    pub(super) fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"identity" => Some(Self::Identity),
            b"deflate" => Some(Self::Deflate),
            b"gzip" => Some(Self::Gzip),
            _ => None,
        }
    }

    /// Its name in `grpc-encoding`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Deflate => "deflate",
            Self::Gzip => "gzip",
        }
    }

    /// Decompresses a message that may have at most `limit` bytes then. Never allocates more than that, whatever it was made
    /// from.
    pub(super) fn decompress(self, message: &[u8], limit: usize) -> Result<Bytes, Status> {
        let read = match self {
            Self::Identity => return Ok(Bytes::copy_from_slice(message)),
            Self::Deflate => read_up_to(ZlibDecoder::new(message), message.len(), limit),
            Self::Gzip => read_up_to(MultiGzDecoder::new(message), message.len(), limit),
        };
        match read {
            Ok(Some(decompressed)) => Ok(decompressed.into()),
            Ok(None) => {
                let text = format!(
                    "SERVER: Received message larger than max (more than {limit} bytes when decompressed vs. {limit})"
                );
                Err(Status::new(Code::ResourceExhausted, text))
            }
            Err(problem) => {
                let text = format!("The message is no {}: {problem}", self.name());
                Err(Status::new(Code::Internal, text))
            }
        }
    }

    /// A message with its prefix, compressed where that makes it smaller.
    #[must_use]
    pub fn frame(self, message: &[u8]) -> Bytes {
        let compressed = match self {
            Self::Identity => None,
            Self::Deflate => {
                let encoder = ZlibEncoder::new(prefix(message), Compression::new(LEVEL));
                written(encoder, message, ZlibEncoder::finish)
            }
            Self::Gzip => {
                let encoder = GzEncoder::new(prefix(message), Compression::new(LEVEL));
                written(encoder, message, GzEncoder::finish)
            }
        };
        let Some(mut framed) = compressed.filter(|it| it.len() < message.len() + MESSAGE_PREFIX)
        else {
            return frame(message);
        };
        let length = (framed.len() - MESSAGE_PREFIX) as u32;
        framed[0] = 1;
        framed[1..MESSAGE_PREFIX].copy_from_slice(&length.to_be_bytes());
        framed.freeze()
    }
}

/// Reads to the end; `None` for more than `limit` bytes.
fn read_up_to(decoder: impl Read, compressed: usize, limit: usize) -> io::Result<Option<Vec<u8>>> {
    /// Text is seldom made smaller than this.
    const USUAL_RATIO: usize = 4;
    let mut decompressed = Vec::with_capacity((compressed * USUAL_RATIO).min(limit));
    let most = limit.saturating_add(1) as u64;
    decoder.take(most).read_to_end(&mut decompressed)?;
    Ok((decompressed.len() <= limit).then_some(decompressed))
}

/// Room for the prefix, which is written last.
fn prefix(message: &[u8]) -> bytes::buf::Writer<BytesMut> {
    let mut framed = BytesMut::with_capacity(MESSAGE_PREFIX + message.len() / 2);
    framed.put_bytes(0, MESSAGE_PREFIX);
    framed.writer()
}

fn written<E: Write>(
    mut encoder: E,
    message: &[u8],
    finish: impl FnOnce(E) -> io::Result<bytes::buf::Writer<BytesMut>>,
) -> Option<BytesMut> {
    // Writing to memory does not fail.
    encoder.write_all(message).ok()?;
    finish(encoder).ok().map(bytes::buf::Writer::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Encoding; 2] = [Encoding::Deflate, Encoding::Gzip];

    #[test]
    fn a_message_survives_compression() {
        let message = b"text ".repeat(1000);
        for encoding in BOTH {
            let framed = encoding.frame(&message);
            assert!(framed.len() < message.len() / 10);
            assert_eq!(framed[0], 1);
            assert_eq!(
                framed[1..5],
                (framed.len() as u32 - 5).to_be_bytes(),
                "the length that the prefix tells"
            );
            let back = encoding.decompress(&framed[5..], message.len()).unwrap();
            assert_eq!(back, message);
        }
    }

    #[test]
    fn what_compression_makes_larger_is_sent_as_it_is() {
        for encoding in BOTH {
            assert_eq!(encoding.frame(b"abc"), frame(b"abc"));
            assert_eq!(encoding.frame(b""), frame(b""));
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_unfolds() {
        let bomb = vec![0; 4 << 20];
        for encoding in BOTH {
            let framed = encoding.frame(&bomb);
            assert!(framed.len() < 1 << 13);
            let refused = encoding.decompress(&framed[5..], 1 << 18).unwrap_err();
            assert_eq!(refused.code, Code::ResourceExhausted);
            assert!(encoding.decompress(&framed[5..], 4 << 20).is_ok());
        }
    }

    #[test]
    fn what_was_not_compressed_or_is_cut_is_internal() {
        for encoding in BOTH {
            let framed = encoding.frame(&b"text ".repeat(1000));
            for broken in [&b"garbage"[..], b"", &framed[5..framed.len() - 3]] {
                let refused = encoding.decompress(broken, 1 << 20).unwrap_err();
                assert_eq!(refused.code, Code::Internal, "{encoding:?} {broken:?}");
            }
        }
    }

    #[test]
    fn names_and_numbers_are_grpcs() {
        for (number, name) in [(0, "identity"), (1, "deflate"), (2, "gzip")] {
            let encoding = Encoding::from_u8(number).unwrap();
            assert_eq!(encoding.name(), name);
            assert_eq!(Encoding::from_name(name.as_bytes()), Some(encoding));
        }
        assert_eq!(Encoding::from_u8(3), None);
        assert_eq!(Encoding::from_name(b"snappy"), None);
    }
}
