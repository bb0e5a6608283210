//! Replies as HTTP/2 frames.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::reply::Reply;
use super::request::Refusal;
use super::status::Status;

pub(super) const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
pub(super) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const POST: HeaderValue = HeaderValue::from_static("POST");

/// The sending half of one stream.
pub(super) struct Responder {
    respond: SendResponse<Bytes>,
    /// Once the headers have been sent.
    stream: Option<SendStream<Bytes>>,
}

impl Responder {
    pub(super) fn new(respond: SendResponse<Bytes>) -> Self {
        Self {
            respond,
            stream: None,
        }
    }

    /// Whether the client has reset the stream or the connection is gone; else `cx` is woken when it does.
    pub(super) fn is_reset(&mut self, cx: &mut std::task::Context<'_>) -> bool {
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

    /// Sends the reply and ends the stream. What h2 refuses, because the client has reset the stream or the
    /// metadata holds a header that HTTP/2 forbids, ends in a reset.
    pub(super) fn send_reply(mut self, reply: Reply) {
        if self.try_send_reply(reply).is_err() {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }

    fn try_send_reply(&mut self, reply: Reply) -> Result<(), h2::Error> {
        let Some(message) = reply.message else {
            return self.send_error(reply);
        };
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self
                .respond
                .send_response(headers(fields(reply.initial_metadata, 1)), false)?,
        };
        stream.send_data(message, false)?;
        stream.send_trailers(trailers(&reply.status, fields(reply.trailing_metadata, 1)))
    }

    fn send_error(&mut self, reply: Reply) -> Result<(), h2::Error> {
        // `grpc-status`, `grpc-message`, and `content-type` where this is all there is.
        let trailers = trailers(&reply.status, fields(reply.trailing_metadata, 3));
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
            Refusal::Encoding(status) => (StatusCode::OK, Some(status), Some(IDENTITY)),
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
