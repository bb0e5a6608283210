//! Reads the messages of a streaming request as far as its handler keeps up.
//!
//! What comes after that is taken from h2 all the same, without opening the client's window for more: h2 keeps each frame apart, at
//! some 250 bytes each, and takes a client for a flood that sends many small ones which nobody reads. Here they are kept as
//! one run of bytes, never more than the stream's window.

use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;

use super::super::body::{Decoder, Message};
use super::super::call::Call;
use super::super::flow::Flow;
use super::super::status::Status;
use super::super::streams::{BodyProgress, Incoming};
use super::Body;

/// What is decoded at once of the bytes that were kept; messages keep their piece in memory.
const PIECE: usize = 16 << 10;

impl Incoming {
    pub(super) fn new(body: RecvStream, decoder: Decoder) -> Self {
        Self {
            body,
            decoder,
            kept: BytesMut::new(),
            kept_at: 0,
            has_ended: false,
            progress: None,
        }
    }

    /// How far the messages have come.
    pub(super) fn progress(&self, at: Instant) -> BodyProgress {
        BodyProgress {
            at,
            completed: self.decoder.completed(),
            received: self.decoder.received(),
        }
    }

    /// Whether `call` waits for its client to go on with a message that has begun.
    pub(super) fn is_due(&self, call: &Call, flow: &Flow) -> bool {
        let has_begun = self.decoder.received() > 0;
        let may_go_on = !self.has_ended && self.kept.is_empty();
        has_begun && may_go_on && !flow.is_withheld() && !call.is_answered()
    }

    /// Gives `whole` the messages that are here, until `flow` withholds more, and when each came: at `now`, or before, in
    /// nanoseconds since the connection. `cx` is woken when more comes.
    pub(super) fn read(
        &mut self,
        flow: &Flow,
        now: u64,
        cx: &mut Context<'_>,
        mut whole: impl FnMut(Message, u64) -> Result<(), Status>,
    ) -> Body {
        loop {
            let withholds = flow.withholds();
            if !withholds && !self.kept.is_empty() {
                let piece = self.take_kept();
                let at = self.kept_at;
                if let Err(status) = self.decode(piece, |message| whole(message, at)) {
                    return Body::Refused(status);
                }
                continue;
            }
            if self.has_ended {
                return if !self.kept.is_empty() {
                    Body::Incomplete
                } else if let Err(status) = self.decoder.finish() {
                    Body::Refused(status)
                } else {
                    Body::Complete
                };
            }
            match self.body.poll_data(cx) {
                Poll::Pending => return Body::Incomplete,
                Poll::Ready(None) => self.has_ended = true,
                Poll::Ready(Some(Err(_))) => return Body::Lost,
                Poll::Ready(Some(Ok(chunk))) => {
                    self.has_ended = self.body.is_end_stream();
                    if withholds {
                        self.kept.extend_from_slice(&chunk);
                        self.kept_at = now;
                    } else if let Err(status) = self.decode(chunk, |message| whole(message, now)) {
                        return Body::Refused(status);
                    }
                }
            }
        }
    }

    fn decode(
        &mut self,
        chunk: Bytes,
        whole: impl FnMut(Message) -> Result<(), Status>,
    ) -> Result<(), Status> {
        // Fails only for more than was received.
        let _ = self.body.flow_control().release_capacity(chunk.len());
        self.decoder.push(chunk, whole)
    }

    fn take_kept(&mut self) -> Bytes {
        let length = self.kept.len().min(PIECE);
        let piece = Bytes::copy_from_slice(&self.kept[..length]);
        self.kept.advance(length);
        if self.kept.is_empty() {
            self.kept = BytesMut::new();
        }
        piece
    }
}
