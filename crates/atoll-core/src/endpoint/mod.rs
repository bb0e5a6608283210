//! What this process does, told over HTTP/1.1 to its own machine: while every loop is stuck and the GIL is held, too.
//!
//! * [`answer`]: which request gets which answer.
//! * [`top`]: the JSON of `/top`, documented in `docs/top.md`.
//! * [`vitals`]: whether the process lives, and whether its loops are well.
//! * [`process`]: what is known of the process itself.
//! * [`socket`]: the addresses that may be listened on, and the file of a Unix socket.
//!
//! What holds:
//! * it listens on loopback addresses and Unix sockets only, unless it is told otherwise, and answers who comes over loopback
//!   only when asked for a name of it: a page in a browser that has its own name point here gets nothing;
//! * other machines are told no details: no `/top`;
//! * one connection carries one request, and its life is bounded by [`Limits`], whatever its client sends or leaves out;
//! * nothing here waits for a loop or the GIL: what a program tells of itself in `/metrics` is the text that it published last.
//!
//! | thread | enters |
//! |---|---|
//! | `atoll-observe` | everything; it has all connections |
//! | any | [`Endpoint`]'s methods |
//!
//! | state | written by | read by | under |
//! |---|---|---|---|
//! | `thread`, `files` | who stops it | the same | their mutexes |
//! | `published` | who publishes | the endpoint's thread | its mutex |

mod answer;
mod process;
mod socket;
#[cfg(test)]
mod tests;
mod top;
pub(crate) mod vitals;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, Semaphore};

use crate::fork;
use crate::native_thread;
use crate::readiness::Readiness;
use crate::transport::BindError;
use crate::transport::linger::{SharedSocket, Socket, linger};
use answer::{Body, Peer, answer};
use process::Process;
use socket::{Bound, Listening, SocketFile};

/// What a client may take of the endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many connections there may be at once; more are answered 503 and closed.
    pub connections: usize,
    /// How long a client may take to send the head of its request, from when it connects.
    pub header_read_timeout: Duration,
    /// How long a connection may last altogether: clients that read slowly find an end, too.
    pub exchange_timeout: Duration,
    /// How long the head of a request may be, in bytes, from 8,192 on; a longer one is answered 431. A body is refused.
    pub request_size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            header_read_timeout: Duration::from_secs(5),
            exchange_timeout: Duration::from_secs(15),
            request_size: 16 * 1024,
        }
    }
}

/// What is told, besides what the loops do.
#[derive(Debug, Default)]
pub struct Settings {
    /// How long a loop that counts may be without progress before `/livez` fails; none lets it live while it answers.
    pub liveness_threshold: Option<Duration>,
    /// The conditions of `/readyz`.
    pub readiness: Option<Arc<Readiness>>,
    /// Whether addresses of other machines may be listened on.
    pub beyond_loopback: bool,
}

#[derive(Debug, Default)]
struct Told {
    process: Process,
    liveness_threshold: Option<Duration>,
    readiness: Option<Arc<Readiness>>,
    /// The program's own metrics.
    published: Mutex<Arc<str>>,
}

/// How long the text may be that a program publishes, in bytes.
pub const MOST_PUBLISHED: usize = 4 << 20;

/// A text that was to be published is longer than [`MOST_PUBLISHED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// How long a client is given to close after the answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long accepting rests after an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A client that is gone must not cause SIGPIPE, which a program may have given back its deadly meaning; elsewhere sockets
/// that were accepted never do.
const NO_SIGNAL: i32 = if cfg!(target_os = "linux") {
    libc::MSG_NOSIGNAL
} else {
    0
};
/// What hyper buffers at least.
const LEAST_REQUEST_SIZE: usize = 8192;

/// A server that tells what the process does, from a thread of its own. Any thread.
pub struct Endpoint {
    address: String,
    told: Arc<Told>,
    stopping: Arc<Notify>,
    thread: Mutex<Option<JoinHandle<()>>>,
    files: Mutex<Vec<SocketFile>>,
    descriptors: Vec<i32>,
    generation: u32,
}

impl Endpoint {
    /// Listens on `address` and answers until [`Self::stop`]: `"127.0.0.1:9464"`, `"localhost:0"`, `"[::1]:0"` (0 takes a free
    /// port), `"unix:/run/atoll.sock"`.
    ///
    /// # Errors
    /// When the address is malformed, not this machine's own without [`Settings::beyond_loopback`], or can't be listened on; the
    /// message says why.
    pub fn start(address: &str, settings: Settings, limits: Limits) -> Result<Self, BindError> {
        let failed = |error| BindError::io(address, error);
        let bound = socket::bind(address, settings.beyond_loopback)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let Bound {
            address,
            listening,
            files,
        } = bound;
        let descriptors = listening.iter().map(Listening::descriptor).collect();
        let listeners = register(&runtime, listening).map_err(failed)?;
        let stopping = Arc::new(Notify::new());
        let told = Told::of(settings);
        let (until, told_there) = (Arc::clone(&stopping), Arc::clone(&told));
        let thread = native_thread::spawn("atoll-observe".into(), move || {
            runtime.block_on(async {
                let places = Arc::new(Semaphore::new(limits.connections));
                for listener in listeners {
                    let shared = (Arc::clone(&places), Arc::clone(&told_there));
                    tokio::spawn(accept_forever(listener, shared, limits));
                }
                until.notified().await;
            });
        })
        .map_err(failed)?;
        Ok(Self {
            address,
            told,
            stopping,
            thread: Mutex::new(Some(thread)),
            files: Mutex::new(files),
            descriptors,
            generation: fork::watch(),
        })
    }

    /// Where it listens, the port that was taken included; a Unix socket's path is absolute.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Has `/metrics` end with `text` from now on, in the place of what was published before: lines of Prometheus' text. A forked
    /// child's does nothing.
    ///
    /// # Errors
    /// When it is longer than [`MOST_PUBLISHED`]; what was published stays.
    pub fn publish(&self, text: &str) -> Result<(), TooLong> {
        if text.len() > MOST_PUBLISHED {
            return Err(TooLong);
        }
        if self.generation == fork::generation() {
            let mut whole = text.to_owned();
            if !whole.is_empty() && !whole.ends_with('\n') {
                whole.push('\n');
            }
            let before = std::mem::replace(&mut *lock(&self.told.published), whole.into());
            drop(before);
        }
        Ok(())
    }

    /// Closes what is open, removes the file of a Unix socket and waits for the thread, which takes no time; a second call does
    /// nothing, and neither does a forked child's.
    pub fn stop(&self) {
        if self.generation != fork::generation() {
            return;
        }
        drop(std::mem::take(&mut *lock(&self.files)));
        self.stopping.notify_one();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// To be called in a forked child, once: closes what it has inherited, so that the address is free when the parent ends.
    pub fn close_in_child(&self) {
        if self.generation == fork::generation() {
            return;
        }
        for &descriptor in &self.descriptors {
            // SAFETY: a descriptor of the parent's, which was open when it forked; nothing in the child uses or owns it, as
            // the thread that does was not copied.
            unsafe { libc::close(descriptor) };
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.generation == fork::generation() {
            self.stop();
        } else {
            // The file is the parent's.
            if let Ok(files) = self.files.get_mut() {
                std::mem::take(files).into_iter().for_each(std::mem::forget);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

fn register(runtime: &Runtime, listening: Vec<Listening>) -> io::Result<Vec<Listener>> {
    let _entered = runtime.enter();
    listening
        .into_iter()
        .map(|each| match each {
            Listening::Tcp(listener) => TcpListener::from_std(listener).map(Listener::Tcp),
            Listening::Unix(listener) => UnixListener::from_std(listener).map(Listener::Unix),
        })
        .collect()
}

impl Told {
    fn of(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            process: Process::now(),
            liveness_threshold: settings.liveness_threshold,
            readiness: settings.readiness,
            published: Mutex::default(),
        })
    }

    fn metrics(&self) -> String {
        let mut text = crate::exposition::text_of_process();
        let published = Arc::clone(&lock(&self.published));
        text.push_str(&published);
        text
    }
}

type Shared = (Arc<Semaphore>, Arc<Told>);

async fn accept_forever(listener: Listener, shared: Shared, limits: Limits) {
    loop {
        let accepted = match &listener {
            Listener::Tcp(tcp) => tcp
                .accept()
                .await
                .map(|(stream, from)| serve(stream, peer(from), &shared, limits)),
            Listener::Unix(unix) => unix
                .accept()
                .await
                .map(|(stream, _)| serve(stream, Peer::Unix, &shared, limits)),
        };
        match accepted {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn peer(from: SocketAddr) -> Peer {
    if from.ip().to_canonical().is_loopback() {
        Peer::Loopback
    } else {
        Peer::Remote
    }
}

fn serve<S>(stream: S, peer: Peer, (places, told): &Shared, limits: Limits)
where
    S: Socket + Send + Sync + 'static,
{
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        refuse(&stream);
        return;
    };
    let told = Arc::clone(told);
    tokio::spawn(async move {
        let stream = Arc::new(stream);
        let exchange = exchange(Arc::clone(&stream), peer, told, limits);
        // Whatever went wrong, the client has been told or is gone.
        let _ = tokio::time::timeout(limits.exchange_timeout, exchange).await;
        linger(&*stream, CLOSE_TIMEOUT).await;
        drop(place);
    });
}

async fn exchange<S>(
    stream: Arc<S>,
    peer: Peer,
    told: Arc<Told>,
    limits: Limits,
) -> hyper::Result<()>
where
    S: Socket + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answered = answer(&request, peer, &told);
        async move { Ok::<Response<Body>, Infallible>(answered) }
    });
    let size = limits.request_size.max(LEAST_REQUEST_SIZE);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_header_size(size)
        .max_buf_size(size)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(SharedSocket(stream)), service)
        .await
}

/// Tells a client that there are too many, as far as that can be done without waiting for it.
fn refuse<S: Socket>(stream: &S) {
    let text = "too many connections: try again later\n";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\
         \r\n{text}",
        text.len()
    );
    let socket = SockRef::from(stream);
    let _ = socket.send_with_flags(answer.as_bytes(), NO_SIGNAL);
    let _ = socket.shutdown(std::net::Shutdown::Write);
    // What it has sent already would, unread, make closing a reset.
    let mut unread = [std::mem::MaybeUninit::uninit(); 4096];
    let _ = socket.recv(&mut unread);
}
