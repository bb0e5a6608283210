//! The Python stack of a thread, taken while the thread is stuck, the GIL held or not.
//!
//! CPython's faulthandler, registered on a signal with a pipe as its file, writes the stack of the thread that gets the signal
//! from within the signal's handler: it needs no lock and no GIL. Python registers it; here is the sending and the reading.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `SAMPLER` | whoever installs it | monitors | its mutex, also while a stack is being read |

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a stack is waited for: a thread in the kernel may not get its signal.
const PATIENCE: Duration = Duration::from_millis(100);
/// A stack is complete when it ends with a line's end and nothing has come for so long.
const QUIET: Duration = Duration::from_millis(10);
/// Where a loop's own frames begin: what called them says nothing of the stall.
const LOOPS_OWN: &str = "atoll/loop/_io_context.py\"";
/// faulthandler stops after 100 frames, of 500 characters each at most.
const LONGEST: usize = 64 * 1024;

/// Where stacks come from.
#[derive(Debug)]
struct Sampler {
    signal: i32,
    reader: OwnedFd,
    /// What faulthandler writes to.
    writer: OwnedFd,
}

static SAMPLER: Mutex<Option<Sampler>> = Mutex::new(None);

/// Makes the pipe for stacks that `signal` causes; returns the descriptor that faulthandler is to write to, the same at every
/// call for one signal. None where the system can't signal one thread.
///
/// It is for good, as faulthandler's registration must be: a signal that is still under way would end the process.
///
/// # Errors
/// When the process has no file descriptor left.
pub fn install(signal: i32) -> io::Result<Option<RawFd>> {
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let mut installed = SAMPLER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sampler) = installed.as_ref().filter(|it| it.signal == signal) {
        return Ok(Some(sampler.writer.as_raw_fd()));
    }
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors.
    if unsafe { libc::pipe(fds.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us these descriptors; nobody else owns them.
    let [reader, writer] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    for fd in [&reader, &writer] {
        // Not blocking, or a reader that is gone would block the signal's handler.
        // SAFETY: the descriptor is open and the commands take integers.
        unsafe {
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        }
    }
    let file = writer.as_raw_fd();
    *installed = Some(Sampler {
        signal,
        reader,
        writer,
    });
    Ok(Some(file))
}

/// The Python stack of the thread with the system's number `thread`, the innermost frame first, one per line; None when it
/// can't be had.
#[must_use]
pub fn take(thread: i32) -> Option<String> {
    let sampler = SAMPLER.lock().unwrap_or_else(PoisonError::into_inner);
    let sampler = sampler.as_ref()?;
    read_what_there_is(&sampler.reader, Duration::ZERO);
    if !send(sampler.signal, thread) {
        return None;
    }
    let bytes = read_what_there_is(&sampler.reader, PATIENCE);
    let text = String::from_utf8_lossy(&bytes);
    let mut stack = String::new();
    for line in text.lines().filter(|line| line.starts_with("  ")) {
        if line.contains(LOOPS_OWN) && !stack.is_empty() {
            break;
        }
        let _ = writeln!(stack, "{line}");
    }
    (!stack.is_empty()).then_some(stack)
}

#[cfg(target_os = "linux")]
fn send(signal: i32, thread: i32) -> bool {
    // SAFETY: the call takes integers; a thread that has ended is an error.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn send(_signal: i32, _thread: i32) -> bool {
    false
}

/// Reads until nothing has come for a while; waits `patience` for the first byte, and for the end of a line.
fn read_what_there_is(reader: &OwnedFd, patience: Duration) -> Vec<u8> {
    let mut bytes = Vec::new();
    let began = Instant::now();
    loop {
        let wait = if bytes.last() == Some(&b'\n') {
            QUIET
        } else {
            patience.saturating_sub(began.elapsed())
        };
        let mut poll = libc::pollfd {
            fd: reader.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid entry is passed.
        if unsafe { libc::poll(&raw mut poll, 1, millis) } <= 0 {
            return bytes;
        }
        let mut buffer = [0_u8; 4096];
        // SAFETY: the buffer is as long as said and the descriptor is open.
        let read =
            unsafe { libc::read(reader.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(read) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return bytes,
        }
        if bytes.len() > LONGEST {
            return bytes;
        }
    }
}
