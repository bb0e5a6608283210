//! What the lease thread does, from standing to losing or resigning. [`super::election`] says why it does so.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, EventType, PutOptions, Txn, TxnOp, WatchOptions};
use tokio::sync::watch;
use tokio::time::sleep;

use super::clock;
use super::connection::{Endpoints, Trouble};
use super::election::{ElectionState, Leader, Shared, Stop, parse_leader};
use super::layout::Layout;
use super::options::EtcdOptions;

/// How long to wait before the next attempt when one has failed.
const PAUSE: Duration = Duration::from_millis(50);
/// The same while standing, when nothing is urgent.
const STANDING_PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Candidate {
    options: Arc<EtcdOptions>,
    layout: Layout,
    /// What our leader key says; it has a nonce, so that we know it again.
    value: String,
    shared: Arc<Shared>,
    stop: watch::Receiver<Stop>,
    endpoints: Endpoints,
}

/// The leader key as it is now.
struct Found {
    /// The revision of etcd at which it was so.
    at: i64,
    key: Option<FoundKey>,
}

struct FoundKey {
    is_ours: bool,
    lease: i64,
    leader: Leader,
}

/// The leader key is ours.
#[derive(Clone, Copy)]
struct Won {
    epoch: u64,
    lease: i64,
}

/// What one keep-alive came to.
enum Heard {
    Alive,
    Gone(String),
}

impl Candidate {
    pub(super) fn new(
        options: EtcdOptions,
        value: String,
        shared: Arc<Shared>,
        stop: watch::Receiver<Stop>,
    ) -> Self {
        let options = Arc::new(options);
        Self {
            layout: Layout::new(&options),
            endpoints: Endpoints::new(options.clone(), true),
            options,
            value,
            shared,
            stop,
        }
    }

    pub(super) async fn run(mut self) {
        let mut stop = self.stop.clone();
        let won = tokio::select! {
            won = self.stand() => Some(won),
            _ = stop.wait_for(|it| *it != Stop::No) => None,
        };
        if let Some(won) = won {
            let lost = tokio::select! {
                reason = self.lead(won) => Some(reason),
                _ = stop.wait_for(|it| *it != Stop::No) => None,
            };
            self.shared.validity.end();
            if let Some(reason) = lost {
                let epoch = won.epoch;
                self.shared.set(ElectionState::Lost { epoch, reason });
                // Others need not wait for a lease that nobody uses any more.
                self.give_back(won).await;
                return;
            }
        }
        if *stop.borrow() == Stop::Resign {
            // Standing may have been interrupted when etcd had just made us the leader.
            let ours = match won {
                Some(won) => Some(won),
                None => self.look().await.ok().and_then(|it| it.ours()),
            };
            if let Some(won) = ours {
                self.give_back(won).await;
            }
        }
        self.shared.set(ElectionState::Resigned);
    }

    /// Returns when the leader key is ours and the first keep-alive has been answered.
    async fn stand(&mut self) -> Won {
        loop {
            match self.stand_once().await {
                Ok(Some(won)) => return won,
                Ok(None) => {}
                Err(trouble) => {
                    let leader = match self.shared.state() {
                        ElectionState::Standby { leader, .. } => leader,
                        _ => None,
                    };
                    let problem = Some(trouble.to_string());
                    self.shared.set(ElectionState::Standby { leader, problem });
                    sleep(STANDING_PAUSE).await;
                }
            }
        }
    }

    async fn stand_once(&mut self) -> Result<Option<Won>, Trouble> {
        let found = self.look().await?;
        if let Some(won) = found.ours() {
            // An earlier attempt, whose outcome was not known, has come through; or this one.
            let attempt = self.options.lease.attempt();
            return Ok(self.keep_alive(won, attempt).await?.then_leads(won));
        }
        if let Some(key) = found.key {
            let leader = Some(key.leader);
            let problem = None;
            self.shared.set(ElectionState::Standby { leader, problem });
            self.wait_for_change(found.at + 1).await?;
            return Ok(None);
        }
        self.put_leader_key().await?;
        // Whoever has won, the next look says so.
        Ok(None)
    }

    async fn look(&mut self) -> Result<Found, Trouble> {
        let key = self.layout.leader.clone();
        let limit = self.options.request_timeout;
        let ask = |client: Client| async move { client.kv_client().get(key, None).await };
        let mut answer = self.endpoints.request(limit, ask).await?;
        let at = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        let key = answer.take_kvs().pop().map(|pair| FoundKey {
            is_ours: pair.value() == self.value.as_bytes(),
            lease: pair.lease(),
            leader: parse_leader(pair.value(), pair.create_revision() as u64),
        });
        Ok(Found { at, key })
    }

    /// Returns when the leader key has changed since that revision, or after the length of a lease: a watch may be dead without
    /// saying so.
    async fn wait_for_change(&mut self, since: i64) -> Result<(), Trouble> {
        let key = self.layout.leader.clone();
        let limit = self.options.lease.lease;
        let options = WatchOptions::new().with_start_revision(since);
        let watched = async move |client: Client| {
            let mut stream = client.watch_client().watch(key, Some(options)).await?;
            while let Some(answer) = stream.message().await? {
                // A put is told, too: somebody else leads then.
                let is_change = |it: &etcd_client::Event| {
                    matches!(it.event_type(), EventType::Put | EventType::Delete)
                };
                if answer.events().iter().any(is_change) {
                    return Ok(());
                }
                if answer.canceled() {
                    break;
                }
            }
            // etcd has ended the watch. It may do the same to the next one.
            sleep(STANDING_PAUSE).await;
            Ok(())
        };
        let quiet = sleep(limit);
        tokio::select! {
            answer = self.endpoints.request(limit * 2, watched) => answer,
            () = quiet => Ok(()),
        }
    }

    async fn put_leader_key(&mut self) -> Result<(), Trouble> {
        let limit = self.options.request_timeout;
        let ttl = self.options.lease.lease.as_secs().cast_signed();
        let grant = |client: Client| async move { client.lease_client().grant(ttl, None).await };
        let granted = self.endpoints.request(limit, grant).await?;
        let lease = granted.id();
        let (key, value) = (self.layout.leader.clone(), self.value.clone());
        let put = TxnOp::put(
            key.clone(),
            value,
            Some(PutOptions::new().with_lease(lease)),
        );
        let transaction = Txn::new()
            .when([Compare::create_revision(key, CompareOp::Equal, 0)])
            .and_then([put]);
        let ask = |client: Client| async move { client.kv_client().txn(transaction).await };
        let answer = self.endpoints.request(limit, ask).await?;
        if !answer.succeeded() {
            let revoke = |client: Client| async move { client.lease_client().revoke(lease).await };
            let _ = self.endpoints.request(limit, revoke).await;
        }
        Ok(())
    }

    /// Returns why this server leads no more.
    async fn lead(&mut self, won: Won) -> String {
        let times = self.options.lease;
        self.shared.set(ElectionState::Leading { epoch: won.epoch });
        loop {
            sleep(times.keepalive).await;
            let mut last = String::from("no keep-alive was answered in time");
            loop {
                let remaining = self.shared.validity.remaining();
                if remaining.is_zero() {
                    return format!(
                        "validity ended {:?} after the last keep-alive: {last}",
                        times.validity
                    );
                }
                match self.keep_alive(won, times.attempt().min(remaining)).await {
                    Ok(Heard::Alive) => break,
                    Ok(Heard::Gone(reason)) => return reason,
                    Err(trouble) => {
                        last = trouble.to_string();
                        sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Renews the lease and reads the key back, at the same time; extends validity if both are well.
    async fn keep_alive(&mut self, won: Won, limit: Duration) -> Result<Heard, Trouble> {
        let key = self.layout.leader.clone();
        let sent = clock::now();
        let ask = |client: Client| async move {
            let mut lease = client.lease_client();
            let mut values = client.kv_client();
            tokio::try_join!(
                async {
                    // One stream per keep-alive: no answer can be taken for that to a later question.
                    match lease.keep_alive(won.lease).await {
                        Ok(_) => Ok(true),
                        Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
                        Err(error) => Err(error),
                    }
                },
                values.get(key, None),
            )
        };
        let (is_alive, answer) = self.endpoints.request(limit, ask).await?;
        let holder = answer.kvs().first();
        let epoch = holder.map_or(0, |it| it.create_revision() as u64);
        Ok(if epoch != won.epoch {
            Heard::Gone(match holder {
                None => {
                    "the leader key is gone: the lease ran out, or somebody deleted it".to_owned()
                }
                Some(it) => format!("{} leads now", parse_leader(it.value(), epoch).name),
            })
        } else if !is_alive {
            Heard::Gone("the lease ran out before this keep-alive came".to_owned())
        } else if !self
            .shared
            .validity
            .extend(sent, self.options.lease.validity)
        {
            Heard::Gone("the answer to a keep-alive came after validity had ended".to_owned())
        } else {
            Heard::Alive
        })
    }

    /// Deletes the key if it is still ours, and the lease. What does not work is left to the lease's end.
    async fn give_back(&mut self, won: Won) {
        let limit = self.options.lease.attempt();
        for _ in 0..self.options.endpoints.len() {
            let key = self.layout.leader.clone();
            let epoch = won.epoch.cast_signed();
            let transaction = Txn::new()
                .when([Compare::create_revision(
                    key.clone(),
                    CompareOp::Equal,
                    epoch,
                )])
                .and_then([TxnOp::delete(key, None)]);
            let ask = |client: Client| async move {
                // Either does: the key goes with the lease. First the key, which takes one step less.
                client.kv_client().txn(transaction).await?;
                client.lease_client().revoke(won.lease).await
            };
            match self.endpoints.request(limit, ask).await {
                Err(Trouble::NotSent(_) | Trouble::Unclear(_) | Trouble::LoggedOut(_)) => {}
                _ => return,
            }
        }
    }
}

impl Found {
    fn ours(&self) -> Option<Won> {
        let key = self.key.as_ref().filter(|it| it.is_ours)?;
        Some(Won {
            epoch: key.leader.epoch,
            lease: key.lease,
        })
    }
}

impl Heard {
    fn then_leads(&self, won: Won) -> Option<Won> {
        matches!(self, Self::Alive).then_some(won)
    }
}
