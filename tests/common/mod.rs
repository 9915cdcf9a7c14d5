//! What the integration tests share: running brisk with a limit on its time, scratch directories,
//! and kernels of a few instructions.

#![allow(dead_code, reason = "each test program uses a part")]

pub mod client;
pub mod kernel;
pub mod state;
pub mod terminal;

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes here; a brisk that still runs is killed and its test fails. The lab's
/// machine is an emulated one.
pub fn limit() -> Duration {
    Duration::from_secs(if std::env::var_os("BRISK_LAB").is_some() { 180 } else { 30 })
}

/// brisk: the one that `BRISK_BIN` names, as in the lab, else the one that cargo just built.
pub fn brisk() -> Command {
    let program = std::env::var_os("BRISK_BIN");
    let mut command = Command::new(program.unwrap_or(env!("CARGO_BIN_EXE_brisk").into()));
    command.stdin(Stdio::null());
    command
}

macro_rules! those_built {
    ($($name:literal),* $(,)?) => { &[$(#[cfg(feature = $name)] $name,)*] };
}

/// The features of the program that cargo built.
const BUILT: &[&str] = those_built![
    "api",
    "async-loader",
    "block",
    "boot-timer",
    "bzimage",
    "console",
    "exit-stats",
    "hugepages",
    "io-uring",
    "logging",
    "notify",
    "pci",
    "pmem",
    "serial",
    "smp",
    "snapshot",
    "thp",
    "trace",
];

/// Whether the program has a feature: one of `BRISK_FEATURES`, which goes with `BRISK_BIN`.
pub fn has(feature: &str) -> bool {
    match std::env::var("BRISK_FEATURES") {
        Ok(list) => list.split(',').any(|one| one == feature),
        Err(_) => BUILT.contains(&feature),
    }
}

/// Whether there is nothing to test, since the program has not all of `features`; says so.
pub fn lacks(features: &[&str]) -> bool {
    let missing = features.iter().find(|feature| !has(feature));
    if let Some(missing) = missing {
        println!("not in this program: {missing}");
    }
    missing.is_some()
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status; `None` where a signal ended it.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// Fails where the exit status is another.
    #[track_caller]
    pub fn with_status(self, wanted: i32) -> Ended {
        assert_eq!(self.status, Some(wanted), "{self:#?}");
        self
    }

    /// Fails where brisk had anything to say.
    #[track_caller]
    pub fn silent(self) -> Ended {
        assert_eq!(self.stderr, "", "brisk said something");
        self
    }
}

/// A brisk that runs. Killed when dropped.
pub struct Running {
    child: Child,
    stdout: Pipe,
    stderr: Pipe,
}

impl Running {
    /// Starts it with standard output and error caught.
    pub fn start(command: &mut Command) -> Running {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("brisk can be started");
        let stdout = Pipe::read(child.stdout.take().expect("piped"));
        let stderr = Pipe::read(child.stderr.take().expect("piped"));
        Running { child, stdout, stderr }
    }

    /// The process, for its standard input.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Waits until its standard output has `text`.
    ///
    /// # Panics
    /// It ends before, or takes too long.
    #[track_caller]
    pub fn wait_for_output(&mut self, text: &str) {
        let since = Instant::now();
        while !self.stdout.text().contains(text) {
            let ended = !self.runs();
            if ended || since.elapsed() > limit() {
                let (out, err) = (self.stdout.text(), self.stderr.text());
                panic!("no `{text}`; ended: {ended}; output:\n{out}\nerrors:\n{err}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: the child was not waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It takes too long.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let since = Instant::now();
        let mut timed_out = false;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            if since.elapsed() > limit() {
                timed_out = true;
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(2));
        };
        let (stdout, stderr) = (self.stdout.all(), self.stderr.all());
        let ended = Ended { status: status.code(), signal: status.signal(), stdout, stderr };
        assert!(!timed_out, "still running after {:?}: {ended:#?}", limit());
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes out of a pipe.
struct Pipe {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Pipe {
    fn read(mut pipe: impl Read + Send + 'static) -> Pipe {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                to.lock().expect("the other thread").extend_from_slice(&chunk[..count]);
            }
        });
        Pipe { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("the reader")).into_owned()
    }

    /// Waits for the end of the pipe.
    fn all(&mut self) -> String {
        self.reader.take().map(thread::JoinHandle::join);
        self.text()
    }
}

/// Runs to the end.
#[track_caller]
pub fn run(command: &mut Command) -> Ended {
    Running::start(command).end()
}

/// Waits until `done`, which `what` names.
///
/// # Panics
/// Not done after [`limit`].
#[track_caller]
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < limit(), "waited {:?} for {what}", limit());
        thread::sleep(Duration::from_millis(5));
    }
}

/// A directory that goes away with this value.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// An empty one.
    pub fn new() -> Scratch {
        Scratch(tempfile::Builder::new().prefix("brisk-test-").tempdir().expect("a directory"))
    }

    /// One on a tmpfs, where the machine has its usual one.
    pub fn in_memory() -> Scratch {
        let dir = tempfile::Builder::new().prefix("brisk-test-").tempdir_in("/dev/shm");
        dir.map_or_else(|_| Scratch::new(), Scratch)
    }

    /// Where `name` is or would be in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file; its path.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a file can be written");
        path
    }

    /// The text of a file, empty where there is none.
    pub fn text(&self, name: &str) -> String {
        let bytes = std::fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The names in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("the directory can be read");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// `key=path`, as several flags want it.
pub fn key(key: &str, path: impl AsRef<Path>) -> String {
    format!("{key}={}", path.as_ref().display())
}

/// The counts of a `--stats` file.
#[derive(Debug)]
pub struct Stats(serde_json::Value);

impl Stats {
    /// Reads the file.
    ///
    /// # Panics
    /// It is not there or not JSON.
    #[track_caller]
    pub fn read(path: impl AsRef<OsStr>) -> Stats {
        let text = std::fs::read_to_string(path.as_ref()).expect("the --stats file");
        Stats(serde_json::from_str(&text).expect("the --stats file is JSON"))
    }

    /// All exits to the process.
    pub fn userspace_exits(&self) -> u64 {
        self.0["userspace_exits"].as_u64().expect("userspace_exits")
    }

    /// Exits that had no row of their own.
    pub fn further(&self) -> u64 {
        self.0["exits_at_further_addresses"].as_u64().expect("exits_at_further_addresses")
    }

    /// Exits of this kind at this port or page, and how many of them no device answered.
    pub fn at(&self, kind: &str, address: u64) -> (u64, u64) {
        let address = format!("{address:#x}");
        let row = self
            .rows()
            .into_iter()
            .find(|row| row["kind"] == kind && row["address"] == address.as_str());
        row.map_or((0, 0), |row| {
            (row["count"].as_u64().expect("count"), row["unclaimed"].as_u64().expect("unclaimed"))
        })
    }

    /// Exits of this kind.
    pub fn of(&self, kind: &str) -> u64 {
        let rows = self.rows().into_iter().filter(|row| row["kind"] == kind);
        rows.map(|row| row["count"].as_u64().expect("count")).sum()
    }

    /// The sum over all rows.
    pub fn sum(&self) -> u64 {
        self.rows().into_iter().map(|row| row["count"].as_u64().expect("count")).sum()
    }

    /// One of KVM's own counters of the first vCPU; `None` where this KVM has it not.
    pub fn of_kvm(&self, name: &str) -> Option<u64> {
        self.0["kvm"]["vcpus"][0][name].as_u64()
    }

    /// KVM's counters of how many vCPUs are in the file.
    pub fn vcpus(&self) -> usize {
        self.0["kvm"]["vcpus"].as_array().expect("kvm.vcpus").len()
    }

    fn rows(&self) -> Vec<&serde_json::Value> {
        self.0["exits"].as_array().expect("exits").iter().collect()
    }
}

/// A point of a `--boot-log` file.
#[derive(Debug, Clone)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// What the guest wrote, if it is the guest's.
    pub code: Option<u8>,
    /// Microseconds since the process started.
    pub process_us: f64,
}

/// The points of a `--boot-log` file, and how many it left out.
///
/// # Panics
/// The file is not there or a line is not JSON.
#[track_caller]
pub fn boot_log(path: impl AsRef<OsStr>) -> (Vec<Point>, u64) {
    let text = std::fs::read_to_string(path.as_ref()).expect("the --boot-log file");
    let (mut points, mut dropped) = (Vec::new(), 0);
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        if line["name"] == "dropped" {
            dropped += line["count"].as_u64().expect("count");
            continue;
        }
        points.push(Point {
            name: line["name"].as_str().expect("name").to_owned(),
            code: line["code"].as_u64().map(|code| u8::try_from(code).expect("a byte")),
            process_us: line["process_us"].as_f64().expect("process_us"),
        });
    }
    (points, dropped)
}

/// What the guest wrote to the boot timer, in order.
#[track_caller]
pub fn codes(path: impl AsRef<OsStr>) -> Vec<u8> {
    boot_log(path).0.iter().filter_map(|point| point.code).collect()
}
