//! The Python stack of a thread, taken while the thread is stuck, the GIL held or not.
//!
//! First a Python thread is asked, which gets the GIL unless one C call holds it: it interrupts nobody. If it has no time, the
//! stuck thread is inside that call, and gets a signal: CPython's faulthandler, registered on it with a pipe as its file, writes
//! the stack from within the signal's handler, which needs no lock and no GIL. The signal is the second choice, for a thread
//! that gets it between two frames crashes in faulthandler (python/cpython issue 123967), and it cuts short what a C library waits for.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `SAMPLERS` | whoever prepares and activates one | monitors | its mutex, also while a stack is being read |
//! | `ASKS` | monitors, and the Python threads that answer | the same | its mutex |

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fork::PerProcess;

/// How long a Python thread may take to get the GIL. A thread that waits for it gets it within a few switch intervals.
const GIL_PATIENCE: Duration = Duration::from_millis(100);
/// How long a stack is waited for: a thread in the kernel may not get its signal.
const PATIENCE: Duration = Duration::from_millis(100);
/// A stack is complete when it ends with a line's end and nothing has come for so long.
const QUIET: Duration = Duration::from_millis(10);
/// Where a loop's own frames begin: what called them says nothing of the stall.
const LOOPS_OWN: &str = "atoll/loop/_io_context.py\"";
/// faulthandler stops after 100 frames, of 500 characters each at most.
const LONGEST: usize = 64 * 1024;

/// Where stacks come from. Its pipe is never closed: faulthandler keeps the descriptor's number.
#[derive(Debug)]
struct Sampler {
    signal: i32,
    reader: OwnedFd,
    /// What faulthandler writes to.
    writer: OwnedFd,
}

/// The pipes of a process, and which signal may be sent.
#[derive(Debug, Default)]
struct Samplers {
    /// Never removed.
    prepared: Vec<Sampler>,
    /// The index of the one whose signal faulthandler has taken.
    active: Option<usize>,
}

static SAMPLERS: PerProcess<Mutex<Samplers>> = PerProcess::new();

fn samplers() -> MutexGuard<'static, Samplers> {
    SAMPLERS
        .get()
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// The signal by which stacks are taken in this process, once [`activate`] has been called.
#[must_use]
pub fn active() -> Option<i32> {
    let samplers = samplers();
    samplers.active.map(|index| samplers.prepared[index].signal)
}

/// Makes the pipe for stacks that `signal` causes; returns the descriptor that faulthandler is to write to, the same at every
/// call for one signal and process. None where the system can't signal one thread. The signal is not sent before [`activate`].
///
/// # Errors
/// When the process has no file descriptor left.
pub fn prepare(signal: i32) -> io::Result<Option<RawFd>> {
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let mut samplers = samplers();
    if let Some(known) = samplers.prepared.iter().find(|it| it.signal == signal) {
        return Ok(Some(known.writer.as_raw_fd()));
    }
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors.
    if unsafe { libc::pipe(fds.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us these descriptors; nobody else owns them.
    let [reader, writer] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    for fd in [&reader, &writer] {
        // Not blocking, or a reader that is gone would block the signal's handler.
        // SAFETY: the descriptor is open and the commands take integers.
        unsafe {
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        }
    }
    let file = writer.as_raw_fd();
    samplers.prepared.push(Sampler {
        signal,
        reader,
        writer,
    });
    Ok(Some(file))
}

/// faulthandler has taken `signal`, for good: it may be sent from now on. The first signal of a process stays.
pub fn activate(signal: i32) {
    let mut samplers = samplers();
    if samplers.active.is_none() {
        errno::keep(signal);
        samplers.active = samplers.prepared.iter().position(|it| it.signal == signal);
    }
}

/// A question to the Python threads of the monitors, and its answer.
#[derive(Debug, Default)]
struct Asks {
    state: Mutex<AskState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct AskState {
    number: u64,
    /// The thread that is asked for, until somebody takes the question.
    thread: Option<i32>,
    answer: Option<(u64, String)>,
    /// The Python threads that answer, by numbers that are never used again.
    answerers: HashSet<u64>,
    last_answerer: u64,
}

static ASKS: PerProcess<Asks> = PerProcess::new();

impl Asks {
    fn lock(&self) -> MutexGuard<'_, AskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` gives something, for at most `patience`.
    fn wait<T>(
        &self,
        patience: Duration,
        mut ready: impl FnMut(&mut AskState) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if let Some(found) = ready(&mut state) {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// A Python thread answers questions from now on; returns the number by which it asks for them.
#[must_use]
pub fn begin_answers() -> u64 {
    let asks = ASKS.get();
    let mut state = asks.lock();
    state.last_answerer += 1;
    let answerer = state.last_answerer;
    state.answerers.insert(answerer);
    answerer
}

/// The Python thread with that number answers no more, and waits for no question any longer.
pub fn end_answers(answerer: u64) {
    let asks = ASKS.get();
    asks.lock().answerers.remove(&answerer);
    asks.changed.notify_all();
}

/// Waits for a question, (its number, the thread); a Python thread that does not hold the GIL meanwhile. None after
/// [`end_answers`].
#[must_use]
pub fn wait_for_question(answerer: u64) -> Option<(u64, i32)> {
    let asks = ASKS.get();
    let mut state = asks.lock();
    while state.answerers.contains(&answerer) {
        if let Some(thread) = state.thread.take() {
            return Some((state.number, thread));
        }
        state = asks
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    }
    None
}

/// Answers the question `number` with a stack, empty when there is none.
pub fn answer(number: u64, stack: String) {
    let asks = ASKS.get();
    asks.lock().answer = Some((number, stack));
    asks.changed.notify_all();
}

/// Asks a Python thread; None when it has not got the GIL in time, or there is none.
fn ask(thread: i32) -> Option<String> {
    let asks = ASKS.get();
    let number = {
        let mut state = asks.lock();
        if state.answerers.is_empty() {
            return None;
        }
        state.number += 1;
        state.thread = Some(thread);
        state.number
    };
    asks.changed.notify_all();
    let answer = asks.wait(GIL_PATIENCE, |state| match &state.answer {
        Some((answered, _)) if *answered == number => state.answer.take(),
        _ => None,
    });
    if answer.is_none() {
        asks.lock().thread = None;
    }
    answer.map(|(_, stack)| stack)
}

/// The Python stack of the thread with the system's number `thread`, the innermost frame first, one per line; None when it
/// can't be had.
#[must_use]
pub fn take(thread: i32) -> Option<String> {
    let stack = match ask(thread) {
        Some(stack) => of_the_stall(&stack),
        None => of_the_stall(&signalled(thread)?),
    };
    (!stack.is_empty()).then_some(stack)
}

/// The frames of a stack as faulthandler writes it, without those of the loop itself.
fn of_the_stall(text: &str) -> String {
    let mut stack = String::new();
    for line in text.lines().filter(|line| line.starts_with("  ")) {
        if line.contains(LOOPS_OWN) && !stack.is_empty() {
            break;
        }
        let _ = writeln!(stack, "{line}");
    }
    stack
}

/// What faulthandler writes when the thread gets the signal.
fn signalled(thread: i32) -> Option<String> {
    let samplers = samplers();
    let sampler = &samplers.prepared[samplers.active?];
    read_what_there_is(&sampler.reader, Duration::ZERO);
    if !send(sampler.signal, thread) {
        return None;
    }
    let bytes = read_what_there_is(&sampler.reader, PATIENCE);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// faulthandler's handler leaves errno changed. A thread that is on its way from a system call to what reads errno then takes
/// the one for the other: without a GIL, which otherwise saves errno, a loop that waits for a garbage collection after its
/// `epoll_wait` was cut short ended with `OSError: [Errno 0]`.
#[cfg(target_os = "linux")]
mod errno {
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// What the signal did before: faulthandler's handler, a `Handler`.
    static HANDLER: AtomicUsize = AtomicUsize::new(0);

    type Handler = extern "C" fn(libc::c_int);

    /// Puts a handler in front of the one that `signal` has now, which leaves errno as it was. For one signal per process.
    pub(super) fn keep(signal: i32) {
        // SAFETY: all zeroes is a valid `sigaction`, and the calls read and write what they are given.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let handled = libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
                && action.sa_flags & libc::SA_SIGINFO == 0
                && action.sa_sigaction != libc::SIG_DFL
                && action.sa_sigaction != libc::SIG_IGN;
            let ours = handle as Handler as usize;
            if handled && action.sa_sigaction != ours {
                HANDLER.store(action.sa_sigaction, Ordering::Release);
                action.sa_sigaction = ours;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }

    extern "C" fn handle(signal: libc::c_int) {
        // SAFETY: the address of this thread's errno is valid as long as the thread lives.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: see above.
        let before = unsafe { *errno };
        let address = HANDLER.load(Ordering::Acquire);
        // SAFETY: `keep` stored the address of a handler without SA_SIGINFO before it installed this one.
        let handler = unsafe { std::mem::transmute::<usize, Handler>(address) };
        handler(signal);
        // SAFETY: see above.
        unsafe { *errno = before };
    }
}

#[cfg(not(target_os = "linux"))]
mod errno {
    pub(super) fn keep(_signal: i32) {}
}

#[cfg(target_os = "linux")]
fn send(signal: i32, thread: i32) -> bool {
    // SAFETY: the call takes integers; a thread that has ended is an error.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn send(_signal: i32, _thread: i32) -> bool {
    false
}

/// Reads until nothing has come for a while; waits `patience` for the first byte, and for the end of a line.
fn read_what_there_is(reader: &OwnedFd, patience: Duration) -> Vec<u8> {
    let mut bytes = Vec::new();
    let began = Instant::now();
    loop {
        let wait = if bytes.last() == Some(&b'\n') {
            QUIET
        } else {
            patience.saturating_sub(began.elapsed())
        };
        let mut poll = libc::pollfd {
            fd: reader.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid entry is passed.
        if unsafe { libc::poll(&raw mut poll, 1, millis) } <= 0 {
            return bytes;
        }
        let mut buffer = [0_u8; 4096];
        // SAFETY: the buffer is as long as said and the descriptor is open.
        let read =
            unsafe { libc::read(reader.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(read) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return bytes,
        }
        if bytes.len() > LONGEST {
            return bytes;
        }
    }
}
