//! Sockets that are bound and listen, before any thread serves them.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use super::address::{Address, BindError};
use super::tls::ServerCertificates;

/// Connections that may wait to be accepted; the system's own limit (`somaxconn`) also applies.
const BACKLOG: i32 = 4096;

/// How often a free port is tried on all addresses of a name before giving up.
const PORT_ATTEMPTS: usize = 16;

/// A bound and listening address: one socket, or several where a name has several addresses.
///
/// Ports are shared only when asked for: otherwise a second server on the port fails instead of taking half of the
/// connections.
#[derive(Debug)]
pub struct Listener {
    pub(super) sockets: Vec<ListeningSocket>,
    pub(super) certificates: Option<Arc<ServerCertificates>>,
    port: Option<u16>,
}

#[derive(Debug)]
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Removes the socket from the file system when the listener is gone.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have removed it already, which is what this is for.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds `address` and listens: `"127.0.0.1:0"`, `"localhost:50051"`, `"[::]:50051"` (both families,
    /// like `":50051"`), `"unix:/path"`, or with one of the prefixes `dns:`, `ipv4:` and `ipv6:`. Names are
    /// looked up on the calling thread.
    ///
    /// # Errors
    ///
    /// [`BindError`] when the address is malformed, in use, not this machine's, or may not be bound.
    pub fn bind(address: &str) -> Result<Self, BindError> {
        Self::bind_with(address, false)
    }

    /// Like [`bind`](Self::bind). With `share`, others that share it too may listen on the same port, and the system spreads
    /// the connections over them (`SO_REUSEPORT`); a Unix socket is never shared.
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind).
    pub fn bind_with(address: &str, share: bool) -> Result<Self, BindError> {
        let failed = |error| BindError::io(address, error);
        match Address::parse(address)? {
            Address::Unix(path) => {
                let socket = bind_unix(&path).map_err(failed)?;
                Ok(Self {
                    sockets: vec![socket],
                    certificates: None,
                    port: None,
                })
            }
            Address::Tcp { host, port } => {
                let addresses: Vec<_> = (host.as_str(), port)
                    .to_socket_addrs()
                    .map_err(failed)?
                    .collect();
                let listeners = bind_all(&addresses, share).map_err(failed)?;
                let port = listeners
                    .first()
                    .and_then(|listener| listener.local_addr().ok());
                Ok(Self {
                    sockets: listeners.into_iter().map(ListeningSocket::Tcp).collect(),
                    certificates: None,
                    port: port.map(|address| address.port()),
                })
            }
        }
    }

    /// Serves its connections over TLS only.
    #[must_use]
    pub fn with_tls(mut self, certificates: Arc<ServerCertificates>) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// The port that was bound, also where 0 was asked for; a Unix socket has none.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

/// Binds all addresses of a name to one port. A family that this machine does not have is skipped as long as
/// another is bound.
pub(crate) fn bind_all(addresses: &[SocketAddr], share: bool) -> io::Result<Vec<TcpListener>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for _ in 0..PORT_ATTEMPTS {
        let mut listeners: Vec<TcpListener> = Vec::new();
        let mut taken = false;
        for address in addresses {
            let mut address = *address;
            if let Some(first) = listeners.first() {
                address.set_port(first.local_addr()?.port());
            }
            match bind_tcp(address, share) {
                Ok(listener) => listeners.push(listener),
                Err(error) => {
                    taken |= error.kind() == io::ErrorKind::AddrInUse;
                    last = error;
                }
            }
        }
        if !taken && !listeners.is_empty() {
            return Ok(listeners);
        }
        let chosen_by_system = addresses.iter().all(|address| address.port() == 0);
        if !(taken && chosen_by_system) {
            break;
        }
    }
    Err(last)
}

fn bind_tcp(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    match listen(address, share) {
        // Machines without IPv6 still have an "every address".
        Err(error) if is_every_address(address) && no_such_family(&error) => listen(
            (std::net::Ipv4Addr::UNSPECIFIED, address.port()).into(),
            share,
        ),
        bound => bound,
    }
}

fn is_every_address(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

fn no_such_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
        || error.kind() == io::ErrorKind::AddrNotAvailable
}

fn listen(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Lets a restarted server have its port although old connections linger; it does not share the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<ListeningSocket> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok(ListeningSocket::Unix(listener, SocketFile(path.to_owned())))
}

/// Whether the socket file belongs to a server that is gone.
pub(crate) fn is_left_over(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).err().is_some_and(refused)
}
