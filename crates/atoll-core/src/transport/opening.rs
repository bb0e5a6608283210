//! Which protocol a client speaks, by the first bytes that it sends.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::frame_guard::PREFACE;

/// Bytes that tell HTTP/2 from HTTP/1: there is no method `PRI`.
const TELLING: usize = 4;

/// TLS: a handshake record of version 3.x.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http2,
    /// Upper-case letters, as in a method of HTTP/1.
    Http1,
    Tls,
    Unknown,
}

impl Protocol {
    /// What begins like this; `None` while that may be several things.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (first, second) = (*bytes.first()?, bytes.get(1));
        if PREFACE.starts_with(bytes) {
            return (bytes.len() >= TELLING).then_some(Self::Http2);
        }
        if first == TLS_HANDSHAKE[0] {
            return second.map(|second| {
                if *second == TLS_HANDSHAKE[1] {
                    Self::Tls
                } else {
                    Self::Unknown
                }
            });
        }
        Some(if first.is_ascii_uppercase() {
            Self::Http1
        } else {
            Self::Unknown
        })
    }
}

/// Bytes that have been read ahead.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opening {
    bytes: [u8; TELLING],
    length: u8,
}

impl Opening {
    /// Reads until it is clear what the client speaks, which takes no more than what it sends at once.
    pub(super) async fn read<S>(io: &mut S) -> io::Result<(Protocol, Self)>
    where
        S: AsyncRead + Unpin,
    {
        let mut opening = Self::default();
        loop {
            let length = usize::from(opening.length);
            let read = io.read(&mut opening.bytes[length..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            opening.length += read as u8;
            if let Some(protocol) = Protocol::of(opening.as_bytes()) {
                return Ok((protocol, opening));
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// A byte stream with what was read ahead put back in front of it.
pub(super) struct Replay<S> {
    io: S,
    opening: Opening,
    replayed: u8,
}

impl<S> Replay<S> {
    pub(super) fn new(io: S, opening: Opening) -> Self {
        Self {
            io,
            opening,
            replayed: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.replayed < this.opening.length {
            let rest = &this.opening.as_bytes()[usize::from(this.replayed)..];
            let part = &rest[..rest.len().min(buffer.remaining())];
            buffer.put_slice(part);
            this.replayed += part.len() as u8;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        let cases: [(&[u8], Option<Protocol>); 14] = [
            (b"", None),
            (b"P", None),
            (b"PRI", None),
            (b"PRI ", Some(Protocol::Http2)),
            (PREFACE, Some(Protocol::Http2)),
            (b"PO", Some(Protocol::Http1)),
            (b"PRIM", Some(Protocol::Http1)),
            (b"G", Some(Protocol::Http1)),
            (b"\x16", None),
            (b"\x16\x03", Some(Protocol::Tls)),
            (b"\x16\x04", Some(Protocol::Unknown)),
            (b"get", Some(Protocol::Unknown)),
            (b"\0\0\x12\x04", Some(Protocol::Unknown)),
            (b"\xff", Some(Protocol::Unknown)),
        ];
        for (bytes, protocol) in cases {
            assert_eq!(Protocol::of(bytes), protocol, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn what_was_read_ahead_is_read_again() {
        let mut io: &[u8] = &[PREFACE, &b"frames"[..]].concat();
        let (protocol, opening) = Opening::read(&mut io).await.unwrap();
        assert_eq!(protocol, Protocol::Http2);
        let mut replay = Replay::new(io, opening);
        let mut first = [0; 3];
        replay.read_exact(&mut first).await.unwrap();
        let mut rest = Vec::new();
        replay.read_to_end(&mut rest).await.unwrap();
        assert_eq!(
            [&first[..], &rest].concat(),
            [PREFACE, &b"frames"[..]].concat()
        );
    }

    #[tokio::test]
    async fn a_client_that_leaves_before_it_has_said_enough_is_an_error() {
        let mut io: &[u8] = b"PR";
        let error = Opening::read(&mut io).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
