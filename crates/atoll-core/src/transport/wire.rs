//! Replies as HTTP/2 frames.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::compression::ENCODINGS;
use super::reply::{Framed, Reply};
use super::request::Refusal;
use super::status::{Code, Status};

pub(super) const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
pub(super) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const ACCEPTED: HeaderValue = HeaderValue::from_static(ENCODINGS);
const POST: HeaderValue = HeaderValue::from_static("POST");

/// A message up to this size is handed to HTTP/2 without asking whether the client has room for it: no more than
/// `max_concurrent_streams` of them can wait there.
const SMALL: usize = 16 << 10;

/// Messages of a stream up to this size share a DATA frame.
const SHARED_FRAME: usize = 4 << 10;

/// The sending half of one stream.
pub(super) struct Responder {
    respond: SendResponse<Bytes>,
    /// Once the headers have been sent.
    stream: Option<SendStream<Bytes>>,
    /// What waits for the client to have room.
    unsent: Option<Box<Unsent>>,
}

/// Messages, and perhaps the end, that wait for the client to have room.
struct Unsent {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// A part of the first message has been sent.
    is_cut: bool,
    reply: Option<Reply>,
    /// When something was last sent.
    moved_at: Instant,
    /// Whether somebody looks from time to time whether anything moves.
    is_watched: bool,
}

/// A message, or its prefix.
struct Piece {
    bytes: Bytes,
    /// The next piece belongs to the same message.
    goes_on: bool,
}

/// How far a stream has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything that was to be sent has been.
    Idle,
    /// The client has no room.
    Blocked,
    /// The stream has ended.
    Ended,
}

impl Responder {
    pub(super) fn new(respond: SendResponse<Bytes>) -> Self {
        Self {
            respond,
            stream: None,
            unsent: None,
        }
    }

    /// Whether the client has reset the stream or the connection is gone; else `cx` is woken when it does.
    pub(super) fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.stream {
            Some(stream) => stream.poll_reset(cx).is_ready(),
            None => self.respond.poll_reset(cx).is_ready(),
        }
    }

    /// Sends the headers ahead of the reply.
    pub(super) fn send_initial_metadata(&mut self, metadata: HeaderMap) {
        if self.stream.is_none() {
            // A stream that has vanished is noticed through `is_reset` and counted there.
            self.stream = self.respond.send_response(headers(metadata), false).ok();
        }
    }

    /// Queues a message for [`Self::flush`]; whether it is the only one.
    pub(super) fn queue(&mut self, message: Framed) -> bool {
        let unsent = self.unsent.get_or_insert_with(Unsent::boxed);
        let is_first = unsent.pieces.is_empty();
        unsent.bytes += message.len();
        let (prefix, bytes) = message.into_pieces();
        if let Some(bytes) = prefix {
            unsent.pieces.push_back(Piece {
                bytes,
                goes_on: true,
            });
        }
        unsent.pieces.push_back(Piece {
            bytes,
            goes_on: false,
        });
        is_first
    }

    /// Whether something waits for the client to have room.
    pub(super) fn is_blocked(&self) -> bool {
        let unsent = self.unsent.as_ref();
        unsent.is_some_and(|unsent| !unsent.pieces.is_empty())
    }

    /// Since when nothing has moved although something waits, unless that is watched already; it is from now on.
    pub(super) fn watch(&mut self) -> Option<Instant> {
        let unsent = self.unsent.as_mut()?;
        if unsent.pieces.is_empty() || std::mem::replace(&mut unsent.is_watched, true) {
            return None;
        }
        Some(unsent.moved_at)
    }

    /// Ends the watch. Whether there was one, and since when nothing has moved although something waits.
    pub(super) fn unwatch(&mut self) -> (bool, Option<Instant>) {
        let Some(unsent) = &mut self.unsent else {
            return (false, None);
        };
        let moved_at = (!unsent.pieces.is_empty()).then_some(unsent.moved_at);
        (std::mem::take(&mut unsent.is_watched), moved_at)
    }

    /// Sends what is queued, as far as the client has room; `cx` is woken when it has more. Also how many bytes were sent.
    /// What h2 refuses, because the client has reset the stream or the metadata holds a header that HTTP/2 forbids, ends in
    /// a reset.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> (Progress, usize) {
        let Some(unsent) = &mut self.unsent else {
            return (Progress::Idle, 0);
        };
        if self.stream.is_none() {
            let initial = unsent.reply.as_mut();
            let initial = initial.and_then(|reply| reply.initial_metadata.take());
            let headers = headers(fields(initial, 1));
            self.stream = self.respond.send_response(headers, false).ok();
        }
        let sent = match &mut self.stream {
            Some(stream) => unsent.send(stream, cx),
            None => Err(()),
        };
        let Ok(sent) = sent else {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
            return (Progress::Ended, 0);
        };
        if !unsent.pieces.is_empty() {
            return (Progress::Blocked, sent);
        }
        match unsent.reply.take() {
            Some(reply) => {
                self.end(reply);
                (Progress::Ended, sent)
            }
            None => (Progress::Idle, sent),
        }
    }

    /// Sends the reply, after what is queued, as [`Self::flush`] does.
    pub(super) fn send_reply(
        &mut self,
        mut reply: Reply,
        cx: &mut Context<'_>,
    ) -> (Progress, usize) {
        match &reply.message {
            Some(message) if message.len() > SMALL => {
                if let Some(message) = reply.message.take() {
                    self.queue(message);
                }
            }
            _ if self.is_blocked() => {
                if let Some(message) = reply.message.take() {
                    self.queue(message);
                }
            }
            _ => {
                self.end(reply);
                return (Progress::Ended, 0);
            }
        }
        self.unsent.get_or_insert_with(Unsent::boxed).reply = Some(reply);
        self.flush(cx)
    }

    /// Ends the stream at once with an error. Messages that wait are dropped; where one has been sent in part, the stream is
    /// reset.
    pub(super) fn send_error(&mut self, status: Status) {
        let unsent = self.unsent.take();
        if unsent.is_some_and(|unsent| unsent.is_cut) {
            return self.reset(Reason::CANCEL);
        }
        self.end(Reply::error(status));
    }

    /// Resets the stream.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Sends the reply and ends the stream.
    fn end(&mut self, reply: Reply) {
        if self.try_end(reply).is_err() {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }

    fn try_end(&mut self, reply: Reply) -> Result<(), h2::Error> {
        // `grpc-status`, and for errors `grpc-message`, and `content-type` where this is all there is.
        let is_ok = reply.status.code == Code::Ok;
        let trailers = trailers(
            &reply.status,
            fields(reply.trailing_metadata, if is_ok { 1 } else { 3 }),
        );
        if let Some(message) = reply.message {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => self
                    .respond
                    .send_response(headers(fields(reply.initial_metadata, 1)), false)?,
            };
            stream.send_data(message.into_bytes(), false)?;
            return stream.send_trailers(trailers);
        }
        if let Some(mut stream) = self.stream.take() {
            return stream.send_trailers(trailers);
        }
        if let Some(initial) = reply.initial_metadata {
            return self
                .respond
                .send_response(headers(*initial), false)?
                .send_trailers(trailers);
        }
        // Trailers-Only: one frame for everything.
        self.respond
            .send_response(headers(trailers), true)
            .map(drop)
    }

    /// Answers a request that never became a call.
    pub(super) fn refuse(mut self, refusal: Refusal) {
        let (http_status, status, accept_encoding) = match refusal {
            Refusal::Status(status) => (StatusCode::OK, Some(status), None),
            Refusal::Encoding(status) => (StatusCode::OK, Some(status), Some(ACCEPTED)),
            Refusal::Http(http_status, status) => (http_status, status, None),
        };
        let fields = match status {
            Some(status) => trailers(&status, HeaderMap::new()),
            None => HeaderMap::new(),
        };
        let is_grpc = !fields.is_empty();
        let mut response = if is_grpc {
            headers(fields)
        } else {
            Response::new(())
        };
        *response.status_mut() = http_status;
        if http_status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, POST);
        }
        if let Some(encodings) = accept_encoding {
            response
                .headers_mut()
                .insert(GRPC_ACCEPT_ENCODING, encodings);
        }
        // A client that has reset its request meanwhile does not wait for the answer.
        let _ = self.respond.send_response(response, true);
    }
}

impl Unsent {
    fn boxed() -> Box<Self> {
        Box::new(Self {
            pieces: VecDeque::new(),
            bytes: 0,
            is_cut: false,
            reply: None,
            moved_at: Instant::now(),
            is_watched: false,
        })
    }

    /// Sends as much as there is room for; how much that was. An error when the stream is gone.
    fn send(&mut self, stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Result<usize, ()> {
        let mut sent = 0;
        while !self.pieces.is_empty() {
            stream.reserve_capacity(self.bytes);
            let room = match stream.capacity() {
                0 => match stream.poll_capacity(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(None | Some(Err(_))) => return Err(()),
                },
                room => room,
            };
            let data = self.take(room);
            sent += data.len();
            stream.send_data(data, false).map_err(drop)?;
        }
        if sent > 0 {
            self.moved_at = Instant::now();
        }
        Ok(sent)
    }

    /// The next DATA frame's worth, of at most `room` bytes: a part of a long message, or several short ones.
    fn take(&mut self, room: usize) -> Bytes {
        let Some(Piece { mut bytes, goes_on }) = self.pieces.pop_front() else {
            return Bytes::new();
        };
        self.is_cut = goes_on || bytes.len() > room;
        if bytes.len() > room {
            let rest = bytes.split_off(room);
            self.pieces.push_front(Piece {
                bytes: rest,
                goes_on,
            });
        } else if bytes.len() < SHARED_FRAME {
            let next = self.pieces.front().map(|piece| piece.bytes.len());
            let together = bytes.len() + next.unwrap_or(usize::MAX / 2);
            if together <= SHARED_FRAME.min(room) {
                bytes = self.share(&bytes, SHARED_FRAME.min(room).min(self.bytes));
            }
        }
        self.bytes -= bytes.len();
        bytes
    }

    /// As many of the next pieces as there is room for, copied behind `first`.
    fn share(&mut self, first: &Bytes, room: usize) -> Bytes {
        let mut shared = BytesMut::with_capacity(room);
        shared.put_slice(first);
        while let Some(next) = self.pieces.front() {
            if next.bytes.len() > room - shared.len() {
                break;
            }
            shared.put_slice(&next.bytes);
            self.is_cut = next.goes_on;
            self.pieces.pop_front();
        }
        shared.freeze()
    }
}

/// The metadata, or room for what the transport adds: the default of eight fields costs twice as much as one.
fn fields(metadata: Option<Box<HeaderMap>>, room: usize) -> HeaderMap {
    metadata.map_or_else(|| HeaderMap::with_capacity(room), |metadata| *metadata)
}

fn headers(mut fields: HeaderMap) -> Response<()> {
    fields.insert(CONTENT_TYPE, APPLICATION_GRPC);
    let mut response = Response::new(());
    *response.headers_mut() = fields;
    response
}

fn trailers(status: &Status, mut fields: HeaderMap) -> HeaderMap {
    fields.insert(GRPC_STATUS, status.code.header_value());
    match status.message_header() {
        Some(message) => {
            fields.insert(GRPC_MESSAGE, message);
        }
        None => {
            fields.remove(GRPC_MESSAGE);
        }
    }
    fields
}
