//! `ElectionCore`: who leads, of several servers on etcd. `atoll.store.Election` derives from it.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `observers` | attached threads | the same, and the lease thread | a mutex, never while Python code runs |

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_store::etcd;
use atoll_store::etcd::options::{EtcdOptions, EtcdTls, EtcdUser, LeaseTimes};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error;
use crate::loop_core::{LoopCore, lock};
use crate::notice::Notice;
use crate::store::subscription::Subscription;

/// How etcd is reached and used, checked. `atoll.store.EtcdOptions` makes it.
#[pyclass(frozen, module = "atoll._core")]
pub(crate) struct EtcdOptionsCore(EtcdOptions);

#[pymethods]
impl EtcdOptionsCore {
    #[new]
    #[pyo3(signature = (
        *, endpoints, prefix, user, password, ca, cert, key, server_name, lease, keepalive, validity, request_timeout,
        connect_timeout, load_timeout, max_operations, max_request_bytes, history_revisions
    ))]
    #[allow(clippy::too_many_arguments)] // one per field of `atoll.store.EtcdOptions`
    fn new(
        endpoints: Vec<String>,
        prefix: String,
        user: Option<String>,
        password: Option<String>,
        ca: Option<Vec<u8>>,
        cert: Option<Vec<u8>>,
        key: Option<Vec<u8>>,
        server_name: Option<String>,
        lease: f64,
        keepalive: f64,
        validity: f64,
        request_timeout: f64,
        connect_timeout: f64,
        load_timeout: f64,
        max_operations: usize,
        max_request_bytes: usize,
        history_revisions: u64,
    ) -> PyResult<Self> {
        let options = EtcdOptions {
            endpoints,
            prefix,
            user: user
                .zip(password)
                .map(|(name, password)| EtcdUser { name, password }),
            tls: ca.map(|authority| EtcdTls {
                authority,
                identity: cert.zip(key),
                server_name,
            }),
            lease: LeaseTimes {
                lease: seconds("lease", lease)?,
                keepalive: seconds("keepalive", keepalive)?,
                validity: seconds("validity", validity)?,
            },
            request_timeout: seconds("request_timeout", request_timeout)?,
            connect_timeout: seconds("connect_timeout", connect_timeout)?,
            load_timeout: seconds("load_timeout", load_timeout)?,
            max_operations,
            max_request_bytes,
            history_revisions,
        };
        options
            .check()
            .map_err(|problem| error::store_not_opened(&problem))?;
        Ok(Self(options))
    }
}

/// What holds of `atoll.store.EtcdOptions` where nothing is said, by the names of its fields.
#[pyfunction]
pub(crate) fn default_etcd_options(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let options = EtcdOptions::new::<String>([]);
    let values = PyDict::new(py);
    values.set_item("prefix", options.prefix)?;
    for (name, time) in [
        ("lease", options.lease.lease),
        ("keepalive", options.lease.keepalive),
        ("validity", options.lease.validity),
        ("request_timeout", options.request_timeout),
        ("connect_timeout", options.connect_timeout),
        ("load_timeout", options.load_timeout),
    ] {
        values.set_item(name, time.as_secs_f64())?;
    }
    values.set_item("max_operations", options.max_operations)?;
    values.set_item("max_request_bytes", options.max_request_bytes)?;
    values.set_item("history_revisions", options.history_revisions)?;
    Ok(values)
}

/// Where an election stands.
#[pyclass(frozen, eq, module = "atoll._core")]
#[derive(PartialEq)]
pub(crate) struct ElectionState(etcd::ElectionState);

#[pymethods]
impl ElectionState {
    /// "standby", "leading", "lost" or "resigned"; the last two are final.
    #[getter]
    fn role(&self) -> &'static str {
        match self.0 {
            etcd::ElectionState::Standby { .. } => "standby",
            etcd::ElectionState::Leading { .. } => "leading",
            etcd::ElectionState::Lost { .. } => "lost",
            etcd::ElectionState::Resigned => "resigned",
        }
    }

    /// Who leads, as far as a standby knows.
    #[getter]
    fn leader(&self) -> Option<Leader> {
        match &self.0 {
            etcd::ElectionState::Standby { leader, .. } => leader.clone().map(Leader::from),
            _ => None,
        }
    }

    /// The epoch of this server's term, while it leads and after it has lost.
    #[getter]
    fn epoch(&self) -> Option<u64> {
        match self.0 {
            etcd::ElectionState::Leading { epoch } | etcd::ElectionState::Lost { epoch, .. } => {
                Some(epoch)
            }
            _ => None,
        }
    }

    /// Of a standby: why etcd could not be asked the last time. Of a server that has lost: how it came.
    #[getter]
    fn problem(&self) -> Option<&str> {
        match &self.0 {
            etcd::ElectionState::Standby { problem, .. } => problem.as_deref(),
            etcd::ElectionState::Lost { reason, .. } => Some(reason),
            _ => None,
        }
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// Who leads, as its key in etcd says.
#[pyclass(frozen, eq, get_all, module = "atoll._core", name = "ElectionLeader")]
#[derive(PartialEq)]
pub(crate) struct Leader {
    /// The server's name.
    name: String,
    /// Where clients reach it.
    address: String,
    /// When its election began, in seconds since 1970 by its own clock.
    started: u64,
    /// Its epoch.
    epoch: u64,
}

impl From<etcd::Leader> for Leader {
    fn from(it: etcd::Leader) -> Self {
        Self {
            name: it.name,
            address: it.address,
            started: it.started,
            epoch: it.epoch,
        }
    }
}

/// The loops that are told of each change.
#[derive(Default)]
struct Observers {
    notices: Mutex<Vec<Arc<Notice>>>,
    changes: AtomicU64,
}

impl etcd::ElectionObserver for Observers {
    fn changed(&self, _state: &etcd::ElectionState) {
        let change = self.changes.fetch_add(1, Ordering::Relaxed) + 1;
        let notices = lock(&self.notices).clone();
        for notice in notices {
            notice.tell(change);
        }
    }
}

/// The native half of an election; see `atoll.store.Election`.
#[pyclass(subclass, frozen, weakref, module = "atoll._core")]
pub(crate) struct ElectionCore {
    /// Some until it is dropped.
    election: Option<etcd::Election>,
    options: EtcdOptions,
    observers: Arc<Observers>,
}

impl ElectionCore {
    fn election(&self) -> PyResult<&etcd::Election> {
        match &self.election {
            Some(election) if election.is_ours() => Ok(election),
            _ => Err(error::forked_election()),
        }
    }

    /// What an engine needs, if this server leads.
    pub(crate) fn leadership(&self) -> PyResult<(EtcdOptions, etcd::Leadership)> {
        match self.election()?.leadership() {
            Some(leadership) => Ok((self.options.clone(), leadership)),
            None => Err(PyRuntimeError::new_err(
                "this server does not lead: wait until the election's state has the role \"leading\", then open the store",
            )),
        }
    }
}

impl Drop for ElectionCore {
    /// Resigns, which may take as long as the lease: others use the GIL meanwhile.
    fn drop(&mut self) {
        let election = self.election.take();
        Python::attach(|py| py.detach(|| drop(election)));
    }
}

#[pymethods]
impl ElectionCore {
    /// Begins to stand.
    #[new]
    fn new(
        py: Python<'_>,
        options: &Bound<'_, EtcdOptionsCore>,
        name: &str,
        address: &str,
    ) -> PyResult<Self> {
        let options = options.get().0.clone();
        let observers = Arc::new(Observers::default());
        let observer = Arc::<Observers>::clone(&observers);
        let election = py
            .detach(|| etcd::Election::start(options.clone(), name, address, Some(observer)))
            .map_err(|problem| error::store_not_opened(&problem))?;
        Ok(Self {
            election: Some(election),
            options,
            observers,
        })
    }

    /// Where it stands now. Any thread.
    #[getter]
    fn state(&self) -> PyResult<ElectionState> {
        Ok(ElectionState(self.election()?.state()))
    }

    /// Seconds for which this server may serve yet if nothing extends them; 0 when it does not lead. Any thread.
    #[getter]
    fn remaining(&self) -> PyResult<f64> {
        let leadership = self.election()?.leadership();
        Ok(leadership.map_or(0.0, |it| it.validity.remaining().as_secs_f64()))
    }

    /// Has `io_context` run `callback(changes)` after changes of the state, once however many there were meanwhile. Any thread.
    fn subscribe(
        &self,
        io_context: &Bound<'_, LoopCore>,
        callback: Bound<'_, PyAny>,
    ) -> PyResult<Subscription> {
        self.election()?;
        Subscription::new(io_context, callback, |notice| {
            let observers = Arc::clone(&self.observers);
            lock(&observers.notices).push(Arc::clone(&notice));
            move || lock(&observers.notices).retain(|it| !Arc::ptr_eq(it, &notice))
        })
    }

    /// Stops leading, and waits until etcd knows. Not on the thread of a loop that has other work.
    fn resign_blocking(&self, py: Python<'_>) -> PyResult<()> {
        let election = self.election()?;
        py.detach(|| election.resign());
        Ok(())
    }
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| {
        PyValueError::new_err(format!(
            "{name} must be a number of seconds that is not negative; got {value}"
        ))
    })
}
