//! A server that has run out of something goes on with what it has. One test only: it limits the whole
//! process.

mod transport_support;

use std::fs::File;

use atoll_core::transport::TransportConfig;
use transport_support::{ECHO, Server, soon};

/// Sets how many files this process may have open.
fn limit_open_files(limit: libc::rlim_t) -> libc::rlim_t {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a valid pointer to a struct that outlives them.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits), 0);
        let before = limits.rlim_cur;
        limits.rlim_cur = limit;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits), 0);
        before
    }
}

#[tokio::test]
async fn want_of_file_descriptors_delays_new_connections_and_harms_no_old_one() {
    let server = Server::with_config(TransportConfig {
        network_threads: 2,
        ..TransportConfig::default()
    });
    let mut old = server.client().await;
    assert_eq!(old.call(ECHO, b"").await.status(), 0);

    // Every descriptor is taken but one, which the next client's own socket takes.
    let before = limit_open_files(64);
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    hoard.pop().expect("a descriptor to give back");
    let mut new = server.client().await;
    let pending = new.open(transport_support::request(ECHO), None).await;
    server
        .until("accepting fails", |stats| stats.accept_errors > 1)
        .await;
    assert_eq!(old.call(ECHO, b"").await.status(), 0);

    drop(hoard);
    limit_open_files(before);
    let answer = soon("the new connection's turn", pending.answer_to(b"")).await;
    assert_eq!(answer.status(), 0);
    assert_eq!(old.call(ECHO, b"").await.status(), 0);
}
