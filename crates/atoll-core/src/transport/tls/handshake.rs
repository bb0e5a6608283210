//! The handshake, on the thread that will serve the connection.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use rustls::Error;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio_rustls::LazyConfigAcceptor;

use super::certificates::{ALPN, ServerCertificates};
use super::peer::TlsPeer;
use super::stream::TlsSocket;
use crate::transport::linger::{SharedSocket, Socket};

/// How much one connection may have encrypted and not sent; h2 has its own bound for what is not encrypted yet.
const LARGEST_UNSENT: usize = 64 << 10;

/// The first byte of every TLS connection: a record of the type "handshake".
const HANDSHAKE_RECORD: u8 = 0x16;

/// A fatal alert, `no_application_protocol` (RFC 7301, section 3.2), as a record that is not encrypted.
const NO_APPLICATION_PROTOCOL: &[u8] = &[0x15, 3, 3, 0, 2, 2, 120];

const HTTP1_ANSWER: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 55\r\n\
    connection: close\r\n\r\nThis port speaks gRPC over TLS: use https and HTTP/2.\r\n";

/// Empty SETTINGS, then GOAWAY of stream 0 with `INADEQUATE_SECURITY` and a text (RFC 9113, sections 6.8 and 7).
const HTTP2_ANSWER: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x30\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0cThis port speaks TLS: secure the channel";

/// Why a connection was refused before it spoke HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Refused {
    /// What came was no TLS.
    Plaintext,
    /// The client did not offer the protocol `h2`.
    WithoutHttp2,
    /// The client showed no certificate, or one that its roots don't vouch for now.
    ClientCertificate,
    /// Everything else: no common version, a client that does not trust the server's certificate, a lost peer.
    Failed,
}

/// Takes the handshake to its end, or tells the client why not. The caller limits the time.
pub(in crate::transport) async fn accept<S: Socket>(
    socket: Arc<S>,
    certificates: &ServerCertificates,
) -> Result<(TlsSocket<S>, TlsPeer), Refused> {
    let mut start = [0; 4];
    let seen = poll_fn(|cx| socket.poll_peek(cx, &mut start))
        .await
        .map_err(|_| Refused::Failed)?;
    if seen == 0 {
        return Err(Refused::Failed);
    }
    let mut io = SharedSocket(socket);
    if start[0] != HANDSHAKE_RECORD {
        let answer = match &start[..seen] {
            b"PRI " => HTTP2_ANSWER,
            [b'A'..=b'Z', ..] => HTTP1_ANSWER,
            _ => &[],
        };
        // A client that has gone meanwhile does not need it.
        let _ = io.write_all(answer).await;
        return Err(Refused::Plaintext);
    }
    let start = LazyConfigAcceptor::new(Acceptor::default(), io)
        .await
        .map_err(|error| reason(&error))?;
    let hello = start.client_hello();
    let speaks_http2 = hello
        .alpn()
        .is_some_and(|mut offered| offered.any(|protocol| protocol == ALPN));
    if !speaks_http2 {
        let mut io = start.io;
        let _ = io.write_all(NO_APPLICATION_PROTOCOL).await;
        return Err(Refused::WithoutHttp2);
    }
    let server_name = hello.server_name().map(Into::into);
    let limit = |session: &mut rustls::ServerConnection| {
        session.set_buffer_limit(Some(LARGEST_UNSENT));
    };
    let stream = start
        .into_stream_with(certificates.config(), limit)
        .await
        .map_err(|error| reason(&error))?;
    let peer = TlsPeer::new(stream.get_ref().1, server_name);
    Ok((TlsSocket(stream), peer))
}

fn reason(error: &io::Error) -> Refused {
    let error = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match error {
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => {
            Refused::ClientCertificate
        }
        _ => Refused::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_to_plaintext_say_their_own_length() {
        let text = std::str::from_utf8(HTTP1_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
        let goaway = &HTTP2_ANSWER[9..];
        assert_eq!(usize::from(goaway[2]), goaway.len() - 9);
    }
}
