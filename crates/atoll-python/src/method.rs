//! One method of a service: which loop runs it, and how.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::clock;
use atoll_core::mailbox::Lane;
use atoll_core::stats::SlotIndex;
use atoll_core::transport::{Call, Code, Dispatch, Encoding, Status};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::error;
use crate::item::Item;
use crate::loop_core::LoopCore;
use crate::shared::Shared;

/// A method as Python describes it: `atoll.rpc._method.Method`.
#[derive(FromPyObject)]
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
    compression: u8,
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
pub(crate) struct Method {
    pub(crate) slot: SlotIndex,
    pub(crate) handler: Py<PyAny>,
    pub(crate) deserializer: Option<Py<PyAny>>,
    pub(crate) serializer: Option<Py<PyAny>>,
    pub(crate) context_type: Py<PyType>,
    pub(crate) is_coroutine: bool,
    pub(crate) request_streaming: bool,
    pub(crate) response_streaming: bool,
    /// How replies are compressed where the handler says nothing else.
    pub(crate) compression: Encoding,
}

impl Method {
    pub(crate) fn new(py: Python<'_>, spec: MethodSpec) -> PyResult<Self> {
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
            compression: error::encoding(spec.compression)?,
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
        let mut items: Vec<Item> = Vec::with_capacity(calls.len());
        for call in calls.drain(..) {
            let delay = if shared.is_injecting() {
                shared.injected_delay(Method::of(&call).slot)
            } else {
                Duration::ZERO
            };
            let item = Item::Call { call, queued_at };
            if delay.is_zero() {
                items.push(item);
            } else if let Err((_, item)) = shared.delay(Lane::Normal, item, delay) {
                self.refuse(item, self.0.max_delayed);
            }
        }
        shared.mailbox.push_all(Lane::Normal, &mut items);
        let limit = shared.mailbox.limit(Lane::Normal);
        for refused in items {
            self.refuse(refused, limit);
        }
    }

    fn cancelled(&self, call: &Arc<Call>) {
        // A closed loop has cancelled its handlers itself.
        let _ = self
            .0
            .mailbox
            .push_admitted(Lane::Control, Item::Cancel(Arc::clone(call)));
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
            call.refuse(Status::new(Code::ResourceExhausted, text));
        }
    }
}
