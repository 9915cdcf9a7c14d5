//! `cargo xtask test`: all that CI runs.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use duct::cmd;
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use crate::build::{docs, matrix, size};
use crate::cache::Cache;
use crate::measure::metrics::{check, proof};
use crate::measure::{bench, readme, trace};
use crate::{build, paths, setup, space};
use count::Count;

pub mod calls;
mod commands;
pub mod count;
pub mod fuzz;
pub mod linux;
pub mod mutants;
mod pages;

/// Run formatting, lints, unit tests, exit tests and Linux boots.
#[derive(FromArgs)]
#[argh(subcommand, name = "test")]
pub struct Args {
    /// only what fits in 5 minutes
    #[argh(switch)]
    quick: bool,
    /// also the proofs that take hours: what `metrics` finds, and who is to blame
    #[argh(switch)]
    full: bool,
    /// only the steps that have this in their names, of all that `--full` has
    #[argh(option)]
    only: Option<String>,
}

/// What was run so far.
#[derive(Default)]
struct Report {
    total: Count,
    lines: Vec<String>,
    skipped: Vec<&'static str>,
    only: Option<String>,
}

/// Runs the task. The last line is `N passed, N failed`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let cache = Cache::open()?;
    space::for_tests(&cache)?;
    let mut report = Report { only: args.only.clone(), ..Report::default() };
    let full = args.full || args.only.is_some();
    report.step("setup", |_| setup::everything(&cache));
    report.step("format", |count| {
        cargo("fmt --all --check", count)?;
        // Not part of a package, as it is compiled for guests.
        let guest = ["hello", "load", "root", "streams", "sys", "terminal", "verbs", "workload"];
        let guest = guest.map(|name| format!("xtask/guest/{name}.rs"));
        let guest: Vec<&str> = guest.iter().map(String::as_str).collect();
        stream("rustfmt", &[&["--check", "--edition=2024"], &guest[..]].concat(), count)?;
        // One of its modules is put beside it when it is built, which rustfmt would look for.
        stream(
            "sh",
            &["-c", "rustfmt --edition=2024 < xtask/guest/init.rs | cmp - xtask/guest/init.rs"],
            count,
        )
    });
    report.step("lints", |count| {
        cargo("clippy --quiet --workspace --all-targets -- -D warnings", count)?;
        cargo("clippy --quiet --package brisk --no-default-features -- -D warnings", count)
    });
    report.step("combinations of features", |count| {
        let (built, refused) = matrix::check(true)?;
        count.passed += u64::from(built + refused);
        cargo(NO_FEATURES, count)?;
        cargo(FAST_PATH, count)
    });
    report.step("patches for comparisons", |count| {
        count.passed += u64::from(bench::patch::check()?);
        Ok(())
    });
    // The exit tests are among these where the host's KVM can run them.
    let host_kvm = host_kvm();
    report.step("unit, property and exit tests", |count| on_host(host_kvm, count));
    report.step("README", |_| readme::check());
    report.step("features.md", |_| docs::check());
    for (name, work, only_full) in works() {
        if args.quick || (only_full && !full) {
            report.skipped.push(name);
        } else {
            report.step(name, |count| {
                count.passed += u64::from(work()?);
                Ok(())
            });
        }
    }
    let docs = "the documentation and its examples";
    if args.quick {
        report.skipped.push(docs);
    } else {
        report.step(docs, |count| {
            cargo("test --quiet --workspace --doc --all-features", count)?;
            stream(
                "env",
                &[
                    "RUSTDOCFLAGS=-D warnings",
                    "cargo",
                    "doc",
                    "--quiet",
                    "--workspace",
                    "--no-deps",
                    "--all-features",
                ],
                count,
            )
        });
    }
    if host_kvm {
        report.step("Linux boots in the lab", |count| linux::in_lab(&["linux"], count));
    } else {
        let name = "exit tests and Linux boots in the lab";
        report.step(name, |count| linux::in_lab(&["exits", "linux"], count));
    }
    Ok(report.end())
}

impl Report {
    /// Runs a step, which adds its tests to the count that it gets.
    fn step(&mut self, name: &str, work: impl FnOnce(&mut Count) -> Result<()>) {
        if self.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            return;
        }
        println!("==> {name}");
        let since = Instant::now();
        let mut count = Count::default();
        let fate = match work(&mut count) {
            Ok(()) => "ok",
            Err(e) => {
                println!("{e:#}");
                count.failed = count.failed.max(1); // the step itself, if none of its tests
                "FAILED"
            }
        };
        let line = format!("{fate:6} {:7.1} s  {name}", since.elapsed().as_secs_f32());
        println!("<== {line}");
        self.lines.push(line);
        self.total += count;
    }

    /// Prints what was run.
    fn end(self) -> ExitCode {
        println!();
        for line in &self.lines {
            println!("{line}");
        }
        for name in &self.skipped {
            println!("left out: {name}");
        }
        println!("{} passed, {} failed", self.total.passed, self.total.failed);
        if self.total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// What a build without features says to each flag that needs one.
const NO_FEATURES: &str =
    "test --quiet -p brisk --no-default-features --test usage flags_of_features_that_are_off";

/// What is only in builds with a feature that `full` has not.
const FAST_PATH: &str = "test --quiet -p brisk --features pio-fast-path --lib fast_path";

/// Tests something, and returns how many of it there were.
type Work = fn() -> Result<u32>;

/// What is tested of the binaries as they are shipped.
const SHIPPED: &[(&str, Work)] = &[
    ("sizes within budgets", size::check_budgets),
    ("the same bytes from another directory", build::twice::check_usual),
    ("the same bundle twice", build::bundle::examples::check_twice),
    ("exit and usage tests of the static binary", static_binary),
    ("usage tests with every scenario's program", matrix::usage),
    ("every scenario boots in the lab", matrix::boots),
    ("the guest kernel's initcalls by name", trace::initcalls::check),
    ("exits, system calls and bytes not more than recorded", check::counts),
];

/// What takes too long for each change: in `--full` only.
const SLOW: &[(&str, Work)] = &[
    ("each pair of features", matrix::pairs),
    ("the commands of README.md and docs", pages::check),
    ("the last words of a brisk with a fault in it", build::twice::check_last_words),
    ("system calls of every scenario", calls::check),
    ("no system call forbidden that Linux's boots need", linux::check_calls),
];

/// What is not in `--quick`, and whether it is in `--full` only.
fn works() -> impl Iterator<Item = (&'static str, Work, bool)> {
    let shipped = SHIPPED.iter().map(|(name, work)| (*name, *work, false));
    let slow = SLOW.iter().map(|(name, work)| (*name, *work, true));
    shipped.chain(slow).chain(proof::ALL.iter().map(|(_, name, work)| (*name, *work, true)))
}

/// Runs the tests of the command on the binary as it is shipped with musl and with brisk's own handlers
/// in place of std's, which the one that cargo builds for tests has not.
///
/// # Errors
/// It does not build, or a test failed.
fn static_binary() -> Result<u32> {
    let program = build::program(None)?;
    let mut tests = vec!["usage"];
    // Where the host's KVM cannot run them, the lab does, with the same program.
    tests.extend(host_kvm().then_some("exits"));
    let (_, programs) = build_as("dev", &tests)?;
    let mut ran = Count::default();
    for path in programs {
        let output = cmd!(&path).dir(paths::workspace()).env("BRISK_BIN", &program);
        // A test that repeats itself repeats itself so often.
        let output = output.env("BRISK_ROUNDS", "1000");
        let output = output.stderr_to_stdout().stdout_capture().unchecked().run()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ran += Count::of(&text);
        ensure!(output.status.success(), "{}\n{text}", path.display());
    }
    ensure!(ran.passed > 0, "no test was run");
    Ok(ran.passed as u32)
}

fn host_kvm() -> bool {
    OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// All tests that run on this machine.
fn on_host(with_exits: bool, count: &mut Count) -> Result<()> {
    let nextest = cmd!("cargo", "nextest", "--version").stdout_null().stderr_null().run().is_ok();
    match (nextest, with_exits) {
        (true, true) => cargo("nextest run --workspace --no-fail-fast", count),
        (true, false) => {
            cargo("nextest run --workspace --no-fail-fast -E not(binary(exits))", count)
        }
        (false, true) => cargo("test --workspace --no-fail-fast --lib --bins --tests", count),
        (false, false) => {
            let mut words = "test --workspace --no-fail-fast --lib --bins".to_owned();
            for target in package("brisk")?["targets"].as_array().into_iter().flatten() {
                let name = target["name"].as_str().unwrap_or_default();
                if target["kind"][0] == "test" && target["test"] == true && name != "exits" {
                    words += &format!(" --test {name}");
                }
            }
            cargo(&words, count)
        }
    }
}

/// The path of one test program of package brisk, as it is built for this machine.
///
/// # Errors
/// It does not build.
pub fn program_of_tests(name: &str) -> Result<PathBuf> {
    build_as("dev", &[name])?.1.pop().context("no test program")
}

/// Builds test programs of package brisk. Returns the path of brisk itself and of the programs.
fn build_as(profile: &str, tests: &[&str]) -> Result<(PathBuf, Vec<PathBuf>)> {
    let mut words = vec!["test", "--profile", profile, "--no-run", "--message-format=json"];
    words.extend(["-p", "brisk"]);
    tests.iter().for_each(|test| words.extend(["--test", test]));
    println!("$ cargo {}", words.join(" "));
    let messages = cmd("cargo", words).dir(paths::workspace()).read().context("cargo failed")?;
    let artifacts: Vec<Value> =
        messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let program = |kind: &str, name: &str| {
        artifacts
            .iter()
            .filter(|a| a["target"]["kind"][0] == kind && a["target"]["name"] == name)
            .find_map(|a| a["executable"].as_str().map(PathBuf::from))
            .with_context(|| format!("cargo built no {kind} {name}"))
    };
    let programs = tests.iter().map(|test| program("test", test)).collect::<Result<_>>()?;
    Ok((program("bin", "brisk")?, programs))
}

/// What cargo says of a package of the workspace.
fn package(name: &str) -> Result<Value> {
    let text = cmd!("cargo", "metadata", "--no-deps", "--format-version=1")
        .dir(paths::workspace())
        .read()
        .context("cannot run cargo metadata")?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata: packages")?;
    let found = packages.iter().find(|package| package["name"] == name);
    found.cloned().with_context(|| format!("cargo metadata: no package {name}"))
}

/// Runs cargo with these arguments (no spaces in any). See [`stream`].
fn cargo(words: &str, count: &mut Count) -> Result<()> {
    stream("cargo", &words.split(' ').collect::<Vec<_>>(), count)
}

/// Runs a program in the workspace, showing its output and counting the tests in it.
///
/// # Errors
/// It cannot be run, or failed.
fn stream(program: &str, words: &[&str], count: &mut Count) -> Result<()> {
    println!("$ {program} {}", words.join(" "));
    let command = cmd(program, words).dir(paths::workspace()).stdin_null().stderr_to_stdout();
    let handle = command.unchecked().reader().with_context(|| format!("cannot run {program}"))?;
    for line in BufReader::new(&handle).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        *count += Count::of(&line);
    }
    let done = handle.try_wait()?.is_some_and(|end| end.status.success());
    ensure!(done, "{program} {} failed", words.first().unwrap_or(&""));
    Ok(())
}
