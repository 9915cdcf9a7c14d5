//! What backs the guest's memory on the host.

use std::fs;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

use super::Guest;
use super::common::{Running, wait_for};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// The pool is the machine's: one test at a time.
static ONE: Mutex<()> = Mutex::new(());

/// The pool with another number of pages, until it is dropped.
#[cfg(feature = "hugepages")]
pub(super) struct Pool {
    before: u64,
    _one: MutexGuard<'static, ()>,
}

#[cfg(feature = "hugepages")]
impl Pool {
    #[track_caller]
    pub fn of(pages: u64) -> Pool {
        let one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let before = pool("nr_hugepages");
        fs::write(format!("{POOL}/nr_hugepages"), pages.to_string()).expect("root may");
        assert_eq!(pool("nr_hugepages"), pages, "too little memory in one piece");
        Pool { before, _one: one }
    }
}

#[cfg(feature = "hugepages")]
impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(format!("{POOL}/nr_hugepages"), self.before.to_string());
    }
}

fn pool(name: &str) -> u64 {
    let text = fs::read_to_string(format!("{POOL}/{name}")).expect("the kernel has huge pages");
    text.trim().parse().expect("a number")
}

/// KiB of a line of `/proc/PID/smaps_rollup`.
fn rollup(id: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).expect("the process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
}

/// Starts a guest that sleeps, and waits until it does.
fn asleep(guest: &Guest) -> Running {
    let running = Running::start(&mut guest.command());
    wait_for("the guest", || guest.output().contains("asleep"));
    running
}

fn stop(running: Running) {
    running.signal(libc::SIGTERM);
    running.end().silent().with_status(0);
}

#[cfg(feature = "hugepages")]
#[test]
fn huge_pages() {
    let _pool = Pool::of(64);
    for memory in ["size=128M,hugepages=on", "size=128M,hugepages=on,shared=on,prefault=on"] {
        let mut guest = Guest::doing("say=asleep,hold");
        guest.memory = memory;
        let running = asleep(&guest);
        assert_eq!(pool("free_hugepages") - pool("resv_hugepages"), 0, "{memory}");
        assert!(pool("free_hugepages") < 64, "{memory}: none in use");
        // A second guest is told what it lacks, and the first one lives.
        let ended = guest_without_pages().run().with_status(1);
        let wanted = "64 free 2 MiB pages needed, 0 free; try: sysctl vm.nr_hugepages=128";
        assert!(ended.stderr.contains(wanted), "{ended:?}");
        stop(running);
        assert_eq!(pool("free_hugepages"), 64, "{memory}: not given back");
    }
    // The command that the message names is the remedy.
    let sysctl = Command::new("sysctl").arg("vm.nr_hugepages=70").output().expect("sysctl");
    assert!(sysctl.status.success(), "{sysctl:?}");
    assert_eq!(pool("nr_hugepages"), 70);
}

/// A kernel whose file is in huge pages itself is put into the guest's by whole pages, and the same
/// guest comes up.
#[cfg(feature = "hugepages")]
#[test]
fn a_kernel_in_huge_pages() {
    let _pool = Pool::of(80);
    let mut guest = guest_without_pages().with(&["--log-level", "debug"]);
    let dir = guest.scratch.path("huge");
    fs::create_dir(&dir).expect("a directory");
    let mount = |words: &[&str]| {
        let status = Command::new("mount").args(words).arg("none").arg(&dir).status();
        assert!(status.expect("mount").success(), "{words:?}");
    };
    let text = "bytes put as huge pages";
    assert!(!guest.run().with_status(0).stderr.contains(text), "a file of 4 KiB pages");
    for kind in ["tmpfs", "hugetlbfs"] {
        let kernel = dir.join("vmlinux");
        match kind {
            "tmpfs" => {
                mount(&["-t", "tmpfs", "-o", "huge=always"]);
                fs::copy(&guest.kernel, &kernel).map(drop).expect("room");
            }
            _ => {
                mount(&["-t", "hugetlbfs", "-o", "pagesize=2M"]);
                let mut place = Command::new(super::artifact("BRISK_XTASK"));
                let placed = place.arg("place").arg(&guest.kernel).arg(&kernel).output();
                assert!(placed.as_ref().is_ok_and(|p| p.status.success()), "{placed:?}");
            }
        }
        let usual = std::mem::replace(&mut guest.kernel, kernel);
        for memory in ["size=128M,hugepages=on", "size=128M,hugepages=on,shared=on"] {
            guest.memory = memory;
            let ended = guest.run().with_status(0);
            assert!(ended.stderr.contains(text), "{kind}, {memory}: {ended:?}");
            assert!(guest.codes().contains(&0x60), "{kind}, {memory}");
        }
        // Pages that are there already are read into.
        guest.memory = "size=128M,hugepages=on,prefault=on";
        assert!(!guest.run().with_status(0).stderr.contains(text), "{kind}, prefault");
        guest.kernel = usual;
        assert!(Command::new("umount").arg(&dir).status().expect("umount").success());
    }
}

#[cfg(feature = "hugepages")]
fn guest_without_pages() -> Guest {
    let mut guest = Guest::doing("");
    guest.memory = "size=128M,hugepages=on";
    guest
}

#[cfg(feature = "thp")]
#[test]
fn transparent_huge_pages() {
    for (memory, some) in [("size=128M,thp=on", true), ("size=128M,thp=off", false)] {
        let mut guest = Guest::doing("touch=32,say=asleep,hold");
        guest.memory = memory;
        let running = asleep(&guest);
        let huge = rollup(running.id(), "AnonHugePages");
        assert_eq!(huge >= 8 << 10, some, "{memory}: {huge} kB in huge pages");
        stop(running);
    }
}

#[test]
fn prefault_and_shared() {
    for memory in ["size=64M,prefault=on", "size=64M,shared=on", "size=64M,shared=on,prefault=on"] {
        let mut guest = Guest::doing("say=asleep,hold");
        guest.memory = memory;
        let running = asleep(&guest);
        let (resident, private) = (rollup(running.id(), "Rss"), rollup(running.id(), "Anonymous"));
        assert_eq!(resident >= 64 << 10, memory.contains("prefault"), "{memory}: {resident} kB");
        assert_eq!(private < 4 << 10, memory.contains("shared"), "{memory}: {private} kB private");
        stop(running);
    }
}
