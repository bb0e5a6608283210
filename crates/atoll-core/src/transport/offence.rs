//! What clients do that no well-behaved client does: counted by kind, and remembered for people.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::connection::Service;
use super::outbox::Outbox;

/// Why a connection was refused or closed, or a request given up, on the transport's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Offence {
    /// More PINGs than [`TransportConfig::pings`](super::TransportConfig::pings) allows.
    PingFlood,
    /// More SETTINGS than [`TransportConfig::settings`](super::TransportConfig::settings) allows.
    SettingsFlood,
    /// Streams opened and reset at once: more than [`TransportConfig::resets`](super::TransportConfig::resets) or
    /// [`TransportConfig::max_pending_resets`](super::TransportConfig::max_pending_resets) allow.
    ResetFlood,
    /// More `WINDOW_UPDATE`s than [`TransportConfig::window_updates`](super::TransportConfig::window_updates) allows.
    WindowUpdateFlood,
    /// More frames of no use to a server than [`TransportConfig::stray_frames`](super::TransportConfig::stray_frames) allows.
    StrayFrameFlood,
    /// A header block in more CONTINUATION frames than its size explains.
    ContinuationFlood,
    /// More empty DATA frames than 100 on one connection, or more tiny ones than
    /// [`TransportConfig::small_frame_overhead`](super::TransportConfig::small_frame_overhead) allows.
    SmallFrameFlood,
    /// More errors on streams of one connection than
    /// [`TransportConfig::max_stream_errors`](super::TransportConfig::max_stream_errors).
    StreamErrorFlood,
    /// A header list so large that not even its rest was read.
    HeaderFlood,
    /// Bytes that break HTTP/2.
    ProtocolError,
    /// An HTTP/1 request other than `GET /livez` and `GET /readyz`.
    Http1,
    /// A TLS handshake on a port without TLS.
    Tls,
    /// A first line that is neither HTTP nor TLS.
    UnknownProtocol,
    /// No HTTP/2 preface within [`TransportConfig::handshake_timeout`](super::TransportConfig::handshake_timeout).
    SlowHandshake,
    /// A connection over [`TransportConfig::max_connections`](super::TransportConfig::max_connections).
    TooManyConnections,
    /// A connection over
    /// [`TransportConfig::max_connections_per_peer`](super::TransportConfig::max_connections_per_peer).
    TooManyConnectionsOfPeer,
    /// A request that made no progress for [`TransportConfig::body_timeout`](super::TransportConfig::body_timeout).
    SlowBody,
    /// Silence after a ping, for [`TransportConfig::keepalive_timeout`](super::TransportConfig::keepalive_timeout).
    DeadPeer,
}

impl Offence {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 18] = [
        Self::PingFlood,
        Self::SettingsFlood,
        Self::ResetFlood,
        Self::WindowUpdateFlood,
        Self::StrayFrameFlood,
        Self::ContinuationFlood,
        Self::SmallFrameFlood,
        Self::StreamErrorFlood,
        Self::HeaderFlood,
        Self::ProtocolError,
        Self::Http1,
        Self::Tls,
        Self::UnknownProtocol,
        Self::SlowHandshake,
        Self::TooManyConnections,
        Self::TooManyConnectionsOfPeer,
        Self::SlowBody,
        Self::DeadPeer,
    ];

    /// A label for metrics, such as `"ping_flood"`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PingFlood => "ping_flood",
            Self::SettingsFlood => "settings_flood",
            Self::ResetFlood => "reset_flood",
            Self::WindowUpdateFlood => "window_update_flood",
            Self::StrayFrameFlood => "stray_frame_flood",
            Self::ContinuationFlood => "continuation_flood",
            Self::SmallFrameFlood => "small_frame_flood",
            Self::StreamErrorFlood => "stream_error_flood",
            Self::HeaderFlood => "header_flood",
            Self::ProtocolError => "protocol_error",
            Self::Http1 => "http1",
            Self::Tls => "tls",
            Self::UnknownProtocol => "unknown_protocol",
            Self::SlowHandshake => "slow_handshake",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyConnectionsOfPeer => "too_many_connections_of_peer",
            Self::SlowBody => "slow_body",
            Self::DeadPeer => "dead_peer",
        }
    }

    /// What a GOAWAY that h2 sends is about; `None` when it is no complaint. h2 tells the kinds of `ENHANCE_YOUR_CALM`
    /// apart only in the words that it sends along.
    pub(super) fn in_goaway(reason: u32, words: &[u8]) -> Option<Self> {
        if reason == u32::from(h2::Reason::NO_ERROR) {
            return None;
        }
        Some(match words {
            b"too_many_resets" => Self::ResetFlood,
            b"too_many_continuations" => Self::ContinuationFlood,
            b"too_many_data_frames" => Self::SmallFrameFlood,
            b"too_many_internal_resets" => Self::StreamErrorFlood,
            b"header_list_way_too_large" => Self::HeaderFlood,
            _ => Self::ProtocolError,
        })
    }
}

/// Counts `offence`, and notes who did it.
pub(super) fn report(service: &Service, outbox: &Outbox, offence: Offence) {
    outbox.counters.offences.count(offence);
    service.notes.add(offence, &outbox.peer, Instant::now());
}

/// How often each kind was counted.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct OffenceCounts([u64; Offence::ALL.len()]);

impl OffenceCounts {
    /// How often `offence` was counted.
    #[must_use]
    pub fn get(&self, offence: Offence) -> u64 {
        self.0[offence as usize]
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl fmt::Debug for OffenceCounts {
    /// Those that happened.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = Offence::ALL
            .into_iter()
            .zip(self.0)
            .filter(|(_, count)| *count > 0);
        let names = counted.map(|(offence, count)| (offence.name(), count));
        formatter.debug_map().entries(names).finish()
    }
}

/// The counters of one network thread.
#[derive(Debug, Default)]
pub(super) struct OffenceCounters([AtomicU64; Offence::ALL.len()]);

impl OffenceCounters {
    pub(super) fn count(&self, offence: Offence) {
        self.0[offence as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, counts: &mut OffenceCounts) {
        for (sum, counter) in counts.0.iter_mut().zip(&self.0) {
            *sum += counter.load(Ordering::Relaxed);
        }
    }
}

/// Who did what, and when: one of the latest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffenceNote {
    /// When it was first seen.
    pub at: SystemTime,
    /// The client's address in grpc's form.
    pub peer: Box<str>,
    /// What it did.
    pub offence: Offence,
    /// How many more of the same kind came, from anybody, within the second that followed.
    pub repeated: u64,
}

/// Notes that are kept.
const KEPT: usize = 32;

/// There is at most one note per kind in this time, so that a flood does not wash the others away.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// The latest notes. Any thread; entered when a connection is closed for an offence, never per call.
#[derive(Debug, Default)]
pub(super) struct OffenceNotes(Mutex<VecDeque<(Instant, OffenceNote)>>);

impl OffenceNotes {
    pub(super) fn add(&self, offence: Offence, peer: &str, now: Instant) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = notes.iter_mut().rev().find(|(at, note)| {
            note.offence == offence && now.saturating_duration_since(*at) < NOTE_INTERVAL
        });
        if let Some((_, note)) = recent {
            note.repeated += 1;
            return;
        }
        if notes.len() == KEPT {
            notes.pop_front();
        }
        let note = OffenceNote {
            at: SystemTime::now(),
            peer: peer.into(),
            offence,
            repeated: 0,
        };
        notes.push_back((now, note));
    }

    pub(super) fn latest(&self) -> Vec<OffenceNote> {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().map(|(_, note)| note.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_place_and_its_name() {
        let counters = OffenceCounters::default();
        for (index, offence) in Offence::ALL.into_iter().enumerate() {
            assert_eq!(offence as usize, index);
            counters.count(offence);
        }
        let mut counts = OffenceCounts::default();
        counters.add_to(&mut counts);
        assert_eq!(counts, OffenceCounts([1; Offence::ALL.len()]));
        let names: std::collections::HashSet<_> = Offence::ALL.map(Offence::name).into();
        assert_eq!(names.len(), Offence::ALL.len());
    }

    #[test]
    fn a_flood_of_one_kind_is_one_note_a_second_and_leaves_the_others() {
        let notes = OffenceNotes::default();
        let start = Instant::now();
        notes.add(Offence::Tls, "ipv4:10.0.0.1:1", start);
        for index in 0..1000 {
            notes.add(
                Offence::Http1,
                "ipv4:10.0.0.2:2",
                start + Duration::from_millis(index * 2),
            );
        }
        let latest = notes.latest();
        let seen: Vec<_> = latest
            .iter()
            .map(|note| (note.offence, note.repeated))
            .collect();
        assert_eq!(
            seen,
            [
                (Offence::Tls, 0),
                (Offence::Http1, 499),
                (Offence::Http1, 499)
            ]
        );
        assert_eq!(&*latest[0].peer, "ipv4:10.0.0.1:1");
    }

    #[test]
    fn old_notes_make_room_for_new_ones() {
        let notes = OffenceNotes::default();
        let start = Instant::now();
        for index in 0..100 {
            notes.add(
                Offence::Tls,
                &index.to_string(),
                start + NOTE_INTERVAL * index,
            );
        }
        let latest = notes.latest();
        assert_eq!(latest.len(), KEPT);
        assert_eq!(&*latest[KEPT - 1].peer, "99");
    }
}
