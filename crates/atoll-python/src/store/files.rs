//! Backups, restores and checks of a store's files.

use std::path::PathBuf;

use atoll_store::{BackupInfo, BackupProgress, Report, RestoreInfo, Store};
use pyo3::prelude::*;

use crate::error;

/// (generation, revision, rows, bytes of the file)
pub(super) type BackupTuple = (String, u64, u64, u64);
/// (generation, revision, rows, where the file that was there is now)
type RestoreTuple = (String, u64, u64, Option<PathBuf>);

/// What a check of a store's files has found.
#[pyclass(frozen, get_all, module = "atoll._core")]
pub(crate) struct StoreReport {
    path: PathBuf,
    schema_version: i64,
    generation: String,
    epoch: u64,
    revision: u64,
    /// (name, rows) by table.
    tables: Vec<(String, u64)>,
    bytes: u64,
    locked_by: Option<String>,
    is_clean: bool,
    problems: Vec<String>,
}

impl From<Report> for StoreReport {
    fn from(it: Report) -> Self {
        Self {
            path: it.path,
            schema_version: it.schema_version,
            generation: it.generation,
            epoch: it.epoch,
            revision: it.revision,
            tables: it.tables,
            bytes: it.bytes,
            locked_by: it.locked_by,
            is_clean: it.is_clean,
            problems: it.problems,
        }
    }
}

/// Backs a store up; what `progress` raises ends it.
pub(super) fn backup(
    py: Python<'_>,
    store: &Store,
    path: PathBuf,
    progress: Option<Py<PyAny>>,
) -> PyResult<BackupTuple> {
    let mut raised = None;
    let mut tell = |at: BackupProgress| {
        let Some(progress) = &progress else {
            return true;
        };
        let told = Python::attach(|py| progress.call1(py, (at.rows, at.total)).map(drop));
        raised = told.err();
        raised.is_none()
    };
    let outcome = py.detach(|| store.backup(&path, &mut tell));
    if let Some(raised) = raised {
        return Err(raised);
    }
    let BackupInfo {
        generation,
        revision,
        rows,
        bytes,
    } = outcome.map_err(|problem| error::store_not_opened(&problem))?;
    Ok((generation, revision, rows, bytes))
}

/// Makes a store of a backup. Blocks.
#[pyfunction]
#[pyo3(signature = (source, directory, force=false))]
pub(crate) fn restore_store(
    py: Python<'_>,
    source: PathBuf,
    directory: PathBuf,
    force: bool,
) -> PyResult<RestoreTuple> {
    let restored = py.detach(|| atoll_store::restore(&source, &directory, force));
    let RestoreInfo {
        generation,
        revision,
        rows,
        replaced,
    } = restored.map_err(|problem| error::store_not_opened(&problem))?;
    Ok((generation, revision, rows, replaced))
}

/// Looks through the files of a store, or through a backup. Blocks.
#[pyfunction]
pub(crate) fn check_store(py: Python<'_>, path: PathBuf) -> PyResult<StoreReport> {
    let report = py.detach(|| {
        if path.is_file() {
            atoll_store::check_file(&path)
        } else {
            atoll_store::check(&path)
        }
    });
    match report {
        Ok(report) => Ok(report.into()),
        Err(problem) => Err(error::store_not_opened(&problem)),
    }
}
