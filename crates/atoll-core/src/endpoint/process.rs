//! What is known of the process itself. Any thread.

use std::time::{Duration, Instant};

/// How many of a command's words are told.
const MOST_WORDS: usize = 64;
/// How long each of them may be, in characters.
const LONGEST_WORD: usize = 200;

/// The process, as it was when its endpoint started.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: u32,
    /// The words of its command line; none where the system does not tell.
    pub(super) command: Vec<String>,
    age: Duration,
    looked_at: Instant,
}

impl Default for Process {
    fn default() -> Self {
        Self::now()
    }
}

impl Process {
    /// This process.
    pub(super) fn now() -> Self {
        Self {
            id: std::process::id(),
            command: command(),
            age: age().unwrap_or_default(),
            looked_at: Instant::now(),
        }
    }

    /// How long it has been running; since its endpoint started where the system does not tell.
    pub(super) fn uptime(&self) -> Duration {
        self.age + self.looked_at.elapsed()
    }
}

fn command() -> Vec<String> {
    let Ok(bytes) = std::fs::read("/proc/self/cmdline") else {
        return Vec::new();
    };
    let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    words
        .split(|&byte| byte == 0)
        .take(MOST_WORDS)
        .map(|word| shortened(&String::from_utf8_lossy(word)))
        .collect()
}

fn shortened(word: &str) -> String {
    match word.char_indices().nth(LONGEST_WORD) {
        Some((end, _)) => format!("{}…", &word[..end]),
        None => word.to_owned(),
    }
}

/// How much processor time the thread with the system's number `id` has used: of several loops that are stuck it tells the one
/// that computes, maybe with the GIL, from those that wait for it. None where the system does not tell.
#[cfg(target_os = "linux")]
pub(super) fn cpu_time(id: i32) -> Option<f64> {
    // What the C library's pthread_getcpuclockid() makes of a thread's number.
    const OF_ONE_THREAD: i32 = 0b110;
    seconds_of((!id << 3) | OF_ONE_THREAD)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn cpu_time(_id: i32) -> Option<f64> {
    None
}

#[cfg(target_os = "linux")]
fn seconds_of(clock: libc::clockid_t) -> Option<f64> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is there; a clock that is not is an error.
    let told = unsafe { libc::clock_gettime(clock, &raw mut now) } == 0;
    told.then(|| now.tv_sec as f64 + now.tv_nsec as f64 / 1e9)
}

#[cfg(target_os = "linux")]
fn age() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in brackets, may contain anything.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let began: f64 = after_name.split_ascii_whitespace().nth(19)?.parse().ok()?;
    // SAFETY: the call takes an integer.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if per_second <= 0 {
        return None;
    }
    let booted = seconds_of(libc::CLOCK_BOOTTIME)?;
    Duration::try_from_secs_f64(booted - began / per_second as f64).ok()
}

#[cfg(not(target_os = "linux"))]
fn age() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_word_is_shortened_between_characters() {
        assert_eq!(shortened("as it is"), "as it is");
        let long = "ä".repeat(LONGEST_WORD + 1);
        assert_eq!(shortened(&long), format!("{}…", "ä".repeat(LONGEST_WORD)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_waits_is_told_from_one_that_computes() {
        // SAFETY: the call takes nothing.
        let this = || unsafe { libc::gettid() };
        let mine = this();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let _ = tell.send(this());
            let _ = ended.recv();
        });
        let other = told.recv().unwrap();
        let before = (cpu_time(mine).unwrap(), cpu_time(other).unwrap());
        while cpu_time(mine).unwrap() < before.0 + 0.05 {
            std::hint::spin_loop();
        }
        assert!(cpu_time(other).unwrap() < before.1 + 0.01);
        drop(end);
        waiting.join().unwrap();
        assert_eq!(cpu_time(1 << 25), None, "no system has so many");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_has_an_age_and_a_command() {
        let process = Process::now();
        assert!(process.uptime() > Duration::ZERO);
        assert!(process.uptime() < Duration::from_secs(24 * 3600));
        assert!(process.command[0].contains("atoll"));
    }
}
