//! What measures a loop by waiting for its turn on it.

use std::sync::Arc;

/// Goes through a loop's mailbox like a handler, without being one: it is no work, and in no statistics.
pub trait Probe: Send + Sync {
    /// Its turn has come after `waited` ticks. On the loop's thread; must not block.
    fn turn(self: Arc<Self>, waited: u64);
}
