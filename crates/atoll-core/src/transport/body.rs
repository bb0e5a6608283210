//! Puts the one message of a unary request together from the DATA frames that carry it.

use bytes::{BufMut, Bytes, BytesMut};

use super::reply::MESSAGE_PREFIX;
use super::status::{Code, Status};

/// What is set aside at first for a message that is announced as long but has not come yet.
const FIRST_ALLOCATION: usize = 16 << 10;

/// A message on its way in. Never holds more than the message: what is too long is refused by its prefix.
pub(super) struct Assembler {
    limit: usize,
    prefix: [u8; MESSAGE_PREFIX],
    prefix_filled: usize,
    message: Message,
}

enum Message {
    /// The prefix is not complete.
    Unknown,
    /// `length` bytes are announced; those in `bytes` are here.
    Partial {
        bytes: BytesMut,
        length: usize,
    },
    Whole(Bytes),
}

impl Assembler {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            prefix: [0; MESSAGE_PREFIX],
            prefix_filled: 0,
            message: Message::Unknown,
        }
    }

    /// Adds the next bytes of the body.
    pub(super) fn push(&mut self, mut chunk: Bytes) -> Result<(), Status> {
        if let Message::Unknown = self.message {
            let missing = (MESSAGE_PREFIX - self.prefix_filled).min(chunk.len());
            let head = chunk.split_to(missing);
            self.prefix[self.prefix_filled..self.prefix_filled + missing].copy_from_slice(&head);
            self.prefix_filled += missing;
            if self.prefix_filled < MESSAGE_PREFIX {
                return Ok(());
            }
            let length = self.announced_length()?;
            // The common case: the frame holds the message and nothing else, so the message is a slice of it.
            if chunk.len() == length {
                self.message = Message::Whole(chunk);
                return Ok(());
            }
            let bytes = BytesMut::with_capacity(length.min(FIRST_ALLOCATION.max(chunk.len())));
            self.message = Message::Partial { bytes, length };
        }
        if chunk.is_empty() {
            return Ok(());
        }
        let Message::Partial { bytes, length } = &mut self.message else {
            return Err(too_many_messages());
        };
        if chunk.len() > *length - bytes.len() {
            return Err(too_many_messages());
        }
        bytes.put_slice(&chunk);
        if bytes.len() == *length {
            self.message = Message::Whole(std::mem::take(bytes).freeze());
        }
        Ok(())
    }

    /// How much of the message and its prefix is here, in bytes.
    pub(super) fn received(&self) -> usize {
        let message = match &self.message {
            Message::Unknown => 0,
            Message::Partial { bytes, .. } => bytes.len(),
            Message::Whole(message) => message.len(),
        };
        self.prefix_filled + message
    }

    /// The body is complete: so must be the message.
    pub(super) fn finish(self) -> Result<Bytes, Status> {
        match self.message {
            Message::Whole(message) => Ok(message),
            Message::Unknown if self.prefix_filled == 0 => Err(Status::new(
                Code::Unimplemented,
                "A unary request has one message, and this one has none",
            )),
            Message::Unknown | Message::Partial { .. } => Err(Status::new(
                Code::Internal,
                "The request ended in the middle of its message",
            )),
        }
    }

    fn announced_length(&self) -> Result<usize, Status> {
        let [flag, length @ ..] = self.prefix;
        match flag {
            0 => {}
            1 => {
                let text =
                    "The message is marked as compressed, but the request names no grpc-encoding";
                return Err(Status::new(Code::Internal, text));
            }
            _ => {
                let text = format!("The message's compressed flag is {flag}, not 0 or 1");
                return Err(Status::new(Code::Internal, text));
            }
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.limit {
            let text = format!(
                "SERVER: Received message larger than max ({length} vs. {})",
                self.limit
            );
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        Ok(length)
    }
}

fn too_many_messages() -> Status {
    Status::new(
        Code::Unimplemented,
        "A unary request has one message, and this one has more",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(limit: usize, chunks: &[&[u8]]) -> Result<Bytes, Status> {
        let mut assembler = Assembler::new(limit);
        for chunk in chunks {
            assembler.push(Bytes::copy_from_slice(chunk))?;
        }
        assembler.finish()
    }

    #[test]
    fn a_message_in_one_frame_is_not_copied() {
        let frame = Bytes::from_static(b"\0\0\0\0\x03abc");
        let mut assembler = Assembler::new(10);
        assembler.push(frame.clone()).unwrap();
        let message = assembler.finish().unwrap();
        assert_eq!(message, "abc");
        assert_eq!(message.as_ptr(), frame[5..].as_ptr());
    }

    #[test]
    fn a_message_may_be_cut_anywhere() {
        let body = b"\0\0\0\0\x03abc";
        for first in 0..=body.len() {
            for second in first..=body.len() {
                let cut = [&body[..first], &body[first..second], &body[second..]];
                assert_eq!(assemble(10, &cut).unwrap(), "abc");
            }
        }
        assert_eq!(assemble(10, &[b"\0\0\0\0\0"]).unwrap(), "");
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_prefix() {
        let error = assemble(9, &[b"\0\0\0\0\x0a"]).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
        assert_eq!(
            error.message,
            "SERVER: Received message larger than max (10 vs. 9)"
        );
        assert!(assemble(10, &[b"\0\0\0\0\x0a0123456789"]).is_ok());
    }

    #[test]
    fn anything_but_one_whole_message_is_an_error() {
        let code = |chunks: &[&[u8]]| assemble(10, chunks).unwrap_err().code;
        assert_eq!(code(&[]), Code::Unimplemented);
        assert_eq!(code(&[b"\0\0\0"]), Code::Internal);
        assert_eq!(code(&[b"\0\0\0\0\x03ab"]), Code::Internal);
        assert_eq!(code(&[b"\0\0\0\0\x01a\0\0\0\0\x01b"]), Code::Unimplemented);
        assert_eq!(code(&[b"\0\0\0\0\x01a", b"x"]), Code::Unimplemented);
        assert_eq!(code(&[b"\x01\0\0\0\x01a"]), Code::Internal);
        assert_eq!(code(&[b"\x02\0\0\0\x01a"]), Code::Internal);
    }

    #[test]
    fn an_announced_length_allocates_little_before_the_bytes_come() {
        let mut assembler = Assembler::new(usize::MAX);
        assembler
            .push(Bytes::from_static(b"\0\x7f\xff\xff\xffa"))
            .unwrap();
        let Message::Partial { bytes, .. } = &assembler.message else {
            panic!("a partial message")
        };
        assert!(bytes.capacity() <= FIRST_ALLOCATION);
    }
}
