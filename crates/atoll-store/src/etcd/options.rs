//! How etcd is reached and used: one object, checked before anything starts.

use std::fmt::{Debug, Formatter};
use std::time::Duration;

use crate::error::OpenError;

/// The settings of the etcd engine and of the election. The defaults are those of the fields' comments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// The members' client addresses: `http://HOST:PORT`, or `https://HOST:PORT` with [`Self::tls`].
    pub endpoints: Vec<String>,
    /// What all keys begin with: `/atoll/`. No other key is read or written, so that others may use the same etcd.
    pub prefix: String,
    /// As whom to log in; none: etcd's authentication is off, or goes by the client's certificate.
    pub user: Option<EtcdUser>,
    /// How to check the members and prove who we are; needed for `https`.
    pub tls: Option<EtcdTls>,
    /// How long a leader leads without being heard.
    pub lease: LeaseTimes,
    /// How long one request may take before its outcome counts as unknown: 2 s.
    pub request_timeout: Duration,
    /// How long a connection may take to be made: 1 s.
    pub connect_timeout: Duration,
    /// How long one page of rows, or the next part of the history, may take while a store is opened: 20 s.
    pub load_timeout: Duration,
    /// etcd's `--max-txn-ops`: 128.
    pub max_operations: usize,
    /// etcd's `--max-request-bytes`: 1,572,864 (1.5 MiB).
    pub max_request_bytes: usize,
    /// How many of etcd's revisions before the newest are read for the change log at most: 100,000.
    pub history_revisions: u64,
}

/// Name and password of a user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdUser {
    /// The user's name.
    pub name: String,
    /// The user's password; never printed.
    pub password: String,
}

/// Certificates, as PEM texts.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Who signs the members' certificates.
    pub authority: Vec<u8>,
    /// Our certificate and its private key, where etcd asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in the members' certificates, unless it is the host of the endpoint.
    pub server_name: Option<String>,
}

/// The times of an election. A leader serves `validity` after sending its last keep-alive that succeeded; etcd lets nobody else lead
/// before `lease` has passed since it arrived. What lies between the two is the margin for clocks that run differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    /// How long etcd keeps a leader that is not heard, in whole seconds: 3 s.
    pub lease: Duration,
    /// How often the leader is heard: 1 s.
    pub keepalive: Duration,
    /// How long the leader serves after sending what was answered: 2 s.
    pub validity: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(3),
            keepalive: Duration::from_secs(1),
            validity: Duration::from_secs(2),
        }
    }
}

impl LeaseTimes {
    /// Checks that they go together.
    ///
    /// # Errors
    /// [`OpenError::Settings`], which says what to change.
    pub fn check(&self) -> Result<(), OpenError> {
        let Self {
            lease,
            keepalive,
            validity,
        } = *self;
        let problem = if lease.subsec_nanos() != 0 || lease.as_secs() < 2 {
            "the lease must be whole seconds, at least 2"
        } else if keepalive < Duration::from_millis(50) {
            "the keep-alive interval must be at least 0.05 s"
        } else if keepalive >= validity {
            "the keep-alive interval must be shorter than the validity, or the leader stops serving between two of them"
        } else if validity >= lease {
            "the validity must be shorter than the lease, or two servers may serve at once"
        } else {
            return Ok(());
        };
        Err(OpenError::Settings(format!(
            "{problem}; given were lease {lease:?}, keep-alive {keepalive:?}, validity {validity:?}; the defaults are 3 s, 1 s and 2 s"
        )))
    }

    /// How long one attempt to keep the lease alive may take: two fit between the interval and the end of validity.
    pub(super) fn attempt(&self) -> Duration {
        (self.validity.saturating_sub(self.keepalive) / 2).max(Duration::from_millis(50))
    }
}

impl EtcdOptions {
    /// With these endpoints and the defaults otherwise.
    pub fn new<Endpoint: Into<String>>(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "/atoll/".to_owned(),
            user: None,
            tls: None,
            lease: LeaseTimes::default(),
            request_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            load_timeout: Duration::from_secs(20),
            max_operations: 128,
            max_request_bytes: 1_572_864,
            history_revisions: 100_000,
        }
    }

    /// Checks everything that can be checked without etcd.
    ///
    /// # Errors
    /// [`OpenError::Settings`], which says what to change.
    pub fn check(&self) -> Result<(), OpenError> {
        self.lease.check()?;
        let wrong = |reason: String| Err(OpenError::Settings(reason));
        if self.endpoints.is_empty() {
            return wrong(
                "no etcd endpoints; name at least one, as in http://127.0.0.1:2379".into(),
            );
        }
        for endpoint in &self.endpoints {
            match (endpoint.split_once("://"), &self.tls) {
                (Some(("http", _)), None) | (Some(("https", _)), Some(_)) => {}
                (Some(("https", _)), None) => {
                    return wrong(format!(
                        "{endpoint} needs TLS: give the certificate authority of etcd"
                    ));
                }
                (Some(("http", _)), Some(_)) => {
                    return wrong(format!(
                        "{endpoint} is without TLS, but certificates are given: write https://"
                    ));
                }
                _ => {
                    return wrong(format!(
                        "{endpoint} is no endpoint of etcd; write http://HOST:PORT or https://HOST:PORT"
                    ));
                }
            }
        }
        if self.prefix.len() < 3 || !self.prefix.starts_with('/') || !self.prefix.ends_with('/') {
            return wrong(format!(
                "the prefix {:?} must begin and end with a slash, as in /atoll/",
                self.prefix
            ));
        }
        if self.max_operations < 8 {
            return wrong(
                "max_operations must be at least 8; etcd's own default of --max-txn-ops is 128"
                    .into(),
            );
        }
        if self.max_request_bytes < 64 << 10 {
            return wrong("max_request_bytes must be at least 64 KiB; etcd's own default of --max-request-bytes is 1572864".into());
        }
        let times = [
            self.request_timeout,
            self.connect_timeout,
            self.load_timeout,
        ];
        if times.iter().any(|it| *it < Duration::from_millis(10)) {
            return wrong("the timeouts of etcd must be at least 0.01 s".into());
        }
        Ok(())
    }
}

impl Debug for EtcdUser {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdUser")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Debug for EtcdTls {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdTls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut EtcdOptions), mentions: &str) {
        let mut options = EtcdOptions::new(["http://127.0.0.1:2379"]);
        assert!(options.check().is_ok());
        change(&mut options);
        let message = options.check().unwrap_err().to_string();
        assert!(
            message.contains(mentions),
            "{message:?} does not mention {mentions:?}"
        );
    }

    #[test]
    fn wrong_options_are_refused_with_what_to_change() {
        let seconds = Duration::from_secs_f64;
        refused(|it| it.endpoints.clear(), "name at least one");
        refused(
            |it| it.endpoints[0] = "127.0.0.1:2379".into(),
            "http://HOST:PORT",
        );
        refused(
            |it| it.endpoints[0] = "https://etcd:2379".into(),
            "certificate authority",
        );
        refused(|it| it.prefix = "/".into(), "as in /atoll/");
        refused(|it| it.prefix = "/atoll".into(), "end with a slash");
        refused(|it| it.lease.lease = seconds(2.5), "whole seconds");
        refused(
            |it| it.lease.keepalive = seconds(2.0),
            "shorter than the validity",
        );
        refused(
            |it| it.lease.validity = seconds(3.0),
            "shorter than the lease",
        );
        refused(|it| it.lease.keepalive = seconds(0.01), "at least 0.05 s");
        refused(|it| it.max_operations = 4, "--max-txn-ops");
        refused(|it| it.max_request_bytes = 1, "--max-request-bytes");
        refused(|it| it.request_timeout = Duration::ZERO, "at least 0.01 s");
        let tls = EtcdTls {
            authority: Vec::new(),
            identity: None,
            server_name: None,
        };
        refused(|it| it.tls = Some(tls), "write https://");
    }

    #[test]
    fn secrets_are_not_printed() {
        let mut options = EtcdOptions::new(["http://127.0.0.1:2379"]);
        options.user = Some(EtcdUser {
            name: "atoll".into(),
            password: "a-secret".into(),
        });
        assert!(!format!("{options:?}").contains("a-secret"));
    }
}
