//! Who leads: one server at a time, found through a lease in etcd, with an epoch that fences what it writes.
//!
//! An election runs on the native thread `atoll-lease` with connections of its own, so neither the GIL nor a large commit delays a
//! keep-alive. It leads at most once: when it has lost or resigned it is over, and whoever wants to stand again makes a new one.
//!
//! 1. The leader key is put by a transaction that needs it to be absent, under a lease of ours. Its `create_revision` is the epoch:
//!    it rises with every leader, and each write compares it (see [`super::engine`]).
//! 2. Each `keepalive` the leader renews the lease and reads its key back, linearizably. Only if both say that it still leads may it
//!    serve until `validity` after the two were *sent*, by a clock that counts through suspension ([`Validity`]).
//! 3. A standby watches the key, and asks again every `lease` in case the watch is dead. When the key goes, it stands.
//! 4. [`Election::resign`] ends validity first, then deletes the key and the lease, so that the next leader need not wait.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `Shared::state` | the lease thread | any thread | its mutex; `changed` wakes who waits |
//! | `Shared::validity` | the lease thread; ended by any | any thread | an atomic, see [`Validity`] |
//! | `Election::stop` | whoever resigns | the lease thread | a watch channel |

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::candidate::Candidate;
use super::options::EtcdOptions;
use super::runtime::NativeRuntime;
use super::validity::Validity;
use crate::engine::draw_generation;
use crate::error::OpenError;

/// How the lease thread is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Not at all.
    No,
    /// So that another can lead at once.
    Resign,
    /// As if the process had been killed.
    Abandon,
}

/// Who leads, as its key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The server's name.
    pub name: String,
    /// Where clients reach it.
    pub address: String,
    /// When its election began, in seconds since 1970 by its own clock.
    pub started: u64,
    /// Its epoch.
    pub epoch: u64,
}

/// Where an election stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionState {
    /// Waiting to lead.
    Standby {
        /// Who leads, as far as is known.
        leader: Option<Leader>,
        /// Why etcd could not be asked the last time; none if it could.
        problem: Option<String>,
    },
    /// This server leads.
    Leading {
        /// With what each of its writes is fenced.
        epoch: u64,
    },
    /// This server led and will not serve again under that epoch. Final.
    Lost {
        /// The epoch that is over.
        epoch: u64,
        /// How it came.
        reason: String,
    },
    /// Stopped as asked. Final.
    Resigned,
}

impl ElectionState {
    /// Whether nothing comes after it.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Resigned)
    }
}

/// Who is told of each change.
pub trait ElectionObserver: Send + Sync {
    /// Called on the lease thread: must not block, nor need the GIL, for the lease waits meanwhile.
    fn changed(&self, state: &ElectionState);
}

/// What a leader may do until when; what an engine needs to write as that leader.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// Each write compares it.
    pub epoch: u64,
    /// The guard for [`crate::Settings::guard`].
    pub validity: Arc<Validity>,
}

pub(super) struct Shared {
    state: Mutex<ElectionState>,
    changed: Condvar,
    pub(super) validity: Arc<Validity>,
    observer: Option<Arc<dyn ElectionObserver>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, ElectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody, unless nothing has changed.
    #[allow(clippy::needless_pass_by_value)] // it is made for the call
    pub(super) fn set(&self, state: ElectionState) {
        {
            let mut current = self.lock();
            if *current == state {
                return;
            }
            current.clone_from(&state);
        }
        self.changed.notify_all();
        if let Some(observer) = &self.observer {
            observer.changed(&state);
        }
    }

    pub(super) fn state(&self) -> ElectionState {
        self.lock().clone()
    }
}

/// One server's part in the election. Dropping it resigns.
pub struct Election {
    shared: Arc<Shared>,
    stop: watch::Sender<Stop>,
    lease: Duration,
    runtime: NativeRuntime,
}

impl Election {
    /// Begins to stand, under a name and the address that clients of a standby are sent to.
    ///
    /// Returns at once; etcd need not be reachable yet.
    ///
    /// # Errors
    /// When the options are wrong, or the system has no room for a thread.
    pub fn start(
        options: EtcdOptions,
        name: &str,
        address: &str,
        observer: Option<Arc<dyn ElectionObserver>>,
    ) -> Result<Self, OpenError> {
        options.check()?;
        let nonce = draw_generation()?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        let started = started.map_or(0, |it| it.as_secs());
        let value = json!({"name": name, "address": address, "started": started, "nonce": nonce});
        let shared = Arc::new(Shared {
            state: Mutex::new(ElectionState::Standby {
                leader: None,
                problem: None,
            }),
            changed: Condvar::new(),
            validity: Arc::new(Validity::new()),
            observer,
        });
        let (stop, stopped) = watch::channel(Stop::No);
        let lease = options.lease.lease;
        let runtime = NativeRuntime::start("atoll-lease")?;
        let candidate = Candidate::new(options, value.to_string(), shared.clone(), stopped);
        runtime.spawn(candidate.run());
        Ok(Self {
            shared,
            stop,
            lease,
            runtime,
        })
    }

    /// Whether this process began it; a forked child has no part in it. Any thread.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.runtime.is_ours()
    }

    /// Where it stands now. Any thread.
    #[must_use]
    pub fn state(&self) -> ElectionState {
        self.shared.state()
    }

    /// Waits until the state is one that `is_wanted`, or time is up; returns the state then. Any thread but a loop's.
    pub fn wait(
        &self,
        timeout: Duration,
        is_wanted: impl Fn(&ElectionState) -> bool,
    ) -> ElectionState {
        let until = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if is_wanted(&state) || left.is_zero() {
                return state.clone();
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Epoch and validity, if this server leads. Any thread.
    #[must_use]
    pub fn leadership(&self) -> Option<Leadership> {
        match self.state() {
            ElectionState::Leading { epoch } => Some(Leadership {
                epoch,
                validity: self.shared.validity.clone(),
            }),
            _ => None,
        }
    }

    /// Stops serving at once, then makes room for the next leader. To be called when the store is closed: what it commits later is
    /// refused. Waits until etcd knows, for the length of the lease at most; by then etcd lets another lead anyhow.
    pub fn resign(&self) {
        self.shared.validity.end();
        self.stop.send_replace(Stop::Resign);
        self.wait(self.lease, ElectionState::is_final);
    }

    /// Stops as a killed process does: etcd is told nothing, and the lease has to run out. For tests of take-over.
    pub fn abandon(self) {
        self.stop.send_replace(Stop::Abandon);
        self.wait(self.lease, ElectionState::is_final);
    }
}

impl Drop for Election {
    fn drop(&mut self) {
        if self.is_ours() && !self.state().is_final() {
            self.resign();
        }
    }
}

impl std::fmt::Debug for Election {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Election")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// What a leader's key says.
pub(super) fn parse_leader(value: &[u8], epoch: u64) -> Leader {
    let value: Value = serde_json::from_slice(value).unwrap_or_default();
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    Leader {
        name: text("name"),
        address: text("address"),
        started: value["started"].as_u64().unwrap_or_default(),
        epoch,
    }
}
