//! `cargo xtask bench --fio-smp PROGRAM`: requests of several vCPUs at once, each with a queue of its
//! own, this brisk beside another one. In the lab's fast mode, whose L1 has two CPUs: its clock is no
//! stopwatch, so what counts is the ratio of two runs one after the other.

use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tabled::builder::Builder;

use super::{REQUEST, image, table};
use crate::cache::Cache;
use crate::guest::kernel;
use crate::lab::{self, path_in_l1, quote};
use crate::{build, debian};

/// What `PROGRAM` has to be built with too.
const FEATURES: &[&str] = &["console", "block", "io-uring", "smp"];
/// vCPUs of a guest; as many jobs of fio's run, twice.
const CPUS: [u32; 2] = [2, 4];
const ENGINES: [&str; 2] = ["sync", "io_uring"];
/// Where the disk is: in L1's memory, and behind 9p, where each request waits.
const PLACES: [(&str, &str); 2] = [("memory", "/tmp/fio"), ("9p", "/tmp/out")];
const WHO: [&str; 2] = ["before", "after"];
/// Seconds after which a guest is given up: one of more vCPUs than L1 has hangs now and then.
const LIMIT: u32 = 100;

/// What a job of one guest came to, in requests a millisecond.
#[derive(Debug, PartialEq)]
struct Row {
    /// Of which pair.
    run: u32,
    guest: String,
    job: String,
    per_ms: f64,
}

/// Measures `runs` pairs of each guest, `before` beside the source as it is, and returns the table.
///
/// # Errors
/// Something could not be built, or a job did not run.
pub fn measure(before: &Path, runs: u32) -> Result<String> {
    debian::ensure(&debian::ALL)?;
    let cache = Cache::open()?;
    let kernel = kernel::ensure(&cache, kernel::Config::MicroSmp)?.vmlinux;
    let root = image::ensure(&cache)?;
    let after = build::program(Some(FEATURES))?;
    let mut log = String::new();
    let groups = runs as usize * CPUS.len() * ENGINES.len();
    let mut step = crate::ui::Step::counted("fio in the lab", groups as u64);
    let guests = (PLACES.len() * WHO.len()) as u32;
    for run in 0..runs {
        for (cpus, engine) in CPUS.iter().flat_map(|cpus| ENGINES.map(|engine| (*cpus, engine))) {
            // Each of its own, as L1's kernel panics in this now and then.
            let job = lab::Job {
                mode: lab::Mode::Fast,
                script: script([before, &after, &kernel, &root], run, cpus, engine),
                timeout: Duration::from_secs(u64::from(120 + guests * LIMIT)),
                ..lab::Job::default()
            };
            match lab::run_again(&job) {
                Ok(output) => {
                    ensure!(output.status == 0, "the script failed in L1:\n{}", output.console);
                    log += &fs::read_to_string(output.dir.join("log")).context("no log")?;
                }
                Err(end) => eprintln!("xtask: bench: {cpus} vCPUs, {engine}: {end:#}"),
            }
            step.tick();
        }
    }
    step.done();
    render(&parse(&log)?)
}

fn script(files: [&Path; 4], run: u32, cpus: u32, engine: &str) -> String {
    let mut text = String::from("set -u; dir=/tmp/fio; mkdir $dir || exit 1\n");
    for (from, to) in files.iter().zip(["before", "after", "vmlinux", "root.raw"]) {
        let from = quote(&path_in_l1(from).to_string_lossy());
        let _ = writeln!(text, "cp {from} $dir/{to} || exit 1");
    }
    for (_, place) in PLACES {
        let _ = writeln!(text, "dd if=/dev/zero of={place}/data.raw bs=1M count=8 2> /dev/null");
    }
    let line = "root=/dev/vda rootfstype=erofs init=/sbin/init console=hvc0 quiet fio_disk=vdb";
    for (name, place) in PLACES {
        for who in WHO {
            let _ = writeln!(
                text,
                "timeout {LIMIT} $dir/{who} --kernel $dir/vmlinux --cpus boot={cpus} \
                 --disk path=$dir/root.raw,readonly=on --disk path={place}/data.raw,engine={engine} \
                 --memory size=256M --cmdline '{line} fio_smp={jobs}' --console file=$dir/console \
                 < /dev/null > $dir/said 2>&1\n\
                 {{ echo '#{who} {run} {cpus},{engine},{name}'; cat $dir/said $dir/console; }} \
                 >> /tmp/out/log",
                jobs = cpus * 2
            );
        }
    }
    text
}

/// fio's lines, as [`super::parse`] has them, of the guests whose names are before.
fn parse(log: &str) -> Result<Vec<(&str, Row)>> {
    let mut rows = Vec::new();
    let (mut who, mut run, mut guest) = ("", 0, "");
    for line in log.lines() {
        if let Some(name) = line.strip_prefix('#') {
            let mut name = name.splitn(3, ' ');
            who = name.next().unwrap_or_default();
            run = name.next().and_then(|run| run.parse().ok()).context("no pair's number")?;
            guest = name.next().context("no guest's name")?;
        } else if line.starts_with("3;fio-") {
            let fields: Vec<&str> = line.trim_end().split(';').collect();
            let number = |at: usize| -> Result<u64> {
                fields.get(at).and_then(|text| text.parse().ok()).context("not fio's line")
            };
            let (kib, ms) = (number(5)? + number(46)?, number(8)? + number(49)?);
            ensure!(number(4)? == 0 && ms > 0, "{guest}: {line}");
            let per_ms = (kib * 1024 / REQUEST) as f64 / ms as f64;
            let job = fields[2].split('-').next().unwrap_or_default().to_owned();
            rows.push((who, Row { run, guest: guest.to_owned(), job, per_ms }));
        }
    }
    Ok(rows)
}

/// For each guest and job the medians, and that of the pairs' ratios.
fn render(rows: &[(&str, Row)]) -> Result<String> {
    let mut builder = Builder::default();
    builder.push_record(["vCPUs, engine, disk", "job", "before", "after", "ratio", "pairs"]);
    let mut seen: Vec<(&str, &str)> = Vec::new();
    let mut measured = false;
    for (_, row) in rows {
        let key = (&*row.guest, &*row.job);
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let of = |who: &str, run: u32| {
            let same = |(by, row): &&(&str, Row)| {
                (*by, row.run) == (who, run) && (&*row.guest, &*row.job) == key
            };
            rows.iter().find(same).map(|(_, row)| row.per_ms)
        };
        // One that was given up has no line.
        let last = rows.iter().map(|(_, row)| row.run).max().unwrap_or_default();
        let pairs = (0..=last).filter_map(|run| of(WHO[0], run).zip(of(WHO[1], run)));
        let (before, after): (Vec<f64>, Vec<f64>) = pairs.unzip();
        measured |= !before.is_empty();
        let ratios: Vec<f64> = before.iter().zip(&after).map(|(b, a)| a / b).collect();
        let cells = [&before, &after, &ratios].map(|values| match values.is_empty() {
            true => "–".to_owned(),
            false => format!("{:.2}", median(values)),
        });
        let [before, after, ratio] = cells;
        builder.push_record([key.0, key.1, &before, &after, &ratio, &ratios.len().to_string()]);
    }
    ensure!(measured, "no guest came to its end both before and after");
    Ok(format!(
        "fio: psync in two threads a vCPU, direct=1, 4 KiB; requests a millisecond, medians\n\n{}\n",
        table::finish(builder)
    ))
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(job: &str, ms: u64) -> String {
        let mut fields = vec!["0".to_owned(); 121];
        (fields[0], fields[1], fields[2]) = ("3".into(), "fio-3.33".into(), job.into());
        (fields[5], fields[8]) = ("8192".into(), ms.to_string());
        fields.join(";") + "\r\n"
    }

    #[test]
    fn pairs_come_to_a_ratio() {
        let mut log = String::new();
        for (run, before, after) in [(0, 200, 100), (1, 300, 100), (2, 400, 100)] {
            for (who, ms) in [("before", before), ("after", after)] {
                let _ = write!(log, "#{who} {run} 2,sync,memory\n{}", line("randread-4", ms));
            }
        }
        let text = render(&parse(&log).unwrap()).unwrap();
        let row: Vec<&str> = text.lines().last().unwrap().split('|').map(str::trim).collect();
        assert_eq!(row[1..7], ["2,sync,memory", "randread", "6.83", "20.48", "3.00", "3"]);
        // One of a pair hung: that pair does not count, and the others are told apart still.
        let odd = log.replacen("#after 1 2,sync,memory\n3;", "#after 1 2,sync,memory\n", 1);
        let text = render(&parse(&odd).unwrap()).unwrap();
        let row: Vec<&str> = text.lines().last().unwrap().split('|').map(str::trim).collect();
        assert_eq!(row[5..7], ["3.00", "2"]);
        let none = log.split_once("#after").unwrap().0;
        assert!(render(&parse(none).unwrap()).unwrap_err().to_string().contains("its end"));
        // Of one guest of several no pair came: the others count.
        let other = none.replace("2,sync", "4,sync") + &log;
        let text = render(&parse(&other).unwrap()).unwrap();
        let row: Vec<&str> = text.lines().nth(4).unwrap().split('|').map(str::trim).collect();
        assert_eq!(row[1..7], ["4,sync,memory", "randread", "–", "–", "–", "0"]);
        assert!(parse("3;fio-3.33;x;0;0").is_err());
    }

    #[test]
    fn shells_understand_it() {
        let text = script([Path::new("/tmp/it's"); 4], 2, 4, "sync");
        assert_eq!(text.matches(" --cpus boot=4 ").count(), 2 * 2);
        let check = std::process::Command::new("sh").args(["-n", "-c", &text]).status();
        assert!(check.unwrap().success(), "{text}");
    }
}
