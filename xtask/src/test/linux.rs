//! `cargo xtask linux`: the tests of package brisk that boot a Linux, in the lab.

use anyhow::{Context, Result, anyhow, ensure};
use argh::FromArgs;
use duct::cmd;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use super::build_as;
use super::count::Count;
use crate::build;
use crate::cache::Cache;
use crate::guest::{images, init, kernel, stock};
use crate::lab::{self, Job, Mode, quote};
use crate::{debian, paths};

/// Boot Linux in the lab in each way that brisk has.
#[derive(FromArgs)]
#[argh(subcommand, name = "linux")]
pub struct Args {
    /// with `--seccomp log`, and fail where the kernel's log has a system call that would have been
    /// forbidden
    #[argh(switch)]
    log: bool,
    /// only tests whose names have one of these in them
    #[argh(positional)]
    tests: Vec<String>,
}

/// Runs the task.
///
/// # Errors
/// A test failed, or the lab did.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut count = Count::default();
    let names: Vec<&str> = args.tests.iter().map(String::as_str).collect();
    if args.log {
        logged(&names, &mut count)?;
    } else {
        let (prelude, programs) = prepare(&["linux"], bundles(&names))?;
        let script = prelude + &calls(&programs, &names.join(" "));
        run_in(Mode::Fast, false, script, &mut count)?;
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(ExitCode::SUCCESS)
}

/// All of them with what is forbidden only logged. Returns how many tests that were.
///
/// # Errors
/// A test failed, or the log has a call.
pub fn check_calls() -> Result<u32> {
    let mut count = Count::default();
    logged(&[], &mut count)?;
    Ok(u32::try_from(count.passed)?)
}

/// Before the tests a call is made that is forbidden, by the test of the mode, so that a log that has none
/// of theirs is one that would have had them. Tests that look at the filter, or at the process before it is
/// brisk, are left out; and a bundle has no such flag, so it runs with the filter as it is.
fn logged(names: &[&str], count: &mut Count) -> Result<()> {
    let (prelude, programs) = prepare(&["linux"], bundles(names))?;
    let known = super::program_of_tests("exits")?;
    let known = quote(&lab::path_in_l1(&known).to_string_lossy());
    let mut script = prelude;
    let _ = write!(
        script,
        "{known} --exact seccomp::log_lets_a_call_be_made || exit 1\n\
         dmesg | grep -q 'type=1326.*syscall=110 ' || {{ echo 'the log has not what it must'; exit 1; }}\n\
         dmesg -C\n\
         mv $BRISK_BIN $BRISK_BIN-itself\n\
         printf '#!/bin/sh\\nexec %s --seccomp log \"$@\"\\n' $BRISK_BIN-itself > $BRISK_BIN\n\
         chmod +x $BRISK_BIN\n"
    );
    let names = names.join(" ");
    script += &calls(&programs, &format!("{names} --skip outside --skip guests_at_once"));
    script = script.replace(
        END,
        "echo \"$(dmesg | grep -c type=1326) system calls would have been forbidden\"\n\
         dmesg | grep type=1326 && status=1\nexit $status\n",
    );
    run_in(Mode::Fast, true, script, count)
}

/// Whether tests of these names may want the bundles, which take long to make.
fn bundles(names: &[&str]) -> bool {
    names.is_empty() || names.iter().any(|name| name.contains("bundle"))
}

const END: &str = "exit $status\n";

/// The lines of a script that run the tests with these words.
fn calls(programs: &[PathBuf], words: &str) -> String {
    let mut script = String::new();
    for program in programs {
        script += &format!("{} {words} || status=1\n", quote(&program.to_string_lossy()));
    }
    script + END
}

fn run_in(mode: Mode, audit: bool, script: String, count: &mut Count) -> Result<()> {
    let timeout = Duration::from_secs(25 * 60);
    let job = Job { mode, script, timeout, audit, relay: true, ..Job::default() };
    let output = lab::run_again(&job)?;
    let ran = Count::of(&output.console);
    *count += ran;
    ensure!(ran != Count::default(), "no test was run in the lab");
    ensure!(output.status == 0, "tests failed in the lab");
    Ok(())
}

/// Runs tests of package brisk in the lab: half of them in each of two L1s at once, as one with a guest of
/// one CPU in it keeps one CPU of this machine busy; what counts a host's work has one to itself, later.
///
/// # Errors
/// One failed, or the lab did.
pub fn in_lab(tests: &[&str], count: &mut Count) -> Result<()> {
    let (prelude, programs) = prepare(tests, true)?;
    let mut halves = [String::new(), String::new()];
    for program in &programs {
        for (half, names) in halves.iter_mut().zip(dealt(&listed(program)?)) {
            let names = names.join(" ");
            *half +=
                &format!("{} --exact {names} || status=1\n", quote(&program.to_string_lossy()));
        }
    }
    let script = |half: &String| prelude.clone() + half + END;
    let fates = thread::scope(|scope| {
        let run = |half| {
            let script = script(half);
            scope.spawn(move || {
                let mut count = Count::default();
                let fate = run_in(Mode::Fast, false, script, &mut count);
                (fate, count)
            })
        };
        halves.each_ref().map(run).map(thread::ScopedJoinHandle::join)
    });
    let mut failed = Ok(());
    for fate in fates {
        let (fate, ran) = fate.map_err(|_| anyhow!("a thread that ran tests panicked"))?;
        *count += ran;
        failed = failed.and(fate);
    }
    let script = prelude.clone() + &calls(&programs, &STOPWATCH.join(" "));
    failed.and(run_in(Mode::Stopwatch, false, script, count))
}

/// Tests on the instruction clock: one that has the lab for itself, and one of that clock.
const STOPWATCH: [&str; 2] = ["guests_at_once", "interrupts_off"];

/// The names of a program's tests, without those on the instruction clock.
fn listed(program: &Path) -> Result<Vec<String>> {
    let skip = STOPWATCH.iter().flat_map(|name| ["--skip", name]);
    let text = cmd(program, ["--list", "--format", "terse"].into_iter().chain(skip)).read();
    let text = text.with_context(|| program.display().to_string())?;
    Ok(text.lines().filter_map(|line| Some(line.strip_suffix(": test")?.to_owned())).collect())
}

/// Every other one: tests of one module, which take about as long, go to both.
fn dealt(names: &[String]) -> [Vec<&str>; 2] {
    [0, 1].map(|first| names.iter().skip(first).step_by(2).map(String::as_str).collect())
}

/// Builds tests of package brisk, brisk as it is shipped, static, and what they boot; the script that they
/// are to be run behind. They find what they boot by the environment: on L1's tmpfs `BRISK_BIN`,
/// `BRISK_KERNEL`, `BRISK_BZIMAGE`, `BRISK_MICRO`, `BRISK_MICRO_SMP` and the `System.map` of each, which
/// ends in `_MAP`, where `bundles`
/// `BRISK_BUNDLE` and others (see `build::bundle::examples::for_tests`),
/// `BRISK_INITRAMFS` and `BRISK_SHELL_INITRAMFS`; read-only `BRISK_STOCK`, a directory with
/// `NAME.vmlinuz`, `NAME.initramfs` and `NAME.initramfs-xfs` for each of Debian's kernels, and
/// `BRISK_DISK_*`, which a test that writes copies first; `BRISK_RUN_*` (see `lab::run::for_tests`);
/// `BRISK_XTASK` is this program.
fn prepare(tests: &[&str], bundles: bool) -> Result<(String, Vec<PathBuf>)> {
    let cache = Cache::open()?;
    let kernel = kernel::ensure(&cache, kernel::Config::Guest)?;
    let micro = kernel::ensure(&cache, kernel::Config::Micro)?;
    let micro_smp = kernel::ensure(&cache, kernel::Config::MicroSmp)?;
    let guest = init::ensure(&cache)?;
    let programs = build_as("release", tests)?.1;
    let brisk = build::program(None)?;
    let mut files = vec![
        ("BRISK_DEB", build::dist::package_for_tests(&brisk)?),
        ("BRISK_BIN", brisk),
        ("BRISK_KERNEL", kernel.vmlinux),
        ("BRISK_BZIMAGE", kernel.bzimage),
        ("BRISK_MICRO", micro.vmlinux),
        ("BRISK_MICRO_MAP", micro.map),
        ("BRISK_MICRO_SMP", micro_smp.vmlinux),
        ("BRISK_MICRO_SMP_MAP", micro_smp.map),
        ("BRISK_INITRAMFS", guest.initramfs),
        ("BRISK_SHELL_INITRAMFS", guest.shell_initramfs),
    ];
    if bundles {
        debian::ensure(debian::ENGINES)?;
        files.extend(build::bundle::examples::for_tests(&cache)?);
    }
    let mut script = "mkdir /tmp/files\n".to_owned();
    for (name, path) in &files {
        let word = quote(&path.to_string_lossy());
        script += &match path.is_dir() {
            true => format!("export {name}={word}\n"),
            false => format!("cp {word} /tmp/files/{name}; export {name}=/tmp/files/{name}\n"),
        };
    }
    let xtask = std::env::current_exe().context("this program's path")?;
    script +=
        &format!("export BRISK_XTASK={}\n", quote(&lab::path_in_l1(&xtask).to_string_lossy()));
    script += "mkdir /tmp/stock; export BRISK_STOCK=/tmp/stock\n";
    for stock in stock::ALL {
        let files = stock.ensure(&cache)?;
        for (path, kind) in [
            (files.vmlinuz, "vmlinuz"),
            (files.initramfs, "initramfs"),
            (files.xfs_initramfs, "initramfs-xfs"),
        ] {
            let path = quote(&path.to_string_lossy());
            script += &format!("ln -s {path} /tmp/stock/{}.{kind}\n", stock.name);
        }
    }
    script += &lab::load_modules(&cache)?;
    for (name, path) in lab::run::for_tests(&cache)? {
        script += &format!("export {name}={}\n", quote(&path.to_string_lossy()));
    }
    for (name, path) in images::ensure(&cache)? {
        script += &format!("export {name}={}\n", quote(&path.to_string_lossy()));
    }
    // One guest at a time. Where guests took turns on one of L1's CPUs, a guest sometimes span for ever on a
    // lock, and once L1 panicked in an interrupt right behind its VMRUN, where none may come. That was
    // before `lab/vmrun.c`; since then it was not tried.
    script += "export RUST_TEST_THREADS=1\n";
    script += &format!("status=0; cd {}\n", quote(&paths::workspace().to_string_lossy()));
    Ok((script, programs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_is_dealt_once() {
        let names = ["a", "b", "c", "d", "e"].map(str::to_owned);
        assert_eq!(dealt(&names), [vec!["a", "c", "e"], vec!["b", "d"]]);
    }
}
