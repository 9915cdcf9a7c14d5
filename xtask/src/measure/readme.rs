//! `cargo xtask readme`: the figures in README.md, measured anew, and checks of what stands there.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use duct::cmd;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::build::docs::{self, against, thousands};
use crate::cache::Cache;
use crate::guest::kernel;
use crate::lab::boot;
use crate::measure::bench;
use crate::measure::metrics::history::{self, Entry, Line, METRICS, Metric};
use crate::{build, debian, lab, paths};
use ladder::{Bar, Step};

mod ladder;

mod flags;

/// Measure, and write README.md's tables and timeline.
#[derive(FromArgs)]
#[argh(subcommand, name = "readme")]
pub struct Args {
    /// measure and write nothing; fail if a table is missing or the flags are not those of
    /// brisk --help
    #[argh(switch)]
    check: bool,
    /// write the tables from what was recorded, and measure nothing
    #[argh(switch)]
    recorded: bool,
    /// boots of each VMM, of which the first is not counted (default 5)
    #[argh(option, default = "5")]
    runs: u32,
}

/// The blocks that are written: the name in the markers around it, and a word that it has if it is
/// whole.
const BLOCKS: [(&str, &str); 5] = [
    ("opening", "QEMU microvm"),
    ("timeline", "userspace"),
    ("bench serial", "| QEMU microvm "),
    ("bench talk", "| hugepages |"),
    ("bundle", "first instruction"),
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
    if args.recorded {
        recorded()?;
        return Ok(ExitCode::SUCCESS);
    }
    let peers = ["qemu".parse().map_err(anyhow::Error::msg)?];
    for (name, peers) in [("serial", &peers[..]), ("talk", &[])] {
        let report = bench::measure_all(name, args.runs, peers)?;
        for line in history::of_report(name, &report)? {
            history::append(&history::path(), &line)?;
        }
    }
    write(&[("timeline", timeline()?)])?;
    recorded()?;
    docs::write()?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the tables from what was recorded.
///
/// # Errors
/// README.md has no place for them.
pub fn recorded() -> Result<()> {
    let lines = history::read(&history::path())?;
    fs::write(ladder_path(), ladder(&lines)?).context("xtask/measured/ladder.svg")?;
    write(&tables(&lines)?)
}

/// The blocks that are made from what was recorded.
fn tables(lines: &[Line]) -> Result<[(&'static str, String); 4]> {
    Ok([
        ("opening", opening(lines)?),
        ("bench serial", serial_table(lines)?),
        ("bench talk", talk_table(lines)?),
        ("bundle", docs::bundle::sentence(lines)?),
    ])
}

fn ladder_path() -> PathBuf {
    paths::workspace().join("xtask/measured/ladder.svg")
}

fn write(blocks: &[(&str, String)]) -> Result<()> {
    let mut text = read()?;
    for (name, content) in blocks {
        text = with_block(&text, name, content)?;
    }
    let path = paths::workspace().join("README.md");
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    println!("{}", path.display());
    Ok(())
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
    let lines = history::read(&history::path())?;
    let drawn = fs::read_to_string(ladder_path()).context("xtask/measured/ladder.svg")?;
    ensure!(
        drawn == ladder(&lines)?,
        "xtask/measured/ladder.svg is not what the history says; run: cargo xtask readme --recorded"
    );
    for (name, table) in tables(&lines)? {
        let (_, block, _) = split(&text, name)?;
        ensure!(
            block.trim_end() == table.trim_end(),
            "README.md: {name} is not what the history says; run: cargo xtask readme --recorded"
        );
    }
    let help = cmd!("cargo", "run", "--quiet", "--package=brisk", "--", "--help")
        .dir(paths::workspace())
        .read()
        .context("brisk --help")?;
    let running = paths::workspace().join("docs/running.md");
    let running = fs::read_to_string(&running).with_context(|| running.display().to_string())?;
    flags::compare(&running, &help)
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

/// What `brisk --timeline` says of a boot on the lab's stopwatch.
fn timeline() -> Result<String> {
    debian::ensure(&debian::ALL)?;
    let cache = Cache::open()?;
    let files = boot::Files::own(&cache, kernel::Config::Micro)?;
    let mut job = boot::job(&build::program(None)?, &files, &[]);
    job.script.insert_str(0, "exec 2> /tmp/out/timeline\n");
    job.relay = false;
    job.mode = lab::Mode::Stopwatch;
    let output = lab::run(&job)?;
    let text = fs::read_to_string(output.dir.join("timeline"))?;
    ensure!(output.status == 0, "brisk ended with {}: {text}", output.status);
    Ok(format!("```\n{}\n```", text.trim_end()))
}

/// The serial boot, of brisk and QEMU as measured last, beside what was recorded of others: with brisk's
/// parameters on the kernel's command line, and with their own.
fn serial_table(lines: &[Line]) -> Result<String> {
    let serial = history::newest(lines, "serial")?;
    let mut text = caption(&serial);
    let (own, equal) = (history::newest(lines, METRICS)?, history::newest(lines, against::EQUAL)?);
    text += "| VMM | parameters | set-up | guest mode | host mode | total |\n|---|---|--:|--:|--:|--:|\n";
    let boot = |entries: &[Entry]| -> Vec<Entry> {
        let others = entries.iter().filter(|e| e.vmm != "brisk" && e.name == "boot_time_ms");
        others.filter(|e| !serial.iter().any(|s| s.vmm == e.vmm)).cloned().collect()
    };
    let here = |brisk: bool| serial.iter().filter(move |e| (e.vmm == "brisk") == brisk).cloned();
    let without = equal.iter().filter(|entry| entry.name == against::WITHOUT).cloned();
    let groups: [(&str, Vec<Entry>); 4] = [
        ("brisk's", here(true).chain(boot(&equal)).collect()),
        ("none", without.collect()),
        ("its own", boot(&own)),
        ("its own", here(false).collect()),
    ];
    for (words, entries) in groups {
        for entry in entries {
            text += &against::line(&entry, words)?;
        }
    }
    Ok(text)
}

/// The figures that a reader sees first.
fn opening(lines: &[Line]) -> Result<String> {
    let serial = history::newest(lines, "serial")?;
    let (talk, micro) = (history::newest(lines, "talk")?, history::newest(lines, "micro")?);
    let find = |entries: &[Entry], vmm: &str, name: &str| -> Result<Metric> {
        let mut all = entries.iter().filter(|entry| entry.vmm == vmm && entry.name == name);
        Ok(all.next().with_context(|| format!("{vmm}, {name}: not measured"))?.metric.clone())
    };
    let ms = |metric: &Metric| metric.value().context("no samples");
    let last = find(&talk, "brisk", "hugepages")?;
    Ok(format!(
        "From exec to the guest's first line of userspace, on a clock that advances 1 ns for each \
         instruction of host and guest (so the figures are the same on any machine): a kernel and \
         initramfs with a serial console **{:.1} ms** (QEMU microvm {:.1}), the last command of the talk \
         below **{:.1} ms** with {} exits, a kernel tuned for brisk with an EROFS image **{:.1} ms**.\n",
        ms(&find(&serial, "brisk", "boot")?)?,
        ms(&find(&serial, "QEMU microvm", "boot")?)?,
        ms(&last)?,
        thousands(last.count()),
        ms(&find(&micro, "brisk", "erofs")?)?,
    ))
}

/// The talk's steps: brisk's as measured last, and Cloud Hypervisor's as recorded, whose version this
/// answers too.
fn talk(lines: &[Line]) -> Result<(Vec<Step>, String)> {
    let peer: Vec<Entry> = history::newest(lines, METRICS)?;
    let peer: Vec<&Entry> = peer.iter().filter(|entry| entry.vmm == "Cloud Hypervisor").collect();
    let version = peer.first().map(|entry| entry.version.clone()).unwrap_or_default();
    let mut steps = Vec::new();
    for entry in history::newest(lines, "talk")?.iter().filter(|entry| entry.vmm == "brisk") {
        let metric = TALK.iter().find(|(_, step)| *step == entry.name);
        let (metric, _) = metric.with_context(|| format!("the talk has no step {}", entry.name))?;
        let theirs = peer.iter().find(|entry| entry.name == *metric).map(|entry| &entry.metric);
        let bar = |metric: &Metric| Bar { ms: metric.value(), exits: metric.count() };
        steps.push(Step {
            name: entry.name.clone(),
            ours: bar(&entry.metric),
            theirs: theirs.map_or(Bar { ms: None, exits: 0 }, bar),
        });
    }
    Ok((steps, version))
}

/// The picture of [`talk`].
fn ladder(lines: &[Line]) -> Result<String> {
    let (steps, version) = talk(lines)?;
    Ok(ladder::draw(&steps, ["brisk", &format!("Cloud Hypervisor {version}")]))
}

fn talk_table(lines: &[Line]) -> Result<String> {
    let (steps, version) = talk(lines)?;
    let mut text = caption(&history::newest(lines, "talk")?);
    let _ = writeln!(
        text,
        "| step | brisk, total | exits | Cloud Hypervisor {version}, total | exits |\n\
         |---|--:|--:|--:|--:|"
    );
    for Step { name, ours, theirs } in &steps {
        let total = |bar: &Bar| bar.ms.map_or("–".to_owned(), |ms| format!("{ms:.2}"));
        let exits = |bar: &Bar| match bar.exits {
            0 => String::new(),
            count => thousands(count),
        };
        let cells = [total(ours), exits(ours), total(theirs), exits(theirs)].join(" | ");
        let _ = writeln!(text, "| {name} | {cells} |");
    }
    Ok(text)
}

/// The metric that each step of the scenario `talk` is.
const TALK: [(&str, &str); 5] = [
    ("boot_time_talk_serial_ms", "serial"),
    ("boot_time_talk_console_ms", "virtio-console"),
    ("boot_time_talk_quiet_ms", "quiet"),
    ("boot_time_pmem_ms", "pmem"),
    ("boot_time_pmem_hugepages_ms", "hugepages"),
];

/// What was measured, of which source, by which clock.
fn caption(entries: &[Entry]) -> String {
    let version = entries.iter().find(|entry| entry.vmm == "brisk");
    let version = version.and_then(|entry| entry.version.get(..7)).unwrap_or_default();
    format!("Virtual milliseconds of the lab's stopwatch, medians; brisk of {version}:\n\n")
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
    fn the_readme_has_every_block() {
        let text = read().unwrap();
        for (name, _) in BLOCKS {
            split(&text, name).unwrap();
        }
    }
}
