//! `cargo xtask matrix`: every combination of features that somebody may choose builds without a
//! warning, or says why it cannot. What there is to combine is asked of cargo.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use duct::cmd;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use crate::build::features::{self, Features};
use crate::build::guards::{self, Guard};
use crate::build::scenario;
use crate::ui::Step;
use crate::{parallel, paths};

mod boot;
mod usage;

/// Check combinations of features: none, each alone, all pairs, all but each, all, and every scenario.
#[derive(FromArgs)]
#[argh(subcommand, name = "matrix")]
pub struct Args {
    /// leave out the pairs
    #[argh(switch)]
    quick: bool,
    /// build every scenario as it is shipped, and boot each in the lab
    #[argh(switch)]
    boot: bool,
    /// build every scenario as it is shipped, and run the usage tests with each
    #[argh(switch)]
    usage: bool,
}

/// The packages with features that people choose.
const PACKAGES: &[&str] = &["brisk", "brisk-boot", "brisk-devices"];

/// Runs the task.
///
/// # Errors
/// A combination does not build as it should.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.boot {
        let count = boots()?;
        println!("{count} builds booted to userspace");
        return Ok(ExitCode::SUCCESS);
    }
    if args.usage {
        println!("{} usage tests passed", usage()?);
        return Ok(ExitCode::SUCCESS);
    }
    let (built, refused) = check(args.quick)?;
    println!("{built} combinations build without a warning, {refused} say what to do instead");
    Ok(ExitCode::SUCCESS)
}

/// Builds every scenario as it is shipped and boots it in the lab. Returns how many.
///
/// # Errors
/// One did not build or boot.
pub fn boots() -> Result<u32> {
    boot::all()
}

/// Runs the usage tests with every scenario's program. Returns how many passed.
///
/// # Errors
/// One did not build, or a test failed.
pub fn usage() -> Result<u32> {
    usage::all()
}

/// Checks all combinations, the pairs too. Returns how many there are.
///
/// # Errors
/// As [`check`].
pub fn pairs() -> Result<u32> {
    check(false).map(|(built, refused)| built + refused)
}

/// Checks all combinations, where `quick` but the pairs. Returns how many build, and how many are refused
/// by a guard.
///
/// # Errors
/// A combination does not build as it should, or a guard is never met.
pub fn check(quick: bool) -> Result<(u32, u32)> {
    let mut failures = Vec::new();
    let (mut built, mut refused) = (0, 0);
    for package in PACKAGES {
        let known = features::of(package)?;
        let path = known.directory.join("src/lib.rs");
        let guards = guards::read(&fs::read_to_string(&path)?)
            .with_context(|| path.display().to_string())?;
        let wanted = combinations(&known, quick, *package == "brisk");
        let mut met = BTreeSet::new();
        let mut step = Step::counted(&format!("{package}: features"), wanted.len() as u64);
        let fires = |closure| guards.iter().position(|guard: &Guard| guard.fires(closure));
        // As many at once as there are CPUs, as a crate is checked by one thread.
        parallel::each(
            thread::available_parallelism().map_or(1, usize::from),
            &wanted.iter().collect::<Vec<_>>(),
            |worker, (closure, features)| {
                one(worker, package, features, fires(closure).map(|at| &guards[at]))
            },
            |(closure, features), fate| {
                let guard = fires(closure);
                met.extend(guard);
                match fate {
                    Ok(()) if guard.is_some() => refused += 1,
                    Ok(()) => built += 1,
                    Err(e) => failures.push(format!("{package} --features {features}: {e:#}")),
                }
                step.tick();
            },
        );
        step.done();
        for (at, guard) in guards.iter().enumerate() {
            if !met.contains(&at) {
                failures.push(format!("{package}: nothing meets the guard: {}", guard.message));
            }
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok((built, refused))
}

/// What to build: by what it comes to, so that nothing is built twice.
fn combinations(
    known: &Features,
    quick: bool,
    scenarios: bool,
) -> BTreeMap<BTreeSet<String>, String> {
    let single = known.single();
    let mut lists = vec![Vec::new(), known.names()];
    lists.extend(single.iter().map(|one| vec![one.clone()]));
    let but = |one| single.iter().filter(move |name| *name != one).cloned().collect();
    lists.extend(single.iter().map(but));
    if !quick {
        for (at, one) in single.iter().enumerate() {
            lists.extend(single[at + 1..].iter().map(|two| vec![one.clone(), two.clone()]));
        }
    }
    if scenarios {
        lists.extend(scenario::table().into_iter().map(|scenario| scenario.features));
    }
    let mut found = BTreeMap::new();
    for list in lists {
        found.entry(known.closure(&list)).or_insert_with(|| list.join(","));
    }
    found
}

/// Checks one combination: without a warning, or with the guard's message. Each worker has a target
/// directory of its own, as cargo locks it. No combination is another's next build: what the compiler
/// would keep for that is gigabytes.
fn one(worker: usize, package: &str, features: &str, guard: Option<&Guard>) -> Result<()> {
    let words = ["clippy", "--quiet", "--package", package, "--lib", "--bins"];
    let more = ["--no-default-features", "--features", features, "--", "-D", "warnings"];
    let since = Instant::now();
    let output = cmd("cargo", words.iter().chain(&more))
        .env("CARGO_TARGET_DIR", paths::target()?.join(format!("matrix-{worker}")))
        .env("CARGO_INCREMENTAL", "0")
        .dir(paths::workspace())
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()
        .context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    match (guard, output.status.success()) {
        (None, true) => Ok(()),
        (None, false) => bail!("fails after {} s:\n{text}", since.elapsed().as_secs()),
        (Some(guard), false) if text.contains(&guard.message) => Ok(()),
        (Some(guard), _) => bail!("should have said: {}\n{text}", guard.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_combined() {
        let known = features::of("brisk").unwrap();
        let quick = combinations(&known, true, true);
        let full = combinations(&known, false, true);
        for features in
            [&[][..], &["full"], &["serial"], &["console", "pmem", "hugepages", "seccomp"]]
        {
            assert!(quick.contains_key(&known.closure(features)), "{features:?}");
        }
        let without = known.single().into_iter().filter(|name| name != "smp").collect::<Vec<_>>();
        assert!(quick.contains_key(&known.closure(&without)), "{without:?}");
        let pair = known.closure(&["serial", "thp"]);
        assert!(full.contains_key(&pair) && !quick.contains_key(&pair));
        let n = known.single().len();
        // Some pairs are one implied by the other.
        assert!(full.len() > n * (n - 1) / 2 && full.len() <= n * n, "{}", full.len());
    }
}
