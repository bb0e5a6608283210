//! Telling a forked child from its parent.
//!
//! A child has none of its parent's threads, and a mutex that one of them held stays locked in it for ever. So whatever
//! belongs to threads remembers in which process it was made, and compares before it touches a lock.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `GENERATION` | a forked child, before its first line runs | any thread | an atomic |

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between this process and the one that loaded the library, as known since [`watch`]. Any thread.
#[inline]
#[must_use]
pub fn generation() -> u32 {
    GENERATION.load(Relaxed)
}

/// Has forked children counted from now on, and returns this process's generation. Any thread; later calls cost one load.
pub fn watch() -> u32 {
    static WATCHED: Once = Once::new();
    // SAFETY: the function is of the kind asked for, and does nothing but an atomic addition.
    WATCHED.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(count));
    });
    generation()
}

unsafe extern "C" fn count() {
    GENERATION.fetch_add(1, Relaxed);
}
