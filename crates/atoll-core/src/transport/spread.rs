//! Which of a route's several targets takes a call.
//!
//! The choice is made on the network thread, before anything is queued. It depends on the call alone, so that what has
//! the same key has the same target for as long as the server lives.

use http::HeaderMap;
use http::header::HeaderName;

use super::metadata;

/// What pins a call to one target of a route that has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chooser {
    /// The connection: the first one goes to the first target, the next to the next.
    ByConnection,
    /// The CRC-32 of the value of this metadata, modulo the number of targets; without it, the connection.
    ByMetadata(HeaderName),
}

impl Chooser {
    /// A chooser by the metadata `key`.
    ///
    /// # Errors
    ///
    /// [`MetadataError`](metadata::MetadataError) when no client can send such a key.
    pub fn by_metadata(key: &str) -> Result<Self, metadata::MetadataError> {
        metadata::checked_key(key).map(Self::ByMetadata)
    }

    /// The index, below `count`, of the target that takes a call of connection number `connection`.
    pub(super) fn choose(&self, count: usize, connection: u64, headers: &HeaderMap) -> usize {
        let number = match self {
            Self::ByConnection => connection,
            Self::ByMetadata(key) => match headers.get(key) {
                Some(value) => hash(key, value.as_bytes()).into(),
                None => connection,
            },
        };
        (number % count as u64) as usize
    }
}

/// The hash of a value as its application sees it: that of `-bin` metadata is of the bytes, however they were encoded.
fn hash(key: &HeaderName, value: &[u8]) -> u32 {
    let decoded = metadata::is_binary(key.as_str()).then(|| metadata::decode_binary(value));
    crc32(decoded.flatten().as_deref().unwrap_or(value))
}

/// CRC-32 as in zlib, so that other programs can tell where a value belongs.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(!0, |crc, byte| {
        let index = (crc ^ u32::from(*byte)) & 0xff;
        (crc >> 8) ^ TABLE[index as usize]
    })
}

const fn table() -> [u32; 256] {
    const REVERSED_POLYNOMIAL: u32 = 0xedb8_8320;
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            let low = value & 1;
            value >>= 1;
            if low == 1 {
                value ^= REVERSED_POLYNOMIAL;
            }
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_checksum_is_zlibs() {
        // zlib.crc32 of CPython.
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b"\x00\xff"), 0x6cdb_fd72);
    }

    #[test]
    fn connections_take_turns() {
        let choose = |connection| Chooser::ByConnection.choose(3, connection, &HeaderMap::new());
        assert_eq!([0, 1, 2, 3, 4].map(choose), [0, 1, 2, 0, 1]);
    }

    #[test]
    fn a_value_has_its_target_whatever_the_connection_and_calls_without_one_have_their_connections()
    {
        let chooser = Chooser::by_metadata("tenant").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("tenant", HeaderValue::from_static("123456789"));
        let expected = (0xcbf4_3926_u64 % 7) as usize;
        assert_eq!(chooser.choose(7, 0, &headers), expected);
        assert_eq!(chooser.choose(7, 5, &headers), expected);
        assert_eq!(chooser.choose(7, 5, &HeaderMap::new()), 5);
    }

    #[test]
    fn a_binary_value_is_hashed_as_its_application_sees_it() {
        let chooser = Chooser::by_metadata("tenant-bin").unwrap();
        let choose = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("tenant-bin", HeaderValue::from_static(value));
            chooser.choose(1000, 0, &headers)
        };
        assert_eq!(choose("AP8"), (0x6cdb_fd72_u64 % 1000) as usize);
        assert_eq!(choose("AP8="), choose("AP8"));
    }

    #[test]
    fn a_key_that_no_client_can_send_is_an_error() {
        for key in ["Tenant", "", "grpc-timeout", "content-type", "a b"] {
            assert!(Chooser::by_metadata(key).is_err(), "{key:?}");
        }
    }
}
