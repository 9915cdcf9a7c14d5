//! `cargo xtask bench --scenario bundle`: the example's bundle, from its exec to the workload's first
//! instruction, and until its exit status is with who started it; and what it weighs.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::script::{self, Besides, Place, Plan, Slot};
use super::stats::{Report, Row};
use super::trace::{self, Boot, Until};
use super::{LIMIT, vmm};
use crate::build::bundle::{self, Sizes};
use crate::cache::Cache;
use crate::measure::metrics::history::{self, Better, Line, Metric};
use crate::{debian, lab, paths};

/// The name that `--scenario` takes.
pub const NAME: &str = "bundle";
/// One line for the head of the tables.
pub const ABOUT: &str = "the bundle `hello`, from exec to its workload's first instruction and to its exit \
                         status in the shell that waits for it; the tuned kernel, 128 MiB, 1 vCPU";
/// What the workload's first instruction writes to the boot timer (`xtask/guest/hello.rs`).
const FIRST: u64 = 0x61;

/// The rows, in the order of a life.
pub const ENDS: [(&str, Until); 3] = [
    ("our init", Until::Code(0x60)),
    ("workload's first instruction", Until::Code(FIRST)),
    ("exit status", Until::Status),
];

/// Names of what it weighs: the whole first.
pub const PARTS: [&str; 5] = ["all", "brisk", "kernel", "init", "image"];

/// What was measured.
pub struct Measured {
    /// The times.
    pub report: Report,
    /// The bytes.
    pub sizes: Sizes,
}

/// Measures it.
///
/// # Errors
/// It could not be built, or did not end with status 0.
pub fn measure(runs: u32) -> Result<Measured> {
    debian::ensure(&debian::ALL)?;
    let dir = paths::target()?.join("bundles/bench");
    fs::create_dir_all(&dir)?;
    let file = dir.join("hello");
    let sizes = bundle::examples::hello(&Cache::open()?, &file)?;
    let program = "/bench/hello".to_owned();
    let own = vmm::files(&file, "")?.into_iter().filter(|path| *path != file).collect();
    let plan = Plan {
        slots: vec![Slot { command: program.clone(), program, disk: None, prepare: None }],
        boots: runs,
        besides: Besides::Exits,
        limit: LIMIT,
        shared: vec![(file, "hello".to_owned())],
        place: Place::Lab(own),
        to_the_end: true,
        placer: None,
    };
    let step = crate::ui::Step::start("the bundle in the lab");
    let output = lab::run(&lab::Job {
        mode: lab::Mode::Stopwatch,
        script: plan.script(),
        timeout: Duration::from_secs(900),
        ..lab::Job::default()
    })?;
    step.done();
    ensure!(output.status == 0, "bench: the script failed in the lab:\n{}", output.console);
    let mut rows = Vec::new();
    for (step, until) in ENDS {
        let boots = boots(&output.dir, runs, &plan.slots[0].program, until)?;
        let (counted, rest) = boots.split_first().context("no boots")?;
        rows.push(Row::new("brisk", Some(step), rest, counted).context("no boots")?);
    }
    Ok(Measured { report: Report { clock: "lab", scenario: NAME.to_owned(), rows }, sizes })
}

fn boots(dir: &Path, runs: u32, program: &str, until: Until) -> Result<Vec<Boot>> {
    let read = |kind, number| {
        let bytes = fs::read(dir.join(script::result(kind, 0, number)));
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let one = |number| {
        let trace = read("trace", number).context("no trace was taken")?;
        let log = read("log", number)?;
        match trace::parse_until(&trace, program, until) {
            Ok(boot) if log == "Hello from a VM.\n" => Ok(boot),
            Ok(_) => bail!("bench: the bundle printed: {log}"),
            Err(e) => bail!("bench: {e}; exit status {}; {log}", read("status", number)?.trim()),
        }
    };
    (0..runs).map(one).collect()
}

impl Measured {
    /// The sizes, as people read them.
    pub fn bytes(&self) -> String {
        let rest: Vec<String> =
            self.parts()[1..].iter().map(|(name, bytes)| format!("{name} {bytes}")).collect();
        format!("{} bytes: {}\n", self.sizes.all, rest.join(", "))
    }

    fn parts(&self) -> [(&'static str, u64); 5] {
        let Sizes { all, brisk, kernel, init, image } = self.sizes;
        let [a, b, c, d, e] = PARTS;
        [(a, all), (b, brisk), (c, kernel), (d, init), (e, image)]
    }

    /// What goes into the history.
    ///
    /// # Errors
    /// A program that tells its version cannot be run.
    pub fn lines(&self) -> Result<Vec<Line>> {
        let mut lines = history::of_report(NAME, &self.report)?;
        for (name, bytes) in self.parts() {
            // Far below 2^53.
            let metric = Metric::single("bytes", Better::Less, bytes as f64, "");
            lines[0].metrics.insert(name.to_owned(), metric);
        }
        Ok(lines)
    }
}
