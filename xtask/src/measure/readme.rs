//! `cargo xtask readme`: the figures in README.md, measured anew, and checks of what stands there.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use duct::cmd;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use crate::build::docs::{boots, thousands};
use crate::cache::Cache;
use crate::guest::kernel;
use crate::lab::boot;
use crate::measure::bench::{self, Report, Row};
use crate::{build, debian, lab, paths};

/// Measure, and write README.md's tables and timeline.
#[derive(FromArgs)]
#[argh(subcommand, name = "readme")]
pub struct Args {
    /// measure and write nothing; fail if a table is missing or the flags are not those of
    /// brisk --help
    #[argh(switch)]
    check: bool,
    /// boots of each VMM, of which the first is not counted (default 5)
    #[argh(option, default = "5")]
    runs: u32,
}

/// The blocks that are written: the name in the markers around it, and a word that it has if it is
/// whole.
const BLOCKS: [(&str, &str); 3] = [
    ("timeline", "userspace"),
    ("bench serial", "| QEMU microvm |"),
    ("bench talk", "| hugepages |"),
];

/// Cloud Hypervisor in the steps of the scenario `talk`, in the same lab with the same kernel and
/// image: total in virtual ms, exits where they were counted.
const CLOUD_HYPERVISOR: [(&str, u32, Option<&str>); 5] = [
    ("serial", 233, None),
    ("virtio-console", 113, None),
    ("quiet", 110, None),
    ("pmem", 109, None),
    ("hugepages", 106, Some("3,474")),
];

/// Runs the task.
///
/// # Errors
/// Something could not be built or measured, or README.md is not as it should be.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.check {
        check()?;
        return Ok(ExitCode::SUCCESS);
    }
    let serial =
        bench::measure_all("serial", args.runs, &["qemu".parse().map_err(anyhow::Error::msg)?])?;
    let talk = bench::measure_all("talk", args.runs, &[])?;
    boots::save("serial", &serial)?;
    boots::save("talk", &talk)?;
    let blocks = [timeline()?, serial_table(&serial), talk_table(&talk)?];
    let mut text = read()?;
    for ((name, _), content) in BLOCKS.iter().zip(&blocks) {
        text = with_block(&text, name, content)?;
    }
    let path = paths::workspace().join("README.md");
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Checks that the blocks are filled and that the table of flags names those of `brisk --help`.
///
/// # Errors
/// It is not so.
pub fn check() -> Result<()> {
    let text = read()?;
    for (name, word) in BLOCKS {
        let (_, block, _) = split(&text, name)?;
        ensure!(block.contains(word), "README.md: {name} is not filled; run: cargo xtask readme");
    }
    let help = cmd!("cargo", "run", "--quiet", "--package=brisk", "--", "--help")
        .dir(paths::workspace())
        .read()
        .context("brisk --help")?;
    let (told, there) = (flags_of_table(&text), flags_of_help(&help));
    let list = |flags: Vec<&&str>| flags.iter().map(|f| **f).collect::<Vec<_>>().join(", ");
    let missing = list(there.difference(&told).collect());
    ensure!(missing.is_empty(), "README.md: the table of flags lacks {missing}");
    let unknown = list(told.difference(&there).collect());
    ensure!(unknown.is_empty(), "README.md: the table has flags that brisk has not: {unknown}");
    Ok(())
}

fn read() -> Result<String> {
    let path = paths::workspace().join("README.md");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// What is before, in and after a block: between `<!-- NAME -->` and `<!-- /NAME -->`.
fn split<'a>(text: &'a str, name: &str) -> Result<(&'a str, &'a str, &'a str)> {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let lacks = |marker: &str| format!("README.md has no {}", marker.trim());
    let at = text.find(&open).with_context(|| lacks(&open))? + open.len();
    let (block, _) = text[at..].split_once(&close).with_context(|| lacks(&close))?;
    Ok((&text[..at], block, &text[at + block.len()..]))
}

fn with_block(text: &str, name: &str, content: &str) -> Result<String> {
    let (before, _, after) = split(text, name)?;
    Ok(format!("{before}{}\n{after}", content.trim_end()))
}

/// The flags in the first column of the table `flag | meaning`.
fn flags_of_table(text: &str) -> BTreeSet<&str> {
    let rows = text.lines().skip_while(|line| !line.starts_with("| flag |")).skip(2);
    let first = rows.map_while(|row| row.strip_prefix("| ")).map(|row| row.split(" | ").next());
    first.flatten().flat_map(flags).collect()
}

/// The flags that each have a line of the help, but for `--help` itself.
fn flags_of_help(help: &str) -> BTreeSet<&str> {
    let lines = help.lines().skip_while(|line| *line != "Options:");
    let first =
        lines.filter_map(|line| line.strip_prefix("  --").and(line.split_whitespace().next()));
    first.map(|flag| flag.trim_end_matches(',')).filter(|flag| *flag != "--help").collect()
}

/// The flags among other words.
fn flags(cell: &str) -> impl Iterator<Item = &str> {
    cell.split(|c: char| c.is_whitespace() || "`,".contains(c)).filter(|w| w.starts_with("--"))
}

/// What `brisk --timeline` says of a boot in the lab's fast mode.
fn timeline() -> Result<String> {
    debian::ensure(debian::ALL)?;
    let cache = Cache::open()?;
    let kernel = kernel::ensure(&cache, kernel::Config::Guest)?;
    let files = boot::Files::ours(&cache, kernel.vmlinux)?;
    let mut job = boot::job(&build::program(None)?, &files, &[]);
    job.script.insert_str(0, "exec 2> /tmp/out/timeline\n");
    job.relay = false;
    let output = lab::run(&job)?;
    let text = fs::read_to_string(output.dir.join("timeline"))?;
    ensure!(output.status == 0, "brisk ended with {}: {text}", output.status);
    Ok(format!("```\n{}\n```", text.trim_end()))
}

fn serial_table(report: &Report) -> String {
    let mut text = caption(report);
    text += "| VMM | setup | guest mode | host mode | total | exits |\n|---|--:|--:|--:|--:|--:|\n";
    for row in &report.rows {
        let spreads = [&row.setup_ms, &row.guest_ms, &row.host_ms, &row.total_ms];
        let [setup, guest, host, total] = spreads.map(|spread| format!("{:.2}", spread.median));
        let exits = thousands(row.all_exits());
        let _ = writeln!(text, "| {} | {setup} | {guest} | {host} | {total} | {exits} |", row.vmm);
    }
    text
}

fn talk_table(report: &Report) -> Result<String> {
    let mut text = caption(report);
    text += "| step | brisk, total | exits | Cloud Hypervisor, total* | exits |\n\
             |---|--:|--:|--:|--:|\n";
    for row in &report.rows {
        let step = row.step.as_deref().unwrap_or_default();
        let (_, total, exits) = CLOUD_HYPERVISOR
            .iter()
            .find(|(name, ..)| *name == step)
            .with_context(|| format!("the talk has no step {step}"))?;
        let exits = exits.unwrap_or("");
        let (ours, count) = (row.total_ms.median, thousands(row.all_exits()));
        let _ = writeln!(text, "| {step} | {ours:.2} | {count} | {total} | {exits} |");
    }
    text += "\n\\* Cloud Hypervisor's figures were measured once in the same lab, with the same kernel \
             and the same commands.\n";
    Ok(text)
}

/// What was measured, of which source, by which clock.
fn caption(report: &Report) -> String {
    let boots = report.rows.iter().map(|row: &Row| row.runs).min().unwrap_or(0);
    let revision =
        cmd!("git", "rev-parse", "--short", "HEAD").dir(paths::workspace()).stderr_null();
    let revision =
        revision.read().map_or(String::new(), |text| format!(", brisk of {}", text.trim()));
    format!("Virtual milliseconds of the lab's stopwatch, medians of {boots} boots{revision}:\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_replaced_and_the_rest_stays() {
        let text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n";
        let new = with_block(&with_block(text, "x", "1\n2\n").unwrap(), "y", "3").unwrap();
        assert_eq!(new, "a\n<!-- x -->\n1\n2\n<!-- /x -->\nb\n<!-- y -->\n3\n<!-- /y -->\n");
        assert_eq!(with_block(&new, "x", "1\n2").unwrap(), new);
        let error = with_block(text, "z", "").unwrap_err().to_string();
        assert_eq!(error, "README.md has no <!-- z -->");
    }

    #[test]
    fn flags_of_both_sides() {
        let table = "`--no`\n| flag | meaning |\n|---|---|\n| `--a X`, `--b` | like `--c` |\n\
                     | `--d e=,f=on\\|off` | x |\n\n| `--g` | |\n";
        assert_eq!(flags_of_table(table), ["--a", "--b", "--d"].into());
        let help = "Usage: brisk --a <a> [--x]\n\nOptions:\n  --a   the --y\n        --z\n  \
                    --long-one\n        b\n  --help, help      display\n";
        assert_eq!(flags_of_help(help), ["--a", "--long-one"].into());
    }

    #[test]
    fn the_readme_has_every_block() {
        let text = read().unwrap();
        for (name, _) in BLOCKS {
            split(&text, name).unwrap();
        }
    }
}
