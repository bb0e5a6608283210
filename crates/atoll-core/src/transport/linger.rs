//! Closing a connection so that the client gets everything that was sent to it.
//!
//! A socket that is closed while the client's last frames (window updates, acknowledgements) lie unread is reset by TCP, and a
//! reset discards what the client has not read yet. So we say that nothing more will come, and read until the client closes.
//! h2 owns its socket and drops it; this module keeps the other handle to it.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// What TCP and Unix streams have in common: all of it through a shared reference.
pub(crate) trait Socket: AsFd {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Copies what has been received without taking it; 0 at the end.
    fn try_peek(&self, buffer: &mut [u8]) -> io::Result<usize>;
    fn try_read_buf(&self, buffer: &mut ReadBuf<'_>) -> io::Result<usize>;
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Like [`Self::try_peek`], as soon as there is something.
    fn poll_peek(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_peek(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                seen => return Poll::Ready(seen),
            }
        }
    }
}

macro_rules! socket {
    ($stream:ty) => {
        impl Socket for $stream {
            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }
            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }
            fn try_peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
                self.try_io(Interest::READABLE, || peek(&SockRef::from(self), buffer))
            }
            fn try_read_buf(&self, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
                self.try_read_buf(buffer)
            }
            fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
                self.try_read(buffer)
            }
            fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
                self.try_write(bytes)
            }
            fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
                self.try_write_vectored(slices)
            }
        }
    };
}

socket!(TcpStream);
socket!(UnixStream);

fn peek(socket: &SockRef<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut bytes = [MaybeUninit::uninit(); 64];
    let room = buffer.len().min(bytes.len());
    let seen = socket.peek(&mut bytes[..room])?;
    for (to, from) in buffer.iter_mut().zip(&bytes[..seen]) {
        // SAFETY: `peek` has written as many bytes as it says.
        *to = unsafe { from.assume_init() };
    }
    Ok(seen)
}

/// One of two handles to a socket: the one that h2 reads, writes and drops.
pub(crate) struct SharedSocket<S>(pub(crate) Arc<S>);

impl<S: Socket> AsyncRead for SharedSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl<S: Socket> SharedSocket<S> {
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&S) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl<S: Socket> AsyncWrite for SharedSocket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |socket| socket.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}

/// Tells the client that nothing more will come and reads until it closes, or for `limit`.
pub(crate) async fn linger<S: Socket>(socket: &S, limit: Duration) {
    // Fails when the client has closed already; then the first read says so, too.
    let _ = SockRef::from(socket).shutdown(Shutdown::Write);
    let mut unread = [0; 512];
    let until_closed = async {
        while poll_fn(|cx| socket.poll_read_ready(cx)).await.is_ok() {
            match socket.try_read(&mut unread) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    // A client that does not close is left to find out.
    let _ = tokio::time::timeout(limit, until_closed).await;
}
