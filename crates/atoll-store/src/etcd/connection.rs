//! Connections to etcd's members, one at a time, and what their errors mean.
//!
//! etcd-client balances over all endpoints and so can't be told to leave one that does not answer. Here each endpoint has a client
//! of its own; a request that fails drops the connection and goes to the next. Nothing repeats a request by itself: etcd-client only
//! does for an expired token, and only when asked to (`with_auto_token_refresh`), which it is not; what is below it (tonic, tower,
//! hyper's HTTP/2 client) reconnects, but repeats nothing.

use std::error::Error as StdError;
use std::fmt::{Display, Formatter};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};

use super::options::EtcdOptions;

/// Why a request brought no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No connection could be made: it has not been done.
    NotSent(String),
    /// It may or may not have been done, now or later.
    Unclear(String),
    /// etcd knows our token no more: it has not been done, and a new connection logs in again.
    LoggedOut(String),
    /// etcd has no room.
    Full(String),
    /// Beyond a limit of etcd.
    TooLarge(String),
    /// The history that was asked for is gone.
    Compacted(String),
    /// etcd won't do this, however often it is asked.
    Refused(String),
}

impl Display for Trouble {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent(it) | Self::Unclear(it) | Self::LoggedOut(it) => f.write_str(it),
            Self::Full(it) => write!(
                f,
                "etcd has no room ({it}): compact and defragment it, raise --quota-backend-bytes, then `etcdctl alarm disarm`"
            ),
            Self::TooLarge(it) => write!(
                f,
                "more than etcd takes at once ({it}): make the batch smaller, or set max_operations and max_request_bytes of EtcdOptions to etcd's \
                 --max-txn-ops and --max-request-bytes"
            ),
            Self::Compacted(it) => write!(f, "etcd has dropped that part of its history: {it}"),
            Self::Refused(it) => write!(
                f,
                "etcd refuses: {it}; check the user, its password and its role, which must allow reading and writing the prefix"
            ),
        }
    }
}

/// The connection that is in use, and where to go next.
pub(super) struct Endpoints {
    options: Arc<EtcdOptions>,
    client: Option<Client>,
    current: usize,
    /// Have etcd answer with an error, instead of not at all, while it has no leader.
    require_leader: bool,
}

impl Endpoints {
    pub(super) fn new(options: Arc<EtcdOptions>, require_leader: bool) -> Self {
        Self {
            options,
            client: None,
            current: 0,
            require_leader,
        }
    }

    /// Makes one request, within `limit`. If it brings trouble that another member may not have, the next goes elsewhere.
    pub(super) async fn request<Answer, Asking>(
        &mut self,
        limit: Duration,
        ask: impl FnOnce(Client) -> Asking,
    ) -> Result<Answer, Trouble>
    where
        Asking: Future<Output = Result<Answer, Error>>,
    {
        let client = match tokio::time::timeout(limit, self.connect()).await {
            Ok(Ok(client)) => client,
            Ok(Err(trouble)) => {
                self.go_on();
                return Err(trouble);
            }
            Err(_) => {
                let trouble =
                    Trouble::NotSent(format!("{} did not answer within {limit:?}", self.name()));
                self.go_on();
                return Err(trouble);
            }
        };
        let answer = match tokio::time::timeout(limit, ask(client)).await {
            Ok(answer) => answer.map_err(|error| trouble(&error, self.name())),
            Err(_) => Err(Trouble::Unclear(format!(
                "{} did not answer within {limit:?}",
                self.name()
            ))),
        };
        if let Err(Trouble::NotSent(_) | Trouble::Unclear(_) | Trouble::LoggedOut(_)) = answer {
            self.go_on();
        }
        answer
    }

    /// Gives up the connection; the next request goes to the next member.
    pub(super) fn go_on(&mut self) {
        self.client = None;
        self.current = (self.current + 1) % self.options.endpoints.len();
    }

    /// The endpoint in use.
    pub(super) fn name(&self) -> &str {
        &self.options.endpoints[self.current]
    }

    async fn connect(&mut self) -> Result<Client, Trouble> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let options = &*self.options;
        let endpoint = &options.endpoints[self.current];
        let mut how = ConnectOptions::new()
            .with_connect_timeout(options.connect_timeout)
            .with_require_leader(self.require_leader);
        if let Some(user) = &options.user {
            how = how.with_user(&user.name, &user.password);
        }
        if let Some(tls) = &options.tls {
            let mut certificates =
                TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.authority));
            if let Some((certificate, key)) = &tls.identity {
                certificates = certificates.identity(Identity::from_pem(certificate, key));
            }
            if let Some(name) = &tls.server_name {
                certificates = certificates.domain_name(name);
            }
            how = how.with_tls(certificates);
        }
        // Logs in if there is a user; otherwise nothing is sent before the first request. Doing that twice does no harm.
        let client = Client::connect([endpoint], Some(how)).await;
        let client = client.map_err(|error| match trouble(&error, endpoint) {
            Trouble::Unclear(it) => Trouble::NotSent(it),
            other => other,
        })?;
        self.client = Some(client.clone());
        Ok(client)
    }
}

/// What an error of etcd-client means for the request.
fn trouble(error: &Error, endpoint: &str) -> Trouble {
    let text = format!("{endpoint}: {}", message(error));
    if let Error::GRpcStatus(status) = error {
        let code = status.code() as i32;
        for (part, kind) in KNOWN {
            if status.message().contains(part) {
                return kind(text);
            }
        }
        return match code {
            INVALID_ARGUMENT | NOT_FOUND | PERMISSION_DENIED | FAILED_PRECONDITION
            | UNIMPLEMENTED => Trouble::Refused(text),
            OUT_OF_RANGE => Trouble::TooLarge(text),
            UNAUTHENTICATED => Trouble::LoggedOut(text),
            _ if is_refused_connection(status) => Trouble::NotSent(text),
            _ => Trouble::Unclear(text),
        };
    }
    match error {
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
            Trouble::Refused(text)
        }
        _ if is_refused_connection(error) => Trouble::NotSent(text),
        _ => Trouble::Unclear(text),
    }
}

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

/// Makes a trouble of its text.
type Kind = fn(String) -> Trouble;

/// Parts of etcd's messages, which say more than its codes do. What is not here goes by its code.
const KNOWN: [(&str, Kind); 10] = [
    ("database space exceeded", Trouble::Full),
    ("request is too large", Trouble::TooLarge),
    ("too many operations in txn", Trouble::TooLarge),
    ("received message larger than max", Trouble::TooLarge),
    ("message length too large", Trouble::TooLarge),
    ("has been compacted", Trouble::Compacted),
    ("invalid auth token", Trouble::LoggedOut),
    ("revision in header is old", Trouble::LoggedOut),
    ("authentication failed", Trouble::Refused),
    ("permission denied", Trouble::Refused),
];

/// The error and what caused it, in one line.
fn message(error: &Error) -> String {
    let mut text = match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    let mut cause = match error {
        Error::GRpcStatus(status) => status.source(),
        Error::TransportError(error) => error.source(),
        other => other.source(),
    };
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Whether nobody listened, so that nothing can have been sent.
fn is_refused_connection(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let is_refused = |it: &io::Error| it.kind() == io::ErrorKind::ConnectionRefused;
        if error.downcast_ref::<io::Error>().is_some_and(is_refused) {
            return true;
        }
        cause = error.source();
    }
    false
}
