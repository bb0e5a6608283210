//! Listening, accepting, and spreading connections over threads.

mod transport_support;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use atoll_core::transport::{
    Call, Dispatch, Listener, Reply, Route, Routes, Transport, TransportConfig, frame,
};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::net::UnixStream;
use transport_support::{Client, ECHO, Server, collect, request, soon};

/// Answers with the peer's name.
struct WhoAmI;

impl Dispatch for WhoAmI {
    fn dispatch(&self, calls: &mut Vec<Arc<Call>>) {
        for call in calls.drain(..) {
            let peer = call.peer().to_owned();
            call.reply(Reply::ok(frame(peer.as_bytes())));
        }
    }

    fn cancelled(&self, _: &Arc<Call>) {}
}

fn serve(listeners: Vec<Listener>) -> Transport {
    let route = Route::new("/peer", Arc::new(WhoAmI), Arc::new(()));
    let routes = Arc::new(Routes::new([route], None));
    Transport::start(TransportConfig::default(), routes, listeners).unwrap()
}

async fn peer_over<S>(stream: S) -> String
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut requests, connection): (SendRequest<Bytes>, _) =
        h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let (response, mut stream) = requests.send_request(request("/peer"), false).unwrap();
    stream.send_data(frame(b""), true).unwrap();
    let answer = collect(soon("a response", response).await.unwrap()).await;
    String::from_utf8(answer.body[5..].to_vec()).unwrap()
}

async fn peer_over_tcp(address: &str) -> String {
    peer_over(tokio::net::TcpStream::connect(address).await.unwrap()).await
}

#[tokio::test]
async fn several_ports_serve_the_same_routes() {
    let listeners: Vec<_> = (0..3)
        .map(|_| Listener::bind("127.0.0.1:0").unwrap())
        .collect();
    let ports: Vec<_> = listeners
        .iter()
        .map(|listener| listener.port().unwrap())
        .collect();
    let _transport = serve(listeners);
    for port in ports {
        assert!(port > 0);
        assert!(
            peer_over_tcp(&format!("127.0.0.1:{port}"))
                .await
                .starts_with("ipv4:127.0.0.1:")
        );
    }
}

#[tokio::test]
async fn every_address_takes_both_families_and_v4_clients_keep_their_name() {
    let listener = Listener::bind("[::]:0").unwrap();
    let port = listener.port().unwrap();
    let _transport = serve(vec![listener]);
    assert!(
        peer_over_tcp(&format!("127.0.0.1:{port}"))
            .await
            .starts_with("ipv4:127.0.0.1:")
    );
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        assert!(
            peer_over_tcp(&format!("[::1]:{port}"))
                .await
                .starts_with("ipv6:%5B::1%5D:")
        );
    }
}

#[tokio::test]
async fn a_name_is_looked_up_and_all_its_addresses_share_a_port() {
    for address in ["localhost:0", "dns:///localhost:0", "ipv4:127.0.0.1:0"] {
        let listener = Listener::bind(address).unwrap();
        let port = listener.port().unwrap();
        let _transport = serve(vec![listener]);
        assert!(
            peer_over_tcp(&format!("127.0.0.1:{port}"))
                .await
                .starts_with("ipv4:")
        );
    }
}

#[tokio::test]
async fn a_unix_socket_is_served_and_removed_afterwards() {
    let directory = std::env::temp_dir().join(format!("atoll-listener-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("server.sock");
    let address = format!("unix:{}", path.display());
    // One that a crashed server left behind does not matter; one that is served does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::bind(&address).unwrap();
    assert_eq!(listener.port(), None);
    let error = Listener::bind(&address).unwrap_err().to_string();
    assert!(error.contains("another server listens there"), "{error}");
    let transport = serve(vec![listener]);
    assert_eq!(
        peer_over(UnixStream::connect(&path).await.unwrap()).await,
        "unix:"
    );
    transport.join();
    assert!(!path.exists());
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn a_port_in_use_is_an_error_that_says_what_to_do() {
    let first = Listener::bind("127.0.0.1:0").unwrap();
    let address = format!("127.0.0.1:{}", first.port().unwrap());
    let error = Listener::bind(&address).unwrap_err();
    assert_eq!(
        error.io_error().unwrap().kind(),
        std::io::ErrorKind::AddrInUse
    );
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot listen on {address}: ")),
        "{text}"
    );
    assert!(text.contains("0 takes a free one"), "{text}");
    drop(first);
    Listener::bind(&address).expect("the port is free again");
}

#[test]
fn an_address_of_another_machine_is_an_error() {
    let error = Listener::bind("192.0.2.1:0").unwrap_err().to_string();
    assert!(error.contains("no such address"), "{error}");
    assert!(Listener::bind("no.such.host.invalid:0").is_err());
}

/// Tells on which thread it was called.
struct ThreadName(std::sync::Mutex<std::sync::mpsc::Sender<String>>);

impl Dispatch for ThreadName {
    fn dispatch(&self, calls: &mut Vec<Arc<Call>>) {
        let name = thread::current().name().unwrap_or_default().to_owned();
        self.0.lock().unwrap().send(name).unwrap();
        for call in calls.drain(..) {
            call.reply(Reply::ok(frame(b"")));
        }
    }

    fn cancelled(&self, _: &Arc<Call>) {}
}

#[tokio::test]
async fn connections_are_spread_evenly_over_the_network_threads() {
    let (sender, names) = channel();
    let route = Route::new("/thread", Arc::new(ThreadName(sender.into())), Arc::new(()));
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let port = listener.port().unwrap();
    let config = TransportConfig {
        network_threads: 3,
        ..TransportConfig::default()
    };
    let transport =
        Transport::start(config, Arc::new(Routes::new([route], None)), vec![listener]).unwrap();
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = Client::connect(port, &h2::client::Builder::new()).await;
        assert_eq!(client.call("/thread", b"").await.status(), 0);
        clients.push(client);
    }
    assert_eq!(transport.connections(), 6);
    let mut names: Vec<_> = names.try_iter().collect();
    names.sort();
    let expected = ["atoll-net-0", "atoll-net-1", "atoll-net-2"];
    assert_eq!(
        names,
        expected
            .iter()
            .flat_map(|name| [*name; 2])
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open() {
    let server = Server::start();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = server.client().await;
        client.call(ECHO, b"").await;
        clients.push(client);
    }
    assert_eq!(server.transport.connections(), 3);
    for client in clients {
        client.vanish().await;
    }
    server
        .until("they are gone", |stats| stats.connections == 0)
        .await;
}

#[tokio::test]
async fn a_config_that_cannot_be_served_does_not_start() {
    let config = TransportConfig {
        network_threads: 0,
        ..TransportConfig::default()
    };
    let error = Transport::start(config, Arc::default(), Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(
        error.to_string().contains("network_threads is 0"),
        "{error}"
    );
}
