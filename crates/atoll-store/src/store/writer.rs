//! The writer thread: takes what waits, works it out, has the engine make it durable, shows it, and only then says so.
//!
//! It alone changes the tables, so it may look at them under the read lock and rely on them until it writes.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use atoll_core::native_thread;

use super::evaluate::{Evaluator, Outcome};
use super::owner_limit::OwnerLimit;
use super::queue::{Found, Pending};
use super::state::State;
use super::{Completion, Shared, lock};
use crate::engine::{Engine, Group, Receipt, Trim};
use crate::error::{CommitError, OpenError};
use crate::types::{Batch, Change, Revision};

struct Writer {
    shared: Arc<Shared>,
    engine: Box<dyn Engine>,
    evaluator: Evaluator,
    /// Who is to be told what comes of the group under way, and since when it waits.
    waiting: VecDeque<(Box<dyn Completion>, Instant)>,
    /// Why nothing is committed any more.
    stopped: Option<CommitError>,
}

pub(super) fn start(shared: Arc<Shared>, engine: Box<dyn Engine>) -> Result<(), OpenError> {
    let owner_limit = OwnerLimit::new(&shared.settings, engine.deletion_room());
    let evaluator = Evaluator::new(shared.tables.len(), engine.assigns_revisions(), owner_limit);
    let writer = Writer {
        shared,
        engine,
        evaluator,
        waiting: VecDeque::new(),
        stopped: None,
    };
    let run = move || writer.run();
    native_thread::spawn("atoll-store".into(), run).map_err(|error| OpenError::Io {
        path: PathBuf::from("atoll-store"),
        reason: format!("the system can't start another thread: {error}"),
    })?;
    Ok(())
}

/// Whatever happens, nobody waits for ever.
impl Drop for Writer {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.queue.close();
        shared.call(|| self.engine.close());
        // Only after a panic, which would be a mistake of ours.
        for (completion, _) in std::mem::take(&mut self.waiting) {
            let reason = "the writer thread ended while the batch was under way".to_owned();
            shared.complete(completion, Err(CommitError::Unknown(reason)));
        }
        let mut left = Vec::new();
        while let Found::Batches = shared.queue.take(&mut left, usize::MAX, usize::MAX, false) {}
        for pending in left {
            shared.complete(pending.completion, Err(CommitError::Closed));
        }
        shared.completed();
        let mut state = shared.write();
        let closed = State {
            revision: state.revision,
            is_closed: true,
            ..State::default()
        };
        let garbage = std::mem::replace(&mut *state, closed);
        drop(state);
        lock(&shared.end.0).has_ended = true;
        shared.end.1.notify_all();
        drop(garbage);
    }
}

impl Writer {
    fn run(mut self) {
        lock(&self.shared.end.0).writer = Some(std::thread::current().id());
        let mut group: Vec<Pending> = Vec::new();
        let mut may_sleep = false;
        loop {
            let settings = &self.shared.settings;
            let (max, max_bytes) = (settings.max_group_batches, settings.max_group_bytes);
            match self
                .shared
                .queue
                .take(&mut group, max, max_bytes, may_sleep)
            {
                Found::Batches => {
                    self.commit(&mut group);
                    may_sleep = false;
                }
                Found::Nothing => may_sleep = self.stopped.is_some() || !self.engine.idle(),
                Found::End => return,
            }
        }
    }

    fn commit(&mut self, group: &mut Vec<Pending>) {
        let mut batches = Vec::with_capacity(group.len());
        for pending in group.drain(..) {
            batches.push(pending.batch);
            self.waiting.push_back((pending.completion, pending.since));
        }
        let changed = self.make_durable(batches);
        let shared = &*self.shared;
        let now = Instant::now();
        for outcome in self.evaluator.outcomes.drain(..) {
            let Some((completion, since)) = self.waiting.pop_front() else {
                break;
            };
            let duration = now.saturating_duration_since(since);
            shared.counters.commit.record(duration);
            shared.complete(completion, outcome);
        }
        shared.completed();
        if let Some(revision) = changed {
            let subscribers = lock(&shared.subscribers).all.clone();
            for (_, subscriber) in subscribers.iter() {
                shared.call(|| subscriber.committed(revision));
            }
        }
    }

    /// Leaves the outcomes in the evaluator. The store's new revision, if it has one.
    fn make_durable(&mut self, batches: Vec<Batch>) -> Option<Revision> {
        self.evaluator.clear();
        if let Some(error) = &self.stopped {
            let outcomes = batches.iter().map(|_| Err(error.clone()));
            self.evaluator.outcomes.extend(outcomes);
            return None;
        }
        let settings = &self.shared.settings;
        let state = self.shared.read();
        let before = state.revision;
        for batch in batches {
            self.evaluator
                .add(&state, batch, settings.max_batch_changes, |it| {
                    self.engine.admit(it)
                });
        }
        let changes = self.evaluator.effects.iter().flat_map(|it| &it.changes);
        let added = changes.fold((0, 0), |sum, it| (sum.0 + 1, sum.1 + it.bytes()));
        if added.0 == 0 {
            drop(state);
            // The engine, which would find out that another server writes, is not asked; what the batches saw may be old.
            if self.shared.check().is_err() {
                self.refuse(&CommitError::Fenced { epoch: 0 });
            }
            return None;
        }
        let bounds = (settings.max_log_changes, settings.max_log_bytes);
        let (excess, oldest) = state.log.excess(added, bounds);
        let trimmed = state.log.first(excess);
        drop(state);
        match self.call_engine(&trimmed, oldest) {
            Ok(receipt) => {
                self.shared.counters.wait.record(receipt.waited);
                if !receipt.revisions.is_empty() {
                    self.evaluator.renumber(before, &receipt.revisions);
                }
                Some(self.show(trimmed, oldest))
            }
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    fn call_engine(
        &mut self,
        trimmed: &[Change],
        oldest: Revision,
    ) -> Result<Receipt, CommitError> {
        let batches = &self.evaluator.effects;
        let group = Group {
            batches,
            trim: Trim {
                changes: trimmed,
                oldest,
            },
        };
        let engine = &mut self.engine;
        let receipt = catch_unwind(AssertUnwindSafe(|| engine.commit(&group)))
            .unwrap_or_else(|_| Err(CommitError::Unknown("the engine panicked".to_owned())))?;
        let revisions = &receipt.revisions;
        if !revisions.is_empty() && revisions.len() != batches.len() {
            return Err(CommitError::Unknown(format!(
                "the engine gave {} revisions for {} batches",
                revisions.len(),
                batches.len()
            )));
        }
        Ok(receipt)
    }

    /// Readers see the group from now on.
    fn show(&mut self, trimmed: Vec<Change>, oldest: Revision) -> Revision {
        let shared = &*self.shared;
        let mut state = shared.write();
        let revision = self.evaluator.effects.last().map_or(0, |it| it.revision);
        let mut changes = 0;
        // What goes is dropped when the lock is given back: freeing takes longer than applying.
        let gone = state.log.trim(trimmed.len(), oldest);
        for effects in &mut self.evaluator.effects {
            changes += effects.changes.len() as u64;
            for change in effects.changes.drain(..) {
                let previous = change.previous.as_ref();
                state
                    .history
                    .replaced(change.revision, change.table, &change.key, previous);
                state.apply(&change);
                state.log.push(change);
            }
        }
        state.revision = revision;
        let garbage = state.history.settle(shared.settings.max_snapshot_bytes);
        drop(state);
        drop((gone, trimmed, garbage));
        let add =
            |counter: &AtomicU64, more: u64| counter.store(counter.load(Relaxed) + more, Relaxed);
        add(&shared.counters.groups, 1);
        add(
            &shared.counters.batches,
            self.evaluator.effects.len() as u64,
        );
        add(&shared.counters.changes, changes);
        revision
    }

    /// What would have succeeded gets the error.
    fn refuse(&mut self, error: &CommitError) {
        for outcome in &mut self.evaluator.outcomes {
            if outcome.is_ok() {
                *outcome = Outcome::Err(error.clone());
            }
        }
    }

    /// The group has not become durable, or nobody knows. Its batches get the error, those without effects too: what they saw may
    /// be of the group.
    fn fail(&mut self, error: &CommitError) {
        self.refuse(error);
        let later = match error {
            CommitError::Fenced { .. } => error.clone(),
            CommitError::Unknown(reason) => CommitError::Unavailable(format!(
                "the store has stopped writing, for it does not know what came of an earlier batch: {reason}; reads go on; see to the \
                 cause, then restart the server"
            )),
            _ => return,
        };
        *lock(&self.shared.stopped) = Some(later.to_string());
        self.stopped = Some(later);
    }
}
