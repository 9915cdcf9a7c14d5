//! `cargo xtask metrics blame METRIC`: whose a change is, brisk's, the kernel's or that of both
//! together, and which commit's.
//!
//! What was built and measured is kept by what went into it, so the same command goes on where it was
//! ended.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use super::check::parts;
use super::collect::{self, number};
use super::history::{self, Line, METRICS, Metric};
use super::noise;
use super::revision::{Checkout, git, short};
use super::suite::BootMetric;
use crate::cache::Cache;
use crate::guest::kernel;
use crate::paths;
use part::Part;

mod pairs;
mod part;

/// Find the commit that changed a metric: of brisk, or of the guest's kernel.
#[derive(FromArgs)]
#[argh(subcommand, name = "blame")]
pub struct Args {
    /// the metric of a boot, or a part of it: NAME, NAME.set-up, NAME.guest, NAME.host, NAME.exits
    #[argh(positional)]
    metric: String,
    /// a commit of brisk before the change
    #[argh(option)]
    good: String,
    /// a commit of brisk after the change
    #[argh(option)]
    bad: String,
    /// brisk's repository (default: this checkout)
    #[argh(option, default = "paths::workspace().to_path_buf()")]
    git: PathBuf,
    /// the guest kernel's repository
    #[argh(option)]
    kernel_git: Option<PathBuf>,
    /// its commit before the change
    #[argh(option)]
    kernel_good: Option<String>,
    /// its commit after the change
    #[argh(option)]
    kernel_bad: Option<String>,
    /// its .config (default: that of the metric's own kernel)
    #[argh(option)]
    kernel_config: Option<PathBuf>,
}

/// One side of the question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// brisk.
    Vmm,
    /// The guest's kernel.
    Kernel,
}

/// Commits of one side.
struct Range {
    checkout: Checkout,
    good: String,
    bad: String,
}

/// The kernel's side.
struct Kernels {
    range: Range,
    config: String,
}

/// The question.
struct Question {
    cache: Cache,
    metric: &'static BootMetric,
    part: Part,
    brisk: Range,
    kernels: Option<Kernels>,
}

/// brisk of a commit with a kernel of a commit, or the metric's own.
#[derive(Clone, PartialEq, Debug)]
struct Pair {
    brisk: String,
    kernel: Option<String>,
}

/// A commit that was found.
#[derive(Debug)]
pub struct Culprit {
    /// Whose it is.
    pub side: Side,
    /// The commit, or several where those between do not build.
    pub commits: Vec<String>,
    /// What is told.
    pub report: String,
}

/// The answer.
pub struct Answer {
    /// What is told of old and new beside one another.
    pub head: String,
    /// A culprit for each side that is to blame.
    pub culprits: Vec<Culprit>,
}

/// Of a change, the least share that makes a side worth a search.
const SHARE: f64 = 0.25;

/// Runs the task.
///
/// # Errors
/// A commit is none, nothing changed between them, or the lab failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let answer = ask(args)?;
    print!("{}", answer.head);
    for culprit in &answer.culprits {
        print!("\n{}", culprit.report);
    }
    Ok(ExitCode::SUCCESS)
}

/// Answers the question.
///
/// # Errors
/// As [`run`].
pub fn ask(args: &Args) -> Result<Answer> {
    let question = Question::new(args)?;
    let (head, sides) = question.sides()?;
    eprint!("{head}");
    let culprits = sides.into_iter().map(|side| question.search(side)).collect::<Result<_>>()?;
    Ok(Answer { head, culprits })
}

impl Args {
    /// For the tests: a question about brisk, or about the kernel if it has a repository.
    pub fn new(
        metric: &str,
        git: &Path,
        range: [&str; 2],
        kernels: Option<(&Path, [&str; 2])>,
    ) -> Self {
        Self {
            metric: metric.to_owned(),
            good: range[0].to_owned(),
            bad: range[1].to_owned(),
            git: git.to_path_buf(),
            kernel_git: kernels.map(|(git, _)| git.to_path_buf()),
            kernel_good: kernels.map(|(_, range)| range[0].to_owned()),
            kernel_bad: kernels.map(|(_, range)| range[1].to_owned()),
            kernel_config: None,
        }
    }
}

impl Question {
    fn new(args: &Args) -> Result<Self> {
        let cache = Cache::open()?;
        let (metric, part) = Part::parse(&args.metric)?;
        let range = |git: &Path, good: &str, bad: &str| -> Result<Range> {
            let checkout = Checkout::open(&cache, git)?;
            let (good, bad) = (checkout.commit(good)?, checkout.commit(bad)?);
            Ok(Range { checkout, good, bad })
        };
        let brisk = range(&args.git, &args.good, &args.bad)?;
        let kernels = match (&args.kernel_git, &args.kernel_good, &args.kernel_bad) {
            (Some(git), Some(good), Some(bad)) => {
                let config = match &args.kernel_config {
                    Some(path) => path.clone(),
                    None => kernel::ensure(&cache, collect::config_of(metric)?)?
                        .vmlinux
                        .with_file_name("config"),
                };
                let config =
                    fs::read_to_string(&config).with_context(|| config.display().to_string())?;
                Some(Kernels { range: range(git, good, bad)?, config })
            }
            (None, None, None) => None,
            _ => bail!("--kernel-git, --kernel-good and --kernel-bad go together"),
        };
        Ok(Self { cache, metric, part, brisk, kernels })
    }

    /// Measures old and new brisk with old and new kernel. Says which side the change is on.
    fn sides(&self) -> Result<(String, Vec<Side>)> {
        let kernels = match &self.kernels {
            Some(kernels) => {
                vec![Some(kernels.range.good.clone()), Some(kernels.range.bad.clone())]
            }
            None => vec![None],
        };
        let mut pairs = Vec::new();
        for kernel in &kernels {
            for brisk in [&self.brisk.good, &self.brisk.bad] {
                pairs.push(Pair { brisk: brisk.clone(), kernel: kernel.clone() });
            }
        }
        let metrics = self.measure(&pairs)?.into_iter().zip(&pairs).map(|(found, pair)| {
            found.map_err(|why| anyhow::anyhow!("{}: {why}", self.name(pair)))
        });
        let metrics = metrics.collect::<Result<Vec<Metric>>>()?;
        let values =
            metrics.iter().map(|metric| self.part.of(metric)).collect::<Result<Vec<f64>>>()?;
        let mut head = format!("{}, {}:\n", self.metric.name, self.part.unit());
        for (pair, value) in pairs.iter().zip(&values) {
            let _ = writeln!(head, "  {:>9}  {}", number(*value), self.name(pair));
        }
        let (Some(first), Some(last)) = (values.first(), values.last()) else { bail!("no values") };
        let total = last - first;
        let floor = self.floor()?;
        ensure!(
            total.abs() > self.part.noise(*first, floor),
            "{head}no change beyond the noise ({floor:.2} %), so nobody is to blame"
        );
        let _ = writeln!(
            head,
            "changed by {total:+.2} {}: {}",
            self.part.unit(),
            parts(&metrics[0], metrics.last().context("no metrics")?)
        );
        let [gg, bg, gb, bb] = values[..] else { return Ok((head, vec![Side::Vmm])) };
        let (vmm, kernel, together) = effects([gg, bg, gb, bb]);
        let _ = writeln!(
            head,
            "of it brisk {vmm:+.2}, the kernel {kernel:+.2}, only both together {together:+.2}"
        );
        let sides = blamed(total, vmm, kernel);
        ensure!(!sides.is_empty(), "{head}neither side alone explains it");
        Ok((head, sides))
    }

    /// Bisects one side, the other being new.
    fn search(&self, side: Side) -> Result<Culprit> {
        let range = self.range(side)?;
        let dir = range.checkout.dir();
        let bisect = |words: &[&str]| git(dir, &[&["bisect"], words].concat());
        let _ = bisect(&["reset"]);
        let ends = [self.pair(side, &range.good)?, self.pair(side, &range.bad)?];
        let ends = self
            .measure(&ends)?
            .into_iter()
            .map(|found| self.part.of(&found.map_err(anyhow::Error::msg)?));
        let ends = ends.collect::<Result<Vec<f64>>>()?;
        let (good, bad) = (ends[0], ends[1]);
        let middle = f64::midpoint(good, bad);
        let mut said = bisect(&["start", "--no-checkout", &range.bad, &range.good])?;
        let (mut steps, since) = (0, Instant::now());
        loop {
            if let Some(found) = finished(&said) {
                let _ = bisect(&["reset"]);
                return self.culprit(side, found);
            }
            let commit = git(dir, &["rev-parse", "--verify", "BISECT_HEAD"])?;
            steps += 1;
            let found = self.measure(&[self.pair(side, &commit)?])?.pop().context("nothing")?;
            let (word, value) = match &found {
                Ok(metric) => {
                    let value = self.part.of(metric)?;
                    let is_bad = (value > middle) == (bad > good);
                    (if is_bad { "bad" } else { "good" }, number(value))
                }
                Err(why) => ("skip", why.lines().next().unwrap_or_default().to_owned()),
            };
            said = bisect(&[word, &commit])?;
            let spent = since.elapsed().as_secs();
            let left = left(&said);
            let time = left.map_or_else(String::new, |left| {
                format!("; {left} more, about {} min", spent * left / steps / 60)
            });
            eprintln!("step {steps}, {spent} s: {} {word} ({value}){time}", short(&commit));
        }
    }

    /// Measures the culprit and its parent once more, and tells of it.
    fn culprit(&self, side: Side, commits: Vec<String>) -> Result<Culprit> {
        let range = self.range(side)?;
        let show = |commit: &str| {
            git(range.checkout.repository(), &["show", "-s", "--format=%h %s", commit])
        };
        let whose = match side {
            Side::Vmm => "brisk",
            Side::Kernel => "the guest's kernel",
        };
        let [commit] = &commits[..] else {
            let mut report =
                format!("one of these commits of {whose}, of which some do not build:\n");
            for commit in &commits {
                let _ = writeln!(report, "  {}", show(commit)?);
            }
            return Ok(Culprit { side, commits, report });
        };
        let mut report = format!("the commit is of {whose}: {}\n", show(commit)?);
        let parent =
            git(range.checkout.repository(), &["rev-parse", "--verify", &format!("{commit}^")])?;
        let pairs = [self.pair(side, &parent)?, self.pair(side, commit)?];
        let found = self.fresh(&pairs)?;
        match &found[..] {
            [Ok(before), Ok(after)] => {
                let (was, is) = (self.part.of(before)?, self.part.of(after)?);
                let unit = self.part.unit();
                let _ = writeln!(
                    report,
                    "measured once more: {} to {} {unit}, {:+.2} %: {}",
                    number(was),
                    number(is),
                    if was == 0.0 { 0.0 } else { (is / was - 1.0) * 100.0 },
                    parts(before, after)
                );
            }
            _ => report += "its parent does not build, so it was not measured once more\n",
        }
        Ok(Culprit { side, commits, report })
    }

    fn range(&self, side: Side) -> Result<&Range> {
        match side {
            Side::Vmm => Ok(&self.brisk),
            Side::Kernel => Ok(&self.kernels.as_ref().context("no --kernel-git")?.range),
        }
    }

    /// A commit of one side with the new one of the other.
    fn pair(&self, side: Side, commit: &str) -> Result<Pair> {
        let kernel = self.kernels.as_ref().map(|kernels| kernels.range.bad.clone());
        Ok(match side {
            Side::Vmm => Pair { brisk: commit.to_owned(), kernel },
            Side::Kernel => Pair { brisk: self.brisk.bad.clone(), kernel: Some(commit.to_owned()) },
        })
    }

    fn name(&self, pair: &Pair) -> String {
        match &pair.kernel {
            Some(kernel) => format!("brisk {}, kernel {}", short(&pair.brisk), short(kernel)),
            None => format!("brisk {}", short(&pair.brisk)),
        }
    }

    /// Per cent of chance, by the history of this checkout.
    fn floor(&self) -> Result<f64> {
        let lines = history::read(&history::path())?;
        let like = Line { suite: METRICS.to_owned(), clock: "lab".to_owned(), ..Line::default() };
        Ok(noise::floors(&lines, &like).get(self.metric.name).copied().unwrap_or(noise::UNKNOWN))
    }
}

/// What a change is made of, from old and new brisk (first and second letter: good, bad) with the old
/// kernel and the new one: brisk's part, the kernel's, and what only both together do.
fn effects([gg, bg, gb, bb]: [f64; 4]) -> (f64, f64, f64) {
    let vmm = f64::midpoint(bg - gg, bb - gb);
    let kernel = f64::midpoint(gb - gg, bb - bg);
    (vmm, kernel, bb - bg - gb + gg)
}

/// The sides that have a good part in a change.
fn blamed(total: f64, vmm: f64, kernel: f64) -> Vec<Side> {
    let has = |part: f64| part / total >= SHARE;
    [(Side::Vmm, vmm), (Side::Kernel, kernel)]
        .into_iter()
        .filter(|(_, part)| has(*part))
        .map(|(side, _)| side)
        .collect()
}

/// The commits that `git bisect` has found, when it has.
fn finished(said: &str) -> Option<Vec<String>> {
    let hash = |line: &str| {
        let word = line.split_whitespace().next()?;
        (word.len() == 40 && word.chars().all(|c| c.is_ascii_hexdigit())).then(|| word.to_owned())
    };
    if let Some(line) = said.lines().find(|line| line.contains("is the first bad commit")) {
        return Some(hash(line).into_iter().collect());
    }
    said.contains("only 'skip'ped commits left").then(|| said.lines().filter_map(hash).collect())
}

/// How many steps git expects: `Bisecting: 3 revisions left to test after this (roughly 2 steps)`.
fn left(said: &str) -> Option<u64> {
    let (_, rest) = said.split_once("(roughly ")?;
    rest.split_whitespace().next()?.parse::<u64>().ok().map(|steps| steps + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_it_is() {
        let sides = |values: [f64; 4]| {
            let (vmm, kernel, _) = effects(values);
            blamed(values[3] - values[0], vmm, kernel)
        };
        assert_eq!(sides([10.0, 12.0, 10.0, 12.0]), [Side::Vmm]);
        assert_eq!(sides([10.0, 10.0, 12.0, 12.0]), [Side::Kernel]);
        assert_eq!(sides([10.0, 11.0, 11.0, 12.0]), [Side::Vmm, Side::Kernel]);
        // Only the new brisk with the new kernel.
        assert_eq!(sides([10.0, 10.0, 10.0, 12.0]), [Side::Vmm, Side::Kernel]);
        // One made it better, the other worse by more.
        assert_eq!(sides([10.0, 9.0, 13.0, 12.0]), [Side::Kernel]);
        assert_eq!(effects([10.0, 10.0, 10.0, 12.0]), (1.0, 1.0, 2.0));
    }

    #[test]
    fn what_git_bisect_says() {
        let hash = "b5a70326dbe3b5a70326dbe3b5a70326dbe3b5a7";
        let found = format!("{hash} is the first bad commit\ncommit {hash}\n");
        assert_eq!(finished(&found), Some(vec![hash.to_owned()]));
        let said = "Bisecting: 4 revisions left to test after this (roughly 2 steps)\n[x] y";
        assert_eq!((finished(said), left(said)), (None, Some(3)));
        let skipped = format!(
            "There are only 'skip'ped commits left to test.\nThe first bad commit could be any of:\n\
             {hash}\n{hash}\nWe cannot bisect more!"
        );
        assert_eq!(finished(&skipped).unwrap().len(), 2);
    }
}
