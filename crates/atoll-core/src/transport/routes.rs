//! Which dispatch target serves which path; frozen before the transport starts.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::HeaderMap;

use super::admission::{Gate, WhenFull};
use super::call::Call;
use super::health::Health;
use super::method_counters::{MethodCounters, MethodStats};
use super::spread::Chooser;

/// Where calls go: a mailbox, in Atoll; a worker thread, in the example. Both methods run on network
/// threads, so they must neither block nor wait for anything that a handler may hold.
pub trait Dispatch: Send + Sync + 'static {
    /// Takes every call out of `calls`, in order. Called once per target and socket read. A call that
    /// cannot be taken is answered with [`Call::refuse`]; one that is left in the vector is answered
    /// UNAVAILABLE.
    fn dispatch(&self, calls: &mut Vec<Arc<Call>>);

    /// The transport has answered or given up a call after it was dispatched (see
    /// [`Call::cancelled_by`]): its handler should be cancelled.
    fn cancelled(&self, call: &Arc<Call>);

    /// What the handlers of these streaming calls wait for has happened (see [`Call::receive`] and [`Call::room`]), or the
    /// call is over. Takes every call out of `calls`.
    fn progress(&self, calls: &mut Vec<Arc<Call>>) {
        calls.clear();
    }
}

/// Where calls of a route may go, and what goes with them.
pub(super) struct Destination {
    pub(super) target: Arc<dyn Dispatch>,
    pub(super) target_index: usize,
    pub(super) data: Arc<dyn Any + Send + Sync>,
    pub(super) gate: Option<(Arc<Gate>, WhenFull)>,
}

impl Destination {
    fn new(target: Arc<dyn Dispatch>, data: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            target,
            target_index: 0,
            data,
            gate: None,
        }
    }
}

/// Of a route that is spread over several targets.
struct Others {
    destinations: Vec<Destination>,
    chooser: Chooser,
}

/// One method: its path, its target, and what the target wants to know about it.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says something of its own"
)]
pub struct Route {
    path: Box<str>,
    first: Destination,
    others: Option<Box<Others>>,
    pub(super) streams_requests: bool,
    pub(super) streams_replies: bool,
    max_receive_message_size: Option<usize>,
    max_send_message_size: Option<usize>,
    /// Answered natively, so it passes no gate of the server either.
    is_native: bool,
    /// Shared with the process's accounts, which outlive the route.
    counters: Arc<MethodCounters>,
}

impl Route {
    /// Sends calls of `path`, such as `"/package.Service/Method"`, to `target`; `data` comes back with each
    /// call.
    pub fn new(
        path: impl Into<Box<str>>,
        target: Arc<dyn Dispatch>,
        data: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self {
            path: path.into(),
            first: Destination::new(target, data),
            others: None,
            streams_requests: false,
            streams_replies: false,
            max_receive_message_size: None,
            max_send_message_size: None,
            is_native: false,
            counters: Arc::default(),
        }
    }

    /// Makes `chooser` say for each call whether it goes to the target that the route was made with or to one of
    /// `others`, with the data beside that.
    #[must_use]
    pub fn with_others(
        mut self,
        others: impl IntoIterator<Item = (Arc<dyn Dispatch>, Arc<dyn Any + Send + Sync>)>,
        chooser: Chooser,
    ) -> Self {
        let destinations = others
            .into_iter()
            .map(|(target, data)| Destination::new(target, data))
            .collect();
        self.others = Some(Box::new(Others {
            destinations,
            chooser,
        }));
        self
    }

    /// Makes it a route of calls with any number of request messages, of reply messages, or of both. A call with several
    /// request messages is dispatched as soon as its headers are here.
    #[must_use]
    pub fn with_streaming(mut self, requests: bool, replies: bool) -> Self {
        self.streams_requests = requests;
        self.streams_replies = replies;
        self
    }

    /// Overrides [`TransportConfig::max_receive_message_size`](super::TransportConfig) for this route.
    #[must_use]
    pub fn with_max_receive_message_size(mut self, size: usize) -> Self {
        self.max_receive_message_size = Some(size);
        self
    }

    /// Overrides [`TransportConfig::max_send_message_size`](super::TransportConfig) for this route.
    #[must_use]
    pub fn with_max_send_message_size(mut self, size: usize) -> Self {
        self.max_send_message_size = Some(size);
        self
    }

    /// Has calls pass `gate`, which other routes may pass, too, before they are dispatched.
    #[must_use]
    pub fn with_gate(mut self, gate: Arc<Gate>, when_full: WhenFull) -> Self {
        self.first.gate = Some((gate, when_full));
        self
    }

    /// The same for each target of a route that is spread over several, the first one included.
    #[must_use]
    pub fn with_gates(
        mut self,
        gates: impl IntoIterator<Item = Option<(Arc<Gate>, WhenFull)>>,
    ) -> Self {
        for (destination, gate) in self.destinations_mut().zip(gates) {
            destination.gate = gate;
        }
        self
    }

    pub(super) fn is_native(&self) -> bool {
        self.is_native
    }

    pub(super) fn counters(&self) -> &Arc<MethodCounters> {
        &self.counters
    }

    /// What has been counted of its calls so far. Any thread.
    #[must_use]
    pub fn stats(&self) -> MethodStats {
        self.counters.snapshot()
    }

    /// The path it was made with; for a fallback route the call's own [`path`](Call::path) differs.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What the route was made with; where it is spread over several targets, a call's own [`data`](Call::data) may
    /// differ.
    #[must_use]
    pub fn data(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.first.data
    }

    /// The data of each of its targets, the first one's first.
    pub fn every_data(&self) -> impl Iterator<Item = &Arc<dyn Any + Send + Sync>> {
        let others = self.others.iter().flat_map(|others| &others.destinations);
        std::iter::once(&self.first)
            .chain(others)
            .map(|it| &it.data)
    }

    /// The index of the destination that takes a call.
    pub(super) fn choose(&self, connection: u64, headers: &HeaderMap) -> usize {
        self.others.as_ref().map_or(0, |others| {
            let count = 1 + others.destinations.len();
            others.chooser.choose(count, connection, headers)
        })
    }

    pub(super) fn destination(&self, index: usize) -> &Destination {
        match &self.others {
            Some(others) if index > 0 => &others.destinations[index - 1],
            _ => &self.first,
        }
    }

    fn destinations_mut(&mut self) -> impl Iterator<Item = &mut Destination> {
        let others = self.others.iter_mut();
        std::iter::once(&mut self.first).chain(others.flat_map(|others| &mut others.destinations))
    }

    pub(super) fn max_receive_message_size(&self) -> Option<usize> {
        self.max_receive_message_size
    }

    pub(super) fn max_send_message_size(&self) -> Option<usize> {
        self.max_send_message_size
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Route")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// All routes of a server. A path that none of them has is answered UNIMPLEMENTED without leaving the network
/// thread, unless there is a fallback.
#[derive(Debug, Default)]
pub struct Routes {
    by_path: HashMap<Box<str>, Arc<Route>>,
    fallback: Option<Arc<Route>>,
    targets: Targets,
    health: Option<Arc<Health>>,
}

#[derive(Default)]
struct Targets(Vec<Arc<dyn Dispatch>>);

impl fmt::Debug for Targets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} targets", self.0.len())
    }
}

impl Routes {
    /// Freezes the routes. Where two have the same path, the first one counts, as in grpcio.
    pub fn new(routes: impl IntoIterator<Item = Route>, fallback: Option<Route>) -> Self {
        let mut all = Self::default();
        for mut route in routes {
            all.targets.number(&mut route);
            all.by_path
                .entry(route.path.clone())
                .or_insert_with(|| Arc::new(route));
        }
        all.fallback = fallback.map(|mut route| {
            all.targets.number(&mut route);
            Arc::new(route)
        });
        all
    }

    /// Adds the health service, except where methods of it are served already.
    #[must_use]
    pub fn with_health(mut self, health: Arc<Health>) -> Self {
        for mut route in health.routes() {
            route.is_native = true;
            route.first.target_index = self.targets.index_of(&route.first.target);
            self.by_path
                .entry(route.path.clone())
                .or_insert_with(|| Arc::new(route));
        }
        self.health = Some(health);
        self
    }

    pub(super) fn health(&self) -> Option<&Arc<Health>> {
        self.health.as_ref()
    }

    /// The route of a path: its own, else the fallback, else none.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&Arc<Route>> {
        self.by_path.get(path).or(self.fallback.as_ref())
    }

    /// All routes, in no order; the fallback is the last.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.by_path.values().chain(&self.fallback)
    }

    /// How many different targets there are; a destination's index counts up to it.
    pub(super) fn target_count(&self) -> usize {
        self.targets.0.len()
    }
}

impl Targets {
    fn number(&mut self, route: &mut Route) {
        for destination in route.destinations_mut() {
            destination.target_index = self.index_of(&destination.target);
        }
    }

    fn index_of(&mut self, target: &Arc<dyn Dispatch>) -> usize {
        let same = |known: &Arc<dyn Dispatch>| {
            Arc::as_ptr(known).cast::<()>() == Arc::as_ptr(target).cast::<()>()
        };
        self.0.iter().position(same).unwrap_or_else(|| {
            self.0.push(Arc::clone(target));
            self.0.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    impl Dispatch for Nowhere {
        fn dispatch(&self, _: &mut Vec<Arc<Call>>) {}
        fn cancelled(&self, _: &Arc<Call>) {}
    }

    fn route(path: &str, target: &Arc<dyn Dispatch>, data: u8) -> Route {
        Route::new(path, Arc::clone(target), Arc::new(data))
    }

    #[test]
    fn the_first_of_two_routes_with_one_path_counts() {
        let target: Arc<dyn Dispatch> = Arc::new(Nowhere);
        let routes = Routes::new([route("/a", &target, 1), route("/a", &target, 2)], None);
        assert_eq!(
            routes.find("/a").unwrap().data().downcast_ref::<u8>(),
            Some(&1)
        );
        assert!(routes.find("/b").is_none());
    }

    #[test]
    fn an_unknown_path_goes_to_the_fallback() {
        let target: Arc<dyn Dispatch> = Arc::new(Nowhere);
        let routes = Routes::new([route("/a", &target, 1)], Some(route("*", &target, 2)));
        assert_eq!(routes.find("/b").unwrap().path(), "*");
    }

    #[test]
    fn each_target_is_counted_once() {
        let (one, two): (Arc<dyn Dispatch>, Arc<dyn Dispatch>) =
            (Arc::new(Nowhere), Arc::new(Nowhere));
        let routes = Routes::new(
            [
                route("/a", &one, 0),
                route("/b", &two, 0),
                route("/c", &one, 0),
            ],
            None,
        );
        assert_eq!(routes.target_count(), 2);
        let index = |path| routes.find(path).unwrap().destination(0).target_index;
        assert_eq!(index("/a"), index("/c"));
        assert_ne!(index("/a"), index("/b"));
    }
}
