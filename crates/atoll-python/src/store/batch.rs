//! `Batch`: what is committed together.

use std::sync::{Arc, Mutex};

use atoll_store::{Check, Operation};
use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::loop_core::lock;
use crate::store::Tables;

/// Checks and operations that are done together or not at all. Made by `store.batch()`. Any thread, one at a time.
#[pyclass(frozen, module = "atoll._core", name = "StoreBatch")]
pub(crate) struct Batch {
    tables: Arc<Tables>,
    batch: Mutex<atoll_store::Batch>,
}

impl Batch {
    pub(crate) fn new(tables: Arc<Tables>) -> Self {
        Self {
            tables,
            batch: Mutex::default(),
        }
    }

    /// What it holds, for the store with these tables; it is empty afterwards. Tables are numbered in each store's own order.
    pub(crate) fn take(&self, tables: &Arc<Tables>) -> PyResult<atoll_store::Batch> {
        if !Arc::ptr_eq(&self.tables, tables) {
            return Err(PyValueError::new_err(
                "the batch was made by another store: make it with batch() of the store that commits it",
            ));
        }
        Ok(std::mem::take(&mut *lock(&self.batch)))
    }

    fn check(slf: PyRef<'_, Self>, check: Check) -> PyRef<'_, Self> {
        lock(&slf.batch).checks.push(check);
        slf
    }

    fn operate(slf: PyRef<'_, Self>, operation: Operation) -> PyRef<'_, Self> {
        lock(&slf.batch).operations.push(operation);
        slf
    }
}

/// The rows live longer than what Python passes.
fn owned(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

#[pymethods]
impl Batch {
    /// The row under `key` must have this revision; 0: there must be none.
    fn check_revision<'py>(
        slf: PyRef<'py, Self>,
        table: &str,
        key: &[u8],
        revision: u64,
    ) -> PyResult<PyRef<'py, Self>> {
        let (table, key) = (slf.tables.number(table)?, owned(key));
        let check = Check::Revision {
            table,
            key,
            revision,
        };
        Ok(Self::check(slf, check))
    }

    /// There must be a row under `key`.
    fn check_exists<'py>(
        slf: PyRef<'py, Self>,
        table: &str,
        key: &[u8],
    ) -> PyResult<PyRef<'py, Self>> {
        let (table, key) = (slf.tables.number(table)?, owned(key));
        Ok(Self::check(slf, Check::Exists { table, key }))
    }

    /// There must be no row under `key`.
    fn check_absent<'py>(
        slf: PyRef<'py, Self>,
        table: &str,
        key: &[u8],
    ) -> PyResult<PyRef<'py, Self>> {
        let (table, key) = (slf.tables.number(table)?, owned(key));
        Ok(Self::check(slf, Check::Absent { table, key }))
    }

    /// Creates or replaces the row under `key`, which goes with `owner`.
    #[pyo3(signature = (table, key, value, owner=&b""[..]))]
    fn put<'py>(
        slf: PyRef<'py, Self>,
        table: &str,
        key: &[u8],
        value: &[u8],
        owner: &[u8],
    ) -> PyResult<PyRef<'py, Self>> {
        let operation = Operation::Put {
            table: slf.tables.number(table)?,
            key: owned(key),
            value: owned(value),
            owner: owned(owner),
        };
        Ok(Self::operate(slf, operation))
    }

    /// Deletes the row under `key`, if there is one.
    fn delete<'py>(slf: PyRef<'py, Self>, table: &str, key: &[u8]) -> PyResult<PyRef<'py, Self>> {
        let (table, key) = (slf.tables.number(table)?, owned(key));
        Ok(Self::operate(slf, Operation::Delete { table, key }))
    }

    /// Deletes all rows from `start` on and before `end`.
    #[pyo3(signature = (table, start, end=None))]
    fn delete_range<'py>(
        slf: PyRef<'py, Self>,
        table: &str,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> PyResult<PyRef<'py, Self>> {
        let operation = Operation::DeleteRange {
            table: slf.tables.number(table)?,
            start: owned(start),
            end: end.map(owned),
        };
        Ok(Self::operate(slf, operation))
    }

    /// Deletes all rows that go with `owner`, in all tables.
    fn delete_owned<'py>(slf: PyRef<'py, Self>, owner: &[u8]) -> PyRef<'py, Self> {
        let owner = owned(owner);
        Self::operate(slf, Operation::DeleteOwned { owner })
    }

    /// How many operations it holds.
    fn __len__(&self) -> usize {
        lock(&self.batch).operations.len()
    }

    fn __repr__(&self) -> String {
        let batch = lock(&self.batch);
        format!(
            "<StoreBatch of {} operations and {} checks>",
            batch.operations.len(),
            batch.checks.len()
        )
    }
}
