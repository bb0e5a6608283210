//! What a client of HTTP/1 is told on a gRPC port: whether the process lives and is ready, and else that this is not for it.

use std::io;

use super::connection::Service;
use super::health::{Health, LIVENESS};
use crate::readiness::{Format, Told, readyz};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A request's head that is longer is not read to its end.
const MOST_HEAD: usize = 8 << 10;

const WRONG_PROTOCOL: &str = "\
This is a gRPC port. It speaks HTTP/2 with prior knowledge, and the request was HTTP/1.
Use a gRPC client, or curl --http2-prior-knowledge; GET /livez and /readyz are answered in HTTP/1, too.
";

/// How the request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    Probe,
    WrongProtocol,
    /// It was not HTTP/1 after all, and got no answer.
    Nothing,
}

/// Reads the head of one request and answers it. The connection is good for nothing else afterwards.
pub(super) async fn answer<S>(io: &mut S, service: &Service) -> io::Result<Answered>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !is_complete(&head) && head.len() < MOST_HEAD {
        if io.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let Some((method, target)) = request_line(&head) else {
        return Ok(Answered::Nothing);
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let (answered, status, format, text) = match (method, path) {
        ("GET" | "HEAD", "/livez") => {
            let (alive, text) = livez(service);
            (Answered::Probe, verdict(alive), Format::Text, text)
        }
        ("GET" | "HEAD", "/readyz") => {
            let format = Format::of(query, header(&head, "accept"));
            let (ready, text) = readyz(&conditions(service), format);
            (Answered::Probe, verdict(ready), format, text)
        }
        _ => (
            Answered::WrongProtocol,
            "505 HTTP Version Not Supported",
            Format::Text,
            WRONG_PROTOCOL.into(),
        ),
    };
    let mut response = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: {}\r\n\
         cache-control: no-store\r\ncontent-length: {}\r\n\r\n",
        format.content_type(),
        text.len()
    );
    if method != "HEAD" {
        response.push_str(&text);
    }
    io.write_all(response.as_bytes()).await?;
    io.flush().await?;
    Ok(answered)
}

fn verdict(good: bool) -> &'static str {
    if good {
        "200 OK"
    } else {
        "503 Service Unavailable"
    }
}

/// As the name `liveness` of the health service has it; a server without that lives while it answers.
fn livez(service: &Service) -> (bool, String) {
    let health = service.routes.health();
    match health.and_then(|health| health.trouble(LIVENESS)) {
        None => (true, "ok\n".into()),
        Some(trouble) => (false, format!("{trouble}\n")),
    }
}

/// The server's own health, where it tells that, and the conditions that the application has set.
fn conditions(service: &Service) -> Vec<Told> {
    let of_server = |health: &Health| {
        let trouble = health.trouble("");
        Told::new("server", trouble.is_none(), trouble.unwrap_or_default())
    };
    let health = service.routes.health();
    let mut conditions =
        vec![health.map_or_else(|| Told::new("server", true, ""), |health| of_server(health))];
    if let Some(readiness) = &service.config.readiness {
        conditions.extend(readiness.told());
    }
    conditions
}

/// The value of a header, `name` being in lower case.
fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let mut lines = std::str::from_utf8(head).ok()?.lines().skip(1);
    lines.find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn is_complete(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n")
}

/// The method and the target of `METHOD target HTTP/1.x`.
fn request_line(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_http = version.starts_with("HTTP/1.") && words.next().is_none();
    is_http.then_some((method, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_has_three_words_and_a_version() {
        let line = |text: &'static str| request_line(text.as_bytes());
        assert_eq!(
            line("GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n"),
            Some(("GET", "/a?b"))
        );
        assert_eq!(line("GET / HTTP/1.0\n\n"), Some(("GET", "/")));
        for wrong in [
            "",
            "GET",
            "GET /",
            "GET / HTTP/2",
            "GET / HTTP/1.1 x",
            "SSH-2.0-Open",
        ] {
            assert_eq!(line(wrong), None, "{wrong:?}");
        }
        assert_eq!(request_line(b"GET /\xff HTTP/1.1\r\n"), None);
    }

    #[test]
    fn a_header_is_found_whatever_its_case() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nACCEPT:  text/plain \r\n\r\n";
        assert_eq!(header(head, "accept"), Some("text/plain"));
        assert_eq!(header(head, "range"), None);
    }
}
