//! `StoreSnapshot`: a store at one revision.

use std::sync::{Arc, Mutex};

use pyo3::prelude::*;

use crate::error;
use crate::loop_core::lock;
use crate::store::Tables;
use crate::store::row::{Page, Row};

/// A store at one revision, until it is closed. Any thread.
#[pyclass(frozen, module = "atoll._core", name = "StoreSnapshot")]
pub(crate) struct Snapshot {
    inner: Mutex<Option<Arc<atoll_store::Snapshot>>>,
    revision: u64,
    tables: Arc<Tables>,
}

impl Snapshot {
    pub(crate) fn new(snapshot: atoll_store::Snapshot, tables: Arc<Tables>) -> Self {
        Self {
            revision: snapshot.revision(),
            inner: Mutex::new(Some(Arc::new(snapshot))),
            tables,
        }
    }

    fn open(&self) -> PyResult<Arc<atoll_store::Snapshot>> {
        lock(&self.inner).clone().ok_or_else(error::snapshot_closed)
    }
}

#[pymethods]
impl Snapshot {
    /// The revision that it shows.
    #[getter]
    fn revision(&self) -> u64 {
        self.revision
    }

    /// The row under `key`, or None.
    fn get(&self, table: &str, key: &[u8]) -> PyResult<Option<Row>> {
        let number = self.tables.number(table)?;
        let row = self.open()?.get(number, key).map_err(error::not_read)?;
        Ok(row.map(|row| Row::new(key.to_vec().into(), row)))
    }

    /// Up to `limit` rows from `start` on and before `end`.
    #[pyo3(signature = (table, start=&b""[..], end=None, limit=1000))]
    fn scan(
        &self,
        py: Python<'_>,
        table: &str,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> PyResult<Page> {
        let number = self.tables.number(table)?;
        let page = self.open()?.scan(number, start, end, limit);
        Page::new(py, page.map_err(error::not_read)?)
    }

    /// Lets go of it. A second call does nothing.
    fn close(&self) {
        let snapshot = lock(&self.inner).take();
        drop(snapshot);
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, _exc_info: &Bound<'_, PyAny>) {
        self.close();
    }
}
