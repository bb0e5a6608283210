//! What a handler hands back, and how it becomes frames.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;

use super::status::{Code, Status};

/// The bytes before each gRPC message: a flag (0, not compressed) and the length, big-endian.
pub const MESSAGE_PREFIX: usize = 5;

/// A serialised message on its way to a client: with its prefix, or, where copying it behind one would cost more, without.
#[derive(Clone, Debug)]
pub struct Framed {
    bytes: Bytes,
    lacks_prefix: bool,
}

impl Framed {
    /// A message without its prefix, which is sent as it is, without a copy. What owns the bytes is dropped on the thread of
    /// the connection that has sent them, or of whoever drops the reply.
    ///
    /// # Panics
    ///
    /// For a message of 4 GiB or more, which the prefix cannot express.
    #[must_use]
    pub fn uncopied(message: Bytes) -> Self {
        assert!(u32::try_from(message.len()).is_ok(), "{TOO_LONG}");
        Self {
            bytes: message,
            lacks_prefix: true,
        }
    }

    /// Bytes, with the prefix.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + if self.lacks_prefix { MESSAGE_PREFIX } else { 0 }
    }

    /// The pieces that are sent: the prefix, if it is one of its own, and the rest.
    pub(super) fn into_pieces(self) -> (Option<Bytes>, Bytes) {
        let prefix = self.lacks_prefix.then(|| {
            let mut prefix = BytesMut::with_capacity(MESSAGE_PREFIX);
            put_prefix(&mut prefix, self.bytes.len());
            prefix.freeze()
        });
        (prefix, self.bytes)
    }

    /// The whole message in one piece.
    pub(super) fn into_bytes(self) -> Bytes {
        if self.lacks_prefix {
            frame(&self.bytes)
        } else {
            self.bytes
        }
    }
}

/// With its prefix, as [`frame`] makes it.
impl From<Bytes> for Framed {
    fn from(framed: Bytes) -> Self {
        Self {
            bytes: framed,
            lacks_prefix: false,
        }
    }
}

/// The answer to a call. A reply of status OK carries a message; any other status drops it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// How the call ended.
    pub status: Status,
    /// The serialised message.
    pub message: Option<Framed>,
    /// Metadata for the trailers.
    pub trailing_metadata: Option<Box<HeaderMap>>,
    /// Metadata for the headers; ignored when
    /// [`Call::send_initial_metadata`](super::Call::send_initial_metadata) has sent some already.
    pub initial_metadata: Option<Box<HeaderMap>>,
}

impl Reply {
    /// A message, which has its prefix (see [`frame`]) or is [`Framed::uncopied`], and status OK.
    #[must_use]
    pub fn ok(message: impl Into<Framed>) -> Self {
        Self {
            status: Status::OK,
            message: Some(message.into()),
            trailing_metadata: None,
            initial_metadata: None,
        }
    }

    /// Status OK without a message: the end of a reply whose messages have been sent one by one.
    #[must_use]
    pub fn end() -> Self {
        Self::error(Status::OK)
    }

    /// A status without a message.
    #[must_use]
    pub fn error(status: Status) -> Self {
        Self {
            status,
            message: None,
            trailing_metadata: None,
            initial_metadata: None,
        }
    }

    /// Adds metadata to the trailers.
    #[must_use]
    pub fn with_trailing_metadata(mut self, metadata: HeaderMap) -> Self {
        self.trailing_metadata = Some(Box::new(metadata));
        self
    }

    /// Adds metadata to the headers.
    #[must_use]
    pub fn with_initial_metadata(mut self, metadata: HeaderMap) -> Self {
        self.initial_metadata = Some(Box::new(metadata));
        self
    }

    /// Turns an OK reply that the call cannot have into the error that the client must see instead. A call that streams its
    /// replies may end without a message.
    pub(crate) fn checked(mut self, limit: usize, streams: bool) -> Self {
        if self.status.code != Code::Ok {
            self.message = None;
            return self;
        }
        let problem = match &self.message {
            None if streams => return self,
            None => Status::new(Code::Internal, "The handler answered OK without a message"),
            Some(message) => match too_large(message, limit) {
                Some(status) => status,
                None => return self,
            },
        };
        self.status = problem;
        self.message = None;
        self
    }
}

/// What to answer instead of a message that is larger than `limit`.
pub(super) fn too_large(framed: &Framed, limit: usize) -> Option<Status> {
    let size = framed.len().saturating_sub(MESSAGE_PREFIX);
    (size > limit).then(|| {
        let text = format!("SERVER: Sent message larger than max ({size} vs. {limit})");
        Status::new(Code::ResourceExhausted, text)
    })
}

/// Puts the gRPC prefix before `message`, with a single allocation.
///
/// # Panics
///
/// For a message of 4 GiB or more, which the prefix cannot express.
#[must_use]
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(MESSAGE_PREFIX + message.len());
    put_prefix(&mut framed, message.len());
    framed.put_slice(message);
    framed.freeze()
}

const TOO_LONG: &str = "a gRPC message is smaller than 4 GiB";

fn put_prefix(framed: &mut BytesMut, length: usize) {
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).expect(TOO_LONG));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framed_message_has_a_flag_and_a_big_endian_length() {
        assert_eq!(&frame(b"abc")[..], b"\x00\x00\x00\x00\x03abc");
    }

    #[test]
    fn an_uncopied_message_is_sent_as_it_is_behind_its_prefix() {
        let message = Bytes::from_static(b"abc");
        let framed = Framed::uncopied(message.clone());
        assert_eq!(framed.len(), frame(b"abc").len());
        assert_eq!(framed.clone().into_bytes(), frame(b"abc"));
        let (prefix, rest) = framed.into_pieces();
        assert_eq!(prefix.unwrap(), frame(b"abc")[..MESSAGE_PREFIX]);
        assert_eq!(rest.as_ptr(), message.as_ptr());
    }

    #[test]
    fn a_reply_that_a_unary_call_cannot_have_becomes_an_error() {
        let missing = Reply {
            message: None,
            ..Reply::ok(Bytes::new())
        };
        assert_eq!(missing.checked(10, false).status.code, Code::Internal);
        assert_eq!(
            Reply::ok(frame(&[0; 10])).checked(10, false).status.code,
            Code::Ok
        );
        let large = Reply::ok(frame(&[0; 11])).checked(10, false);
        assert_eq!(
            large.status.message,
            "SERVER: Sent message larger than max (11 vs. 10)"
        );
        assert!(large.message.is_none());
    }
}
