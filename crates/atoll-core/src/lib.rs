//! The parts of Atoll that never need Python, and so never wait for the GIL.
//!
//! * [`clock`]: time stamps that cost a few nanoseconds.
//! * [`mailbox`]: the queue in front of every loop, and its wake-up protocol.
//! * [`stats`]: what a loop records about each handler.
//! * [`timer`]: the native thread behind delayed posts.
//! * [`transport`]: gRPC over HTTP/2 on native threads.
//!
//! Nothing here knows Python; `atoll-python` is the thin binding.

pub mod clock;
pub mod mailbox;
pub mod stats;
mod sync;
pub mod timer;
pub mod transport;
pub mod wake;
