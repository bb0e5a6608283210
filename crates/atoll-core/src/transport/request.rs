//! Decides from a request's headers whether it is a gRPC call, and which.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Uri};

use super::authentication::Authentication;
use super::call::CallHead;
use super::compression::{ENCODINGS, Encoding};
use super::method_counters::Refused;
use super::routes::{Route, Routes};
use super::status::{Code, Status};
use super::timeout;
use super::wire::{GRPC_ENCODING, GRPC_TIMEOUT};

/// Why a request is answered at once, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A gRPC status, as Trailers-Only.
    Status(Status),
    /// As `Status`, with the encodings that the server understands.
    Encoding(Status),
    /// Not gRPC at all: an HTTP status that the client's HTTP library understands, with a gRPC status for
    /// one that is gRPC after all.
    Http(StatusCode, Option<Status>),
}

impl Refusal {
    /// The status that the client's gRPC library makes of it.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Status(status) | Self::Encoding(status) | Self::Http(_, Some(status)) => {
                status.code
            }
            Self::Http(_, None) => Code::Unknown,
        }
    }
}

/// A request that becomes no call.
#[derive(Debug)]
pub(super) struct TurnedAway {
    /// The method that it named, if there is one.
    pub(super) route: Option<Arc<Route>>,
    pub(super) reason: Refused,
    pub(super) refusal: Refusal,
}

/// The path that a request names.
pub(super) fn path(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Checks the headers in the order in which grpc-go does, so that the answer to a request with several
/// mistakes is the same; and who calls, as soon as it is a call.
pub(super) fn check(
    parts: Parts,
    routes: &Routes,
    header_limit: usize,
    authentication: Option<&Authentication>,
    now: Instant,
) -> Result<CallHead, TurnedAway> {
    let route = routes.find(path(&parts.uri));
    let checked = check_headers(&parts, route, header_limit, authentication);
    let (route, timeout, encoding) = checked.map_err(|(reason, refusal)| TurnedAway {
        route: route.cloned(),
        reason,
        refusal,
    })?;
    Ok(CallHead {
        encoding,
        // The connection chooses.
        destination: 0,
        route: Arc::clone(route),
        uri: parts.uri,
        headers: parts.headers,
        arrived: now,
        // A time that the clock cannot express is no deadline.
        deadline: timeout.and_then(|timeout| now.checked_add(timeout)),
    })
}

type Checked<T> = Result<T, (Refused, Refusal)>;

fn check_headers<'a>(
    parts: &Parts,
    route: Option<&'a Arc<Route>>,
    header_limit: usize,
    authentication: Option<&Authentication>,
) -> Checked<(&'a Arc<Route>, Option<Duration>, Encoding)> {
    if parts.method != Method::POST {
        let text = format!("The method of a gRPC request is POST, not {}", parts.method);
        let status = Status::new(Code::Internal, text);
        let refusal = Refusal::Http(StatusCode::METHOD_NOT_ALLOWED, Some(status));
        return Err((Refused::HttpMethod, refusal));
    }
    if !parts.headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        let refusal = Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE, None);
        return Err((Refused::ContentType, refusal));
    }
    let size = list_size(&parts.headers);
    if size > header_limit {
        let text = format!("SERVER: Received metadata larger than max ({size} vs. {header_limit})");
        let status = Status::new(Code::ResourceExhausted, text);
        return Err((Refused::MetadataSize, Refusal::Status(status)));
    }
    if let Some(authentication) = authentication {
        // Before anything is said about what is served here.
        authentication
            .check(path(&parts.uri), &parts.headers)
            .map_err(|status| (Refused::Unauthenticated, Refusal::Status(status)))?;
    }
    let timeout = requested_timeout(&parts.headers)?;
    let Some(route) = route else {
        let status = Status::new(Code::Unimplemented, "Method not found!");
        return Err((Refused::UnknownMethod, Refusal::Status(status)));
    };
    let encoding = requested_encoding(&parts.headers)?;
    Ok((route, timeout, encoding))
}

/// The size of the headers as HTTP/2 counts it (RFC 9113, section 6.5.2).
fn list_size(headers: &HeaderMap) -> usize {
    const OVERHEAD: usize = 32;
    let size =
        |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + OVERHEAD;
    headers.iter().map(size).sum()
}

/// `application/grpc`, alone or followed by a message format (`+proto`) or a parameter.
fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn requested_timeout(headers: &HeaderMap) -> Checked<Option<Duration>> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    let timeout = timeout::parse(value.as_bytes());
    if timeout.is_none() {
        let text = format!(
            "grpc-timeout is {value:?}, not one to eight digits and one of H, M, S, m, u, n"
        );
        let refusal = Refusal::Status(Status::new(Code::Internal, text));
        return Err((Refused::BadTimeout, refusal));
    }
    Ok(timeout)
}

fn requested_encoding(headers: &HeaderMap) -> Checked<Encoding> {
    let Some(name) = headers.get(GRPC_ENCODING) else {
        return Ok(Encoding::Identity);
    };
    Encoding::from_name(name.as_bytes()).ok_or_else(|| {
        let text = format!("grpc-encoding {name:?} is not supported here, but {ENCODINGS} are");
        let refusal = Refusal::Encoding(Status::new(Code::Unimplemented, text));
        (Refused::BadEncoding, refusal)
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn refusal(request: http::request::Builder) -> Refusal {
        let (parts, ()) = request
            .uri("http://host/s/m")
            .body(())
            .unwrap()
            .into_parts();
        check(parts, &Routes::default(), 1000, None, Instant::now())
            .err()
            .expect("nothing is routed here")
            .refusal
    }

    fn grpc() -> http::request::Builder {
        Request::builder()
            .method("POST")
            .header("content-type", "application/grpc")
    }

    #[test]
    fn content_types_of_grpc_are_accepted_and_no_others() {
        for accepted in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
        ] {
            assert!(is_grpc(&HeaderValue::from_static(accepted)), "{accepted}");
        }
        for refused in [
            "application/grpc-web",
            "application/json",
            "",
            "application/grp",
        ] {
            assert!(!is_grpc(&HeaderValue::from_static(refused)), "{refused}");
        }
    }

    #[test]
    fn what_is_not_grpc_gets_an_http_status() {
        let plain = Request::builder().method("POST");
        assert_eq!(
            refusal(plain),
            Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE, None)
        );
        let Refusal::Http(status, Some(_)) = refusal(grpc().method("DELETE")) else {
            panic!("an HTTP status")
        };
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn headers_over_the_limit_are_resource_exhausted() {
        let Refusal::Status(status) = refusal(grpc().header("x-key", "v".repeat(1000))) else {
            panic!("a status");
        };
        assert_eq!(status.code, Code::ResourceExhausted);
    }

    #[test]
    fn a_bad_timeout_is_internal_and_an_unknown_path_unimplemented() {
        let Refusal::Status(status) = refusal(grpc().header("grpc-timeout", "soon")) else {
            panic!("a status")
        };
        assert_eq!(status.code, Code::Internal);
        let Refusal::Status(status) = refusal(grpc()) else {
            panic!("a status")
        };
        assert_eq!(
            status,
            Status::new(Code::Unimplemented, "Method not found!")
        );
    }
}
