//! Every limit of the transport, named, in one frozen object.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::authentication::Authentication;
use super::frame_limit::FrameLimit;
use super::routes::Route;
use crate::readiness::Readiness;

/// HTTP/2 allows flow-control windows up to this size (RFC 9113, section 6.9.1).
pub(super) const LARGEST_WINDOW: u64 = (1 << 31) - 1;

/// HTTP/2 allows frame sizes from 16 KiB to this one (RFC 9113, section 4.2).
const LARGEST_FRAME: u64 = (1 << 24) - 1;
const SMALLEST_FRAME: u64 = 1 << 14;

/// What the frames of one turn of reading (64 KiB) may cost at most, with room: less would close connections of clients that
/// send small messages fast.
const SMALLEST_OVERHEAD: u64 = 2 << 20;

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
    /// Calls that the server may have at a time, over all methods; one more is answered `RESOURCE_EXHAUSTED`. `None` is
    /// unlimited.
    pub max_concurrent_calls: Option<usize>,
    /// Bytes of calls that may wait for a [`Gate`](super::Gate), over all connections; one more is refused.
    pub max_waiting_bytes: usize,
    /// Bytes of one connection's calls that may wait for a [`Gate`](super::Gate), at most half of
    /// `max_concurrent_streams` of them. A call that streams its request counts as `initial_stream_window`, for that is what
    /// its client may send meanwhile.
    pub max_waiting_bytes_per_connection: usize,
    /// What a client may send on one stream before it is read.
    pub initial_stream_window: u32,
    /// What a client may send on one connection before it is read. What is held for handlers that do not read comes on top, up
    /// to `max_unread_bytes`.
    pub initial_connection_window: u32,
    /// Bytes of one connection that may be held for handlers which do not read, and that so do not count for the connection's
    /// window; beyond that they stop the connection's other streams, too. From half of it on, streams have smaller windows.
    pub max_unread_bytes: usize,
    /// The largest HTTP/2 frame a client may send, 16 KiB to 16 MiB.
    pub max_frame_size: u32,
    /// Reply bytes of one stream that HTTP/2 may hold while the socket takes no more.
    pub max_send_buffer_size: usize,
    /// Bytes of request messages that may wait for the handler of a streaming call before the connection stops reading
    /// them.
    pub request_buffer: usize,
    /// Bytes of reply messages that a streaming call may have on the way before its handler waits.
    pub reply_buffer: usize,
    /// Freed memory that each of the C library's heaps keeps for the next messages (glibc; at most 64 MiB), for the whole process;
    /// 0 leaves that as it is.
    pub kept_memory: usize,
    /// How long a client may take no byte of a reply that waits for it, before its stream is reset.
    pub send_timeout: Duration,
    /// Streams that a client may open and reset before they have been accepted, which only a flood does in
    /// numbers; beyond that the connection is closed with `ENHANCE_YOUR_CALM`.
    pub max_pending_resets: usize,
    /// Errors on streams, such as data for a call that is over, that one connection may make in its life; beyond that
    /// it is closed with `ENHANCE_YOUR_CALM`. Streams over [`Self::max_concurrent_streams`] count.
    pub max_stream_errors: usize,
    /// What small DATA frames that nobody has read may cost a connection, in bytes: each costs what it lacks of 256. Beyond
    /// that the connection is closed with `ENHANCE_YOUR_CALM`.
    pub small_frame_overhead: usize,
    /// PINGs that a client may send. Each frame of a reply earns one, because that is when clients measure bandwidth.
    pub pings: FrameLimit,
    /// SETTINGS that a client may send, besides its answers to the server's; each frame of a reply earns one.
    pub settings: FrameLimit,
    /// Streams that a client may reset within the first 0.1 s of their life; each reply earns one.
    pub resets: FrameLimit,
    /// `WINDOW_UPDATE`s that a client may send; each frame of a reply earns four.
    pub window_updates: FrameLimit,
    /// Frames of no use to a server that a client may send: PRIORITY, unknown types, answers to pings that nobody sent.
    pub stray_frames: FrameLimit,
    /// Connections that may be open; more are closed as soon as they are accepted.
    pub max_connections: usize,
    /// Connections that one client address may have open (of IPv6, one /64 network); `None` is unlimited, which is right
    /// behind a proxy.
    pub max_connections_per_peer: Option<usize>,
    /// A connection that has not finished its TLS handshake, if there is one, and sent its HTTP/2 preface by then is closed.
    pub handshake_timeout: Duration,
    /// A call is answered `DEADLINE_EXCEEDED` when a message of its request is not complete and brings less than 1 KiB in this
    /// time, or in twice this time at the latest: a unary request's from its headers on, a stream's from its first byte on,
    /// except while its handler does not read. `None` waits for ever.
    pub body_timeout: Option<Duration>,
    /// A connection without calls is asked to go (GOAWAY) after this time; `None` is never.
    pub max_connection_idle: Option<Duration>,
    /// A connection is asked to go (GOAWAY) at this age, give or take a tenth at random; `None` is never.
    pub max_connection_age: Option<Duration>,
    /// Calls of a connection that has reached its age may go on for this long; `None` is without end.
    pub max_connection_age_grace: Option<Duration>,
    /// A client from which nothing has come for this time, and which has a call, is pinged; `None` is never.
    pub keepalive_time: Option<Duration>,
    /// A client that says nothing for this time after a ping is given up.
    pub keepalive_timeout: Duration,
    /// Whether clients without calls are pinged, too.
    pub keepalive_without_calls: bool,
    /// How long a stopping connection may take to hand its last replies to the client.
    pub close_timeout: Duration,
    /// What every call is asked for, before anything else is done for it.
    pub authentication: Option<Arc<Authentication>>,
    /// The conditions that `GET /readyz` over HTTP/1 tells, besides the server's own health.
    pub readiness: Option<Arc<Readiness>>,
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
            max_concurrent_calls: None,
            max_waiting_bytes: 64 << 20,
            max_waiting_bytes_per_connection: 4 << 20,
            initial_stream_window: 2 << 20,
            initial_connection_window: 8 << 20,
            max_unread_bytes: 64 << 20,
            max_frame_size: 64 << 10,
            max_send_buffer_size: 256 << 10,
            request_buffer: 64 << 10,
            reply_buffer: 64 << 10,
            kept_memory: 32 << 20,
            send_timeout: Duration::from_secs(300),
            max_pending_resets: 100,
            max_stream_errors: 10_000,
            small_frame_overhead: 4 << 20,
            pings: FrameLimit::new(100, Duration::from_millis(100)),
            settings: FrameLimit::new(100, Duration::from_secs(1)),
            resets: FrameLimit::new(1000, Duration::from_millis(10)),
            window_updates: FrameLimit::new(10_000, Duration::from_millis(1)),
            stray_frames: FrameLimit::new(1000, Duration::from_millis(10)),
            max_connections: 1 << 16,
            max_connections_per_peer: None,
            handshake_timeout: Duration::from_secs(20),
            body_timeout: Some(Duration::from_secs(60)),
            max_connection_idle: None,
            max_connection_age: None,
            max_connection_age_grace: None,
            keepalive_time: Some(Duration::from_secs(2 * 3600)),
            keepalive_timeout: Duration::from_secs(20),
            keepalive_without_calls: false,
            close_timeout: Duration::from_millis(500),
            authentication: None,
            readiness: None,
        }
    }
}

impl TransportConfig {
    /// The largest request and the largest reply message of a route: its own, else the server's.
    pub(super) fn message_limits(&self, route: &Route) -> (usize, usize) {
        let (receive, send) = (
            route.max_receive_message_size(),
            route.max_send_message_size(),
        );
        (
            receive.unwrap_or(self.max_receive_message_size),
            send.unwrap_or(self.max_send_message_size),
        )
    }

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
            (
                "small_frame_overhead",
                self.small_frame_overhead as u64,
                SMALLEST_OVERHEAD..=u64::MAX,
            ),
            ("pings.burst", self.pings.burst.into(), 1..=LARGEST_U32),
            // A client's first frame is one.
            (
                "settings.burst",
                self.settings.burst.into(),
                2..=LARGEST_U32,
            ),
            ("resets.burst", self.resets.burst.into(), 1..=LARGEST_U32),
            (
                "window_updates.burst",
                self.window_updates.burst.into(),
                1..=LARGEST_U32,
            ),
            (
                "stray_frames.burst",
                self.stray_frames.burst.into(),
                1..=LARGEST_U32,
            ),
            ("max_connections", self.max_connections as u64, 1..=u64::MAX),
            (
                "max_connections_per_peer",
                self.max_connections_per_peer.unwrap_or(1) as u64,
                1..=u64::MAX,
            ),
            (
                "body_timeout (ms)",
                least_time(self.body_timeout),
                1..=u64::MAX,
            ),
            (
                "max_connection_idle (ms)",
                least_time(self.max_connection_idle),
                1..=u64::MAX,
            ),
            (
                "max_connection_age (ms)",
                least_time(self.max_connection_age),
                1..=u64::MAX,
            ),
            (
                "keepalive_time (ms)",
                least_time(self.keepalive_time),
                1..=u64::MAX,
            ),
            (
                "keepalive_timeout (ms)",
                least_time(Some(self.keepalive_timeout)),
                1..=u64::MAX,
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

/// A limit in whole milliseconds; no limit is as good as a long one.
fn least_time(limit: Option<Duration>) -> u64 {
    limit.map_or(u64::MAX, |limit| limit.as_millis() as u64)
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
        if *most == u64::MAX {
            return write!(formatter, "{field} is {value}; it must be at least {least}");
        }
        write!(
            formatter,
            "{field} is {value}; it must be between {least} and {most}"
        )
    }
}

impl std::error::Error for ConfigError {}
