//! The addresses that a server may listen on, in the spellings that gRPC knows.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A name or a literal without brackets, and a port.
    Tcp { host: String, port: u16 },
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Address {
    /// Reads `host:port`, `[v6]:port`, `:port`, `dns:`, `ipv4:`, `ipv6:` and `unix:` addresses.
    pub(crate) fn parse(text: &str) -> Result<Self, BindError> {
        if let Some(rest) = text.strip_prefix("unix:") {
            // `unix:path`, `unix:/path`, and the URI forms `unix:///path` and `unix://localhost/path`.
            let path = match rest.strip_prefix("//") {
                Some(uri) => uri.find('/').map_or("", |start| &uri[start..]),
                None => rest,
            };
            if path.is_empty() {
                return Err(BindError::invalid(
                    text,
                    "it has no path, as in \"unix:/run/atoll.sock\"",
                ));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let mut rest = text;
        for scheme in ["dns:", "ipv4:", "ipv6:"] {
            if let Some(stripped) = text.strip_prefix(scheme) {
                rest = match stripped.strip_prefix("//") {
                    Some(uri) => uri.find('/').map_or("", |start| &uri[start + 1..]),
                    None => stripped,
                };
            }
        }
        let rest = rest
            .replace("%5B", "[")
            .replace("%5b", "[")
            .replace("%5D", "]")
            .replace("%5d", "]");
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| {
            BindError::invalid(
                text,
                "it has no port, as in \"127.0.0.1:50051\" (0 takes a free one)",
            )
        })?;
        let port = port
            .parse()
            .map_err(|_| BindError::invalid(text, "its port is not a number from 0 to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(|| {
                BindError::invalid(text, "a bracket is not closed, as it is in \"[::1]:50051\"")
            })?,
            None if host.contains(':') => {
                return Err(BindError::invalid(
                    text,
                    "an IPv6 address needs brackets, as in \"[::1]:50051\"",
                ));
            }
            None => host,
        };
        // An empty host is every interface, as with grpc.
        let host = if host.is_empty() { "::" } else { host };
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

/// An address cannot be listened on; the message says why and what would help.
#[derive(Debug)]
pub struct BindError {
    address: Box<str>,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Invalid(&'static str),
    Io(io::Error),
}

impl BindError {
    pub(crate) fn invalid(address: &str, reason: &'static str) -> Self {
        Self {
            address: address.into(),
            problem: Problem::Invalid(reason),
        }
    }

    pub(crate) fn io(address: &str, error: io::Error) -> Self {
        Self {
            address: address.into(),
            problem: Problem::Io(error),
        }
    }

    /// What the operating system said, unless the address was malformed.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match &self.problem {
            Problem::Invalid(_) => None,
            Problem::Io(error) => Some(error),
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.address;
        let error = match &self.problem {
            Problem::Invalid(reason) => {
                return write!(
                    formatter,
                    "{address:?} is not an address to listen on: {reason}"
                );
            }
            Problem::Io(error) => error,
        };
        write!(formatter, "cannot listen on {address}: {error}")?;
        match error.kind() {
            io::ErrorKind::AddrInUse => formatter.write_str(
                "; another server listens there: stop it, or take another port (0 takes a free one)",
            ),
            io::ErrorKind::PermissionDenied => {
                formatter.write_str("; ports below 1024 and foreign directories need privileges")
            }
            io::ErrorKind::AddrNotAvailable => {
                formatter.write_str("; this machine has no such address: [::] and 0.0.0.0 are all it has")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Invalid(_) => None,
            Problem::Io(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn every_spelling_of_grpc_is_understood() {
        let cases = [
            ("127.0.0.1:0", tcp("127.0.0.1", 0)),
            ("localhost:50051", tcp("localhost", 50051)),
            ("[::1]:7", tcp("::1", 7)),
            ("[::]:7", tcp("::", 7)),
            (":7", tcp("::", 7)),
            ("dns:///example.org:7", tcp("example.org", 7)),
            ("dns://8.8.8.8/example.org:7", tcp("example.org", 7)),
            ("dns:example.org:7", tcp("example.org", 7)),
            ("ipv4:10.0.0.1:7", tcp("10.0.0.1", 7)),
            ("ipv6:[::1]:7", tcp("::1", 7)),
            ("ipv6:%5B::1%5D:7", tcp("::1", 7)),
            ("unix:/run/a.sock", Address::Unix("/run/a.sock".into())),
            ("unix:///run/a.sock", Address::Unix("/run/a.sock".into())),
            ("unix:a.sock", Address::Unix("a.sock".into())),
        ];
        for (text, address) in cases {
            assert_eq!(Address::parse(text).unwrap(), address, "{text}");
        }
    }

    #[test]
    fn a_malformed_address_says_how_it_should_look() {
        for text in [
            "",
            "localhost",
            "localhost:http",
            "localhost:65536",
            "::1:50051",
            "[::1:50051",
            "unix:",
            "unix://x",
        ] {
            let message = Address::parse(text).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("{text:?} is not an address")),
                "{message}"
            );
        }
    }
}
