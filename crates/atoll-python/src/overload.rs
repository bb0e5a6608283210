//! What becomes of calls that have waited too long on an overloaded loop.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | the judges | the loop's thread | the loop's thread | a mutex that nobody else takes |

use std::sync::Mutex;
use std::time::Duration;

use atoll_core::clock;
use atoll_core::mailbox::Lane;
use atoll_core::overload::{Codel, CodelSettings};
use atoll_core::transport::{Call, Code, Refused, Reply, Status};
use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::prelude::*;

use crate::loop_core::lock;

const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The settings: `atoll.rpc._overload.Overload`.
#[derive(FromPyObject)]
pub(crate) struct OverloadSpec {
    mode: String,
    target: f64,
    interval: f64,
}

/// Watches the calls of one server on one loop, lane by lane.
pub(crate) struct OverloadWatch {
    sheds: bool,
    interval: Duration,
    name: String,
    /// Of the lanes normal and bulk.
    judges: Mutex<[Codel; 2]>,
}

impl OverloadWatch {
    /// A watch over the loop called `name`, which leaves calls to wait for up to `wake_interval` on purpose; `None` where it is
    /// switched off.
    pub(crate) fn new(spec: &OverloadSpec, name: &str, wake_interval: f64) -> Option<Self> {
        let seconds = |value| Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX);
        let interval = seconds(spec.interval);
        let settings = CodelSettings {
            target: clock::ticks(seconds(spec.target + wake_interval)),
            interval: clock::ticks(interval),
        };
        (spec.mode != "off").then(|| Self {
            sheds: spec.mode == "shed",
            interval,
            name: name.to_owned(),
            judges: Mutex::new([Codel::new(settings); 2]),
        })
    }

    /// A call of `lane` that has waited for `waited` ticks is about to run: whether it has been answered instead. Calls of
    /// the control lane always run. The loop's thread.
    #[inline]
    pub(crate) fn sheds(&self, call: &Call, lane: Lane, waited: u64, now: u64) -> bool {
        let judge = match lane {
            Lane::Control => return false,
            Lane::Normal => 0,
            Lane::Bulk => 1,
        };
        if !lock(&self.judges)[judge].is_overdue(waited, now) || call.is_answered() {
            return false;
        }
        call.count_overdue();
        self.sheds && self.shed(call, lane, waited)
    }

    #[cold]
    fn shed(&self, call: &Call, lane: Lane, waited: u64) -> bool {
        let waited = clock::duration(waited);
        let (name, lane) = (&self.name, lane.name());
        let text = format!(
            "Loop {name} is overloaded: the call has waited {} ms in its lane {lane}",
            waited.as_millis()
        );
        // Later than the state may have changed, and for each call another time, as each has waited another one.
        let pushback = self.interval.max(waited).as_millis();
        let mut trailers = HeaderMap::new();
        if let Ok(value) = HeaderValue::try_from(pushback.to_string()) {
            trailers.insert(PUSHBACK, value);
        }
        let reply = Reply::error(Status::new(Code::ResourceExhausted, text));
        call.turn_away(Refused::Overload, reply.with_trailing_metadata(trailers))
    }
}
