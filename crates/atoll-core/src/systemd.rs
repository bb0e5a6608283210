//! Tells systemd how the service is, by `sd_notify`'s protocol: datagrams of `KEY=value` lines to a Unix socket.
//!
//! The watchdog is fed by a thread of its own, while loops make progress. It needs neither the loops nor the GIL: a call that
//! holds the GIL for long is what the liveness threshold is for, and must not count sooner only because it keeps the feeder from
//! running.
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `State` | who tells, who stops; the thread `atoll-systemd` | the same | its mutex |

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::endpoint::vitals;
use crate::fork;
use crate::native_thread;

/// How often the watchdog is fed in the time after which it bites: once more than systemd's manual asks for.
const MEALS: u32 = 3;

/// What systemd asks for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens, as `NOTIFY_SOCKET` has it: a path, or `@` and a name of Linux's abstract namespace.
    pub socket: String,
    /// How long it waits for a sign of life before it ends the service; none for ever.
    pub watchdog: Option<Duration>,
    /// How long a loop that counts may be without progress before there are no more signs of life; none for ever.
    pub liveness_threshold: Option<Duration>,
}

#[derive(Default)]
struct State {
    /// What the application has said last.
    status: String,
    is_over: bool,
    /// Whether the last verdict was that the process lives.
    is_stuck: bool,
}

struct Inner {
    socket: Socket,
    address: SockAddr,
    threshold: Option<Duration>,
    state: Mutex<State>,
    over: Condvar,
}

/// The line to systemd. Any thread.
pub struct Notifier {
    inner: Arc<Inner>,
    feeder: Mutex<Option<JoinHandle<()>>>,
    generation: u32,
}

impl Notifier {
    /// Finds the socket and, where there is a watchdog, feeds it from now on.
    ///
    /// # Errors
    /// When the address is none, or the process has no room for a socket or a thread.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let path = match settings.socket.strip_prefix('@') {
            Some(name) => format!("\0{name}"),
            None => settings.socket.clone(),
        };
        if !path.starts_with(['/', '\0']) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is neither a path from the root nor @ and a name",
            ));
        }
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        // Whoever does not take it is not waited for.
        socket.set_nonblocking(true)?;
        let inner = Arc::new(Inner {
            socket,
            address: SockAddr::unix(path)?,
            threshold: settings.liveness_threshold,
            state: Mutex::default(),
            over: Condvar::new(),
        });
        let feeder = match settings.watchdog {
            Some(watchdog) => {
                let own = Arc::clone(&inner);
                let feed = move || own.feed(watchdog / MEALS);
                Some(native_thread::spawn("atoll-systemd".into(), feed)?)
            }
            None => None,
        };
        Ok(Self {
            inner,
            feeder: Mutex::new(feeder),
            generation: fork::watch(),
        })
    }

    /// The service is ready for work.
    ///
    /// # Errors
    /// When systemd can't be told.
    pub fn ready(&self) -> io::Result<()> {
        self.inner.tell("READY=1")
    }

    /// What the service does, in a line.
    ///
    /// # Errors
    /// When systemd can't be told.
    pub fn status(&self, text: &str) -> io::Result<()> {
        let text = text.replace(['\n', '\r'], " ");
        let mut state = self.inner.lock();
        state.status.clone_from(&text);
        if state.is_stuck {
            // Said again when that is over.
            return Ok(());
        }
        drop(state);
        self.inner.tell(&format!("STATUS={text}"))
    }

    /// The service is about to end; its watchdog is not fed any more, as systemd does not ask for that.
    ///
    /// # Errors
    /// When systemd can't be told.
    pub fn stopping(&self) -> io::Result<()> {
        self.inner.tell("STOPPING=1")
    }

    /// Ends the thread and waits for it, which takes no time; a second call does nothing, and neither does a forked child's.
    pub fn stop(&self) {
        if self.generation != fork::generation() {
            return;
        }
        self.inner.lock().is_over = true;
        self.inner.over.notify_all();
        let feeder = self.feeder.lock();
        let feeder = feeder.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(feeder) = feeder {
            let _ = feeder.join();
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, text: &str) -> io::Result<()> {
        self.socket
            .send_to(text.as_bytes(), &self.address)
            .map(drop)
    }

    /// Feeds the watchdog every `period`, as long as the process lives by its loops' progress.
    fn feed(&self, period: Duration) {
        let mut state = self.lock();
        while !state.is_over {
            drop(state);
            let (alive, said) = vitals::livez(self.threshold);
            // What can't be told now is told next time.
            state = self.lock();
            if alive && state.is_stuck {
                let _ = self.tell(&format!("STATUS={}", state.status));
            } else if !alive {
                let line = said.trim_end().replace('\n', ", and ");
                let _ = self.tell(&format!("STATUS={line}"));
            }
            state.is_stuck = !alive;
            if alive {
                let _ = self.tell("WATCHDOG=1");
            }
            if state.is_over {
                return;
            }
            state = self
                .over
                .wait_timeout(state, period)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn settings(socket: &str, watchdog: Option<Duration>) -> Settings {
        Settings {
            socket: socket.into(),
            watchdog,
            liveness_threshold: None,
        }
    }

    #[test]
    fn what_is_told_arrives_and_the_watchdog_is_fed_until_the_stop() {
        let path = std::env::temp_dir().join(format!("atoll-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let next = || {
            let mut buffer = [0; 1000];
            let length = systemd.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let name = path.to_str().unwrap();
        let notifier = Notifier::start(&settings(name, None)).unwrap();
        notifier.ready().unwrap();
        notifier.status("two\nlines").unwrap();
        notifier.stopping().unwrap();
        assert_eq!(
            [next(), next(), next()],
            ["READY=1", "STATUS=two lines", "STOPPING=1"]
        );
        let watchdog = Some(Duration::from_millis(30));
        let fed = Notifier::start(&settings(name, watchdog)).unwrap();
        assert_eq!([next(), next(), next()], ["WATCHDOG=1"; 3]);
        fed.stop();
        fed.stop();
        std::fs::remove_file(&path).unwrap();
        assert!(notifier.ready().is_err(), "nobody is there");
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for address in ["", "relative/path", "vsock:2:1"] {
            let refused = Notifier::start(&settings(address, None));
            assert_eq!(refused.err().unwrap().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
