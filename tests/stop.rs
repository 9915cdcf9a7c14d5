//! SIGTERM ends a request that takes long: each case in a process of its own, since nothing takes the signal
//! back.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "virtio/driver.rs"]
#[allow(dead_code, reason = "the part that these tests use")]
mod driver;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use brisk::config::Output;
use brisk::events::{self, Events};
use brisk::virtio::block::{Block, DiskConfig};
use brisk::virtio::console::Console;
use brisk::virtio::{Backend, VirtioDevice};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use driver::{Buffer, Driver, Parts};

/// RAM, of which nothing is touched but the rings.
const RAM: usize = 256 << 20;
/// A buffer of nearly all of it.
const LARGE: Buffer = (1 << 20, 255 << 20, false);
const HEADER: u64 = 0x8_0000;
const STATUS: u64 = 0x8_1000;

/// Runs `case`, which is the test `name`, in a process of its own.
fn alone(name: &str, case: impl FnOnce()) {
    if std::env::var_os("BRISK_ALONE").is_some() {
        events::install();
        return case();
    }
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(this);
    command.args(["--exact", name, "--nocapture"]).env("BRISK_ALONE", "1");
    assert!(command.status().unwrap().success());
}

fn driver<B: Backend, const Q: usize>((model, queues): Parts<B>) -> Driver<B, Q> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
    let mut driver = Driver { function: VirtioDevice::new(model, queues), memory };
    driver.start(u64::MAX);
    driver
}

/// Notifies queue `queue`, and sends SIGTERM once the file at `path` has bytes on the disk. How many it
/// has in the end.
fn interrupted<B: Backend, const Q: usize>(
    driver: &mut Driver<B, Q>,
    queue: u16,
    path: &Path,
) -> u64 {
    let size = || fs::metadata(path).unwrap().blocks() * 512;
    thread::scope(|scope| {
        scope.spawn(|| {
            let patience = Instant::now() + Duration::from_secs(30);
            while size() == 0 {
                assert!(Instant::now() < patience, "nothing is written");
                thread::yield_now();
            }
            // SAFETY: sends a signal to this process, which has a handler for it.
            unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
        });
        driver.notify(queue);
    });
    size()
}

/// A file system in memory, which zeroes by writing.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn disk(directory: &tempfile::TempDir) -> (std::path::PathBuf, Driver<Block, 8>) {
    let path = directory.path().join("image");
    File::create_new(&path).unwrap().set_len(4 << 30).unwrap();
    let config = DiskConfig { path: path.to_str().unwrap().to_owned(), ..DiskConfig::default() };
    let (model, queues, _) = Block::open_image(&config, 1, Events::device(0)).unwrap();
    let driver = driver((model, queues));
    (path, driver)
}

/// Puts a request into the disk's queue.
fn request(driver: &Driver<Block, 8>, kind: u32, data: &[Buffer]) {
    driver.put(HEADER, &kind.to_le_bytes());
    driver.put(HEADER + 4, &[0; 12]);
    let mut buffers = vec![(HEADER, 16, false)];
    buffers.extend(data);
    buffers.push((STATUS, 1, true));
    driver.queue(0, 0, &buffers);
}

#[test]
fn a_long_chain_to_the_console() {
    alone("a_long_chain_to_the_console", || {
        let directory = directory();
        let path = directory.path().join("out");
        let output = Output::File(path.to_str().unwrap().to_owned());
        let (model, queues) = Console::to(Box::leak(Box::new(output)));
        brisk::output::open().unwrap();
        let mut driver: Driver<Console, 2> = driver((model, queues.into()));
        driver.queue(1, 0, &[LARGE; 15]);
        let written = interrupted(&mut driver, 1, &path);
        assert!(written < 15 * u64::from(LARGE.1), "all {written} bytes");
    });
}

#[test]
fn a_long_write_to_a_disk() {
    alone("a_long_write_to_a_disk", || {
        let directory = directory();
        let (path, mut driver) = disk(&directory);
        request(&driver, 1, &[LARGE; 14]);
        let written = interrupted(&mut driver, 0, &path);
        assert!(written < 14 * u64::from(LARGE.1), "all {written} bytes");
    });
}

#[test]
fn a_gibibyte_of_zeroes() {
    alone("a_gibibyte_of_zeroes", || {
        let directory = directory();
        let (path, mut driver) = disk(&directory);
        let mut segments = Vec::new();
        // As much as a request may ask for.
        for part in 0..16u64 {
            segments.extend((part << 17).to_le_bytes());
            segments.extend((1u32 << 17).to_le_bytes());
            segments.extend([0; 4]);
        }
        driver.put(HEADER + 0x100, &segments);
        request(&driver, 13, &[(HEADER + 0x100, segments.len() as u32, false)]);
        let written = interrupted(&mut driver, 0, &path);
        assert!(written < 1 << 30, "all {written} bytes");
    });
}
