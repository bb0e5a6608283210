//! TLS in front of HTTP/2: certificates that can be replaced, handshakes on the network threads, and who the client is.
//!
//! * [`certificates`]: what a server shows and whom it trusts; any thread may replace it while it serves.
//! * [`handshake`]: from a socket to a stream that has agreed on `h2`, or to the reason why not.
//! * [`stream`]: that stream, which says goodbye (`close_notify`) when it is dropped.
//! * [`peer`]: the client's certificate, in grpc's words.
//!
//! rustls does the protocol, with `ring` for the cryptography, which builds with cargo and a C compiler alone.

mod certificates;
mod handshake;
mod peer;
mod stream;

pub use certificates::{CertificateError, PemPair, ServerCertificates};
pub(super) use handshake::{Refused, accept};
pub use peer::{AuthContext, TlsPeer};
pub(super) use stream::TlsSocket;
