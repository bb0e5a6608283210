//! From a connected socket to an HTTP/2 connection, or to an answer for a client that speaks something else.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::connection::Service;
use super::frame_guard::FrameGuard;
use super::http1::{self, Answered};
use super::offence::{self, Offence};
use super::opening::{Opening, Protocol, Replay};
use super::outbox::Outbox;

/// Streams that we reset and whose late frames are still recognised as such.
const REMEMBERED_RESETS: usize = 1000;

/// A fatal alert, `handshake_failure`, in the record format that every version of TLS understands (RFC 8446, sections 5.1
/// and 6).
const TLS_ALERT: [u8; 7] = [0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28];

/// The byte stream under h2.
pub(super) type Guarded<S> = FrameGuard<Replay<S>>;

/// What a handshake has led to.
pub(super) enum Handshake<S> {
    Http2(Box<h2::server::Connection<Guarded<S>, Bytes>>),
    /// A probe has its answer.
    Answered,
    /// The client speaks something else, or is gone.
    Failed,
}

/// Finds out what the client speaks, and if it is HTTP/2, greets it. The caller limits the time.
pub(super) async fn shake_hands<S>(
    mut io: S,
    service: &Arc<Service>,
    outbox: &Arc<Outbox>,
) -> Handshake<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ok((protocol, opening)) = Opening::read(&mut io).await else {
        return Handshake::Failed;
    };
    let report = |offence| offence::report(service, outbox, offence);
    match protocol {
        Protocol::Http2 => greet(Replay::new(io, opening), service, outbox).await,
        Protocol::Http1 => match http1::answer(&mut Replay::new(io, opening), service).await {
            Ok(Answered::Probe) => Handshake::Answered,
            Ok(Answered::WrongProtocol) => {
                report(Offence::Http1);
                Handshake::Failed
            }
            Ok(Answered::Nothing) => {
                report(Offence::UnknownProtocol);
                Handshake::Failed
            }
            Err(_) => Handshake::Failed,
        },
        Protocol::Tls => {
            report(Offence::Tls);
            // Who does not take it sees the connection close.
            let _ = send(&mut io, &TLS_ALERT).await;
            Handshake::Failed
        }
        Protocol::Unknown => {
            report(Offence::UnknownProtocol);
            Handshake::Failed
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(io: &mut S, bytes: &[u8]) -> io::Result<()> {
    io.write_all(bytes).await?;
    io.flush().await
}

async fn greet<S>(io: Replay<S>, service: &Arc<Service>, outbox: &Arc<Outbox>) -> Handshake<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = &service.config;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(config.initial_stream_window)
        .initial_connection_window_size(config.initial_connection_window)
        .max_concurrent_streams(config.max_concurrent_streams)
        .max_header_list_size(2 * config.max_header_list_size)
        .max_frame_size(config.max_frame_size)
        .max_send_buffer_size(config.max_send_buffer_size)
        .max_pending_accept_reset_streams(config.max_pending_resets)
        .max_local_error_reset_streams(Some(config.max_stream_errors))
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .data_frame_budget(config.small_frame_overhead);
    let guard = FrameGuard::new(io, Arc::clone(service), Arc::clone(outbox));
    match builder.handshake(guard).await {
        Ok(h2) => Handshake::Http2(Box::new(h2)),
        Err(error) => {
            // A preface that goes on in its own way; h2 does not answer it.
            if error.is_go_away() {
                offence::report(service, outbox, Offence::ProtocolError);
            }
            Handshake::Failed
        }
    }
}
