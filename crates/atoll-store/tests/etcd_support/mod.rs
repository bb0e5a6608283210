//! A real etcd for one test, on loopback and a free port, with its data in a temporary folder; and stores and elections on it.
//!
//! The certificates are good for a century; they were made with openssl, and the authority's key thrown away.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file is a crate of its own and uses a part of this"
)]

use std::future::Future;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use atoll_store::etcd::{Election, ElectionState, EtcdEngine, EtcdOptions, LeaseTimes};
use atoll_store::{OpenError, Settings, Store, TableId};
use etcd_client::Client;

pub const KV: TableId = TableId(0);
pub const NODES: TableId = TableId(1);
/// How long a test waits for what has to come, on a machine with much to do.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Ends the test, visibly, if this machine has no etcd.
#[macro_export]
macro_rules! etcd_or_skip {
    ($($options:expr),*) => {
        match $crate::etcd_support::Etcd::start(&[$($options),*]) {
            Some(etcd) => etcd,
            None => return,
        }
    };
}

/// The path of an etcd, or why there is none.
fn program() -> &'static Result<PathBuf, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/etcd");
        let output = Command::new(script).arg("--quick").output();
        let output = output.map_err(|error| format!("scripts/etcd does not start: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(PathBuf::from(text(&output.stdout)))
        } else {
            Err(text(&output.stderr))
        }
    })
}

/// One member, killed when it is dropped.
pub struct Etcd {
    child: Option<Child>,
    folder: PathBuf,
    port: u16,
    peer: u16,
    options: Vec<String>,
}

impl Etcd {
    /// With these options of etcd's besides. None, and a line that is seen, if there is no etcd.
    pub fn start(options: &[&str]) -> Option<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        if let Err(reason) = program() {
            let test = std::thread::current().name().unwrap_or("?").to_owned();
            // Past the test harness, which shows only what failing tests print.
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
            return None;
        }
        // Another process may take a port between our finding and etcd's using it.
        for _ in 0..5 {
            let number = STARTED.fetch_add(1, Relaxed);
            let name = format!("atoll-etcd-{}-{number}", std::process::id());
            let mut etcd = Self {
                child: None,
                folder: std::env::temp_dir().join(name),
                port: free_port(),
                peer: free_port(),
                options: options.iter().map(|it| (*it).to_owned()).collect(),
            };
            std::fs::create_dir_all(&etcd.folder).unwrap();
            if etcd.run() {
                return Some(etcd);
            }
        }
        panic!(
            "etcd does not start: {}",
            program().as_ref().unwrap().display()
        );
    }

    /// Starts the process; whether it listens before it ends or the deadline passes.
    fn run(&mut self) -> bool {
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let log = std::fs::File::create(self.folder.join("log")).unwrap();
        let mut command = Command::new(program().as_ref().unwrap());
        command
            .arg("--name=test")
            .arg(format!("--data-dir={}", self.folder.join("data").display()))
            .arg(format!("--listen-client-urls={}", self.url()))
            .arg(format!("--advertise-client-urls={}", self.url()))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=test={peer}"))
            .args(["--logger=zap", "--log-level=warn"])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        #[cfg(target_os = "linux")]
        // SAFETY: a system call that touches no memory. A test that is killed takes its etcd with it.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        self.child = Some(command.spawn().unwrap());
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    pub fn url(&self) -> String {
        let scheme = if self.options.iter().any(|it| it.starts_with("--cert-file")) {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// For this etcd, with a lease that outlasts whatever a busy machine does.
    pub fn options(&self) -> EtcdOptions {
        let mut options = EtcdOptions::new([self.url()]);
        options.lease = LeaseTimes {
            lease: Duration::from_secs(60),
            keepalive: Duration::from_millis(500),
            validity: Duration::from_secs(40),
        };
        options
    }

    fn signal(&self, signal: i32) {
        let process = self.child.as_ref().unwrap().id();
        // SAFETY: a signal to a process of ours.
        assert_eq!(unsafe { libc::kill(process.cast_signed(), signal) }, 0);
    }

    /// Stops the process as a machine stops that is out of reach.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        // Its threads stop one after the other; the parent is told when all have.
        let process = self.child.as_ref().unwrap().id().cast_signed();
        let mut status = 0;
        // SAFETY: the pointer is to a number of ours.
        let stopped = unsafe { libc::waitpid(process, &raw mut status, libc::WUNTRACED) };
        assert!(stopped == process && libc::WIFSTOPPED(status));
    }

    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again with the same data and address.
    pub fn start_again(&mut self) {
        self.kill();
        assert!(self.run(), "etcd does not start again");
    }

    /// Asks etcd past the store.
    pub fn ask<Answer, Asking>(&self, ask: impl FnOnce(Client) -> Asking) -> Answer
    where
        Asking: Future<Output = Result<Answer, etcd_client::Error>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let client = Client::connect([self.url()], None).await.unwrap();
            ask(client).await.unwrap()
        })
    }

    /// All keys and values, with the revisions of their last puts.
    pub fn everything(&self, prefix: &str) -> Vec<(String, Vec<u8>, i64)> {
        let prefix = prefix.to_owned();
        self.ask(|client| async move {
            let options = etcd_client::GetOptions::new().with_prefix();
            let mut found = client.kv_client().get(prefix, Some(options)).await?;
            let pairs = found.take_kvs().into_iter().map(|pair| {
                let revision = pair.mod_revision();
                let (key, value) = pair.into_key_value();
                (String::from_utf8(key).unwrap(), value, revision)
            });
            Ok(pairs.collect())
        })
    }

    pub fn put(&self, key: &str, value: &str) {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.ask(|client| async move { client.kv_client().put(key, value, None).await });
    }

    pub fn delete(&self, key: &str) {
        let key = key.to_owned();
        self.ask(|client| async move { client.kv_client().delete(key, None).await });
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Where a file of this folder is.
pub fn file(name: &str) -> String {
    format!("{}/tests/etcd_support/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A server: its election, won, and its store.
#[derive(Debug)]
pub struct Server {
    pub election: Election,
    pub store: Store,
}

impl Server {
    /// Stands for election, waits until it leads, opens the store.
    pub fn start(options: &EtcdOptions) -> Self {
        Self::lead(options, stand(options, "a"))
    }

    /// Waits until it leads, opens the store.
    pub fn lead(options: &EtcdOptions, election: Election) -> Self {
        Self::try_lead(options, election).unwrap()
    }

    pub fn try_lead(options: &EtcdOptions, election: Election) -> Result<Self, OpenError> {
        wait_leading(&election);
        let leadership = election.leadership().unwrap();
        let mut settings = Settings::new(["kv", "nodes"]);
        settings.guard = Some(leadership.validity.clone());
        let engine = EtcdEngine::new(options.clone(), leadership).unwrap();
        let store = Store::open(Box::new(engine), settings)?;
        Ok(Self { election, store })
    }

    /// A clean stop.
    pub fn stop(self) {
        self.store.close();
        self.election.resign();
    }
}

pub fn stand(options: &EtcdOptions, name: &str) -> Election {
    Election::start(options.clone(), name, &format!("{name}:50051"), None).unwrap()
}

pub fn wait_leading(election: &Election) -> u64 {
    match election.wait(DEADLINE, |it| matches!(it, ElectionState::Leading { .. })) {
        ElectionState::Leading { epoch } => epoch,
        other => panic!("does not lead: {other:?}"),
    }
}

/// Waits until it stands by and knows who leads.
pub fn wait_standby(election: &Election) -> atoll_store::etcd::Leader {
    let knows = |it: &ElectionState| {
        matches!(
            it,
            ElectionState::Standby {
                leader: Some(_),
                ..
            }
        )
    };
    match election.wait(DEADLINE, knows) {
        ElectionState::Standby { leader, .. } => leader.unwrap(),
        other => panic!("does not stand by: {other:?}"),
    }
}

/// Waits until something holds.
pub fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Tells its states to a test.
#[derive(Default)]
pub struct States(pub std::sync::Mutex<Vec<ElectionState>>);

impl atoll_store::etcd::ElectionObserver for States {
    fn changed(&self, state: &ElectionState) {
        self.0.lock().unwrap().push(state.clone());
    }
}

pub fn observed() -> Arc<States> {
    Arc::default()
}
