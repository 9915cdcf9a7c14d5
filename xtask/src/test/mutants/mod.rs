//! `cargo xtask mutants`: changes the code in small ways, one at a time, and looks whether a test sees it.
//!
//! cargo-mutants says which changes; all of them go into one build of a copy, each behind a switch. Each test
//! runs once to say which of them it reaches, and a mutant then needs those tests only, the fastest first.

mod build;
mod run;
mod switch;

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use duct::cmd;
use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;

use crate::paths;
use run::Fate;
use switch::Mutant;

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
    /// mutants whose names have this in them only, as `src/virtio/queue.rs`
    #[argh(option)]
    only: Option<String>,
    /// those mutants only that survived a run before and are not known as harmless (target/mutants/survived)
    #[argh(switch)]
    again: bool,
}

/// A name, the package and the files of it (all where there are none).
type Part = (&'static str, &'static str, &'static [&'static str]);

const PARTS: &[Part] = &[
    ("devices", "brisk-devices", &[]),
    ("boot", "brisk-boot", &[]),
    (
        "guest",
        "brisk",
        &["src/virtio/**/*.rs", "src/bus.rs", "src/cpuid.rs", "src/exit.rs", "src/interrupts.rs"],
    ),
];

/// Mutants that may survive, each with the reason behind a `#`: what they do is what the code does too, or
/// nobody's. A `*` stands for anything.
const HARMLESS: &str = "xtask/mutants.txt";

/// Runs the task.
///
/// # Errors
/// cargo-mutants is missing, the code does not build, or a mutant survived that is not in the list.
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
    let mut mutants = Vec::new();
    for part in chosen {
        mutants.extend(listed(part, args.shard.as_deref())?);
    }
    if let Some(only) = &args.only {
        mutants.retain(|mutant| mutant.name.contains(only));
    }
    // What survived is known by its place, as in the list of the harmless.
    let file = paths::target()?.join("mutants/survived");
    let mut survived: BTreeSet<String> =
        fs::read_to_string(&file).unwrap_or_default().lines().map(String::from).collect();
    if args.again {
        survived.retain(|place| !is_one_of(&harmless, place));
        mutants.retain(|mutant| survived.contains(&place(&mutant.name)));
    }
    ensure!(!mutants.is_empty(), "there are no such mutants");
    let copy = build::switched(&mutants)?;
    let fates = run::all(&copy, &mutants)?;
    let count = |fate| fates.iter().filter(|it| **it == fate).count();
    let (mut fine, mut bad) = (0, Vec::new());
    for (mutant, fate) in mutants.iter().zip(&fates) {
        if matches!(fate, Fate::Survived | Fate::Unreached) {
            if is_one_of(&harmless, &place(&mutant.name)) {
                fine += 1;
            } else {
                bad.push((mutant, *fate));
            }
        }
    }
    for mutant in &mutants {
        survived.remove(&place(&mutant.name));
    }
    survived.extend(bad.iter().map(|(mutant, _)| place(&mutant.name)));
    let lines: String = survived.iter().map(|place| format!("{place}\n")).collect();
    fs::write(&file, lines).with_context(|| file.display().to_string())?;
    println!(
        "{} mutants: {} seen by a test, {} that ended too late, {} in constants or that do not compile, \
         {fine} harmless, {} survived",
        mutants.len(),
        count(Fate::Seen),
        count(Fate::TooLate),
        count(Fate::NotBuilt),
        bad.len()
    );
    for (mutant, fate) in &bad {
        let reached = if *fate == Fate::Unreached { " (which no test runs)" } else { "" };
        println!("  {}{reached}", mutant.name);
    }
    Ok(if bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The mutants of a part, but those of code that a full build leaves out.
fn listed(part: &Part, shard: Option<&str>) -> Result<Vec<Mutant>> {
    let (_, package, files) = *part;
    let mut words = vec!["mutants", "--list", "--json", "--package", package];
    files.iter().for_each(|file| words.extend(["--file", file]));
    if let Some(shard) = shard {
        words.extend(["--shard", shard]);
    }
    let list =
        cmd("cargo", words).dir(paths::workspace()).read().context("cargo mutants --list")?;
    let mut mutants: Vec<Mutant> = serde_json::from_str(&list).context("cargo mutants --list")?;
    let left_out = ["off.rs", "unclaimed.rs"];
    mutants.retain(|mutant| !left_out.iter().any(|name| mutant.file.ends_with(name)));
    Ok(mutants)
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
