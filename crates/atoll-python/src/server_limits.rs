//! The limits of a server's connections, as they come from Python.

use std::time::Duration;

use atoll_core::transport::{FrameLimit, TransportConfig};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

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
            ..config
        })
    }
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
