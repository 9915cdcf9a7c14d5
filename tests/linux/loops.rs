//! Block devices of the host as images of a real guest: loop devices, over files in memory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use super::common::{Running, Scratch, wait_for};
use super::disks::{KINDS, words};
use super::{Guest, artifact};

/// What a command that has to succeed printed.
#[track_caller]
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh");
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A loop device, until it is dropped.
pub struct Loop(pub PathBuf);

impl Loop {
    /// Of the file at `below`, which `options` of losetup(8) say more of.
    #[track_caller]
    pub fn new(below: &std::path::Path, options: &str) -> Loop {
        Loop(sh(&format!("losetup --find --show {options} {}", below.display())).into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// A file of 8 MiB of these bytes.
fn file(scratch: &Scratch, byte: u8) -> PathBuf {
    scratch.file("below", vec![byte; 8 << 20])
}

/// The guest sees all of it, writes to it, and has it on the device at its fsync.
#[test]
fn a_block_device() {
    for kind in KINDS {
        for transport in TRANSPORTS {
            let scratch = Scratch::new();
            let below = file(&scratch, 0);
            let device = Loop::new(&below, "");
            let name = kind.device.trim_start_matches("/dev/");
            let doing = format!("cat=/sys/block/{name}/size,write={}:by_loop", kind.device);
            let guest = Guest::doing(&doing).with(&words(&kind.flags(&device.0))).with(transport);
            guest.reaches_userspace();
            let text = guest.output();
            assert!(text.lines().any(|line| line == "16384"), "{transport:?}: {text}");
            assert!(text.contains("brisk-init: written"), "{transport:?}: {text}");
            drop(device);
            assert!(fs::read(&below).expect("the file").starts_with(b"by_loop"), "{transport:?}");
        }
    }
}

/// How the guest gets at its devices.
const TRANSPORTS: &[&[&str]] = &[
    &[],
    #[cfg(feature = "pci")]
    &["--transport", "pci"],
];

/// A root file system on it, which nobody can write to.
#[test]
fn a_read_only_block_device() {
    for kind in KINDS {
        let device = Loop::new(&artifact("BRISK_DISK_EXT4_PARTITION"), "--read-only");
        let writes = Guest::from_root(&kind.partition(), &words(&kind.flags(&device.0)));
        let ended = writes.run().with_status(1);
        for part in [&*device.0.display().to_string(), kind.readonly] {
            assert!(ended.stderr.contains(part), "no `{part}`: {ended:?}");
        }
        let flags = kind.flags_readonly(&device.0);
        Guest::from_root(&kind.partition(), &words(&flags)).reaches_userspace();
    }
}

/// What is in use otherwise is not written to, and udev's lock, which it has on a device for a moment, is
/// waited for.
#[test]
fn a_block_device_in_use() {
    let scratch = Scratch::new();
    let device = Loop::new(&file(&scratch, 0), "");
    sh(&format!("mkfs.ext4 -q {}", device.0.display()));
    let directory = scratch.path("directory");
    fs::create_dir(&directory).expect("a directory");
    for kind in KINDS {
        let guest = |flags: [String; 2]| Guest::doing("").with(&words(&flags));
        sh(&format!("mount -t ext4 {} {}", device.0.display(), directory.display()));
        let ended = guest(kind.flags(&device.0)).run().with_status(1);
        assert!(ended.stderr.contains("in use: mounted"), "{ended:?}");
        guest(kind.flags_readonly(&device.0)).reaches_userspace();
        sh(&format!("umount {}", directory.display()));

        let mut udev = Command::new("flock");
        udev.args(["--shared", "--no-fork"]).arg(&device.0);
        let udev = Running::start(udev.args(["sh", "-c", "echo locked; exec sleep 0.5"]));
        wait_for("the lock", || udev.stdout().contains("locked"));
        guest(kind.flags(&device.0)).reaches_userspace();
    }
}

/// What a Debian's programs do with a disk of large sectors: they are told of them, what is discarded and
/// zeroed reads as zeroes, and not a byte beside it changed.
#[cfg(feature = "block")]
#[test]
fn a_block_device_of_4096_byte_sectors() {
    // PID 1; perl's syscall(169) is reboot(2), to power off.
    const SCRIPT: &str = "PATH=/usr/sbin:/usr/bin; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; \
        cat /sys/block/vdb/queue/logical_block_size; \
        blkdiscard -o 4096 -l 8192 /dev/vdb && echo discarded; \
        blkdiscard -z -o 16384 -l 8192 /dev/vdb && echo zeroed; \
        dd if=/dev/zero of=/dev/vdb bs=512 count=1 seek=9 oflag=direct || echo refused; \
        echo precious | dd of=/dev/vdb bs=4096 count=1 seek=8 conv=sync oflag=direct && echo written; \
        sync; exec perl -e 'syscall(169, 0xfee1dead, 0x28121969, 0x4321fedc, 0)'";
    let root = artifact("BRISK_DISK_DEBIAN_EXT4_PARTITION");
    for more in ENGINES {
        let scratch = Scratch::new();
        let below = file(&scratch, 0x5a);
        let device = Loop::new(&below, "--sector-size 4096");
        let root = format!("path={},readonly=on", root.display());
        let disk = format!("path={}{more}", device.0.display());
        let mut guest = Guest::from_root("/dev/vda1", &["--disk", &root, &disk]);
        guest.memory = "size=256M";
        guest.cmdline += &format!(" init=/bin/sh -- -c \"{SCRIPT}\"");
        let ended = guest.run();
        let text = guest.output();
        assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "{more}: {text}");
        for line in ["4096", "discarded", "zeroed", "refused", "written"] {
            assert!(text.lines().any(|said| said.trim_end() == line), "{more}, {line}: {text}");
        }
        drop(device);
        let below = File::open(below).expect("the file");
        let is = |from: u64, len: usize, byte: u8| {
            let mut bytes = vec![!byte; len];
            below.read_exact_at(&mut bytes, from).expect("the file");
            assert!(bytes.iter().all(|read| *read == byte), "{more}: {len} bytes at {from}");
        };
        is(0, 4096, 0x5a);
        is(4096, 8192, 0);
        is(12288, 4096, 0x5a);
        is(16384, 8192, 0);
        is(24576, 8192, 0x5a);
        is(36864, (8 << 20) - 36864, 0x5a);
        let mut written = [0; 9];
        below.read_exact_at(&mut written, 32768).expect("the file");
        assert_eq!(&written, b"precious\n", "{more}");
    }
}

/// What a disk's flag may say besides.
#[cfg(feature = "block")]
const ENGINES: &[&str] = &[
    "",
    ",direct=on",
    #[cfg(feature = "io-uring")]
    ",direct=on,engine=io_uring",
];
