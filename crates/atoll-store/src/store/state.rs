//! What readers see: tables, owners, change log and history, at one revision.
//!
//! It is one value under one lock. The writer thread changes it in one go per group, so a reader sees whole groups only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::change_log::ChangeLog;
use super::history::History;
use crate::engine::LoadSink;
use crate::error::OpenError;
use crate::settings::MAX_TABLES;
use crate::types::{Change, Page, Revision, Row, TableId};

/// A range of keys, as `BTreeMap` wants it.
pub(crate) type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

pub(crate) type Rows = BTreeMap<Bytes, Arc<Row>>;

#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) rows: Rows,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    pub(crate) tables: Vec<Table>,
    pub(crate) owners: HashMap<Bytes, BTreeSet<(TableId, Bytes)>>,
    pub(crate) log: ChangeLog,
    pub(crate) history: History,
    pub(crate) is_closed: bool,
}

/// The bounds of a range of keys; none if it is empty, which `BTreeMap` would panic at.
pub(crate) fn bounds<'a>(start: &'a [u8], end: Option<&'a [u8]>) -> Option<KeyRange<'a>> {
    match end {
        Some(end) if end <= start => None,
        Some(end) => Some((Bound::Included(start), Bound::Excluded(end))),
        None => Some((Bound::Included(start), Bound::Unbounded)),
    }
}

impl State {
    pub(crate) fn row(&self, table: TableId, key: &[u8]) -> Option<&Arc<Row>> {
        self.tables.get(table.index())?.rows.get(key)
    }

    /// Does what a change says, but leaves the log and the history alone.
    pub(crate) fn apply(&mut self, change: &Change) {
        let table = &mut self.tables[change.table.index()];
        if let Some(previous) = &change.previous {
            table.bytes -= size(&change.key, previous);
        }
        let replaced = match &change.row {
            Some(row) => {
                table.bytes += size(&change.key, row);
                table.rows.insert(change.key.clone(), row.clone())
            }
            None => table.rows.remove(&change.key),
        };
        debug_assert_eq!(replaced, change.previous);
        let owner =
            |row: &Option<Arc<Row>>| row.as_ref().map_or_else(Bytes::new, |it| it.owner.clone());
        let (before, after) = (owner(&change.previous), owner(&change.row));
        if before == after {
            return;
        }
        let target = (change.table, change.key.clone());
        if !before.is_empty()
            && let Some(owned) = self.owners.get_mut(&before)
        {
            owned.remove(&target);
            if owned.is_empty() {
                self.owners.remove(&before);
            }
        }
        if !after.is_empty() {
            self.owners.entry(after).or_default().insert(target);
        }
    }

    /// A page of the present state.
    pub(crate) fn scan(
        &self,
        table: TableId,
        (start, end): (&[u8], Option<&[u8]>),
        limit: usize,
        is_reverse: bool,
    ) -> Page {
        let mut page = Page {
            rows: Vec::new(),
            revision: self.revision,
            more: false,
        };
        let (Some(table), Some(range)) = (self.tables.get(table.index()), bounds(start, end))
        else {
            return page;
        };
        let found = table.rows.range::<[u8], _>(range);
        if is_reverse {
            fill(&mut page, found.rev(), limit);
        } else {
            fill(&mut page, found, limit);
        }
        page
    }

    /// A page of the state at `revision`, of which a snapshot is open.
    pub(crate) fn scan_at(
        &self,
        revision: Revision,
        table: TableId,
        (start, end): (&[u8], Option<&[u8]>),
        limit: usize,
    ) -> Page {
        let mut page = Page {
            rows: Vec::new(),
            revision,
            more: false,
        };
        let (Some(rows), Some(range)) = (self.tables.get(table.index()), bounds(start, end)) else {
            return page;
        };
        let merged = Merged {
            present: rows.rows.range::<[u8], _>(range).peekable(),
            old: self.history.range(revision, table, range).peekable(),
        };
        fill(&mut page, merged, limit);
        page
    }

    /// The row of a key at `revision`, of which a snapshot is open.
    pub(crate) fn row_at(
        &self,
        revision: Revision,
        table: TableId,
        key: &[u8],
    ) -> Option<&Arc<Row>> {
        match self.history.version(revision, table, key) {
            Some(old) => old.row.as_ref(),
            None => self.row(table, key),
        }
    }
}

fn fill<'a>(
    page: &mut Page,
    mut found: impl Iterator<Item = (&'a Bytes, &'a Arc<Row>)>,
    limit: usize,
) {
    let taken = found.by_ref().take(limit);
    page.rows
        .extend(taken.map(|(key, row)| (key.clone(), row.clone())));
    page.more = found.next().is_some();
}

/// The bytes that a row counts in its table.
pub(crate) fn size(key: &Bytes, row: &Row) -> u64 {
    (key.len() + row.value.len() + row.owner.len()) as u64
}

/// Present rows, with those replaced that were different at a snapshot's revision.
struct Merged<Present: Iterator, Old: Iterator> {
    present: Peekable<Present>,
    old: Peekable<Old>,
}

impl<'a, Present, Old> Iterator for Merged<Present, Old>
where
    Present: Iterator<Item = (&'a Bytes, &'a Arc<Row>)>,
    Old: Iterator<Item = (&'a Bytes, Option<&'a Arc<Row>>)>,
{
    type Item = (&'a Bytes, &'a Arc<Row>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((old, _)) = self.old.peek() else {
                return self.present.next();
            };
            match self.present.peek() {
                Some((present, _)) if present < old => return self.present.next(),
                Some((present, _)) if present == old => {
                    self.present.next();
                }
                _ => {}
            }
            if let Some((key, Some(row))) = self.old.next() {
                return Some((key, row));
            }
        }
    }
}

/// Takes what an engine has loaded.
#[derive(Debug, Default)]
pub(crate) struct Loading {
    state: State,
    /// Rows in the order in which they came: a tree built from a sorted list is faster, and denser, than one grown row by row.
    rows: Vec<Vec<(Bytes, Arc<Row>)>>,
    are_rows_complete: bool,
}

impl Loading {
    pub(crate) fn new(names: &[String]) -> Result<Self, OpenError> {
        let mut loading = Self::default();
        for (index, name) in names.iter().enumerate() {
            if loading.table(name)?.index() != index {
                return Err(OpenError::Settings(format!(
                    "the table {name:?} is named twice; name each table once"
                )));
            }
        }
        Ok(loading)
    }

    pub(crate) fn finish(mut self) -> State {
        self.build();
        self.state
    }

    fn build(&mut self) {
        if std::mem::replace(&mut self.are_rows_complete, true) {
            return;
        }
        for (index, rows) in std::mem::take(&mut self.rows).into_iter().enumerate() {
            let table = &mut self.state.tables[index];
            for (key, row) in &rows {
                table.bytes += size(key, row);
                if !row.owner.is_empty() {
                    let owned = self.state.owners.entry(row.owner.clone()).or_default();
                    owned.insert((TableId(index as u8), key.clone()));
                }
            }
            table.rows = rows.into_iter().collect();
        }
    }
}

impl LoadSink for Loading {
    fn table(&mut self, name: &str) -> Result<TableId, OpenError> {
        if let Some(index) = self.state.tables.iter().position(|it| it.name == name) {
            return Ok(TableId(index as u8));
        }
        if self.state.tables.len() == MAX_TABLES {
            return Err(OpenError::Settings(format!(
                "the table {name:?} would be more than {MAX_TABLES} tables, together with those that the store holds already; name \
                 fewer tables"
            )));
        }
        self.state.tables.push(Table {
            name: name.to_owned(),
            ..Table::default()
        });
        self.rows.push(Vec::new());
        Ok(TableId((self.state.tables.len() - 1) as u8))
    }

    fn tables(&self) -> Vec<String> {
        let tables = self.state.tables.iter();
        tables.map(|it| it.name.clone()).collect()
    }

    fn row(&mut self, table: TableId, key: Bytes, row: Arc<Row>) {
        assert!(
            !self.are_rows_complete,
            "all rows come before the first change"
        );
        self.rows[table.index()].push((key, row));
    }

    fn change(&mut self, revision: Revision, table: TableId, key: Bytes, row: Option<Arc<Row>>) {
        self.build();
        let change = Change {
            revision,
            previous: self.state.row(table, &key).cloned(),
            table,
            key,
            row,
        };
        self.state.apply(&change);
        self.state.log.push(change);
    }
}
