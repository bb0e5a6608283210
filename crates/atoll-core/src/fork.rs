//! Telling a forked child from its parent.
//!
//! A child has none of its parent's threads, and a mutex that one of them held stays locked in it for ever. So whatever
//! belongs to threads remembers in which process it was made, and compares before it touches a lock.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `GENERATION` | a forked child, before its first line runs | any thread | an atomic |

use std::sync::Once;
use std::sync::atomic::{
    AtomicPtr, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

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

/// What each process has one of: a child makes its own, for its parent's may be locked for ever. Never freed.
#[derive(Debug)]
pub struct PerProcess<T>(AtomicPtr<(u32, T)>);

impl<T: Default> PerProcess<T> {
    /// Made at the first use in each process.
    #[must_use]
    #[allow(clippy::new_without_default)] // for statics, which need a constant
    pub const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// This process's. Any thread.
    pub fn get(&'static self) -> &'static T {
        loop {
            let current = self.0.load(Acquire);
            let generation = watch();
            // SAFETY: it is null or comes from a box that is never freed once it is here.
            if let Some((_, value)) = unsafe { current.as_ref() }.filter(|it| it.0 == generation) {
                return value;
            }
            let fresh = Box::into_raw(Box::new((generation, T::default())));
            let swapped = self.0.compare_exchange(current, fresh, Release, Acquire);
            if swapped.is_err() {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
    }
}
