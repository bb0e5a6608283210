//! How fast a store commits and loads on this machine:
//!
//! ```text
//! cargo run --release -p atoll-store --example commit_rate -- DIRECTORY [SECONDS] [IN FLIGHT] [KEYS]
//! ```
//!
//! It puts one key of 100 bytes per batch, chosen by chance, with so many batches under way, and tells batches per second, the processor
//! time of the writer thread per batch, and how long this disk takes to make 4 KiB durable. Then it fills up to one million keys and
//! tells how long loading them takes, and the memory. `DIRECTORY` must not be there yet, and goes.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use atoll_store::{Batch, MemoryEngine, Settings, SqliteEngine, SqliteSettings, Store, TableId};

const KV: TableId = TableId(0);
const FILLED: u64 = 1_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("say in which directory");
    let directory = Path::new(&directory);
    let mut number = |default: u64| {
        arguments
            .next()
            .map_or(default, |it| it.parse().expect("a number"))
    };
    let (seconds, in_flight, keys) = (number(3), number(128), number(100_000));
    std::fs::create_dir(directory).expect("a directory that is not there yet");
    println!(
        "disk: {:.0} µs to make 4 KiB durable",
        sync_time(directory) * 1e6
    );
    for (name, is_durable) in [("memory", false), ("sqlite", true)] {
        let store = open(directory, is_durable);
        rate(&store, name, Duration::from_secs(seconds), in_flight, keys);
        store.close();
    }
    let store = open(directory, true);
    let before = store.count(KV, b"", None).unwrap();
    let start = Instant::now();
    let mut next = 0;
    while next < FILLED {
        let mut batch = Batch::new();
        for index in next..next + 1000 {
            batch = batch.put(KV, key(index), vec![b'f'; 100]);
        }
        store.commit(batch).unwrap();
        next += 1000;
    }
    println!(
        "filled from {before} to {FILLED} keys in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    store.close();
    let base = resident();
    let start = Instant::now();
    let store = open(directory, true);
    println!(
        "loaded {} keys in {:.2} s, {:.0} MiB more resident memory, file {:.0} MiB",
        store.count(KV, b"", None).unwrap(),
        start.elapsed().as_secs_f64(),
        (resident() - base) / f64::from(1 << 20),
        directory.join("atoll.db").metadata().unwrap().len() as f64 / f64::from(1 << 20)
    );
    rate(
        &store,
        "sqlite",
        Duration::from_secs(seconds),
        in_flight,
        FILLED,
    );
    store.close();
    std::fs::remove_dir_all(directory).unwrap();
}

fn open(directory: &Path, is_durable: bool) -> Store {
    let settings = Settings::new(["kv"]);
    if is_durable {
        let engine = SqliteEngine::open(&SqliteSettings::new(directory)).unwrap();
        Store::open(Box::new(engine), settings).unwrap()
    } else {
        Store::open(Box::new(MemoryEngine::new()), settings).unwrap()
    }
}

fn key(index: u64) -> Vec<u8> {
    format!("namespace/key-{index:08}").into_bytes()
}

fn rate(store: &Store, name: &str, duration: Duration, in_flight: u64, keys: u64) {
    let (sender, outcomes) = channel();
    let mut chance = 1_u64;
    let mut submit = |store: &Store| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let sender = sender.clone();
        let batch = Batch::new().put(KV, key(chance % keys), vec![b'v'; 100]);
        store.submit(batch, Box::new(move |outcome| drop(sender.send(outcome))));
    };
    let (cpu, start) = (writer_time(store), Instant::now());
    for _ in 0..in_flight {
        submit(store);
    }
    let mut done = 0_u64;
    while start.elapsed() < duration {
        outcomes.recv().unwrap().unwrap();
        done += 1;
        submit(store);
    }
    for _ in 0..in_flight {
        outcomes.recv().unwrap().unwrap();
        done += 1;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = writer_time(store).checked_sub(cpu).unwrap();
    let statistics = store.statistics().unwrap();
    println!(
        "{name}, {keys} keys, {in_flight} in flight: {:.0} batches/s, {:.2} µs of the writer's processor time per batch, \
         {:.0} batches per group, {:.0} µs of waiting per group, longest commit {:.0} ms",
        done as f64 / elapsed,
        cpu.as_secs_f64() * 1e6 / done as f64,
        statistics.batches as f64 / statistics.groups as f64,
        statistics.wait.sum * 1e6 / statistics.wait.count as f64,
        statistics.commit.max * 1e3,
    );
}

/// The processor time that the writer thread has used.
fn writer_time(store: &Store) -> Duration {
    let (sender, receiver) = channel();
    let completion = move |_| {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the structure is written by the call.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        let _ = sender.send(Duration::new(time.tv_sec as u64, time.tv_nsec as u32));
    };
    store.submit(Batch::new(), Box::new(completion));
    receiver.recv().unwrap()
}

fn sync_time(directory: &Path) -> f64 {
    let path = directory.join("disk");
    let mut file = File::create(&path).unwrap();
    let start = Instant::now();
    for _ in 0..100 {
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.sync_data().unwrap();
    }
    std::fs::remove_file(&path).unwrap();
    start.elapsed().as_secs_f64() / 100.0
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|it| it.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|it| it.split_whitespace().nth(1)?.parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) * 1024.0
}
