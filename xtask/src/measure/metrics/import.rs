//! `cargo xtask metrics import`: a user's own boots, from `--boot-log`, so that a workload can be watched
//! by the same page and the same check.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use duct::cmd;
use indexmap::IndexMap;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use super::history::{self, Line, Metric, VERSION};

/// Add boots of a workload of your own, as --boot-log wrote them, to a history of your own.
#[derive(FromArgs)]
#[argh(subcommand, name = "import")]
pub struct Args {
    /// the workload's name
    #[argh(positional)]
    name: String,
    /// files of --boot-log, a boot each; three or more are better
    #[argh(positional)]
    logs: Vec<PathBuf>,
    /// what was booted: a version of your kernel or image
    #[argh(option)]
    version: String,
    /// a word on what is new in it
    #[argh(option, default = "String::new()")]
    about: String,
    /// the file to append to (default brisk-metrics.jsonl)
    #[argh(option, default = "PathBuf::from(\"brisk-metrics.jsonl\")")]
    history: PathBuf,
}

/// A line of a boot log.
#[derive(Deserialize)]
struct Point {
    name: String,
    #[serde(default)]
    process_us: Option<f64>,
}

/// Runs the task.
///
/// # Errors
/// A file is no boot log, or the history cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(!args.logs.is_empty(), "import: name files of --boot-log after the workload's name");
    let logs = args.logs.iter().map(|path| {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        points(&text).with_context(|| path.display().to_string())
    });
    let logs = logs.collect::<Result<Vec<_>>>()?;
    let known = history::read(&args.history)?;
    let suite = format!("import-{}", args.name);
    let last = known.iter().filter(|line| line.suite == suite).map(|line| line.n).max();
    let date = cmd!("date", "--iso-8601=seconds").read().context("date")?;
    let line = Line {
        v: VERSION,
        suite,
        vmm: "brisk".to_owned(),
        version: args.version.clone(),
        date,
        subject: args.about.clone(),
        n: last.unwrap_or(0) + 1,
        clock: "host".to_owned(),
        metrics: metrics(&args.name, &logs)?,
        ..Line::default()
    };
    history::append(&args.history, &line)?;
    for (name, metric) in &line.metrics {
        println!(
            "{name}: {:.3} ms, median of {}",
            metric.value().unwrap_or_default(),
            metric.s.len()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The first time of each point of a log, in ms since the process started.
fn points(text: &str) -> Result<BTreeMap<String, f64>> {
    let mut found = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let point: Point = serde_json::from_str(line)
            .with_context(|| format!("line {} is not what --boot-log writes", index + 1))?;
        if let Some(time) = point.process_us.filter(|_| point.name != "process-start") {
            found.entry(point.name).or_insert(time / 1000.0);
        }
    }
    ensure!(!found.is_empty(), "no points in it");
    Ok(found)
}

/// A metric for each point that all boots have.
fn metrics(name: &str, logs: &[BTreeMap<String, f64>]) -> Result<IndexMap<String, Metric>> {
    let mut found = IndexMap::new();
    for point in logs.first().into_iter().flat_map(BTreeMap::keys) {
        let samples: Vec<f64> = logs.iter().filter_map(|log| log.get(point).copied()).collect();
        if samples.len() == logs.len() {
            let metric = Metric { s: samples, unit: "ms".to_owned(), ..Metric::default() };
            found.insert(format!("{name}_{}_ms", point.replace('-', "_")), metric);
        }
    }
    ensure!(!found.is_empty(), "the boots have no point in common");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::metrics::check::{self, Verdict};

    fn log(userspace: f64) -> String {
        format!(
            "{{\"name\":\"process-start\",\"process_us\":0.000}}\n\
             {{\"name\":\"userspace\",\"code\":96,\"process_us\":{userspace},\"vm_us\":2000.5}}\n\
             {{\"name\":\"code-0x81\",\"code\":129,\"process_us\":9000.0,\"vm_us\":1.0}}\n\
             {{\"name\":\"dropped\",\"count\":3}}\n"
        )
    }

    #[test]
    fn boots_become_metrics() {
        let logs = [2500.5, 2600.5].map(|time| points(&log(time)).unwrap());
        let found = metrics("api", &logs).unwrap();
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["api_code_0x81_ms", "api_userspace_ms"]);
        assert_eq!(found["api_userspace_ms"].s, [2.5005, 2.6005]);
        assert!(points("no json").unwrap_err().to_string().starts_with("line 1 is not"));
        assert!(points("").is_err());
    }

    #[test]
    fn what_was_imported_is_checked_and_compared_with_its_own_kind() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("history");
        for (run, base) in [1000.0, 1002.0, 999.0, 1500.0].iter().enumerate() {
            let logs: Vec<PathBuf> =
                (0..6).map(|n| dir.path().join(format!("{run}-{n}"))).collect();
            for (n, path) in logs.iter().enumerate() {
                fs::write(path, log(base + [3.0, -2.0, 1.0, 0.0, -4.0, 2.0][n])).unwrap();
            }
            let (version, about) = (format!("v{run}"), String::new());
            run_args(Args { name: "api".into(), logs, version, about, history: file.clone() });
        }
        let mut lines = history::read(&file).unwrap();
        assert_eq!(lines.iter().map(|line| line.n).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let slow = lines.pop().unwrap();
        let verdict = |lines: &[Line], new| {
            let all = check::compare(lines, new);
            all.iter().find(|f| f.name == "api_userspace_ms").unwrap().verdict
        };
        assert_eq!(verdict(&lines, &slow), Verdict::Worse);
        let same = lines.pop().unwrap();
        assert_eq!(verdict(&lines, &same), Verdict::Same);
    }

    fn run_args(args: Args) {
        run(&args).unwrap();
    }
}
