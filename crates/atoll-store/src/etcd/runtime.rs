//! A native thread with an event loop of its own, for connections that must be served while the GIL is held elsewhere.

use std::future::Future;
use std::path::PathBuf;
use std::thread::JoinHandle;

use atoll_core::{fork, native_thread};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::error::OpenError;

/// The thread and its loop. Dropping it ends both.
#[derive(Debug)]
pub(super) struct NativeRuntime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// A forked child has no such thread, so it must not wait for it.
    generation: u32,
}

impl NativeRuntime {
    /// Starts a thread of that name.
    pub(super) fn start(name: &str) -> Result<Self, OpenError> {
        let failed = |error: std::io::Error| OpenError::Io {
            path: PathBuf::from(name),
            reason: format!("the system can't start another thread with an event loop: {error}"),
        };
        let generation = fork::watch();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let _ = runtime.block_on(stopped);
            // A look-up of a host name may hang; nobody waits for it any more.
            runtime.shutdown_background();
        };
        let thread = native_thread::spawn(name.to_owned(), run).map_err(failed)?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
            generation,
        })
    }

    /// Waits on the calling thread, which must not be a loop's, while the connections are served by the runtime's own.
    pub(super) fn block_on<Output>(&self, future: impl Future<Output = Output>) -> Output {
        self.handle.block_on(future)
    }

    /// Whether this process is the one that started it, not a forked child.
    pub(super) fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Runs something on the thread.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(future));
    }
}

impl Drop for NativeRuntime {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What the thread itself drops (a callback that held the last reference) can't wait for it.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
