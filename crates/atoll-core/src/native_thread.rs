//! Threads that serve the whole process, whichever loop they were first needed on.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread of that name. It may run on all CPUs of the process: Linux would have it inherit those of the thread that
/// starts it, which may be a loop's that is bound to some.
///
/// # Errors
/// When the system has no room for another thread.
pub fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name).spawn(|| {
        use_all_cpus();
        run();
    })
}

/// The calling thread may run where the main thread may.
#[cfg(target_os = "linux")]
fn use_all_cpus() {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the set is plain data, as large as is said, and written before it is read. Where the kernel refuses (more CPUs than
    // the set has room for, a sandbox) the thread stays where it is.
    unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(libc::getpid(), size, &raw mut cpus) == 0 {
            libc::sched_setaffinity(0, size, &raw const cpus);
        }
    }
}

/// Only Linux has threads inherit CPUs.
#[cfg(not(target_os = "linux"))]
fn use_all_cpus() {}
