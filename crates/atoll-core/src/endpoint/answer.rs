//! Which request gets which answer. The endpoint's thread.

use std::net::IpAddr;

use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Bytes;

use super::{Told, top, vitals};
use crate::exposition;
use crate::readiness::{self, Format};

/// The body of an answer.
pub(super) type Body = Full<Bytes>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const PATHS: &str = "\
/metrics  the statistics of all loops, and of the program what it tells, as Prometheus text
/top      what the loops are doing, as JSON
/livez    200, but 503 when a loop that counts is stuck for longer than the liveness threshold, if there is one
/readyz   200 while all loops are healthy that count and all conditions hold, else 503; ?format=json
";

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// Over TCP, from this machine's loopback.
    Loopback,
    /// From elsewhere.
    Remote,
    Unix,
}

/// The answer to `request`.
pub(super) fn answer<B: hyper::body::Body>(
    request: &Request<B>,
    peer: Peer,
    told: &Told,
) -> Response<Body> {
    if let Err(refusal) = admissible(request, peer) {
        return *refusal;
    }
    match request.uri().path() {
        "/metrics" => response(StatusCode::OK, exposition::CONTENT_TYPE, told.metrics()),
        "/top" if peer == Peer::Remote => text(
            StatusCode::FORBIDDEN,
            "what the process does in detail is told to its own machine only\n".into(),
        ),
        "/top" => match serde_json::to_vec(&top::top(&told.process)) {
            Ok(json) => response(StatusCode::OK, JSON, json),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/livez" => {
            let (alive, said) = vitals::livez(told.liveness_threshold);
            text(verdict(alive), said)
        }
        "/readyz" => {
            let accept = request.headers().get(ACCEPT);
            let accept = accept.and_then(|accept| accept.to_str().ok());
            let format = Format::of(request.uri().query(), accept);
            let mut conditions: Vec<_> = vitals::loops().into_iter().collect();
            if let Some(readiness) = &told.readiness {
                conditions.extend(readiness.told());
            }
            let (ready, said) = readiness::readyz(&conditions, format);
            response(verdict(ready), format.content_type(), said)
        }
        _ => text(
            StatusCode::NOT_FOUND,
            format!("there is nothing here; there is:\n{PATHS}"),
        ),
    }
}

fn admissible<B: hyper::body::Body>(
    request: &Request<B>,
    peer: Peer,
) -> Result<(), Box<Response<Body>>> {
    let refused = |status, why: &str| Err(Box::new(text(status, format!("{why}\n"))));
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are answered\n".into(),
        );
        refusal
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Err(Box::new(refusal));
    }
    if !request.body().is_end_stream() {
        return refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "a request has no body here: send it without one",
        );
    }
    if peer == Peer::Loopback && !is_meant_for_loopback(request) {
        return refused(
            StatusCode::FORBIDDEN,
            "requests over TCP are answered only when their Host is localhost or a loopback address",
        );
    }
    Ok(())
}

/// Whether the client knows the endpoint by a name of loopback. A page of another site whose name has been made to point
/// here has its browser send that site's name; browsers always send one.
fn is_meant_for_loopback<B>(request: &Request<B>) -> bool {
    if let Some(authority) = request.uri().authority()
        && !is_loopback(authority)
    {
        return false;
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => request.version() < Version::HTTP_11,
        (Some(host), None) => {
            Authority::try_from(host.as_bytes()).is_ok_and(|host| is_loopback(&host))
        }
        (Some(_), Some(_)) => false,
    }
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    inner
        .unwrap_or(host)
        .parse()
        .is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn verdict(good: bool) -> StatusCode {
    if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    response(status, TEXT, text)
}

fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::readiness::Readiness;

    fn asked(request: http::request::Builder, peer: Peer) -> (u16, String) {
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = answer(&request, peer, &Told::default());
        let status = response.status().as_u16();
        let kind = response.headers()[CONTENT_TYPE].to_str().unwrap();
        (status, kind.to_owned())
    }

    fn host(host: &str) -> u16 {
        let request = Request::get("/livez").header(HOST, host);
        asked(request, Peer::Loopback).0
    }

    #[test]
    fn only_names_of_loopback_are_answered_over_tcp() {
        for name in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:80",
            "127.1.2.3",
            "[::1]:9",
        ] {
            assert_eq!(host(name), 200, "{name}");
        }
        for name in [
            "example.org",
            "localhost.example.org",
            "10.0.0.1",
            "[::2]:9",
            "",
            "a b",
        ] {
            assert_eq!(host(name), 403, "{name}");
        }
        let none = || Request::get("/livez");
        assert_eq!(asked(none(), Peer::Loopback).0, 403);
        assert_eq!(
            asked(none().version(Version::HTTP_10), Peer::Loopback).0,
            200
        );
        let two = none().header(HOST, "localhost").header(HOST, "localhost");
        assert_eq!(asked(two, Peer::Loopback).0, 403);
        let other = Request::get("http://example.org/livez").header(HOST, "localhost");
        assert_eq!(asked(other, Peer::Loopback).0, 403);
        let unix = none().header(HOST, "example.org");
        assert_eq!(asked(unix, Peer::Unix).0, 200);
    }

    #[test]
    fn other_machines_are_told_no_details() {
        let remote =
            |path: &str| asked(Request::get(path).header(HOST, "10.0.0.1"), Peer::Remote).0;
        assert_eq!(remote("/livez"), 200);
        assert_eq!(remote("/readyz"), 200);
        assert_eq!(remote("/metrics"), 200);
        assert_eq!(remote("/top"), 403);
    }

    #[test]
    fn a_condition_that_does_not_hold_makes_it_unready() {
        let readiness = Arc::new(Readiness::default());
        readiness.set("leader", false, "standby", None).unwrap();
        let told = Told {
            readiness: Some(readiness),
            ..Told::default()
        };
        let request = Request::get("/readyz").header(ACCEPT, JSON);
        let response = answer(
            &request.body(Full::<Bytes>::default()).unwrap(),
            Peer::Unix,
            &told,
        );
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[CONTENT_TYPE], JSON);
    }

    #[test]
    fn only_get_and_head_are_answered_and_bodies_refused() {
        for (method, status) in [
            ("GET", 200),
            ("HEAD", 200),
            ("POST", 405),
            ("DELETE", 405),
            ("X", 405),
        ] {
            let request = Request::builder().method(method).uri("/livez");
            assert_eq!(asked(request, Peer::Unix).0, status, "{method}");
        }
        let request = Request::get("/livez").body(Full::new(Bytes::from_static(b"x")));
        let response = answer(&request.unwrap(), Peer::Unix, &Told::default());
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn each_path_has_its_content_and_others_are_told_the_paths() {
        let kind = |path: &str| asked(Request::get(path), Peer::Unix);
        assert_eq!(kind("/metrics"), (200, exposition::CONTENT_TYPE.into()));
        assert_eq!(kind("/top"), (200, JSON.into()));
        assert_eq!(kind("/top?x=1"), (200, JSON.into()));
        assert_eq!(kind("/livez"), (200, TEXT.into()));
        assert_eq!(kind("/readyz"), (200, TEXT.into()));
        assert_eq!(kind("/readyz?format=json"), (200, JSON.into()));
        for path in ["/", "/metrics/", "/etc/passwd", "/../top"] {
            assert_eq!(kind(path), (404, TEXT.into()), "{path}");
        }
    }
}
