//! `cargo xtask docs`: features.md, from the comments in Cargo.toml, the table of scenarios and what
//! they weigh; and the page of measurements, from the history.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use crate::build::features::{self, Features};
use crate::build::scenario;
use crate::paths;
use comments::{Feature, Section};
use measured::Measured;

pub mod against;
pub mod boots;
pub mod bundle;
mod comments;
pub mod measured;
mod platform;
mod restore;
mod suite;
mod throughput;

/// Write features.md and xtask/measured/README.md.
#[derive(FromArgs)]
#[argh(subcommand, name = "docs")]
pub struct Args {
    /// write nothing; fail if a page is not what would be written
    #[argh(switch)]
    check: bool,
}

/// What stands before the tables.
const HEAD: &str = include_str!("docs/head.md");
/// What stands after them.
const TAIL: &str = include_str!("docs/tail.md");
/// What stands before the measurements.
const MEASUREMENTS: &str = include_str!("docs/measurements.md");
/// What other VMMs' static binaries came to, built alike on one machine, in KB.
const PEERS: &str = "kvmtool 1,145 KB, Firecracker 3,894, alioth 5,304, Cloud Hypervisor 7,236, \
                     crosvm 8,743";

/// Runs the task.
///
/// # Errors
/// Cargo.toml has a feature without a comment, or features.md is out of date.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.check {
        check()?;
    } else {
        write()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks that the pages are what would be written.
///
/// # Errors
/// One is not.
pub fn check() -> Result<()> {
    for (name, text) in pages()? {
        let path = paths::workspace().join(name);
        let is = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        ensure!(is == text, "{name} is out of date; run: cargo xtask docs");
    }
    Ok(())
}

/// Writes the pages.
///
/// # Errors
/// One cannot be written, or Cargo.toml has a feature without a comment.
pub fn write() -> Result<()> {
    for (name, text) in pages()? {
        let path = paths::workspace().join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}

fn pages() -> Result<[(&'static str, String); 2]> {
    Ok([("features.md", generate()?), ("xtask/measured/README.md", measurements()?)])
}

/// The page of measurements.
fn measurements() -> Result<String> {
    let sections = [
        against::section()?,
        suite::section()?,
        boots::section()?,
        platform::section()?,
        throughput::section()?,
    ];
    Ok(MEASUREMENTS.to_owned() + &sections.concat())
}

fn generate() -> Result<String> {
    let known = features::of_brisk()?;
    let sections = comments::read(&fs::read_to_string(paths::workspace().join("Cargo.toml"))?)?;
    let measured = Measured::read()?;
    let mut text = HEAD.to_owned();
    scenarios(&mut text, &measured)?;
    for section in &sections {
        table(&mut text, section, &known, &measured)?;
    }
    text += &restore::section()?;
    text += &bundle::section()?;
    trials(&mut text, &measured)?;
    Ok(text + TAIL)
}

fn scenarios(text: &mut String, measured: &Measured) -> Result<()> {
    text.push_str(
        "\n## Scenarios\n\n`cargo xtask build --scenario NAME`, with `--static` for musl \
                   linked in. Bytes, stripped, x86_64.\n\n",
    );
    text.push_str("| scenario | what for | features | dynamic | static |\n|---|---|---|--:|--:|\n");
    for scenario in scenario::table() {
        let bytes = measured.scenarios.get(&scenario.name);
        writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            scenario.name,
            scenario.about,
            scenario.features.join(", "),
            bytes.map_or("–".to_owned(), |b| thousands(b.dynamic)),
            bytes.map_or("–".to_owned(), |b| thousands(b.r#static)),
        )?;
    }
    writeln!(text, "\nOthers' static binaries, built alike on one machine: {PEERS}.\n")?;
    for scenario in scenario::table() {
        writeln!(text, "    # {}\n    {}", scenario.name, scenario.example)?;
    }
    Ok(())
}

fn table(
    text: &mut String,
    section: &Section,
    known: &Features,
    measured: &Measured,
) -> Result<()> {
    writeln!(text, "\n## {}\n", section.title)?;
    text.push_str(
        "| feature | what it does | needs | code in | crates | bytes alone | its own |\n\
         |---|---|---|---|---|--:|--:|\n",
    );
    for Feature { name, about } in &section.features {
        let mut needs = known.closure(&[name]);
        needs.remove(name);
        let needs = if name == "full" { Vec::new() } else { needs.into_iter().collect() };
        let cost = measured.features.get(name);
        let crates = cost.map_or("", |c| if c.dependencies.is_empty() { "–" } else { "" });
        let list = cost.map(|c| c.dependencies.join(", ")).unwrap_or_default();
        let own = cost.map_or("–".to_owned(), |c| thousands(c.over));
        let alone = cost.map_or("–".to_owned(), |c| match &c.with {
            Some(with) => format!("with {with} {}", thousands(c.alone)),
            None => thousands(c.alone),
        });
        writeln!(
            text,
            "| `{name}` | {about} | {} | {} | {crates}{list} | {alone} | {own} |",
            if needs.is_empty() { "–".to_owned() } else { needs.join(", ") },
            if known.is_in_devices(name) { "`no_std` and host" } else { "host" },
        )?;
    }
    Ok(())
}

fn trials(text: &mut String, measured: &Measured) -> Result<()> {
    writeln!(
        text,
        "\n## What makes the binaries small\n\nThe scenario `pmem-hugepages`, built by {} as \
         shipped, and with one choice changed at a time. A build without any feature has {} bytes, \
         {} static.\n",
        measured.compiler,
        thousands(measured.core.dynamic),
        thousands(measured.core.r#static)
    )?;
    text.push_str("| | dynamic | | static | |\n|---|--:|--:|--:|--:|\n");
    let Some((_, shipped)) = measured.trials.first() else { return Ok(()) };
    for (what, bytes) in &measured.trials {
        let over = |is: u64, was: u64| match is as i64 - was as i64 {
            0 => String::new(),
            more => {
                format!("{}{}", if more > 0 { "+" } else { "−" }, thousands(more.unsigned_abs()))
            }
        };
        writeln!(
            text,
            "| {what} | {} | {} | {} | {} |",
            thousands(bytes.dynamic),
            over(bytes.dynamic, shipped.dynamic),
            thousands(bytes.r#static),
            over(bytes.r#static, shipped.r#static)
        )?;
    }
    Ok(())
}

/// With commas between the thousands.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn every_feature_and_scenario_is_in_it() {
        let text = generate().unwrap();
        for name in features::of_brisk().unwrap().names() {
            assert!(text.contains(&format!("| `{name}` |")), "{name}");
        }
        assert!(text.contains("| `pmem-hugepages` |"));
    }
}
