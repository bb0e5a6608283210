//! Which calls run now, which wait for their turn, and which are refused: `max_active_rpcs` and `maximum_concurrent_rpcs`.
//!
//! A [`Gate`] lets a number of calls through at a time. A call takes a place when it has been read, before it is dispatched,
//! and gives it back when it ends:
//! * answered, or ended before its handler began: at once;
//! * ended by the transport while its handler runs (deadline, client, connection, shutdown): when the target says by
//!   [`Call::release`] that the handler has been told, and at the latest when nobody holds the call any more.
//!
//! So at a limit of one a handler ends, or has at least run on from its cancellation, before the next one starts.
//!
//! Calls that wait have been read: HTTP/2's windows are shared by a connection, so unread bodies would block its heartbeats.
//! What waits is bounded in bytes, per connection and server, and in calls by half of the connection's stream limit.
//!
//! | state           | written by                                   | read by | under                            |
//! |-----------------|----------------------------------------------|---------|----------------------------------|
//! | a gate's state  | whoever brings, ends or hands over a call    | same    | its lock, held for instructions  |
//! | a call's place  | the connection, who hands it over, who ends it | same  | its lock; may be taken under a gate's |
//! | a [`Room`]      | connections, whoever ends a wait             | same    | atomics                          |

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::call::Call;
use super::config::TransportConfig;
use super::method_counters::Refused;
use super::routes::Route;
use super::status::{Code, Status};

/// Entries of calls that have ended which a gate keeps before it sweeps them out.
const SLACK: isize = 32;

/// What happens to calls that find a gate full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// They are answered `RESOURCE_EXHAUSTED` on the network thread.
    Refuse,
    /// They wait, in the order in which they came, as long as there is room and until their deadline.
    Wait,
}

/// Lets at most so many calls run at a time. Routes may share one. Any thread.
#[derive(Debug)]
pub struct Gate {
    limit: usize,
    state: Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    active: usize,
    waiting: VecDeque<Arc<Call>>,
    /// How many of those wait no longer; below zero for a moment while one that ends is found first.
    gone: isize,
    /// Somebody hands over calls; nobody else does meanwhile, so that they start in order.
    is_handing_over: bool,
}

impl Gate {
    /// A gate for `limit` calls at a time, at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        // Nothing panics under this lock; if it ever does, the counts are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls have a place now.
    #[must_use]
    pub fn active(&self) -> usize {
        self.lock().active
    }

    /// Whether a call that came now would find no place.
    fn is_full(&self) -> bool {
        self.lock().active >= self.limit
    }

    /// Takes a place, unless all are taken or others wait for one.
    fn enter(&self) -> bool {
        let mut state = self.lock();
        let is_free = state.active < self.limit && state.waiting.is_empty();
        if is_free && !state.is_handing_over {
            state.active += 1;
            return true;
        }
        false
    }

    /// Lets `call` wait for a place.
    fn queue(&self, call: Arc<Call>) {
        self.lock().waiting.push_back(call);
        self.hand_over();
    }

    /// A call that waited waits no longer.
    fn one_gone(&self) {
        let mut state = self.lock();
        state.gone += 1;
        let count = isize::try_from(state.waiting.len()).unwrap_or(isize::MAX);
        if state.gone < count && state.gone <= count / 2 + SLACK {
            return;
        }
        let (alive, gone): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(|call| call.is_waiting());
        state.gone -= isize::try_from(gone.len()).unwrap_or(isize::MAX);
        state.waiting = alive;
        drop(state);
        // What it was the last to hold is freed where no lock is held.
        drop(gone);
    }

    /// A place is free again.
    fn leave(&self) {
        self.lock().active -= 1;
        self.hand_over();
    }

    /// Gives free places to those who wait. A target may end the call at once, and so come back here.
    fn hand_over(&self) {
        let mut state = self.lock();
        if state.is_handing_over {
            return;
        }
        state.is_handing_over = true;
        while state.active < self.limit {
            let Some(call) = state.waiting.pop_front() else {
                break;
            };
            if !call.stops_waiting() {
                state.gone -= 1;
                continue;
            }
            state.active += 1;
            drop(state);
            call.dispatch_alone();
            state = self.lock();
        }
        state.is_handing_over = false;
    }
}

/// How much waits somewhere.
#[derive(Debug, Default)]
pub(super) struct Room {
    calls: AtomicUsize,
    bytes: AtomicUsize,
}

impl Room {
    /// Takes room, if that leaves no more than is allowed.
    fn take(&self, bytes: usize, most_calls: usize, most_bytes: usize) -> bool {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let taken = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let sum = taken.checked_add(bytes);
        let fits = calls <= most_calls && sum.is_some_and(|sum| sum <= most_bytes);
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The room that one waiting call takes up.
#[derive(Debug)]
struct Ticket {
    connection: Arc<Room>,
    server: Arc<Room>,
    bytes: usize,
    route: Arc<Route>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.connection.give_back(self.bytes);
        self.server.give_back(self.bytes);
        self.route.counters().stops_waiting();
    }
}

#[derive(Debug)]
enum Place {
    Waiting(#[allow(dead_code, reason = "dropping it is its use")] Ticket),
    Active,
    Left {
        /// Its target has never heard of it.
        unseen: bool,
    },
}

/// Where a call is that passes gates.
#[derive(Debug)]
pub(super) struct Admission {
    of_server: Option<Arc<Gate>>,
    of_method: Option<Arc<Gate>>,
    place: Mutex<Place>,
}

impl Admission {
    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.lock(), Place::Waiting(_))
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(*self.lock(), Place::Active)
    }

    /// Whether the call was never dispatched.
    pub(super) fn is_unseen(&self) -> bool {
        match *self.lock() {
            Place::Waiting(_) => true,
            Place::Active => false,
            Place::Left { unseen } => unseen,
        }
    }

    /// It gets a place; `false` when it does not wait any more.
    pub(super) fn stops_waiting(&self) -> bool {
        let mut place = self.lock();
        if !matches!(*place, Place::Waiting(_)) {
            return false;
        }
        let ticket = std::mem::replace(&mut *place, Place::Active);
        drop(place);
        drop(ticket);
        true
    }

    /// Has the call wait, unless it has a place.
    pub(super) fn wait(&self, call: &Arc<Call>) {
        if let Some(gate) = &self.of_method {
            gate.queue(Arc::clone(call));
        }
    }

    /// Gives the place back; once.
    pub(super) fn leave(&self) {
        let mut place = self.lock();
        let unseen = matches!(*place, Place::Waiting(_));
        if matches!(*place, Place::Left { .. }) {
            return;
        }
        let before = std::mem::replace(&mut *place, Place::Left { unseen });
        drop(place);
        drop(before);
        if let Some(gate) = &self.of_server {
            gate.leave();
        }
        match &self.of_method {
            Some(gate) if unseen => gate.one_gone(),
            Some(gate) => gate.leave(),
            None => {}
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The gates of one connection's calls.
#[derive(Debug)]
pub(super) struct Doors {
    server: Arc<ServerDoors>,
    waiting: Arc<Room>,
}

/// What all connections of a server share.
#[derive(Debug)]
pub(super) struct ServerDoors {
    concurrency: Option<Arc<Gate>>,
    waiting: Arc<Room>,
    max_waiting_bytes: usize,
    max_waiting_bytes_per_connection: usize,
    max_waiting_calls_per_connection: usize,
    stream_window: usize,
}

impl ServerDoors {
    pub(super) fn new(config: &TransportConfig) -> Self {
        let gate = |limit| Arc::new(Gate::new(limit));
        Self {
            concurrency: config.max_concurrent_calls.map(gate),
            waiting: Arc::default(),
            max_waiting_bytes: config.max_waiting_bytes,
            max_waiting_bytes_per_connection: config.max_waiting_bytes_per_connection,
            max_waiting_calls_per_connection: (config.max_concurrent_streams as usize / 2).max(1),
            stream_window: config.initial_stream_window as usize,
        }
    }
}

/// Why a call does not get in.
pub(super) type Refusal = (Refused, Status);

impl Doors {
    pub(super) fn new(server: &Arc<ServerDoors>) -> Self {
        Self {
            server: Arc::clone(server),
            waiting: Arc::default(),
        }
    }

    fn concurrency(&self, route: &Route) -> Option<&Arc<Gate>> {
        let gate = self.server.concurrency.as_ref();
        gate.filter(|_| !route.is_native())
    }

    /// Whether there is no point in reading the body of a call.
    pub(super) fn turn_away(&self, route: &Route, destination: usize) -> Option<Refusal> {
        if let Some(gate) = self.concurrency(route)
            && gate.is_full()
        {
            return Some(concurrency_exceeded());
        }
        let (gate, when_full) = route.destination(destination).gate.as_ref()?;
        let refuses = *when_full == WhenFull::Refuse && gate.is_full();
        refuses.then(|| no_place(route, gate))
    }

    /// A call whose message of `bytes` has been read, or whose messages are to be read as its handler goes on. `None` where
    /// it passes no gate.
    ///
    /// # Errors
    ///
    /// Why it does not get in.
    pub(super) fn enter(
        &self,
        route: &Arc<Route>,
        destination: usize,
        bytes: usize,
    ) -> Result<Option<Box<Admission>>, Refusal> {
        let concurrency = self.concurrency(route);
        let gate = route.destination(destination).gate.as_ref();
        if concurrency.is_none() && gate.is_none() {
            return Ok(None);
        }
        if let Some(gate) = concurrency
            && !gate.enter()
        {
            return Err(concurrency_exceeded());
        }
        let mut admission = Box::new(Admission {
            of_server: concurrency.cloned(),
            of_method: None,
            place: Mutex::new(Place::Active),
        });
        let Some((gate, when_full)) = gate else {
            return Ok(Some(admission));
        };
        if !gate.enter() {
            // Dropping the admission gives back the place that the server gave.
            if *when_full == WhenFull::Refuse {
                return Err(no_place(route, gate));
            }
            let ticket = self.ticket(route, bytes).ok_or_else(|| no_room(route))?;
            admission.place = Mutex::new(Place::Waiting(ticket));
        }
        admission.of_method = Some(Arc::clone(gate));
        Ok(Some(admission))
    }

    fn ticket(&self, route: &Arc<Route>, bytes: usize) -> Option<Ticket> {
        let server = &self.server;
        let bytes = if route.streams_requests {
            // What its client may send while nobody reads it.
            server.stream_window
        } else {
            bytes
        };
        let most_calls = server.max_waiting_calls_per_connection;
        let most_bytes = server.max_waiting_bytes_per_connection;
        if !self.waiting.take(bytes, most_calls, most_bytes) {
            return None;
        }
        let most_bytes = server.max_waiting_bytes;
        if !server.waiting.take(bytes, usize::MAX, most_bytes) {
            self.waiting.give_back(bytes);
            return None;
        }
        route.counters().waits();
        Some(Ticket {
            connection: Arc::clone(&self.waiting),
            server: Arc::clone(&server.waiting),
            bytes,
            route: Arc::clone(route),
        })
    }
}

fn concurrency_exceeded() -> Refusal {
    // grpcio's words.
    let text = "Concurrent RPC limit exceeded!";
    (
        Refused::ServerLimit,
        Status::new(Code::ResourceExhausted, text),
    )
}

fn no_place(route: &Route, gate: &Gate) -> Refusal {
    let (path, limit) = (route.path(), gate.limit);
    let text =
        format!("{path} runs at most {limit} calls at a time (max_active_rpcs): retry later");
    (
        Refused::MethodLimit,
        Status::new(Code::ResourceExhausted, text),
    )
}

fn no_room(route: &Route) -> Refusal {
    let path = route.path();
    let text = format!(
        "No more calls may wait for {path} (max_active_rpcs, with max_waiting_bytes): retry later"
    );
    (
        Refused::WaitingFull,
        Status::new(Code::ResourceExhausted, text),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_lets_as_many_through_as_its_limit_and_takes_places_back() {
        let gate = Gate::new(2);
        assert!(gate.enter() && gate.enter());
        assert!(gate.is_full() && !gate.enter());
        gate.leave();
        assert_eq!(gate.active(), 1);
        assert!(gate.enter());
    }

    #[test]
    fn a_room_counts_calls_and_bytes_and_takes_neither_beyond_its_bounds() {
        let room = Room::default();
        assert!(room.take(10, 2, 25));
        assert!(!room.take(16, 2, 25), "too many bytes");
        assert!(room.take(15, 2, 25));
        assert!(!room.take(0, 2, 25), "too many calls");
        room.give_back(10);
        assert!(room.take(10, 2, 25));
        assert!(!room.take(usize::MAX, 9, usize::MAX), "sums do not wrap");
    }
}
