//! Clients that make things up, for a while: nothing panics, nothing is left over, nothing grows, and a good client is served
//! throughout.
//!
//! `ATOLL_FUZZ_SECONDS` says for how long (20 by default), `ATOLL_FUZZ_SEED` where to begin (drawn by default). Where a run
//! and each of its rounds began is printed, with `--nocapture` or when it fails: a round that begins with the same number has
//! the same limits and plays the same scripts, as far as its threads take turns alike.

mod transport_support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atoll_core::transport::{
    Call, Dispatch, FrameLimit, Listener, Received, Reply, Route, Routes, Transport,
    TransportConfig, frame,
};
use http::HeaderMap;
use tokio::net::TcpStream;
use transport_support::fuzz::{Inventor, Random};
use transport_support::{ECHO, Echo, request};

const SLOW: &str = "/test.Service/Slow";
const STREAM: &str = "/test.Service/Stream";
const PATHS: [&str; 5] = [ECHO, SLOW, STREAM, "/no.Such/Method", "*"];

/// Each server has its own limits and is stopped at its end.
const ROUND: Duration = Duration::from_secs(4);

/// What the process may hold more at the end than after the first rounds, for all that allocators keep.
const MOST_GROWTH: usize = 64 << 20;

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

static PANICKED: AtomicBool = AtomicBool::new(false);

/// Answers with every message that comes, as it comes.
struct StreamEcho;

impl StreamEcho {
    fn go_on(call: &Arc<Call>) {
        loop {
            match call.receive() {
                Received::Message(message) => {
                    call.send_message(frame(&message.bytes));
                }
                Received::End => {
                    call.reply(Reply::end());
                    return;
                }
                Received::Nothing | Received::Over => return,
            }
        }
    }
}

impl Dispatch for StreamEcho {
    fn dispatch(&self, calls: &mut Vec<Arc<Call>>) {
        for call in calls.drain(..) {
            if call.begin() {
                Self::go_on(&call);
            }
        }
    }

    fn cancelled(&self, _: &Arc<Call>) {}

    fn progress(&self, calls: &mut Vec<Arc<Call>>) {
        for call in calls.drain(..) {
            Self::go_on(&call);
        }
    }
}

/// Hands calls to another thread, which answers them when it likes.
struct Slow(Mutex<Sender<Arc<Call>>>);

impl Dispatch for Slow {
    fn dispatch(&self, calls: &mut Vec<Arc<Call>>) {
        let sender = self.0.lock().unwrap();
        for call in calls.drain(..) {
            let _ = sender.send(call);
        }
    }

    fn cancelled(&self, _: &Arc<Call>) {}
}

fn answer_slowly(calls: &Receiver<Arc<Call>>, seed: u64, is_over: &AtomicBool) {
    let mut random = Random::new(seed);
    let mut held = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        match calls.recv_timeout(Duration::from_millis(10)) {
            Ok(call) => held.push(call),
            Err(_) if held.is_empty() => continue,
            Err(_) => {}
        }
        if random.once_in(3) {
            continue;
        }
        let call = held.swap_remove(random.below(held.len()));
        if random.once_in(4) {
            call.send_initial_metadata(HeaderMap::new());
        }
        if call.begin() {
            let size = random.one_of(&[0, 10, 1000, 100_000]);
            call.reply(Reply::ok(frame(&vec![1; size])));
        }
        held.retain(|call| !call.is_answered());
    }
}

/// Limits of all sizes, short times.
fn some_config(random: &mut Random) -> TransportConfig {
    let milliseconds =
        |random: &mut Random, most| Duration::from_millis(1 + random.below(most) as u64);
    let limit = |random: &mut Random| {
        let burst = random.one_of(&[2, 100, 1000, 1000, u32::MAX, u32::MAX]);
        FrameLimit::new(burst, Duration::from_millis(10))
    };
    TransportConfig {
        network_threads: 1 + random.below(2),
        max_receive_message_size: random.one_of(&[100, 10_000, 4 << 20]),
        max_header_list_size: random.one_of(&[1000, 16 << 10]),
        max_concurrent_streams: random.one_of(&[1, 5, 1000]),
        initial_stream_window: random.one_of(&[1, 1000, 2 << 20]),
        initial_connection_window: random.one_of(&[65_535, 8 << 20]),
        max_unread_bytes: random.one_of(&[0, 1000, 1 << 20, 64 << 20]),
        request_buffer: random.one_of(&[1, 1000, 1 << 20]),
        reply_buffer: random.one_of(&[1, 1000, 1 << 20]),
        max_pending_resets: random.one_of(&[1, 100]),
        max_stream_errors: random.one_of(&[1, 20, 10_000]),
        pings: limit(random),
        settings: limit(random),
        resets: limit(random),
        window_updates: limit(random),
        stray_frames: limit(random),
        handshake_timeout: milliseconds(random, 500),
        body_timeout: Some(milliseconds(random, 300)),
        send_timeout: milliseconds(random, 300),
        max_connection_idle: Some(milliseconds(random, 500)),
        max_connection_age: Some(milliseconds(random, 1000)),
        max_connection_age_grace: Some(milliseconds(random, 100)),
        keepalive_time: Some(milliseconds(random, 200)),
        keepalive_timeout: milliseconds(random, 200),
        keepalive_without_calls: random.once_in(2),
        close_timeout: milliseconds(random, 50),
        ..TransportConfig::default()
    }
}

fn number(variable: &str, default: impl FnOnce() -> u64) -> u64 {
    match std::env::var(variable) {
        Ok(value) => value.parse().expect("a whole number"),
        Err(_) => default(),
    }
}

/// Scripts that no other run has played.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_micros() as u64
}

/// Bytes that this process has in memory; zero where that is not told.
fn resident() -> usize {
    let statistics = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statistics
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok());
    4096 * pages.unwrap_or(0_usize)
}

/// One call on a connection of its own; `None` where the round's limits, which may be a millisecond, did not let it pass.
async fn call_as_a_good_client(port: u16) -> Option<()> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let (mut requests, connection) = h2::client::handshake(socket).await.ok()?;
    let connection = tokio::spawn(async move { drop(connection.await) });
    let exchange = async {
        let (response, mut stream) = requests.send_request(request(ECHO), false).ok()?;
        stream.send_data(frame(b"good"), true).ok()?;
        let mut body = response.await.ok()?.into_body();
        let data = body.data().await?.ok()?;
        (data == frame(b"good")).then_some(())
    };
    let served = tokio::time::timeout(PATIENCE, exchange)
        .await
        .ok()
        .flatten();
    connection.abort();
    served
}

/// One server with its own limits, and clients that make things up until `end`.
async fn play_round(first: &Arc<AtomicU64>, end: Instant) {
    let seed = first.load(Ordering::Relaxed);
    let (sender, calls) = channel();
    let is_over = Arc::new(AtomicBool::new(false));
    let answering = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || answer_slowly(&calls, seed, &is_over))
    };
    let routes = [
        Route::new(ECHO, Arc::new(Echo), Arc::new(())),
        Route::new(SLOW, Arc::new(Slow(Mutex::new(sender))), Arc::new(())),
        Route::new(STREAM, Arc::new(StreamEcho), Arc::new(())).with_streaming(true, true),
    ];
    let listener = Listener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.port().expect("TCP has a port");
    let config = some_config(&mut Random::new(seed));
    let transport = Transport::start(
        config.clone(),
        Arc::new(Routes::new(routes, None)),
        vec![listener],
    )
    .unwrap();
    let playing: Vec<_> = (0..8)
        .map(|_| {
            let next = Arc::clone(first);
            thread::spawn(move || {
                let mut seed = 0;
                while Instant::now() < end && !PANICKED.load(Ordering::Relaxed) {
                    seed = next.fetch_add(1, Ordering::Relaxed);
                    Inventor::new(seed, &PATHS).play(port);
                }
                seed
            })
        })
        .collect();
    while Instant::now() < end && !PANICKED.load(Ordering::Relaxed) {
        let start = Instant::now();
        while call_as_a_good_client(port).await.is_none() {
            assert!(
                start.elapsed() < PATIENCE,
                "a good client is not served; seed {seed}, {config:#?}"
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seeds: Vec<_> = playing
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let patience = Instant::now() + PATIENCE;
    while transport.connections() > 0 || transport.calls_in_flight() > 0 {
        assert!(
            Instant::now() < patience && !PANICKED.load(Ordering::Relaxed),
            "left over after seeds {seed} to {seeds:?}: {:#?}, {config:#?}",
            transport.stats()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        !PANICKED.load(Ordering::Relaxed),
        "seeds up to {seeds:?}, {config:#?}"
    );
    println!(
        "round from seed {seed} to {seeds:?}: {:?}",
        transport.stats()
    );
    transport.shutdown(None, Box::new(|| ()));
    transport.join();
    drop(transport);
    is_over.store(true, Ordering::Relaxed);
    answering.join().expect("it does not panic");
}

#[tokio::test]
async fn clients_that_make_things_up_harm_nobody() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.store(true, Ordering::Relaxed);
        hook(panic);
    }));
    let seconds = number("ATOLL_FUZZ_SECONDS", || 20);
    let seed = number("ATOLL_FUZZ_SEED", fresh_seed);
    println!(
        "{seconds} s from seed {seed}; to play it again: ATOLL_FUZZ_SEED={seed} ATOLL_FUZZ_SECONDS={seconds} \
         cargo test -p atoll-core --test transport_fuzz -- --nocapture"
    );
    let end = Instant::now() + Duration::from_secs(seconds);
    let next = Arc::new(AtomicU64::new(seed));
    let mut rounds = 0;
    let mut after_warm_up = 0;
    while Instant::now() < end {
        play_round(&next, end.min(Instant::now() + ROUND)).await;
        rounds += 1;
        if rounds == 2 {
            after_warm_up = resident();
        }
    }
    if rounds > 2 {
        let grown = resident().saturating_sub(after_warm_up);
        assert!(
            grown < MOST_GROWTH,
            "{grown} bytes more than after the first rounds"
        );
    }
}
