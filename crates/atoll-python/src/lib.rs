//! The extension module `atoll._core`: a thin binding of atoll-core, one file per Python class.
//!
//! * [`loop_core`]: `LoopCore`, the base class of `atoll.IoContext`; [`posting`] queues its handlers, [`drain`] runs them.
//! * [`shared`]: what threads without the GIL may hold of a loop; [`current`]: which loop runs on this thread.
//! * [`manual_timers`]: time that passes only when told to.
//! * [`monitor`], [`lag_probe`], [`gil_gauge`]: what observes the loops.
//! * [`affinity`]: who may touch what belongs to a loop; [`loop_bound`]: a box that checks it.
//! * [`module_check`]: what makes a module check its loop, [`module_home`], which says where it lives, and
//!   [`checked_function`], what others see of its methods.
//! * [`handler_steps`]: the coroutine around a coroutine handler, which measures its steps.
//! * [`bound_handler`], [`work_guard`]: the objects that `bind()` and `work_guard()` return.
//! * [`server_core`], [`method`], [`call`], [`server_call`]: the bridge from the transport to the loops.
//! * [`connection`]: a client's connection, and pings; [`moment`]: when something came from it.
//! * [`python_bytes`]: large replies, which are sent from Python's memory.
//! * [`certificates`], [`authentication`]: who may connect, and who may call.
//! * [`broadcast`]: one message to many open streams.
//! * [`notice`]: how native threads tell a loop that there is news, such as a broadcast's or a store's.
//! * [`store`]: atoll-store, for loops.
//! * [`chaos`]: delays and fault sites, for tests.
//! * [`vectorcall`]: calls of our classes without a tuple.
//! * [`endpoint`], [`exposition`]: what the process does, over HTTP; the statistics of all loops as Prometheus text.
//! * [`error`]: where Rust errors become Python exceptions.

// PyO3 hands over what it extracts, and what a queue owns is passed on by value.
#![allow(clippy::needless_pass_by_value)]
// `slf` beside `self` is PyO3's own word for the object that a method belongs to.
#![allow(clippy::similar_names)]

mod affinity;
mod authentication;
mod bound_handler;
mod broadcast;
mod call;
mod call_stream;
mod certificates;
mod chaos;
mod checked_function;
mod connection;
mod context;
mod current;
mod drain;
mod endpoint;
mod error;
mod exposition;
mod gate;
mod gil_gauge;
mod handler_steps;
mod item;
mod lag_probe;
mod loop_bound;
mod loop_core;
mod manual_timers;
mod method;
mod module_check;
mod module_home;
mod moment;
mod monitor;
mod notice;
mod overload;
mod posting;
mod python_bytes;
mod readiness;
mod server_call;
mod server_core;
mod server_limits;
mod shared;
mod snapshot;
mod store;
mod systemd;
mod vectorcall;
mod work_guard;

use pyo3::prelude::pymodule;

#[pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::authentication::AuthenticationCore;
    #[pymodule_export]
    use crate::bound_handler::BoundHandler;
    #[pymodule_export]
    use crate::broadcast::{BroadcastCore, SlowSubscribersCore};
    #[pymodule_export]
    use crate::certificates::CertificatesCore;
    #[pymodule_export]
    use crate::chaos::{FaultStream, injected_delays, preview_delays};
    #[pymodule_export]
    use crate::checked_function::CheckedFunction;
    #[pymodule_export]
    use crate::connection::ConnectionCore;
    #[pymodule_export]
    use crate::current::current_loop;
    #[pymodule_export]
    use crate::endpoint::EndpointCore;
    #[pymodule_export]
    use crate::exposition::{call_metrics, prometheus_text, server_metrics};
    #[pymodule_export]
    use crate::gate::Gate;
    #[pymodule_export]
    use crate::gil_gauge::{GilGauge, gil_waits};
    #[pymodule_export]
    use crate::handler_steps::HandlerSteps;
    #[pymodule_export]
    use crate::lag_probe::LagProbeCore;
    #[pymodule_export]
    use crate::loop_bound::LoopBound;
    #[pymodule_export]
    use crate::loop_core::LoopCore;
    #[pymodule_export]
    use crate::manual_timers::ManualTimers;
    #[pymodule_export]
    use crate::module_check::plain_attributes;
    #[pymodule_export]
    use crate::module_home::ModuleHome;
    #[pymodule_export]
    use crate::monitor::{
        MonitorCore, activate_stack_sampler, answer_stack_question, begin_stack_answers,
        end_stack_answers, prepare_stack_sampler, wait_stack_question,
    };
    #[pymodule_export]
    use crate::readiness::ReadinessCore;
    #[pymodule_export]
    use crate::server_call::ServerCall;
    #[pymodule_export]
    use crate::server_core::ServerCore;
    #[pymodule_export]
    use crate::server_limits::default_limits;
    #[pymodule_export]
    use crate::store::StoreCore;
    #[pymodule_export]
    use crate::store::batch::Batch;
    #[pymodule_export]
    use crate::store::election::{
        ElectionCore, ElectionState, EtcdOptionsCore, Leader, default_etcd_options,
    };
    #[pymodule_export]
    use crate::store::files::{StoreReport, check_store, restore_store};
    #[pymodule_export]
    use crate::store::row::{Change, Changes, Committed, Page, Row, StoreStatistics};
    #[pymodule_export]
    use crate::store::snapshot::Snapshot;
    #[pymodule_export]
    use crate::store::subscription::Subscription;
    #[pymodule_export]
    use crate::systemd::SystemdCore;
    #[pymodule_export]
    use crate::work_guard::WorkGuard;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::module_check::add_classes(module)
    }
}
