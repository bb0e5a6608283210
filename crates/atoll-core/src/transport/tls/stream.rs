//! A TLS stream as h2 wants it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::transport::linger::{SharedSocket, Socket};

/// A TLS stream over one of two handles to a socket.
///
/// Its end is a clean one also where the client closes without `close_notify`, as grpcio does: HTTP/2 says itself where its
/// frames end. Dropped, it sends its own `close_notify` as far as the socket takes it at once; whoever holds the other handle
/// then lets the client read the rest.
pub(in crate::transport) struct TlsSocket<S: Socket>(pub(super) TlsStream<SharedSocket<S>>);

impl<S: Socket> AsyncRead for TlsSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.get_mut().0).poll_read(cx, buffer) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl<S: Socket> AsyncWrite for TlsSocket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

impl<S: Socket> Drop for TlsSocket<S> {
    fn drop(&mut self) {
        let (socket, session) = self.0.get_mut();
        // Sent once, whoever asks for it.
        session.send_close_notify();
        let mut writer = WriteNow(&*socket.0);
        // A client that does not read gets no goodbye.
        while session.wants_write() && session.write_tls(&mut writer).is_ok_and(|sent| sent > 0) {}
    }
}

/// Writes what the socket takes without waiting.
struct WriteNow<'a, S>(&'a S);

impl<S: Socket> io::Write for WriteNow<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
