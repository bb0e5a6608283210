//! Several machines: the store in etcd, and the election of the one server that writes to it.
//!
//! * [`options`]: how etcd is reached, and all times and limits.
//! * [`election`]: a lease for liveness, an epoch for safety; `candidate` is what its thread does.
//! * [`validity`]: until when the leader may serve, read by each read and commit; [`clock`]: by which clock.
//! * [`engine`]: writes, each fenced by the epoch; `load`: reading rows and history; `transaction` and `layout`: what is stored how.
//! * `connection`, `runtime`: one member at a time, on native threads.
//!
//! The order of use: [`Election::start`]; when it leads, [`Election::leadership`] gives what [`EtcdEngine::new`] and
//! [`crate::Settings::guard`] need; [`crate::Store::open`]. When it has lost, the store is closed and a new election begun. On a clean
//! stop the store is closed first, then [`Election::resign`].

mod candidate;
pub mod clock;
mod connection;
pub mod election;
pub mod engine;
mod layout;
mod load;
pub mod options;
mod runtime;
mod transaction;
pub mod validity;

pub use election::{Election, ElectionObserver, ElectionState, Leader, Leadership};
pub use engine::EtcdEngine;
pub use options::{EtcdOptions, EtcdTls, EtcdUser, LeaseTimes};
pub use validity::Validity;
