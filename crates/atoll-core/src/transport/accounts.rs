//! What all servers of this process have counted, those that have ended included: a counter that is exported neither goes back
//! nor vanishes because a server stops.
//!
//! | field    | written by                              | read by        | under           |
//! |----------|-----------------------------------------|----------------|-----------------|
//! | `open`   | whoever starts a server; who asks       | whoever asks   | the lock        |
//! | `closed` | the same                                | the same       | the lock        |
//! | counters | network threads, and loops              | whoever asks   | relaxed atomics |
//!
//! An account is open while anybody can still count in it. It holds counters and names only: servicers go when their server
//! goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::counters::{Counters, TransportStats};
use super::method_counters::{MethodCounters, MethodStats};
use super::routes::Routes;
use crate::fork::PerProcess;

/// Methods of servers that have ended which keep their names; those of further names are added up.
const KEPT_METHODS: usize = 1000;

/// The name of the sum of the others.
const OTHER: &str = "(other)";

/// What servers have counted, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By method, `package.Service/Method`. At most 1,000 methods of servers that have ended keep their names; `(other)` is the
    /// sum of those that came after them.
    pub methods: BTreeMap<String, MethodStats>,
    /// What is counted for the server itself, but for who was refused by [`Authentication`](super::Authentication), which
    /// servers may share.
    pub transport: TransportStats,
    /// How many servers were started.
    pub servers: u64,
}

impl Totals {
    fn add(&mut self, account: &Account, most_methods: usize) {
        self.servers += 1;
        for (name, counters) in &account.methods {
            let is_known = self.methods.contains_key(name.as_ref());
            let name = if is_known || self.methods.len() < most_methods {
                name.as_ref()
            } else {
                OTHER
            };
            let stats = self.methods.entry(name.to_owned()).or_default();
            stats.add(&counters.snapshot());
        }
        for counters in &account.threads {
            counters.add_to(&mut self.transport);
        }
    }
}

/// The counters of one server.
struct Account {
    methods: Vec<(Box<str>, Arc<MethodCounters>)>,
    threads: Vec<Arc<Counters>>,
}

impl Account {
    /// Whether nobody else has the counters, so that they never change again.
    fn is_final(&mut self) -> bool {
        let mut methods = self.methods.iter_mut();
        // Not by the counts, which would not show what was written before they went down.
        methods.all(|(_, counters)| Arc::get_mut(counters).is_some())
            && self
                .threads
                .iter_mut()
                .all(|counters| Arc::get_mut(counters).is_some())
    }
}

#[derive(Default)]
struct Accounts {
    open: Vec<Account>,
    closed: Totals,
}

impl Accounts {
    /// Adds up what is final, so that servers which come and go take up no room.
    fn settle(&mut self) {
        for mut account in std::mem::take(&mut self.open) {
            if account.is_final() {
                self.closed.add(&account, KEPT_METHODS);
            } else {
                self.open.push(account);
            }
        }
    }

    fn totals(&mut self) -> Totals {
        self.settle();
        let mut totals = self.closed.clone();
        for account in &self.open {
            totals.add(account, usize::MAX);
        }
        totals
    }
}

static ACCOUNTS: PerProcess<Mutex<Accounts>> = PerProcess::new();

/// A server starts.
pub(super) fn open<'a>(routes: &Routes, threads: impl Iterator<Item = &'a Arc<Counters>>) {
    let methods = routes.iter().map(|route| {
        let name = route.path().trim_start_matches('/');
        (name.into(), Arc::clone(route.counters()))
    });
    let account = Account {
        methods: methods.collect(),
        threads: threads.cloned().collect(),
    };
    let accounts = ACCOUNTS.get().lock();
    let mut accounts = accounts.unwrap_or_else(PoisonError::into_inner);
    accounts.settle();
    accounts.open.push(account);
}

/// What all servers of this process have counted since it began, also those that have ended. Any thread.
#[must_use]
pub fn totals_of_process() -> Totals {
    let accounts = ACCOUNTS.get().lock();
    accounts.unwrap_or_else(PoisonError::into_inner).totals()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Code, Refused};

    fn account(names: &[&str]) -> Account {
        let method = |name: &&str| (Box::from(*name), Arc::default());
        Account {
            methods: names.iter().map(method).collect(),
            threads: vec![Arc::default()],
        }
    }

    #[test]
    fn what_a_server_has_counted_outlives_it_and_is_not_counted_twice() {
        let mut accounts = Accounts::default();
        let server = account(&["s/m"]);
        let counters = Arc::clone(&server.methods[0].1);
        let thread = Arc::clone(&server.threads[0]);
        accounts.open.push(server);
        counters.turned_away(Refused::Overload, Code::ResourceExhausted);
        thread.refused.count(Refused::UnknownMethod);
        let living = accounts.totals();
        assert_eq!(accounts.open.len(), 1);
        assert_eq!(living.methods["s/m"].started, 1);
        assert_eq!(living.transport.refused[Refused::UnknownMethod as usize], 1);
        drop((counters, thread));
        assert_eq!(accounts.totals(), living);
        assert!(accounts.open.is_empty());
        assert_eq!(accounts.totals(), living);
    }

    #[test]
    fn a_server_that_serves_the_same_method_goes_on_where_the_one_before_it_ended() {
        let mut accounts = Accounts::default();
        for _ in 0..3 {
            let server = account(&["s/m"]);
            server.methods[0].1.started();
            accounts.open.push(server);
        }
        let totals = accounts.totals();
        assert_eq!((totals.methods["s/m"].started, totals.servers), (3, 3));
    }

    #[test]
    fn methods_of_ever_new_names_share_one_when_their_servers_have_ended() {
        let mut accounts = Accounts::default();
        for index in 0..KEPT_METHODS + 5 {
            let server = account(&[&format!("s/{index}")]);
            server.methods[0].1.started();
            accounts.open.push(server);
        }
        let totals = accounts.totals();
        assert_eq!(totals.methods.len(), KEPT_METHODS + 1);
        assert_eq!(totals.methods[OTHER].started, 5);
    }
}
