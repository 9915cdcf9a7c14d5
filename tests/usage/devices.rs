//! Block devices as images. Needs root and loop devices, as CI has them, and fails without.

use std::fs::{self, File};
use std::process::Command;

use super::common::{Running, key, run, wait_for};
use super::place::{FAILED, IMAGES, Place};

/// A loop device over a file in the scratch directory.
struct Loop(String);

/// What a command that has to succeed printed.
#[track_caller]
fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh");
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Loop {
    fn new(place: &Place, name: &str, options: &str) -> Loop {
        // SAFETY: asks for a number.
        let root = unsafe { libc::geteuid() } == 0;
        assert!(
            root && fs::exists("/dev/loop-control").unwrap_or(false),
            "this needs root and loop devices; to leave it out: nextest run -E 'not test(devices::)'"
        );
        let file = place.0.path(name);
        File::create(&file).and_then(|file| file.set_len(8 << 20)).expect("a file");
        Loop(sh(&format!("losetup --find --show {options} {}", file.display())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// Its length is not in its metadata.
#[test]
fn a_block_device_is_an_image() {
    let place = Place::new();
    let device = Loop::new(&place, "below", "");
    for (flag, file, mend) in IMAGES.iter() {
        run(&mut place.command(&[flag, &key(file, &device.0)])).silent().with_status(0);
        let reads = format!("{},{mend}", key(file, &device.0));
        run(&mut place.command(&[flag, &reads])).silent().with_status(0);
    }
}

#[test]
fn a_read_only_device() {
    let place = Place::new();
    let device = Loop::new(&place, "below", "--read-only");
    for (flag, file, mend) in IMAGES.iter() {
        let writes = key(file, &device.0);
        place.refuses(&[flag, &writes], FAILED, &[flag, &device.0, "read-only device", mend]);
        run(&mut place.command(&[flag, &format!("{writes},{mend}")])).silent().with_status(0);
    }
}

#[test]
fn a_mounted_device() {
    let place = Place::new();
    let device = Loop::new(&place, "below", "");
    sh(&format!("mkfs.ext4 -q {}", device.0));
    let directory = place.0.path("directory");
    fs::create_dir(&directory).expect("a directory");
    sh(&format!("mount -t ext4 {} {}", device.0, directory.display()));
    for (flag, file, mend) in IMAGES.iter() {
        let writes = key(file, &device.0);
        let parts = [*flag, &*device.0, "in use: mounted", *mend];
        let ended = run(&mut place.command(&[flag, &writes])).with_status(FAILED);
        assert!(parts.iter().all(|part| ended.stderr.contains(part)), "{ended:?}");
        run(&mut place.command(&[flag, &format!("{writes},{mend}")])).silent().with_status(0);
    }
    sh(&format!("umount {}", directory.display()));
}

/// udev's lock, on a device that was just written to: it is waited for, and not for ever.
#[test]
fn a_lock_that_is_held_for_a_moment() {
    let place = Place::new();
    let device = Loop::new(&place, "below", "");
    for (flag, file, _) in IMAGES.iter() {
        let writes = key(file, &device.0);
        for (seconds, status) in [("0.3", 0), ("60", FAILED)] {
            let mut udev = Command::new("flock");
            udev.args(["--shared", "--no-fork", &device.0]);
            udev.args(["sh", "-c", &format!("echo locked; exec sleep {seconds}")]);
            let udev = Running::start(&mut udev);
            wait_for("the lock", || udev.stdout().contains("locked"));
            let ended = run(&mut place.command(&[flag, &writes])).with_status(status);
            assert_eq!(ended.stderr.contains("in use by process"), status == FAILED, "{ended:?}");
            udev.signal(libc::SIGTERM);
        }
    }
}
