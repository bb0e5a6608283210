//! What a store answers with. Frozen; values become Python objects when they are asked for.

use std::sync::Arc;

use atoll_store::statistics::{BUCKETS, Timing};
use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::store::Tables;

/// What is stored under a key.
#[pyclass(frozen, module = "atoll._core", name = "StoreRow")]
pub(crate) struct Row {
    key: Bytes,
    row: Arc<atoll_store::Row>,
}

impl Row {
    pub(crate) fn new(key: Bytes, row: Arc<atoll_store::Row>) -> Self {
        Self { key, row }
    }
}

#[pymethods]
impl Row {
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.key)
    }

    #[getter]
    fn value<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.row.value)
    }

    #[getter]
    fn created(&self) -> u64 {
        self.row.created
    }

    #[getter]
    fn revision(&self) -> u64 {
        self.row.revision
    }

    #[getter]
    fn version(&self) -> u64 {
        self.row.version
    }

    #[getter]
    fn owner<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.row.owner)
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.key == other.key && self.row == other.row
    }

    fn __hash__(&self) -> u64 {
        self.row.revision
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!(
            "<StoreRow {} of revision {}, {} bytes>",
            self.key(py).repr()?,
            self.row.revision,
            self.row.value.len()
        ))
    }
}

/// Rows in the order of their keys.
#[pyclass(frozen, get_all, module = "atoll._core", name = "StorePage")]
pub(crate) struct Page {
    rows: Vec<Py<Row>>,
    revision: u64,
    more: bool,
}

impl Page {
    pub(crate) fn new(py: Python<'_>, page: atoll_store::Page) -> PyResult<Self> {
        let rows = page.rows.into_iter();
        Ok(Self {
            rows: rows
                .map(|(key, row)| Py::new(py, Row::new(key, row)))
                .collect::<PyResult<_>>()?,
            revision: page.revision,
            more: page.more,
        })
    }
}

/// What came of a batch.
#[pyclass(frozen, module = "atoll._core", name = "StoreCommitted")]
pub(crate) struct Committed {
    committed: atoll_store::Committed,
}

impl Committed {
    pub(crate) fn new(committed: atoll_store::Committed) -> Self {
        Self { committed }
    }
}

/// A row without its key, which the caller knows.
fn keyless(row: Option<&Arc<atoll_store::Row>>) -> Option<Row> {
    row.map(|row| Row::new(Bytes::new(), Arc::clone(row)))
}

#[pymethods]
impl Committed {
    #[getter]
    fn revision(&self) -> u64 {
        self.committed.revision
    }

    #[getter]
    fn applied(&self) -> bool {
        self.committed.failed.is_none()
    }

    #[getter]
    fn failed_check(&self) -> Option<usize> {
        self.committed.failed.as_ref().map(|failed| failed.index)
    }

    #[getter]
    fn found(&self) -> Option<Row> {
        let failed = self.committed.failed.as_ref()?;
        keyless(failed.row.as_ref())
    }

    #[getter]
    fn previous(&self) -> Vec<Option<Row>> {
        let previous = self.committed.previous.iter();
        previous.map(|row| keyless(row.as_ref())).collect()
    }

    #[getter]
    fn deleted(&self) -> Vec<u64> {
        self.committed.deleted.clone()
    }

    fn __repr__(&self) -> String {
        match &self.committed.failed {
            None => format!("<StoreCommitted at revision {}>", self.committed.revision),
            Some(failed) => format!("<StoreCommitted: check {} failed>", failed.index),
        }
    }
}

/// What happened to a key.
#[pyclass(frozen, module = "atoll._core", name = "StoreChange")]
pub(crate) struct Change {
    change: atoll_store::Change,
    tables: Arc<Tables>,
}

#[pymethods]
impl Change {
    #[getter]
    fn revision(&self) -> u64 {
        self.change.revision
    }

    #[getter]
    fn table<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        self.tables.name(py, self.change.table)
    }

    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.change.key)
    }

    #[getter]
    fn row(&self) -> Option<Row> {
        let row = self.change.row.as_ref()?;
        Some(Row::new(self.change.key.clone(), Arc::clone(row)))
    }

    #[getter]
    fn previous(&self) -> Option<Row> {
        let row = self.change.previous.as_ref()?;
        Some(Row::new(self.change.key.clone(), Arc::clone(row)))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let verb = match (&self.change.row, &self.change.previous) {
            (None, _) => "deleted",
            (_, None) => "created",
            _ => "replaced",
        };
        Ok(format!(
            "<StoreChange {}: {} {} {verb}>",
            self.change.revision,
            self.table(py),
            self.key(py).repr()?
        ))
    }
}

/// A part of the change log.
#[pyclass(frozen, get_all, module = "atoll._core", name = "StoreChanges")]
pub(crate) struct Changes {
    changes: Vec<Py<Change>>,
    through: u64,
}

impl Changes {
    pub(crate) fn new(
        py: Python<'_>,
        changes: atoll_store::Changes,
        tables: &Arc<Tables>,
    ) -> PyResult<Self> {
        let each = changes.changes.into_iter().map(|change| {
            let tables = Arc::clone(tables);
            Py::new(py, Change { change, tables })
        });
        Ok(Self {
            changes: each.collect::<PyResult<_>>()?,
            through: changes.through,
        })
    }
}

/// (count, sum, max, buckets as (upper bound, count)); the last bucket has no bound: infinity.
type TimingTuple = (u64, f64, f64, Vec<(f64, u64)>);

fn timing(timing: Timing) -> TimingTuple {
    let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
    let buckets = bounds.zip(timing.buckets).collect();
    (timing.count, timing.sum, timing.max, buckets)
}

/// What a store holds and has done.
#[pyclass(frozen, get_all, module = "atoll._core")]
pub(crate) struct StoreStatistics {
    engine: &'static str,
    /// (name, keys, bytes) by table.
    tables: Vec<(String, u64, u64)>,
    revision: u64,
    oldest: u64,
    log_changes: u64,
    log_bytes: u64,
    snapshots: u64,
    snapshot_bytes: u64,
    snapshots_expired: u64,
    pending_batches: u64,
    pending_bytes: u64,
    groups: u64,
    batches: u64,
    changes: u64,
    failed_checks: u64,
    busy: u64,
    errors: u64,
    commit: TimingTuple,
    wait: TimingTuple,
    stopped: Option<String>,
}

impl StoreStatistics {
    pub(crate) fn new(it: atoll_store::Statistics) -> Self {
        let tables = it.tables.into_iter();
        Self {
            engine: it.engine,
            tables: tables
                .map(|table| (table.name, table.keys, table.bytes))
                .collect(),
            revision: it.revision,
            oldest: it.oldest,
            log_changes: it.log_changes,
            log_bytes: it.log_bytes,
            snapshots: it.snapshots,
            snapshot_bytes: it.snapshot_bytes,
            snapshots_expired: it.snapshots_expired,
            pending_batches: it.pending_batches,
            pending_bytes: it.pending_bytes,
            groups: it.groups,
            batches: it.batches,
            changes: it.changes,
            failed_checks: it.failed_checks,
            busy: it.busy,
            errors: it.errors,
            commit: timing(it.commit),
            wait: timing(it.wait),
            stopped: it.stopped,
        }
    }
}
