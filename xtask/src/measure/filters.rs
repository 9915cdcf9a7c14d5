//! `cargo xtask filters`: what the kernel's own way of a system call through a filter costs, by the
//! lab's clock, which counts instructions: the least that brisk's can cost.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use libc::sock_filter;
use tabled::builder::Builder;
use tabled::settings::{Alignment, Style, object::Columns};

use crate::lab::{self, Job, Mode, quote};

/// Measure system calls through filters of a few instructions, in the lab.
#[derive(FromArgs)]
#[argh(subcommand, name = "filters")]
pub struct Args {
    /// measure one of them in this process, by this machine's clock
    #[argh(option)]
    here: Option<String>,
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST: u32 = 16;
const SECOND: u32 = 24;
const X86_64: u32 = 0xc000_003e;
const KVM_RUN: u32 = 0xae80;

const fn load(from: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: from }
}

const fn unless(k: u32, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf, k }
}

const fn answer(k: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k }
}

const ALLOW: sock_filter = answer(libc::SECCOMP_RET_ALLOW);
const DENY: sock_filter = answer(libc::SECCOMP_RET_ERRNO);
const IOCTL: u32 = libc::SYS_ioctl as u32;

/// Each with its name and what it is.
const FILTERS: [(&str, &str, Kind); 6] = [
    ("none", "no filter", Kind::Nothing),
    (
        "all",
        "one instruction, which allows all: the kernel need not run it",
        Kind::Filter(&[ALLOW]),
    ),
    (
        "number",
        "ioctl by its number, with any request: the kernel need not run it",
        Kind::Filter(&[load(NUMBER), unless(IOCTL, 0), ALLOW]),
    ),
    (
        "argument",
        "two instructions, which allow all: the least that is run",
        Kind::Filter(&[load(FIRST), ALLOW]),
    ),
    (
        "brisk",
        "the eight of brisk's on the way of KVM_RUN",
        Kind::Filter(&[
            load(FIRST),
            load(ARCH),
            unless(X86_64, 5),
            load(NUMBER),
            unless(IOCTL, 2),
            load(SECOND),
            unless(KVM_RUN, 0),
            ALLOW,
            DENY,
        ]),
    ),
    ("landlock", "Landlock with no path and no device's ioctl allowed, no filter", Kind::Landlock),
];

/// What keeps the process from something.
#[derive(Clone, Copy)]
enum Kind {
    Nothing,
    Filter(&'static [sock_filter]),
    Landlock,
}

/// Calls that are timed.
const CALLS: u32 = 20_000;

/// Runs the task.
///
/// # Errors
/// The lab failed, or the kernel has no filters.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(name) = &args.here {
        let Some((.., kind)) = FILTERS.iter().find(|(known, ..)| known == name) else {
            bail!("--here {name}: there are none, all, number, argument, brisk and landlock");
        };
        let (install, call) = measure(*kind)?;
        println!("{name} {install} {call:.1}");
        return Ok(ExitCode::SUCCESS);
    }
    let own = std::env::current_exe().context("this program's path")?;
    let own = quote(&lab::path_in_l1(&own).to_string_lossy());
    let names = FILTERS.map(|(name, ..)| name).join(" ");
    let script = format!(
        "cp {own} /tmp/xtask; for name in {names}; do /tmp/xtask filters --here $name || exit 1; done\n"
    );
    let timeout = Duration::from_secs(600);
    let output = lab::run(&Job { mode: Mode::Stopwatch, script, timeout, ..Job::default() })?;
    ensure!(output.status == 0, "{}", output.console);
    let mut table = Builder::from_iter([["filter", "installation", "a call", "more"]]);
    let mut none = None;
    for (name, about, _) in FILTERS {
        let line =
            output.console.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let (install, call) = line.and_then(|line| line.split_once(' ')).context(name)?;
        let call: f64 = call.trim().parse().context(name)?;
        let more = call - *none.get_or_insert(call);
        table.push_record([about, install, &format!("{call:.0}"), &format!("{more:.0}")]);
    }
    let mut table = table.build();
    table.with(Style::markdown()).modify(Columns::new(1..), Alignment::right());
    println!("Instructions of the lab's kernel and this program:\n\n{table}");
    Ok(ExitCode::SUCCESS)
}

/// Nanoseconds of the installation, and of a call that the filter lets through and that does nothing.
fn measure(kind: Kind) -> Result<(u128, f64)> {
    let nothing = File::open("/dev/null")?;
    let since = Instant::now();
    match kind {
        Kind::Nothing => {}
        Kind::Filter(filter) => install(filter)?,
        Kind::Landlock => landlock()?,
    }
    let install = since.elapsed().as_nanos();
    let call = || {
        // SAFETY: no device of that kind is there, so nothing comes of it.
        unsafe { libc::ioctl(nothing.as_raw_fd(), KVM_RUN.into(), 0) }
    };
    (0..CALLS / 10).for_each(|_| {
        call();
    });
    let since = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    Ok((install, since.elapsed().as_nanos() as f64 / f64::from(CALLS)))
}

fn install(filter: &[sock_filter]) -> Result<()> {
    let mut filter = filter.to_vec();
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // As brisk does it.
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: plain numbers, and a program that outlives the call.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) == 0
    };
    ensure!(done, "seccomp(2): {}", Error::last_os_error());
    Ok(())
}

/// landlock_create_ruleset(2) and landlock_restrict_self(2), with nothing in between.
fn landlock() -> Result<()> {
    const CREATE: libc::c_long = 444;
    const RESTRICT: libc::c_long = 446;
    /// All that there is for files up to Linux 6.12 (linux/landlock.h), LANDLOCK_ACCESS_FS_IOCTL_DEV being
    /// the last.
    static FILES: u64 = (1 << 16) - 1;
    // SAFETY: plain numbers, and eight bytes that outlive the call.
    let done = unsafe {
        let rules = libc::syscall(CREATE, &raw const FILES, size_of_val(&FILES), 0);
        rules >= 0
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(RESTRICT, rules, 0) == 0
            && libc::close(rules as libc::c_int) == 0
    };
    ensure!(done, "landlock: {}", Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each in a process of its own, since nothing takes a filter off again.
    #[test]
    fn each_filter_lets_the_call_through() {
        // Not every kernel has Landlock.
        for (name, _, kind) in FILTERS.into_iter().filter(|(name, ..)| *name != "landlock") {
            let mut status = 0;
            // SAFETY: the child measures and ends, and locks nothing that another thread may have.
            unsafe {
                match libc::fork() {
                    0 => libc::_exit(measure(kind).is_err().into()),
                    child => assert_eq!(libc::waitpid(child, &mut status, 0), child),
                }
            }
            assert_eq!(status, 0, "{name}");
        }
    }
}
