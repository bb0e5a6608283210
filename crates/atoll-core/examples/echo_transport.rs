//! An echo server on the bare transport: one worker thread answers every call with its own message.
//!
//! For measuring the network side alone:
//!
//! ```text
//! cargo run --release --example echo_transport -- 127.0.0.1:50051 1
//! h2load -t1 -c8 -m16 -D5 -d payload.bin -H 'content-type: application/grpc' -H 'te: trailers' \
//!     http://127.0.0.1:50051/echo.Echo/Echo
//! ```
//!
//! A third argument is how many nanoseconds a handler works on each call. It ends when its standard input
//! does, and prints what the transport has counted.

use std::error::Error;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use atoll_core::transport::{
    Call, Dispatch, Listener, Reply, Route, Routes, Transport, TransportConfig, frame,
};

/// Where the network threads leave calls, and one worker finds them.
#[derive(Default)]
struct Mailbox {
    calls: Mutex<Vec<Arc<Call>>>,
    filled: Condvar,
}

impl Dispatch for Mailbox {
    fn dispatch(&self, batch: &mut Vec<Arc<Call>>) {
        let mut calls = self.calls.lock().expect("no thread panics with the lock");
        let was_idle = calls.is_empty();
        calls.append(batch);
        drop(calls);
        if was_idle {
            self.filled.notify_one();
        }
    }

    fn cancelled(&self, _: &Arc<Call>) {}
}

impl Mailbox {
    /// Answers every call after working `cost` on it.
    fn serve(&self, cost: Duration) {
        let mut batch = Vec::new();
        loop {
            let mut calls = self.calls.lock().expect("no thread panics with the lock");
            while calls.is_empty() {
                calls = self
                    .filled
                    .wait(calls)
                    .expect("no thread panics with the lock");
            }
            std::mem::swap(&mut *calls, &mut batch);
            drop(calls);
            for call in batch.drain(..) {
                if call.begin() {
                    let message = call.take_message();
                    let start = Instant::now();
                    while start.elapsed() < cost {
                        std::hint::spin_loop();
                    }
                    call.reply(Reply::ok(frame(&message.bytes)));
                }
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let network_threads = arguments.next().map_or(Ok(1), |count| count.parse())?;
    let cost = arguments
        .next()
        .map_or(Ok(0), |nanoseconds| nanoseconds.parse())?;

    let mailbox = Arc::new(Mailbox::default());
    let route = Route::new(
        "/echo.Echo/Echo",
        Arc::clone(&mailbox) as Arc<dyn Dispatch>,
        Arc::new(()),
    );
    thread::Builder::new()
        .name("echo".to_owned())
        .spawn(move || mailbox.serve(Duration::from_nanos(cost)))?;

    let listener = Listener::bind(&address)?;
    println!("listening on port {}", listener.port().unwrap_or_default());
    let config = TransportConfig {
        network_threads,
        ..TransportConfig::default()
    };
    let transport = Transport::start(config, Arc::new(Routes::new([route], None)), vec![listener])?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    println!("{:#?}", transport.stats());
    transport.shutdown(Some(Duration::from_secs(1)), Box::new(|| ()));
    transport.join();
    Ok(())
}
