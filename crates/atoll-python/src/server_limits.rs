//! The limits of a server's connections, as they come from Python.

use std::time::Duration;

use atoll_core::transport::{FrameLimit, TransportConfig};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// `atoll.rpc._limits.FrameLimit`.
#[derive(FromPyObject)]
struct Frames {
    burst: Option<u32>,
    interval: f64,
}

/// `atoll.rpc._limits.ConnectionLimits`; durations in seconds.
#[derive(FromPyObject)]
pub(crate) struct ConnectionLimits {
    max_connections: usize,
    max_connections_per_peer: Option<usize>,
    handshake_timeout: f64,
    body_timeout: Option<f64>,
    max_connection_idle: Option<f64>,
    max_connection_age: Option<f64>,
    max_connection_age_grace: Option<f64>,
    keepalive_time: Option<f64>,
    keepalive_timeout: f64,
    keepalive_without_calls: bool,
    pings: Frames,
    settings: Frames,
    resets: Frames,
    window_updates: Frames,
    stray_frames: Frames,
    max_pending_resets: usize,
    max_stream_errors: usize,
    small_frame_overhead: usize,
    max_unread_bytes: usize,
}

impl ConnectionLimits {
    /// The config with these limits.
    pub(crate) fn applied_to(&self, config: TransportConfig) -> PyResult<TransportConfig> {
        Ok(TransportConfig {
            max_connections: self.max_connections,
            max_connections_per_peer: self.max_connections_per_peer,
            handshake_timeout: seconds(self.handshake_timeout)?,
            body_timeout: self.body_timeout.map(seconds).transpose()?,
            max_connection_idle: self.max_connection_idle.map(seconds).transpose()?,
            max_connection_age: self.max_connection_age.map(seconds).transpose()?,
            max_connection_age_grace: self.max_connection_age_grace.map(seconds).transpose()?,
            keepalive_time: self.keepalive_time.map(seconds).transpose()?,
            keepalive_timeout: seconds(self.keepalive_timeout)?,
            keepalive_without_calls: self.keepalive_without_calls,
            pings: frames(&self.pings)?,
            settings: frames(&self.settings)?,
            resets: frames(&self.resets)?,
            window_updates: frames(&self.window_updates)?,
            stray_frames: frames(&self.stray_frames)?,
            max_pending_resets: self.max_pending_resets,
            max_stream_errors: self.max_stream_errors,
            small_frame_overhead: self.small_frame_overhead,
            max_unread_bytes: self.max_unread_bytes,
            ..config
        })
    }
}

/// The transport's own values of everything that `atoll.rpc._options.ServerOptions` and its limits can set, by their names there:
/// sizes in bytes, durations in seconds, limits of frames as (burst, seconds), None for what is unlimited. Any thread.
#[pyfunction]
pub(crate) fn default_limits(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let config = TransportConfig::default();
    let size = |size: usize| (size != usize::MAX).then_some(size);
    let time = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let frames = |limit: FrameLimit| (limit.burst, limit.interval.as_secs_f64());
    let values = PyDict::new(py);
    values.set_item(
        "max_receive_message_size",
        size(config.max_receive_message_size),
    )?;
    values.set_item("max_send_message_size", size(config.max_send_message_size))?;
    values.set_item("max_concurrent_streams", config.max_concurrent_streams)?;
    values.set_item("max_header_list_size", config.max_header_list_size)?;
    values.set_item("initial_stream_window", config.initial_stream_window)?;
    values.set_item("max_concurrent_calls", config.max_concurrent_calls)?;
    values.set_item("max_waiting_bytes", config.max_waiting_bytes)?;
    values.set_item(
        "max_waiting_bytes_per_connection",
        config.max_waiting_bytes_per_connection,
    )?;
    values.set_item("kept_memory", config.kept_memory)?;
    values.set_item("max_connections", config.max_connections)?;
    values.set_item("max_connections_per_peer", config.max_connections_per_peer)?;
    values.set_item("handshake_timeout", config.handshake_timeout.as_secs_f64())?;
    values.set_item("body_timeout", time(config.body_timeout))?;
    values.set_item("max_connection_idle", time(config.max_connection_idle))?;
    values.set_item("max_connection_age", time(config.max_connection_age))?;
    values.set_item(
        "max_connection_age_grace",
        time(config.max_connection_age_grace),
    )?;
    values.set_item("keepalive_time", time(config.keepalive_time))?;
    values.set_item("keepalive_timeout", config.keepalive_timeout.as_secs_f64())?;
    values.set_item("keepalive_without_calls", config.keepalive_without_calls)?;
    values.set_item("pings", frames(config.pings))?;
    values.set_item("settings", frames(config.settings))?;
    values.set_item("resets", frames(config.resets))?;
    values.set_item("window_updates", frames(config.window_updates))?;
    values.set_item("stray_frames", frames(config.stray_frames))?;
    values.set_item("max_pending_resets", config.max_pending_resets)?;
    values.set_item("max_stream_errors", config.max_stream_errors)?;
    values.set_item("small_frame_overhead", config.small_frame_overhead)?;
    values.set_item("max_unread_bytes", config.max_unread_bytes)?;
    Ok(values)
}

fn seconds(number: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(number).map_err(|problem| {
        PyValueError::new_err(format!("{number} is no duration in seconds: {problem}"))
    })
}

fn frames(limit: &Frames) -> PyResult<FrameLimit> {
    let burst = limit.burst.unwrap_or(u32::MAX);
    Ok(FrameLimit::new(burst, seconds(limit.interval)?))
}
