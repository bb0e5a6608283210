//! How batches become transactions of etcd: which fit into one, and how large that is.
//!
//! etcd counts the operations of one level of a transaction (`--max-txn-ops`); a transaction may be nested in another, and the two
//! levels share the allowance: with `a` operations above, each of them may hold `max - a`. So 63 transactions of 64 deletions each go
//! into one, next to the put that fences it. A key may be changed once per transaction.

use std::collections::{HashMap, HashSet};

use etcd_client::{Compare, CompareOp, Txn, TxnOp};

use super::layout::{Layout, encode, last_value};
use super::options::EtcdOptions;
use crate::engine::{DeletionRoom, Effects};
use crate::error::CommitError;
use crate::types::{Change, Revision, TableId};

/// What a request holds besides its operations: the conditions, `meta/last`, and what etcd adds.
const REQUEST_OVERHEAD: usize = 2048;
/// What an operation holds besides its key and value: tags and lengths of four nested messages, the row's head.
const OPERATION_OVERHEAD: usize = 64;

/// What fits into a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Operations on the upper level, with the one for `meta/last`.
    above: usize,
    /// Operations in each nested transaction.
    below: usize,
    bytes: usize,
}

/// What some batches need.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    operations: usize,
    bytes: usize,
}

impl Room {
    pub(super) fn new(options: &EtcdOptions) -> Self {
        let above = options.max_operations / 2;
        Self {
            above,
            below: options.max_operations - above,
            bytes: options.max_request_bytes - REQUEST_OVERHEAD,
        }
    }

    fn operations(self) -> usize {
        (self.above - 1) * self.below
    }

    fn holds(self, need: Need) -> bool {
        need.operations <= self.operations() && need.bytes <= self.bytes
    }

    /// Whether a batch fits into a transaction of its own.
    pub(super) fn admit(self, layout: &Layout, effects: &Effects) -> Result<(), CommitError> {
        let need = need(layout, effects);
        if self.holds(need) {
            return Ok(());
        }
        Err(CommitError::TooLarge(format!(
            "the batch makes {} changes of together {} bytes, and etcd is said to take {} changes and {} bytes at once; make it smaller, \
             or raise etcd's --max-txn-ops and --max-request-bytes, and max_operations and max_request_bytes of EtcdOptions; nothing was changed",
            need.operations,
            need.bytes,
            self.operations(),
            self.bytes
        )))
    }

    /// How much one transaction can delete.
    pub(super) fn deletions(self, layout: &Layout) -> DeletionRoom {
        let tables = (0..layout.tables.len()).map(|it| TableId(it as u8));
        let longest = tables.map(|it| layout.row_length(it, b"")).max();
        DeletionRoom {
            rows: self.operations(),
            bytes: self.bytes,
            row_overhead: longest.unwrap_or(0) + OPERATION_OVERHEAD,
        }
    }

    /// How many of the batches, from the first on, go into one transaction; at least one.
    pub(super) fn first(self, layout: &Layout, batches: &[Effects]) -> usize {
        let mut keys: HashSet<(TableId, &[u8])> = HashSet::new();
        let mut sum = Need::default();
        for (index, effects) in batches.iter().enumerate() {
            let more = need(layout, effects);
            sum.operations += more.operations;
            sum.bytes += more.bytes;
            // A key that is changed again goes into the next: etcd wants it so, and its history is to tell each change.
            let mut is_new = true;
            for change in &effects.changes {
                is_new &= keys.insert((change.table, &change.key[..]));
            }
            if index > 0 && !(is_new && self.holds(sum)) {
                return index;
            }
        }
        batches.len()
    }

    /// Puts operations into nested transactions if there are more than one level holds.
    fn arrange(self, mut operations: Vec<TxnOp>, last: TxnOp) -> Vec<TxnOp> {
        if operations.len() >= self.above + self.below {
            let mut nested = Vec::with_capacity(operations.len() / self.below + 2);
            while !operations.is_empty() {
                let rest = operations.split_off(operations.len().min(self.below));
                nested.push(TxnOp::txn(Txn::new().and_then(operations)));
                operations = rest;
            }
            operations = nested;
        }
        operations.push(last);
        operations
    }
}

fn need(layout: &Layout, effects: &Effects) -> Need {
    let of = |change: &Change| {
        let row = change.row.as_ref();
        let value = row.map_or(0, |it| it.value.len() + it.owner.len());
        layout.row_length(change.table, &change.key) + value + OPERATION_OVERHEAD
    };
    Need {
        operations: effects.changes.len(),
        bytes: effects.changes.iter().map(of).sum(),
    }
}

/// What fences a transaction: who leads, and what was written last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fence {
    /// The leader key must have been created at this revision.
    pub(super) epoch: u64,
    /// `meta/last` must have been put at this revision.
    pub(super) last: i64,
    /// The number of the transaction that is to be made.
    pub(super) sequence: u64,
}

/// The transaction that makes the batches durable if this server still leads and nothing was written since. Otherwise it tells the
/// leader key and `meta/last`. `assigned` gives revisions to the proposed ones of earlier batches of the group.
pub(super) fn build(
    room: Room,
    layout: &Layout,
    fence: Fence,
    batches: &[Effects],
    assigned: &HashMap<Revision, Revision>,
) -> Txn {
    let mut operations = Vec::with_capacity(batches.iter().map(|it| it.changes.len()).sum());
    for effects in batches {
        for change in &effects.changes {
            let key = layout.row(change.table, &change.key);
            operations.push(match &change.row {
                None => TxnOp::delete(key, None),
                Some(row) => {
                    let created = match row.created {
                        it if it == effects.revision => 0,
                        it => *assigned.get(&it).unwrap_or(&it),
                    };
                    TxnOp::put(key, encode(row, created), None)
                }
            });
        }
    }
    // The last operation of all: when a watch has told it, it has told everything of that revision.
    let value = last_value(fence.epoch, fence.sequence);
    let last = TxnOp::put(layout.last.clone(), value, None);
    let (leader, epoch) = (layout.leader.clone(), fence.epoch.cast_signed());
    Txn::new()
        .when([
            Compare::create_revision(leader.clone(), CompareOp::Equal, epoch),
            Compare::mod_revision(layout.last.clone(), CompareOp::Equal, fence.last),
        ])
        .and_then(room.arrange(operations, last))
        .or_else([
            TxnOp::get(leader, None),
            TxnOp::get(layout.last.clone(), None),
        ])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::types::Row;

    fn layout() -> Layout {
        let mut layout = Layout::new(&EtcdOptions::new(["http://127.0.0.1:1"]));
        layout.tables = vec!["kv".into()];
        layout
    }

    fn room() -> Room {
        Room::new(&EtcdOptions::new(["http://127.0.0.1:1"]))
    }

    fn batch(keys: impl IntoIterator<Item = String>, value: usize) -> Effects {
        let row = Arc::new(Row {
            value: Bytes::from(vec![7; value]),
            created: 1,
            revision: 1,
            version: 1,
            owner: Bytes::new(),
        });
        let change = |key: String| Change {
            revision: 1,
            table: TableId(0),
            key: key.into(),
            row: Some(row.clone()),
            previous: None,
        };
        Effects {
            revision: 1,
            changes: keys.into_iter().map(change).collect(),
        }
    }

    fn keys(count: usize) -> impl Iterator<Item = String> {
        (0..count).map(|it| format!("key {it}"))
    }

    #[test]
    fn a_batch_that_does_not_fit_is_refused_with_the_names_of_etcds_options() {
        let admitted = |batch| room().admit(&layout(), &batch);
        assert_eq!(admitted(batch(keys(63 * 64), 10)), Ok(()));
        assert_eq!(admitted(batch(keys(1), 1 << 20)), Ok(()));
        for too_large in [batch(keys(63 * 64 + 1), 10), batch(keys(3), 600_000)] {
            let message = admitted(too_large).unwrap_err().to_string();
            assert!(message.contains("--max-txn-ops") && message.contains("--max-request-bytes"));
        }
    }

    #[test]
    fn what_is_said_to_fit_of_deletions_is_admitted_and_no_more() {
        let room = room();
        let said = room.deletions(&layout());
        let deletions = |count: usize, length: usize| {
            let key = |it| format!("{it:0length$}");
            let mut batch = batch((0..count).map(key), 0);
            for change in &mut batch.changes {
                change.row = None;
            }
            batch
        };
        let fits = |batch| room.admit(&layout(), &batch).is_ok();
        assert!(fits(deletions(said.rows, 4)));
        assert!(!fits(deletions(said.rows + 1, 4)));
        let large = said.bytes / (1000 + said.row_overhead);
        assert!(large < said.rows);
        assert!(fits(deletions(large, 1000)));
        assert!(!fits(deletions(large + 1, 1000)));
    }

    #[test]
    fn a_group_is_split_between_batches_by_size_and_where_a_key_comes_again() {
        let first = |batches: &[Effects]| room().first(&layout(), batches);
        let one = |key: &str, size| batch([key.to_owned()], size);
        assert_eq!(first(&[one("a", 1), one("b", 1), one("c", 1)]), 3);
        assert_eq!(first(&[one("a", 1), one("b", 1), one("a", 1)]), 2);
        assert_eq!(
            first(&[one("a", 600_000), one("b", 600_000), one("c", 600_000)]),
            2
        );
        assert_eq!(
            first(&[batch(keys(4000), 1), one("b", 1), batch(keys(40), 1)]),
            2
        );
        assert_eq!(first(&[one("a", 9_000_000)]), 1);
    }

    #[test]
    fn many_operations_are_nested_and_no_level_has_more_than_etcd_takes() {
        let room = room();
        let put = |_| TxnOp::put("key", "value", None);
        let last = || TxnOp::put("last", "value", None);
        assert_eq!(room.arrange((0..127).map(put).collect(), last()).len(), 128);
        assert_eq!(room.arrange((0..128).map(put).collect(), last()).len(), 3);
        let above = room.arrange((0..63 * 64).map(put).collect(), last()).len();
        assert_eq!(above, 64);
    }
}
