//! The addresses that an endpoint may listen on: this machine's own, unless it is told otherwise. Any thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::transport::BindError;
use crate::transport::address::Address;
use crate::transport::listener::{bind_all, is_left_over};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// Who may connect to a Unix socket: its owner.
const MODE: u32 = 0o600;

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Listening {
    /// On a loopback address.
    Tcp(TcpListener),
    /// On a file.
    Unix(UnixListener),
}

impl Listening {
    pub(super) fn descriptor(&self) -> i32 {
        match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Unix(listener) => listener.as_raw_fd(),
        }
    }
}

/// What has been bound.
#[derive(Debug)]
pub(super) struct Bound {
    /// How clients are to call it.
    pub(super) address: String,
    pub(super) listening: Vec<Listening>,
    pub(super) files: Vec<SocketFile>,
}

/// The file of a Unix socket: removed when this is dropped, unless it has become another one.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device_and_node: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            device_and_node: device_and_node(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if device_and_node(&self.path).is_ok_and(|now| now == self.device_and_node) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn device_and_node(path: &Path) -> io::Result<(u64, u64)> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Listens on `text`; on an address of other machines only `beyond_loopback`.
pub(super) fn bind(text: &str, beyond_loopback: bool) -> Result<Bound, BindError> {
    let failed = |error| BindError::io(text, error);
    match Address::parse(text)? {
        Address::Unix(path) => {
            let path = std::path::absolute(path).map_err(failed)?;
            if is_something_else(&path) {
                return Err(BindError::invalid(
                    text,
                    "there is a file of that name which is no socket: take another name, or remove the file",
                ));
            }
            let (listener, file) = bind_unix(&path).map_err(failed)?;
            Ok(Bound {
                address: format!("unix:{}", path.display()),
                listening: vec![Listening::Unix(listener)],
                files: vec![file],
            })
        }
        Address::Tcp { host, port } => {
            let addresses = own(&host, port, beyond_loopback).ok_or_else(|| {
                BindError::invalid(
                    text,
                    "what a process does is told to its own machine only: take a loopback address, as in \
                     \"127.0.0.1:9464\", or a Unix socket, as in \"unix:/run/atoll.sock\"; or say beyond_loopback and take an \
                     IP address, as in \"0.0.0.0:9464\", for health and metrics",
                )
            })?;
            let listeners = bind_all(&addresses, false).map_err(failed)?;
            let port = match listeners.first() {
                Some(listener) => listener.local_addr().map_err(failed)?.port(),
                None => port,
            };
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host
            };
            Ok(Bound {
                address: format!("{host}:{port}"),
                listening: listeners.into_iter().map(Listening::Tcp).collect(),
                files: Vec::new(),
            })
        }
    }
}

/// The addresses of a host that is this machine as seen from itself, or any IP address `beyond_loopback`. Names are not looked
/// up: who answers might lie.
fn own(host: &str, port: u16, beyond_loopback: bool) -> Option<Vec<SocketAddr>> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(vec![
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ]);
    }
    let ip: IpAddr = host.parse().ok()?;
    (beyond_loopback || ip.is_loopback()).then(|| vec![(ip, port).into()])
}

fn is_something_else(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket())
}

/// A socket that listens on `path`, which only the owner can connect to from the beginning.
fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let file = SocketFile::of(path)?;
    // Before it listens: until then nobody can connect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_own_addresses_are_listened_on() {
        for text in [
            "0.0.0.0:0",
            "[::]:0",
            ":0",
            "10.0.0.1:0",
            "example.org:0",
            "localhost.example.org:0",
            "[::ffff:10.0.0.1]:0",
        ] {
            let message = bind(text, false).unwrap_err().to_string();
            assert!(message.contains("its own machine only"), "{message}");
            assert!(message.contains("127.0.0.1:9464"), "{message}");
        }
        for text in ["127.0.0.1", "unix:", "127.0.0.1:http"] {
            let message = bind(text, false).unwrap_err().to_string();
            assert!(message.contains("is not an address"), "{message}");
        }
    }

    #[test]
    fn any_ip_address_is_listened_on_where_that_is_asked_for() {
        let bound = bind("0.0.0.0:0", true).unwrap();
        assert!(bound.address.starts_with("0.0.0.0:"));
        assert!(
            bind("example.org:0", true).is_err(),
            "names are not looked up"
        );
    }

    #[test]
    fn the_port_that_was_taken_is_told() {
        let bound = bind("127.0.0.1:0", false).unwrap();
        let Listening::Tcp(listener) = &bound.listening[0] else {
            panic!("a TCP socket")
        };
        let port = listener.local_addr().unwrap().port();
        assert_eq!(bound.address, format!("127.0.0.1:{port}"));
        let taken = bind(&bound.address, false).unwrap_err();
        assert!(taken.to_string().contains("another server listens there"));
        let both = bind("localhost:0", false).unwrap();
        assert!(both.address.starts_with("localhost:"));
    }
}
