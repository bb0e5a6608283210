//! Old rows, kept for the snapshots that are open.
//!
//! While there are snapshots, each change leaves the row that it replaces here, once for all of them, unless none of them could see
//! that row. A snapshot of revision R finds under a key the first version that was replaced after R; if there is none, the row in
//! the table. So a snapshot costs nothing when it is taken, and all together cost what changes while they are open.
//!
//! Versions that nobody can see any more are dropped bit by bit, so that no reader waits long for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::state::KeyRange;
use crate::types::{Revision, Row, TableId};

/// What a version counts besides its bytes: its places in the maps.
const VERSION_OVERHEAD: usize = 128;
/// How many versions one commit drops at most.
const COLLECTED_AT_ONCE: usize = 4096;

/// A row until the revision that replaced it.
#[derive(Debug)]
pub(crate) struct Version {
    until: Revision,
    pub(crate) row: Option<Arc<Row>>,
}

type Versions = BTreeMap<Bytes, Vec<Version>>;

#[derive(Debug, Default)]
pub(crate) struct History {
    /// How many snapshots there are of each revision.
    open: BTreeMap<Revision, usize>,
    tables: Vec<Versions>,
    /// Where the versions are, in the order of `until`.
    order: VecDeque<(Revision, TableId, Bytes)>,
    bytes: usize,
    /// Snapshots of older revisions have been given up.
    floor: Revision,
    expired: u64,
}

/// What is to be dropped without holding a lock.
#[derive(Debug, Default)]
#[allow(dead_code, reason = "it is only dropped")]
pub(crate) struct Garbage {
    tables: Vec<Versions>,
    order: VecDeque<(Revision, TableId, Bytes)>,
    rows: Vec<Version>,
}

impl History {
    pub(crate) fn snapshots(&self) -> u64 {
        self.open.values().map(|it| *it as u64).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn expired(&self) -> u64 {
        self.expired
    }

    pub(crate) fn is_readable(&self, revision: Revision) -> bool {
        revision >= self.floor
    }

    pub(crate) fn open(&mut self, revision: Revision) {
        *self.open.entry(revision).or_default() += 1;
    }

    pub(crate) fn close(&mut self, revision: Revision) -> Garbage {
        if let Some(count) = self.open.get_mut(&revision) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&revision);
            }
        }
        self.collect()
    }

    /// The row of a key is about to be replaced at revision `until`. To be called for each change.
    #[inline]
    pub(crate) fn replaced(
        &mut self,
        until: Revision,
        table: TableId,
        key: &Bytes,
        row: Option<&Arc<Row>>,
    ) {
        let Some((&newest, _)) = self.open.last_key_value() else {
            return;
        };
        if row.is_some_and(|it| it.revision > newest) {
            return;
        }
        if self.tables.len() <= table.index() {
            self.tables.resize_with(table.index() + 1, Versions::new);
        }
        let versions = self.tables[table.index()].entry(key.clone()).or_default();
        if versions.last().is_some_and(|it| it.until > newest) {
            return;
        }
        self.bytes += size(key, row);
        versions.push(Version {
            until,
            row: row.cloned(),
        });
        self.order.push_back((until, table, key.clone()));
    }

    /// Gives up the oldest snapshots while there is too much, and drops some of what nobody sees. To be called after each group.
    pub(crate) fn settle(&mut self, max_bytes: usize) -> Garbage {
        if self.bytes > max_bytes {
            let oldest = self.open.first_key_value().map(|(it, count)| (*it, *count));
            // First what nobody needs has to go; then it shows whether it is still too much.
            let is_needed = |oldest| self.order.front().is_some_and(|it| it.0 > oldest);
            if let Some((oldest, count)) = oldest.filter(|it| is_needed(it.0)) {
                self.open.remove(&oldest);
                self.floor = oldest + 1;
                self.expired += count as u64;
            }
        }
        self.collect()
    }

    fn collect(&mut self) -> Garbage {
        let mut garbage = Garbage::default();
        let Some((&oldest, _)) = self.open.first_key_value() else {
            self.bytes = 0;
            garbage.tables = std::mem::take(&mut self.tables);
            garbage.order = std::mem::take(&mut self.order);
            return garbage;
        };
        for _ in 0..COLLECTED_AT_ONCE {
            if self.order.front().is_none_or(|it| it.0 > oldest) {
                break;
            }
            let Some((_, table, key)) = self.order.pop_front() else {
                break;
            };
            let versions = &mut self.tables[table.index()];
            if let Some(found) = versions.get_mut(&key) {
                let version = found.remove(0);
                if found.is_empty() {
                    versions.remove(&key);
                }
                self.bytes -= size(&key, version.row.as_ref());
                garbage.rows.push(version);
            }
        }
        garbage
    }

    /// What a key had at `revision`, if it has been replaced since.
    pub(crate) fn version(
        &self,
        revision: Revision,
        table: TableId,
        key: &[u8],
    ) -> Option<&Version> {
        let versions = self.tables.get(table.index())?.get(key)?;
        at(versions, revision)
    }

    /// The keys of a range that have been replaced since `revision`, with their rows at it.
    pub(crate) fn range<'a>(
        &'a self,
        revision: Revision,
        table: TableId,
        range: KeyRange<'_>,
    ) -> impl Iterator<Item = (&'a Bytes, Option<&'a Arc<Row>>)> {
        self.tables
            .get(table.index())
            .into_iter()
            .flat_map(move |it| it.range::<[u8], _>(range))
            .filter_map(move |(key, versions)| {
                at(versions, revision).map(|it| (key, it.row.as_ref()))
            })
    }
}

fn at(versions: &[Version], revision: Revision) -> Option<&Version> {
    versions.iter().find(|it| it.until > revision)
}

fn size(key: &Bytes, row: Option<&Arc<Row>>) -> usize {
    key.len() + VERSION_OVERHEAD + row.map_or(0, |it| it.value.len() + it.owner.len())
}
