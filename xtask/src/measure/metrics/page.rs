//! `cargo xtask metrics page`: the history as one HTML file, which loads nothing from elsewhere.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use duct::cmd;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::check::{self, Verdict};
use super::history::{self, Better, Line, METRICS, Metric};
use super::{edivisive, noise, suite};
use crate::cache::{Cache, Inputs};
use crate::debian;

/// Write the page of trends: one HTML file.
#[derive(FromArgs)]
#[argh(subcommand, name = "page")]
pub struct Args {
    /// directory for index.html (default target/metrics)
    #[argh(option)]
    out: Option<PathBuf>,
    /// the history (default xtask/measured/history.jsonl)
    #[argh(option, default = "history::path()")]
    history: PathBuf,
    /// a file for a picture of it too, as a PNG, by Chromium
    #[argh(option)]
    picture: Option<PathBuf>,
}

/// The library that draws the charts, as npm has it.
const UPLOT: &str = "uplot@1.6.32";

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The steps of the talk's chart.
const TALK: [(&str, &str); 5] = [
    ("boot_time_talk_serial_ms", "serial"),
    ("boot_time_talk_console_ms", "virtio-console"),
    ("boot_time_talk_quiet_ms", "quiet"),
    ("boot_time_pmem_ms", "pmem"),
    ("boot_time_pmem_hugepages_ms", "2 MiB pages"),
];

/// All that the page shows.
#[derive(Serialize)]
struct Data {
    metrics: Vec<Series>,
    talk: Vec<Bar>,
}

/// A metric on one clock.
#[derive(Serialize)]
struct Series {
    name: String,
    clock: String,
    about: String,
    unit: String,
    /// `less` or `more`.
    better: Better,
    control: String,
    points: Vec<Point>,
    changes: Vec<Change>,
    peers: Vec<Peer>,
}

/// What was measured of one commit.
#[derive(Serialize)]
struct Point {
    commit: String,
    subject: String,
    date: String,
    kernel: String,
    value: f64,
    low: f64,
    high: f64,
    parts: Option<[f64; 3]>,
    exits: Option<u64>,
}

/// A change between a point and the one before.
#[derive(Serialize)]
struct Change {
    /// The point after it.
    at: usize,
    before: f64,
    after: f64,
    percent: f64,
    /// `worse` or `better`.
    verdict: &'static str,
    parts: String,
}

/// Another VMM's newest figure.
#[derive(Serialize, Clone)]
struct Peer {
    name: String,
    version: String,
    value: f64,
}

/// A step of the talk.
#[derive(Serialize)]
struct Bar {
    step: &'static str,
    ms: f64,
    exits: u64,
}

/// Runs the task.
///
/// # Errors
/// The history cannot be read, or npm does not give the library.
pub fn run(args: &Args) -> Result<ExitCode> {
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => crate::paths::target()?.join("metrics"),
    };
    let page = write(&std::path::absolute(out)?, &history::read(&args.history)?)?;
    println!("{}", page.display());
    if let Some(picture) = &args.picture {
        debian::ensure(&["chromium"])?;
        let picture = std::path::absolute(picture)?;
        browse(&page, &["--window-size=1000,1000"], false, Some(&picture))?;
        println!("{}", picture.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn write(out: &Path, lines: &[Line]) -> Result<PathBuf> {
    let page = render(&data(lines), &library(&Cache::open()?)?)?;
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let path = out.join("index.html");
    fs::write(&path, page).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// The library's script and style.
fn library(cache: &Cache) -> Result<[String; 2]> {
    let dir = cache.artifact("uplot", &Inputs::new().with("package", UPLOT), |work, out| {
        if cmd!("npm", "--version").stdout_null().stderr_null().run().is_err() {
            debian::ensure(&["npm"])?;
        }
        cmd!("npm", "pack", "--silent", UPLOT).dir(work).stdout_null().run().context("npm pack")?;
        let archive = format!("{}.tgz", UPLOT.replace('@', "-"));
        cmd!("tar", "-xzf", &archive).dir(work).run().context("tar")?;
        for name in ["uPlot.iife.min.js", "uPlot.min.css"] {
            fs::copy(work.join("package/dist").join(name), out.join(name)).context(name)?;
        }
        fs::copy(work.join("package/LICENSE"), out.join("LICENSE")).context("LICENSE")?;
        Ok(())
    })?;
    let read = |name: &str| fs::read_to_string(dir.join(name)).with_context(|| name.to_owned());
    let licence = read("LICENSE")?;
    Ok([format!("/* uPlot\n{licence}*/\n{}", read("uPlot.iife.min.js")?), read("uPlot.min.css")?])
}

/// The page. Nothing in the data can end the script that holds it.
fn render(data: &Data, [script, style]: &[String; 2]) -> Result<String> {
    let json = serde_json::to_string(data)?.replace('<', "\\u003c");
    let mut text = TEMPLATE.to_owned();
    for (mark, content) in [
        ("/*STYLE*/", format!("{style}\n{STYLE}")),
        ("/*LIBRARY*/", script.clone()),
        ("/*DATA*/", json),
        ("/*SCRIPT*/", SCRIPT.to_owned()),
    ] {
        let (before, after) = text.split_once(mark).with_context(|| format!("no {mark}"))?;
        text = format!("{before}{content}{after}");
    }
    Ok(text)
}

fn data(lines: &[Line]) -> Data {
    // Peers' and users' lines are of their own kind.
    let ours: Vec<&Line> = lines
        .iter()
        .filter(|line| line.vmm == "brisk" && history::has_trends(&line.suite))
        .collect();
    let mut keys: Vec<(String, String, String)> = Vec::new();
    for line in &ours {
        for name in line.metrics.keys() {
            let key = (line.suite.clone(), line.clock.clone(), name.clone());
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    let rank = |name: &str| suite::BOOTS.iter().position(|metric| metric.name == name);
    keys.sort_by_key(|(suite, clock, name)| {
        (suite != METRICS, clock != "lab", rank(name).unwrap_or(usize::MAX), name.clone())
    });
    let metrics = keys.iter().filter_map(|key| series(lines, &ours, key)).collect();
    let newest = |name: &str| {
        let mut of = ours.iter().rev().filter(|line| line.clock == "lab" && line.suite == METRICS);
        of.find_map(|line| line.metrics.get(name))
    };
    let bar = |(name, step): &(&str, &'static str)| {
        let metric = newest(name)?;
        Some(Bar { step, ms: metric.value()?, exits: metric.count() })
    };
    Data { metrics, talk: TALK.iter().filter_map(bar).collect() }
}

fn series(
    lines: &[Line],
    ours: &[&Line],
    (suite, clock, name): &(String, String, String),
) -> Option<Series> {
    let of: Vec<(&Line, &Metric)> = ours
        .iter()
        .filter(|line| line.suite == *suite && line.clock == *clock)
        .filter_map(|line| Some((*line, line.metrics.get(name)?)))
        .collect();
    let (last, newest) = of.last()?;
    let floor = match newest.is_exact() {
        true => 0.0,
        false => noise::floors(lines, last).get(name).copied().unwrap_or(noise::UNKNOWN),
    };
    let points: Vec<Point> = of.iter().filter_map(|(line, metric)| point(line, metric)).collect();
    Some(Series {
        name: name.clone(),
        clock: clock.clone(),
        about: suite::about(name).to_owned(),
        unit: newest.unit.clone(),
        better: newest.better,
        control: newest.control.clone(),
        changes: changes(&of, clock, floor),
        points,
        peers: peers(lines, clock, name),
    })
}

fn point(line: &Line, metric: &Metric) -> Option<Point> {
    let kernels: BTreeSet<&String> = line.kernels.values().collect();
    let used =
        line.kernels.iter().find(|(name, _)| metric.control.contains(&format!("{name} kernel")));
    let kernel = used.map(|(name, is)| format!("{name} {is}"));
    let kernel = kernel.or_else(|| kernels.first().map(|is| (*is).clone()));
    Some(Point {
        commit: line.version.clone() + if line.changed { "+" } else { "" },
        subject: line.subject.clone(),
        date: line.date.clone(),
        kernel: kernel.unwrap_or_default(),
        value: metric.value()?,
        low: metric.s.iter().copied().reduce(f64::min)?,
        high: metric.s.iter().copied().reduce(f64::max)?,
        parts: metric.parts,
        exits: (!metric.exits.is_empty()).then(|| metric.count()),
    })
}

/// Changes from one point to the next: on the instruction clock those beyond the noise, elsewhere what
/// E-divisive finds among the samples.
fn changes(of: &[(&Line, &Metric)], clock: &str, floor: f64) -> Vec<Change> {
    // As `metrics check` compares them, whose floor it is.
    let values: Vec<f64> = of.iter().map(|(_, metric)| metric.best().unwrap_or_default()).collect();
    let mut found = Vec::new();
    let mut add = |at: usize, before: f64, after: f64| {
        let ((_, old), (_, new)) = (of[at - 1], of[at]);
        let verdict = match check::judge(before, after, floor, new.better) {
            Verdict::Worse => "worse",
            Verdict::Better => "better",
            Verdict::Same | Verdict::CannotTell => return,
        };
        let percent = if before == 0.0 { 0.0 } else { (after / before - 1.0) * 100.0 };
        found.push(Change { at, before, after, percent, verdict, parts: check::parts(old, new) });
    };
    if clock == "lab" {
        for at in 1..values.len() {
            // With another kernel it is another series.
            if of[at].0.comparable(of[at - 1].0) {
                add(at, values[at - 1], values[at]);
            }
        }
        return found;
    }
    let owners: Vec<usize> = of
        .iter()
        .enumerate()
        .flat_map(|(index, (_, metric))| vec![index; metric.s.len()])
        .collect();
    let samples: Vec<f64> = of.iter().flat_map(|(_, metric)| metric.s.clone()).collect();
    for change in edivisive::changes(&samples) {
        if let Some(&at) = owners.get(change.index).filter(|at| **at > 0) {
            add(at, change.before, change.after);
        }
    }
    found
}

/// The newest figure of each other VMM.
fn peers(lines: &[Line], clock: &str, name: &str) -> Vec<Peer> {
    let mut found: BTreeMap<&str, Peer> = BTreeMap::new();
    for line in lines.iter().filter(|l| l.vmm != "brisk" && l.suite == METRICS && l.clock == clock)
    {
        if let Some(value) = line.metrics.get(name).and_then(Metric::value) {
            let (name, version) = (line.vmm.clone(), line.version.clone());
            found.insert(&line.vmm, Peer { name, version, value });
        }
    }
    found.into_values().collect()
}

/// Draws the page of a history with known changes in Chromium: no error on its console, the right
/// values under the pointer and by the keyboard, everything in the dark and on a phone. The screenshots
/// stay in `target/metrics`.
///
/// # Errors
/// It is not so.
pub fn proof() -> Result<u32> {
    debian::ensure(&["chromium"])?;
    let out = crate::paths::target()?.join("metrics");
    let page = write(&out, &history::read(&history::path())?)?;
    let text = fs::read_to_string(&page)?;
    ensure!(!text.contains("src=\"http") && !text.contains("@import"), "the page loads something");
    for (name, size, dark) in
        [("light", "1280,1600", false), ("dark", "1280,1600", true), ("phone", "412,900", false)]
    {
        let (dom, console) = browse(
            &page,
            &[&format!("--window-size={size}")],
            dark,
            Some(&out.join(format!("{name}.png"))),
        )?;
        ensure!(console.is_empty(), "{name}: the console says:\n{console}");
        ensure!(dom.contains("uplot"), "{name}: nothing is drawn");
    }
    // The same page, with somebody at the pointer and the keyboard.
    let tried = out.join("tried.html");
    let script = format!("<script>{}</script>\n</body>", include_str!("page/tried.js"));
    fs::write(&tried, text.replace("</body>", &script))?;
    let mut count = 3;
    for size in ["1280,1600", "500,900"] {
        let (dom, console) = browse(&tried, &[&format!("--window-size={size}")], false, None)?;
        ensure!(console.is_empty(), "the console says:\n{console}");
        let (_, rest) = dom.split_once("<pre id=\"tried\">").context("the trial did not end")?;
        let (said, _) = rest.split_once("</pre>").context("the trial did not end")?;
        println!("{size}\n{said}");
        let good = said.lines().filter(|line| line.starts_with("ok ")).count();
        ensure!(!said.contains("not ok") && good >= 12, "the trial:\n{said}");
        count += u32::try_from(good)?;
    }
    fs::remove_file(&tried)?;
    Ok(count)
}

/// Opens a page in Chromium. Returns its DOM, and what was said on its console.
fn browse(page: &Path, more: &[&str], dark: bool, shot: Option<&Path>) -> Result<(String, String)> {
    let profile = tempfile::tempdir()?;
    let mut words = vec![
        "--headless=new".to_owned(),
        "--no-sandbox".to_owned(),
        "--disable-gpu".to_owned(),
        "--hide-scrollbars".to_owned(),
        "--enable-logging=stderr".to_owned(),
        "--virtual-time-budget=8000".to_owned(),
        format!("--user-data-dir={}", profile.path().display()),
    ];
    words.extend(more.iter().map(|&word| word.to_owned()));
    words.push(match shot {
        Some(path) => format!("--screenshot={}", path.display()),
        None => "--dump-dom".to_owned(),
    });
    let theme = if dark { "?theme=dark" } else { "?theme=light" };
    words.push(format!("file://{}{theme}", page.display()));
    let run = |words: &[String]| {
        let command = cmd("chromium", words).stdin_null().stdout_capture().stderr_capture();
        command.unchecked().run().context("cannot run chromium")
    };
    let output = run(&words)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let console: Vec<&str> = said.lines().filter(|line| line.contains(":CONSOLE")).collect();
    let mut dom = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(path) = shot {
        ensure!(path.is_file(), "no screenshot:\n{said}");
        let last = words.len() - 2;
        words[last] = "--dump-dom".to_owned();
        dom = String::from_utf8_lossy(&run(&words)?.stdout).into_owned();
    }
    Ok((dom, console.join("\n")))
}

#[cfg(test)]
mod tests;
