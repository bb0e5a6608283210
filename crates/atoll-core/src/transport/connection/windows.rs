//! How much a client may send: windows that one handler which does not read cannot close for the others.
//!
//! HTTP/2 has a window for each stream and one for the connection. What a stream's handler has not read fills both, so that a
//! few such streams would stop every other one. Therefore the connection's window grows by what is held for handlers, up to
//! [`max_unread_bytes`](super::super::TransportConfig::max_unread_bytes). From half of that on the windows of streams are small
//! ones, so that what the others may still send fits in the other half; from a quarter on they are as before.
//!
//! A client has to follow the smaller windows only after it has acknowledged them. What it sends until then is bounded, too: the
//! connection's window grows no further than the limit.

use bytes::Bytes;
use h2::server;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::config::{LARGEST_WINDOW, TransportConfig};
use super::super::streams::{Stage, Streams};

/// The bounds of the small windows of streams.
const SMALLEST_WINDOW: usize = 4 << 10;
const LARGEST_SMALL_WINDOW: usize = 64 << 10;

pub(super) struct Windows {
    /// Bytes that were received for handlers which do not read.
    held: usize,
    has_changed: bool,
    /// The windows of streams are small, or will be when the client knows.
    is_tight: bool,
    /// The client may not have acknowledged the small windows yet.
    is_unconfirmed: bool,
    most_held: usize,
    of_connection: usize,
    of_stream: u32,
    tight: u32,
}

impl Windows {
    pub(super) fn new(config: &TransportConfig) -> Self {
        let most_held = config.max_unread_bytes;
        let of_connection = config.initial_connection_window as usize;
        let left = (most_held / 2).saturating_sub(of_connection);
        let each = left / config.max_concurrent_streams as usize;
        let tight = each.clamp(SMALLEST_WINDOW, LARGEST_SMALL_WINDOW) as u32;
        Self {
            held: 0,
            has_changed: false,
            is_tight: false,
            is_unconfirmed: false,
            most_held,
            of_connection,
            of_stream: config.initial_stream_window,
            tight: tight.min(config.initial_stream_window),
        }
    }

    /// One stream holds this much now instead of that much.
    pub(super) fn held(&mut self, before: usize, now: usize) {
        if before != now {
            self.held = self.held + now - before;
            self.has_changed = true;
        }
    }

    /// Whether the windows of streams are to be small ones.
    fn are_to_be_tight(&self) -> bool {
        let bound = if self.is_tight {
            self.most_held / 4
        } else {
            self.most_held / 2
        };
        self.most_held > 0 && self.held > bound
    }

    /// Opens the windows as far as they may be. Called in each round: it does something only after a change.
    pub(super) fn adjust<S>(&mut self, h2: &mut server::Connection<S, Bytes>, streams: &mut Streams)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.confirm(h2, streams);
        if !std::mem::take(&mut self.has_changed) {
            return;
        }
        let size = self.of_connection + self.held.min(self.most_held);
        h2.set_target_window_size(size.min(LARGEST_WINDOW as usize) as u32);
        let are_to_be_tight = self.are_to_be_tight();
        if are_to_be_tight == self.is_tight || self.tight == self.of_stream {
            return;
        }
        let size = if are_to_be_tight {
            self.tight
        } else {
            self.of_stream
        };
        match h2.set_initial_window_size(size) {
            Ok(()) => {
                self.is_tight = are_to_be_tight;
                self.is_unconfirmed = are_to_be_tight;
            }
            // The client has yet to acknowledge the last change, which will bring another round.
            Err(_) => self.has_changed = true,
        }
    }
}

impl Windows {
    /// h2 tells a client of what was read when it makes up a part of the window, and looks for that when more is read. A
    /// window that has shrunk meanwhile may be closed to a client whose every byte has been read: so it is made to look once
    /// more when the small windows hold. That it takes new settings says that the client has acknowledged those before.
    fn confirm<S>(&mut self, h2: &mut server::Connection<S, Bytes>, streams: &mut Streams)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.is_unconfirmed || h2.set_initial_window_size(self.tight).is_err() {
            return;
        }
        self.is_unconfirmed = false;
        for (_, stage) in streams.stages() {
            let body = match stage {
                Stage::Reading(reading) => &mut reading.body,
                Stage::Streaming(_, Some(incoming)) => &mut incoming.body,
                Stage::Dispatched(_) | Stage::Streaming(_, None) => continue,
            };
            // Fails only for more than was received.
            let _ = body.flow_control().release_capacity(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_stream_may_still_send_fits_in_the_second_half() {
        let config = TransportConfig::default();
        let windows = Windows::new(&config);
        let half = config.max_unread_bytes / 2;
        let streams = config.max_concurrent_streams as usize * windows.tight as usize;
        assert!(streams + windows.of_connection <= half);
        assert!(windows.tight as usize > SMALLEST_WINDOW);
    }

    #[test]
    fn windows_are_tight_from_half_of_the_limit_on_until_a_quarter() {
        let mut windows = Windows::new(&TransportConfig {
            max_unread_bytes: 1000,
            ..TransportConfig::default()
        });
        for (held, is_tight) in [
            (500, false),
            (501, true),
            (251, true),
            (250, false),
            (300, false),
        ] {
            windows.held(windows.held, held);
            windows.is_tight = windows.are_to_be_tight();
            assert_eq!(windows.is_tight, is_tight, "{held}");
        }
    }
}
