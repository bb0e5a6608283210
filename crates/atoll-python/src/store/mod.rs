//! `StoreCore`: atoll-store for Python. `atoll.store.Store` derives from it.
//!
//! * [`batch`]: what is committed together; [`row`]: what comes back.
//! * [`completions`]: how outcomes get from the writer's thread to the loop that waits for them.
//! * [`snapshot`], [`subscription`]: reading one revision in pages; being told of commits, and of elections.
//! * [`election`]: who leads, where several servers share etcd.
//! * [`files`]: backups, restores and checks.
//!
//! Reads are answered in memory, and may be made on any attached thread. They wait while the writer, who never waits for the GIL, shows
//! a group: for microseconds as a rule, for milliseconds when the group changes tens of thousands of rows. What may look at all rows of a
//! table or an owner, `count` and `owned`, lets other threads run meanwhile.

pub(crate) mod batch;
pub(crate) mod completions;
pub(crate) mod election;
pub(crate) mod files;
pub(crate) mod row;
pub(crate) mod snapshot;
pub(crate) mod subscription;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use atoll_store::etcd::EtcdEngine;
use atoll_store::{
    Engine, Guard, MemoryEngine, ReadError, Settings, SqliteEngine, SqliteSettings, Store,
    Subscriber, TableId,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use pyo3::{intern, pybacked::PyBackedBytes};

use crate::current;
use crate::error;
use crate::loop_core::{LoopCore, lock};
use crate::notice::Notice;
use crate::store::batch::Batch;
use crate::store::completions::Flush;
use crate::store::election::ElectionCore;
use crate::store::row::{Changes, Page, Row, StoreStatistics};
use crate::store::snapshot::Snapshot;
use crate::store::subscription::Subscription;

/// The tables of a store by name and number.
#[derive(Debug)]
pub(crate) struct Tables {
    by_name: HashMap<String, TableId>,
    /// By number, made once.
    names: Vec<Py<PyString>>,
}

impl Tables {
    fn new(py: Python<'_>, store: &Store) -> Arc<Self> {
        let names = store.tables();
        let by_name = names.iter().enumerate();
        Arc::new(Self {
            by_name: by_name
                .map(|(number, name)| (name.clone(), TableId(number as u8)))
                .collect(),
            names: names
                .iter()
                .map(|name| PyString::intern(py, name).unbind())
                .collect(),
        })
    }

    /// The number of the table named `name`.
    pub(crate) fn number(&self, name: &str) -> PyResult<TableId> {
        self.by_name.get(name).copied().ok_or_else(|| {
            let mut known: Vec<_> = self.by_name.keys().map(String::as_str).collect();
            known.sort_unstable();
            PyValueError::new_err(format!(
                "the store has no table {name:?}: name it when the store is opened; there are {}",
                known.join(", ")
            ))
        })
    }

    /// The name of a table.
    pub(crate) fn name<'py>(&self, py: Python<'py>, table: TableId) -> Bound<'py, PyString> {
        self.names[table.index()].bind(py).clone()
    }
}

/// Tells a loop of commits.
struct Notifier(Arc<Notice>);

impl Subscriber for Notifier {
    fn committed(&self, revision: u64) {
        self.0.tell(revision);
    }
}

/// The native half of a store; see `atoll.store.Store`.
#[pyclass(subclass, frozen, weakref, module = "atoll._core")]
pub(crate) struct StoreCore {
    store: Store,
    tables: Arc<Tables>,
    flush: Arc<Flush>,
}

impl StoreCore {
    fn open(
        py: Python<'_>,
        engine: Box<dyn Engine>,
        tables: Vec<String>,
        guard: Option<Arc<dyn Guard>>,
    ) -> PyResult<Self> {
        let flush = Arc::new(Flush::default());
        let settings = Settings {
            tables,
            listener: Some(Arc::<Flush>::clone(&flush)),
            guard,
            ..Settings::default()
        };
        let store = py
            .detach(|| Store::open(engine, settings))
            .map_err(|problem| error::store_not_opened(&problem))?;
        Ok(Self {
            tables: Tables::new(py, &store),
            store,
            flush,
        })
    }

    /// Before a lock is touched that a thread of the parent may have held, and anything awaited that no thread here brings about.
    fn check_fork(&self) -> PyResult<()> {
        if self.store.is_forked() {
            return Err(error::not_read(ReadError::Forked));
        }
        Ok(())
    }
}

#[pymethods]
impl StoreCore {
    /// Opens a store in a directory, in etcd for the leader of `election`, or in memory.
    #[new]
    #[pyo3(signature = (tables, generation=None, directory=None, max_bytes=None, election=None))]
    fn new(
        py: Python<'_>,
        tables: Vec<String>,
        generation: Option<String>,
        directory: Option<PathBuf>,
        max_bytes: Option<u64>,
        election: Option<&Bound<'_, ElectionCore>>,
    ) -> PyResult<Self> {
        if let Some(election) = election {
            let (options, leadership) = election.get().leadership()?;
            let guard = Arc::clone(&leadership.validity);
            let engine = EtcdEngine::new(options, leadership);
            let engine = engine.map_err(|problem| error::store_not_opened(&problem))?;
            return Self::open(py, Box::new(engine), tables, Some(guard));
        }
        if let Some(directory) = directory {
            let settings = SqliteSettings {
                max_database_bytes: max_bytes,
                ..SqliteSettings::new(directory)
            };
            let engine = py.detach(|| SqliteEngine::open(&settings));
            let engine = engine.map_err(|problem| error::store_not_opened(&problem))?;
            return Self::open(py, Box::new(engine), tables, None);
        }
        let engine = match generation {
            None => MemoryEngine::new(),
            Some(generation) => MemoryEngine::with_generation(generation),
        };
        Self::open(py, Box::new(engine), tables, None)
    }

    /// The row under `key`, or None. Any thread.
    fn get(&self, table: &str, key: &[u8]) -> PyResult<Option<Row>> {
        let row = self.store.get(self.tables.number(table)?, key);
        let row = row.map_err(error::not_read)?;
        Ok(row.map(|row| Row::new(key.to_vec().into(), row)))
    }

    /// The rows under several keys at one revision, None where there is none. Any thread.
    fn get_many(&self, table: &str, keys: Vec<PyBackedBytes>) -> PyResult<Vec<Option<Row>>> {
        let rows = self.store.get_many(self.tables.number(table)?, &keys);
        let rows = rows.map_err(error::not_read)?;
        let keyed = keys.iter().zip(rows);
        Ok(keyed
            .map(|(key, row)| row.map(|row| Row::new(key.to_vec().into(), row)))
            .collect())
    }

    /// Up to `limit` rows from `start` on and before `end`, in the order of their keys, or from the end backwards. Any thread.
    #[pyo3(signature = (table, start=&b""[..], end=None, limit=1000, reverse=false))]
    fn scan(
        &self,
        py: Python<'_>,
        table: &str,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> PyResult<Page> {
        let number = self.tables.number(table)?;
        let page = self.store.scan(number, start, end, limit, reverse);
        Page::new(py, page.map_err(error::not_read)?)
    }

    /// How many keys there are from `start` on and before `end`. Any thread.
    #[pyo3(signature = (table, start=&b""[..], end=None))]
    fn count(
        &self,
        py: Python<'_>,
        table: &str,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> PyResult<u64> {
        let number = self.tables.number(table)?;
        py.detach(|| self.store.count(number, start, end))
            .map_err(error::not_read)
    }

    /// (table, key) of what belongs to `owner`. Any thread.
    fn owned<'py>(
        &self,
        py: Python<'py>,
        owner: &[u8],
    ) -> PyResult<Vec<(Bound<'py, PyString>, Bound<'py, PyBytes>)>> {
        let owned = py.detach(|| self.store.owned(owner));
        let owned = owned.map_err(error::not_read)?;
        Ok(owned
            .into_iter()
            .map(|(table, key)| (self.tables.name(py, table), PyBytes::new(py, &key)))
            .collect())
    }

    /// The revision that reads see. Any thread.
    #[getter]
    fn revision(&self) -> PyResult<u64> {
        self.store.revision().map_err(error::not_read)
    }

    /// Which store this is: (generation, revision) names a state for ever.
    #[getter]
    fn generation(&self) -> &str {
        self.store.generation()
    }

    /// Who writes: rises with each writer.
    #[getter]
    fn epoch(&self) -> u64 {
        self.store.epoch()
    }

    /// The names of the tables.
    #[getter]
    fn tables(&self) -> Vec<String> {
        self.store.tables().to_vec()
    }

    /// An empty batch for this store.
    fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.tables))
    }

    /// Has `batch` committed; it is empty afterwards. Awaiting what it returns gives a `Committed` once it is durable. On a loop.
    fn commit<'py>(slf: &Bound<'py, Self>, batch: &Batch) -> PyResult<Bound<'py, PyAny>> {
        let (py, core) = (slf.py(), slf.get());
        core.check_fork()?;
        let io_context = match current::current(py) {
            Some(io_context) => io_context.to_owned(),
            None => guest(py)?,
        };
        io_context.get().check_fork()?;
        let asyncio_loop = lock(&io_context.get().local)
            .asyncio_loop
            .as_ref()
            .map(|asyncio_loop| asyncio_loop.clone_ref(py));
        let Some(asyncio_loop) = asyncio_loop else {
            return Err(error::loop_closed(&io_context.get().shared.name));
        };
        let future = asyncio_loop.call_method0(py, intern!(py, "create_future"))?;
        let batch = batch.take(&core.tables)?;
        let completion = io_context
            .get()
            .completions()
            .expect(&core.flush, future.clone_ref(py));
        core.store.submit(batch, Box::new(completion));
        Ok(future.into_bound(py))
    }

    /// Has `batch` committed and waits for it. On a thread that runs no loop.
    fn commit_blocking(&self, py: Python<'_>, batch: &Batch) -> PyResult<row::Committed> {
        self.check_fork()?;
        let batch = batch.take(&self.tables)?;
        match py.detach(|| self.store.commit(batch)) {
            Ok(committed) => Ok(row::Committed::new(committed)),
            Err(problem) => Err(error::not_committed(&problem)),
        }
    }

    /// What changed after revision `after`. Any thread.
    #[pyo3(signature = (after, limit=1000, max_bytes=1 << 20))]
    fn changes(
        &self,
        py: Python<'_>,
        after: u64,
        limit: usize,
        max_bytes: usize,
    ) -> PyResult<Changes> {
        match self.store.changes(after, limit, max_bytes) {
            Ok(changes) => Changes::new(py, changes, &self.tables),
            Err(problem) => Err(error::no_changes(&problem)),
        }
    }

    /// The store as it is now, to be read in pages. Any thread.
    fn snapshot(&self) -> PyResult<Snapshot> {
        let snapshot = self.store.snapshot().map_err(error::not_read)?;
        Ok(Snapshot::new(snapshot, Arc::clone(&self.tables)))
    }

    /// Has `io_context` run `callback(revision)` after commits, once however many there were meanwhile. Any thread.
    fn subscribe(
        &self,
        io_context: &Bound<'_, LoopCore>,
        callback: Bound<'_, PyAny>,
    ) -> PyResult<Subscription> {
        self.check_fork()?;
        Subscription::new(io_context, callback, |notice| {
            let store = self.store.clone();
            let id = store.subscribe(Arc::new(Notifier(notice)));
            move || store.unsubscribe(id)
        })
    }

    /// What it holds and has done. Any thread.
    fn statistics(&self) -> PyResult<StoreStatistics> {
        let statistics = self.store.statistics().map_err(error::not_read)?;
        Ok(StoreStatistics::new(statistics))
    }

    /// Writes all rows at the present revision into a new file, while reading and writing go on; `progress(rows, total)` is called
    /// now and then. Blocks: not on the thread of a loop.
    #[pyo3(signature = (path, progress=None))]
    fn backup_blocking(
        &self,
        py: Python<'_>,
        path: PathBuf,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<files::BackupTuple> {
        files::backup(py, &self.store, path, progress)
    }

    /// Commits what was submitted and closes the store; waits for it. Not on the thread of a loop that has other work.
    fn close_blocking(&self, py: Python<'_>) {
        py.detach(|| self.store.close());
    }
}

/// The guest of the asyncio loop that runs on this thread.
#[cold]
fn guest(py: Python<'_>) -> PyResult<Bound<'_, LoopCore>> {
    let class = py.import("atoll.loop")?.getattr("IoContext")?;
    let io_context = class.call_method0(intern!(py, "current"))?;
    Ok(io_context.cast_into::<LoopCore>()?)
}
