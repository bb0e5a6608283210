//! What is stored under which key, so that a person with etcdctl finds the way.
//!
//! | key | value |
//! |---|---|
//! | PREFIX`leader` | who leads: JSON with name, address, started, nonce; under the leader's lease |
//! | PREFIX`meta/format` | the version of this layout, `1` |
//! | PREFIX`meta/generation` | which store this is: 16 hexadecimal digits |
//! | PREFIX`meta/last` | the last transaction: `EPOCH SEQUENCE`; its revision is the store's |
//! | PREFIX`data/TABLE/KEY` | a row: a head as below, then the value as it is |
//!
//! A row's head: one byte 1, the owner's length, the owner, the revision that created the row (0: that of this very put), the version.
//! Numbers have seven bits per byte, the lowest first, the high bit set but in the last.

use std::sync::Arc;

use bytes::Bytes;

use super::options::EtcdOptions;
use crate::types::{Revision, Row, TableId};

/// The version of the layout.
pub(super) const FORMAT: i64 = 1;
const HEAD: u8 = 1;

/// The keys below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) prefix: String,
    pub(super) leader: String,
    pub(super) format: String,
    pub(super) generation: String,
    pub(super) last: String,
    pub(super) data: String,
    /// The tables' names by number, once they are known.
    pub(super) tables: Vec<String>,
}

impl Layout {
    pub(super) fn new(options: &EtcdOptions) -> Self {
        let prefix = &options.prefix;
        Self {
            leader: format!("{prefix}leader"),
            format: format!("{prefix}meta/format"),
            generation: format!("{prefix}meta/generation"),
            last: format!("{prefix}meta/last"),
            data: format!("{prefix}data/"),
            prefix: prefix.clone(),
            tables: Vec::new(),
        }
    }

    /// Where a row is.
    pub(super) fn row(&self, table: TableId, key: &[u8]) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.row_length(table, key));
        let table = &self.tables[table.index()];
        whole.extend_from_slice(self.data.as_bytes());
        whole.extend_from_slice(table.as_bytes());
        whole.push(b'/');
        whole.extend_from_slice(key);
        whole
    }

    /// How long that is.
    pub(super) fn row_length(&self, table: TableId, key: &[u8]) -> usize {
        self.data.len() + self.tables[table.index()].len() + 1 + key.len()
    }

    /// The table and the key of a row; none if the key is not a row's.
    pub(super) fn table_and_key<'a>(&self, whole: &'a [u8]) -> Option<(&'a str, &'a [u8])> {
        let rest = whole.strip_prefix(self.data.as_bytes())?;
        let slash = rest.iter().position(|it| *it == b'/')?;
        let table = std::str::from_utf8(&rest[..slash]).ok()?;
        Some((table, &rest[slash + 1..]))
    }
}

/// The value under which a row is stored. `created` is 0 for a row that this put creates.
pub(super) fn encode(row: &Row, created: Revision) -> Vec<u8> {
    let mut out = Vec::with_capacity(row.value.len() + row.owner.len() + 24);
    out.push(HEAD);
    push_number(&mut out, row.owner.len() as u64);
    out.extend_from_slice(&row.owner);
    push_number(&mut out, created);
    push_number(&mut out, row.version);
    out.extend_from_slice(&row.value);
    out
}

/// The row that is stored so, and was put at `revision`; none if it was not written by us.
pub(super) fn decode(value: Vec<u8>, revision: Revision) -> Option<Arc<Row>> {
    let value = Bytes::from(value);
    let mut rest = value.as_ref().strip_prefix(&[HEAD])?;
    let length = usize::try_from(take_number(&mut rest)?).ok()?;
    let (owner, after) = rest.split_at_checked(length)?;
    rest = after;
    let created = take_number(&mut rest)?;
    let version = take_number(&mut rest)?;
    let row = Row {
        created: if created == 0 { revision } else { created },
        revision,
        version,
        owner: Bytes::copy_from_slice(owner),
        value: value.slice(value.len() - rest.len()..),
    };
    Some(Arc::new(row))
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(first & 0x7F) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// The text of `meta/last`.
pub(super) fn last_value(epoch: u64, sequence: u64) -> String {
    format!("{epoch} {sequence}")
}

/// Epoch and sequence in the text of `meta/last`.
pub(super) fn parse_last(value: &[u8]) -> Option<(u64, u64)> {
    let (epoch, sequence) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    Some((epoch.parse().ok()?, sequence.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(created: Revision, version: u64, owner: &'static [u8], value: &'static [u8]) -> Row {
        Row {
            value: Bytes::from_static(value),
            created,
            revision: 77,
            version,
            owner: Bytes::from_static(owner),
        }
    }

    #[test]
    fn a_row_comes_back_as_it_was_stored() {
        for row in [
            row(5, 3, b"", b""),
            row(u64::MAX, u64::MAX, b"node/1", b"value"),
            row(127, 128, &[7; 200], &[0, 1, 255]),
        ] {
            let stored = encode(&row, row.created);
            assert_eq!(*decode(stored, 77).unwrap(), row);
        }
    }

    #[test]
    fn a_row_that_is_created_by_its_put_has_the_revision_of_the_put() {
        let stored = encode(&row(999, 1, b"", b"value"), 0);
        assert_eq!(decode(stored, 77).unwrap().created, 77);
    }

    #[test]
    fn what_others_wrote_is_no_row() {
        for value in [
            &b""[..],
            b"text",
            &[1],
            &[1, 5, b'a'],
            &[1, 0, 0x80],
            &[1, 0, 0],
        ] {
            assert_eq!(decode(value.to_vec(), 1), None, "{value:?}");
        }
    }

    #[test]
    fn keys_tell_table_and_key_even_with_slashes_and_odd_bytes() {
        let mut layout = Layout::new(&EtcdOptions::new(["http://127.0.0.1:1"]));
        layout.tables = vec!["nodes".into(), "kv".into()];
        for key in [&b"a"[..], b"a/b", b"/", &[0, 255]] {
            let whole = layout.row(TableId(1), key);
            assert_eq!(layout.table_and_key(&whole), Some(("kv", key)));
        }
        for other in [
            "/atoll/leader",
            "/atoll/meta/last",
            "/atoll/data/kv",
            "/other/data/kv/a",
        ] {
            assert_eq!(layout.table_and_key(other.as_bytes()), None);
        }
    }
}
