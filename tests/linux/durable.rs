//! What a guest's fsync has answered for is on the device below, whatever becomes of the host's page cache:
//! the image is on an ext4 that is cut off, as by a power failure. To kill brisk would show nothing, since
//! that leaves the page cache as it is.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::common::{Running, Scratch, wait_for};
use super::loops::{Loop, sh};
use super::{Guest, key};

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`, with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
const NO_LOG_FLUSH: u32 = 2;

/// ext4 on a loop device, mounted in `scratch`.
struct Cut {
    scratch: Scratch,
    device: Loop,
}

impl Cut {
    fn new() -> Cut {
        let scratch = Scratch::new();
        let below = scratch.file("below", "");
        File::options().write(true).open(&below).and_then(|f| f.set_len(64 << 20)).expect("a file");
        let device = Loop::new(&below, "");
        sh(&format!("mkfs.ext4 -q {}", device.0.display()));
        let cut = Cut { scratch, device };
        fs::create_dir(cut.mounted()).expect("a directory");
        cut.mount(&cut.device.0);
        cut
    }

    fn mounted(&self) -> PathBuf {
        self.scratch.path("mounted")
    }

    fn mount(&self, device: &Path) {
        sh(&format!("mount -t ext4 {} {}", device.display(), self.mounted().display()));
    }

    /// 4 MiB of zeroes that are on the device.
    fn image(&self) -> PathBuf {
        let path = self.mounted().join("image");
        fs::write(&path, vec![0; 4 << 20]).expect("an image");
        sh(&format!("sync --file-system {}", path.display()));
        path
    }

    /// From now on nothing reaches the device, not even what is in the journal.
    fn power_off(&self) {
        let directory = File::open(self.mounted()).expect("the mount");
        let flags = NO_LOG_FLUSH;
        // SAFETY: reads the one number it is given.
        let status = unsafe { libc::ioctl(directory.as_raw_fd(), SHUTDOWN, &raw const flags) };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    }

    /// The image's start as the host's next boot finds it: by another device, since what the first one has
    /// in the page cache is nothing to it.
    fn after_the_next_boot(self) -> Vec<u8> {
        sh(&format!("umount --lazy {}", self.mounted().display()));
        let again = Loop::new(&self.scratch.path("below"), "");
        self.mount(&again.0);
        let image = fs::read(self.mounted().join("image")).expect("the image");
        sh(&format!("umount {}", self.mounted().display()));
        image[..16].to_vec()
    }
}

/// The guest writes to `device`, whose flag is `flag` and has `more`, flushes, and is gone with its host.
#[track_caller]
fn is_durable(flag: &str, file: &str, more: &str, device: &str) {
    let cut = Cut::new();
    let image = format!("{}{more}", key(file, cut.image()));
    let guest =
        Guest::doing(&format!("write={device}:precious,say=flushed,hold")).with(&[flag, &image]);
    let running = Running::start(&mut guest.command());
    wait_for("the guest's fsync", || guest.output().contains("flushed"));
    assert!(guest.output().contains("brisk-init: written"), "{}", guest.output());
    cut.power_off();
    running.signal(libc::SIGKILL);
    running.end();
    assert!(cut.after_the_next_boot().starts_with(b"precious"), "{flag} {image}");
}

#[cfg(feature = "block")]
#[test]
fn a_disk_keeps_what_was_flushed() {
    is_durable("--disk", "path", "", "/dev/vda");
}

#[cfg(feature = "io-uring")]
#[test]
fn a_disk_by_io_uring_keeps_what_was_flushed() {
    is_durable("--disk", "path", ",engine=io_uring", "/dev/vda");
}

#[cfg(feature = "pmem")]
#[test]
fn a_pmem_keeps_what_was_flushed() {
    is_durable("--pmem", "file", "", "/dev/pmem0");
}
