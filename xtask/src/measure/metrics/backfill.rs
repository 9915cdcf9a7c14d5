//! `cargo xtask metrics backfill FROM..TO`: measures old commits and adds them to the history.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use std::collections::BTreeMap;
use std::process::ExitCode;

use super::collect;
use super::history::{self, Line, METRICS};
use super::revision::{Built, Checkout, git, short};
use super::suite::{self, BootMetric};
use crate::cache::Cache;
use crate::lab::On;
use crate::measure::bench::cases::{Case, Vmm};
use crate::paths;

/// Measure old commits: the boots of the quick suite, all commits in a few L1s.
#[derive(FromArgs)]
#[argh(subcommand, name = "backfill")]
pub struct Args {
    /// which commits: FROM..TO, both of them measured
    #[argh(positional)]
    range: String,
    /// only each Nth commit of those that change something, and the last (default 1: each)
    #[argh(option, default = "1")]
    step: usize,
    /// the metrics, with commas between (default: those of the table)
    #[argh(option, default = "METRICS_OF_OLD.join(\",\")")]
    metrics: String,
    /// commits for which something is measured with these kernels already are measured again
    #[argh(switch)]
    again: bool,
    /// only build them, so that a later run has only to boot
    #[argh(switch)]
    build: bool,
}

/// What every brisk there was can do.
const METRICS_OF_OLD: [&str; 6] = [
    "boot_time_ms",
    "boot_time_talk_serial_ms",
    "boot_time_talk_console_ms",
    "boot_time_talk_quiet_ms",
    "boot_time_pmem_ms",
    "boot_time_pmem_hugepages_ms",
];

/// Commits in one L1: its memory holds their programs, and what dies takes no more with it.
const AT_ONCE: usize = 4;

/// Runs the task.
///
/// # Errors
/// The range is none, or the lab failed. A commit that does not build is left out and named.
pub fn run(args: &Args) -> Result<ExitCode> {
    let cache = Cache::open()?;
    let checkout = Checkout::open(&cache, paths::workspace())?;
    let metrics =
        args.metrics.split(',').map(suite::find).collect::<Result<Vec<&'static BootMetric>>>()?;
    let file = history::path();
    let known = history::read(&file)?;
    let now = Line {
        suite: METRICS.to_owned(),
        vmm: "brisk".to_owned(),
        clock: "lab".to_owned(),
        kernels: collect::kernels(collect::Extent::Exact)?,
        ..Line::default()
    };
    let has = |commit: &str| {
        let mut same = known.iter().filter(|line| line.comparable(&now));
        same.any(|line| commit.starts_with(&line.version))
    };
    let commits = commits(&checkout, &args.range, args.step)?;
    let wanted: Vec<&String> = commits.iter().filter(|c| args.again || !has(c)).collect();
    println!("{} commits, {} of them to be measured", commits.len(), wanted.len());
    if args.build {
        for (commit, metric) in wanted.iter().flat_map(|c| metrics.iter().map(move |m| (c, m))) {
            checkout.brisk(&cache, commit, metric.find()?.0.features)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    for group in wanted.chunks(AT_ONCE) {
        let lines = measure(&cache, &checkout, group, &metrics)?;
        for line in lines {
            println!("{} {}: {}", line.version, line.subject, line.metrics.len());
            history::append(&file, &line)?;
        }
    }
    crate::build::docs::write()?;
    Ok(ExitCode::SUCCESS)
}

/// The commits of a range that change what brisk is built from, the first and the last among them.
fn commits(checkout: &Checkout, range: &str, step: usize) -> Result<Vec<String>> {
    let (from, to) = range.split_once("..").context("a range is FROM..TO")?;
    ensure!(step > 0, "--step 0: each 0th commit");
    let (from, to) =
        (checkout.commit(from)?, checkout.commit(if to.is_empty() { "HEAD" } else { to })?);
    let between = format!("{from}..{to}");
    let words = [
        "rev-list",
        "--first-parent",
        "--reverse",
        &between,
        "--",
        "src",
        "devices",
        "boot",
        "Cargo.lock",
    ];
    let text = git(checkout.repository(), &words)?;
    let all: Vec<String> = [from].into_iter().chain(text.lines().map(str::to_owned)).collect();
    let last = all.len() - 1;
    let kept = all.into_iter().enumerate().filter(|(index, _)| index % step == 0 || *index == last);
    Ok(kept.map(|(_, commit)| commit).collect())
}

fn measure(
    cache: &Cache,
    checkout: &Checkout,
    commits: &[&String],
    metrics: &[&'static BootMetric],
) -> Result<Vec<Line>> {
    let mut cases = Vec::new();
    let mut owners = Vec::new();
    for commit in commits {
        for &metric in metrics {
            let (scenario, step) = metric.find()?;
            match checkout.brisk(cache, commit, scenario.features)? {
                Built::File(path) => {
                    cases.push(Case { vmm: Vmm::Brisk(path), scenario, step, kernel: None });
                    owners.push(((*commit).clone(), metric));
                }
                Built::Fails(why) => {
                    let why = why.lines().next().unwrap_or_default();
                    eprintln!("xtask: metrics: {}: left out: {why}", short(commit));
                    break;
                }
            }
        }
    }
    let of: Vec<&BootMetric> = owners.iter().map(|(_, metric)| *metric).collect();
    let found = collect::of_cases(&of, &cases, On::Lab)?;
    let mut lines: BTreeMap<&String, Line> = BTreeMap::new();
    for ((commit, metric), result) in owners.iter().zip(found) {
        match result {
            Ok(found) => {
                let line = match lines.remove(commit) {
                    Some(line) => line,
                    None => {
                        let line = Line::of_commit(checkout.repository(), commit, METRICS, "lab")?;
                        Line { kernels: collect::kernels(collect::Extent::Exact)?, ..line }
                    }
                };
                let mut line = line;
                line.metrics.insert(metric.name.to_owned(), found);
                lines.insert(commit, line);
            }
            Err(e) => eprintln!("xtask: metrics: {} {}: {e:#}", short(commit), metric.name),
        }
    }
    Ok(commits.iter().filter_map(|commit| lines.remove(commit)).collect())
}
