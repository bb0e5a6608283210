//! Who a client is, by its certificate: grpc's authentication context.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

use rustls::ServerConnection;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::transport::base64;

const COMMON_NAME: &str = "x509_common_name";
const ALTERNATIVE_NAME: &str = "x509_subject_alternative_name";

/// What SPIFFE allows for an identity.
const LONGEST_SPIFFE_ID: usize = 2048;

/// What is known of a client that has finished its handshake. The certificate is read when it is first asked for, once per
/// connection.
#[derive(Debug)]
pub struct TlsPeer {
    certificate: Option<CertificateDer<'static>>,
    server_name: Option<Box<str>>,
    version: &'static str,
    key_exchange: Option<String>,
    context: OnceLock<AuthContext>,
}

/// A client's properties, each with its values, in the words of grpc's `auth_context()`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthContext {
    properties: Vec<(&'static str, Vec<Vec<u8>>)>,
}

impl AuthContext {
    /// Every property with its values.
    #[must_use]
    pub fn properties(&self) -> &[(&'static str, Vec<Vec<u8>>)] {
        &self.properties
    }

    /// The values of one property; none when there is no such property.
    #[must_use]
    pub fn values(&self, name: &str) -> &[Vec<u8>] {
        let property = self.properties.iter().find(|(known, _)| *known == name);
        property.map_or(&[], |(_, values)| values)
    }

    /// The property that tells who the client is: its alternative names, else its common name.
    #[must_use]
    pub fn identity_key(&self) -> Option<&'static str> {
        let names = [ALTERNATIVE_NAME, COMMON_NAME];
        names.into_iter().find(|name| !self.values(name).is_empty())
    }

    /// The context of a connection without TLS.
    #[must_use]
    pub fn insecure() -> Self {
        let mut context = Self::default();
        context.add("transport_security_type", "insecure");
        context.add("security_level", "TSI_SECURITY_NONE");
        context
    }

    fn add(&mut self, name: &'static str, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.properties.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => self.properties.push((name, vec![value])),
        }
    }
}

impl TlsPeer {
    pub(super) fn new(session: &ServerConnection, server_name: Option<Box<str>>) -> Self {
        let certificates = session.peer_certificates().unwrap_or_default();
        let key_exchange = session.negotiated_key_exchange_group();
        Self {
            certificate: certificates.first().cloned(),
            server_name,
            version: match session.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            key_exchange: key_exchange.map(|group| format!("{:?}", group.name())),
            context: OnceLock::new(),
        }
    }

    /// The client's own certificate (DER), if it showed one.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// The client's properties.
    pub fn auth_context(&self) -> &AuthContext {
        self.context.get_or_init(|| {
            let mut context = AuthContext::default();
            context.add("transport_security_type", "ssl");
            if let Some(certificate) = &self.certificate {
                add_certificate(&mut context, certificate);
            }
            context.add("security_level", "TSI_PRIVACY_AND_INTEGRITY");
            context.add("ssl_session_reused", "false");
            if let Some(name) = &self.server_name {
                context.add("ssl_requested_server_name", name.as_bytes());
            }
            context.add("ssl_tls_version", self.version);
            if let Some(group) = &self.key_exchange {
                context.add("ssl_negotiated_key_exchange_group", group.as_bytes());
            }
            context
        })
    }
}

/// What a certificate says. Its chain was verified, so that it is well-formed where that matters; what can't be read all the
/// same is left out.
fn add_certificate(context: &mut AuthContext, der: &[u8]) {
    context.add("x509_pem_cert", pem(der));
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return;
    };
    context.add("x509_subject", subject(certificate.subject()));
    for name in certificate.subject().iter_common_name().take(1) {
        context.add(COMMON_NAME, name.as_slice());
    }
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return;
    };
    let mut uris = Vec::new();
    for name in &names.value.general_names {
        let (kind, value) = match name {
            GeneralName::DNSName(name) => ("peer_dns", (*name).to_owned()),
            GeneralName::URI(uri) => {
                uris.push(*uri);
                ("peer_uri", (*uri).to_owned())
            }
            GeneralName::RFC822Name(address) => ("peer_email", (*address).to_owned()),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => ("peer_ip", address.to_string()),
                None => continue,
            },
            // Such names are no part of grpc's context.
            _ => continue,
        };
        context.add(ALTERNATIVE_NAME, value.as_bytes());
        context.add(kind, value);
    }
    if let [uri] = uris[..]
        && uri.starts_with("spiffe://")
        && uri.len() <= LONGEST_SPIFFE_ID
    {
        context.add("peer_spiffe_id", uri);
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|bytes| Ipv6Addr::from(bytes).into())
}

fn pem(der: &[u8]) -> String {
    const COLUMNS: usize = 64;
    let mut encoded = base64::encode(der);
    while !encoded.len().is_multiple_of(4) {
        encoded.push('=');
    }
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(COLUMNS) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The subject as RFC 2253 writes it, the last part first: `CN=node-7,O=Example`.
fn subject(name: &X509Name<'_>) -> String {
    let attribute = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        let kind = attribute.attr_type();
        let kind =
            oid2abbrev(kind, oid_registry()).map_or_else(|_| kind.to_id_string(), Into::into);
        let value = attribute.as_str().map_or_else(
            |_| String::from_utf8_lossy(attribute.as_slice()).into_owned(),
            ToOwned::to_owned,
        );
        format!("{kind}={}", escaped(&value))
    };
    let parts: Vec<String> = name
        .iter_rdn()
        .map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut escaped = String::with_capacity(value.len());
    for (index, character) in value.chars().enumerate() {
        let at_the_edge =
            (index == 0 && matches!(character, ' ' | '#')) || (index == last && character == ' ');
        if at_the_edge || matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_becomes_pem_of_64_columns_with_padding() {
        let pem = pem(&[0; 49]);
        let lines: Vec<&str> = pem.lines().collect();
        assert_eq!(lines[1].len(), 64);
        assert_eq!(lines[2], "AA==");
    }

    #[test]
    fn characters_of_meaning_are_escaped_in_a_subject() {
        assert_eq!(escaped("a,b+c"), "a\\,b\\+c");
        assert_eq!(escaped(" a "), "\\ a\\ ");
        assert_eq!(escaped("#a#"), "\\#a#");
    }

    #[test]
    fn what_is_no_certificate_leaves_only_its_bytes() {
        let mut context = AuthContext::default();
        add_certificate(&mut context, b"garbage");
        assert_eq!(context.identity_key(), None);
        assert_eq!(context.values("x509_pem_cert").len(), 1);
    }
}
