//! The certificates of a server, parsed and checked, and replaceable while it serves.
//!
//! | field    | written by                                     | read by                         | under    |
//! |----------|------------------------------------------------|---------------------------------|----------|
//! | `config` | [`ServerCertificates::replace`], on any thread | network threads, per connection | its lock |
//! | `roots`  | the same                                       | the same thread                 | its lock |
//!
//! `roots` is locked while certificates are parsed, `config` only to exchange the pointer.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};

/// The only protocol that is spoken here.
pub(super) const ALPN: &[u8] = b"h2";

/// A private key and the chain of certificates that belongs to it, both as PEM.
#[derive(Clone, Copy)]
pub struct PemPair<'a> {
    /// PKCS #8, PKCS #1 (RSA) or SEC 1 (elliptic curves), not encrypted.
    pub private_key: &'a [u8],
    /// The server's own certificate first, then those that lead to its root.
    pub certificate_chain: &'a [u8],
}

/// What a server shows to its clients and which of theirs it accepts. Any thread may replace it at any time; handshakes that
/// begin later use the new certificates, connections that are open stay as they are.
///
/// Sessions are never resumed: each connection proves anew who the client is, against the roots of that moment.
pub struct ServerCertificates {
    requires_client_certificates: bool,
    config: Mutex<Arc<ServerConfig>>,
    roots: Mutex<Option<Arc<RootCertStore>>>,
}

impl ServerCertificates {
    /// Parses and checks. Of several pairs a client gets the first whose certificate has the name that it asked for, and that
    /// it can verify; else the first that it can verify.
    ///
    /// # Errors
    ///
    /// [`CertificateError`] says what is wrong with which of them.
    pub fn new(
        pairs: &[PemPair<'_>],
        roots: Option<&[u8]>,
        requires_client_certificates: bool,
    ) -> Result<Self, CertificateError> {
        let roots = roots.map(parse_roots).transpose()?;
        Ok(Self {
            requires_client_certificates,
            config: Mutex::new(config(pairs, roots.as_ref(), requires_client_certificates)?),
            roots: Mutex::new(roots),
        })
    }

    /// Replaces the pairs, and the roots of the clients if there are any; without, the present ones stay. Nothing changes
    /// when there is an error.
    ///
    /// # Errors
    ///
    /// [`CertificateError`] says what is wrong with which of them.
    pub fn replace(
        &self,
        pairs: &[PemPair<'_>],
        roots: Option<&[u8]>,
    ) -> Result<(), CertificateError> {
        let mut present = lock(&self.roots);
        let roots = match roots {
            Some(roots) => Some(parse_roots(roots)?),
            None => present.clone(),
        };
        let config = config(pairs, roots.as_ref(), self.requires_client_certificates)?;
        *lock(&self.config) = config;
        *present = roots;
        Ok(())
    }

    /// Whether a client must show a certificate of the roots.
    #[must_use]
    pub fn requires_client_certificates(&self) -> bool {
        self.requires_client_certificates
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&lock(&self.config))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for ServerCertificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerCertificates")
            .field(
                "requires_client_certificates",
                &self.requires_client_certificates,
            )
            .finish_non_exhaustive()
    }
}

fn config(
    pairs: &[PemPair<'_>],
    roots: Option<&Arc<RootCertStore>>,
    requires_client_certificates: bool,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let provider = Arc::new(ring::default_provider());
    if pairs.is_empty() {
        return Err(CertificateError::NoPair);
    }
    let keys = pairs
        .iter()
        .enumerate()
        .map(|(index, pair)| certified_key(index, *pair, &provider))
        .collect::<Result<_, _>>()?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| CertificateError::Roots(error.to_string()))?;
    let builder = if requires_client_certificates {
        let roots = roots.ok_or(CertificateError::NoRoots)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider)
            .build()
            .map_err(|error| CertificateError::Roots(error.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        // As in grpcio, whose servers don't ask for a certificate that they don't require.
        builder.with_no_client_auth()
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(keys)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certified_key(
    index: usize,
    pair: PemPair<'_>,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, CertificateError> {
    let key = PrivateKeyDer::from_pem_slice(pair.private_key)
        .map_err(|error| CertificateError::key_pem(index, pair.private_key, &error))?;
    let chain = parse_chain(pair.certificate_chain).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::no_chain(index, pair.certificate_chain),
        error => CertificateError::Chain(index, error.to_string()),
    })?;
    for certificate in &chain {
        ParsedCertificate::try_from(certificate)
            .map_err(|error| CertificateError::Chain(index, error.to_string()))?;
    }
    match CertifiedKey::from_der(chain, key, provider) {
        Ok(key) => Ok(Arc::new(key)),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(CertificateError::Mismatch(index))
        }
        Err(error) => Err(CertificateError::Key(index, error.to_string())),
    }
}

fn parse_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if chain.is_empty() {
        return Err(pem::Error::NoItemsFound);
    }
    Ok(chain)
}

fn parse_roots(pem: &[u8]) -> Result<Arc<RootCertStore>, CertificateError> {
    let wrong = |error: &dyn fmt::Display| CertificateError::Roots(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in parse_chain(pem).map_err(|error| wrong(&Pem(&error)))? {
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    Ok(Arc::new(roots))
}

/// Chooses a certificate by the name that the client asks for.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok());
        let named = |key: &CertifiedKey| {
            let parsed = key
                .end_entity_cert()
                .and_then(ParsedCertificate::try_from)
                .ok();
            let valid = |name| parsed.is_some_and(|cert| verify_server_name(&cert, name).is_ok());
            name.as_ref().is_some_and(valid)
        };
        let schemes = hello.signature_schemes();
        let usable = || {
            let keys = self.0.iter();
            keys.filter(|key| key.key.choose_scheme(schemes).is_some())
        };
        usable()
            .find(|key| named(key))
            .or_else(|| usable().next())
            .cloned()
    }
}

/// What is wrong with certificates; the message says with which, and what is expected. Pairs are counted from 0 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateError {
    /// There is no pair at all.
    NoPair,
    /// Client certificates are required, and there are no roots to check them.
    NoRoots,
    /// The private key of this pair can't be used.
    Key(usize, String),
    /// The certificates of this pair can't be used.
    Chain(usize, String),
    /// The key of this pair belongs to another certificate.
    Mismatch(usize),
    /// The roots can't be used.
    Roots(String),
}

impl CertificateError {
    fn key_pem(index: usize, pem: &[u8], error: &pem::Error) -> Self {
        let contains = |text: &str| {
            pem.windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        let problem = if contains("ENCRYPTED") {
            "it is encrypted; decrypt it first, with: openssl pkey".into()
        } else if contains("BEGIN CERTIFICATE") {
            "it is a certificate; each pair is (private key, certificate chain), in this order"
                .into()
        } else {
            Pem(error).to_string()
        };
        Self::Key(index, problem)
    }

    fn no_chain(index: usize, pem: &[u8]) -> Self {
        let swapped = PrivateKeyDer::from_pem_slice(pem).is_ok();
        Self::Chain(
            index,
            if swapped {
                "it is a private key; each pair is (private key, certificate chain), in this order"
                    .into()
            } else {
                Pem(&pem::Error::NoItemsFound).to_string()
            },
        )
    }
}

/// A PEM error with what to do about it.
struct Pem<'a>(&'a pem::Error);

impl fmt::Display for Pem<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            pem::Error::NoItemsFound => formatter.write_str(
                "there is none; pass PEM (lines from -----BEGIN ... to -----END ...), the file's contents and not its name",
            ),
            error => error.fmt(formatter),
        }
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPair => formatter.write_str(
                "there is no certificate: pass at least one pair of a private key and its certificate chain",
            ),
            Self::NoRoots => formatter.write_str(
                "clients are required to show certificates, and there are no root certificates to check them by: pass \
                 root_certificates, or leave out require_client_auth",
            ),
            Self::Key(index, problem) => write!(formatter, "the private key of pair {index}: {problem}"),
            Self::Chain(index, problem) => {
                write!(formatter, "the certificate chain of pair {index}: {problem}")
            }
            Self::Mismatch(index) => write!(
                formatter,
                "the private key of pair {index} is not that of its first certificate: pass the key that the certificate was \
                 issued for, and the server's own certificate first in its chain"
            ),
            Self::Roots(problem) => write!(formatter, "the root certificates: {problem}"),
        }
    }
}

impl std::error::Error for CertificateError {}
