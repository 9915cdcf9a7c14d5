//! `cargo xtask mutants`: changes the code in small ways, one at a time, and looks whether a test sees it.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use duct::cmd;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::paths;
use crate::ui::Step;

/// Change the code in small ways, and fail where no test sees it. Takes hours: `nice -n 15`.
#[derive(FromArgs)]
#[argh(subcommand, name = "mutants")]
pub struct Args {
    /// devices, boot or guest (what of src a guest reaches); default: each
    #[argh(positional)]
    part: Option<String>,
    /// one of so many parts of the mutants, as 0/8
    #[argh(option)]
    shard: Option<String>,
}

/// A name, the package, the files of it (all where there are none), and its tests.
type Part = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

/// What is mutated. Guests need a KVM, so `guest` is tested where one is.
const PARTS: &[Part] = &[
    ("devices", "brisk-devices", &[], &[]),
    ("boot", "brisk-boot", &[], &[]),
    (
        "guest",
        "brisk",
        &["src/virtio/**/*.rs", "src/bus.rs", "src/cpuid.rs", "src/exit.rs", "src/interrupts.rs"],
        &["--lib", "--test", "virtio", "--test", "exits"],
    ),
];

/// Mutants that may survive, each with the reason behind a `#`: what they do is what the code does too, or
/// nobody's. A `*` stands for anything.
const HARMLESS: &str = "xtask/mutants.txt";

/// Runs the task.
///
/// # Errors
/// cargo-mutants is missing, the tests fail without a mutant, or one survived that is not in the list.
pub fn run(args: &Args) -> Result<ExitCode> {
    let there = cmd!("cargo", "mutants", "--version").stdout_null().stderr_null().unchecked().run();
    ensure!(
        there.is_ok_and(|output| output.status.success()),
        "cargo-mutants is missing; try: cargo install cargo-mutants --locked"
    );
    let chosen: Vec<&Part> = match &args.part {
        Some(name) => PARTS.iter().filter(|part| part.0 == name).collect(),
        None => PARTS.iter().collect(),
    };
    ensure!(!chosen.is_empty(), "no such part; there are devices, boot and guest");
    let file = paths::workspace().join(HARMLESS);
    let harmless = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let harmless = accepted(&harmless)?;
    let mut alive = 0;
    for part in chosen {
        alive += mutate(part, args.shard.as_deref(), &harmless)?;
    }
    Ok(if alive == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tests all mutants of a part; how many survived that may not.
fn mutate(part: &Part, shard: Option<&str>, harmless: &[String]) -> Result<usize> {
    let (name, package, files, tests) = *part;
    let out = paths::workspace().join("target/mutants").join(name);
    fs::create_dir_all(&out)?;
    let step = Step::start(&format!("mutants of {name}"));
    let mut words = vec!["mutants", "--no-shuffle", "--colors=never", "--package", package];
    // A mutant may loop for ever.
    words.extend(["--timeout", "120", "--all-features", "--output"]);
    let to = out.to_string_lossy();
    words.push(&to);
    files.iter().for_each(|file| words.extend(["--file", file]));
    if let Some(shard) = shard {
        words.extend(["--shard", shard]);
    }
    if !tests.is_empty() {
        words.push("--");
        words.extend(tests);
    }
    let output =
        cmd("cargo", words).dir(paths::workspace()).stderr_to_stdout().stdout_capture().unchecked();
    let output = output.run().context("cannot run cargo mutants")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // 0: all were seen; 2: not all; 3: some took too long (cargo-mutants, "Exit codes").
    ensure!(matches!(output.status.code(), Some(0 | 2 | 3)), "cargo mutants failed:\n{text}");
    step.done();
    let results = out.join("mutants.out");
    let count = |name| list(&results, name).map(|list| list.len());
    let missed = list(&results, "missed")?;
    let (fine, bad): (Vec<_>, Vec<_>) =
        missed.iter().partition(|it| is_one_of(harmless, &place(it)));
    println!(
        "{name}: {} seen by a test, {} that ended too late, {} that do not compile, {} harmless, {} \
         survived",
        count("caught")?,
        count("timeout")?,
        count("unviable")?,
        fine.len(),
        bad.len()
    );
    bad.iter().for_each(|mutant| println!("  {mutant}"));
    Ok(bad.len())
}

/// The lines of one of cargo-mutants' lists.
fn list(results: &Path, name: &str) -> Result<Vec<String>> {
    let path = results.join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The mutants of [`HARMLESS`].
fn accepted(text: &str) -> Result<Vec<String>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (mutant, reason) = line.split_once(" # ").unwrap_or((line, ""));
        ensure!(!reason.trim().is_empty(), "{HARMLESS}: no reason behind ` # `: {line}");
        Ok(mutant.trim().to_owned())
    });
    parsed.collect()
}

/// Whether a mutant is one of those that `patterns` are of.
fn is_one_of(patterns: &[String], mutant: &str) -> bool {
    patterns.iter().any(|pattern| {
        let mut parts = pattern.split('*');
        let Some(mut rest) = mutant.strip_prefix(parts.next().unwrap_or_default()) else {
            return false;
        };
        let mut last = "";
        for part in parts {
            let Some((_, behind)) = rest.split_once(part) else { return false };
            (rest, last) = (behind, part);
        }
        rest.is_empty() || pattern.contains('*') && mutant.ends_with(last)
    })
}

/// A mutant as cargo-mutants prints it, without its line and column, which every change moves.
fn place(mutant: &str) -> String {
    let mut parts = mutant.splitn(4, ':');
    let (file, what) = (parts.next().unwrap_or_default(), parts.nth(2).unwrap_or_default());
    format!("{file}: {}", what.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_known_wherever_it_is() {
        let printed = "boot/src/elf.rs:12:5: replace is_elf -> bool with true";
        assert_eq!(place(printed), "boot/src/elf.rs: replace is_elf -> bool with true");
        let operator = "devices/src/a.rs:1:2: replace || with && in <impl B for C>::d";
        assert_eq!(place(operator), "devices/src/a.rs: replace || with && in <impl B for C>::d");
    }

    #[test]
    fn each_that_may_survive_has_its_reason() {
        let text = fs::read_to_string(paths::workspace().join(HARMLESS)).unwrap();
        accepted(&text).unwrap();
        assert!(accepted("boot/src/elf.rs: replace a with b").is_err());
        let one = accepted("# heading\n\nboot/src/elf.rs: replace a with b # the same\n").unwrap();
        assert_eq!(one, ["boot/src/elf.rs: replace a with b"]);
    }

    #[test]
    fn a_star_is_anything() {
        let is = |pattern: &str, mutant| is_one_of(&[pattern.to_owned()], mutant);
        assert!(is("a.rs: replace | with ^ in b", "a.rs: replace | with ^ in b"));
        assert!(!is("a.rs: replace | with ^ in b", "a.rs: replace | with ^ in bc"));
        assert!(is("*: replace | with ^*", "src/a.rs: replace | with ^ in f"));
        assert!(is("*/a.rs: * in f", "src/a.rs: replace | with & in f"));
        assert!(!is("*/a.rs: * in f", "src/a.rs: replace | with & in fg"));
        assert!(!is("*/a.rs: * in f", "src/b.rs: replace | with & in f"));
    }
}
