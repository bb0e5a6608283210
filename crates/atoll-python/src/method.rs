//! One method of a service: which loop runs it, and how.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::clock;
use atoll_core::mailbox::Lane;
use atoll_core::registry::ObservedLoop;
use atoll_core::stats::SlotIndex;
use atoll_core::timer::Timers;
use atoll_core::transport::{
    self, Call, Code, Dispatch, Encoding, Refused, Reply, Route, Status, WhenFull,
};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::error;
use crate::gate::Gate;
use crate::item::Item;
use crate::loop_core::LoopCore;
use crate::overload::OverloadWatch;
use crate::shared::Shared;

/// A method as Python describes it: `atoll.rpc._method.Method`.
#[derive(FromPyObject)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something of its own"
)]
pub(crate) struct MethodSpec {
    pub(crate) path: String,
    pub(crate) name: String,
    pub(crate) io_context: Py<LoopCore>,
    handler: Py<PyAny>,
    deserializer: Option<Py<PyAny>>,
    serializer: Option<Py<PyAny>>,
    context_type: Py<PyType>,
    is_coroutine: bool,
    pub(crate) request_streaming: bool,
    pub(crate) response_streaming: bool,
    finds_handler: bool,
    compression: u8,
    options: OptionsSpec,
}

/// What has been set for a method: `atoll.rpc._method.Resolved`.
#[derive(FromPyObject)]
struct OptionsSpec {
    gate: Option<Py<Gate>>,
    waits: bool,
    lane: usize,
    max_receive_message_size: Option<usize>,
    max_send_message_size: Option<usize>,
}

/// What calls of a method pass, and what becomes of those that find it full.
pub(crate) type GateOfMethod = Option<(Arc<transport::Gate>, WhenFull)>;

/// What has been set for a route.
pub(crate) struct RouteLimits {
    gate: GateOfMethod,
    max_receive_message_size: Option<usize>,
    max_send_message_size: Option<usize>,
}

impl RouteLimits {
    pub(crate) fn limit(self, mut route: Route) -> Route {
        if let Some(size) = self.max_receive_message_size {
            route = route.with_max_receive_message_size(size);
        }
        if let Some(size) = self.max_send_message_size {
            route = route.with_max_send_message_size(size);
        }
        route.with_gates([self.gate])
    }
}

impl MethodSpec {
    pub(crate) fn gate(&self) -> GateOfMethod {
        let when_full = if self.options.waits {
            WhenFull::Wait
        } else {
            WhenFull::Refuse
        };
        let gate = self.options.gate.as_ref()?;
        Some((Arc::clone(&gate.get().gate), when_full))
    }

    pub(crate) fn limits(&self) -> RouteLimits {
        RouteLimits {
            gate: self.gate(),
            max_receive_message_size: self.options.max_receive_message_size,
            max_send_message_size: self.options.max_send_message_size,
        }
    }
}

/// A method whose calls are spread over several loops: `atoll.rpc._method.SpreadMethod`.
#[derive(FromPyObject)]
pub(crate) struct SpreadMethodSpec {
    /// One per loop, all with the same path.
    pub(crate) methods: Vec<MethodSpec>,
    /// Metadata whose value pins a call to a loop; None for the connection.
    pub(crate) metadata_key: Option<String>,
}

/// What the loop needs to run a call of the method; it travels with the route.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something of its own"
)]
pub(crate) struct Method {
    pub(crate) slot: SlotIndex,
    pub(crate) handler: Py<PyAny>,
    pub(crate) deserializer: Option<Py<PyAny>>,
    pub(crate) serializer: Option<Py<PyAny>>,
    pub(crate) context_type: Py<PyType>,
    pub(crate) is_coroutine: bool,
    pub(crate) request_streaming: bool,
    pub(crate) response_streaming: bool,
    /// Its handler finds the one that answers, and only then is known whether there are several messages.
    pub(crate) finds_handler: bool,
    /// How replies are compressed where the handler says nothing else.
    pub(crate) compression: Encoding,
    /// The lane in which its calls wait, and what its handlers post.
    pub(crate) lane: Lane,
    /// Shared by the server's methods on the loop.
    pub(crate) overload: Option<Arc<OverloadWatch>>,
    pub(crate) loop_name: String,
    /// The loop's clock, where that is moved by hand.
    pub(crate) timers: Option<Arc<Timers>>,
    /// Its name in the loop's statistics.
    pub(crate) name: String,
}

impl Method {
    pub(crate) fn new(
        py: Python<'_>,
        spec: MethodSpec,
        overload: Option<Arc<OverloadWatch>>,
    ) -> PyResult<Self> {
        let name = pyo3::types::PyString::new(py, &spec.name);
        Ok(Self {
            slot: spec.io_context.get().named_slot(&name)?,
            handler: spec.handler,
            deserializer: spec.deserializer,
            serializer: spec.serializer,
            context_type: spec.context_type,
            is_coroutine: spec.is_coroutine,
            request_streaming: spec.request_streaming,
            response_streaming: spec.response_streaming,
            finds_handler: spec.finds_handler,
            compression: error::encoding(spec.compression)?,
            lane: Lane::ALL[spec.options.lane.min(2)],
            overload,
            loop_name: spec.io_context.get().shared.name.clone(),
            timers: spec.io_context.get().shared.manual_timers().cloned(),
            name: spec.name,
        })
    }

    /// The method that `call` is of.
    pub(crate) fn of(call: &Call) -> &Self {
        call.data()
            .downcast_ref()
            .expect("the routes of a ServerCore carry methods")
    }
}

/// Puts calls in the mailbox of one loop. Entered by network threads, which never hold the GIL.
pub(crate) struct LoopDispatch(pub(crate) Arc<Shared>);

impl Dispatch for LoopDispatch {
    fn dispatch(&self, calls: &mut Vec<Arc<Call>>) {
        let queued_at = clock::now();
        let shared = &self.0;
        let mut lanes: [Vec<Item>; 3] = Default::default();
        let count = calls.len();
        for call in calls.drain(..) {
            let method = Method::of(&call);
            let lane = method.lane;
            let delay = if shared.is_injecting() {
                shared.injected_delay(method.slot)
            } else {
                Duration::ZERO
            };
            let item = Item::Call { call, queued_at };
            if delay.is_zero() {
                let items = &mut lanes[lane as usize];
                if items.is_empty() {
                    items.reserve(count);
                }
                items.push(item);
            } else if let Err((_, item)) = shared.delay(lane, item, delay) {
                self.refuse(item, self.0.max_delayed);
            }
        }
        for (lane, mut items) in Lane::ALL.into_iter().zip(lanes) {
            if items.is_empty() {
                continue;
            }
            shared.mailbox.push_all(lane, &mut items);
            let limit = shared.mailbox.limit(lane);
            for refused in items {
                self.refuse(refused, limit);
            }
        }
    }

    fn cancelled(&self, call: &Arc<Call>) {
        let cancel = Item::Cancel(Arc::clone(call));
        if self.0.mailbox.push_admitted(Lane::Control, cancel).is_err() {
            // A closed loop has cancelled its handlers itself.
            call.release();
        }
    }

    fn progress(&self, calls: &mut Vec<Arc<Call>>) {
        for call in calls.drain(..) {
            // As above. Handlers that wait already are let on before more begin.
            let _ = self
                .0
                .mailbox
                .push_admitted(Lane::Control, Item::Progress(call));
        }
    }
}

impl LoopDispatch {
    fn refuse(&self, refused: Item, limit: usize) {
        if let Item::Call { call, .. } = refused {
            let name = &self.0.name;
            let text = format!("Loop {name} is closed or holds {limit} calls, its bound");
            let reason = if self.0.is_closed() {
                Refused::LoopClosed
            } else {
                Refused::MailboxFull
            };
            let status = Status::new(Code::ResourceExhausted, text);
            call.turn_away(reason, Reply::error(status));
        }
    }
}
