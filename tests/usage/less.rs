//! A host that gives less than it could. What is only faster is gone on without, which is said once and only
//! to who asks for it; what the guest needs is missed in the flag's own terms.

use std::fs;

use super::common::{Running, has, lacks, run};
use super::harm::{before_exec, hold, wait_for_vcpu};
use super::place::{FAILED, Place};
use super::sandbox;

/// `KVM_SET_USER_MEMORY_REGION`, `_IOW(KVMIO, 0x46, struct kvm_userspace_memory_region)`.
const SET_MEMORY: u64 = 0x4020_ae46;

/// With `flags` and where `calls` fail with `error` the guest comes to its end without a word; at info one
/// line has `said`.
#[track_caller]
fn goes_on(flags: &[&str], calls: &[libc::c_long], error: libc::c_int, said: &str) {
    let place = Place::new();
    place.0.file("image", vec![0; 2 << 20]);
    place.0.file("other", vec![0; 2 << 20]);
    let mut command = place.command(flags);
    sandbox::without_calls(&mut command, calls, error);
    run(&mut command).silent().with_status(0);
    is_said_once(&place, flags, said, |command| sandbox::without_calls(command, calls, error));
}

/// At info one line has `said`.
#[track_caller]
fn is_said_once(
    place: &Place,
    flags: &[&str],
    said: &str,
    less: impl Fn(&mut std::process::Command),
) {
    if has("logging") {
        let mut command = place.command(&[flags, &["--log-level", "info"]].concat());
        less(&mut command);
        let ended = run(&mut command).with_status(0);
        assert_eq!(ended.stderr.matches(said).count(), 1, "no `{said}` once: {ended:?}");
    }
}

#[test]
fn no_thread() {
    let threads = [libc::SYS_clone, libc::SYS_clone3];
    for memory in ["size=16M", "size=64M,prefault=on"] {
        let place = Place::new();
        let mut command = place.command(&["--memory", memory]);
        sandbox::without_calls(&mut command, &threads, libc::EAGAIN);
        run(&mut command).silent().with_status(0);
    }
    // On one CPU it would not ask for any.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if has("async-loader") && cpus > 1 {
        goes_on(&[], &threads, libc::EAGAIN, "no thread to load the kernel");
    }
    if has("io-uring") {
        let disk = ["--disk", "path=image,engine=io_uring"];
        goes_on(&disk, &threads, libc::EAGAIN, "goes on with engine=sync");
    }
}

/// A kernel without it, a sysctl or a container's filter against it; two disks of two queues each.
#[test]
fn no_io_uring() {
    if lacks(&["io-uring"]) {
        return;
    }
    let mut flags =
        vec!["--disk", "path=image,engine=io_uring", "--disk", "path=other,engine=io_uring"];
    if has("smp") {
        flags.extend(["--cpus", "boot=2"]);
    }
    for error in [libc::ENOSYS, libc::EPERM] {
        let call = libc::SYS_io_uring_setup;
        goes_on(&flags, &[call], error, "goes on with engine=sync");
    }
    // One that cannot be restricted is not used.
    let call = libc::SYS_io_uring_register;
    goes_on(&flags, &[call], libc::EINVAL, "goes on with engine=sync");
}

#[test]
fn no_inotify() {
    if lacks(&["pmem"]) {
        return;
    }
    let flags = ["--pmem", "file=image"];
    for call in [libc::SYS_inotify_init1, libc::SYS_inotify_add_watch] {
        goes_on(&flags, &[call], libc::EMFILE, "no inotify to see it shrink by");
    }
}

#[test]
fn no_transparent_huge_pages() {
    if lacks(&["thp"]) {
        return;
    }
    let place = Place::new();
    let flags = ["--memory", "size=16M,thp=on"];
    let less = |command: &mut std::process::Command| {
        let advice = (2, libc::MADV_HUGEPAGE as u64);
        sandbox::without_call(command, libc::SYS_madvise, advice, libc::EINVAL);
    };
    let mut command = place.command(&flags);
    less(&mut command);
    run(&mut command).silent().with_status(0);
    is_said_once(&place, &flags, "--memory thp: Invalid argument", less);
}

/// KVM's errno alone would be no help.
#[test]
fn no_room_in_kvm() {
    let place = Place::new();
    let mut command = place.command(&["--memory", "size=32M"]);
    sandbox::without_call(&mut command, libc::SYS_ioctl, (1, SET_MEMORY), libc::EINVAL);
    let parts = ["--memory size=33554432", "33554432 bytes at 0x0", "give the guest less"];
    place.command_refuses(&mut command, FAILED, &parts);
}

/// A memory slot has less than 8 TiB (Linux, `KVM_MEM_MAX_NR_PAGES`).
#[test]
fn no_room_for_a_pmem_in_kvm() {
    if lacks(&["pmem"]) {
        return;
    }
    const LEN: u64 = 8 << 40;
    let place = Place::new();
    let image = fs::File::create(place.0.path("image")).expect("a file");
    image.set_len(LEN).expect("a sparse file");
    let ended = run(&mut place.command(&["--pmem", "file=image"])).with_status(FAILED);
    let last = ended.stderr.lines().last().unwrap_or_default();
    for part in ["--pmem image", "8796093022208 bytes at 0x", "give a smaller image"] {
        assert!(last.contains(part), "no `{part}` in: {last}");
    }
}

/// What the guest's memory is limited by is named, with what mends it.
#[test]
fn little_address_space() {
    let place = Place::new();
    let limit = || {
        let limit = libc::rlimit { rlim_cur: 256 << 20, rlim_max: 256 << 20 };
        // SAFETY: reads the structure it is given.
        match unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let mut command = place.command(&["--memory", "size=512M"]);
    before_exec(&mut command, limit);
    let parts = ["--memory size=536870912", "268435456 bytes of address space", "ulimit -v"];
    place.command_refuses(&mut command, FAILED, &parts);
    if has("pmem") {
        let image = fs::File::create(place.0.path("image")).expect("a file");
        image.set_len(512 << 20).expect("a sparse file");
        let mut command = place.command(&["--pmem", "file=image"]);
        before_exec(&mut command, limit);
        let parts =
            ["--pmem image: 536870912 bytes", "268435456 bytes of address space", "ulimit -v"];
        place.command_refuses(&mut command, FAILED, &parts);
    }
}

/// What the guest has in memory is in no core dump of ours: `dd` of `VmFlags` (proc(5)).
#[test]
fn guest_memory_is_in_no_core_dump() {
    let place = Place::with(&hold().file());
    place.0.file("image", vec![0; 4 << 20]);
    let pmem: &[&str] = if has("pmem") { &["--pmem", "file=image,discard_writes=on"] } else { &[] };
    for memory in ["size=32M", "size=32M,shared=on"] {
        let running = Running::start(&mut place.command(&[&["--memory", memory], pmem].concat()));
        wait_for_vcpu(&running);
        let maps = fs::read_to_string(format!("/proc/{}/smaps", running.id())).expect("smaps");
        // Of each mapping its size in KiB, and whether it is left out.
        let mut sizes = Vec::new();
        for line in maps.lines() {
            if let Some(size) = line.strip_prefix("Size:") {
                let size = size.trim().trim_end_matches(" kB");
                sizes.push((size.parse::<u64>().expect("a number"), false));
            }
            if let (Some(flags), Some(last)) = (line.strip_prefix("VmFlags:"), sizes.last_mut()) {
                last.1 = flags.split(' ').any(|flag| flag == "dd");
            }
        }
        assert!(sizes.contains(&(32 << 10, true)), "{memory}: {maps}");
        assert!(pmem.is_empty() || sizes.contains(&(4 << 10, true)), "{memory}: {maps}");
        running.signal(libc::SIGTERM);
        running.end().silent().with_status(0);
    }
}
