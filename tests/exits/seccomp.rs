//! The system calls that are left once the guest runs: each number is tried from inside the process, by
//! ptrace(2), and what comes through is what `SECURITY.md` says, no more and no less.
//!
//! `BRISK_BIN` may name the program of a scenario, and `BRISK_SCENARIO` that scenario; where
//! `BRISK_CALLS` names a file, the list is written to it and not compared.

#[path = "seccomp/tracee.rs"]
mod tracee;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use super::calls::KVM_RUN;
use super::common::{Running, Scratch, brisk, kernel::Elf, limit, wait_for};
use super::guests;
use tracee::{Fate, Tracee};

/// More than there are.
const NUMBERS: u64 = 600;
/// `__X32_SYSCALL_BIT`
const X32: u64 = 1 << 30;

/// uretprobe(2) and uprobe(2), which newer kernels let through every filter: they are their own, and
/// from anywhere but a probe's trampoline come to nothing but SIGILL.
const PROBES: [u64; 2] = [335, 336];

/// A guest that never leaves, in a build of any features.
fn spinning(scratch: &Scratch, more: &[&str]) -> Command {
    let mut command = brisk();
    let kernel = scratch.file("kernel", Elf::new(guests::ends::SPIN, &[]).file());
    command.arg("--kernel").arg(kernel).args(["--memory", "size=16M"]).args(more);
    command
}

const ALL: [u64; 6] = [u64::MAX; 6];

fn with(argument: usize, value: u64) -> [u64; 6] {
    let mut arguments = ALL;
    arguments[argument] = value;
    arguments
}

/// One line for each thing that is allowed.
fn list(tracee: &Tracee) -> Vec<String> {
    let candidates = tracee.candidates();
    let mut lines = Vec::new();
    for number in 0..NUMBERS {
        let name = name(number);
        let allowed = |argument, value| tracee.allows(number, with(argument, value));
        let varies = |&argument: &usize| {
            candidates.iter().any(|v| allowed(argument, *v) != tracee.allows(number, ALL))
        };
        match (0..6).find(varies) {
            None if tracee.allows(number, ALL) => lines.push(name),
            None => {}
            Some(argument) if allowed(argument, 0) => {
                let bits = (0..32).filter(|bit| !allowed(argument, 1 << bit));
                let bits = bits.map(|bit| 1 << bit).sum::<u64>();
                assert_eq!(bits, libc::PROT_EXEC as u64);
                lines.push(format!("{name}, without PROT_EXEC"));
            }
            Some(argument) => {
                let values = candidates.iter().filter(|value| allowed(argument, **value));
                lines.extend(values.map(|&value| match value {
                    _ if value == u64::from(tracee.running.id()) => {
                        format!("{name}, of brisk itself")
                    }
                    _ => format!("{name} {}", request(number, value)),
                }));
            }
        }
    }
    lines
}

/// The column of `SECURITY.md` for a scenario.
fn documented(scenario: &str) -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/SECURITY.md");
    let text = std::fs::read_to_string(path).expect("SECURITY.md");
    let table = text.split("<!-- calls -->\n").nth(1).expect("the table of calls");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let column = rows[0].iter().position(|cell| *cell == scenario).expect("the scenario's column");
    let marked = rows[2..].iter().filter(|row| !row[column].is_empty());
    marked.map(|row| row[1].replace('`', "")).collect()
}

#[test]
fn each_system_call() {
    let scenario = std::env::var("BRISK_SCENARIO").ok();
    let scratch = Scratch::new();
    let tracee = Tracee::start(&mut spinning(&scratch, &[]), true);
    assert!(!tracee.filter.is_empty(), "no filter");
    let exit = libc::SYS_exit_group as u64;
    let mut tried = 0;
    let mut attempt = |number: u64, arguments| {
        tried += 1;
        let wanted = match tracee.allows(number, arguments) {
            true => Fate::Made,
            false => Fate::Forbidden,
        };
        let fate = tracee.attempt(number, arguments);
        if PROBES.contains(&number) {
            return;
        }
        assert_eq!(fate, wanted, "{} {arguments:x?}", name(number));
    };
    for number in (0..NUMBERS).filter(|number| *number != exit) {
        attempt(number, ALL);
        attempt(number, [0; 6]);
        if tracee.allows(number, ALL) {
            attempt(number | X32, ALL);
        }
    }
    attempt(u64::from(u32::MAX), ALL);
    for value in tracee.filter.iter().map(|step| u64::from(step.3)) {
        for (number, argument) in
            [(libc::SYS_ioctl, 1), (libc::SYS_fcntl, 1), (libc::SYS_mmap, 2), (libc::SYS_tgkill, 0)]
        {
            attempt(number as u64, with(argument, value));
        }
    }
    for bit in 0..32 {
        attempt(libc::SYS_ioctl as u64, with(1, KVM_RUN ^ 1 << bit));
        attempt(libc::SYS_mmap as u64, with(2, 1 << bit));
    }
    assert!(tried > 1300);
    // The same numbers mean others in the 32-bit table.
    for number in 0..NUMBERS {
        assert!(!tracee.filter_allows(number, ALL, 0x4000_0003));
    }
    let mut list = list(&tracee);
    list.sort();
    assert_eq!(tracee.attempt(exit, [42; 6]), Fate::Ended(42));
    match (std::env::var_os("BRISK_CALLS"), scenario) {
        (Some(path), _) => std::fs::write(path, list.join("\n") + "\n").expect("the list"),
        (None, Some(scenario)) => assert_eq!(list, documented(&scenario)),
        (None, None) if cfg!(feature = "full") => assert_eq!(list, documented("full")),
        (None, None) => {}
    }
}

/// A call that is none of brisk's.
const FOREIGN: i64 = libc::SYS_getppid;

#[test]
fn a_forbidden_call_ends_the_vm() {
    let scratch = Scratch::new();
    let tracee = Tracee::start(&mut spinning(&scratch, &[]), false);
    let kills = tracee.filter.iter().any(|step| step.3 == libc::SECCOMP_RET_KILL_PROCESS);
    let ended = tracee.leave_with(FOREIGN).end();
    if kills {
        assert_eq!((ended.signal, &*ended.stderr), (Some(libc::SIGSYS), ""));
        return;
    }
    let ended = ended.with_status(1);
    let wanted = format!("brisk: system call {FOREIGN} (");
    assert!(ended.stderr.starts_with(&wanted), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1);
}

/// It is no status of the guest's.
#[cfg(feature = "exit-status")]
#[test]
fn a_forbidden_call_is_a_failure_of_the_vms() {
    if std::env::var_os("BRISK_SCENARIO").is_some() {
        return;
    }
    let scratch = Scratch::new();
    let tracee = Tracee::start(&mut spinning(&scratch, &["--exit-status"]), false);
    tracee.leave_with(FOREIGN).end().with_status(125);
}

/// Where `BRISK_BIN` is a scenario's program, it may have no serial port.
#[test]
fn the_terminal_is_restored_before_that() {
    if std::env::var_os("BRISK_SCENARIO").is_some() {
        return;
    }
    let (mut ours, mut theirs) = (0, 0);
    let (name, settings, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
    // SAFETY: fills two descriptors, which are then owned here.
    let (ours, theirs) = unsafe {
        assert_eq!(libc::openpty(&mut ours, &mut theirs, name, settings, size), 0, "a pty");
        (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    };
    let scratch = Scratch::new();
    let mut command = spinning(&scratch, &["--serial", "tty"]);
    command.stdin(Stdio::from(theirs.try_clone().expect("dup")));
    let modes = || {
        // SAFETY: fills the one structure it is given.
        unsafe {
            let mut termios: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(theirs.as_raw_fd(), &mut termios), 0);
            (termios.c_iflag, termios.c_oflag, termios.c_lflag, termios.c_cc)
        }
    };
    let before = modes();
    let tracee = Tracee::start(&mut command, false);
    assert_ne!(modes(), before, "not raw");
    tracee.leave_with(FOREIGN).end().with_status(1);
    assert_eq!(modes(), before, "not restored");
    drop(ours);
}

/// The lines of a thread's status that tell of its sandbox.
fn status(id: u32, task: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{id}/task/{task}/status")).expect("status");
    let wanted = ["NoNewPrivs", "Seccomp"];
    let lines = text.lines().filter_map(|line| line.split_once(":\t"));
    lines.filter(|(name, _)| wanted.contains(name)).map(|(_, value)| value.to_owned()).collect()
}

#[test]
fn every_thread_is_filtered_unless_told_otherwise() {
    let smp: &[&str] = if cfg!(feature = "smp") { &["--cpus", "boot=3"] } else { &[] };
    for (mode, wanted) in [("true", ["1", "2"]), ("log", ["1", "2"]), ("false", ["0", "0"])] {
        let scratch = Scratch::new();
        let serial = format!("file={}", scratch.path("serial").display());
        let mut command = spinning(&scratch, &["--seccomp", mode, "--serial", &serial]);
        let running = Running::start(command.args(smp));
        wait_for("the guest", || scratch.text("serial") == "\n");
        let tasks = std::fs::read_dir(format!("/proc/{}/task", running.id())).expect("tasks");
        let tasks: Vec<_> = tasks.map(|task| task.expect("task").file_name()).collect();
        // KVM may have one of its own among them.
        assert!(tasks.len() >= if smp.is_empty() { 1 } else { 3 });
        for task in tasks {
            assert_eq!(status(running.id(), &task.to_string_lossy()), wanted, "{mode}");
        }
        running.signal(libc::SIGTERM);
        running.end().silent().with_status(0);
    }
}

#[test]
fn log_lets_a_call_be_made() {
    let scratch = Scratch::new();
    let serial = format!("file={}", scratch.path("serial").display());
    let mut command = spinning(&scratch, &["--seccomp", "log", "--serial", &serial]);
    let tracee = Tracee::start(&mut command, false);
    assert_eq!(tracee.attempt(FOREIGN as u64, ALL), Fate::Made);
    // To KVM, which the attempt left out.
    let ioctl = tracee.leave_with(libc::SYS_ioctl);
    wait_for("the guest", || scratch.text("serial") == "\n");
    ioctl.signal(libc::SIGTERM);
    ioctl.end().silent().with_status(0);
    assert!(limit().as_secs() > 0);
}

fn name(number: u64) -> String {
    let known = [
        (libc::SYS_read, "read"),
        (libc::SYS_write, "write"),
        (libc::SYS_close, "close"),
        (libc::SYS_accept4, "accept4"),
        (libc::SYS_poll, "poll"),
        (libc::SYS_lseek, "lseek"),
        (libc::SYS_mmap, "mmap"),
        (libc::SYS_munmap, "munmap"),
        (libc::SYS_brk, "brk"),
        (libc::SYS_rt_sigreturn, "rt_sigreturn"),
        (libc::SYS_ioctl, "ioctl"),
        (libc::SYS_pread64, "pread64"),
        (libc::SYS_pwrite64, "pwrite64"),
        (libc::SYS_readv, "readv"),
        (libc::SYS_writev, "writev"),
        (libc::SYS_sched_yield, "sched_yield"),
        (libc::SYS_mremap, "mremap"),
        (libc::SYS_madvise, "madvise"),
        (libc::SYS_getpid, "getpid"),
        (libc::SYS_sendto, "sendto"),
        (libc::SYS_recvfrom, "recvfrom"),
        (libc::SYS_sendmsg, "sendmsg"),
        (libc::SYS_recvmsg, "recvmsg"),
        (libc::SYS_shutdown, "shutdown"),
        (libc::SYS_fcntl, "fcntl"),
        (libc::SYS_fdatasync, "fdatasync"),
        (libc::SYS_fsync, "fsync"),
        (libc::SYS_fstat, "fstat"),
        (libc::SYS_ftruncate, "ftruncate"),
        (libc::SYS_gettid, "gettid"),
        (libc::SYS_dup2, "dup2"),
        (libc::SYS_alarm, "alarm"),
        (libc::SYS_setitimer, "setitimer"),
        (libc::SYS_getpgrp, "getpgrp"),
        (libc::SYS_timer_create, "timer_create"),
        (libc::SYS_timer_settime, "timer_settime"),
        (libc::SYS_timer_delete, "timer_delete"),
        (libc::SYS_futex, "futex"),
        (libc::SYS_restart_syscall, "restart_syscall"),
        (libc::SYS_clock_gettime, "clock_gettime"),
        (libc::SYS_exit_group, "exit_group"),
        (libc::SYS_epoll_wait, "epoll_wait"),
        (libc::SYS_tgkill, "tgkill"),
        (libc::SYS_fallocate, "fallocate"),
        (libc::SYS_eventfd2, "eventfd2"),
        (libc::SYS_preadv, "preadv"),
        (libc::SYS_pwritev, "pwritev"),
        (libc::SYS_getrandom, "getrandom"),
        (libc::SYS_preadv2, "preadv2"),
        (libc::SYS_pwritev2, "pwritev2"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
    ];
    let found = known.into_iter().find(|(known, _)| *known as u64 == number);
    found.map_or_else(|| number.to_string(), |(_, name)| name.to_owned())
}

fn request(call: u64, value: u64) -> String {
    let known = [
        (libc::SYS_ioctl, 0xae80, "KVM_RUN"),
        (libc::SYS_ioctl, 0x4020_aea5, "KVM_SIGNAL_MSI"),
        (libc::SYS_ioctl, 0x4010_ae67, "KVM_REGISTER_COALESCED_MMIO"),
        (libc::SYS_ioctl, 0x4010_ae68, "KVM_UNREGISTER_COALESCED_MMIO"),
        (libc::SYS_ioctl, 0x4020_ae46, "KVM_SET_USER_MEMORY_REGION"),
        (libc::SYS_ioctl, 0x8004_ae98, "KVM_GET_MP_STATE"),
        (libc::SYS_ioctl, 0x8090_ae81, "KVM_GET_REGS"),
        (libc::SYS_ioctl, 0x8030_ae7c, "KVM_GET_CLOCK"),
        (libc::SYS_ioctl, 0xc008_ae91, "KVM_GET_CPUID2"),
        (libc::SYS_ioctl, 0x8138_ae83, "KVM_GET_SREGS"),
        (libc::SYS_ioctl, 0x9000_aea4, "KVM_GET_XSAVE"),
        (libc::SYS_ioctl, 0x9000_aecf, "KVM_GET_XSAVE2"),
        (libc::SYS_ioctl, 0x8188_aea6, "KVM_GET_XCRS"),
        (libc::SYS_ioctl, 0x8080_aea1, "KVM_GET_DEBUGREGS"),
        (libc::SYS_ioctl, 0x8400_ae8e, "KVM_GET_LAPIC"),
        (libc::SYS_ioctl, 0xc008_ae88, "KVM_GET_MSRS"),
        (libc::SYS_ioctl, 0x8040_ae9f, "KVM_GET_VCPU_EVENTS"),
        (libc::SYS_ioctl, 0xaead, "KVM_KVMCLOCK_CTRL"),
        (libc::SYS_ioctl, libc::TCGETS, "TCGETS"),
        (libc::SYS_ioctl, libc::TIOCGPGRP, "TIOCGPGRP"),
        (libc::SYS_madvise, libc::MADV_POPULATE_WRITE as u64, "MADV_POPULATE_WRITE"),
        (libc::SYS_ioctl, libc::TCSETS, "TCSETS"),
        (libc::SYS_ioctl, libc::TIOCGWINSZ, "TIOCGWINSZ"),
        (libc::SYS_fcntl, libc::F_GETFL as u64, "F_GETFL"),
        (libc::SYS_fcntl, libc::F_SETFL as u64, "F_SETFL"),
    ];
    let found = known.into_iter().find(|known| (known.0 as u64, known.1) == (call, value));
    found.map_or_else(|| format!("{value:#x}"), |(_, _, name)| name.to_owned())
}
