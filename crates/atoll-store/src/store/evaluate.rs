//! What the batches of a group come to: their checks looked at and their effects worked out, in order, before anything is written.
//!
//! Batches of one group see what those before them do. That is kept in an overlay over the tables until the group is durable.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::owner_limit::{Growth, OwnerLimit};
use super::state::{State, bounds};
use crate::engine::Effects;
use crate::error::CommitError;
use crate::types::{
    Batch, Change, Check, Committed, FailedCheck, Operation, Revision, Row, TableId,
};

/// What has become of a key within the group.
#[derive(Debug)]
struct Overlaid {
    row: Option<Arc<Row>>,
    /// The batch that changed it last, and where in that batch's effects.
    batch: usize,
    effect: usize,
}

/// What a batch comes to if the group becomes durable.
pub(crate) type Outcome = Result<Committed, CommitError>;

/// Works out groups. It is kept from group to group for its allocations.
#[derive(Debug, Default)]
pub(crate) struct Evaluator {
    overlay: Vec<BTreeMap<Bytes, Overlaid>>,
    /// Revisions of rows in the overlay are only a guess.
    assigns_revisions: bool,
    owner_limit: OwnerLimit,
    /// What the group does to what owners have.
    growth: Growth,
    /// The batches that change something.
    pub(crate) effects: Vec<Effects>,
    /// Per batch what came of it.
    pub(crate) outcomes: Vec<Outcome>,
}

/// One batch under evaluation.
struct Step<'a> {
    state: &'a State,
    overlay: &'a mut [BTreeMap<Bytes, Overlaid>],
    batch: usize,
    revision: Revision,
    changes: Vec<Change>,
    max_changes: usize,
}

impl Evaluator {
    pub(crate) fn new(tables: usize, assigns_revisions: bool, owner_limit: OwnerLimit) -> Self {
        let mut overlay = Vec::new();
        overlay.resize_with(tables, BTreeMap::new);
        Self {
            overlay,
            assigns_revisions,
            owner_limit,
            ..Self::default()
        }
    }

    /// Forgets the group before.
    pub(crate) fn clear(&mut self) {
        for table in &mut self.overlay {
            table.clear();
        }
        self.growth.clear();
        self.effects.clear();
        self.outcomes.clear();
    }

    /// Adds a batch to the group, unless an owner would have too much, or `admit` refuses what it comes to.
    pub(crate) fn add(
        &mut self,
        state: &State,
        batch: Batch,
        max_changes: usize,
        admit: impl FnOnce(&Effects) -> Result<(), CommitError>,
    ) {
        let before = self.effects.last().map_or(state.revision, |it| it.revision);
        let mut step = Step {
            state,
            overlay: &mut self.overlay,
            // Not its index in `effects`: a batch may come to nothing and still leave its marks in the overlay.
            batch: self.outcomes.len(),
            revision: before + 1,
            changes: Vec::with_capacity(batch.operations.len()),
            max_changes,
        };
        let mut committed = Committed {
            revision: before,
            failed: step.failed_check(&batch.checks, self.assigns_revisions),
            previous: Vec::new(),
            deleted: Vec::new(),
        };
        if committed.failed.is_some() {
            self.outcomes.push(Ok(committed));
            return;
        }
        committed.previous.reserve_exact(batch.operations.len());
        committed.deleted.reserve_exact(batch.operations.len());
        for operation in batch.operations {
            match step.operate(operation) {
                Ok((previous, deleted)) => {
                    committed.previous.push(previous);
                    committed.deleted.push(deleted);
                }
                Err(error) => {
                    step.undo();
                    self.outcomes.push(Err(error));
                    return;
                }
            }
        }
        let mut effects = Effects {
            revision: step.revision,
            changes: std::mem::take(&mut step.changes),
        };
        let growth = self.owner_limit.growth(&effects.changes);
        let fits = self.owner_limit.check(state, &self.growth, &growth);
        if let Err(error) = fits.and_then(|()| admit(&effects)) {
            step.changes = effects.changes;
            step.undo();
            self.outcomes.push(Err(error));
            return;
        }
        self.growth.merge(growth);
        effects
            .changes
            .retain(|it| it.row.is_some() || it.previous.is_some());
        if effects.changes.is_empty() {
            self.outcomes.push(Ok(committed));
            return;
        }
        committed.revision = effects.revision;
        self.outcomes.push(Ok(committed));
        self.effects.push(effects);
    }

    /// The engine has given other revisions than proposed: changes and outcomes get them. `before` is the store's revision so far.
    pub(crate) fn renumber(&mut self, before: Revision, revisions: &[Revision]) {
        let mut renumbering = Renumbering {
            before,
            revisions: self
                .effects
                .iter()
                .zip(revisions)
                .map(|(effects, revision)| (effects.revision, *revision))
                .collect(),
            rows: HashMap::new(),
        };
        for effects in &mut self.effects {
            effects.revision = renumbering.revision(effects.revision);
            for change in &mut effects.changes {
                change.revision = effects.revision;
                renumbering.replace(&mut change.row);
                renumbering.replace(&mut change.previous);
            }
        }
        for outcome in &mut self.outcomes {
            let Ok(committed) = outcome else { continue };
            committed.revision = renumbering.revision(committed.revision);
            for row in &mut committed.previous {
                renumbering.replace(row);
            }
            if let Some(failed) = &mut committed.failed {
                renumbering.replace(&mut failed.row);
            }
        }
    }
}

/// Exchanges revisions, and the rows that carry them: each row for one new one, wherever it is named.
struct Renumbering {
    before: Revision,
    revisions: HashMap<Revision, Revision>,
    /// By the address of the old row, which is kept so that no other row gets that address.
    rows: HashMap<*const Row, (Arc<Row>, Arc<Row>)>,
}

impl Renumbering {
    fn revision(&self, proposed: Revision) -> Revision {
        *self.revisions.get(&proposed).unwrap_or(&proposed)
    }

    fn replace(&mut self, row: &mut Option<Arc<Row>>) {
        let Some(row) = row.as_mut().filter(|it| it.revision > self.before) else {
            return;
        };
        if let Some((_, new)) = self.rows.get(&Arc::as_ptr(row)) {
            *row = new.clone();
            return;
        }
        let new = Arc::new(Row {
            created: self.revision(row.created),
            revision: self.revision(row.revision),
            ..Row::clone(row)
        });
        let old = std::mem::replace(row, new.clone());
        self.rows.insert(Arc::as_ptr(&old), (old, new));
    }
}

impl Step<'_> {
    fn current(&self, table: TableId, key: &[u8]) -> Option<&Arc<Row>> {
        match self.overlay[table.index()].get(key) {
            Some(overlaid) => overlaid.row.as_ref(),
            None => self.state.row(table, key),
        }
    }

    fn failed_check(&self, checks: &[Check], assigns_revisions: bool) -> Option<FailedCheck> {
        for (index, check) in checks.iter().enumerate() {
            let (table, key) = check.target();
            let row = self.current(table, key);
            let holds = match check {
                Check::Revision { revision: 0, .. } | Check::Absent { .. } => row.is_none(),
                Check::Exists { .. } => row.is_some(),
                Check::Revision { revision, .. } => row.is_some_and(|it| {
                    it.revision == *revision
                        && !(assigns_revisions && it.revision > self.state.revision)
                }),
            };
            if !holds {
                return Some(FailedCheck {
                    index,
                    row: row.cloned(),
                });
            }
        }
        None
    }

    /// The row before and how many rows were deleted.
    fn operate(&mut self, operation: Operation) -> Result<(Option<Arc<Row>>, u64), CommitError> {
        match operation {
            Operation::Put {
                table,
                key,
                value,
                owner,
            } => {
                let previous = self.current(table, &key);
                let row = Row {
                    value,
                    created: previous.map_or(self.revision, |it| it.created),
                    revision: self.revision,
                    version: previous.map_or(1, |it| it.version + 1),
                    owner,
                };
                Ok((self.set(table, key, Some(Arc::new(row)))?, 0))
            }
            Operation::Delete { table, key } => {
                if self.current(table, &key).is_none() {
                    return Ok((None, 0));
                }
                Ok((self.set(table, key, None)?, 1))
            }
            Operation::DeleteRange { table, start, end } => {
                let keys = self.keys_of_range(table, &start, end.as_deref());
                self.delete_all(keys.into_iter().map(|key| (table, key)))
            }
            Operation::DeleteOwned { owner } => {
                let keys = self.keys_of_owner(&owner);
                self.delete_all(keys.into_iter())
            }
        }
    }

    fn delete_all(
        &mut self,
        keys: impl Iterator<Item = (TableId, Bytes)>,
    ) -> Result<(Option<Arc<Row>>, u64), CommitError> {
        let mut deleted = 0;
        for (table, key) in keys {
            self.set(table, key, None)?;
            deleted += 1;
        }
        Ok((None, deleted))
    }

    /// At most one more than the batch may change.
    fn keys_of_range(&self, table: TableId, start: &[u8], end: Option<&[u8]>) -> Vec<Bytes> {
        let Some(range) = bounds(start, end) else {
            return Vec::new();
        };
        let overlay = &self.overlay[table.index()];
        let rows = &self.state.tables[table.index()].rows;
        let present = rows.range::<[u8], _>(range).map(|(key, _)| key);
        let stored = present.filter(|key| !overlay.contains_key(*key));
        let overlaid = overlay.range::<[u8], _>(range);
        let overlaid = overlaid.filter(|it| it.1.row.is_some()).map(|it| it.0);
        let both = stored.chain(overlaid).take(self.max_changes + 1);
        both.cloned().collect()
    }

    /// At most one more than the batch may change.
    fn keys_of_owner(&self, owner: &Bytes) -> Vec<(TableId, Bytes)> {
        let rows = self.state.owners.get(owner).into_iter().flatten();
        let stored = rows.filter(|(table, key)| !self.overlay[table.index()].contains_key(key));
        let mut keys: Vec<_> = stored.take(self.max_changes + 1).cloned().collect();
        for (index, overlay) in self.overlay.iter().enumerate() {
            for (key, overlaid) in overlay {
                if overlaid.row.as_ref().is_some_and(|it| it.owner == *owner) {
                    keys.push((TableId(index as u8), key.clone()));
                }
            }
        }
        keys
    }

    /// Gives a key a row, or none. The row before.
    fn set(
        &mut self,
        table: TableId,
        key: Bytes,
        row: Option<Arc<Row>>,
    ) -> Result<Option<Arc<Row>>, CommitError> {
        let overlay = &mut self.overlay[table.index()];
        let previous = if let Some(overlaid) = overlay.get_mut(&key) {
            let previous = std::mem::replace(&mut overlaid.row, row.clone());
            if overlaid.batch == self.batch {
                self.changes[overlaid.effect].row = row;
                return Ok(previous);
            }
            overlaid.batch = self.batch;
            overlaid.effect = self.changes.len();
            previous
        } else {
            let overlaid = Overlaid {
                row: row.clone(),
                batch: self.batch,
                effect: self.changes.len(),
            };
            overlay.insert(key.clone(), overlaid);
            self.state.row(table, &key).cloned()
        };
        self.changes.push(Change {
            revision: self.revision,
            table,
            key,
            row,
            previous: previous.clone(),
        });
        if self.changes.len() > self.max_changes {
            return Err(CommitError::TooLarge(format!(
                "the batch changes more than {} keys (max_batch_changes); nothing was changed; delete ranges and owners in parts",
                self.max_changes
            )));
        }
        Ok(previous)
    }

    /// Takes back what the batch has done to the overlay.
    fn undo(self) {
        for change in self.changes {
            if let Some(overlaid) = self.overlay[change.table.index()].get_mut(&change.key) {
                overlaid.row = change.previous;
                overlaid.batch = usize::MAX;
            }
        }
    }
}
