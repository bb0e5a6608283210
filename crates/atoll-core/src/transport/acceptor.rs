//! Accepts connections and brings each to the network thread that will serve it.
//!
//! Acceptors run on the first network thread only, so that connections are spread evenly and not by chance.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::{Connection, Service};
use super::counters::count;
use super::handshake::{Handshake, shake_hands};
use super::linger::{SharedSocket, Socket, linger};
use super::listener::{ListeningSocket, SocketFile};
use super::offence::{self, Offence};
use super::outbox::{Outbox, UNIX_PEER};
use super::peers::Peer;
use super::server::Shared;
use super::tls::{self, Refused, ServerCertificates, TlsSocket};

/// How long accepting rests after an error such as "too many open files": doubled each time, up to the
/// second.
const FIRST_ACCEPT_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Of a port with TLS.
type Certificates = Option<Arc<ServerCertificates>>;

enum AsyncListener {
    Tcp(TcpListener),
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "removes the file when dropped")] SocketFile,
    ),
}

/// A connection between two runtimes.
enum Accepted {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

impl AsyncListener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted::Tcp(stream.into_std()?, peer))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::Unix(stream.into_std()?))
            }
        }
    }
}

/// Accepts on `socket` until the task is aborted, which closes it.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    socket: ListeningSocket,
    certificates: Certificates,
) -> io::Result<AbortHandle> {
    let listener = match socket {
        ListeningSocket::Tcp(listener) => AsyncListener::Tcp(TcpListener::from_std(listener)?),
        ListeningSocket::Unix(listener, file) => {
            AsyncListener::Unix(UnixListener::from_std(listener)?, file)
        }
    };
    let registration = shared.register_task();
    let task = shared.workers[0]
        .runtime
        .spawn(async move { accept_forever(&registration.shared, &listener, &certificates).await });
    Ok(task.abort_handle())
}

async fn accept_forever(
    shared: &Arc<Shared>,
    listener: &AsyncListener,
    certificates: &Certificates,
) {
    let mut pause = FIRST_ACCEPT_PAUSE;
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                pause = FIRST_ACCEPT_PAUSE;
                spawn_connection(shared, accepted, certificates.clone());
            }
            // The client has gone again: not our trouble.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => {
                count(&shared.workers[0].counters.accept_errors);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_ACCEPT_PAUSE);
            }
        }
    }
}

fn spawn_connection(shared: &Arc<Shared>, accepted: Accepted, certificates: Certificates) {
    let worker = shared.least_busy_worker();
    let (name, peer) = match &accepted {
        Accepted::Tcp(_, address) => (peer_name(*address), Some(Peer::of(address.ip()))),
        Accepted::Unix(_) => (UNIX_PEER.into(), None),
    };
    let outbox =
        Outbox::new(name, Arc::clone(&worker.counters)).with_number(shared.next_connection());
    let outbox = Arc::new(outbox);
    let service = Arc::clone(&shared.service);
    let registration = match shared.register_connection(worker, &outbox, peer) {
        Ok(registration) => registration,
        // Closed at once: a client that waits in the backlog instead would not know why.
        Err(offence) => return offence::report(&service, &outbox, offence),
    };
    worker.runtime.spawn(async move {
        let _registration = registration;
        let counters = Arc::clone(&outbox.counters);
        let served = match accepted {
            Accepted::Tcp(stream, _) => match tcp_stream(stream) {
                Ok(stream) => serve_and_linger(stream, certificates, service, outbox).await,
                Err(_) => false,
            },
            Accepted::Unix(stream) => match UnixStream::from_std(stream) {
                Ok(stream) => serve_and_linger(stream, certificates, service, outbox).await,
                Err(_) => false,
            },
        };
        if !served {
            count(&counters.connection_errors);
        }
    });
}

fn tcp_stream(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Serves one connection and closes it so that the client gets all of it; whether its end was a clean one.
async fn serve_and_linger<S: Socket>(
    socket: S,
    certificates: Certificates,
    service: Arc<Service>,
    outbox: Arc<Outbox>,
) -> bool {
    let socket = Arc::new(socket);
    let limit = service.config.close_timeout;
    let until = Instant::now() + service.config.handshake_timeout;
    let served = match certificates {
        None => {
            let io = SharedSocket(Arc::clone(&socket));
            serve(std::future::ready(Some(io)), until, service, outbox).await
        }
        Some(certificates) => {
            let io = secure(
                Arc::clone(&socket),
                certificates,
                until,
                Arc::clone(&service),
                Arc::clone(&outbox),
            );
            serve(io, until, service, outbox).await
        }
    };
    // Boxed, since it is short and the connection may be long.
    Box::pin(linger(&*socket, limit)).await;
    served
}

/// The TLS handshake, counted; who the client is goes into the outbox.
async fn secure<S: Socket>(
    socket: Arc<S>,
    certificates: Arc<ServerCertificates>,
    until: Instant,
    service: Arc<Service>,
    outbox: Arc<Outbox>,
) -> Option<TlsSocket<S>> {
    let handshake = tls::accept(socket, &certificates);
    let outcome = tokio::time::timeout_at(until, handshake).await;
    if outcome.is_err() {
        offence::report(&service, &outbox, Offence::SlowHandshake);
    }
    let counters = &outbox.counters;
    match outcome.unwrap_or(Err(Refused::Failed)) {
        Ok((io, peer)) => {
            count(&counters.tls_handshakes);
            // Set once: there is one handshake.
            let _ = outbox.tls.set(peer);
            Some(io)
        }
        Err(refused) => {
            count(match refused {
                Refused::Plaintext => &counters.tls_plaintext,
                Refused::WithoutHttp2 => &counters.tls_without_http2,
                Refused::ClientCertificate => &counters.tls_client_certificates_refused,
                Refused::Failed => &counters.tls_handshakes_failed,
            });
            None
        }
    }
}

/// Serves one connection to its end; whether that was a clean one. `open` makes of the socket what is read and written, or
/// nothing; HTTP/2 has begun by `until`.
async fn serve<S>(
    open: impl Future<Output = Option<S>>,
    until: Instant,
    service: Arc<Service>,
    outbox: Arc<Outbox>,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Boxed, so that neither it nor its timer is kept for the life of the connection.
    let mut handshake = Box::pin(async {
        match open.await {
            Some(io) => tokio::time::timeout_at(until, shake_hands(io, &service, &outbox)).await,
            None => Ok(Handshake::Failed),
        }
    });
    let outcome = poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if outbox.sleep_until_stopped(cx) => Poll::Pending,
        Poll::Pending => Poll::Ready(None),
    })
    .await;
    drop(handshake);
    let h2 = match outcome {
        Some(Ok(Handshake::Http2(h2))) => *h2,
        Some(Ok(Handshake::Answered)) | None => return true,
        Some(Ok(Handshake::Failed)) => return false,
        Some(Err(_)) => {
            offence::report(&service, &outbox, Offence::SlowHandshake);
            return false;
        }
    };
    Connection::new(h2, service, outbox).await.is_ok()
}

/// The client's address as grpc writes it.
fn peer_name(address: SocketAddr) -> Box<str> {
    let name = match address.ip().to_canonical() {
        IpAddr::V4(ip) => format!("ipv4:{ip}:{}", address.port()),
        IpAddr::V6(ip) => format!("ipv6:%5B{ip}%5D:{}", address.port()),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_as_grpc_names_them() {
        let name = |text: &str| peer_name(text.parse().unwrap());
        assert_eq!(&*name("127.0.0.1:1234"), "ipv4:127.0.0.1:1234");
        assert_eq!(&*name("[::1]:1234"), "ipv6:%5B::1%5D:1234");
        assert_eq!(&*name("[::ffff:10.0.0.1]:1234"), "ipv4:10.0.0.1:1234");
    }
}
