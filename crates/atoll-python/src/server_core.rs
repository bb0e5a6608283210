//! `ServerCore`: a transport whose calls run on loops. `atoll.rpc.Server` owns one.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use atoll_core::mailbox::Lane;
use atoll_core::transport::health::{Health, HealthSettings, ServingStatus};
use atoll_core::transport::{
    Chooser, Dispatch, Listener, Offence, OffenceNote, Refused, Route, Routes, Transport,
    TransportConfig, TransportStats,
};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::authentication::AuthenticationCore;
use crate::certificates::CertificatesCore;
use crate::error;
use crate::item::Item;
use crate::loop_core::{LoopCore, lock};
use crate::method::{LoopDispatch, Method, MethodSpec, SpreadMethodSpec};
use crate::overload::{OverloadSpec, OverloadWatch};
use crate::readiness::ReadinessCore;
use crate::server_limits::ConnectionLimits;
use crate::shared::Shared;

/// The settings of a server: `atoll.rpc._options.ServerOptions`.
#[derive(FromPyObject)]
struct ServerOptions {
    network_threads: Option<usize>,
    max_receive_message_size: Option<usize>,
    max_send_message_size: Option<usize>,
    max_concurrent_streams: u32,
    max_header_list_size: u32,
    initial_stream_window: u32,
    max_concurrent_calls: Option<usize>,
    max_waiting_bytes: usize,
    max_waiting_bytes_per_connection: usize,
    share_ports: bool,
    kept_memory: usize,
    limits: ConnectionLimits,
}

/// One dispatch target per loop.
struct Targets {
    by_loop: HashMap<*const Shared, Arc<dyn Dispatch>>,
    watches: HashMap<*const Shared, Option<Arc<OverloadWatch>>>,
    overload: OverloadSpec,
}

impl Targets {
    fn new(overload: OverloadSpec) -> Self {
        Self {
            by_loop: HashMap::new(),
            watches: HashMap::new(),
            overload,
        }
    }

    fn of(&mut self, spec: &MethodSpec) -> Arc<dyn Dispatch> {
        let shared = &spec.io_context.get().shared;
        let target = self
            .by_loop
            .entry(Arc::as_ptr(shared))
            .or_insert_with(|| Arc::new(LoopDispatch(Arc::clone(shared))));
        Arc::clone(target)
    }

    fn method(&mut self, py: Python<'_>, spec: MethodSpec) -> PyResult<Arc<Method>> {
        let core = spec.io_context.get();
        let shared = &core.shared;
        let watch = self
            .watches
            .entry(Arc::as_ptr(shared))
            .or_insert_with(|| {
                OverloadWatch::new(&self.overload, &shared.name, core.wake_interval).map(Arc::new)
            })
            .clone();
        Method::new(py, spec, watch).map(Arc::new)
    }

    fn route(&mut self, py: Python<'_>, spec: MethodSpec) -> PyResult<Route> {
        let (path, target) = (spec.path.clone(), self.of(&spec));
        let (requests, replies) = (spec.request_streaming, spec.response_streaming);
        let limits = spec.limits();
        let route = Route::new(path, target, self.method(py, spec)?);
        Ok(limits.limit(route.with_streaming(requests, replies)))
    }

    fn spread_route(&mut self, py: Python<'_>, spec: SpreadMethodSpec) -> PyResult<Route> {
        let chooser = match &spec.metadata_key {
            Some(key) => Chooser::by_metadata(key)
                .map_err(|problem| PyValueError::new_err(problem.to_string()))?,
            None => Chooser::ByConnection,
        };
        let gates: Vec<_> = spec.methods.iter().map(MethodSpec::gate).collect();
        let mut methods = spec.methods.into_iter();
        let first = methods.next().ok_or_else(|| {
            PyValueError::new_err("a method that is spread over loops needs at least one loop")
        })?;
        let route = self.route(py, first)?;
        let others = methods
            .map(|spec| {
                let target = self.of(&spec);
                let data: Arc<dyn Any + Send + Sync> = self.method(py, spec)?;
                Ok((target, data))
            })
            .collect::<PyResult<Vec<_>>>()?;
        Ok(route.with_others(others, chooser).with_gates(gates))
    }
}

/// How health is told: `atoll.rpc._health.Health`; durations in seconds.
#[derive(FromPyObject)]
struct HealthSpec {
    threshold: f64,
    liveness_threshold: Option<f64>,
    interval: f64,
    recover_after: u32,
    /// The loops of each service.
    services: Vec<(String, Vec<Py<LoopCore>>)>,
}

impl HealthSpec {
    fn health(self) -> Arc<Health> {
        let duration = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let settings = HealthSettings {
            threshold: duration(self.threshold),
            liveness_threshold: self.liveness_threshold.map(duration),
            interval: duration(self.interval),
            recover_after: self.recover_after,
        };
        let observed = |io_context: Py<LoopCore>| Arc::clone(&io_context.get().shared) as _;
        let loops = |loops: Vec<Py<LoopCore>>| loops.into_iter().map(observed).collect();
        let services = self.services.into_iter();
        let services = services.map(|(name, members)| (name, loops(members)));
        Health::new(settings, services.collect())
    }
}

enum Stage {
    Open(Vec<Listener>),
    Started(Arc<Transport>, Option<Arc<Health>>),
    /// Nothing is kept but figures: the routes refer to servicers, which may refer to the server.
    Stopped(Box<Figures>),
}

/// What a server has counted, when it has ended.
#[derive(Default)]
struct Figures {
    methods: Vec<MethodTuple>,
    stats: TransportStats,
    notes: Vec<NoteTuple>,
}

impl Figures {
    fn of(transport: &Transport) -> Self {
        Self {
            methods: Self::methods_of(transport),
            stats: transport.stats(),
            notes: Self::notes_of(transport),
        }
    }

    fn methods_of(transport: &Transport) -> Vec<MethodTuple> {
        let tuple = |route: &Arc<Route>| {
            let stats = route.stats();
            let methods: Vec<&Method> = route
                .every_data()
                .filter_map(|data| data.downcast_ref())
                .collect();
            (
                route.path().to_owned(),
                methods.iter().map(|it| it.loop_name.clone()).collect(),
                methods
                    .first()
                    .map_or_else(String::new, |it| it.name.clone()),
                stats.started,
                stats.finished.to_vec(),
                stats.refused.to_vec(),
                stats.overdue,
                stats.waiting,
                (stats.bytes_received, stats.bytes_sent),
            )
        };
        transport.routes().iter().map(tuple).collect()
    }

    fn notes_of(transport: &Transport) -> Vec<NoteTuple> {
        let tuple = |note: OffenceNote| {
            let since_1970 = note.at.duration_since(SystemTime::UNIX_EPOCH);
            (
                note.offence.name(),
                note.peer.into(),
                since_1970.unwrap_or_default().as_secs_f64(),
                note.repeated,
            )
        };
        transport.offences().into_iter().map(tuple).collect()
    }
}

fn counted(counts: impl Iterator<Item = (&'static str, u64)>) -> Vec<(&'static str, u64)> {
    counts.filter(|(_, count)| *count > 0).collect()
}

type Counts = Vec<(&'static str, u64)>;
type ServerTuple = (usize, u64, Counts, Counts, Counts);
type NoteTuple = (&'static str, String, f64, u64);
type MethodTuple = (
    String,
    Vec<String>,
    String,
    u64,
    Vec<u64>,
    Vec<u64>,
    u64,
    u64,
    (u64, u64),
);

/// A transport whose calls run on loops. Any thread; nothing here waits for a network thread but `join`.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct ServerCore {
    config: TransportConfig,
    share_ports: bool,
    stage: Mutex<Stage>,
    /// Kept while the server runs: what renews certificates ends with them.
    credentials: Mutex<Vec<Py<CertificatesCore>>>,
}

impl ServerCore {
    fn transport(&self) -> Option<Arc<Transport>> {
        match &*lock(&self.stage) {
            Stage::Open(_) | Stage::Stopped(_) => None,
            Stage::Started(transport, _) => Some(Arc::clone(transport)),
        }
    }

    fn transport_stats(&self) -> TransportStats {
        match &*lock(&self.stage) {
            Stage::Open(_) => TransportStats::default(),
            Stage::Started(transport, _) => transport.stats(),
            Stage::Stopped(figures) => figures.stats,
        }
    }
}

#[pymethods]
impl ServerCore {
    #[new]
    #[pyo3(signature = (options, authentication=None, readiness=None))]
    fn new(
        options: ServerOptions,
        authentication: Option<&Bound<'_, AuthenticationCore>>,
        readiness: Option<&Bound<'_, ReadinessCore>>,
    ) -> PyResult<Self> {
        let defaults = TransportConfig::default();
        let config = TransportConfig {
            network_threads: options.network_threads.unwrap_or(defaults.network_threads),
            max_receive_message_size: options.max_receive_message_size.unwrap_or(usize::MAX),
            max_send_message_size: options.max_send_message_size.unwrap_or(usize::MAX),
            max_concurrent_streams: options.max_concurrent_streams,
            max_header_list_size: options.max_header_list_size,
            initial_stream_window: options.initial_stream_window,
            max_concurrent_calls: options.max_concurrent_calls,
            max_waiting_bytes: options.max_waiting_bytes,
            max_waiting_bytes_per_connection: options.max_waiting_bytes_per_connection,
            kept_memory: options.kept_memory,
            authentication: authentication.map(|core| Arc::clone(&core.get().authentication)),
            readiness: readiness.map(|core| Arc::clone(&core.get().readiness)),
            ..defaults
        };
        let config = options.limits.applied_to(config)?;
        config
            .validate()
            .map_err(|problem| PyValueError::new_err(problem.to_string()))?;
        Ok(Self {
            config,
            share_ports: options.share_ports,
            stage: Mutex::new(Stage::Open(Vec::new())),
            credentials: Mutex::default(),
        })
    }

    /// Binds `address` and listens, with TLS if there are certificates; connections wait until the start. Returns the port, or 0
    /// for a Unix socket.
    #[pyo3(signature = (address, certificates=None))]
    fn add_port(
        &self,
        py: Python<'_>,
        address: &str,
        certificates: Option<Py<CertificatesCore>>,
    ) -> PyResult<u16> {
        let share = self.share_ports;
        let mut listener = py
            .detach(|| Listener::bind_with(address, share))
            .map_err(|problem| PyOSError::new_err(problem.to_string()))?;
        if let Some(certificates) = &certificates {
            listener = listener.with_tls(Arc::clone(&certificates.get().certificates));
        }
        let port = listener.port().unwrap_or(0);
        match &mut *lock(&self.stage) {
            Stage::Open(listeners) => listeners.push(listener),
            Stage::Started(..) | Stage::Stopped(_) => return Err(error::server_started()),
        }
        lock(&self.credentials).extend(certificates);
        Ok(port)
    }

    /// Serves `methods`, and `spread_methods` on the loops that their keys choose; a path that none of them has goes to
    /// `fallback`, or is answered UNIMPLEMENTED.
    #[pyo3(signature = (methods, spread_methods, fallback, health, overload))]
    fn start(
        &self,
        py: Python<'_>,
        methods: Vec<MethodSpec>,
        spread_methods: Vec<SpreadMethodSpec>,
        fallback: Option<MethodSpec>,
        health: Option<HealthSpec>,
        overload: OverloadSpec,
    ) -> PyResult<()> {
        let mut targets = Targets::new(overload);
        let mut routes = methods
            .into_iter()
            .map(|spec| targets.route(py, spec))
            .collect::<PyResult<Vec<_>>>()?;
        for spec in spread_methods {
            routes.push(targets.spread_route(py, spec)?);
        }
        let fallback = fallback.map(|spec| targets.route(py, spec)).transpose()?;
        let mut stage = lock(&self.stage);
        let Stage::Open(listeners) = &mut *stage else {
            return Err(error::server_started());
        };
        let health = health.map(HealthSpec::health);
        let mut routes = Routes::new(routes, fallback);
        if let Some(health) = &health {
            routes = routes.with_health(Arc::clone(health));
        }
        let listeners = std::mem::take(listeners);
        let transport = Transport::start(self.config.clone(), Arc::new(routes), listeners)?;
        *stage = Stage::Started(Arc::new(transport), health);
        Ok(())
    }

    /// Says of a service what no loop can tell; None takes it back. False without health, or before the start.
    #[pyo3(signature = (service, serving))]
    fn say_health(&self, service: &str, serving: Option<bool>) -> bool {
        let Stage::Started(_, Some(health)) = &*lock(&self.stage) else {
            return false;
        };
        let status = |serving| {
            if serving {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            }
        };
        health.say(service, serving.map(status));
        true
    }

    /// Stops accepting, lets calls in flight finish for `grace` seconds, then cancels them; `done` is posted to `io_context`
    /// when every connection is closed. None is no grace.
    #[pyo3(signature = (grace, io_context, done))]
    fn stop(
        &self,
        py: Python<'_>,
        grace: Option<f64>,
        io_context: &Bound<'_, LoopCore>,
        done: Py<PyAny>,
    ) {
        let shared = Arc::clone(&io_context.get().shared);
        let finished = move || {
            // A loop that is closed meanwhile has cancelled whoever waited.
            let _ = shared
                .mailbox
                .push_admitted(Lane::Control, Item::Internal(done));
        };
        let transport = {
            let mut stage = lock(&self.stage);
            if let Stage::Open(_) = &*stage {
                *stage = Stage::Stopped(Box::default());
            }
            match &*stage {
                Stage::Started(transport, _) => Some(Arc::clone(transport)),
                Stage::Open(_) | Stage::Stopped(_) => None,
            }
        };
        let Some(transport) = transport else {
            return finished();
        };
        // What no `Duration` can express is longer than anybody waits; less than nothing is nothing.
        let grace = grace
            .filter(|seconds| *seconds > 0.0)
            .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
        py.detach(|| transport.shutdown(grace, Box::new(finished)));
    }

    /// Waits for the network threads to end, once the transport has stopped.
    fn join(&self, py: Python<'_>) {
        if let Some(transport) = self.transport() {
            py.detach(|| transport.join());
        }
        let mut stage = lock(&self.stage);
        let figures = match &*stage {
            Stage::Started(transport, _) => Some(Figures::of(transport)),
            Stage::Open(_) => Some(Figures::default()),
            Stage::Stopped(_) => None,
        };
        let before = figures
            .map(|figures| std::mem::replace(&mut *stage, Stage::Stopped(Box::new(figures))));
        drop(stage);
        let credentials = std::mem::take(&mut *lock(&self.credentials));
        // Not under the locks: whatever is freed with the servicers may come back here.
        drop((before, credentials));
    }

    /// Of each method (path, loops, name in their statistics, started, finished by code, refused by reason, overdue, waiting,
    /// bytes received, bytes sent). Nothing before the start; after the end as it was then.
    fn method_stats(&self) -> Vec<MethodTuple> {
        match &*lock(&self.stage) {
            Stage::Open(_) => Vec::new(),
            Stage::Started(transport, _) => Figures::methods_of(transport),
            Stage::Stopped(figures) => figures.methods.clone(),
        }
    }

    /// The reasons for which calls are refused, in the order of `method_stats`.
    #[staticmethod]
    fn refusals() -> Vec<&'static str> {
        Refused::ALL.map(Refused::name).to_vec()
    }

    /// What is counted of the server itself: how many connections are open, how many ended with an error, the requests that
    /// were refused before their method was known by reason, TLS handshakes by how they ended, and offences, each by name. What
    /// never happened is left out.
    fn server_stats(&self) -> ServerTuple {
        let stats = self.transport_stats();
        let refused = Refused::ALL.map(Refused::name).into_iter();
        let offences = Offence::ALL.into_iter();
        (
            stats.connections,
            stats.connection_errors,
            counted(refused.zip(stats.refused)),
            counted(stats.tls_outcomes().into_iter()),
            counted(offences.map(|it| (it.name(), stats.offences.get(it)))),
        )
    }

    /// Who of late did what no well-behaved client does, the latest last: (what, the client's address, when in seconds since
    /// 1970, how many more there were within a second). At most 32.
    fn offence_notes(&self) -> Vec<NoteTuple> {
        match &*lock(&self.stage) {
            Stage::Open(_) => Vec::new(),
            Stage::Started(transport, _) => Figures::notes_of(transport),
            Stage::Stopped(figures) => figures.notes.clone(),
        }
    }

    /// (connections open, calls in flight).
    fn counts(&self) -> (usize, usize) {
        let stats = self.transport_stats();
        (stats.connections, stats.calls_in_flight)
    }
}
