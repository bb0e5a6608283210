//! `grpc.health.v1.Health`, answered on network threads: a loop that is stuck, and whoever holds the GIL, can't keep it from
//! saying so.
//!
//! A service is SERVING while every loop that it lives on gives probes their turn in time, and nobody has said otherwise. The
//! empty name stands for the whole server; the name `liveness` has a threshold of its own, and none unless one is asked for,
//! so that whoever restarts the process by it does not throw away its state for one slow handler.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `State` | the ticker on `atoll-net-0`; who sets a status; calls | the same | its mutex |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::call::Call;
use super::reply::{Reply, frame};
use super::routes::{Dispatch, Route};
use super::status::{Code, Status};
use crate::clock;
use crate::monitor::watch::{Expectations, Responsiveness};
use crate::registry::ObservedLoop;

/// The service's name.
pub const HEALTH_SERVICE: &str = "grpc.health.v1.Health";
/// The name whose status has a threshold of its own.
pub const LIVENESS: &str = "liveness";

/// The largest request: a service's name and a few bytes.
const LARGEST_REQUEST: usize = 4 << 10;

/// What a service's status can be; the numbers are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ServingStatus {
    /// It answers.
    Serving = 1,
    /// It does not, or not in time.
    NotServing = 2,
    /// There is no such service.
    ServiceUnknown = 3,
}

/// When a loop counts as stuck.
#[derive(Clone, Copy, Debug)]
pub struct HealthSettings {
    /// How long a loop may keep a probe waiting before its services are not serving.
    pub threshold: Duration,
    /// The same for the name `liveness`; none means that it is always serving.
    pub liveness_threshold: Option<Duration>,
    /// Between two looks at the loops.
    pub interval: Duration,
    /// How many probes in a row must be in time before a stuck loop counts as well again.
    pub recover_after: u32,
}

impl HealthSettings {
    fn expectations(&self, threshold: Duration) -> Expectations {
        Expectations {
            interval: clock::ticks(self.interval),
            deadline: clock::ticks(threshold),
            window: 0,
            recover_after: self.recover_after,
        }
    }
}

/// A loop, and whether it keeps up.
struct Watched {
    observed: Weak<dyn ObservedLoop>,
    serving: Responsiveness,
    living: Responsiveness,
    /// Since when nobody has run it, in ticks.
    resting_since: Option<u64>,
    is_serving: bool,
    is_living: bool,
}

#[derive(Default)]
struct State {
    loops: Vec<Watched>,
    /// The loops of each service, as indices into `loops`.
    services: BTreeMap<String, Vec<usize>>,
    /// What the application has said of a service.
    said: BTreeMap<String, ServingStatus>,
    watchers: Vec<Watcher>,
    is_stopping: bool,
}

/// An open `Watch`.
struct Watcher {
    call: Arc<Call>,
    service: String,
    told: Option<ServingStatus>,
}

/// The health of one server's services. Any thread.
pub struct Health {
    settings: HealthSettings,
    state: Mutex<State>,
}

impl Health {
    /// Of services that live on loops; the empty name lives on those that count for the whole.
    #[must_use]
    pub fn new(
        settings: HealthSettings,
        services: Vec<(String, Vec<Arc<dyn ObservedLoop>>)>,
    ) -> Arc<Self> {
        let mut state = State::default();
        let mut known: Vec<Arc<dyn ObservedLoop>> = Vec::new();
        for (service, loops) in services {
            let indices = loops.into_iter().map(|observed| {
                known
                    .iter()
                    .position(|it| Arc::ptr_eq(it, &observed))
                    .unwrap_or_else(|| {
                        known.push(observed);
                        known.len() - 1
                    })
            });
            let indices = indices.collect();
            state.services.insert(service, indices);
        }
        state.loops = known.iter().map(Watched::new).collect();
        Arc::new(Self {
            settings,
            state: Mutex::new(state),
        })
    }

    /// The routes of the service.
    pub(super) fn routes(self: &Arc<Self>) -> Vec<Route> {
        let route = |method: Method, streams: bool| {
            let path = format!("/{HEALTH_SERVICE}/{}", method.name());
            let target = Arc::new(Target {
                health: Arc::clone(self),
                method,
            });
            Route::new(path, target, Arc::new(()))
                .with_streaming(false, streams)
                .with_max_receive_message_size(LARGEST_REQUEST)
        };
        vec![
            route(Method::Check, false),
            route(Method::List, false),
            route(Method::Watch, true),
        ]
    }

    pub(super) fn interval(&self) -> Duration {
        self.settings.interval
    }

    /// Says of a service what no loop can tell; none takes it back.
    pub fn say(&self, service: &str, status: Option<ServingStatus>) {
        let mut state = self.lock();
        match status {
            Some(status) => {
                state.said.insert(service.into(), status);
            }
            None => {
                state.said.remove(service);
            }
        }
        state.tell_watchers();
    }

    /// The status of a service.
    #[must_use]
    pub fn status(&self, service: &str) -> ServingStatus {
        self.lock().status(service)
    }

    /// Why a service is not serving, in a line; none when it is, and for a name that is no service's.
    ///
    /// A server that stops is no longer ready, and lives: `liveness` does not say so here.
    pub(super) fn trouble(&self, service: &str) -> Option<String> {
        let state = self.lock();
        if state.is_stopping && service != LIVENESS {
            return Some("the server is stopping".into());
        }
        match state.said.get(service) {
            Some(ServingStatus::Serving) => return None,
            Some(_) => return Some("the application says that it is not serving".into()),
            None => {}
        }
        let mut loops = Vec::new();
        let stuck: Vec<&Watched> = if service == LIVENESS {
            state.loops.iter().filter(|it| !it.is_living).collect()
        } else {
            let indices = state.services.get(service).into_iter().flatten();
            let serving = indices.map(|index| &state.loops[*index]);
            serving.filter(|it| !it.is_serving).collect()
        };
        let now = clock::now();
        let mut said = Vec::new();
        for watched in stuck {
            let seen = if service == LIVENESS {
                &watched.living
            } else {
                &watched.serving
            };
            if let Some(observed) = watched.observed.upgrade() {
                said.push(no_progress(&*observed, seen.outstanding(now), now));
                loops.push(observed);
            } else {
                said.push("a loop is gone".into());
            }
        }
        drop(state);
        // The last reference to a loop may be among them, and what that frees must not run under the mutex.
        drop(loops);
        (!said.is_empty()).then(|| said.join(", and "))
    }

    /// Looks at the loops, and tells the watchers of services whose status has changed.
    pub fn look(&self, now: u64) {
        let mut state = self.lock();
        let mut alive = Vec::with_capacity(state.loops.len());
        for watched in &mut state.loops {
            alive.extend(watched.look(now, &self.settings));
        }
        state.tell_watchers();
        drop(state);
        // The last reference to a loop may be among them, and what that frees must not run under the mutex.
        drop(alive);
    }

    /// The server stops: nothing is serving, and watchers are told so for the last time.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.is_stopping = true;
        state.tell_watchers();
        let watchers = std::mem::take(&mut state.watchers);
        drop(state);
        for watcher in watchers {
            let text = "the server is stopping";
            watcher.call.refuse(Status::new(Code::Unavailable, text));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, call: &Call, service: &str) {
        match self.status(service) {
            ServingStatus::ServiceUnknown => {
                let text = format!("there is no service {service:?} here");
                call.refuse(Status::new(Code::NotFound, text))
            }
            status => call.reply(Reply::ok(frame(&encode_status(status)))),
        };
    }

    fn list(&self, call: &Call) {
        let state = self.lock();
        let mut names: Vec<&str> = vec!["", LIVENESS];
        names.extend(state.services.keys().map(String::as_str));
        names.extend(state.said.keys().map(String::as_str));
        names.sort_unstable();
        names.dedup();
        let mut list = BytesMut::new();
        for name in names {
            // An entry of `map<string, HealthCheckResponse>`.
            let status = encode_status(state.status(name));
            let mut entry = BytesMut::new();
            put_field(&mut entry, 1, name.as_bytes());
            put_field(&mut entry, 2, &status);
            put_field(&mut list, 1, &entry);
        }
        drop(state);
        call.reply(Reply::ok(frame(&list)));
    }

    fn watch(&self, call: Arc<Call>, service: String) {
        let mut state = self.lock();
        if state.is_stopping {
            drop(state);
            let text = "the server is stopping";
            call.refuse(Status::new(Code::Unavailable, text));
            return;
        }
        state.watchers.push(Watcher {
            call,
            service,
            told: None,
        });
        state.tell_watchers();
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Health")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl State {
    fn status(&self, service: &str) -> ServingStatus {
        if self.is_stopping {
            return ServingStatus::NotServing;
        }
        if let Some(status) = self.said.get(service) {
            return *status;
        }
        let well = if service == LIVENESS {
            self.loops.iter().all(|watched| watched.is_living)
        } else if let Some(loops) = self.services.get(service) {
            loops.iter().all(|index| self.loops[*index].is_serving)
        } else {
            return ServingStatus::ServiceUnknown;
        };
        if well {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }

    fn tell_watchers(&mut self) {
        let mut watchers = std::mem::take(&mut self.watchers);
        watchers.retain_mut(|watcher| {
            let status = self.status(&watcher.service);
            if watcher.told != Some(status) {
                watcher.told = Some(status);
                watcher.call.send_message(frame(&encode_status(status)));
            }
            !watcher.call.is_answered()
        });
        self.watchers = watchers;
    }
}

impl Watched {
    fn new(observed: &Arc<dyn ObservedLoop>) -> Self {
        Self {
            observed: Arc::downgrade(observed),
            serving: Responsiveness::default(),
            living: Responsiveness::default(),
            resting_since: None,
            is_serving: true,
            is_living: true,
        }
    }

    fn look(&mut self, now: u64, settings: &HealthSettings) -> Option<Arc<dyn ObservedLoop>> {
        let observed = self.observed.upgrade();
        let runs = observed.as_ref().filter(|it| !it.is_closed());
        let Some(runs) = runs.filter(|it| it.record().activity.thread().is_some()) else {
            // Nobody runs it, so nobody answers: for a moment only, between two runs, or for good.
            let since = *self.resting_since.get_or_insert(now);
            let rested = clock::duration(now.saturating_sub(since));
            self.serving.resting();
            self.living.resting();
            self.is_serving &= rested <= settings.threshold;
            return observed;
        };
        self.resting_since = None;
        let expected = settings.expectations(settings.threshold);
        self.serving.look(&**runs, now, &expected);
        self.is_serving = self.serving.healthy;
        if let Some(threshold) = settings.liveness_threshold {
            let expected = settings.expectations(threshold);
            self.living.look(&**runs, now, &expected);
            self.is_living = self.living.healthy;
        }
        observed
    }
}

/// What a loop that is stuck is told with: its name, for how long, and what runs.
fn no_progress(observed: &dyn ObservedLoop, waited: Option<u64>, now: u64) -> String {
    let name = observed.name();
    let record = observed.record();
    let mut line = match waited {
        Some(waited) => {
            let waited = clock::seconds(waited);
            format!("loop {name} has made no progress for {waited:.1} s")
        }
        None => format!("loop {name} does not keep up"),
    };
    if let Some(running) = record.activity.running() {
        let handler = &record.events.slot(running.slot).name;
        let age = clock::seconds(now.saturating_sub(running.since));
        let _ = write!(line, "; {handler} runs for {age:.1} s");
    }
    line
}

#[derive(Clone, Copy)]
enum Method {
    Check,
    List,
    Watch,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Check => "Check",
            Self::List => "List",
            Self::Watch => "Watch",
        }
    }
}

/// Answers one method, on network threads.
struct Target {
    health: Arc<Health>,
    method: Method,
}

impl Dispatch for Target {
    fn dispatch(&self, calls: &mut Vec<Arc<Call>>) {
        for call in calls.drain(..) {
            if !call.begin() {
                continue;
            }
            let request = match call.decompress(call.take_message()) {
                Ok(request) => request,
                Err(status) => {
                    call.reject(status);
                    continue;
                }
            };
            match (self.method, decode_service(&request)) {
                (Method::List, _) => self.health.list(&call),
                (Method::Check, Some(service)) => self.health.check(&call, &service),
                (Method::Watch, Some(service)) => self.health.watch(call, service),
                (_, None) => {
                    let text = "Exception deserializing request!";
                    call.refuse(Status::new(Code::Internal, text));
                }
            }
        }
    }

    fn cancelled(&self, call: &Arc<Call>) {
        let mut state = self.health.lock();
        state
            .watchers
            .retain(|watcher| !Arc::ptr_eq(&watcher.call, call));
    }
}

// The protocol's messages are small enough to be written out.

/// `HealthCheckResponse { ServingStatus status = 1; }`
fn encode_status(status: ServingStatus) -> [u8; 2] {
    [0x08, status as u8]
}

/// A field with a length, shorter than 16 KiB.
fn put_field(buffer: &mut BytesMut, number: u8, content: &[u8]) {
    buffer.put_u8(number << 3 | 2);
    let length = content.len();
    if length >= 0x80 {
        buffer.put_u8((length & 0x7f) as u8 | 0x80);
        buffer.put_u8((length >> 7) as u8);
    } else {
        buffer.put_u8(length as u8);
    }
    buffer.put_slice(content);
}

/// `HealthCheckRequest { string service = 1; }`; `None` when it is none. Fields that it does not know are skipped.
fn decode_service(request: &Bytes) -> Option<String> {
    let mut service = String::new();
    let mut rest = &request[..];
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let content = match tag & 7 {
            0 => {
                varint(&mut rest)?;
                continue;
            }
            1 => take(&mut rest, 8)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                take(&mut rest, length)?
            }
            5 => take(&mut rest, 4)?,
            _ => return None,
        };
        if tag == 0x0a {
            service = std::str::from_utf8(content).ok()?.into();
        }
    }
    Some(service)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (content, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &'static [u8]) -> Option<String> {
        decode_service(&Bytes::from_static(bytes))
    }

    #[test]
    fn a_request_names_a_service_or_the_whole() {
        assert_eq!(decode(b"").unwrap(), "");
        assert_eq!(decode(b"\x0a\x03a.B").unwrap(), "a.B");
        assert_eq!(decode(b"\x10\x05\x0a\x01a\x1a\x01x\x25abcd").unwrap(), "a");
        for broken in [
            &b"\x0a\x03a"[..],
            b"\x0a",
            b"\x0b",
            b"\x0a\x01\xff",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(decode(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn fields_of_any_length_are_written_as_they_are_read() {
        for length in [0, 1, 127, 128, 5000] {
            let mut buffer = BytesMut::new();
            put_field(&mut buffer, 1, &vec![b'a'; length]);
            assert_eq!(decode_service(&buffer.freeze()).unwrap().len(), length);
        }
    }

    #[test]
    fn what_the_application_says_counts_until_it_takes_it_back() {
        let settings = HealthSettings {
            threshold: Duration::from_secs(5),
            liveness_threshold: None,
            interval: Duration::from_millis(250),
            recover_after: 3,
        };
        let health = Health::new(
            settings,
            vec![(String::new(), vec![]), ("a".into(), vec![])],
        );
        assert_eq!(health.status("a"), ServingStatus::Serving);
        assert_eq!(health.status("b"), ServingStatus::ServiceUnknown);
        health.say("a", Some(ServingStatus::NotServing));
        assert_eq!(health.status("a"), ServingStatus::NotServing);
        assert_eq!(health.status(""), ServingStatus::Serving);
        health.say("a", None);
        assert_eq!(health.status("a"), ServingStatus::Serving);
        assert_eq!(health.status(LIVENESS), ServingStatus::Serving);
        health.say("a", Some(ServingStatus::NotServing));
        let said = "the application says that it is not serving";
        assert_eq!(health.trouble("a").as_deref(), Some(said));
        assert_eq!((health.trouble(""), health.trouble(LIVENESS)), (None, None));
        health.say("a", None);
        assert_eq!(health.trouble("a"), None);
        health.stop();
        assert_eq!(
            health.trouble("").as_deref(),
            Some("the server is stopping")
        );
        assert_eq!(health.trouble(LIVENESS), None);
        for name in ["", "a", "b", LIVENESS] {
            assert_eq!(health.status(name), ServingStatus::NotServing);
        }
    }
}
