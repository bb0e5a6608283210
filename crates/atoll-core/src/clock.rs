//! Time stamps cheap enough to take for every handler.
//!
//! A stamp is a number of *ticks*. On x86-64 Linux whose kernel itself trusts the time stamp counter, a tick is one step of
//! that counter (about 9 ns to read, where `clock_gettime` takes 22 ns); elsewhere a tick is a nanosecond of the monotonic
//! clock. Statistics are kept in ticks and turned into seconds when somebody looks.
//!
//! Any thread may call anything here.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How ticks relate to real time.
#[derive(Debug, Clone, Copy)]
struct Scale {
    counter: bool,
    ticks_per_second: f64,
}

/// How long the counter is compared with the monotonic clock, once per process.
const CALIBRATION: Duration = Duration::from_millis(2);

static ORIGIN: OnceLock<Instant> = OnceLock::new();
static SCALE: OnceLock<Scale> = OnceLock::new();

fn scale() -> Scale {
    *SCALE.get_or_init(|| {
        if counter_is_trusted() {
            Scale {
                counter: true,
                ticks_per_second: measure_counter(),
            }
        } else {
            Scale {
                counter: false,
                ticks_per_second: 1e9,
            }
        }
    })
}

/// The kernel switches away from the counter when it finds it unstable or unsynchronised between cores.
fn counter_is_trusted() -> bool {
    cfg!(all(target_arch = "x86_64", target_os = "linux"))
        && std::fs::read_to_string(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        )
        .is_ok_and(|source| source.trim() == "tsc")
}

/// A reading of both clocks at the same moment: the tightest of a few, so that being preempted between the two does no harm.
fn read_both() -> (Instant, u64) {
    (0..8)
        .map(|_| {
            let before = read_counter();
            let instant = Instant::now();
            let after = read_counter();
            (
                after.wrapping_sub(before),
                (instant, before.midpoint(after)),
            )
        })
        .min_by_key(|&(width, _)| width)
        .expect("eight readings")
        .1
}

fn measure_counter() -> f64 {
    let (began, first) = read_both();
    while began.elapsed() < CALIBRATION {
        std::hint::spin_loop();
    }
    let (ended, last) = read_both();
    last.wrapping_sub(first) as f64 / (ended - began).as_secs_f64()
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn read_counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn read_counter() -> u64 {
    0
}

/// The current time in ticks; never goes back on one thread by more than the counters of two cores differ.
#[inline]
#[must_use]
pub fn now() -> u64 {
    match SCALE.get() {
        Some(scale) if scale.counter => read_counter(),
        Some(_) => ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64,
        None => {
            scale();
            now()
        }
    }
}

/// `ticks` as seconds.
#[must_use]
pub fn seconds(ticks: u64) -> f64 {
    ticks as f64 / scale().ticks_per_second
}

/// `ticks` as a duration, at most what one can hold.
#[must_use]
pub fn duration(ticks: u64) -> Duration {
    Duration::try_from_secs_f64(seconds(ticks)).unwrap_or(Duration::MAX)
}

/// The number of ticks in `duration`, saturating.
#[must_use]
pub fn ticks(duration: Duration) -> u64 {
    (duration.as_secs_f64() * scale().ticks_per_second) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_worth_what_the_monotonic_clock_says() {
        scale();
        let outer = Instant::now();
        let first = now();
        let inner = Instant::now();
        std::thread::sleep(Duration::from_millis(30));
        let inner = inner.elapsed().as_secs_f64();
        let ticked = seconds(now() - first);
        let outer = outer.elapsed().as_secs_f64();
        assert!(
            inner * 0.999 <= ticked && ticked <= outer * 1.001,
            "{inner} <= {ticked} <= {outer}"
        );
    }

    #[test]
    fn ticks_and_seconds_are_inverse() {
        let there_and_back = seconds(ticks(Duration::from_millis(1500)));
        assert!((there_and_back - 1.5).abs() < 1e-6);
    }
}
