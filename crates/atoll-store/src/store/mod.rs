//! The store: one writer thread, any number of readers.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `state` (tables, owners, change log, history) | the writer thread; snapshots, which come and go | any thread | a read-write lock, by the writer for one group at a time |
//! | `queue` | submitters, the writer | the same | its mutex |
//! | `counters` | the writer; some by submitters | any thread | relaxed atomics |
//! | `subscribers` | any thread | the writer | its mutex |
//! | `stopped` | the writer | any thread | its mutex |
//! | `end` | the writer when it ends | who closes | its mutex and condition variable |
//!
//! Callbacks (completions, the listener, subscribers) run on the writer thread with no lock held; a refused batch completes on the
//! thread that submits it. They must not block. One that panics is counted and does no other harm.
//!
//! A forked child has no writer thread, and its copies of the locks may be locked for ever: there every call fails before it touches
//! one, and dropping does nothing.

mod change_log;
mod evaluate;
mod history;
mod owner_limit;
mod queue;
pub mod snapshot;
pub(crate) mod state;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::thread::ThreadId;
use std::time::Instant;

use atoll_core::fork;
use bytes::Bytes;

use self::queue::{Pending, Queue};
use self::state::{Loading, State};
use crate::engine::{Engine, LoadSink};
use crate::error::{ChangesError, CommitError, OpenError, ReadError};
use crate::settings::Settings;
use crate::statistics::{Counters, Statistics, TableStatistics};
use crate::store::snapshot::Snapshot;
use crate::types::{Batch, Changes, Check, Committed, Operation, Page, Revision, Row, TableId};

/// Who is told what came of a batch.
pub trait Completion: Send {
    /// Called once. On the writer thread, or on the submitter's if the batch is refused. Must not block.
    fn complete(self: Box<Self>, outcome: Result<Committed, CommitError>);
}

impl<F: FnOnce(Result<Committed, CommitError>) + Send> Completion for F {
    fn complete(self: Box<Self>, outcome: Result<Committed, CommitError>) {
        self(outcome);
    }
}

/// Who is told that completions have been called, and that no more follow at once: the moment to pass them on together.
pub trait GroupListener: Send + Sync {
    /// Called by whichever thread called the completions, after the last one, before the subscribers. Must not block.
    fn group_completed(&self);
}

/// Who is told that the store has changed.
pub trait Subscriber: Send + Sync {
    /// The store is at `revision` now, and readers see it. Called on the writer thread after each group that changed something. Must not
    /// block.
    fn committed(&self, revision: Revision);
}

/// Who says whether this server may still answer, because it leads.
pub trait Guard: Send + Sync {
    /// Called for each read, on any thread, and by the writer for batches that are answered without asking the engine; must be quick.
    fn is_valid(&self) -> bool;
}

/// Names a subscription, to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionId(u64);

/// A store. Any thread; copies are the same store, which is closed when the last of them goes.
#[derive(Clone, Debug)]
pub struct Store(Arc<Handle>);

/// Closes the store when the last copy goes: the writer thread has a share of the rest.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.0.is_forked() {
            self.0.queue.close();
        }
    }
}

pub(crate) struct Shared {
    state: RwLock<State>,
    queue: Queue,
    settings: Settings,
    counters: Counters,
    subscribers: Mutex<Subscribers>,
    stopped: Mutex<Option<String>>,
    end: (Mutex<End>, Condvar),
    tables: Vec<String>,
    engine: &'static str,
    generation: String,
    epoch: u64,
    process: u32,
}

#[derive(Default)]
struct End {
    has_ended: bool,
    writer: Option<ThreadId>,
}

#[derive(Default)]
struct Subscribers {
    next: u64,
    all: Arc<Vec<(u64, Arc<dyn Subscriber>)>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("engine", &self.engine)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Takes what is loaded from a file, only to look at it.
pub(crate) fn sink() -> Loading {
    Loading::default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn is_forked(&self) -> bool {
        fork::generation() != self.process
    }

    fn check(&self) -> Result<(), ReadError> {
        if self.is_forked() {
            return Err(ReadError::Forked);
        }
        match &self.settings.guard {
            Some(guard) if !guard.is_valid() => Err(ReadError::NotLeader),
            _ => Ok(()),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn readable(&self) -> Result<RwLockReadGuard<'_, State>, ReadError> {
        self.check()?;
        let state = self.read();
        if state.is_closed {
            return Err(ReadError::Closed);
        }
        Ok(state)
    }

    /// Calls what belongs to somebody else.
    fn call(&self, callback: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(callback)).is_err() {
            self.counters.panics.fetch_add(1, Relaxed);
        }
    }

    fn complete(&self, completion: Box<dyn Completion>, outcome: Result<Committed, CommitError>) {
        let counter = match &outcome {
            Ok(committed) if committed.failed.is_some() => Some(&self.counters.failed_checks),
            Ok(_) => None,
            Err(CommitError::OwnerFull(_)) => Some(&self.counters.failed_checks),
            Err(CommitError::Busy(_)) => Some(&self.counters.busy),
            Err(_) => Some(&self.counters.errors),
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Relaxed);
        }
        self.call(|| completion.complete(outcome));
    }

    fn completed(&self) {
        if let Some(listener) = &self.settings.listener {
            self.call(|| listener.group_completed());
        }
    }
}

impl Store {
    /// Loads everything, and starts the writer thread. Blocks meanwhile.
    ///
    /// # Errors
    /// Why it can't be opened; each kind says what to do.
    pub fn open(mut engine: Box<dyn Engine>, settings: Settings) -> Result<Self, OpenError> {
        let process = fork::watch();
        let mut loading = Loading::new(&settings.tables)?;
        let loaded = engine.load(&mut loading)?;
        let tables = loading.tables();
        let mut state = loading.finish();
        state.revision = loaded.revision;
        drop(state.log.trim_through(loaded.oldest));
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            queue: Queue::default(),
            settings,
            counters: Counters::default(),
            subscribers: Mutex::default(),
            stopped: Mutex::default(),
            end: Default::default(),
            tables,
            engine: engine.name(),
            generation: loaded.generation,
            epoch: loaded.epoch,
            process,
        });
        writer::start(shared.clone(), engine)?;
        Ok(Self(Arc::new(Handle(shared))))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// The number of a table.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<TableId> {
        let index = self.shared().tables.iter().position(|it| it == name)?;
        Some(TableId(index as u8))
    }

    /// The names of all tables, by number.
    #[must_use]
    pub fn tables(&self) -> &[String] {
        &self.shared().tables
    }

    /// Which store this is: (generation, revision) names a state for ever.
    #[must_use]
    pub fn generation(&self) -> &str {
        &self.shared().generation
    }

    /// Who writes: rises with each writer.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared().epoch
    }

    /// Whether this process was forked from the one that opened the store, so that nothing can be done with it here.
    #[must_use]
    pub fn is_forked(&self) -> bool {
        self.shared().is_forked()
    }

    /// Has a batch committed. Never blocks. What comes of it is told to `completion`, on the writer thread; a batch that is refused at
    /// once completes before this returns.
    pub fn submit(&self, batch: Batch, completion: Box<dyn Completion>) {
        let shared = self.shared();
        if shared.is_forked() {
            let error = CommitError::Unavailable(ReadError::Forked.to_string());
            shared.complete(completion, Err(error));
            shared.completed();
            return;
        }
        let bytes = batch.bytes();
        let refused = if let Err(error) = self.validate(&batch, bytes) {
            (completion, error)
        } else {
            let pending = Pending {
                batch,
                bytes,
                completion,
                since: Instant::now(),
            };
            let settings = &shared.settings;
            let (max, max_bytes) = (settings.max_pending_batches, settings.max_pending_bytes);
            match shared.queue.push(pending, max, max_bytes) {
                Ok(()) => return,
                Err((pending, error)) => (pending.completion, error),
            }
        };
        shared.complete(refused.0, Err(refused.1));
        shared.completed();
    }

    /// Has a batch committed, and waits for it. Not for the thread of a loop.
    ///
    /// # Errors
    /// Why it was not committed.
    pub fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let completion = move |outcome| drop(sender.send(outcome));
        self.submit(batch, Box::new(completion));
        receiver.recv().unwrap_or(Err(CommitError::Closed))
    }

    fn validate(&self, batch: &Batch, bytes: usize) -> Result<(), CommitError> {
        let settings = &self.shared().settings;
        let table = |table: &TableId| {
            if table.index() < self.tables().len() {
                return Ok(());
            }
            Err(CommitError::Invalid(format!(
                "there is no table number {}; the store has {:?}",
                table.0,
                self.tables()
            )))
        };
        let at_most = |what: &str, size: usize, max: usize, name: &str| {
            if size <= max {
                return Ok(());
            }
            Err(CommitError::TooLarge(format!(
                "a {what} of {size} bytes is more than {max} ({name}); store less, or raise the limit where the store is opened"
            )))
        };
        let key = |key: &Bytes| {
            if key.is_empty() {
                let reason = "a key is empty; give it at least one byte".to_owned();
                return Err(CommitError::Invalid(reason));
            }
            at_most("key", key.len(), settings.max_key_bytes, "max_key_bytes")
        };
        let owner = |owner: &Bytes| {
            let max = settings.max_owner_bytes;
            at_most("owner", owner.len(), max, "max_owner_bytes")
        };
        for check in &batch.checks {
            let target = check.target();
            table(&target.0)?;
            key(target.1)?;
        }
        for operation in &batch.operations {
            match operation {
                Operation::Put {
                    table: of,
                    key: it,
                    value,
                    owner: whose,
                } => {
                    table(of)?;
                    key(it)?;
                    let max = settings.max_value_bytes;
                    at_most("value", value.len(), max, "max_value_bytes")?;
                    owner(whose)?;
                }
                Operation::Delete { table: of, key: it } => {
                    table(of)?;
                    key(it)?;
                }
                Operation::DeleteRange { table: of, .. } => table(of)?,
                Operation::DeleteOwned { owner: whose } => {
                    if whose.is_empty() {
                        let reason = "rows without an owner can't be deleted by owner; name one";
                        return Err(CommitError::Invalid(reason.to_owned()));
                    }
                    owner(whose)?;
                }
            }
        }
        let (steps, max) = (
            batch.operations.len().max(batch.checks.len()),
            settings.max_batch_changes,
        );
        if steps > max {
            return Err(CommitError::TooLarge(format!(
                "a batch of {steps} steps is more than {max} (max_batch_changes); split it"
            )));
        }
        at_most("batch", bytes, settings.max_batch_bytes, "max_batch_bytes")
    }

    /// Whether reads are answered now.
    ///
    /// # Errors
    /// Why not.
    pub fn check_readable(&self) -> Result<(), ReadError> {
        self.shared().readable().map(drop)
    }

    /// The row of a key.
    ///
    /// # Errors
    /// [`ReadError`], as for all reads.
    pub fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Arc<Row>>, ReadError> {
        Ok(self.shared().readable()?.row(table, key).cloned())
    }

    /// The rows of several keys, at one revision.
    ///
    /// # Errors
    /// [`ReadError`], as for all reads.
    pub fn get_many<Key: AsRef<[u8]>>(
        &self,
        table: TableId,
        keys: &[Key],
    ) -> Result<Vec<Option<Arc<Row>>>, ReadError> {
        let state = self.shared().readable()?;
        let rows = keys.iter().map(|it| state.row(table, it.as_ref()).cloned());
        Ok(rows.collect())
    }

    /// Up to `limit` rows with keys from `start` on and before `end`, in order, or from the end backwards.
    ///
    /// # Errors
    /// [`ReadError`], as for all reads.
    pub fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        is_reverse: bool,
    ) -> Result<Page, ReadError> {
        let state = self.shared().readable()?;
        Ok(state.scan(table, (start, end), limit, is_reverse))
    }

    /// How many keys there are from `start` on and before `end`. Of a whole table this is known; else it takes some 10 ns per key, and
    /// the writer waits meanwhile.
    ///
    /// # Errors
    /// [`ReadError`], as for all reads.
    pub fn count(
        &self,
        table: TableId,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<u64, ReadError> {
        let state = self.shared().readable()?;
        let Some(rows) = state.tables.get(table.index()).map(|it| &it.rows) else {
            return Ok(0);
        };
        let count = match state::bounds(start, end) {
            None => 0,
            Some(_) if start.is_empty() && end.is_none() => rows.len(),
            Some(range) => rows.range::<[u8], _>(range).count(),
        };
        Ok(count as u64)
    }

    /// The keys of an owner, in the order of table and key.
    ///
    /// # Errors
    /// [`ReadError`], as for all reads.
    pub fn owned(&self, owner: &[u8]) -> Result<Vec<(TableId, Bytes)>, ReadError> {
        let state = self.shared().readable()?;
        let rows = state.owners.get(owner).into_iter().flatten();
        Ok(rows.cloned().collect())
    }

    /// The revision that readers see. Not guarded: it is for statistics and for going on.
    ///
    /// # Errors
    /// [`ReadError::Forked`] and [`ReadError::Closed`].
    pub fn revision(&self) -> Result<Revision, ReadError> {
        if self.shared().is_forked() {
            return Err(ReadError::Forked);
        }
        let state = self.shared().read();
        if state.is_closed {
            return Err(ReadError::Closed);
        }
        Ok(state.revision)
    }

    /// What changed after a revision: whole revisions, at least one if there is one, and no further ones beyond `limit` changes or
    /// `max_bytes` of keys and rows (both rows of each change count).
    ///
    /// # Errors
    /// [`ChangesError::Compacted`] when the change log begins later: read a snapshot and go on from its revision.
    pub fn changes(
        &self,
        after: Revision,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Changes, ChangesError> {
        let state = self.shared().readable()?;
        state
            .log
            .after(after, limit, max_bytes, state.revision)
            .map_err(ChangesError::Compacted)
    }

    /// The store as it is now, to be read in pages while writing goes on.
    ///
    /// # Errors
    /// [`ReadError`], as for all reads.
    pub fn snapshot(&self) -> Result<Snapshot, ReadError> {
        Snapshot::new(self)
    }

    /// Tells `subscriber` of every later group.
    pub fn subscribe(&self, subscriber: Arc<dyn Subscriber>) -> SubscriptionId {
        let shared = self.shared();
        if shared.is_forked() {
            return SubscriptionId(u64::MAX);
        }
        let mut subscribers = lock(&shared.subscribers);
        let id = subscribers.next;
        subscribers.next += 1;
        Arc::make_mut(&mut subscribers.all).push((id, subscriber));
        SubscriptionId(id)
    }

    /// Ends a subscription. A call that is under way on the writer thread may still come.
    pub fn unsubscribe(&self, subscription: SubscriptionId) {
        let shared = self.shared();
        if shared.is_forked() {
            return;
        }
        let mut subscribers = lock(&shared.subscribers);
        let others = subscribers.all.iter().filter(|it| it.0 != subscription.0);
        let others: Vec<_> = others.cloned().collect();
        let before = std::mem::replace(&mut subscribers.all, Arc::new(others));
        drop(subscribers);
        // It may be the last share of a subscriber, whose destructor is somebody else's.
        drop(before);
    }

    /// What the store holds and has done.
    ///
    /// # Errors
    /// [`ReadError::Forked`] only.
    pub fn statistics(&self) -> Result<Statistics, ReadError> {
        let shared = self.shared();
        if shared.is_forked() {
            return Err(ReadError::Forked);
        }
        let (pending_batches, pending_bytes) = shared.queue.depth();
        let stopped = lock(&shared.stopped).clone();
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let counters = &shared.counters;
        let state = shared.read();
        let table = |table: &state::Table| TableStatistics {
            name: table.name.clone(),
            keys: table.rows.len() as u64,
            bytes: table.bytes,
        };
        Ok(Statistics {
            engine: shared.engine,
            tables: state.tables.iter().map(table).collect(),
            revision: state.revision,
            oldest: state.log.oldest(),
            log_changes: state.log.len() as u64,
            log_bytes: state.log.bytes() as u64,
            snapshots: state.history.snapshots(),
            snapshot_bytes: state.history.bytes() as u64,
            snapshots_expired: state.history.expired(),
            pending_batches: pending_batches as u64,
            pending_bytes: pending_bytes as u64,
            groups: count(&counters.groups),
            batches: count(&counters.batches),
            changes: count(&counters.changes),
            failed_checks: count(&counters.failed_checks),
            busy: count(&counters.busy),
            errors: count(&counters.errors),
            panics: count(&counters.panics),
            commit: counters.commit.read(),
            wait: counters.wait.read(),
            stopped,
        })
    }

    /// Commits what was submitted, closes the engine and frees the tables; waits until that is done, unless it is called on the writer
    /// thread. Later calls wait, too, and do nothing else.
    pub fn close(&self) {
        let shared = self.shared();
        if shared.is_forked() {
            return;
        }
        shared.queue.close();
        let mut end = lock(&shared.end.0);
        if end.writer == Some(std::thread::current().id()) {
            return;
        }
        while !end.has_ended {
            end = shared
                .end
                .1
                .wait(end)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Makes a check or an operation shorter to write.
impl Batch {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a put of a row that nobody owns.
    #[must_use]
    pub fn put(self, table: TableId, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.put_owned(table, key, value, Bytes::new())
    }

    /// With a put.
    #[must_use]
    pub fn put_owned(
        mut self,
        table: TableId,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        owner: impl Into<Bytes>,
    ) -> Self {
        self.operations.push(Operation::Put {
            table,
            key: key.into(),
            value: value.into(),
            owner: owner.into(),
        });
        self
    }

    /// With a deletion.
    #[must_use]
    pub fn delete(mut self, table: TableId, key: impl Into<Bytes>) -> Self {
        let key = key.into();
        self.operations.push(Operation::Delete { table, key });
        self
    }

    /// With a deletion of all keys from `start` on and before `end`.
    #[must_use]
    pub fn delete_range(
        mut self,
        table: TableId,
        start: impl Into<Bytes>,
        end: Option<Bytes>,
    ) -> Self {
        let start = start.into();
        self.operations
            .push(Operation::DeleteRange { table, start, end });
        self
    }

    /// With a deletion of all rows of an owner.
    #[must_use]
    pub fn delete_owned(mut self, owner: impl Into<Bytes>) -> Self {
        let owner = owner.into();
        self.operations.push(Operation::DeleteOwned { owner });
        self
    }

    /// If the key's last put was at `revision`; 0: if there is no such key.
    #[must_use]
    pub fn check_revision(
        mut self,
        table: TableId,
        key: impl Into<Bytes>,
        revision: Revision,
    ) -> Self {
        let key = key.into();
        self.checks.push(Check::Revision {
            table,
            key,
            revision,
        });
        self
    }

    /// If the key is there.
    #[must_use]
    pub fn check_exists(mut self, table: TableId, key: impl Into<Bytes>) -> Self {
        let key = key.into();
        self.checks.push(Check::Exists { table, key });
        self
    }

    /// If the key is not there.
    #[must_use]
    pub fn check_absent(mut self, table: TableId, key: impl Into<Bytes>) -> Self {
        let key = key.into();
        self.checks.push(Check::Absent { table, key });
        self
    }
}
