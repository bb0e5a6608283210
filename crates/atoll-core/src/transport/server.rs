//! Network threads, who is connected, and stopping.
//!
//! | thread          | runs                                                                           |
//! |-----------------|--------------------------------------------------------------------------------|
//! | `atoll-net-<i>` | a tokio current-thread runtime with the connections that were assigned to it   |
//! | `atoll-net-0`   | also the acceptors, which assign each connection to the thread with the fewest |
//! | any other       | [`Transport::start`], [`Transport::shutdown`], [`Transport::join`]             |

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use super::acceptor;
use super::accounts;
use super::admission::ServerDoors;
use super::config::TransportConfig;
use super::connection::Service;
use super::counters::{Counters, TransportStats};
use super::health::Health;
use super::kept_memory;
use super::listener::Listener;
use super::offence::{Offence, OffenceNote, OffenceNotes};
use super::outbox::Outbox;
use super::peers::{Peer, Peers};
use super::routes::Routes;
use crate::{clock, native_thread};

/// A grace longer than this is as good as none at all, and clocks can express it.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

type Done = Box<dyn FnOnce() + Send>;

/// A running server side: network threads that serve listeners until [`shutdown`](Self::shutdown).
///
/// Dropping it stops it at once, without waiting.
pub struct Transport {
    shared: Arc<Shared>,
    acceptors: Vec<AbortHandle>,
    health: Option<(Arc<Health>, AbortHandle)>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads share; `state` is entered when a connection comes or goes, never per call.
pub(super) struct Shared {
    pub(super) service: Arc<Service>,
    pub(super) workers: Vec<Worker>,
    state: Mutex<State>,
    finished: watch::Sender<bool>,
    connections_made: AtomicU64,
}

/// One network thread, from outside.
pub(super) struct Worker {
    pub(super) runtime: Handle,
    pub(super) counters: Arc<Counters>,
}

#[derive(Default)]
struct State {
    connections: Slab<Arc<Outbox>>,
    /// Empty unless they are limited.
    peers: Peers,
    /// Tasks that must end before the transport has: connections, acceptors, and the one that shutdown
    /// starts.
    tasks: usize,
    stop_at: Option<Instant>,
    done: Vec<Done>,
    finished: bool,
}

impl Transport {
    /// Starts the threads and serves.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a config that cannot be served (the message names the field), else what the
    /// system said when threads, pollers or listeners were set up.
    pub fn start(
        config: TransportConfig,
        routes: Arc<Routes>,
        listeners: Vec<Listener>,
    ) -> io::Result<Self> {
        config
            .validate()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        kept_memory::keep(config.kept_memory);
        let runtimes: Vec<Runtime> = (0..config.network_threads)
            .map(|_| {
                Builder::new_current_thread()
                    .enable_io()
                    .enable_time()
                    .build()
            })
            .collect::<io::Result<_>>()?;
        let worker = |runtime: &Runtime| Worker {
            runtime: runtime.handle().clone(),
            counters: Arc::default(),
        };
        let shared = Arc::new(Shared {
            workers: runtimes.iter().map(worker).collect(),
            service: Arc::new(Service {
                doors: Arc::new(ServerDoors::new(&config)),
                config,
                routes,
                notes: OffenceNotes::default(),
            }),
            state: Mutex::default(),
            finished: watch::Sender::new(false),
            connections_made: AtomicU64::new(0),
        });
        let acceptors = {
            let _entered = runtimes[0].enter();
            let sockets = listeners.into_iter().flat_map(|listener| {
                let certificates = listener.certificates;
                let with_certificates = move |socket| (socket, certificates.clone());
                listener.sockets.into_iter().map(with_certificates)
            });
            sockets
                .map(|(socket, certificates)| acceptor::spawn(&shared, socket, certificates))
                .collect::<io::Result<_>>()?
        };
        let health = shared.service.routes.health().cloned();
        let health = health.map(|health| {
            let task = runtimes[0].spawn(look_at_health(Arc::clone(&health)));
            (health, task.abort_handle())
        });
        accounts::open(
            &shared.service.routes,
            shared.workers.iter().map(|worker| &worker.counters),
        );
        let mut transport = Self {
            shared,
            acceptors,
            health,
            threads: Mutex::default(),
        };
        let mut threads = Vec::new();
        for (index, runtime) in runtimes.into_iter().enumerate() {
            let mut finished = transport.shared.finished.subscribe();
            let thread = native_thread::spawn(format!("atoll-net-{index}"), move || {
                // The sender lives in the acceptors and connections that this waits for.
                let _ = runtime.block_on(finished.wait_for(|finished| *finished));
            })?;
            threads.push(thread);
        }
        transport.threads = Mutex::new(threads);
        Ok(transport)
    }

    /// Stops: no more connections, GOAWAY to the clients, and calls in flight may finish. Calls that have
    /// not when the grace is over are answered UNAVAILABLE and cancelled; no grace means at once. `done`
    /// runs when every connection is closed, on a network thread, or on this one when that has already
    /// happened. Called again, the earlier of the two ends of grace counts.
    pub fn shutdown(&self, grace: Option<Duration>, done: Done) {
        let at = Instant::now() + grace.unwrap_or_default().min(LONGEST_GRACE);
        let mut state = self.shared.lock();
        if state.finished {
            drop(state);
            return done();
        }
        state.done.push(done);
        state.stop_at = Some(state.stop_at.map_or(at, |earlier| earlier.min(at)));
        for (_, connection) in &state.connections {
            connection.stop(at);
        }
        drop(state);
        for acceptor in &self.acceptors {
            acceptor.abort();
        }
        if let Some((health, task)) = &self.health {
            task.abort();
            health.stop();
        }
        // Without connections and listeners nobody else would notice that all is done.
        let last = self.shared.register_task();
        self.shared.workers[0]
            .runtime
            .spawn(async move { drop(last) });
    }

    /// Waits for the network threads to end. Without a shutdown before it, it is one without grace; with
    /// one, it lasts until the grace is over at the latest. On a network thread (in `done`) it returns at
    /// once.
    pub fn join(&self) {
        let stopping = self.shared.lock().stop_at.is_some();
        if !stopping {
            self.shutdown(None, Box::new(|| ()));
        }
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let here = thread::current().id();
        for thread in threads {
            if thread.thread().id() != here {
                // A thread that panicked has ended, which is all that is asked here.
                let _ = thread.join();
            }
        }
    }

    /// Connections now open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.stats().connections
    }

    /// Calls that were received whole and are not answered.
    #[must_use]
    pub fn calls_in_flight(&self) -> usize {
        self.stats().calls_in_flight
    }

    /// The routes that it serves, each with its counters.
    #[must_use]
    pub fn routes(&self) -> &Arc<Routes> {
        &self.shared.service.routes
    }

    /// All counters, summed over the network threads.
    #[must_use]
    pub fn stats(&self) -> TransportStats {
        let mut stats = TransportStats::default();
        for worker in &self.shared.workers {
            worker.counters.add_to(&mut stats);
        }
        if let Some(authentication) = &self.shared.service.config.authentication {
            stats.authentication = authentication.stats();
        }
        stats
    }

    /// Who of late did what no well-behaved client does, the latest last: at most one note a second of each kind.
    #[must_use]
    pub fn offences(&self) -> Vec<OffenceNote> {
        self.shared.service.notes.latest()
    }
}

async fn look_at_health(health: Arc<Health>) {
    let mut ticks = tokio::time::interval(health.interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        health.look(clock::now());
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Transport")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        let finished = self.shared.lock().finished;
        if !finished {
            self.shutdown(None, Box::new(|| ()));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register_task(self: &Arc<Self>) -> Registration {
        self.lock().tasks += 1;
        Registration {
            shared: Arc::clone(self),
            connection: None,
            peer: None,
        }
    }

    /// Counts a connection of `worker` in, unless there are too many; a transport that is stopping stops it too.
    pub(super) fn register_connection(
        self: &Arc<Self>,
        worker: &Worker,
        outbox: &Arc<Outbox>,
        peer: Option<Peer>,
    ) -> Result<Registration, Offence> {
        let config = &self.service.config;
        let mut registration = self.register_task();
        let mut state = self.lock();
        if state.connections.len() >= config.max_connections {
            drop(state);
            return Err(Offence::TooManyConnections);
        }
        if let (Some(peer), Some(most)) = (peer, config.max_connections_per_peer) {
            if !state.peers.enter(peer, most) {
                drop(state);
                return Err(Offence::TooManyConnectionsOfPeer);
            }
            registration.peer = Some(peer);
        }
        let index = state.connections.insert(Arc::clone(outbox));
        registration.connection = Some((index, Arc::clone(&worker.counters)));
        worker.counters.connections.fetch_add(1, Ordering::Relaxed);
        if let Some(at) = state.stop_at {
            outbox.stop(at);
        }
        Ok(registration)
    }

    /// The number of a connection that has just been accepted.
    pub(super) fn next_connection(&self) -> u64 {
        self.connections_made.fetch_add(1, Ordering::Relaxed)
    }

    /// The thread with the fewest connections.
    pub(super) fn least_busy_worker(&self) -> &Worker {
        let connections = |worker: &&Worker| worker.counters.connections.load(Ordering::Relaxed);
        self.workers
            .iter()
            .min_by_key(connections)
            .unwrap_or(&self.workers[0])
    }
}

/// Held by every task that must end before the transport has; the last one to go says so.
pub(super) struct Registration {
    pub(super) shared: Arc<Shared>,
    connection: Option<(usize, Arc<Counters>)>,
    peer: Option<Peer>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.tasks -= 1;
        if let Some((index, counters)) = self.connection.take() {
            state.connections.remove(index);
            counters.connections.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(peer) = self.peer {
            state.peers.leave(peer);
        }
        if state.tasks > 0 || state.stop_at.is_none() {
            return;
        }
        state.finished = true;
        let done = std::mem::take(&mut state.done);
        drop(state);
        for done in done {
            done();
        }
        self.shared.finished.send_replace(true);
    }
}
