//! Has the C library keep the memory that large messages are made in, rather than hand it back to the system after each.
//!
//! glibc gives the free end of a heap back once that is larger than a threshold, and every page of the next message is then
//! cleared and faulted in again, which costs more than all copies of the message together. It raises the threshold to twice the
//! largest block that a process frees (up to 32 MiB), for it takes that as a sign of what the process needs. So such a block
//! is allocated and freed, untouched. A process that has set the thresholds itself (`mallopt`, `GLIBC_TUNABLES`) has switched
//! that off, and nothing changes for it. Other C libraries decide for themselves.

use std::hint::black_box;

/// The largest block that glibc learns from.
const LARGEST_BLOCK: usize = (32 << 20) - (64 << 10);

/// Has each heap, of which there is one for every few threads, keep up to `bytes` of freed memory; at most 64 MiB. 0 changes
/// nothing.
pub(super) fn keep(bytes: usize) {
    if cfg!(target_env = "gnu") && bytes > 0 {
        let block: Vec<u8> = Vec::with_capacity((bytes / 2).min(LARGEST_BLOCK));
        // Looked at, lest it be optimised away.
        drop(black_box(block));
    }
}
