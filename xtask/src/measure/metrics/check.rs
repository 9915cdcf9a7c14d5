//! `cargo xtask metrics check`: is it worse than before, in what, and is it sure?

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::collect::{self, Extent, number};
use super::history::{self, Better, Line, Metric, PARTS, median};
use super::{edivisive, noise};
use crate::lab::On;

/// Compare with what was recorded: status 0 not worse, 1 worse, 2 cannot tell.
#[derive(FromArgs)]
#[argh(subcommand, name = "check")]
pub struct Args {
    /// a line that `metrics run --json FILE` or `metrics import` wrote, instead of a measurement now;
    /// `last` is the last of the history
    #[argh(option)]
    line: Option<String>,
    /// only what fits in five minutes
    #[argh(switch)]
    quick: bool,
    /// only what is exact: two boots' exits, the system calls, two binaries' bytes
    #[argh(switch)]
    exact: bool,
    /// lab (default): L1 and its instruction clock; host: this machine's KVM and real time
    #[argh(option, default = "On::Lab")]
    on: On,
    /// the history (default xtask/measured/history.jsonl)
    #[argh(option, default = "history::path()")]
    history: PathBuf,
}

/// Runs the last of them that a metric is compared with.
const LAST: usize = 5;

/// What became of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Verdict {
    /// Within the noise.
    Same,
    /// A change for the better.
    Better,
    /// Nothing to compare with.
    CannotTell,
    /// A change for the worse.
    Worse,
}

/// One metric beside what it was.
#[derive(Debug, PartialEq)]
pub struct Finding {
    /// The metric's name.
    pub name: String,
    /// What became of it.
    pub verdict: Verdict,
    /// What it was.
    pub before: f64,
    /// What it is.
    pub after: f64,
    /// Per cent that the noise is on this clock.
    pub floor: f64,
    /// Where the difference lies.
    pub parts: String,
}

impl Finding {
    /// The change in per cent.
    pub fn percent(&self) -> f64 {
        if self.before == 0.0 { 0.0 } else { (self.after / self.before - 1.0) * 100.0 }
    }
}

/// Runs the task.
///
/// # Errors
/// Something could not be measured or read.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut lines = history::read(&args.history)?;
    let line = match args.line.as_deref() {
        Some("last") => history::take_last(&mut lines).context("nothing was recorded yet")?,
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
            history::parse(&text)?.pop().with_context(|| format!("{path}: no line"))?
        }
        None => {
            let extent = match (args.exact, args.quick) {
                (true, _) => Extent::Exact,
                (_, true) => Extent::Quick,
                _ => Extent::Full,
            };
            collect::measure(extent, args.on, &[])?
        }
    };
    let findings = if args.exact { exact(&lines, &line) } else { compare(&lines, &line) };
    print!("{}", render(&line, &findings));
    Ok(status(&findings))
}

/// 0, 1 or 2, as the task ends with.
fn status(findings: &[Finding]) -> ExitCode {
    let worst = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
    let told = findings.iter().any(|f| f.verdict != Verdict::CannotTell);
    match (worst(Verdict::Worse), told) {
        (true, _) => ExitCode::from(1),
        (_, false) => ExitCode::from(2),
        _ => ExitCode::SUCCESS,
    }
}

/// All metrics of a line beside those that were measured before on the same clock and kernels.
pub fn compare(lines: &[Line], new: &Line) -> Vec<Finding> {
    let floors = noise::floors(lines, new);
    let before: Vec<&Line> =
        lines.iter().filter(|line| line.comparable(new) && line.n <= new.n).collect();
    let of = |(name, metric): (&String, &Metric)| {
        let history: Vec<&Metric> =
            before.iter().filter_map(|line| line.metrics.get(name)).collect();
        match new.clock.as_str() {
            "lab" => counted(name, &history, metric, floors.get(name).copied()),
            _ => timed(name, &history, metric),
        }
    };
    new.metrics.iter().map(of).collect()
}

/// On the instruction clock: what is beyond the noise of A against A has changed.
fn counted(name: &str, history: &[&Metric], new: &Metric, floor: Option<f64>) -> Finding {
    let floor = if new.is_exact() { 0.0 } else { floor.unwrap_or(noise::UNKNOWN) };
    let last = since_last_change(history, floor);
    let values: Vec<f64> = last.iter().filter_map(|metric| metric.best()).collect();
    let (Some(before), Some(after), Some(reference)) = (median(&values), new.best(), last.last())
    else {
        return nothing(name, new);
    };
    let verdict = judge(before, after, floor, new.better);
    let parts = parts(reference, new);
    Finding { name: name.to_owned(), verdict, before, after, floor, parts }
}

/// The last measurements that are alike, at most [`LAST`].
fn since_last_change<'a>(history: &[&'a Metric], floor: f64) -> Vec<&'a Metric> {
    let mut alike: Vec<&Metric> = Vec::new();
    for &metric in history.iter().rev().take(LAST) {
        let (Some(value), Some(newest)) = (metric.best(), alike.first().unwrap_or(&metric).best())
        else {
            continue;
        };
        if (value / newest - 1.0).abs() * 100.0 > floor {
            break;
        }
        alike.push(metric);
    }
    alike.reverse();
    alike
}

/// On a real clock: a change is what E-divisive finds at the first sample of the new run or in it.
fn timed(name: &str, history: &[&Metric], new: &Metric) -> Finding {
    let old: Vec<f64> =
        history.iter().rev().take(LAST * 2).rev().flat_map(|m| m.s.clone()).collect();
    let (Some(before), Some(after)) = (median(&old), new.value()) else {
        return nothing(name, new);
    };
    if old.len() < 3 {
        return nothing(name, new);
    }
    let series: Vec<f64> = old.iter().chain(&new.s).copied().collect();
    let changes = edivisive::changes(&series);
    // The means differ by the samples around it: one sample early is the same change.
    let found = changes.iter().rev().find(|change| change.index + 1 >= old.len());
    let (before, after) = found.map_or((before, after), |change| (change.before, change.after));
    let verdict = found.map_or(Verdict::Same, |_| judge(before, after, 0.0, new.better));
    let parts = history.last().map(|last| parts(last, new)).unwrap_or_default();
    Finding { name: name.to_owned(), verdict, before, after, floor: 0.0, parts }
}

fn nothing(name: &str, new: &Metric) -> Finding {
    let after = new.value().unwrap_or_default();
    let verdict = Verdict::CannotTell;
    Finding { name: name.to_owned(), verdict, before: 0.0, after, floor: 0.0, parts: String::new() }
}

/// Whether a change is beyond the noise, and for whom.
pub fn judge(before: f64, after: f64, floor: f64, better: Better) -> Verdict {
    let change = after - before;
    if change.abs() * 100.0 <= floor * before.abs() {
        return Verdict::Same;
    }
    match (better, change > 0.0) {
        (Better::Less, true) | (Better::More, false) => Verdict::Worse,
        _ => Verdict::Better,
    }
}

/// The counts of a line that are exact: exits of each boot, and what [`Metric::is_exact`] says.
pub fn exact(lines: &[Line], new: &Line) -> Vec<Finding> {
    let before: Vec<&Line> = lines.iter().filter(|line| line.comparable(new)).collect();
    let mut findings = Vec::new();
    for (name, metric) in &new.metrics {
        let last = before.iter().rev().find_map(|line| line.metrics.get(name));
        if metric.is_exact() {
            let before = last.and_then(|last| last.value());
            let found = before.zip(metric.value());
            findings.push(found.map_or_else(
                || nothing(name, metric),
                |(before, after)| Finding {
                    name: name.clone(),
                    verdict: judge(before, after, 0.0, metric.better),
                    before,
                    after,
                    floor: 0.0,
                    parts: String::new(),
                },
            ));
        } else if !metric.exits.is_empty() {
            let name = format!("{name}, exits");
            let of = |metric: &Metric| steady(metric) as f64;
            findings.push(last.map_or_else(
                || Finding { name: name.clone(), ..nothing(&name, metric) },
                |last| Finding {
                    name: name.clone(),
                    verdict: judge(of(last), of(metric), 0.0, Better::Less),
                    before: of(last),
                    after: of(metric),
                    floor: 0.0,
                    parts: parts(last, metric),
                },
            ));
        }
    }
    findings
}

/// Exits but for those that the host's timer causes, by whatever else it has to do.
pub fn steady(metric: &Metric) -> u64 {
    let chance = ["interrupt", "vintr", "nmi"];
    let counts = metric.exits.iter().filter(|(reason, _)| !chance.contains(&reason.as_str()));
    counts.map(|(_, (count, _))| count).sum()
}

/// In which parts of a boot, and by which exits, two measurements differ.
pub fn parts(before: &Metric, after: &Metric) -> String {
    let mut text = String::new();
    if let (Some(was), Some(is)) = (before.parts, after.parts) {
        for ((name, was), is) in PARTS.iter().zip(was).zip(is) {
            if (is - was).abs() >= 0.01 {
                let _ = write!(text, "{name} {:+.2} ms, ", is - was);
            }
        }
    }
    let reasons: BTreeSet<&String> = before.exits.keys().chain(after.exits.keys()).collect();
    let count = |exits: &BTreeMap<String, (u64, f64)>, reason: &String| {
        exits.get(reason).map_or(0, |(count, _)| *count).cast_signed()
    };
    let mut changed: Vec<(&String, i64)> = reasons
        .into_iter()
        .map(|reason| (reason, count(&after.exits, reason) - count(&before.exits, reason)))
        .filter(|(_, more)| *more != 0)
        .collect();
    changed.sort_by_key(|(_, more)| std::cmp::Reverse(more.abs()));
    for (reason, more) in changed.iter().take(5) {
        let _ = write!(text, "exits by {reason} {more:+}, ");
    }
    text.trim_end_matches(", ").to_owned()
}

/// The text for the user.
pub fn render(line: &Line, findings: &[Finding]) -> String {
    let mut text = format!("brisk of {}, clock {}\n", line.version, line.clock);
    let count = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    for (verdict, word) in [(Verdict::Worse, "WORSE"), (Verdict::Better, "better")] {
        for finding in findings.iter().filter(|f| f.verdict == verdict) {
            let (was, is) = (number(finding.before), number(finding.after));
            let _ =
                write!(text, "{word} {}: {was} to {is}, {:+.2} %", finding.name, finding.percent());
            if finding.floor > 0.0 {
                let _ = write!(text, " (noise {:.2} %)", finding.floor);
            }
            let _ = writeln!(text, "{}", if finding.parts.is_empty() { "" } else { ":" });
            if !finding.parts.is_empty() {
                let _ = writeln!(text, "    {}", finding.parts);
            }
        }
    }
    let _ = writeln!(
        text,
        "{} worse, {} better, {} the same, {} with nothing to compare with",
        count(Verdict::Worse),
        count(Verdict::Better),
        count(Verdict::Same),
        count(Verdict::CannotTell)
    );
    text
}

/// What `cargo xtask test` runs: the exact counts of this checkout are not worse than recorded. Where
/// the kernel or the lab is another than that of the history, there is nothing to compare.
///
/// # Errors
/// A count is worse; the error says which.
pub fn counts() -> Result<u32> {
    let lines = history::read(&history::path())?;
    // What is worse is so twice: a guest that was interrupted at another place may do one thing more.
    for last in [false, true] {
        let line = collect::measure(Extent::Exact, On::Lab, &[])?;
        let findings = exact(&lines, &line);
        let text = render(&line, &findings);
        print!("{text}");
        if !findings.iter().any(|f| f.verdict == Verdict::Worse) {
            let told = findings.iter().filter(|f| f.verdict != Verdict::CannotTell).count();
            return Ok(u32::try_from(told)?);
        }
        ensure!(
            !last,
            "counts are worse than recorded; fix it, or record them: cargo xtask metrics record\n{text}"
        );
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
