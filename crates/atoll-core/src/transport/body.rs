//! Takes gRPC messages out of the DATA frames that carry them.

use bytes::{BufMut, Bytes, BytesMut};

use super::reply::MESSAGE_PREFIX;
use super::status::{Code, Status};

/// What is set aside at first for a message that is announced as long but has not come yet.
const FIRST_ALLOCATION: usize = 16 << 10;

/// What is set aside when that is full, in terms of what has come: growing to twice that again and again, as buffers do by
/// themselves, would move each byte of a long message once more.
const GROWTH: usize = 16;

/// A request message without its prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The bytes, as they were sent.
    pub bytes: Bytes,
    /// Whether they are compressed, with the request's `grpc-encoding`.
    pub is_compressed: bool,
}

/// Cuts a body into messages, wherever its frames were cut. Never holds more than one message: what is too long is refused by
/// its prefix.
pub(super) struct Decoder {
    limit: usize,
    /// Whether the request names an encoding other than identity.
    may_be_compressed: bool,
    prefix: [u8; MESSAGE_PREFIX],
    prefix_filled: usize,
    /// How many messages were whole.
    completed: u64,
    /// The message whose prefix is complete: what has come, and how long it will be.
    partial: Option<(BytesMut, usize)>,
}

impl Decoder {
    pub(super) fn new(limit: usize, may_be_compressed: bool) -> Self {
        Self {
            limit,
            may_be_compressed,
            prefix: [0; MESSAGE_PREFIX],
            prefix_filled: 0,
            completed: 0,
            partial: None,
        }
    }

    /// Adds the next bytes of the body; `whole` gets each message that they complete, until it refuses one.
    pub(super) fn push(
        &mut self,
        mut chunk: Bytes,
        mut whole: impl FnMut(Message) -> Result<(), Status>,
    ) -> Result<(), Status> {
        while !chunk.is_empty() {
            let Some((bytes, length)) = &mut self.partial else {
                if let Some(bytes) = self.begin(&mut chunk)? {
                    whole(self.complete(bytes))?;
                }
                continue;
            };
            let missing = *length - bytes.len();
            let part = chunk.split_to(missing.min(chunk.len()));
            if part.len() > bytes.capacity() - bytes.len() {
                let come = bytes.len() + part.len();
                bytes.reserve((come * GROWTH).min(*length) - bytes.len());
            }
            bytes.put_slice(&part);
            if bytes.len() == *length {
                let bytes = std::mem::take(bytes).freeze();
                self.partial = None;
                whole(self.complete(bytes))?;
            }
        }
        Ok(())
    }

    /// How many messages were whole.
    pub(super) fn completed(&self) -> u64 {
        self.completed
    }

    /// How much of a message and its prefix is here, in bytes.
    pub(super) fn received(&self) -> usize {
        let message = self.partial.as_ref().map_or(0, |(bytes, _)| bytes.len());
        self.prefix_filled + message
    }

    /// Reads on in the prefix; once that is complete, gives the message if all of it is here, else makes it the partial one.
    fn begin(&mut self, chunk: &mut Bytes) -> Result<Option<Bytes>, Status> {
        let missing = (MESSAGE_PREFIX - self.prefix_filled).min(chunk.len());
        let head = chunk.split_to(missing);
        self.prefix[self.prefix_filled..self.prefix_filled + missing].copy_from_slice(&head);
        self.prefix_filled += missing;
        if self.prefix_filled < MESSAGE_PREFIX {
            return Ok(None);
        }
        let length = self.announced_length()?;
        // The common case: the frame holds the whole message, which so is a slice of it.
        if chunk.len() >= length {
            return Ok(Some(chunk.split_to(length)));
        }
        let room = length.min(FIRST_ALLOCATION.max(chunk.len()));
        self.partial = Some((BytesMut::with_capacity(room), length));
        Ok(None)
    }

    /// The body is complete: so must be its last message.
    pub(super) fn finish(&self) -> Result<(), Status> {
        if self.prefix_filled == 0 {
            return Ok(());
        }
        let text = "The request ended in the middle of its message";
        Err(Status::new(Code::Internal, text))
    }

    fn complete(&mut self, bytes: Bytes) -> Message {
        self.prefix_filled = 0;
        self.completed += 1;
        Message {
            bytes,
            is_compressed: self.prefix[0] == 1,
        }
    }

    fn announced_length(&self) -> Result<usize, Status> {
        let [flag, length @ ..] = self.prefix;
        match flag {
            0 => {}
            1 if self.may_be_compressed => {}
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

/// Puts the one message of a unary request together.
pub(super) struct Assembler {
    decoder: Decoder,
    message: Option<Message>,
}

impl Assembler {
    pub(super) fn new(limit: usize, may_be_compressed: bool) -> Self {
        Self {
            decoder: Decoder::new(limit, may_be_compressed),
            message: None,
        }
    }

    /// How much of a message that is not complete is here, in bytes.
    pub(super) fn received(&self) -> usize {
        self.decoder.received()
    }

    /// Adds the next bytes of the body.
    pub(super) fn push(&mut self, chunk: Bytes) -> Result<(), Status> {
        if self.message.is_some() && !chunk.is_empty() {
            return Err(too_many_messages());
        }
        let message = &mut self.message;
        self.decoder.push(chunk, |whole| match message {
            None => {
                *message = Some(whole);
                Ok(())
            }
            Some(_) => Err(too_many_messages()),
        })
    }

    /// The body is complete: so must be the message.
    pub(super) fn finish(self) -> Result<Message, Status> {
        match (self.message, self.decoder.finish()) {
            (Some(message), Ok(())) => Ok(message),
            (Some(_), Err(_)) => Err(too_many_messages()),
            (None, Err(status)) => Err(status),
            (None, Ok(())) => Err(Status::new(
                Code::Unimplemented,
                "A unary request has one message, and this one has none",
            )),
        }
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
    use crate::transport::reply::frame;

    fn assemble(limit: usize, chunks: &[&[u8]]) -> Result<Bytes, Status> {
        let mut assembler = Assembler::new(limit, false);
        for chunk in chunks {
            assembler.push(Bytes::copy_from_slice(chunk))?;
        }
        assembler.finish().map(|message| message.bytes)
    }

    #[test]
    fn a_message_in_one_frame_is_not_copied() {
        let frame = Bytes::from_static(b"\0\0\0\0\x03abc");
        let mut assembler = Assembler::new(10, false);
        assembler.push(frame.clone()).unwrap();
        let message = assembler.finish().unwrap().bytes;
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
        let mut decoder = Decoder::new(usize::MAX, false);
        decoder
            .push(Bytes::from_static(b"\0\x7f\xff\xff\xffa"), |_| Ok(()))
            .unwrap();
        let (bytes, _) = decoder.partial.as_ref().expect("a partial message");
        assert!(bytes.capacity() <= FIRST_ALLOCATION);
    }

    #[test]
    fn what_is_set_aside_grows_with_what_has_come_and_no_further_than_the_message() {
        let length = 3 << 20;
        let mut decoder = Decoder::new(usize::MAX, false);
        let mut head = vec![0];
        head.extend_from_slice(&(length as u32).to_be_bytes());
        decoder.push(head.into(), |_| Ok(())).unwrap();
        let mut capacities = Vec::new();
        let mut whole = None;
        for come in (1..).map(|chunk| chunk * FIRST_ALLOCATION) {
            let chunk = Bytes::from(vec![7; FIRST_ALLOCATION]);
            decoder
                .push(chunk, |message| {
                    whole = Some(message.bytes);
                    Ok(())
                })
                .unwrap();
            let Some((bytes, _)) = &decoder.partial else {
                break;
            };
            assert!(bytes.capacity() <= length.min(come * GROWTH));
            if capacities.last() != Some(&bytes.capacity()) {
                capacities.push(bytes.capacity());
            }
        }
        assert!(capacities.len() <= 4, "{capacities:?}");
        assert_eq!(whole.unwrap(), vec![7; length]);
    }

    #[test]
    fn messages_of_a_stream_come_out_whole_wherever_it_is_cut() {
        let body = [frame(b"one"), frame(b""), frame(b"three")].concat();
        for first in 0..=body.len() {
            for second in first..=body.len() {
                let mut decoder = Decoder::new(10, false);
                let mut messages = Vec::new();
                for part in [&body[..first], &body[first..second], &body[second..]] {
                    let chunk = Bytes::copy_from_slice(part);
                    let whole = |message: Message| {
                        messages.push(message.bytes);
                        Ok(())
                    };
                    decoder.push(chunk, whole).unwrap();
                }
                assert_eq!(messages, ["one", "", "three"]);
                decoder.finish().unwrap();
            }
        }
    }

    #[test]
    fn a_compressed_message_is_marked_where_the_request_names_an_encoding() {
        let mut assembler = Assembler::new(10, true);
        assembler
            .push(Bytes::from_static(b"\x01\0\0\0\x01a"))
            .unwrap();
        assert!(assembler.finish().unwrap().is_compressed);
    }
}
