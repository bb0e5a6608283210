//! The endpoint on real sockets, with clients that write what they like.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn limits() -> Limits {
    Limits {
        header_read_timeout: PATIENCE,
        exchange_timeout: PATIENCE,
        ..Limits::default()
    }
}

fn start(limits: Limits) -> Endpoint {
    Endpoint::start("127.0.0.1:0", Settings::default(), limits).unwrap()
}

fn connect(endpoint: &Endpoint) -> TcpStream {
    let stream = TcpStream::connect(endpoint.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// All that comes back when `request` has been sent; a reset ends it as well.
fn ask(endpoint: &Endpoint, request: &[u8]) -> String {
    let mut stream = connect(endpoint);
    let _ = stream.write_all(request);
    rest(&mut stream)
}

fn rest(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

fn get(endpoint: &Endpoint, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    ask(endpoint, request.as_bytes())
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

fn socket_path(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("atoll-endpoint-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

#[test]
fn what_a_program_publishes_ends_the_metrics_until_it_publishes_anew() {
    let endpoint = start(limits());
    let bare = get(&endpoint, "/metrics");
    assert!(
        bare.contains("# TYPE atoll_loop_lag_seconds gauge"),
        "{bare}"
    );
    endpoint.publish("jobs 1\n").unwrap();
    assert!(get(&endpoint, "/metrics").ends_with("\njobs 1\n"));
    let long = "x".repeat(MOST_PUBLISHED + 1);
    assert_eq!(endpoint.publish(&long), Err(TooLong));
    endpoint.publish(&long[1..]).unwrap();
    assert!(get(&endpoint, "/metrics").len() > MOST_PUBLISHED);
    endpoint.publish("jobs 2\n").unwrap();
    let answer = get(&endpoint, "/metrics");
    assert!(answer.ends_with("\njobs 2\n"));
    assert!(!answer.contains("jobs 1"));
}

#[test]
fn each_connection_carries_one_request() {
    let endpoint = start(limits());
    let answer = get(&endpoint, "/livez");
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    let twice = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET /top HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(ask(&endpoint, twice).matches("HTTP/1.1").count(), 1);
}

#[test]
fn head_is_answered_with_the_length_and_without_the_body() {
    let endpoint = start(limits());
    let answer = ask(&endpoint, b"HEAD /top HTTP/1.0\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(status(head), "200");
    assert!(head.contains("content-length: "), "{head}");
    assert_eq!(body, "");
}

#[test]
fn a_client_that_closes_its_sending_side_is_answered() {
    let endpoint = start(limits());
    let mut stream = connect(&endpoint);
    stream.write_all(b"GET /livez HTTP/1.0\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(status(&rest(&mut stream)), "200");
}

#[test]
fn top_is_json_of_this_version() {
    let endpoint = start(limits());
    let answer = get(&endpoint, "/top");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{head}");
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(json["version"], top::VERSION);
    assert_eq!(json["process"]["pid"], std::process::id());
    assert!(json["loops"].is_array());
}

#[test]
fn a_client_that_sends_its_head_too_slowly_is_disconnected() {
    let endpoint = start(Limits {
        header_read_timeout: Duration::from_millis(20),
        ..limits()
    });
    let mut silent = connect(&endpoint);
    let mut slow = connect(&endpoint);
    slow.write_all(b"GET /livez HTT").unwrap();
    assert_eq!(rest(&mut silent), "");
    assert!(["", "408"].contains(&status(&rest(&mut slow)).trim_start_matches("none")));
    assert_eq!(status(&get(&endpoint, "/livez")), "200");
}

#[test]
fn a_connection_ends_with_its_exchange_however_slowly_it_goes() {
    let endpoint = start(Limits {
        exchange_timeout: Duration::from_millis(20),
        ..limits()
    });
    let mut silent = connect(&endpoint);
    assert_eq!(rest(&mut silent), "");
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let endpoint = start(limits());
    let long = "a".repeat(Limits::default().request_size);
    let request = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n");
    assert_eq!(status(&ask(&endpoint, request.as_bytes())), "431");
    let path = format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(["414", "431"].contains(&status(&ask(&endpoint, path.as_bytes()))));
    let many = "X: y\r\n".repeat(500);
    let request = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
    assert_eq!(status(&ask(&endpoint, request.as_bytes())), "431");
}

#[test]
fn a_body_is_refused() {
    let endpoint = start(limits());
    let request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(status(&ask(&endpoint, request)), "413");
    let request = b"POST /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(status(&ask(&endpoint, request)), "405");
}

#[test]
fn connections_beyond_the_limit_are_told_so_and_the_place_is_free_again_later() {
    let endpoint = start(Limits {
        connections: 2,
        ..limits()
    });
    let taken = [connect(&endpoint), connect(&endpoint)];
    // A third one is refused as soon as those two have been accepted.
    let end = Instant::now() + PATIENCE;
    while status(&ask(&endpoint, b"GET /livez HTTP/1.0\r\n\r\n")) != "503" {
        assert!(Instant::now() < end, "it was never refused");
    }
    drop(taken);
    while status(&ask(&endpoint, b"GET /livez HTTP/1.0\r\n\r\n")) != "200" {
        assert!(Instant::now() < end, "it was never accepted again");
    }
}

#[test]
fn garbage_is_refused_and_the_endpoint_survives() {
    let endpoint = start(limits());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let request = b"GET /top HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
    for round in 0..400 {
        let mut bytes = request.to_vec();
        if round % 4 == 0 {
            bytes = (0..random() % 300).map(|_| random() as u8).collect();
        } else {
            for _ in 0..=random() % 4 {
                let at = (random() % bytes.len() as u64) as usize;
                match random() % 3 {
                    0 => bytes[at] = random() as u8,
                    1 => bytes.insert(at, random() as u8),
                    _ => bytes.truncate(at.max(1)),
                }
            }
        }
        let mut stream = connect(&endpoint);
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let answer = rest(&mut stream);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1."),
            "{answer}"
        );
    }
    assert_eq!(status(&get(&endpoint, "/livez")), "200");
}

#[test]
fn a_unix_socket_is_its_owners_only_and_gone_after_the_stop() {
    let path = socket_path("owner.sock");
    let endpoint = Endpoint::start(
        &format!("unix:{}", path.display()),
        Settings::default(),
        limits(),
    )
    .unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    assert_eq!(status(&rest(&mut stream)), "200");
    endpoint.stop();
    endpoint.stop();
    assert!(!path.exists());
}

#[test]
fn a_socket_that_a_dead_process_left_is_replaced_and_a_living_ones_is_not() {
    let path = socket_path("stale.sock");
    let address = format!("unix:{}", path.display());
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let living = Endpoint::start(&address, Settings::default(), limits()).unwrap();
    let refused = Endpoint::start(&address, Settings::default(), limits())
        .err()
        .unwrap();
    assert!(refused.to_string().contains("another server listens there"));
    drop(living);
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let path = socket_path("file");
    std::fs::write(&path, "precious").unwrap();
    let refused = Endpoint::start(
        &format!("unix:{}", path.display()),
        Settings::default(),
        limits(),
    );
    assert!(refused.err().unwrap().to_string().contains("is no socket"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_socket_that_somebody_has_put_in_its_place_is_not_removed() {
    let path = socket_path("replaced.sock");
    let endpoint = Endpoint::start(
        &format!("unix:{}", path.display()),
        Settings::default(),
        limits(),
    )
    .unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    endpoint.stop();
    assert!(path.exists());
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn after_the_stop_nothing_listens() {
    let endpoint = start(limits());
    let address = endpoint.address().to_owned();
    let mut open = connect(&endpoint);
    endpoint.stop();
    assert_eq!(rest(&mut open), "");
    assert!(TcpStream::connect(address).is_err());
}
