//! Who may call: tokens and the cluster's id, checked on the network thread before a call has cost anything.
//!
//! | field      | written by                                       | read by         | under                 |
//! |------------|--------------------------------------------------|-----------------|-----------------------|
//! | `tokens`   | [`Authentication::replace_tokens`], any thread   | network threads | a lock, read per call |
//! | `refusals` | network threads                                  | any             | atomically, relaxed   |

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use subtle::{Choice, ConstantTimeEq};

use super::counters::count;
use super::status::{Code, Status};

/// The scheme of RFC 6750; schemes are case-insensitive (RFC 9110, section 11.1).
const SCHEME: &[u8] = b"bearer ";

const HEALTH: &str = "/grpc.health.v1.Health/";

/// What a server asks of every call: one of its tokens, the id of its cluster, or both.
///
/// A token is compared in a time that depends on its length and not on its contents.
pub struct Authentication {
    tokens: Option<RwLock<Vec<Box<[u8]>>>>,
    cluster: Option<ClusterId>,
    exempts_health: bool,
    refusals: Refusals,
}

/// The metadata in which a client says which cluster it means.
#[derive(Clone, Debug)]
pub struct ClusterId {
    /// The metadata's key.
    pub key: HeaderName,
    /// The only value that is accepted.
    pub id: Box<str>,
    /// Whether a call may leave it out, as clients do that have yet to learn it.
    pub may_be_missing: bool,
}

#[derive(Debug, Default)]
struct Refusals {
    token_missing: AtomicU64,
    token_wrong: AtomicU64,
    cluster_id_missing: AtomicU64,
    cluster_id_wrong: AtomicU64,
}

/// Calls that were answered UNAUTHENTICATED, by the first thing that was wrong with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthenticationStats {
    /// There was no `authorization: Bearer …`.
    pub token_missing: u64,
    /// The token was none of the valid ones.
    pub token_wrong: u64,
    /// There was no cluster id.
    pub cluster_id_missing: u64,
    /// The cluster id was another one.
    pub cluster_id_wrong: u64,
}

impl Authentication {
    /// Asks for one of `tokens` if there are any given (of an empty list none is valid), and for the id of `cluster`.
    #[must_use]
    pub fn new(
        tokens: Option<Vec<Box<[u8]>>>,
        cluster: Option<ClusterId>,
        exempts_health: bool,
    ) -> Self {
        Self {
            tokens: tokens.map(RwLock::new),
            cluster,
            exempts_health,
            refusals: Refusals::default(),
        }
    }

    /// From now on these tokens are valid and no others; `false` when this server does not ask for tokens.
    pub fn replace_tokens(&self, tokens: Vec<Box<[u8]>>) -> bool {
        let Some(present) = &self.tokens else {
            return false;
        };
        *present.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        true
    }

    /// What was refused so far.
    #[must_use]
    pub fn stats(&self) -> AuthenticationStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AuthenticationStats {
            token_missing: of(&self.refusals.token_missing),
            token_wrong: of(&self.refusals.token_wrong),
            cluster_id_missing: of(&self.refusals.cluster_id_missing),
            cluster_id_wrong: of(&self.refusals.cluster_id_wrong),
        }
    }

    pub(super) fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Status> {
        if self.exempts_health && path.starts_with(HEALTH) {
            return Ok(());
        }
        self.check_token(headers)?;
        self.check_cluster(headers)
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Status> {
        let Some(valid) = &self.tokens else {
            return Ok(());
        };
        let Some(token) = bearer_token(headers) else {
            count(&self.refusals.token_missing);
            return Err(unauthenticated(
                "the call has no token: send the metadata 'authorization: Bearer TOKEN'",
            ));
        };
        let valid = valid.read().unwrap_or_else(PoisonError::into_inner);
        // All of them, so that the time does not tell which one was nearly right.
        let matches = valid.iter().fold(Choice::from(0), |matches, valid| {
            matches | valid.as_ref().ct_eq(token)
        });
        if bool::from(matches) {
            return Ok(());
        }
        count(&self.refusals.token_wrong);
        Err(unauthenticated(
            "the token of the call is not valid here: it has been replaced, or is another server's",
        ))
    }

    fn check_cluster(&self, headers: &HeaderMap) -> Result<(), Status> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        match headers.get(&cluster.key) {
            Some(id) if id == cluster.id.as_ref() => Ok(()),
            None if cluster.may_be_missing => Ok(()),
            Some(_) => {
                count(&self.refusals.cluster_id_wrong);
                let key = &cluster.key;
                let text = format!(
                    "the call is meant for another cluster: its metadata '{key}' is not this cluster's id"
                );
                Err(Status::new(Code::Unauthenticated, text))
            }
            None => {
                count(&self.refusals.cluster_id_missing);
                let key = &cluster.key;
                let text = format!(
                    "the call does not say which cluster it is meant for: send the cluster's id as the metadata '{key}'"
                );
                Err(Status::new(Code::Unauthenticated, text))
            }
        }
    }
}

/// Without the tokens, which are secret.
impl fmt::Debug for Authentication {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Authentication")
            .field("asks_for_tokens", &self.tokens.is_some())
            .field("cluster", &self.cluster)
            .field("exempts_health", &self.exempts_health)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

fn unauthenticated(text: &'static str) -> Status {
    Status::new(Code::Unauthenticated, text)
}

fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme
        .eq_ignore_ascii_case(SCHEME)
        .then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const PATH: &str = "/s/m";

    fn tokens(tokens: &[&str]) -> Vec<Box<[u8]>> {
        tokens.iter().map(|token| token.as_bytes().into()).collect()
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        fields.iter().copied().map(pair).collect()
    }

    fn cluster(may_be_missing: bool) -> ClusterId {
        ClusterId {
            key: HeaderName::from_static("cluster-id"),
            id: "c-17".into(),
            may_be_missing,
        }
    }

    #[test]
    fn any_of_several_tokens_is_valid_and_no_other() {
        let auth = Authentication::new(Some(tokens(&["new", "old"])), None, false);
        for valid in ["Bearer new", "bearer old", "BEARER  new "] {
            let checked = auth.check(PATH, &headers(&[("authorization", valid)]));
            assert_eq!(checked, Ok(()), "{valid}");
        }
        for wrong in [
            "Bearer ne",
            "Bearer newer",
            "Bearer ",
            "Bearer x",
            "Bearer old new",
        ] {
            let refused = auth
                .check(PATH, &headers(&[("authorization", wrong)]))
                .unwrap_err();
            assert_eq!(refused.code, Code::Unauthenticated, "{wrong}");
        }
        for missing in ["", "new", "Basic new", "Bearer"] {
            assert!(
                auth.check(PATH, &headers(&[("authorization", missing)]))
                    .is_err(),
                "{missing}"
            );
        }
        assert!(auth.check(PATH, &HeaderMap::new()).is_err());
        let stats = auth.stats();
        assert_eq!((stats.token_wrong, stats.token_missing), (5, 5));
    }

    #[test]
    fn replaced_tokens_are_not_valid_any_more() {
        let auth = Authentication::new(Some(tokens(&["old"])), None, false);
        let (old, new) = (
            headers(&[("authorization", "Bearer old")]),
            headers(&[("authorization", "Bearer new")]),
        );
        assert!(auth.check(PATH, &old).is_ok() && auth.check(PATH, &new).is_err());
        assert!(auth.replace_tokens(tokens(&["new"])));
        assert!(auth.check(PATH, &old).is_err() && auth.check(PATH, &new).is_ok());
        assert!(auth.replace_tokens(Vec::new()));
        assert!(auth.check(PATH, &new).is_err());
        assert!(!Authentication::new(None, None, false).replace_tokens(Vec::new()));
    }

    #[test]
    fn another_clusters_id_is_refused_and_a_missing_one_only_where_it_is_required() {
        for (may_be_missing, missing) in [(false, false), (true, true)] {
            let auth = Authentication::new(None, Some(cluster(may_be_missing)), false);
            assert!(
                auth.check(PATH, &headers(&[("cluster-id", "c-17")]))
                    .is_ok()
            );
            assert!(
                auth.check(PATH, &headers(&[("cluster-id", "c-18")]))
                    .is_err()
            );
            assert_eq!(auth.check(PATH, &HeaderMap::new()).is_ok(), missing);
            let stats = auth.stats();
            assert_eq!(
                (stats.cluster_id_wrong, stats.cluster_id_missing),
                (1, u64::from(!missing))
            );
        }
    }

    #[test]
    fn health_is_exempt_only_where_that_is_asked_for() {
        for exempt in [false, true] {
            let auth = Authentication::new(Some(Vec::new()), Some(cluster(false)), exempt);
            let health = "/grpc.health.v1.Health/Check";
            assert_eq!(auth.check(health, &HeaderMap::new()).is_ok(), exempt);
            assert!(auth.check(PATH, &HeaderMap::new()).is_err());
        }
    }

    #[test]
    fn what_is_shown_of_it_has_no_tokens() {
        let auth = Authentication::new(Some(tokens(&["secret"])), None, false);
        let shown = format!("{auth:?}");
        assert!(!shown.contains("secret") && !shown.contains("115"));
    }
}
