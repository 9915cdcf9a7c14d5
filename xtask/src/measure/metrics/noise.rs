//! How far apart two measurements of the same thing are: runs of A against A, kept in the history.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use super::collect;
use super::history::{self, Line, Metric, median};
use super::suite::{self, BootMetric};
use crate::build;
use crate::lab::On;
use crate::measure::bench::cases::{Case, Vmm};

/// The suite of its lines.
const SUITE: &str = "noise";
/// Per cent where a metric was never measured against itself.
pub const UNKNOWN: f64 = 0.3;
/// The least that is taken for a change, in per cent: what the trace's microseconds round away.
const LEAST: f64 = 0.05;
/// How many times as far as the farthest of the runs a change has to be.
const MARGIN: f64 = 2.0;

/// Measure A against A: what is within it is no change.
#[derive(FromArgs)]
#[argh(subcommand, name = "noise")]
pub struct Args {
    /// the metrics, with commas between
    #[argh(option, default = "METRICS.join(\",\")")]
    metrics: String,
    /// how many L1s (default 5)
    #[argh(option, default = "5")]
    labs: u32,
    /// runs in each (default 4)
    #[argh(option, default = "4")]
    runs: u32,
}

/// A boot by 4 KiB pages, one by 2 MiB pages, and the talk's.
const METRICS: [&str; 3] = ["boot_time_ms", "boot_time_pmem_ms", "boot_time_pmem_hugepages_ms"];

/// Runs the task.
///
/// # Errors
/// Something could not be built, or a run failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let metrics =
        args.metrics.split(',').map(suite::find).collect::<Result<Vec<&'static BootMetric>>>()?;
    let mut line = Line::here(SUITE, "lab")?;
    line.kernels = collect::kernels(collect::Extent::Exact)?;
    let programs = programs(&metrics)?;
    for _ in 0..args.labs {
        let found = once(&metrics, &programs, args.runs)?;
        for (name, values) in found {
            line.metrics.entry(name).or_default().s.extend(values);
        }
    }
    for (name, metric) in &line.metrics {
        println!(
            "{name}: {} runs, noise {:.3} %",
            metric.s.len(),
            floor(metric).unwrap_or(UNKNOWN)
        );
    }
    history::append(&history::path(), &line)?;
    Ok(ExitCode::SUCCESS)
}

/// A's programs, one for each metric: built once, for A is to stay A.
///
/// # Errors
/// One does not build.
pub fn programs(metrics: &[&'static BootMetric]) -> Result<Vec<PathBuf>> {
    metrics.iter().map(|metric| build::program(Some(metric.find()?.0.features))).collect()
}

/// The values of several runs in one L1.
///
/// # Errors
/// As [`run`].
pub fn once(
    metrics: &[&'static BootMetric],
    programs: &[PathBuf],
    runs: u32,
) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut all = Vec::new();
    let mut cases = Vec::new();
    for _ in 0..runs {
        for (&metric, program) in metrics.iter().zip(programs) {
            let (scenario, step) = metric.find()?;
            cases.push(Case { vmm: Vmm::Brisk(program.clone()), scenario, step, kernel: None });
            all.push(metric);
        }
    }
    let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (metric, result) in all.iter().zip(collect::of_cases(&all, &cases, On::Lab)?) {
        let value = result.with_context(|| metric.name)?.best().context("no boots")?;
        found.entry(metric.name.to_owned()).or_default().push(value);
    }
    ensure!(!found.is_empty(), "noise: no metrics");
    Ok(found)
}

/// Per cent within which a metric's values are the same thing.
fn floor(metric: &Metric) -> Option<f64> {
    let middle = median(&metric.s)?;
    let farthest = metric.s.iter().map(|value| (value / middle - 1.0).abs() * 100.0);
    let farthest = farthest.fold(0.0, f64::max);
    (metric.s.len() >= 3).then_some((farthest * MARGIN).max(LEAST))
}

/// The newest floor of each metric on a line's clock and kernels.
pub fn floors(lines: &[Line], new: &Line) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for line in lines.iter().filter(|line| line.suite == SUITE && line.clock == new.clock) {
        let of = line.metrics.iter().filter_map(|(name, m)| Some((name.clone(), floor(m)?)));
        found.extend(of);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_beyond_the_farthest_run() {
        let metric = |s: &[f64]| Metric { s: s.to_vec(), ..Metric::default() };
        let found = floor(&metric(&[100.0, 100.1, 99.9, 100.0])).unwrap();
        assert!((found - 0.2).abs() < 1e-9, "{found}");
        assert_eq!(floor(&metric(&[5.0, 5.0, 5.0])), Some(LEAST));
        assert_eq!(floor(&metric(&[5.0, 6.0])), None);
        assert_eq!(floor(&metric(&[])), None);
    }

    #[test]
    fn the_newest_counts() {
        let line = |n, value: f64| Line {
            suite: SUITE.into(),
            clock: "lab".into(),
            n,
            metrics: [("m".to_owned(), Metric { s: vec![1.0, 1.0, value], ..Metric::default() })]
                .into(),
            ..Line::default()
        };
        let lines = [line(1, 1.5), line(2, 1.01)];
        let new = Line { clock: "lab".into(), ..Line::default() };
        assert!((floors(&lines, &new)["m"] - 2.0).abs() < 1e-6);
        assert!(floors(&lines, &Line { clock: "host".into(), ..Line::default() }).is_empty());
    }
}
