//! Proofs that take long: `cargo xtask test --full` has them.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use duct::cmd;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::blame::{self, Side};
use super::check::{self, Verdict};
use super::edivisive;
use super::history::{self, Line, METRICS, Metric, median};
use super::revision::{Checkout, git};
use super::{collect, noise, page, suite};
use crate::build::source;
use crate::cache::Cache;
use crate::guest::kernel;
use crate::lab::On;
use crate::measure::bench::cases::{Case, Vmm};
use crate::{debian, paths};

/// Prove one of: otava (change points are Apache Otava's), page (in a browser), noise (A against A), brisk
/// and kernel (a planted commit is blamed).
#[derive(FromArgs)]
#[argh(subcommand, name = "prove")]
pub struct Args {
    /// which
    #[argh(positional)]
    what: String,
}

/// A proof, which returns how much was proven.
pub type Proof = fn() -> Result<u32>;

/// All, with what `cargo xtask test --full` calls them.
pub const ALL: &[(&str, &str, Proof)] = &[
    ("otava", "metrics: change points are Apache Otava's", otava),
    ("page", "metrics: the page in a browser", page::proof),
    ("noise", "metrics: A against A, and half a per cent", alarms),
    ("brisk", "metrics: two commits of brisk are blamed", brisk),
    ("kernel", "metrics: a commit of the kernel is blamed", kernel),
];

/// Runs the task.
///
/// # Errors
/// There is no such proof, or it fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    let found = ALL.iter().find(|(name, ..)| *name == args.what);
    let names = || ALL.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
    let (_, about, proof) =
        found.with_context(|| format!("{}: there are {}", args.what, names()))?;
    let count = proof()?;
    println!("{about}: {count} proven");
    Ok(ExitCode::SUCCESS)
}

/// Commits to a repository as nobody, at a time that is always the same.
fn commit(dir: &Path, subject: &str) -> Result<String> {
    git(dir, &["add", "--all", "--force"])?;
    let user = [
        "-c",
        "user.name=proof",
        "-c",
        "user.email=proof@example.org",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "gc.auto=0",
    ];
    git(
        dir,
        &[&user[..], &["commit", "--quiet", "--no-verify", "--allow-empty", "-m", subject]]
            .concat(),
    )?;
    git(dir, &["rev-parse", "HEAD"])
}

/// Replaces a text in a file, which has it.
fn replace(path: &Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    ensure!(text.contains(from), "{}: no {from} in it; fix this test", path.display());
    fs::write(path, text.replace(from, to)).with_context(|| path.display().to_string())
}

/// The file below `dir` that has a text.
fn file_with(dir: &Path, text: &str) -> Result<std::path::PathBuf> {
    let list =
        cmd!("grep", "--recursive", "--files-with-matches", "--fixed-strings", text, dir).read();
    let list = list.with_context(|| format!("no file has {text}; fix this test"))?;
    Ok(list.lines().next().unwrap_or_default().into())
}

fn append(path: &Path, text: &str) -> Result<()> {
    let old = fs::read_to_string(path)?;
    fs::write(path, old + text).with_context(|| path.display().to_string())
}

/// Ten commits to a copy of brisk. The third makes the guest probe for UARTs that are not there, the
/// seventh takes 0.3 ms before all else, the fifth does not build. Returns these two, and the first and
/// the last.
fn planted(dir: &Path) -> Result<([String; 2], [String; 2])> {
    source::copy(paths::workspace(), dir)?;
    git(dir, &["init", "--quiet"])?;
    let first = commit(dir, "a copy of brisk")?;
    let main = dir.join("src/main.rs");
    let word = "8250.nr_uarts=1";
    let mut found = Vec::new();
    let mut last = String::new();
    for number in 1..=10 {
        let subject = match number {
            3 => {
                replace(&file_with(&dir.join("src"), word)?, word, "8250.nr_uarts=4")?;
                "more UARTs"
            }
            5 => {
                append(&main, "\n// half of a change\nfn broken( {}\n")?;
                "does not build"
            }
            6 => {
                replace(&main, "\n// half of a change\nfn broken( {}\n", "")?;
                "builds again"
            }
            7 => {
                let call = "    brisk::main(";
                let slow = "    for turn in 0..100_000_u32 {\n        std::hint::black_box(turn);\n    }\n";
                replace(&main, call, &format!("{slow}{call}"))?;
                "prepares something"
            }
            // The same binary, by a source that is another.
            1 | 9 => {
                append(&main, &format!("// remark {number}\n"))?;
                "a remark"
            }
            _ => {
                append(&dir.join("README.md"), "\nMore words.\n")?;
                "words"
            }
        };
        last = commit(dir, subject)?;
        if number == 3 || number == 7 {
            found.push(last.clone());
        }
    }
    let [exits, setup] = <[String; 2]>::try_from(found).ok().context("two commits")?;
    Ok(([exits, setup], [first, last]))
}

/// `blame` names each of the two slow commits among ten, on brisk's side.
///
/// # Errors
/// It does not.
pub fn brisk() -> Result<u32> {
    let dir = tempfile::tempdir()?;
    let ([exits, setup], [good, bad]) = planted(dir.path())?;
    for (metric, wanted) in [("boot_time_ms.exits", &exits), ("boot_time_ms.set-up", &setup)] {
        let answer = blame::ask(&blame::Args::new(metric, dir.path(), [&good, &bad], None))?;
        let report = answer.culprits.iter().map(|c| c.report.as_str()).collect::<String>();
        println!("{metric}\n{}{report}", answer.head);
        let [culprit] = &answer.culprits[..] else {
            anyhow::bail!("{} culprits", answer.culprits.len())
        };
        ensure!(culprit.side == Side::Vmm, "{metric}: it is brisk's, but: {report}");
        ensure!(culprit.commits == [wanted.clone()], "{metric}: it is {wanted}, but: {report}");
    }
    Ok(2)
}

/// `blame` names a kernel's commit that takes 0.5 ms in an initcall, among eight, on the kernel's side,
/// while brisk has changed too.
///
/// # Errors
/// It does not.
pub fn kernel() -> Result<u32> {
    debian::ensure(&debian::ALL)?;
    let cache = Cache::open()?;
    let dir = cache.root().join("metrics/proof-kernel");
    let (culprit, range) = planted_kernel(&cache, &dir)?;
    let copy = tempfile::tempdir()?;
    source::copy(paths::workspace(), copy.path())?;
    git(copy.path(), &["init", "--quiet"])?;
    let old = commit(copy.path(), "a copy of brisk")?;
    append(&copy.path().join("src/main.rs"), "// a remark\n")?;
    let new = commit(copy.path(), "a remark")?;
    let kernels = Some((dir.as_path(), [range[0].as_str(), range[1].as_str()]));
    let question = blame::Args::new("boot_time_micro_ms", copy.path(), [&old, &new], kernels);
    let answer = blame::ask(&question)?;
    let report = answer.culprits.iter().map(|c| c.report.as_str()).collect::<String>();
    println!("{}{report}", answer.head);
    let [found] = &answer.culprits[..] else { anyhow::bail!("{} culprits", answer.culprits.len()) };
    ensure!(found.side == Side::Kernel, "it is the kernel's, but: {report}");
    ensure!(found.commits == [culprit.clone()], "it is {culprit}, but: {report}");
    Ok(1)
}

/// A repository of the micro kernel's source with eight commits on top, of which the fifth is slow. It
/// is made once.
fn planted_kernel(cache: &Cache, dir: &Path) -> Result<(String, [String; 2])> {
    let _lock = cache.lock("metrics-proof-kernel")?;
    let marks = dir.join(".git/proof.json");
    if let Ok(text) = fs::read(&marks) {
        return serde_json::from_slice(&text).context("the marks of the kernel's proof");
    }
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    kernel::source(dir, kernel::Config::Micro)?;
    git(dir, &["init", "--quiet"])?;
    let first = commit(dir, "linux")?;
    let (mut slow, mut last) = (String::new(), String::new());
    for number in 1..=8 {
        let file = dir.join(["lib/cmdline.c", "lib/sort.c", "lib/ctype.c"][number % 3]);
        if number == 5 {
            // Cycles of the TSC would be of another clock: so many turns of a loop.
            let code = "\nstatic int __init slow_init(void)\n{\n\tint i;\n\n\
                        \tfor (i = 0; i < 250000; i++)\n\t\tasm volatile(\"\" ::: \"memory\");\n\
                        \treturn 0;\n}\ndevice_initcall(slow_init);\n";
            append(&dir.join("init/main.c"), code)?;
            slow = commit(dir, "init: prepare something")?;
            continue;
        }
        append(&file, &format!("/* remark {number} */\n"))?;
        last = commit(dir, "a remark")?;
    }
    let found = (slow, [first, last]);
    fs::write(&marks, serde_json::to_vec(&found)?)?;
    Ok(found)
}

/// Twenty runs of A against A raise no alarm, and a real change by half a per cent does.
///
/// # Errors
/// They do, or it does not.
pub fn alarms() -> Result<u32> {
    let name = "boot_time_pmem_ms";
    let metric = suite::find(name)?;
    let kernels = collect::kernels(collect::Extent::Exact)?;
    let line = |suite: &str, values: Vec<f64>, n| Line {
        v: history::VERSION,
        suite: suite.to_owned(),
        vmm: "brisk".to_owned(),
        clock: "lab".to_owned(),
        n,
        kernels: kernels.clone(),
        metrics: [(name.to_owned(), Metric { s: values, ..Metric::default() })].into(),
        ..Line::default()
    };
    // Both are of the source as it is now.
    let (programs, slower) = (noise::programs(&[metric])?, slower(metric)?);
    let mut values = Vec::new();
    for _ in 0..5 {
        values.extend(noise::once(&[metric], &programs, 4)?.remove(name).context("nothing")?);
    }
    println!("{} runs of A: {values:?}", values.len());
    // The floor is what the history has.
    let recorded = history::read(&history::path())?;
    let mut lines: Vec<Line> = recorded.into_iter().filter(|line| line.suite == "noise").collect();
    ensure!(!lines.is_empty(), "no noise recorded; run: cargo xtask metrics noise");
    for (index, value) in (1..).zip(&values) {
        let new = line(METRICS, vec![*value], index);
        let findings = check::compare(&lines, &new);
        let alarm = findings.iter().find(|f| matches!(f.verdict, Verdict::Worse | Verdict::Better));
        ensure!(alarm.is_none(), "a false alarm at run {index}: {alarm:?} of {values:?}");
        lines.push(new);
    }
    let (workload, step) = metric.find()?;
    let case = Case { vmm: Vmm::Brisk(slower), scenario: workload, step, kernel: None };
    let slow = collect::of_cases(&[metric], &[case], On::Lab)?.pop().context("nothing")??;
    let slow = slow.best().context("no boots")?;
    let middle = median(&values).context("no values")?;
    println!(
        "A by the median {middle:.3}, slower {slow:.3}: {:+.2} %",
        (slow / middle - 1.0) * 100.0
    );
    ensure!((slow / middle - 1.005).abs() < 0.002, "the planted change is not half a per cent");
    let findings = check::compare(&lines, &line(METRICS, vec![slow], 99));
    ensure!(findings[0].verdict == Verdict::Worse, "it was not found: {findings:?}");
    Ok(2)
}

/// A brisk that does half a per cent more.
fn slower(metric: &'static suite::BootMetric) -> Result<PathBuf> {
    let cache = Cache::open()?;
    let dir = tempfile::tempdir()?;
    source::copy(paths::workspace(), dir.path())?;
    git(dir.path(), &["init", "--quiet"])?;
    let call = "    brisk::main(";
    // 4 instructions a turn, for 0.26 of 52 million.
    let slow = "    for turn in 0..65_000_u32 {\n        std::hint::black_box(turn);\n    }\n";
    replace(&dir.path().join("src/main.rs"), call, &format!("{slow}{call}"))?;
    let commit = commit(dir.path(), "slower")?;
    let (scenario, _) = metric.find()?;
    let checkout = Checkout::open(&cache, dir.path())?;
    let super::revision::Built::File(path) = checkout.brisk(&cache, &commit, scenario.features)?
    else {
        anyhow::bail!("the slower brisk does not build")
    };
    Ok(path)
}

/// E-divisive finds what Apache Otava finds, in series with steps and without: the same points by its
/// split, and the same are left by its statistics. Its own merge, as of 0.8.0, leaves the statistics of
/// the point on the left of one that it takes out as they were, so that one is done anew here.
///
/// # Errors
/// It does not, or Otava cannot be had.
pub fn otava() -> Result<u32> {
    debian::ensure(&["python3-venv"])?;
    let cache = Cache::open()?;
    let home = cache.root().join("metrics/otava");
    let python = home.join("bin/python");
    if !home.join("whole").is_file() {
        cmd!("/usr/bin/python3", "-m", "venv", "--clear", &home)
            .run()
            .context("python3 -m venv")?;
        let pip = |words: &[&str]| {
            let head = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
            cmd(&python, [&head[..], words].concat()).run().context("pip install")
        };
        // What its analysis needs, and not its clients of data bases.
        pip(&["numpy==2.2.*", "scipy==1.16.*"])?;
        pip(&["--no-deps", "apache-otava==0.8.0"])?;
        fs::write(home.join("whole"), "")?;
    }
    let series = series();
    let script = include_str!("otava.py");
    let said = cmd!(&python, "-W", "ignore", "-c", script)
        .stdin_bytes(serde_json::to_vec(&series)?)
        .read()
        .context("otava")?;
    let theirs: Vec<[Vec<usize>; 2]> = serde_json::from_str(&said).context("otava's answer")?;
    ensure!(theirs.len() == series.len(), "otava answered {} of {}", theirs.len(), series.len());
    let mut changes = 0;
    for (series, theirs) in series.iter().zip(&theirs) {
        let ours: Vec<usize> =
            edivisive::changes(series).iter().map(|change| change.index).collect();
        let ours = [edivisive::weak(series), ours];
        ensure!(ours == *theirs, "otava finds {theirs:?}, we {ours:?} in {series:?}");
        let [_, ours] = ours;
        changes += ours.len();
    }
    ensure!(
        changes > series.len() / 2,
        "{changes} changes in {} series prove little",
        series.len()
    );
    println!("{} series, {changes} changes, all as otava has them", series.len());
    Ok(u32::try_from(series.len())?)
}

/// Series with 0 to 3 steps, of several lengths and heights.
fn series() -> Vec<Vec<f64>> {
    let mut all = Vec::new();
    for seed in 0..60_u64 {
        let len = 12 + (seed as usize * 7) % 150;
        let mut values = edivisive::bell(seed + 1, len);
        for step in 0..seed as usize % 4 {
            let at = (step + 1) * len / 4;
            let height = if step % 2 == 0 { 1.0 } else { -0.7 } * (1.0 + (seed % 5) as f64);
            values[at..].iter_mut().for_each(|value| *value += height);
        }
        values.iter_mut().for_each(|value| *value += 100.0);
        all.push(values);
    }
    all
}
