//! Waking a sleeping event loop from any thread: an eventfd on Linux, a pipe elsewhere.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What a mailbox calls, at most once per idle→busy change, to have itself drained.
pub trait Wake: Send + Sync {
    /// Makes the consumer run soon. Any thread; never blocks.
    fn wake(&self);
}

/// A file descriptor that is readable from [`Wake::wake`] until [`WakeFd::clear`].
#[derive(Debug)]
pub struct WakeFd {
    reader: OwnedFd,
    /// The pipe's other end; an eventfd is its own.
    writer: Option<OwnedFd>,
}

impl WakeFd {
    /// # Errors
    /// When the process has no file descriptor left.
    #[cfg(target_os = "linux")]
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        let reader = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            reader,
            writer: None,
        })
    }

    /// # Errors
    /// When the process has no file descriptor left.
    #[cfg(not(target_os = "linux"))]
    pub fn new() -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for the two descriptors.
        if unsafe { libc::pipe(fds.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us these descriptors; nobody else owns them.
        let [reader, writer] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        for fd in [&reader, &writer] {
            // SAFETY: the descriptor is open and the commands take integers.
            let set = unsafe {
                libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) >= 0
                    && libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) >= 0
            };
            if !set {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self {
            reader,
            writer: Some(writer),
        })
    }

    /// The descriptor to watch for reading.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    /// Makes the descriptor unreadable until the next wake-up. The consumer's thread only.
    pub fn clear(&self) {
        let mut buffer = [0_u8; 64];
        loop {
            // SAFETY: the buffer is as long as said and the descriptor is open.
            let read = unsafe { libc::read(self.fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            // An eventfd is empty after one read; a pipe may hold more than one buffer.
            let filled = usize::try_from(read) == Ok(buffer.len());
            if self.writer.is_none() || !filled {
                return;
            }
        }
    }
}

impl Wake for WakeFd {
    fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        let fd = self.writer.as_ref().unwrap_or(&self.reader).as_raw_fd();
        // A full pipe or counter means that the consumer is already being woken, so the result says nothing of use.
        // SAFETY: the buffer is as long as said and the descriptor is open.
        unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
    }
}
