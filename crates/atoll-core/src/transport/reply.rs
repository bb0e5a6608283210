//! What a handler hands back, and how it becomes frames.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;

use super::status::{Code, Status};

/// The bytes before each gRPC message: a flag (0, not compressed) and the length, big-endian.
pub const MESSAGE_PREFIX: usize = 5;

/// The answer to a call. A reply of status OK carries a message; any other status drops it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// How the call ended.
    pub status: Status,
    /// The serialised message with its prefix, as [`frame`] makes it.
    pub message: Option<Bytes>,
    /// Metadata for the trailers.
    pub trailing_metadata: Option<Box<HeaderMap>>,
    /// Metadata for the headers; ignored when
    /// [`Call::send_initial_metadata`](super::Call::send_initial_metadata) has sent some already.
    pub initial_metadata: Option<Box<HeaderMap>>,
}

impl Reply {
    /// A message, already with its prefix (see [`frame`]), and status OK.
    #[must_use]
    pub fn ok(message: Bytes) -> Self {
        Self {
            status: Status::OK,
            message: Some(message),
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

/// What to answer instead of a message, here with its prefix, that is larger than `limit`.
pub(super) fn too_large(framed: &Bytes, limit: usize) -> Option<Status> {
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
    let length = u32::try_from(message.len()).expect("a gRPC message is smaller than 4 GiB");
    let mut framed = BytesMut::with_capacity(MESSAGE_PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(length);
    framed.put_slice(message);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framed_message_has_a_flag_and_a_big_endian_length() {
        assert_eq!(&frame(b"abc")[..], b"\x00\x00\x00\x00\x03abc");
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
