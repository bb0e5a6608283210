//! The engine that keeps a store in etcd, as the leader of one epoch.
//!
//! Every write is one transaction that compares two things: the leader key's `create_revision`, which is the epoch, and the revision of
//! `meta/last`, which every write puts anew. The first keeps out every other leader's time. The second puts all writes of an epoch in
//! a row: of two transactions made for the same place in it at most one can ever take effect, whenever they arrive. So a request whose
//! outcome is not known is resolved rather than repeated blindly: `meta/last` is read back, and if it says that the transaction
//! has not happened yet, the same transaction is sent for the same place. That goes on until it is known, or validity ends.
//!
//! The writer thread waits in here; the connection is served by the native thread `atoll-etcd` meanwhile, and in between.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, KeyValue, Txn, TxnOp, TxnOpResponse};
use tokio::time::sleep;

use super::connection::{Endpoints, Trouble};
use super::election::Leadership;
use super::layout::{Layout, parse_last};
use super::options::EtcdOptions;
use super::runtime::NativeRuntime;
use super::transaction::{Fence, Room, build};
use crate::Guard;
use crate::engine::{DeletionRoom, Effects, Engine, Group, LoadSink, Loaded, Receipt};
use crate::error::{CommitError, OpenError};
use crate::types::Revision;

/// How long to wait before the next attempt when one has failed.
const PAUSE: Duration = Duration::from_millis(20);

/// A store in etcd.
pub struct EtcdEngine {
    pub(super) options: Arc<EtcdOptions>,
    pub(super) leadership: Leadership,
    pub(super) layout: Layout,
    pub(super) endpoints: Endpoints,
    /// The revision of `meta/last`, which is the store's.
    pub(super) last: i64,
    sequence: u64,
    room: Room,
    /// None once it is closed.
    runtime: Option<Arc<NativeRuntime>>,
}

/// What came of the attempts to make one transaction.
enum Outcome {
    Done(i64),
    Failed(CommitError),
}

/// The keys that say who leads and what was written last.
pub(super) struct Marks {
    /// `create_revision` of the leader key; 0 if nobody leads.
    pub(super) leader: u64,
    /// `mod_revision` of `meta/last`, and what it says.
    pub(super) last: i64,
    written: Option<(u64, u64)>,
}

impl EtcdEngine {
    /// For the leader of an epoch, see [`super::Election::leadership`]. Give its validity to [`crate::Settings::guard`], too.
    ///
    /// # Errors
    /// When the options are wrong, or the system has no room for a thread.
    pub fn new(options: EtcdOptions, leadership: Leadership) -> Result<Self, OpenError> {
        options.check()?;
        let options = Arc::new(options);
        Ok(Self {
            leadership,
            layout: Layout::new(&options),
            endpoints: Endpoints::new(options.clone(), false),
            last: 0,
            sequence: 0,
            room: Room::new(&options),
            runtime: Some(Arc::new(NativeRuntime::start("atoll-etcd")?)),
            options,
        })
    }

    /// Makes the batches durable, transaction by transaction.
    async fn write(&mut self, batches: &[Effects]) -> Result<Vec<Revision>, CommitError> {
        let mut revisions = Vec::with_capacity(batches.len());
        let mut assigned = HashMap::new();
        let mut rest = batches;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.room.first(&self.layout, rest));
            match self.write_one(now, &assigned).await {
                Outcome::Done(revision) => {
                    self.last = revision;
                    let revision = revision as Revision;
                    revisions.resize(revisions.len() + now.len(), revision);
                    assigned.extend(now.iter().map(|it| (it.revision, revision)));
                }
                Outcome::Failed(error) if revisions.is_empty() => return Err(error),
                Outcome::Failed(error) => {
                    self.leadership.validity.end();
                    let (done, all) = (revisions.len(), batches.len());
                    return Err(CommitError::Unknown(format!(
                        "{done} of {all} batches were committed, then: {error}"
                    )));
                }
            }
            rest = later;
        }
        Ok(revisions)
    }

    /// Makes one transaction, for the next place in the row.
    async fn write_one(
        &mut self,
        batches: &[Effects],
        assigned: &HashMap<Revision, Revision>,
    ) -> Outcome {
        self.sequence += 1;
        let fence = Fence {
            epoch: self.leadership.epoch,
            last: self.last,
            sequence: self.sequence,
        };
        let mut is_unclear = false;
        let mut trouble = Trouble::NotSent("the lease had run out before it was sent".to_owned());
        let mut has_logged_out = false;
        while self.leadership.validity.is_valid() {
            let transaction = build(self.room, &self.layout, fence, batches, assigned);
            let answer = match self.attempt(transaction).await {
                Ok(None) => break,
                Ok(Some((revision, None))) => return Outcome::Done(revision),
                Ok(Some((_, Some(marks)))) => return self.judge(&marks, fence, is_unclear),
                Err(error) => error,
            };
            trouble = answer;
            match &trouble {
                Trouble::NotSent(_) => {}
                // The member that finds its quota exceeded when it applies a transaction says so after it has applied it.
                Trouble::Unclear(_) | Trouble::Full(_) => {
                    let was_unclear = std::mem::replace(&mut is_unclear, true);
                    let is_full = matches!(trouble, Trouble::Full(_));
                    // The next attempt would find it out, too, but carries all of the batches.
                    match self.read_marks().await {
                        Ok(Some(marks)) if marks.has_changed(fence) => {
                            return self.judge(&marks, fence, true);
                        }
                        Ok(Some(_)) if is_full && !was_unclear => {
                            return Outcome::Failed(CommitError::Full(trouble.to_string()));
                        }
                        // etcd has refused it, but an earlier attempt may be on its way.
                        Ok(Some(_)) if is_full => break,
                        Ok(None) => break,
                        _ => {}
                    }
                }
                Trouble::LoggedOut(_) if !has_logged_out => has_logged_out = true,
                // etcd has refused it, but an earlier attempt may be on its way.
                _ if is_unclear => break,
                Trouble::TooLarge(_) => {
                    return Outcome::Failed(CommitError::TooLarge(trouble.to_string()));
                }
                _ => return Outcome::Failed(CommitError::Unavailable(trouble.to_string())),
            }
            sleep(PAUSE).await;
        }
        self.leadership.validity.end();
        Outcome::Failed(if is_unclear {
            CommitError::Unknown(format!(
                "the lease ran out before etcd could say; {trouble}"
            ))
        } else {
            CommitError::Fenced { epoch: 0 }
        })
    }

    /// What it means that a transaction for that place found other marks.
    fn judge(&mut self, marks: &Marks, fence: Fence, is_unclear: bool) -> Outcome {
        let is_written = marks.written == Some((fence.epoch, fence.sequence));
        if is_unclear && is_written && marks.last != fence.last {
            return Outcome::Done(marks.last);
        }
        self.leadership.validity.end();
        Outcome::Failed(if is_unclear && marks.last != fence.last {
            CommitError::Unknown(format!(
                "another server (epoch {}) has written since, so nobody can tell whether it happened before",
                marks.leader
            ))
        } else {
            // Whatever is on its way still compares what will not be again.
            CommitError::Fenced {
                epoch: marks.leader,
            }
        })
    }

    /// Makes one request, until validity ends: then none. The revision, and the marks if the comparison failed.
    async fn attempt(&mut self, transaction: Txn) -> Result<Option<(i64, Option<Marks>)>, Trouble> {
        let validity = self.leadership.validity.clone();
        let limit = self.options.request_timeout;
        let ask = |client: Client| async move { client.kv_client().txn(transaction).await };
        let answer = tokio::select! {
            answer = self.endpoints.request(limit, ask) => answer?,
            () = validity.wait_end() => return Ok(None),
        };
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        let marks = (!answer.succeeded()).then(|| Marks::of(&answer.op_responses()));
        Ok(Some((revision, marks)))
    }

    /// Reads the marks, linearizably.
    async fn read_marks(&mut self) -> Result<Option<Marks>, Trouble> {
        let (leader, last) = (self.layout.leader.clone(), self.layout.last.clone());
        let reading = Txn::new().and_then([TxnOp::get(leader, None), TxnOp::get(last, None)]);
        let validity = self.leadership.validity.clone();
        let limit = self.options.request_timeout;
        let ask = |client: Client| async move { client.kv_client().txn(reading).await };
        tokio::select! {
            answer = self.endpoints.request(limit, ask) => Ok(Some(Marks::of(&answer?.op_responses()))),
            () = validity.wait_end() => Ok(None),
        }
    }

    fn runtime(&self) -> Option<Arc<NativeRuntime>> {
        self.runtime.clone()
    }
}

impl Marks {
    pub(super) fn of(answers: &[TxnOpResponse]) -> Self {
        let first = |index: usize| match answers.get(index) {
            Some(TxnOpResponse::Get(found)) => found.kvs().first(),
            _ => None,
        };
        let last = first(1);
        Self {
            leader: first(0).map_or(0, |it| it.create_revision() as u64),
            last: last.map_or(0, KeyValue::mod_revision),
            written: last.and_then(|it| parse_last(it.value())),
        }
    }

    fn has_changed(&self, fence: Fence) -> bool {
        self.leader != fence.epoch || self.last != fence.last
    }
}

impl Engine for EtcdEngine {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn assigns_revisions(&self) -> bool {
        true
    }

    fn admit(&self, effects: &Effects) -> Result<(), CommitError> {
        self.room.admit(&self.layout, effects)
    }

    fn deletion_room(&self) -> DeletionRoom {
        self.room.deletions(&self.layout)
    }

    fn load(&mut self, sink: &mut dyn LoadSink) -> Result<Loaded, OpenError> {
        match self.runtime() {
            Some(runtime) => runtime.block_on(self.read(sink)),
            None => Err(OpenError::Unavailable("the engine is closed".to_owned())),
        }
    }

    fn commit(&mut self, group: &Group<'_>) -> Result<Receipt, CommitError> {
        let runtime = self.runtime().ok_or(CommitError::Closed)?;
        let since = Instant::now();
        let revisions = runtime.block_on(self.write(group.batches))?;
        Ok(Receipt {
            revisions,
            waited: since.elapsed(),
        })
    }

    fn close(&mut self) {
        self.endpoints.go_on();
        self.runtime = None;
    }
}

impl std::fmt::Debug for EtcdEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdEngine")
            .field("prefix", &self.layout.prefix)
            .field("epoch", &self.leadership.epoch)
            .finish_non_exhaustive()
    }
}
