//! Opening a store in etcd: the rows as they were at an older revision, then what has happened since, from etcd's own history.
//!
//! Nobody else writes meanwhile: this server leads, and whatever an older leader still has on its way compares a leader key that is
//! gone. So what is read is final, in however many requests.

use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, Error, EventType, GetOptions, Txn, TxnOp, TxnOpResponse,
    WatchOptions, WatchStream,
};

use super::connection::Trouble;
use super::engine::{EtcdEngine, Marks};
use super::layout::{FORMAT, decode, last_value};
use crate::engine::{LoadSink, Loaded, draw_generation};
use crate::error::OpenError;
use crate::types::{Revision, Row};

/// The largest answer that is taken: a page of rows, or a part of the history.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// About how much a page of rows holds.
const PAGE_BYTES: usize = 4 << 20;
/// How many rows a page has at most, and how many the first one has.
const PAGE_ROWS: usize = 10_000;
const FIRST_PAGE_ROWS: usize = 32;
/// How often a request is tried, how often reading the rows starts anew because etcd has compacted their revision meanwhile, and how
/// often a watch of the history that broke off is taken up again. A history that is compacted under the watch is an error.
const ATTEMPTS: usize = 5;

/// What `meta/` says when the store is there.
struct Meta {
    generation: String,
    /// The revision that created the store.
    born: i64,
    /// The revision of the last write.
    last: i64,
    /// etcd's revision when this was read.
    at: i64,
}

/// Rows, which the sink gets once they are complete.
#[derive(Default)]
struct Rows {
    tables: Vec<String>,
    /// With the indexes of their tables, in order.
    rows: Vec<(usize, Bytes, Arc<Row>)>,
}

impl EtcdEngine {
    pub(super) async fn read(&mut self, sink: &mut dyn LoadSink) -> Result<Loaded, OpenError> {
        if let Some(name) = sink
            .tables()
            .iter()
            .find(|it| it.is_empty() || it.contains('/'))
        {
            return Err(OpenError::Settings(format!(
                "a table in etcd can't be named {name:?}: the name is a part of its keys; choose one without slashes"
            )));
        }
        let meta = match self.read_meta().await? {
            Some(meta) => meta,
            None => self.create().await?,
        };
        let (rows, oldest) = self.read_state(&meta).await?;
        let tables: Result<Vec<_>, _> = rows.tables.iter().map(|it| sink.table(it)).collect();
        let tables = tables?;
        for (table, key, row) in rows.rows {
            sink.row(tables[table], key, row);
        }
        if oldest < meta.last {
            self.read_history(&meta, oldest, sink).await?;
        }
        self.layout.tables = sink.tables();
        self.last = meta.last;
        Ok(Loaded {
            generation: meta.generation,
            epoch: self.leadership.epoch,
            revision: meta.last as Revision,
            oldest: oldest as Revision,
        })
    }

    /// One request that may be repeated, for it changes nothing or compares what it changes.
    async fn ask<Answer, Asking>(
        &mut self,
        asking: impl Fn(Client) -> Asking,
    ) -> Result<Answer, Trouble>
    where
        Asking: Future<Output = Result<Answer, Error>>,
    {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self
                .endpoints
                .request(self.options.load_timeout, &asking)
                .await
            {
                Err(Trouble::NotSent(_) | Trouble::Unclear(_) | Trouble::LoggedOut(_))
                    if attempt < ATTEMPTS =>
                {
                    tokio::time::sleep(self.options.lease.attempt()).await;
                }
                answer => return answer,
            }
        }
    }

    /// None if there is no store under the prefix yet.
    async fn read_meta(&mut self) -> Result<Option<Meta>, OpenError> {
        let layout = self.layout.clone();
        let reading = Txn::new().and_then([
            TxnOp::get(layout.leader.clone(), None),
            TxnOp::get(layout.last.clone(), None),
            TxnOp::get(layout.format.clone(), None),
            TxnOp::get(layout.generation.clone(), None),
        ]);
        let ask = |client: Client| {
            let reading = reading.clone();
            async move { client.kv_client().txn(reading).await }
        };
        let answer = self.ask(ask).await.map_err(unavailable)?;
        let answers = answer.op_responses();
        let marks = Marks::of(&answers);
        if marks.leader != self.leadership.epoch {
            self.leadership.validity.end();
            return Err(OpenError::Unavailable(format!(
                "this server (epoch {}) no longer leads (epoch {} does); stand for election again",
                self.leadership.epoch, marks.leader
            )));
        }
        let found = |index: usize| match answers.get(index) {
            Some(TxnOpResponse::Get(found)) => found.kvs().first(),
            _ => None,
        };
        let text = |index: usize| found(index).and_then(|it| std::str::from_utf8(it.value()).ok());
        let Some(format) = found(2) else {
            return Ok(None);
        };
        let version: i64 = text(2).and_then(|it| it.parse().ok()).unwrap_or(0);
        if version > FORMAT {
            return Err(OpenError::NewerSchema {
                path: layout.format.into(),
                found: version,
                known: FORMAT,
            });
        }
        let generation = text(3).unwrap_or_default().to_owned();
        if version < 1 || generation.is_empty() || marks.last == 0 {
            return Err(self.damaged("the keys below meta/ are incomplete or not ours"));
        }
        Ok(Some(Meta {
            generation,
            born: format.create_revision(),
            last: marks.last,
            at: answer
                .header()
                .map_or(0, etcd_client::ResponseHeader::revision),
        }))
    }

    /// Creates an empty store, unless there is something else under the prefix.
    async fn create(&mut self) -> Result<Meta, OpenError> {
        let layout = self.layout.clone();
        let (prefix, leader) = (layout.prefix.clone(), layout.leader.clone());
        let ask = |client: Client| {
            let prefix = prefix.clone();
            let options = GetOptions::new()
                .with_prefix()
                .with_keys_only()
                .with_limit(2);
            async move { client.kv_client().get(prefix, Some(options)).await }
        };
        let answer = self.ask(ask).await.map_err(unavailable)?;
        if let Some(other) = answer.kvs().iter().find(|it| it.key() != leader.as_bytes()) {
            let key = String::from_utf8_lossy(other.key()).into_owned();
            return Err(self.damaged(&format!(
                "there is no store here, but a key {key} that is not ours"
            )));
        }
        let generation = draw_generation()?;
        let epoch = self.leadership.epoch;
        let transaction = Txn::new()
            .when([
                Compare::create_revision(leader, CompareOp::Equal, epoch.cast_signed()),
                Compare::create_revision(layout.format.clone(), CompareOp::Equal, 0),
            ])
            .and_then([
                TxnOp::put(layout.format.clone(), FORMAT.to_string(), None),
                TxnOp::put(layout.generation.clone(), generation, None),
                TxnOp::put(layout.last.clone(), last_value(epoch, 0), None),
            ]);
        let ask = |client: Client| {
            let transaction = transaction.clone();
            async move { client.kv_client().txn(transaction).await }
        };
        // Sent twice it takes effect once, and what is read then says so.
        self.ask(ask).await.map_err(unavailable)?;
        self.read_meta()
            .await?
            .ok_or_else(|| self.damaged("the store could not be created"))
    }

    /// The rows as they were at the oldest revision after which etcd tells everything that we want to tell.
    async fn read_state(&mut self, meta: &Meta) -> Result<(Rows, i64), OpenError> {
        let window = i64::try_from(self.options.history_revisions).unwrap_or(i64::MAX);
        let wanted = meta.born.max(meta.last.saturating_sub(window));
        for attempt in 0..ATTEMPTS {
            let oldest = if wanted == meta.last || attempt + 1 == ATTEMPTS {
                meta.last
            } else {
                wanted.max(self.compacted(wanted + 1).await?).min(meta.last)
            };
            // Nobody has written since the last write, so the state then is the state now.
            let at = if oldest == meta.last { meta.at } else { oldest };
            match self.read_rows(at).await {
                Ok(rows) => return Ok((rows, oldest)),
                Err(RowsTrouble::Etcd(Trouble::Compacted(_))) if attempt + 1 < ATTEMPTS => {}
                Err(RowsTrouble::Etcd(trouble)) => return Err(unavailable(trouble)),
                Err(RowsTrouble::Damaged(found)) => return Err(self.damaged(&found)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The revision up to which etcd has dropped the history, if that is `from` or later; otherwise 0. `from` must not be later than
    /// the last write.
    async fn compacted(&mut self, from: i64) -> Result<i64, OpenError> {
        let key = self.layout.last.clone();
        let ask = |client: Client| {
            let key = key.clone();
            // A watch is the only one who tells. It begins with the last write at the latest, or with the refusal.
            let options = WatchOptions::new().with_start_revision(from);
            async move {
                let mut stream = client.watch_client().watch(key, Some(options)).await?;
                while let Some(answer) = stream.message().await? {
                    if answer.compact_revision() > 0 {
                        return Ok(answer.compact_revision());
                    }
                    if answer.canceled() {
                        return Err(Error::WatchError(answer.cancel_reason().to_owned()));
                    }
                    if !answer.events().is_empty() {
                        break;
                    }
                }
                Ok(0)
            }
        };
        self.ask(ask).await.map_err(unavailable)
    }

    async fn read_rows(&mut self, at: i64) -> Result<Rows, RowsTrouble> {
        let mut rows = Rows::default();
        let end = format!("{}0", self.layout.data.trim_end_matches('/')).into_bytes();
        let mut start = self.layout.data.clone().into_bytes();
        let mut limit = FIRST_PAGE_ROWS;
        loop {
            let (from, to) = (start.clone(), end.clone());
            let ask = |client: Client| {
                let options = GetOptions::new()
                    .with_range(to.clone())
                    .with_revision(at)
                    .with_limit(limit.cast_signed() as i64);
                let kv = client
                    .kv_client()
                    .max_decoding_message_size(MAX_ANSWER_BYTES);
                let (mut kv, from) = (kv, from.clone());
                async move { kv.get(from, Some(options)).await }
            };
            let mut answer = match self.ask(ask).await {
                Err(Trouble::TooLarge(_)) if limit > 1 => {
                    limit = (limit / 16).max(1);
                    continue;
                }
                answer => answer.map_err(RowsTrouble::Etcd)?,
            };
            let pairs = answer.take_kvs();
            let mut bytes = 0;
            let count = pairs.len();
            for pair in pairs {
                let revision = pair.mod_revision() as Revision;
                let (whole, value) = pair.into_key_value();
                bytes += whole.len() + value.len();
                let row = decode(value, revision);
                match (self.layout.table_and_key(&whole), row) {
                    (Some((table, key)), Some(row)) => {
                        if rows.tables.last().is_none_or(|it| it != table) {
                            rows.tables.push(table.to_owned());
                        }
                        let table = rows.tables.len() - 1;
                        rows.rows.push((table, Bytes::copy_from_slice(key), row));
                    }
                    _ => return Err(RowsTrouble::Damaged(not_ours(&whole))),
                }
                start = whole;
            }
            if !answer.more() || count == 0 {
                return Ok(rows);
            }
            start.push(0);
            limit = (PAGE_BYTES / (bytes / count + 1)).clamp(1, (limit * 16).min(PAGE_ROWS));
        }
    }

    /// Gives the sink every change after `oldest`.
    async fn read_history(
        &mut self,
        meta: &Meta,
        oldest: i64,
        sink: &mut dyn LoadSink,
    ) -> Result<(), OpenError> {
        let limit = self.options.load_timeout;
        let mut next = oldest + 1;
        // How many events of the revision `next` have been given, when a watch broke off within it.
        let mut given = 0;
        let mut broken = 0;
        loop {
            let mut skip = given;
            let outcome = async {
                let mut stream = self.watch(next).await?;
                loop {
                    let answer = match tokio::time::timeout(limit, stream.message()).await {
                        Ok(Ok(Some(answer))) => answer,
                        Ok(Ok(None)) => return Err(Trouble::Unclear("the watch ended".to_owned())),
                        Ok(Err(error)) => return Err(Trouble::Unclear(error.to_string())),
                        Err(_) => {
                            return Err(Trouble::Unclear(format!(
                                "etcd told no history within {limit:?}"
                            )));
                        }
                    };
                    if answer.canceled() {
                        return Err(Trouble::Compacted(format!(
                            "up to revision {} {}",
                            answer.compact_revision(),
                            answer.cancel_reason()
                        )));
                    }
                    for event in answer.events() {
                        let Some(pair) = event.kv() else { continue };
                        let revision = pair.mod_revision();
                        if revision > next {
                            (next, given, skip) = (revision, 0, 0);
                        }
                        if skip > 0 {
                            skip -= 1;
                            continue;
                        }
                        given += 1;
                        if let Some((table, key)) = self.layout.table_and_key(pair.key()) {
                            let row = match event.event_type() {
                                EventType::Delete => None,
                                EventType::Put => {
                                    match decode(pair.value().to_vec(), revision as Revision) {
                                        None => {
                                            return Ok(Err(self.damaged(&not_ours(pair.key()))));
                                        }
                                        row => row,
                                    }
                                }
                            };
                            let table = match sink.table(table) {
                                Ok(table) => table,
                                Err(error) => return Ok(Err(error)),
                            };
                            sink.change(
                                revision as Revision,
                                table,
                                Bytes::copy_from_slice(key),
                                row,
                            );
                        }
                        if revision == meta.last && pair.key() == self.layout.last.as_bytes() {
                            return Ok(Ok(()));
                        }
                    }
                }
            }
            .await;
            match outcome {
                Ok(result) => return result,
                Err(Trouble::Unclear(_)) if broken < ATTEMPTS => {
                    broken += 1;
                    self.endpoints.go_on();
                }
                Err(trouble) => return Err(unavailable(trouble)),
            }
        }
    }

    /// Watches everything under the prefix from a revision on.
    async fn watch(&mut self, from: i64) -> Result<WatchStream, Trouble> {
        let prefix = self.layout.prefix.clone();
        let ask = |client: Client| {
            let options = WatchOptions::new()
                .with_prefix()
                .with_start_revision(from)
                .with_fragment();
            let watch = client
                .watch_client()
                .max_decoding_message_size(MAX_ANSWER_BYTES);
            let (mut watch, prefix) = (watch, prefix.clone());
            async move { watch.watch(prefix, Some(options)).await }
        };
        self.ask(ask).await
    }

    fn damaged(&self, found: &str) -> OpenError {
        OpenError::Unavailable(format!(
            "what etcd has under {} is not a store of Atoll, or is damaged: {found}; nothing was changed; choose another prefix, or \
             delete everything under this one with `etcdctl del --prefix {}` if nobody needs it",
            self.layout.prefix, self.layout.prefix
        ))
    }
}

/// Why rows could not be read.
enum RowsTrouble {
    Etcd(Trouble),
    Damaged(String),
}

fn not_ours(key: &[u8]) -> String {
    format!("{} was not written by Atoll", String::from_utf8_lossy(key))
}

#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn unavailable(trouble: Trouble) -> OpenError {
    OpenError::Unavailable(format!("the store can't be read from etcd: {trouble}"))
}
