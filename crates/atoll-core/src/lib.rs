//! The parts of Atoll that never need Python, and so never wait for the GIL.
//!
//! * [`activity`]: what a loop's thread is doing.
//! * [`chaos`]: delays and faults on purpose, for tests.
//! * [`clock`]: time stamps that cost a few nanoseconds.
//! * [`endpoint`]: what this process does, told over HTTP without Python.
//! * [`exposition`]: the statistics of loops as Prometheus text.
//! * [`fork`]: telling a forked child from its parent.
//! * [`gil_wait`]: how long threads waited for Python's GIL, as gauges have measured.
//! * [`lag`]: how long a handler that is posted now waits for its turn.
//! * [`mailbox`]: the queue in front of every loop, and its wake-up protocol.
//! * [`monitor`]: a thread that watches loops from outside.
//! * [`native_thread`]: threads that serve the whole process.
//! * [`overload`]: telling an overloaded queue from a busy one.
//! * [`probe`]: what measures a loop by waiting for its turn on it.
//! * [`readiness`]: whether the process is ready for work.
//! * [`registry`]: all living loops.
//! * [`stats`]: what a loop records about each handler.
//! * [`systemd`]: telling systemd how the service is.
//! * [`timer`]: the native thread behind delayed posts, and clocks that are moved by hand.
//! * [`transport`]: gRPC over HTTP/2 on native threads.
//!
//! Nothing here knows Python; `atoll-python` is the thin binding.

pub mod activity;
pub mod chaos;
pub mod clock;
pub mod endpoint;
pub mod exposition;
pub mod fork;
pub mod gil_wait;
pub mod lag;
pub mod mailbox;
pub mod monitor;
pub mod native_thread;
pub mod overload;
pub mod probe;
pub mod readiness;
pub mod registry;
pub mod stats;
mod sync;
pub mod systemd;
pub mod timer;
pub mod transport;
pub mod wake;
