//! Handshakes that do not come to an end, seen from bare sockets. How TLS clients fare is tested in `tests/rpc/tls`, with
//! grpcio's own and others; `localhost.pem` signs itself and is valid for a hundred years.

mod transport_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_core::transport::{
    Listener, PemPair, Routes, ServerCertificates, Transport, TransportConfig, TransportStats,
};
use transport_support::frames::FrameClient;

const PAIR: PemPair<'_> = PemPair {
    private_key: include_bytes!("transport_support/localhost.key"),
    certificate_chain: include_bytes!("transport_support/localhost.pem"),
};

/// The first bytes of a `ClientHello` of 512 bytes.
const HALF_A_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

fn start(handshake_timeout: Duration) -> (Transport, u16) {
    let certificates = Arc::new(ServerCertificates::new(&[PAIR], None, false).unwrap());
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let port = listener.port().unwrap();
    let config = TransportConfig {
        handshake_timeout,
        ..TransportConfig::default()
    };
    let listeners = vec![listener.with_tls(certificates)];
    let transport = Transport::start(config, Arc::new(Routes::default()), listeners).unwrap();
    (transport, port)
}

/// Waits until the transport has counted what it should.
fn until(transport: &Transport, condition: impl Fn(&TransportStats) -> bool) {
    let start = Instant::now();
    while !condition(&transport.stats()) {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            transport.stats()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_client_that_does_not_finish_its_handshake_in_time_is_closed_and_counted() {
    let (transport, port) = start(Duration::from_millis(50));
    for bytes in [&[], &HALF_A_HELLO[..1], HALF_A_HELLO] {
        let mut client = FrameClient::connect_silently(port);
        client.send_bytes(bytes);
        client.read_to_end();
    }
    until(&transport, |stats| {
        stats.tls_handshakes_failed == 3 && stats.connections == 0
    });
    assert_eq!(transport.stats().connection_errors, 3);
}

#[test]
fn a_client_that_leaves_in_the_middle_is_counted() {
    let (transport, port) = start(Duration::from_secs(60));
    for bytes in [&[], HALF_A_HELLO] {
        let mut client = FrameClient::connect_silently(port);
        client.send_bytes(bytes);
        drop(client);
    }
    until(&transport, |stats| {
        stats.tls_handshakes_failed == 2 && stats.connections == 0
    });
}

#[test]
fn a_handshake_under_way_does_not_hold_up_a_shutdown() {
    let (transport, port) = start(Duration::from_secs(60));
    let mut client = FrameClient::connect_silently(port);
    client.send_bytes(HALF_A_HELLO);
    until(&transport, |stats| stats.connections == 1);
    transport.shutdown(None, Box::new(|| ()));
    client.read_to_end();
    drop(client);
    transport.join();
    let stats = transport.stats();
    assert_eq!(
        (stats.tls_handshakes_failed, stats.connection_errors),
        (0, 0)
    );
}

#[test]
fn garbage_after_a_hello_ends_the_connection_and_nothing_else() {
    let (transport, port) = start(Duration::from_secs(60));
    for garbage in [
        &[0x16, 3, 1, 0xff, 0xff][..],
        &[0x16, 0xff, 0xff, 0, 1, 7],
        &[0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
    ] {
        let mut client = FrameClient::connect_silently(port);
        client.send_bytes(garbage);
        client.send_bytes(&vec![0; 40_000]);
        client.read_to_end();
    }
    until(&transport, |stats| stats.tls_handshakes_failed == 3);
}
