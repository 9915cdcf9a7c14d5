//! The system calls that brisk makes from its exec to the guest's first instruction, and files that
//! change on the way: each call is seen by ptrace(2), so what happens when is no matter of time.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{Error, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::common::{Ended, Running, Scratch, brisk};
use super::{Lab, TEXT, guests};

pub const KVM_RUN: u64 = 0xae80;
const SYSGOOD_TRAP: i32 = libc::SIGTRAP | 0x80;

/// A system call that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Who makes it.
    pub thread: i32,
    pub number: i64,
    /// Its first four arguments.
    pub arguments: [u64; 4],
}

impl Call {
    fn is_run(&self) -> bool {
        self.number == libc::SYS_ioctl && self.arguments[1] == KVM_RUN
    }
}

/// Makes `command` show its calls, on CPUs that no more than `cpus` are of.
pub fn traced(command: &mut Command, cpus: usize) {
    let prepare = move || {
        // SAFETY: system calls with our own memory.
        unsafe {
            let mut all: libc::cpu_set_t = std::mem::zeroed();
            let mut some: libc::cpu_set_t = std::mem::zeroed();
            check(libc::sched_getaffinity(0, size_of_val(&all), &mut all))?;
            let usable = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &all));
            usable.take(cpus).for_each(|cpu| libc::CPU_SET(cpu, &mut some));
            check(libc::sched_setaffinity(0, size_of_val(&some), &some))?;
            check(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) as i32)
        }
    };
    // SAFETY: the function only makes system calls.
    unsafe { command.pre_exec(prepare) };
}

pub fn check(result: i32) -> Result<()> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Runs a traced command to its end, and shows `last` each call until it says that it saw enough.
#[track_caller]
pub fn watch(command: &mut Command, last: impl FnMut(Call) -> bool) -> Ended {
    watch_process(command, &std::cell::Cell::new(0), last)
}

/// The same, with the process's id in `process`.
#[track_caller]
fn watch_process(
    command: &mut Command,
    process: &std::cell::Cell<i32>,
    mut last: impl FnMut(Call) -> bool,
) -> Ended {
    let running = Running::start(command);
    let first = running.id() as i32;
    process.set(first);
    let go = |request, thread: i32, signal: i32| {
        // SAFETY: the thread is stopped and ours to trace.
        unsafe { libc::ptrace(request, thread, 0, signal) };
    };
    assert_eq!(stopped(first), Some((first, libc::SIGTRAP)), "brisk stops at its exec");
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    go(libc::PTRACE_SETOPTIONS, first, options);
    go(libc::PTRACE_SYSCALL, first, 0);
    // Of each thread whether it is in a call; one that is not known yet has just begun.
    let mut inside: HashMap<i32, bool> = HashMap::from([(first, false)]);
    let mut enough = false;
    while let Some((thread, signal)) = stopped(first) {
        let known = inside.contains_key(&thread);
        let inside = inside.entry(thread).or_default();
        let mut pass = 0;
        if signal == SYSGOOD_TRAP {
            *inside = !*inside;
            enough = enough || *inside && last(call(thread));
        } else if ![libc::SIGTRAP, libc::SIGSTOP].contains(&signal) && known {
            // A stop, which would be seen again and again, has done what it does by coming.
            pass = signal;
        }
        go(if enough { libc::PTRACE_CONT } else { libc::PTRACE_SYSCALL }, thread, pass);
    }
    running.end()
}

/// The next stop of a thread that this one traces, and its signal; `None` when the process, whose id
/// is `first`, ended.
fn stopped(first: i32) -> Option<(i32, i32)> {
    loop {
        let mut status = 0;
        // SAFETY: they fill what they are given.
        let id = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let kinds = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT;
            let which = libc::__WALL | libc::__WNOTHREAD;
            check(libc::waitid(libc::P_ALL, 0, &mut info, kinds | which)).expect("a child");
            let ended = !matches!(info.si_code, libc::CLD_STOPPED | libc::CLD_TRAPPED);
            if ended && info.si_pid() == first {
                return None; // and who started it sees how
            }
            libc::waitpid(info.si_pid(), &mut status, libc::__WALL)
        };
        if libc::WIFSTOPPED(status) {
            return Some((id, libc::WSTOPSIG(status)));
        }
    }
}

fn call(thread: i32) -> Call {
    // SAFETY: fills the structure that it is given.
    let registers = unsafe {
        let mut registers: libc::user_regs_struct = std::mem::zeroed();
        check(libc::ptrace(libc::PTRACE_GETREGS, thread, 0, &mut registers) as i32)
            .expect("ptrace");
        registers
    };
    let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
    Call { thread, number: registers.orig_rax as i64, arguments }
}

/// Runs a guest on so many CPUs: all calls until the first KVM_RUN, that one included.
#[track_caller]
fn calls(cpus: usize, more: &[&str]) -> Vec<Call> {
    let lab = Lab::new(guests::ends::RESET);
    let mut command = brisk();
    command.arg("--kernel").arg(lab.scratch.file("kernel", lab.elf.file()));
    command.current_dir(lab.scratch.path("")).args(["--memory", "size=16M", "--serial", "null"]);
    // cargo's, in each directory of which the linker would look for libraries.
    command.args(more).env_remove("LD_LIBRARY_PATH");
    lab.scratch.file("initramfs", vec![b'0'; 5 << 20]);
    traced(&mut command, cpus);
    let mut calls = Vec::new();
    let ended = watch(&mut command, |call| {
        calls.push(call);
        call.is_run()
    });
    ended.silent().with_status(0);
    assert!(calls.last().is_some_and(Call::is_run));
    calls
}

/// All of [`calls`] on one CPU but the allocator's, which are the C library's matter.
#[track_caller]
fn own(more: &[&str]) -> Vec<Call> {
    const ALLOCATOR: [i64; 4] =
        [libc::SYS_mmap, libc::SYS_munmap, libc::SYS_brk, libc::SYS_madvise];
    let mut calls = calls(1, more);
    calls.retain(|call| !ALLOCATOR.contains(&call.number));
    calls
}

/// Counts all of [`calls`]; those since the first ioctl, before which come the linker's and the C library's;
/// the ioctls.
#[track_caller]
fn count(cpus: usize, more: &[&str]) -> [usize; 3] {
    let calls = calls(cpus, more);
    let ioctl = |call: &Call| call.number == libc::SYS_ioctl;
    let first = calls.iter().position(ioctl).expect("a call to KVM");
    [calls.len(), calls.len() - first, calls.iter().filter(|call| ioctl(call)).count()]
}

/// Each call has its reason, and one more is to be worth it. The margin is for the C library's allocator, and for
/// KVM on Intel, which needs an ioctl more. For the user's files' sake: one that looks for standard descriptors that are closed, one that closes inherited ones, one that
/// closes /dev/kvm (two in a debug build), and one that keeps guest memory out of core dumps.
#[test]
fn calls_until_the_first_instruction() {
    let [all, since_kvm, ioctls] = count(1, &[]);
    assert!(ioctls <= 13, "{ioctls} ioctls, 12 when this was written");
    // Six of them are the sandbox's, one is there in a debug build only.
    assert!(since_kvm <= 35, "{since_kvm} calls since the first ioctl, 28 when this was written");
    assert!(all <= 85, "{all} calls, 80 when this was written");
    // To open, look at, read and close it.
    let initramfs = ["--initramfs", "initramfs"];
    let (with, without) = (own(&initramfs).len(), own(&[]).len());
    assert!((4..=5).contains(&(with - without)), "{with} calls, without an initramfs {without}");
    // A thread's start and end are some 15, and on two CPUs its 5 MiB are four pieces.
    let (with, two) = (count(1, &initramfs), count(2, &initramfs));
    assert!(two[0] - with[0] <= 26 && two[2] == ioctls, "{two:?}, on one CPU {with:?}");
}

/// An image costs what opens, checks, locks and maps it, and what says that it shrank. A timer that looks
/// whether its file system is full is there for one with holes only; and what several watched files have in
/// common is asked for once.
#[test]
fn calls_for_an_image() {
    const SIZE: usize = 2 << 20;
    let scratch = Scratch::new();
    let whole = format!("file={}", scratch.file("whole", vec![1; SIZE]).display());
    let hole = scratch.file("hole", "");
    let file = OpenOptions::new().write(true).open(&hole).expect("the image");
    file.set_len(SIZE as u64).expect("a hole");
    let hole = format!("file={}", hole.display());
    let of = |calls: &[Call], number: i64| calls.iter().filter(|c| c.number == number).count();
    let none = own(&[]);
    let (with_whole, with_hole) = (own(&["--pmem", &whole]), own(&["--pmem", &hole]));
    let more = with_whole.len() - none.len();
    assert!(more <= 16, "{more} calls, 15 when this was written");
    assert_eq!([&with_whole, &with_hole].map(|calls| of(calls, libc::SYS_timer_create)), [0, 1]);
    let both = own(&["--console", "tty", "--pmem", &whole]);
    let sigio = |call: &&Call| {
        call.number == libc::SYS_rt_sigaction && call.arguments[0] == libc::SIGIO as u64
    };
    assert_eq!(both.iter().filter(sigio).count(), 1, "one handler for all watched files");
    assert!(of(&both, libc::SYS_getpid) <= 2, "once for the files, and once for the sandbox");
}

/// A signal that comes with any of the calls of the set-up ends it cleanly, from where signals are caught; to
/// be stopped and continued ends nothing.
#[test]
fn a_signal_at_any_moment_of_the_set_up() {
    let lab = Lab::new(guests::ends::HLT);
    let command = || {
        let mut command = brisk();
        command.arg("--kernel").arg(lab.scratch.file("kernel", lab.elf.file()));
        command.args(["--memory", "size=16M", "--serial", "null"]);
        command.args(["--boot-log"]).arg(lab.scratch.path("log"));
        traced(&mut command, 1);
        command
    };
    let caught = |call: &Call| {
        call.number == libc::SYS_rt_sigaction && call.arguments[0] == libc::SIGINT as u64
    };
    for at in 0.. {
        let (mut since, mut sent) = (None, false);
        let process = std::cell::Cell::new(0);
        let ended = watch_process(&mut command(), &process, |call| {
            since = since.map(|since| since + 1).or(caught(&call).then_some(0));
            // The first one that comes after the handler is there.
            if !sent && since == Some(at + 1) {
                // SAFETY: our child, which is stopped.
                unsafe { libc::kill(process.get(), libc::SIGTERM) };
                sent = true;
            }
            if call.is_run() && !sent {
                // All calls were tried.
                // SAFETY: as above.
                unsafe { libc::kill(process.get(), libc::SIGTERM) };
                return true;
            }
            sent
        });
        ended.silent().with_status(0);
        if !sent {
            assert!(at > 15, "{at} calls only");
            break;
        }
    }
    let process = std::cell::Cell::new(0);
    let mut stopped = false;
    let ended = watch_process(&mut command(), &process, |call| {
        const KVM_CREATE_VM: u64 = 0xae01;
        if call.number == libc::SYS_ioctl && call.arguments[1] == KVM_CREATE_VM && !stopped {
            stopped = true;
            // Has no handler and is ignored, and interrupts all the same.
            // SAFETY: as above.
            unsafe { libc::kill(process.get(), libc::SIGSTOP) };
        }
        if call.is_run() {
            // SAFETY: as above.
            unsafe { libc::kill(process.get(), libc::SIGTERM) };
        }
        call.is_run()
    });
    ended.silent().with_status(0);
}

/// A file that becomes shorter under the loader's hands is an error that names it, on one CPU and on
/// two: never a signal, never a guest that runs with half of it.
#[test]
fn files_that_shrink_while_they_are_loaded() {
    for cpus in [1, 2] {
        for name in ["kernel", "initramfs"] {
            let lab = Lab::with_data(guests::STRINGS_OUT, TEXT);
            let mut command = lab.command(&["--initramfs", "initramfs"]);
            command.current_dir(lab.scratch.path(""));
            lab.scratch.file("initramfs", vec![b'0'; 3 << 20]);
            traced(&mut command, cpus);
            let path = lab.scratch.path(name);
            let ended = watch(&mut command, |call| {
                // Of the kernel's segment or of the initramfs: not of the headers.
                let large = call.number == libc::SYS_pread64 && call.arguments[2] > 4096;
                if large {
                    let file = OpenOptions::new().write(true).open(&path).expect("the file");
                    file.set_len(100).expect("truncate");
                }
                large
            });
            let ended = ended.with_status(1);
            let wanted = format!("--{name} ");
            assert!(ended.stderr.contains(&wanted), "{cpus}: {ended:?}");
            assert!(ended.stderr.contains("became shorter while it was loaded"), "{ended:?}");
            assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        }
    }
}

/// Once the guest runs nothing of it comes from the files any more.
#[test]
fn files_that_change_under_a_running_guest() {
    for cpus in [1, 2] {
        let lab = Lab::with_data(guests::STRINGS_OUT, TEXT);
        let mut command = lab.command(&[]);
        traced(&mut command, cpus);
        let kernel = lab.scratch.path("kernel");
        let ended = watch(&mut command, |call| {
            if call.is_run() {
                std::fs::write(&kernel, [0xff; 100]).expect("the kernel's file");
            }
            call.is_run()
        });
        ended.silent().with_status(0);
        assert_eq!(std::fs::read(&kernel).expect("the file"), [0xff; 100]);
        assert_eq!(lab.serial(), "hello\n");
        assert_eq!(lab.codes(), *b"123468aei");
    }
}
