//! What a flush has answered for is on the device below, whatever becomes of the host's page cache: ext4 on a
//! loop device, which is cut off as by a power failure. To kill brisk would show nothing, since that leaves
//! the page cache as it is.
//!
//! Needs root and loop devices, as CI has them, and fails without.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use brisk::events::Events;
use brisk::virtio::block::{Block, DiskConfig};
use brisk::virtio::pmem::{Pmem, PmemConfig};

use crate::block::{Disk, FLUSH, OK, OUT};
use crate::driver::DATA;
use crate::pmem::{Flusher, WINDOW};

/// Bytes of the image.
const LEN: usize = 4 << 20;

/// ext4 on a loop device.
struct Cut {
    directory: tempfile::TempDir,
    device: String,
}

/// What a command that has to succeed printed.
fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Drop for Cut {
    /// Only what is ours: other tests have loop devices too.
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.mounted()).stderr(Stdio::null()).status();
        for name in ["below", "large"] {
            let file = self.directory.path().join(name);
            let mut list = Command::new("losetup");
            list.args(["--noheadings", "--output", "NAME", "--associated"]).arg(file);
            let devices = list.output().map(|output| output.stdout).unwrap_or_default();
            for device in String::from_utf8_lossy(&devices).split_whitespace() {
                let _ = Command::new("losetup").args(["--detach", device]).status();
            }
        }
    }
}

impl Cut {
    fn new() -> Cut {
        // SAFETY: asks for a number.
        let root = unsafe { libc::geteuid() } == 0;
        assert!(
            root && fs::exists("/dev/loop-control").unwrap_or(false),
            "this needs root and loop devices; to leave it out: nextest run -E 'not test(durable::)'"
        );
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("below");
        File::create(&below).unwrap().set_len(64 << 20).unwrap();
        let device = run("losetup", &["--find", "--show", below.to_str().unwrap()]);
        run("mkfs.ext4", &["-q", &device]);
        let cut = Cut { directory, device };
        fs::create_dir(cut.mounted()).unwrap();
        cut.mount();
        cut
    }

    fn mounted(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    fn mount(&self) {
        run("mount", &["-t", "ext4", &self.device, self.mounted().to_str().unwrap()]);
    }

    /// An image of zeroes that are on the device.
    fn image(&self) -> String {
        let path = self.mounted().join("image");
        fs::write(&path, vec![0; LEN]).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// From now on nothing reaches the device, not even what is in the journal. Then, with `user` gone, the
    /// start of the image as the host's next boot finds it.
    fn after_power_cut<T>(&self, user: T) -> Vec<u8> {
        /// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`, with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        let directory = File::open(self.mounted()).unwrap();
        let mut flags = 2u32;
        // SAFETY: reads the one number it is given.
        let status = unsafe { libc::ioctl(directory.as_raw_fd(), SHUTDOWN, &raw mut flags) };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
        drop((directory, user));
        let path = CString::new(self.mounted().to_str().unwrap()).unwrap();
        // SAFETY: a terminated path. What still has the image mapped does not keep us from it.
        assert_eq!(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }, 0);
        // Another device of the same file: what the first one's page cache has is nothing to it.
        run("losetup", &["--detach", &self.device]);
        let below = self.directory.path().join("below");
        let again = run("losetup", &["--find", "--show", below.to_str().unwrap()]);
        run("mount", &["-t", "ext4", &again, self.mounted().to_str().unwrap()]);
        let mut start = vec![0; 16];
        let image = File::open(self.mounted().join("image")).unwrap();
        image.read_exact_at(&mut start, 0).unwrap();
        drop(image);
        run("umount", &[self.mounted().to_str().unwrap()]);
        run("losetup", &["--detach", &again]);
        start
    }
}

/// A device of 4096-byte sectors: the driver is told, and what it asks for is done on whole ones.
#[test]
fn a_device_of_4096_byte_sectors() {
    const DISCARD: u32 = 11;
    const WRITE_ZEROES: u32 = 13;
    for (direct, io_uring) in [(false, false), (true, false), (true, true)] {
        let cut = Cut::new();
        let below = cut.directory.path().join("large");
        fs::write(&below, vec![0x5a; LEN]).unwrap();
        let words = ["--find", "--show", "--sector-size", "4096", below.to_str().unwrap()];
        let path = run("losetup", &words);
        let config = DiskConfig { path: path.clone(), direct, io_uring, ..DiskConfig::default() };
        let (model, queues, _) = Block::open_image(&config, 1, Events::device(0)).unwrap();
        let mut disk = Disk::started((model, queues));
        // blk_size (virtio 1.3, 5.2.4).
        assert_eq!(disk.get(0x100 + 20), 4096);
        for (request, sector) in [(DISCARD, 0u64), (WRITE_ZEROES, 16)] {
            let mut segment = [0; 16];
            segment[..8].copy_from_slice(&sector.to_le_bytes());
            segment[8] = 16;
            disk.put(DATA, &segment);
            assert_eq!(disk.request(request, 0, &[16], false), OK, "{request}");
        }
        disk.put(DATA, &[0x33; 4096]);
        assert_eq!(disk.request(OUT, 32, &[4096], false), OK);
        assert_eq!(disk.request(FLUSH, 0, &[], false), OK);
        drop(disk);
        let bytes = fs::read(&below).unwrap();
        assert!(bytes[8192..16384].iter().all(|byte| *byte == 0), "not zeroed");
        assert!(bytes[16384..20480].iter().all(|byte| *byte == 0x33), "not written");
        assert!(bytes[20480..].iter().all(|byte| *byte == 0x5a), "too far");
        run("losetup", &["--detach", &path]);
    }
}

fn disk(path: String, io_uring: bool) -> Disk {
    let config = DiskConfig { path, io_uring, ..DiskConfig::default() };
    let (model, queues, _) = Block::open_image(&config, 1, Events::device(0)).unwrap();
    Disk::started((model, queues))
}

#[test]
fn a_flush_of_a_disk_is_durable() {
    for io_uring in [false, true] {
        for (flush, wanted) in [(true, &b"precious"[..]), (false, &[0; 8])] {
            let cut = Cut::new();
            let mut disk = disk(cut.image(), io_uring);
            disk.put(DATA, &b"precious".repeat(64));
            assert_eq!(disk.request(OUT, 0, &[512], false), OK);
            if flush {
                assert_eq!(disk.request(FLUSH, 0, &[], false), OK);
            }
            assert_eq!(&cut.after_power_cut(disk)[..8], wanted, "io_uring {io_uring}");
        }
    }
}

/// A driver that will never flush (virtio 1.3, 5.2.6.2).
#[test]
fn a_write_through_is_durable() {
    for io_uring in [false, true] {
        let cut = Cut::new();
        let mut disk = disk(cut.image(), io_uring);
        disk.start(!(1 << 9));
        disk.put(DATA, &b"precious".repeat(64));
        assert_eq!(disk.request(OUT, 0, &[512], false), OK);
        assert_eq!(&cut.after_power_cut(disk)[..8], b"precious", "io_uring {io_uring}");
    }
}

#[test]
fn a_flush_of_a_pmem_is_durable() {
    for (flush, wanted) in [(true, &b"precious"[..]), (false, &[0; 8])] {
        let cut = Cut::new();
        let config = PmemConfig { path: cut.image(), discard_writes: false, part: None };
        let (model, pmem, _) = Pmem::map(&config, WINDOW).unwrap();
        // As the guest writes: through a shared mapping of the image.
        let file =
            File::options().read(true).write(true).open(cut.mounted().join("image")).unwrap();
        // SAFETY: a mapping of its own, of a file that long.
        unsafe {
            let (kind, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            let at = libc::mmap(std::ptr::null_mut(), LEN, kind, shared, file.as_raw_fd(), 0);
            assert_ne!(at, libc::MAP_FAILED);
            std::ptr::copy_nonoverlapping(b"precious".as_ptr(), at.cast(), 8);
            libc::munmap(at, LEN);
        }
        let mut flusher = Flusher::started((model, vec![pmem]));
        if flush {
            assert_eq!(flusher.flush(0), 0);
        }
        assert_eq!(&cut.after_power_cut((flusher, file))[..8], wanted);
    }
}
