//! Metadata: what of a request's headers an application sees, and what it may send.
//!
//! Keys that end in `-bin` carry any bytes, as base64 on the wire; all others carry printable ASCII.

use std::borrow::Cow;
use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::base64;

/// Headers that belong to the transport although their names do not start with `grpc-`.
const TRANSPORT_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// `grpc-` headers that are the transport's own on the way out. Others, such as `grpc-status-details-bin`,
/// are set by applications.
const GRPC_HEADERS: [&str; 7] = [
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-message",
    "grpc-message-type",
    "grpc-status",
    "grpc-tags-bin",
    "grpc-timeout",
];

/// `grpc-` headers of a request that applications do see, as with grpcio.
const SHOWN_GRPC_HEADERS: [&str; 2] = ["grpc-previous-rpc-attempts", "grpc-retry-pushback-ms"];

/// Whether a request's header is the transport's business, so that an application does not see it.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    if name.starts_with(':') || TRANSPORT_HEADERS.contains(&name) {
        return true;
    }
    name.starts_with("grpc-") && !SHOWN_GRPC_HEADERS.contains(&name)
}

/// Whether the key carries bytes rather than text.
#[must_use]
pub fn is_binary(name: &str) -> bool {
    name.ends_with("-bin")
}

/// A request's headers as an application sees them: without the reserved ones, in the order of their names'
/// first appearance, `-bin` values decoded and split where a proxy has joined them with commas.
///
/// A `-bin` value that is not base64 is handed on as it came.
pub fn application_view(headers: &HeaderMap) -> impl Iterator<Item = (&str, Cow<'_, [u8]>)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .filter(|(name, _)| !is_reserved(name))
        .flat_map(|(name, value)| {
            let binary = is_binary(name);
            let joined = binary && value.contains(&b',');
            // Splitting at a predicate that never holds yields the value whole.
            value
                .split(move |byte| joined && *byte == b',')
                .map(move |part| {
                    if !binary {
                        return (name, Cow::Borrowed(part));
                    }
                    match decode_binary(part) {
                        Some(bytes) => (name, Cow::Owned(bytes)),
                        None => (name, Cow::Borrowed(part)),
                    }
                })
        })
}

/// The bytes of one `-bin` value, padded or not, or `None` where it is not base64.
#[must_use]
pub fn decode_binary(value: &[u8]) -> Option<Vec<u8>> {
    base64::decode(value.trim_ascii())
}

/// The text of one `-bin` value, without padding.
#[must_use]
pub fn encode_binary(value: &[u8]) -> String {
    base64::encode(value)
}

/// Adds one entry to outgoing metadata: checks the key, encodes a `-bin` value, checks any other.
///
/// # Errors
///
/// [`MetadataError`] says which key is wrong and what is allowed.
pub fn append(metadata: &mut HeaderMap, key: &str, value: &[u8]) -> Result<(), MetadataError> {
    let name = checked_key(key)?;
    let value = if is_binary(key) {
        HeaderValue::try_from(encode_binary(value)).ok()
    } else if value.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        HeaderValue::from_bytes(value).ok()
    } else {
        None
    };
    let value = value.ok_or_else(|| MetadataError::new(key, Problem::Value))?;
    let full = || MetadataError::new(key, Problem::TooMany);
    metadata
        .try_append(name, value)
        .map(drop)
        .map_err(|_| full())
}

pub(super) fn checked_key(key: &str) -> Result<HeaderName, MetadataError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    if key.is_empty() || !key.bytes().all(allowed) {
        return Err(MetadataError::new(key, Problem::Key));
    }
    if TRANSPORT_HEADERS.contains(&key) || GRPC_HEADERS.contains(&key) {
        return Err(MetadataError::new(key, Problem::Reserved));
    }
    HeaderName::from_bytes(key.as_bytes()).map_err(|_| MetadataError::new(key, Problem::Key))
}

/// Outgoing metadata that cannot be sent; the message names the key and says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataError {
    key: Box<str>,
    problem: Problem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    Key,
    Reserved,
    Value,
    TooMany,
}

impl MetadataError {
    fn new(key: &str, problem: Problem) -> Self {
        Self {
            key: key.into(),
            problem,
        }
    }

    /// The key of the entry that cannot be sent.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for MetadataError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match self.problem {
            Problem::Key => write!(
                formatter,
                "metadata key {key:?} is not valid: use one or more of a-z, 0-9, '-', '_' and '.', \
                 in lower case"
            ),
            Problem::Reserved => write!(
                formatter,
                "metadata key {key:?} belongs to the transport: choose another name, such as \"x-{key}\""
            ),
            Problem::Value => write!(
                formatter,
                "the value of metadata key {key:?} is not printable ASCII: a key that ends in \
                 \"-bin\", such as \"{key}-bin\", carries any bytes"
            ),
            Problem::TooMany => write!(
                formatter,
                "metadata key {key:?} is one too many: a call carries up to about 24,000 entries"
            ),
        }
    }
}

impl std::error::Error for MetadataError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(entries: &[(&'static str, &'static str)]) -> Vec<(String, Vec<u8>)> {
        let mut headers = HeaderMap::new();
        for (name, value) in entries {
            headers.append(*name, HeaderValue::from_static(value));
        }
        application_view(&headers)
            .map(|(name, value)| (name.to_owned(), value.into_owned()))
            .collect()
    }

    #[test]
    fn an_application_sees_its_own_headers_and_the_user_agent() {
        let seen = view(&[
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", "1S"),
            ("grpc-encoding", "identity"),
            ("user-agent", "test/1"),
            ("grpc-previous-rpc-attempts", "2"),
            ("x-key", "a,b"),
            ("x-key", "c"),
        ]);
        let expected = [
            ("user-agent", "test/1"),
            ("grpc-previous-rpc-attempts", "2"),
            ("x-key", "a,b"),
            ("x-key", "c"),
        ];
        assert_eq!(
            seen,
            expected.map(|(name, value)| (name.to_owned(), value.as_bytes().to_owned()))
        );
    }

    #[test]
    fn binary_values_are_decoded_padded_or_not_joined_or_not() {
        let seen = view(&[
            ("a-bin", "Zg==,Zm8"),
            ("a-bin", "AAH/"),
            ("b-bin", "not base64!"),
            ("c-bin", ""),
        ]);
        let values: Vec<&[u8]> = seen.iter().map(|(_, value)| value.as_slice()).collect();
        assert_eq!(
            values,
            [&b"f"[..], b"fo", b"\x00\x01\xff", b"not base64!", b""]
        );
    }

    #[test]
    fn valid_entries_are_encoded_for_the_wire() {
        let mut metadata = HeaderMap::new();
        append(&mut metadata, "x-text", b"with spaces ~").unwrap();
        append(&mut metadata, "x-bytes-bin", &[0, 1, 255]).unwrap();
        append(&mut metadata, "grpc-status-details-bin", b"detail").unwrap();
        append(&mut metadata, "x-text", b"again").unwrap();
        assert_eq!(metadata["x-bytes-bin"], "AAH/");
        assert_eq!(metadata.get_all("x-text").iter().count(), 2);
    }

    #[test]
    fn an_invalid_entry_names_its_key_and_the_remedy() {
        let attempt = |key: &str, value: &[u8]| {
            let error = append(&mut HeaderMap::new(), key, value).unwrap_err();
            assert_eq!(error.key(), key);
            error.to_string()
        };
        for key in ["", "X-Upper", "sp ace", "co:lon", "\u{fc}", ":path"] {
            assert!(attempt(key, b"v").contains("a-z, 0-9"), "{key}");
        }
        for key in [
            "te",
            "content-type",
            "connection",
            "grpc-status",
            "grpc-timeout",
        ] {
            assert!(
                attempt(key, b"v").contains("belongs to the transport"),
                "{key}"
            );
        }
        for value in [&b"\n"[..], b"\x7f", "\u{e9}".as_bytes()] {
            assert!(attempt("x", value).contains("\"x-bin\""));
        }
    }
}
