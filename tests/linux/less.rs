//! A host that gives less: no io_uring, no inotify; huge pages, address space and a file system
//! that have an end.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use super::Guest;
use super::common::{Scratch, key};
use super::disks::Shell;
use super::loops::sh;

/// A setting of the machine, until it is dropped.
pub(super) struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    #[track_caller]
    pub(super) fn new(path: impl AsRef<Path>, value: &str) -> Setting {
        let path = path.as_ref().to_owned();
        let before = fs::read_to_string(&path).expect("a setting of L1's kernel");
        fs::write(&path, value).expect("root may");
        Setting { path, before }
    }

    /// No inotify instance is to be had.
    fn without_inotify() -> Setting {
        Setting::new("/proc/sys/fs/inotify/max_user_instances", "0")
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, self.before.trim());
    }
}

fn sparse(scratch: &Scratch, mib: u64) -> PathBuf {
    let path = scratch.file("image", "");
    File::options().write(true).open(&path).and_then(|f| f.set_len(mib << 20)).expect("a file");
    path
}

#[cfg(feature = "io-uring")]
#[test]
fn no_io_uring() {
    let _off = Setting::new("/proc/sys/kernel/io_uring_disabled", "2");
    let scratch = Scratch::new();
    let image = sparse(&scratch, 4);
    let disk = format!("{},engine=io_uring", key("path", &image));
    for (level, count) in [("warn", 0), ("info", 1)] {
        let more = ["--disk", &disk, "--log-level", level];
        let guest = Guest::doing(&format!("write=/dev/vda:{level}")).with(&more);
        let ended = guest.run().with_status(0);
        assert_eq!(ended.stderr.matches("goes on with engine=sync").count(), count, "{ended:?}");
        assert!(fs::read(&image).expect("the image").starts_with(level.as_bytes()), "{level}");
    }
}

/// It is seen all the same that the image shrank, within some seconds.
#[cfg(feature = "pmem")]
#[test]
fn no_inotify() {
    let _none = Setting::without_inotify();
    let scratch = Scratch::new();
    let image = sparse(&scratch, 8);
    let mut shell = Shell::start(&["--pmem", &key("file", &image), "--log-level", "info"]);
    let write = "dd if=/dev/zero of=/dev/pmem0 bs=4096 count=1 conv=fsync seek=";
    assert_eq!(shell.status(&format!("{write}100")), 0);
    File::options().write(true).open(&image).and_then(|f| f.set_len(1 << 20)).expect("truncate");
    assert_ne!(shell.status(&format!("{write}1500")), 0);
    let ended = shell.end();
    assert_eq!(ended.stderr.matches("no inotify").count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("the image shrank"), "{ended:?}");
}

/// A sparse image on a file system that is full before the image is: neither silent nor for ever, with a
/// watch on the image and without.
#[cfg(feature = "pmem")]
#[test]
fn a_full_file_system_under_a_pmem() {
    for watched in [true, false] {
        let _none = (!watched).then(Setting::without_inotify);
        let scratch = Scratch::new();
        let small = scratch.path("small");
        fs::create_dir(&small).expect("a directory");
        sh(&format!("mount -t tmpfs -o size=48m none {}", small.display()));
        let image = small.join("image");
        File::create(&image).and_then(|file| file.set_len(256 << 20)).expect("a sparse image");
        let mut shell = Shell::start(&["--pmem", &key("file", &image)]);
        let write = "dd if=/dev/zero of=/dev/pmem0 bs=1M conv=fsync count=";
        assert_eq!(shell.status(&format!("{write}8")), 0, "as long as there is room");
        assert_ne!(shell.status(&format!("{write}64")), 0, "lost without a word to the guest");
        let ended = shell.end();
        let said = format!("--pmem {}: no room is left", image.display());
        assert_eq!(ended.stderr.matches(&said).count(), 1, "{ended:?}");
        sh(&format!("umount --lazy {}", small.display()));
    }
}

/// What the cgroup does not allow is said, with the limit's name, whether it refuses the reservation or, later,
/// the pages.
#[cfg(feature = "hugepages")]
#[test]
fn a_hugetlb_limit_of_a_cgroup() {
    let _pool = super::memory::Pool::of(80);
    let root = Path::new("/sys/fs/cgroup");
    if !root.join("cgroup.controllers").exists() {
        sh("mount -t cgroup2 none /sys/fs/cgroup");
    }
    fs::write(root.join("cgroup.subtree_control"), "+hugetlb").expect("a cgroup controller");
    let group = root.join("brisk-test");
    fs::create_dir(&group).expect("a cgroup");
    let run = |limit: &str, mib: u64| {
        let bytes = (mib << 20).to_string();
        let _limit = Setting::new(group.join(limit), &bytes);
        let mut guest = Guest::doing("");
        guest.memory = "size=128M,hugepages=on";
        let mut command = guest.command();
        let procs = File::options().write(true).open(group.join("cgroup.procs")).expect("procs");
        let enter = move || std::io::Write::write_all(&mut &procs, b"0");
        // SAFETY: the function only makes a system call.
        unsafe { command.pre_exec(enter) };
        super::run(&mut command)
    };
    let ended = run("hugetlb.2MB.rsvd.max", 64).with_status(1);
    for part in ["--memory size=134217728,hugepages=on", "64 2 MiB pages needed", "rsvd.max"] {
        assert!(ended.stderr.contains(part), "no `{part}`: {ended:?}");
    }
    let ended = run("hugetlb.2MB.max", 0).with_status(1);
    for part in ["--memory", "hugetlb.*.max"] {
        assert!(ended.stderr.contains(part), "no `{part}`: {ended:?}");
    }
    let _ = fs::remove_dir(&group);
}

/// A limit of the address space that is too small is said, and with the one that the message asks for the guest
/// runs.
#[test]
fn an_address_space_with_an_end() {
    for (mib, runs) in [(256, false), (1024, true)] {
        let mut guest = Guest::doing("");
        guest.memory = "size=512M";
        let mut command = guest.command();
        let limit = move || {
            let limit = libc::rlimit { rlim_cur: mib << 20, rlim_max: mib << 20 };
            // SAFETY: reads the structure it is given.
            match unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: the function only makes a system call.
        unsafe { command.pre_exec(limit) };
        let ended = super::run(&mut command).with_status(if runs { 0 } else { 1 });
        for part in ["--memory size=536870912", "268435456 bytes of address space", "ulimit -v"] {
            assert_eq!(ended.stderr.contains(part), !runs, "{part}: {ended:?}");
        }
    }
}

/// KVM makes a thread of its own at the first KVM_RUN (Linux 6.12 and later), for which the user may have no room.
/// brisk needs none; where KVM gets none, that is said at once.
#[test]
fn no_thread() {
    let guest = Guest::doing("");
    for path in [Path::new("/dev/kvm"), &guest.scratch.path("")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("root may");
    }
    let mut command = guest.command();
    let nobody = || {
        let limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
        // SAFETY: numbers, and one structure that is read.
        let done = unsafe {
            libc::setrlimit(libc::RLIMIT_NPROC, &limit) == 0
                && libc::setgroups(0, std::ptr::null()) == 0
                && libc::setgid(NOBODY) == 0
                && libc::setuid(NOBODY) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the function only makes system calls.
    unsafe { command.pre_exec(nobody) };
    let ended = super::run(&mut command);
    match ended.status {
        Some(0) => {}
        _ => {
            let ended = ended.with_status(1);
            assert!(ended.stderr.contains("KVM needs a thread of its own: raise"), "{ended:?}");
        }
    }
}

const NOBODY: u32 = 65534;
