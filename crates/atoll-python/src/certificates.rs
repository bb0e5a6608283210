//! `CertificatesCore`: what a TLS port shows and whom it trusts. `atoll.rpc.ServerCertificates` derives from it.

use std::sync::Arc;

use atoll_core::transport::{PemPair, ServerCertificates};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::error;

/// A private key and its certificate chain, as PEM.
type Pair = (PyBackedBytes, PyBackedBytes);

/// Certificates that network threads read and any thread may replace; see `atoll.rpc.ServerCertificates`.
#[pyclass(subclass, frozen, weakref, module = "atoll._core")]
pub(crate) struct CertificatesCore {
    pub(crate) certificates: Arc<ServerCertificates>,
}

fn pem_pairs(pairs: &[Pair]) -> Vec<PemPair<'_>> {
    let pair = |(private_key, certificate_chain)| PemPair {
        private_key,
        certificate_chain,
    };
    pairs
        .iter()
        .map(|(key, chain)| pair((&**key, &**chain)))
        .collect()
}

#[pymethods]
impl CertificatesCore {
    #[new]
    #[pyo3(signature = (pairs, roots, require_client_auth))]
    fn new(
        py: Python<'_>,
        pairs: Vec<Pair>,
        roots: Option<PyBackedBytes>,
        require_client_auth: bool,
    ) -> PyResult<Self> {
        let certificates = py
            .detach(|| {
                ServerCertificates::new(&pem_pairs(&pairs), roots.as_deref(), require_client_auth)
            })
            .map_err(|problem| error::certificates(&problem))?;
        Ok(Self {
            certificates: Arc::new(certificates),
        })
    }

    #[pyo3(signature = (pairs, roots))]
    fn _replace(
        &self,
        py: Python<'_>,
        pairs: Vec<Pair>,
        roots: Option<PyBackedBytes>,
    ) -> PyResult<()> {
        py.detach(|| {
            self.certificates
                .replace(&pem_pairs(&pairs), roots.as_deref())
        })
        .map_err(|problem| error::certificates(&problem))
    }

    /// Whether a client must show a certificate of the roots.
    #[getter]
    fn require_client_auth(&self) -> bool {
        self.certificates.requires_client_certificates()
    }
}
