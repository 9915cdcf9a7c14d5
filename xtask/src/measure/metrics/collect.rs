//! `cargo xtask metrics run` and `record`: measures the suite.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::history::{Better, Line, METRICS, Metric};
use super::idle;
use super::suite::{BOOTS, BootMetric};
use crate::build::{self, scenario as shipped};
use crate::cache::Cache;
use crate::guest::Kernel;
use crate::guest::kernel;

use crate::lab::On;
use crate::measure::bench::cases::{self, Case, Vmm};
use crate::measure::bench::fio::setting::Setting;
use crate::measure::bench::{self, Peer};
use crate::paths;

/// How much of the suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// What `cargo xtask test` checks: two boots, the system calls, the bytes of two binaries.
    Exact,
    /// What fits in five minutes.
    Quick,
    /// All.
    Full,
}

/// Boots of each metric that are counted.
const RUNS: u32 = 3;
/// Tries of what stalls now and then: several vCPUs on the lab's one CPU.
const TRIES: u32 = 3;
/// Restores, with the row of `bench --scenario restore` that each is.
const RESTORES: [(&str, &str); 2] = [
    ("restore_latency_time_ms", "restore"),
    ("restore_latency_time_working_set_ms", "restore, both"),
];
/// The boots of [`Extent::Exact`].
pub const EXACT: [&str; 2] = ["boot_time_ms", "boot_time_pmem_hugepages_ms"];

/// Measures this checkout's brisk.
///
/// # Errors
/// Something could not be built or did not boot.
pub fn measure(extent: Extent, on: On, without: &[String]) -> Result<Line> {
    let mut line = Line::here(METRICS, clock(on))?;
    line.kernels = kernels(extent)?;
    let (steady, shaky): (Vec<&BootMetric>, Vec<&BootMetric>) = BOOTS
        .iter()
        .filter(|metric| wanted(metric, extent) && !without.iter().any(|name| name == metric.name))
        .partition(|metric| metric.vcpus == 1);
    let found = boots(&steady, on)?;
    for (metric, result) in steady.iter().zip(found) {
        line.metrics.insert(metric.name.to_owned(), result.with_context(|| metric.name)?);
    }
    for metric in shaky {
        match stubborn(metric, on) {
            Ok(found) => drop(line.metrics.insert(metric.name.to_owned(), found)),
            Err(e) => eprintln!("xtask: metrics: {}: left out: {e:#}", metric.name),
        }
    }
    until_first_instruction(&mut line, on)?;
    if extent != Extent::Exact {
        let memory = idle::measure(on)?;
        let control = "128 MiB, 1 vCPU, micro kernel, EROFS on pmem";
        let metric = Metric::single("KiB", Better::Less, memory, control);
        line.metrics.insert("host_memory_idle_KiB".to_owned(), metric);
        if on == On::Lab {
            restores(&mut line)?;
        }
    }
    binaries(&mut line, extent)?;
    if extent == Extent::Full && on == On::Lab && !without.iter().any(|name| name == "block") {
        for (setting, prefix, queues) in [
            (Setting::default(), "block", "1 vCPU, 1 queue"),
            (Setting::SMP, "block_multi_queue", "4 vCPUs, 4 queues"),
        ] {
            match bench::fio::measure_brisk(setting) {
                Ok(report) => disk(&mut line, &report, prefix, queues),
                Err(e) => eprintln!("xtask: metrics: {prefix}_*: left out: {e:#}"),
            }
        }
    }
    Ok(line)
}

/// Measures other VMMs in the boots of the quick suite, those that each can do: a line for each.
///
/// # Errors
/// The lab failed, or a VMM did no boot at all.
pub fn peers(peers: &[Peer], on: On) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for peer in peers {
        let mut line = Line::here(METRICS, clock(on))?;
        line.kernels = kernels(Extent::Quick)?;
        let (name, version) = peer.name().split_once('@').unwrap_or((peer.name(), ""));
        line.version = if version.is_empty() { line.qemu.clone() } else { version.to_owned() };
        (line.vmm, line.subject, line.changed) = (name.to_owned(), String::new(), false);
        let (mut metrics, mut cases) = (Vec::new(), Vec::new());
        for metric in BOOTS.iter().filter(|metric| wanted(metric, Extent::Quick)) {
            let (scenario, step) = metric.find()?;
            if peer.command(scenario, step).is_some() {
                cases.push(Case { vmm: Vmm::Peer(peer.clone()), scenario, step, kernel: None });
                metrics.push(metric);
            }
        }
        for (metric, found) in metrics.iter().zip(of_cases(&metrics, &cases, on)?) {
            match found {
                Ok(found) => drop(line.metrics.insert(metric.name.to_owned(), found)),
                Err(e) => eprintln!("xtask: metrics: {name}, {}: {e:#}", metric.name),
            }
        }
        ensure!(!line.metrics.is_empty(), "{name} did no boot");
        lines.push(line);
    }
    Ok(lines)
}

fn wanted(metric: &BootMetric, extent: Extent) -> bool {
    match extent {
        Extent::Exact => EXACT.contains(&metric.name),
        Extent::Quick => metric.quick,
        Extent::Full => true,
    }
}

/// The name of a clock in the history.
pub fn clock(on: On) -> &'static str {
    match on {
        On::Lab => "lab",
        On::Host => "host",
    }
}

/// The kernels of the suite: version and the hash of source, config, patches and compiler.
pub fn kernels(extent: Extent) -> Result<BTreeMap<String, String>> {
    let cache = Cache::open()?;
    let mut configs = vec![("guest", kernel::Config::Guest)];
    if extent != Extent::Exact {
        configs.push(("micro", kernel::Config::Micro));
    }
    let mut found = BTreeMap::new();
    for (name, config) in configs {
        let file = kernel::ensure(&cache, config)?.vmlinux;
        found.insert(name.to_owned(), describe(&file)?);
    }
    Ok(found)
}

/// `6.12.117 98797e3c5dfe0af8`.
fn describe(vmlinux: &Path) -> Result<String> {
    let dir = vmlinux.parent().context("a kernel in no directory")?;
    let config = fs::read_to_string(dir.join("config"))?;
    let version =
        config.lines().find_map(|line| line.split_once("x86 ")?.1.split_whitespace().next());
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hash = name.rsplit('-').next().unwrap_or_default();
    Ok(format!("{} {hash}", version.unwrap_or("?")))
}

/// Boots of this checkout's brisk, all in one L1.
fn boots(metrics: &[&BootMetric], on: On) -> Result<Vec<Result<Metric>>> {
    let mut programs = Programs::default();
    let cases = metrics
        .iter()
        .map(|metric| {
            let (scenario, step) = metric.find()?;
            let vmm = Vmm::Brisk(programs.get(scenario.features)?);
            Ok(Case { vmm, scenario, step, kernel: None })
        })
        .collect::<Result<Vec<_>>>()?;
    of_cases(metrics, &cases, on)
}

/// The metrics of cases.
///
/// # Errors
/// The lab failed.
pub fn of_cases(metrics: &[&BootMetric], cases: &[Case], on: On) -> Result<Vec<Result<Metric>>> {
    let boots = cases::run(cases, RUNS, on, "")?;
    let all = metrics.iter().zip(cases).zip(boots);
    Ok(all
        .map(|((metric, case), boots)| {
            let control = metric.control(case.scenario, case.step);
            Metric::of_boots(&boots?, &control).context("no boots")
        })
        .collect())
}

/// The programs that were built, by their features.
#[derive(Default)]
struct Programs {
    built: BTreeMap<&'static [&'static str], PathBuf>,
}

impl Programs {
    fn get(&mut self, features: &'static [&'static str]) -> Result<PathBuf> {
        if let Some(path) = self.built.get(features) {
            return Ok(path.clone());
        }
        let path = build::program(Some(features))?;
        self.built.insert(features, path.clone());
        Ok(path)
    }
}

/// A boot that is tried again when it stalls, with L1 or alone.
fn stubborn(metric: &BootMetric, on: On) -> Result<Metric> {
    let mut tries = 1;
    loop {
        let found =
            boots(&[metric], on).and_then(|found| found.into_iter().next().context("none")?);
        match found {
            Ok(metric) => return Ok(metric),
            Err(e) if tries == TRIES => return Err(e),
            Err(e) => eprintln!("xtask: metrics: {}, try {tries}: {e:#}", metric.name),
        }
        tries += 1;
    }
}

/// What brisk does before the guest runs, in the talk's last step.
fn until_first_instruction(line: &mut Line, on: On) -> Result<()> {
    let metric = super::suite::find("boot_time_pmem_hugepages_ms")?;
    let (scenario, step) = metric.find()?;
    // The kernel says where the guest is, and brisk when the steps end.
    let features = [scenario.features, &["boot-timer"]].concat();
    let vmm = Vmm::Brisk(build::program(Some(&features))?);
    let sums = cases::setup(Case { vmm, scenario, step, kernel: None }, on)?;
    let control = metric.control(scenario, step);
    for (name, unit, value) in [
        ("system_calls_until_first_instruction", "calls", sums.calls),
        ("page_faults_until_first_instruction", "faults", sums.user_faults + sums.kernel_faults),
    ] {
        let metric = Metric::single(unit, Better::Less, value as f64, &control);
        line.metrics.insert(name.to_owned(), metric);
    }
    Ok(())
}

/// A guest that goes on from a snapshot, until its first mark.
fn restores(line: &mut Line) -> Result<()> {
    let rows = RESTORES.map(|(_, row)| row);
    let report = bench::restore::measure_only(&rows, RUNS + 1)?;
    for (name, wanted) in RESTORES {
        let row = report.rows.iter().find(|row| row.step.as_deref() == Some(wanted));
        let control = "128 MiB, 1 vCPU, micro kernel, EROFS on pmem".to_owned();
        let metric = Metric { control, ..Metric::of_row(row.context(name)?) };
        line.metrics.insert(name.to_owned(), metric);
    }
    Ok(())
}

/// Bytes of the scenarios' static binaries; if not all, of the smallest and the talk's last step.
fn binaries(line: &mut Line, extent: Extent) -> Result<()> {
    let target_dir = paths::target()?;
    for scenario in shipped::table() {
        if extent != Extent::Full && !["function", "pmem-hugepages"].contains(&&*scenario.name) {
            continue;
        }
        let order = build::Order {
            source: paths::workspace(),
            target_dir: &target_dir,
            scenario: &scenario,
            libc: build::Libc::Musl,
            target: build::TARGET,
        };
        let bytes = build::make(&order)?.program.len();
        let metric =
            Metric::single("bytes", Better::Less, bytes as f64, &scenario.features.join(","));
        line.metrics.insert(format!("binary_bytes_{}", scenario.name.replace('-', "_")), metric);
    }
    Ok(())
}

/// What fio says of brisk's disk, at 32 requests at a time: metrics whose names begin with `prefix`.
fn disk(line: &mut Line, report: &bench::fio::Report, prefix: &str, queues: &str) {
    for row in report
        .rows
        .iter()
        .filter(|row| row.vmm == "brisk" && row.engine == "sync" && row.depth == 32)
    {
        let name = match &*row.job {
            "read" => "read",
            "randread" => "random_read",
            "write" => "write",
            "randwrite" => "random_write",
            _ => continue,
        };
        let control = format!("256 MiB, {queues}, guest kernel, raw image on tmpfs, engine=sync");
        let per_second = row.per_ms * 1000.0;
        let rate = |unit, value: f64| Metric::single(unit, Better::More, value, &control);
        line.metrics.insert(format!("{prefix}_{name}_IOPS"), rate("1/s", per_second.round()));
        let mib = (per_second * 4096.0 / f64::from(1 << 20) * 100.0).round() / 100.0;
        line.metrics.insert(format!("{prefix}_{name}_MiBps"), rate("MiB/s", mib));
    }
}

/// The line as a table for people.
pub fn render(line: &Line) -> String {
    use tabled::builder::Builder;
    let mut table = Builder::default();
    table.push_record(["metric", "value", "unit", "set-up", "guest", "host", "exits"]);
    for (name, metric) in &line.metrics {
        let value = metric.value().map_or_else(|| "-".to_owned(), number);
        let mut cells = vec![name.clone(), value, metric.unit.clone()];
        match metric.parts {
            Some(parts) => {
                cells.extend(parts.map(|part| format!("{part:.2}")));
                cells.push(metric.count().to_string());
            }
            None => cells.extend([const { String::new() }; 4]),
        }
        table.push_record(cells);
    }
    format!(
        "{} of {}, clock {}, kernels {}\n\n{}\n",
        line.vmm,
        line.version,
        line.clock,
        line.kernels.iter().map(|(name, is)| format!("{name} {is}")).collect::<Vec<_>>().join(", "),
        bench::finish(table)
    )
}

/// A value with as many digits as it deserves.
pub fn number(value: f64) -> String {
    if value == value.trunc() { format!("{value}") } else { format!("{value:.2}") }
}

/// The metrics that a name and the kernel of a case need, for those who measure elsewhere.
///
/// # Errors
/// A kernel of Debian's cannot be replaced.
pub fn config_of(metric: &BootMetric) -> Result<kernel::Config> {
    let (scenario, _) = metric.find()?;
    match scenario.kernel {
        Kernel::Own(config) => Ok(config),
        _ => bail!("{}: its kernel is Debian's, as packed", metric.name),
    }
}
