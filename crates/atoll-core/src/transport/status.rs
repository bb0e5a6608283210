//! gRPC status codes, and a status as it travels in `grpc-status` and `grpc-message`.

use std::borrow::Cow;
use std::fmt;

use http::HeaderValue;

/// The status codes of gRPC, with their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// The call succeeded.
    Ok = 0,
    /// The caller cancelled the call.
    Cancelled = 1,
    /// An error without a better code; what an unhandled exception becomes.
    Unknown = 2,
    /// The request is wrong whatever the state of the system.
    InvalidArgument = 3,
    /// The deadline passed first.
    DeadlineExceeded = 4,
    /// Something asked for does not exist.
    NotFound = 5,
    /// Something to be created exists.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A quota, a size limit or a place in a queue is used up.
    ResourceExhausted = 8,
    /// The system is not in the state that the call needs.
    FailedPrecondition = 9,
    /// A conflict with another call; retry from the start.
    Aborted = 10,
    /// Past the valid range.
    OutOfRange = 11,
    /// The method does not exist, or not in this form.
    Unimplemented = 12,
    /// An invariant is broken, or the client's bytes are not gRPC.
    Internal = 13,
    /// The service cannot answer now; retry later.
    Unavailable = 14,
    /// Data is lost or corrupt.
    DataLoss = 15,
    /// The caller did not say who it is.
    Unauthenticated = 16,
}

impl Code {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code with this number, or `None` above 16.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The code as gRPC's documents write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// The number on the wire.
    #[must_use]
    pub fn as_u8(self) -> u8 {
        self as u8
    }

    pub(crate) fn header_value(self) -> HeaderValue {
        const DIGITS: [&str; 17] = [
            "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15",
            "16",
        ];
        HeaderValue::from_static(DIGITS[self as usize])
    }
}

/// How a call ended: a code, and for people a message (any text; it is percent-encoded on the wire).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code.
    pub code: Code,
    /// What to tell the caller; may be empty.
    pub message: Cow<'static, str>,
}

impl Status {
    /// Success, without a message.
    pub const OK: Self = Self {
        code: Code::Ok,
        message: Cow::Borrowed(""),
    };

    /// A status with a message.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The value of `grpc-message`, or `None` when there is nothing to say.
    pub(crate) fn message_header(&self) -> Option<HeaderValue> {
        if self.message.is_empty() {
            return None;
        }
        if let Cow::Borrowed(text) = self.message
            && !text.bytes().any(must_be_encoded)
        {
            return Some(HeaderValue::from_static(text));
        }
        HeaderValue::try_from(percent_encoded(&self.message)).ok()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.code, self.message)
    }
}

/// Space to tilde travel as they are, except the escape character itself (gRPC over HTTP/2,
/// "Percent-Encoded").
fn must_be_encoded(byte: u8) -> bool {
    !(b' '..=b'~').contains(&byte) || byte == b'%'
}

fn percent_encoded(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if must_be_encoded(byte) {
            encoded.push('%');
            encoded.push(char::from(HEX[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX[usize::from(byte & 15)]));
        } else {
            encoded.push(char::from(byte));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_up_to_16_is_a_code_and_none_above() {
        for number in 0..=16 {
            let code = Code::from_u8(number).expect("a code");
            assert_eq!(code.as_u8(), number);
            assert_eq!(code.header_value(), number.to_string());
        }
        assert_eq!(Code::from_u8(17), None);
    }

    #[test]
    fn a_message_is_percent_encoded_byte_by_byte() {
        let encoded =
            |text: &'static str| Status::new(Code::Internal, text).message_header().unwrap();
        assert_eq!(encoded("plain ~ text"), "plain ~ text");
        assert_eq!(
            encoded("100% of\t\u{e9}\u{1f41a}\n"),
            "100%25 of%09%C3%A9%F0%9F%90%9A%0A"
        );
        assert_eq!(
            Status::new(Code::Internal, String::from("50%"))
                .message_header()
                .unwrap(),
            "50%25"
        );
        assert_eq!(Status::OK.message_header(), None);
    }
}
