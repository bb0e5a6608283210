//! gRPC over HTTP/2 on native threads, without Python.
//!
//! The transport owns sockets, connections and streams. It decodes calls, hands them in batches to
//! the [`Dispatch`] targets of their [`Route`]s, and sends what is answered through [`Call::reply`].
//! Deadlines, clients that cancel, lost connections, unknown methods, limits and shutdown are answered
//! here, also while no target runs.
//!
//! Guarantees:
//! * every call that was dispatched ends exactly once: by its reply, or by [`Dispatch::cancelled`];
//! * network threads never wait for a target, and no input from the network makes them panic;
//! * an answered call keeps nothing alive in the transport.
//!
//! | thread              | enters                                                                  |
//! |---------------------|-------------------------------------------------------------------------|
//! | `atoll-net-<i>`     | everything; [`Dispatch`] is called on these                             |
//! | any                 | the methods of [`Call`] and [`ConnectionHandle`], [`Transport::shutdown`] and [`Transport::stats`] |
//! | any but `atoll-net` | [`Listener::bind`] (it may look up names), [`Transport::join`]          |
//!
//! A call's way: `acceptor` accepts it, `handshake` finds out what the client speaks, `frame_guard` looks at
//! the heads of its frames, `connection` owns the task, `request` checks the headers, `body`
//! puts the message together, `routes` names the target, `call` is shared with it, `outbox` brings the
//! reply back, `wire` sends it.

mod acceptor;
mod accounts;
pub(crate) mod address;
mod admission;
mod authentication;
mod authority;
mod base64;
mod batches;
mod body;
pub mod broadcast;
mod call;
mod compression;
mod config;
mod connection;
mod connection_handle;
mod counters;
mod deadlines;
mod flow;
mod frame_guard;
mod frame_heads;
mod frame_limit;
mod handshake;
pub mod health;
mod http1;
mod kept_memory;
pub(crate) mod linger;
pub(crate) mod listener;
pub mod metadata;
mod method_counters;
mod offence;
mod opening;
mod outbox;
mod peers;
mod pings;
mod reply;
mod request;
mod routes;
mod server;
mod spread;
mod status;
mod streams;
mod timeout;
mod tls;
mod wire;

pub use accounts::{Totals, totals_of_process};
pub use address::BindError;
pub use admission::{Gate, WhenFull};
pub use authentication::{Authentication, AuthenticationStats, ClusterId};
pub use body::Message;
pub use call::{Call, CancelReason};
pub use compression::Encoding;
pub use config::{ConfigError, TransportConfig};
pub use connection_handle::ConnectionHandle;
pub use counters::TransportStats;
pub use flow::{Received, Sent};
pub use frame_limit::FrameLimit;
pub use listener::Listener;
pub use method_counters::{MethodStats, Refused, RefusedCounts};
pub use offence::{Offence, OffenceCounts, OffenceNote};
pub use pings::{NoPong, RoundTrip};
pub use reply::{Framed, MESSAGE_PREFIX, Reply, frame};
pub use routes::{Dispatch, Route, Routes};
pub use server::Transport;
pub use spread::Chooser;
pub use status::{Code, Status};
pub use tls::{AuthContext, CertificateError, PemPair, ServerCertificates, TlsPeer};
