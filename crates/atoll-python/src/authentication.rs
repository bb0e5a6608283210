//! `AuthenticationCore`: what a server asks of every call. `atoll.rpc.Authentication` derives from it.

use std::sync::Arc;

use atoll_core::transport::{Authentication, ClusterId};
use http::HeaderName;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// What network threads check before a call reaches Python; see `atoll.rpc.Authentication`.
#[pyclass(subclass, frozen, module = "atoll._core")]
pub(crate) struct AuthenticationCore {
    pub(crate) authentication: Arc<Authentication>,
}

fn as_bytes(tokens: Vec<String>) -> Vec<Box<[u8]>> {
    let bytes = |token: String| token.into_bytes().into();
    tokens.into_iter().map(bytes).collect()
}

#[pymethods]
impl AuthenticationCore {
    #[new]
    #[pyo3(signature = (tokens, cluster_id, cluster_id_key, require_cluster_id, exempt_health))]
    fn new(
        tokens: Option<Vec<String>>,
        cluster_id: Option<String>,
        cluster_id_key: &str,
        require_cluster_id: bool,
        exempt_health: bool,
    ) -> PyResult<Self> {
        let cluster = match cluster_id {
            None => None,
            Some(id) => Some(ClusterId {
                key: HeaderName::from_bytes(cluster_id_key.as_bytes()).map_err(|_| {
                    PyValueError::new_err(format!(
                        "cluster_id_key={cluster_id_key:?} is no metadata key: use lower-case letters, digits, '-' and '_'"
                    ))
                })?,
                id: id.into(),
                may_be_missing: !require_cluster_id,
            }),
        };
        Ok(Self {
            authentication: Arc::new(Authentication::new(
                tokens.map(as_bytes),
                cluster,
                exempt_health,
            )),
        })
    }

    /// False when no tokens are asked for.
    fn _replace_tokens(&self, tokens: Vec<String>) -> bool {
        self.authentication.replace_tokens(as_bytes(tokens))
    }

    /// Calls refused so far: without a token, with a wrong one, without a cluster id, with a wrong one.
    fn _refused(&self) -> (u64, u64, u64, u64) {
        let stats = self.authentication.stats();
        (
            stats.token_missing,
            stats.token_wrong,
            stats.cluster_id_missing,
            stats.cluster_id_wrong,
        )
    }
}
