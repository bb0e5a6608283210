//! Every limit of the transport, named, in one frozen object.

use std::fmt;
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

/// HTTP/2 allows flow-control windows up to this size (RFC 9113, section 6.9.1).
const LARGEST_WINDOW: u64 = (1 << 31) - 1;

/// HTTP/2 allows frame sizes from 16 KiB to this one (RFC 9113, section 4.2).
const LARGEST_FRAME: u64 = (1 << 24) - 1;
const SMALLEST_FRAME: u64 = 1 << 14;

const LARGEST_U32: u64 = u32::MAX as u64;

/// Limits and sizes of a [`Transport`](super::Transport); sizes are bytes.
///
/// A frozen value: the transport copies it at start and never changes it.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Native threads that serve connections. One of them answers more than 200,000 calls a second, so the
    /// default is a quarter of the machine's cores, at least one and at most four.
    pub network_threads: usize,
    /// The largest request message, without its 5-byte prefix; `usize::MAX` is unlimited.
    pub max_receive_message_size: usize,
    /// The largest reply message, without its 5-byte prefix; `usize::MAX` is unlimited.
    pub max_send_message_size: usize,
    /// The largest header list of a request. What is larger is answered `RESOURCE_EXHAUSTED`; what is more
    /// than twice as large, which is what `SETTINGS_MAX_HEADER_LIST_SIZE` announces, is not even decoded
    /// but answered HTTP 431.
    pub max_header_list_size: u32,
    /// Calls that one connection may have in flight, advertised as `SETTINGS_MAX_CONCURRENT_STREAMS`.
    pub max_concurrent_streams: u32,
    /// What a client may send on one stream before it is read.
    pub initial_stream_window: u32,
    /// What a client may send on one connection before it is read.
    pub initial_connection_window: u32,
    /// The largest HTTP/2 frame a client may send, 16 KiB to 16 MiB.
    pub max_frame_size: u32,
    /// Reply bytes of one stream that HTTP/2 may hold while the socket takes no more.
    pub max_send_buffer_size: usize,
    /// Bytes of request messages that may wait for the handler of a streaming call before the connection stops reading
    /// them.
    pub request_buffer: usize,
    /// Bytes of reply messages that a streaming call may have on the way before its handler waits.
    pub reply_buffer: usize,
    /// How long a client may take no byte of a reply that waits for it, before its stream is reset.
    pub send_timeout: Duration,
    /// Streams that a client may open and reset before they have been accepted, which only a flood does in
    /// numbers; beyond that the connection is closed with `ENHANCE_YOUR_CALM`.
    pub max_pending_resets: usize,
    /// A connection that has not sent its HTTP/2 preface by then is closed.
    pub handshake_timeout: Duration,
    /// How long a stopping connection may take to hand its last replies to the client.
    pub close_timeout: Duration,
}

impl Default for TransportConfig {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            network_threads: (cores / 4).clamp(1, 4),
            max_receive_message_size: 4 << 20,
            max_send_message_size: usize::MAX,
            max_header_list_size: 16 << 10,
            max_concurrent_streams: 1000,
            initial_stream_window: 2 << 20,
            initial_connection_window: 8 << 20,
            max_frame_size: 64 << 10,
            max_send_buffer_size: 256 << 10,
            request_buffer: 64 << 10,
            reply_buffer: 64 << 10,
            send_timeout: Duration::from_secs(300),
            max_pending_resets: 100,
            handshake_timeout: Duration::from_secs(20),
            close_timeout: Duration::from_millis(500),
        }
    }
}

impl TransportConfig {
    /// Checks that the values fit together and are ones that HTTP/2 can express.
    ///
    /// # Errors
    ///
    /// The first field that does not, with the values it may have.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // The protocol starts every connection at a window of 65,535 and offers no way to shrink it.
        let fields = [
            ("network_threads", self.network_threads as u64, 1..=1024),
            (
                "max_concurrent_streams",
                self.max_concurrent_streams.into(),
                1..=LARGEST_U32,
            ),
            (
                "max_header_list_size",
                self.max_header_list_size.into(),
                1..=LARGEST_U32 / 2,
            ),
            (
                "initial_stream_window",
                self.initial_stream_window.into(),
                1..=LARGEST_WINDOW,
            ),
            (
                "initial_connection_window",
                self.initial_connection_window.into(),
                65_535..=LARGEST_WINDOW,
            ),
            (
                "max_frame_size",
                self.max_frame_size.into(),
                SMALLEST_FRAME..=LARGEST_FRAME,
            ),
            (
                "max_send_buffer_size",
                self.max_send_buffer_size as u64,
                1..=LARGEST_U32,
            ),
        ];
        for (field, value, allowed) in fields {
            if !allowed.contains(&value) {
                return Err(ConfigError {
                    field,
                    value,
                    allowed,
                });
            }
        }
        Ok(())
    }
}

/// A field of [`TransportConfig`] has a value that the transport cannot serve; the message says which are
/// allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    value: u64,
    allowed: RangeInclusive<u64>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            value,
            allowed,
        } = self;
        let (least, most) = (allowed.start(), allowed.end());
        write!(
            formatter,
            "{field} is {value}; it must be between {least} and {most}"
        )
    }
}

impl std::error::Error for ConfigError {}
