//! `xtask/measured/history.jsonl`: all that was ever measured, a line of JSON each time. Every number
//! in README.md and on the pages of measurements is from it.
//!
//! A line stays readable for ever: [`Line::v`] says how it is to be read, and a field that came later
//! has a default. Lines are appended, and git merges two that were (`.gitattributes`: union), so their
//! order says nothing; [`Line::n`] does.

use anyhow::{Context, Result, ensure};
use duct::cmd;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::measure::bench::stats::{Report, Row};
use crate::measure::bench::trace::Boot;
use crate::paths;

/// How lines are written now.
pub const VERSION: u32 = 1;
/// More would be no line that a person or a diff can show.
pub const LONGEST: usize = 8192;
/// The suite of the lines that `metrics` compares.
pub const METRICS: &str = "metrics";

/// Suites with trends: the metrics, and what users import.
pub fn has_trends(suite: &str) -> bool {
    suite == METRICS || suite.starts_with("import-")
}

/// What was measured at one time with one VMM.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// [`VERSION`].
    pub v: u32,
    /// What it is part of: [`METRICS`], a scenario of `bench`, `ab-NAME`, `noise`, or a user's own.
    pub suite: String,
    /// `brisk`, or another VMM's name.
    pub vmm: String,
    /// The VMM's commit or version.
    pub version: String,
    /// That the source was not as committed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changed: bool,
    /// Of the commit, as ISO 8601; of another VMM, when it was measured.
    pub date: String,
    /// The commit's subject.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// How many commits led to it, itself among them: the order of the lines.
    #[serde(default)]
    pub n: u64,
    /// `lab` (virtual ms, 1 ns an instruction) or `host` (real ones), or a user's own.
    pub clock: String,
    /// The guest kernels: by name the version and a hash of what it is made from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kernels: BTreeMap<String, String>,
    /// The compiler, as `rustc -V` says it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rustc: String,
    /// QEMU's version, which the lab runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub qemu: String,
    /// What was measured, by name, in the order of a table.
    pub metrics: IndexMap<String, Metric>,
}

/// Which values are better.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Times, bytes, counts.
    #[default]
    Less,
    /// Rates.
    More,
}

/// One metric.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Metric {
    /// Its unit: `ms` if there is none.
    #[serde(default = "ms", skip_serializing_if = "is_ms")]
    pub unit: String,
    /// Which values are better: the smaller ones, if nothing is said.
    #[serde(default, skip_serializing_if = "is_less")]
    pub better: Better,
    /// The samples, as they were measured.
    pub s: Vec<f64>,
    /// Memory, vCPUs, queues, kernel, image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub control: String,
    /// Of a boot: medians of set-up, guest mode and host mode, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<[f64; 3]>,
    /// Of a boot: exits by the CPU's reason, with the ms until the guest ran again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exits: BTreeMap<String, (u64, f64)>,
    /// Of a boot over PCI: accesses by group.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pci: BTreeMap<String, u64>,
}

fn ms() -> String {
    "ms".to_owned()
}

fn is_ms(unit: &str) -> bool {
    unit == "ms"
}

fn is_less(better: &Better) -> bool {
    *better == Better::Less
}

/// The parts of a boot, as [`Metric::parts`] has them.
pub const PARTS: [&str; 3] = ["set-up", "guest", "host"];

impl Metric {
    /// Of the boots of one case. `None` when there are none.
    pub fn of_boots(boots: &[Boot], control: &str) -> Option<Self> {
        let row = Row::new("brisk", None, boots, boots.first()?)?;
        let samples = boots.iter().map(|boot| boot.total as f64 / 1000.0).collect();
        Some(Self {
            s: samples,
            control: control.to_owned(),
            pci: BTreeMap::new(),
            ..Self::of_row(&row)
        })
    }

    /// Of a row of `bench`.
    pub fn of_row(row: &Row) -> Self {
        let exits = row.exits.iter().map(|(reason, e)| (reason.clone(), (e.count, e.host_ms)));
        Self {
            unit: ms(),
            s: vec![row.total_ms.median],
            parts: Some([row.setup_ms.median, row.guest_ms.median, row.host_ms.median]),
            exits: exits.collect(),
            pci: row.pci.clone(),
            ..Self::default()
        }
    }

    /// One value.
    pub fn single(unit: &str, better: Better, value: f64, control: &str) -> Self {
        let control = control.to_owned();
        Self { unit: unit.to_owned(), better, s: vec![value], control, ..Self::default() }
    }

    /// The median of the samples.
    pub fn value(&self) -> Option<f64> {
        median(&self.s)
    }

    /// The best of the samples. On the instruction clock what chance does to a boot is to add to it, an
    /// interrupt of the host's more, so this one repeats where the median moves by tenths of a per cent.
    pub fn best(&self) -> Option<f64> {
        let values = self.s.iter().copied();
        match self.better {
            Better::Less => values.reduce(f64::min),
            Better::More => values.reduce(f64::max),
        }
    }

    /// Exits of all reasons.
    pub fn count(&self) -> u64 {
        self.exits.values().map(|(count, _)| count).sum()
    }

    /// Whether two measurements of one thing differ by nothing, so that a difference is a change.
    pub fn is_exact(&self) -> bool {
        ["bytes", "calls", "faults"].contains(&&*self.unit)
    }
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some(f64::midpoint(*values.get((values.len() - 1) / 2)?, upper))
}

impl Line {
    /// Of this checkout's commit, with nothing measured yet.
    ///
    /// # Errors
    /// A program that tells its version cannot be run.
    pub fn here(suite: &str, clock: &str) -> Result<Self> {
        // A source archive has no commits: it comes after all.
        let mut line = match Self::of_commit(paths::workspace(), "HEAD", suite, clock) {
            Ok(line) => line,
            Err(_) => Self { n: u64::MAX, ..Self::of_nothing(suite, clock)? },
        };
        let status = cmd!(
            "git",
            "status",
            "--porcelain",
            "--",
            "src",
            "devices",
            "boot",
            "Cargo.toml",
            "Cargo.lock"
        );
        line.changed = !status.dir(paths::workspace()).read().unwrap_or_default().is_empty();
        Ok(line)
    }

    /// Of a commit of a repository.
    ///
    /// # Errors
    /// There is no such commit, or a program that tells its version cannot be run.
    pub fn of_commit(repository: &Path, revision: &str, suite: &str, clock: &str) -> Result<Self> {
        let git = |words: &[&str]| {
            let text = cmd("git", words).dir(repository).stderr_null().read();
            text.with_context(|| format!("git {}: no such commit here", words.join(" ")))
        };
        let text = git(&["show", "-s", "--abbrev=12", "--format=%h%n%cI%n%s", revision, "--"])?;
        let mut words = text.lines().map(str::to_owned);
        let mut next = || words.next().unwrap_or_default();
        let n = git(&["rev-list", "--count", revision, "--"])?;
        let (version, date, subject) = (next(), next(), next());
        let n = n.trim().parse().context("git rev-list --count")?;
        Ok(Self { version, date, subject, n, ..Self::of_nothing(suite, clock)? })
    }

    /// Of brisk, by the programs that are here.
    fn of_nothing(suite: &str, clock: &str) -> Result<Self> {
        let qemu = cmd!("qemu-system-x86_64", "--version").stderr_null().read().unwrap_or_default();
        let version = |text: &str| {
            let word = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
            word.unwrap_or_default().to_owned()
        };
        Ok(Self {
            v: VERSION,
            suite: suite.to_owned(),
            vmm: "brisk".to_owned(),
            version: "unknown".to_owned(),
            changed: false,
            date: String::new(),
            subject: String::new(),
            n: 0,
            clock: clock.to_owned(),
            kernels: BTreeMap::new(),
            rustc: cmd!("rustc", "-V").dir(paths::workspace()).read().context("rustc -V")?,
            qemu: version(&qemu),
            metrics: IndexMap::new(),
        })
    }

    /// What figures have to have in common to be compared: the VMM, the clock, the kernels, and the
    /// suite.
    pub fn comparable(&self, other: &Self) -> bool {
        (&self.suite, &self.vmm, &self.clock) == (&other.suite, &other.vmm, &other.clock)
            && self
                .kernels
                .iter()
                .all(|(name, is)| other.kernels.get(name).is_none_or(|was| is == was))
    }

    /// The line as text.
    ///
    /// # Errors
    /// It is too long.
    pub fn text(&self) -> Result<String> {
        let text = serde_json::to_string(self)?;
        ensure!(text.len() < LONGEST, "a line of {} bytes, {LONGEST} is the limit", text.len());
        Ok(text)
    }
}

/// Reads lines.
///
/// # Errors
/// One cannot be read; the error names it.
pub fn parse(text: &str) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (index, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let line: Line =
            serde_json::from_str(text).with_context(|| format!("line {}", index + 1))?;
        ensure!(
            line.v <= VERSION,
            "line {}: of version {}, this xtask knows {VERSION}; take a newer one",
            index + 1,
            line.v
        );
        lines.push(line);
    }
    lines.sort_by_key(|line| line.n); // stable
    Ok(lines)
}

/// The file of this checkout.
pub fn path() -> PathBuf {
    paths::workspace().join("xtask/measured/history.jsonl")
}

/// All lines of a file, in their order; none, if there is no file.
///
/// # Errors
/// It is not what [`append`] writes.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text).with_context(|| path.display().to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

/// Appends a line; what is too long for one, as several.
///
/// # Errors
/// One metric alone is too long, or the file cannot be written.
pub fn append(path: &Path, line: &Line) -> Result<()> {
    let text = texts(line)?;
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| path.display().to_string())
}

/// A run as text: as many lines as it needs.
fn texts(line: &Line) -> Result<String> {
    match line.text() {
        Err(_) if line.metrics.len() > 1 => {
            let mut first = line.clone();
            let rest = first.metrics.split_off(line.metrics.len() / 2);
            Ok(texts(&first)? + &texts(&Line { metrics: rest, ..first })?)
        }
        text => Ok(text? + "\n"),
    }
}

/// The last run that has trends, of as many lines as it has.
pub fn take_last(lines: &mut Vec<Line>) -> Option<Line> {
    let has = |line: &Line| line.vmm == "brisk" && has_trends(&line.suite);
    let mut last = lines.remove(lines.iter().rposition(has)?);
    let of = |line: &Line| {
        let version = (line.version.clone(), line.date.clone(), line.n, line.changed);
        (line.suite.clone(), line.vmm.clone(), line.clock.clone(), version)
    };
    while let Some(at) = lines.iter().rposition(has) {
        let other = &lines[at];
        let again = other.metrics.keys().any(|name| last.metrics.contains_key(name));
        if again || of(other) != of(&last) {
            break;
        }
        last.metrics.extend(lines.remove(at).metrics);
    }
    Some(last)
}

/// A VMM in one boot of what was measured last of a suite.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// `brisk`, a peer, or `before` and `after`.
    pub vmm: String,
    /// Its commit or version.
    pub version: String,
    /// The step, or the metric.
    pub name: String,
    /// What was measured.
    pub metric: Metric,
}

/// What was measured last of a suite: all VMMs in the order in which they first came, each with its
/// newest line.
///
/// # Errors
/// Nothing was measured of it.
pub fn newest(lines: &[Line], suite: &str) -> Result<Vec<Entry>> {
    let mut of: IndexMap<&str, &Line> = IndexMap::new();
    for line in lines.iter().filter(|line| line.suite == suite && line.clock == "lab") {
        of.insert(&line.vmm, line);
    }
    let entry = |line: &&Line| {
        let (vmm, version) = (line.vmm.clone(), line.version.clone());
        let of = line.metrics.iter();
        let of = of.map(move |(name, metric)| (name.clone(), metric.clone()));
        of.map(move |(name, metric)| Entry {
            vmm: vmm.clone(),
            version: version.clone(),
            name,
            metric,
        })
        .collect::<Vec<_>>()
    };
    let all: Vec<Entry> = of.values().flat_map(entry).collect();
    ensure!(!all.is_empty(), "{}: nothing of {suite}", path().display());
    Ok(all)
}

/// A report of `bench` as lines, one for each VMM.
///
/// # Errors
/// A program that tells its version cannot be run.
pub fn of_report(suite: &str, report: &Report) -> Result<Vec<Line>> {
    let mut of: IndexMap<&str, Line> = IndexMap::new();
    for row in &report.rows {
        let line = match of.get_mut(row.vmm.as_str()) {
            Some(line) => line,
            None => {
                let mut line = Line::here(suite, report.clock)?;
                line.vmm.clone_from(&row.vmm);
                if row.vmm.starts_with("QEMU") {
                    (line.version, line.subject) = (line.qemu.clone(), String::new());
                }
                of.entry(&row.vmm).or_insert(line)
            }
        };
        line.metrics
            .insert(row.step.clone().unwrap_or_else(|| "boot".to_owned()), Metric::of_row(row));
    }
    Ok(of.into_values().collect())
}

#[cfg(test)]
mod tests;
