//! What several tests of the store need: directories of their own, and numbers by chance that can be repeated.

#![allow(dead_code, reason = "each test uses its share")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use atoll_store::{Settings, SqliteEngine, SqliteSettings, Store, TableId};

/// The first table of [`settings`].
pub(crate) const KV: TableId = TableId(0);
/// The second.
pub(crate) const NODES: TableId = TableId(1);

/// A directory that goes with the test.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    is_mounted: bool,
}

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self {
            path,
            is_mounted: false,
        }
    }

    /// A file system of that size; none, with the reason said, where the machine does not allow it.
    pub(crate) fn file_system(options: &str) -> Option<Self> {
        let mut directory = Self::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]);
        directory.is_mounted = may_mount(mount.arg(&directory.path));
        directory.is_mounted.then_some(directory)
    }

    pub(crate) fn remount(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-o", options])
            .arg(&self.path)
            .status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Whether that worked; if not, a line is seen that says so.
fn may_mount(mount: &mut Command) -> bool {
    let output = mount.output();
    if output.as_ref().is_ok_and(|it| it.status.success()) {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // Past the test harness, which shows only what failing tests print.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: this user can't mount a file system: {output:?}"
    );
    false
}

/// A file that can be read and written, but not renamed, until this is dropped.
#[derive(Debug)]
pub(crate) struct Pinned(PathBuf);

impl Pinned {
    /// None, with the reason said, where the machine does not allow it.
    pub(crate) fn new(path: PathBuf) -> Option<Self> {
        let mut mount = Command::new("mount");
        may_mount(mount.arg("--bind").arg(&path).arg(&path)).then_some(Self(path))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = Command::new("umount").arg(&self.path).status();
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

pub(crate) fn settings() -> Settings {
    Settings::new(["kv", "nodes"])
}

pub(crate) fn open(directory: &Path) -> Store {
    open_with(&SqliteSettings::new(directory), settings())
}

pub(crate) fn open_with(sqlite: &SqliteSettings, settings: Settings) -> Store {
    Store::open(Box::new(SqliteEngine::open(sqlite).unwrap()), settings).unwrap()
}

/// A sequence of numbers that its seed repeats (`SplitMix64`).
#[derive(Debug)]
pub(crate) struct Chance(pub u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
