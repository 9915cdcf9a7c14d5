//! Boots of brisk and its peers: what is put beside them, and what of their traces is a row of the report.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::script::{self, Besides, Place, Plan, Slot};
use super::stats::{Report, Row};
use super::vmm::{self, Filler, NAMES, Peer};
use super::workload::{Root, Step, Workload};
use super::{scenario, setup, trace};
use crate::cache::Cache;
use crate::guest::{Kernel, images, init, kernel};
use crate::lab::{On, boot};
use crate::{build, debian, lab};

/// What the user wants the guest to have that the scenario does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Guest<'a> {
    /// A kernel instead of the scenario's.
    pub kernel: Option<&'a Path>,
    /// More parameters for the kernel's command line.
    pub append: &'a str,
}

/// What a slot of the plan is a measurement of.
pub struct Subject {
    /// Its VMM.
    pub vmm: String,
    /// The scenario's step, where it has several.
    pub step: Option<&'static str>,
}

/// Seconds, of the clock in which is measured, until a guest is given up.
pub const LIMIT: u32 = 20;

/// brisk as the scenario wants it, with more features.
pub fn program(scenario: &Workload, more: &[&str]) -> Result<PathBuf> {
    let features = [scenario.features, more].concat();
    match scenario.patch {
        Some(patch) => patch.build(&features),
        None => build::program(Some(&features)),
    }
}

/// Measures a scenario in the lab.
///
/// # Errors
/// Something could not be built, or one of the VMMs did not get to its userspace.
pub fn measure_all(scenario: &str, runs: u32, peers: &[Peer]) -> Result<Report> {
    ensure!(runs >= 2, "--runs {runs}: the first is not counted, so at least 2");
    let (report, failures) =
        measure(scenario::find(scenario)?, runs, peers, On::Lab, Guest::default())?;
    ensure!(failures.is_empty(), "bench: {}", failures.join("\n"));
    Ok(report)
}

/// Boots brisk and the peers in all steps. Returns what was measured, and a line for each VMM and
/// step that did not get to its userspace.
pub fn measure(
    scenario: &'static Workload,
    runs: u32,
    peers: &[Peer],
    on: On,
    guest: Guest<'_>,
) -> Result<(Report, Vec<String>)> {
    let brisk = program(scenario, &[])?;
    let bench = Bench::prepare(scenario, &brisk, runs, on, Besides::Exits, peers, guest)?;
    let results = bench.execute()?;
    let mut report = Report {
        clock: if on == On::Lab { "lab" } else { "host" },
        scenario: scenario.name.to_owned(),
        rows: Vec::new(),
    };
    let mut failures = Vec::new();
    for (index, (subject, slot)) in bench.subjects.iter().zip(&bench.plan.slots).enumerate() {
        match row(results.dir(), index, runs, subject, slot) {
            Ok(row) => report.rows.push(row),
            Err(e) => failures.push(format!("{}: {e:#}", subject.vmm)),
        }
    }
    ensure!(!report.rows.is_empty(), "bench: nothing was measured:\n{}", failures.join("\n"));
    Ok((report, failures))
}

/// Boots brisk in all steps. Returns the tables of what it did until the guest ran.
pub fn measure_setup(
    scenario: &'static Workload,
    runs: u32,
    on: On,
    guest: Guest<'_>,
) -> Result<String> {
    let mut text = setup::head(scenario.name, scenario.about, runs, on)?;
    let brisk = program(scenario, &["boot-timer"])?;
    let mut bench = Bench::prepare(scenario, &brisk, runs, on, Besides::Setup, &[], guest)?;
    bench.plan.slots.iter_mut().for_each(|slot| slot.command += setup::ARGUMENTS);
    let results = bench.execute()?;
    for (index, (subject, slot)) in bench.subjects.iter().zip(&bench.plan.slots).enumerate() {
        let step = subject.step.map_or(String::new(), |step| format!("{step}\n\n"));
        let tables = setup::report(results.dir(), index, runs, &slot.program, on)
            .with_context(|| format!("bench --setup: {}", slot.command))?;
        text += &format!("\n{step}{tables}");
    }
    Ok(text)
}

/// All that is ready to be measured.
pub struct Bench {
    scenario: &'static Workload,
    /// What is run.
    pub plan: Plan,
    subjects: Vec<Subject>,
    /// By which clock.
    pub mode: lab::Mode,
    /// For files that are made for it.
    pub staging: tempfile::TempDir,
}

/// Where the results are.
pub enum Results<'a> {
    /// What L1 left.
    Lab(lab::Output),
    /// A directory of the staging.
    Host(&'a Path),
}

impl Results<'_> {
    /// What the script wrote.
    pub fn dir(&self) -> &Path {
        match self {
            Self::Lab(output) => &output.dir,
            Self::Host(dir) => dir,
        }
    }
}

impl Bench {
    /// Builds and finds all that is wanted.
    ///
    /// # Errors
    /// Something could not be built.
    pub fn prepare(
        scenario: &'static Workload,
        brisk: &Path,
        boots: u32,
        on: On,
        besides: Besides,
        peers: &[Peer],
        guest: Guest<'_>,
    ) -> Result<Self> {
        let staging = tempfile::Builder::new().prefix("brisk-bench-").tempdir_in("/dev/shm")?;
        let place = match on {
            On::Lab => Place::Lab(Vec::new()),
            On::Host => {
                boot::host_kvm().map_err(|why| anyhow::anyhow!("--on host: {why}"))?;
                Place::Host(staging.path().to_path_buf())
            }
        };
        let shared = shared(scenario, brisk, guest)?;
        let mut own = vmm::files(brisk, "")?;
        own.remove(brisk);
        let placer = scenario.places_kernel().then(std::env::current_exe).transpose()?;
        let mut plan = Plan {
            slots: Vec::new(),
            boots,
            besides,
            limit: LIMIT,
            shared,
            place,
            to_the_end: false,
            placer,
        };
        let subjects = fill(scenario, peers, guest, &mut plan, &mut own)?;
        if let Place::Lab(files) = &mut plan.place {
            files.extend(own);
        }
        Ok(Self { scenario, plan, subjects, mode: lab::Mode::Stopwatch, staging })
    }

    /// Runs the plan's script.
    pub fn execute(&self) -> Result<Results<'_>> {
        Ok(match execute(self.scenario, &self.plan, self.mode)? {
            Some(output) => Results::Lab(output),
            None => Results::Host(self.staging.path()),
        })
    }
}

/// The files that all VMMs use.
fn shared(scenario: &Workload, brisk: &Path, guest: Guest<'_>) -> Result<Vec<(PathBuf, String)>> {
    let mut files = BTreeSet::from([(brisk.to_path_buf(), "brisk")]);
    for step in scenario.steps {
        files.extend(guest_files(scenario, step, guest)?);
    }
    Ok(files.into_iter().map(|(path, name)| (path, name.to_owned())).collect())
}

/// The files of a step's guest.
pub fn guest_files(
    scenario: &Workload,
    step: &Step,
    guest: Guest<'_>,
) -> Result<Vec<(PathBuf, &'static str)>> {
    debian::ensure(&debian::ALL)?;
    let cache = Cache::open()?;
    let ours = |path: &Path| -> Result<_> {
        let path = path.canonicalize().with_context(|| format!("--kernel {}", path.display()))?;
        Ok((path.clone(), path, init::ensure(&cache)?.initramfs))
    };
    let (kernel, bzimage, initramfs) = match &scenario.kernel {
        Kernel::Own(config) => match guest.kernel {
            Some(path) => ours(path)?,
            None => {
                let built = kernel::ensure(&cache, *config)?;
                (built.vmlinux, built.bzimage, init::ensure(&cache)?.initramfs)
            }
        },
        Kernel::File(path) => ours(path)?,
        Kernel::Stock(stock) => {
            ensure!(guest.kernel.is_none(), "--kernel: {} needs its own", scenario.name);
            let files = stock.ensure(&cache)?;
            (files.vmlinuz.clone(), files.vmlinuz, files.initramfs)
        }
    };
    let mut files = vec![(kernel, "vmlinux"), (bzimage, "bzImage"), (initramfs, "initramfs")];
    let image = match step.root {
        Root::Initramfs => return Ok(files),
        Root::Ext4 => images::small(&cache)?.ext4,
        Root::Erofs => images::small(&cache)?.erofs,
        Root::Ext4Partition => images::small(&cache)?.ext4_partition,
        Root::Debian => images::debian(&cache)?.erofs_partition,
    };
    files.extend(step.root.image().map(|name| (image, name)));
    Ok(files)
}

/// Adds brisk and the peers to the plan, step by step, and their files to `own`.
fn fill(
    scenario: &'static Workload,
    peers: &[Peer],
    guest: Guest<'_>,
    plan: &mut Plan,
    own: &mut BTreeSet<PathBuf>,
) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    let files = plan.place.files();
    for step in scenario.steps {
        let filler = Filler { files: &files, scenario, step, append: guest.append, names: NAMES };
        let program = format!("{files}/brisk");
        let command = filler.fill(&vmm::brisk(&program, step))?;
        plan.slots.push(Slot { program, command, disk: step.root.image(), prepare: None });
        subjects.push(Subject { vmm: "brisk".to_owned(), step: step.name });
    }
    for peer in peers {
        for step in scenario.steps {
            let Some(command) = peer.command(scenario, step) else {
                let step = step.name.unwrap_or_default();
                eprintln!("xtask: bench: {} cannot do the step {step}, left out", peer.name());
                continue;
            };
            let filler =
                Filler { files: &files, scenario, step, append: guest.append, names: NAMES };
            let command = filler.fill(&command)?;
            let (program, rest) = vmm::program(&command)?;
            own.extend(vmm::files(&program, rest)?);
            let program = program.to_string_lossy().into_owned();
            let command = format!("{} {rest}", lab::quote(&program));
            plan.slots.push(Slot { program, command, disk: step.root.image(), prepare: None });
            subjects.push(Subject { vmm: peer.name().to_owned(), step: step.name });
        }
    }
    Ok(subjects)
}

/// Runs the plan's script. Returns L1's output where it ran there.
fn execute(scenario: &Workload, plan: &Plan, mode: lab::Mode) -> Result<Option<lab::Output>> {
    execute_with(plan, mode, scenario.hugepages(), scenario.patience())
}

/// The same, with pages of 2 MiB and at most so many seconds of the machine's own for each boot.
pub fn execute_with(
    plan: &Plan,
    mode: lab::Mode,
    hugepages: u32,
    patience: u64,
) -> Result<Option<lab::Output>> {
    let boots = u64::from(plan.boots) * plan.slots.len() as u64;
    if let Place::Host(_) = plan.place {
        let output = duct::cmd!("sh", "-c", plan.script()).stderr_to_stdout().unchecked();
        let output = output.stdout_capture().run().context("cannot run sh")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "bench: the script failed (it needs root):\n{text}");
        return Ok(None);
    }
    let step = crate::ui::Step::start(&format!("{boots} boots in the lab"));
    let output = lab::run(&lab::Job {
        mode,
        script: plan.script(),
        hugepages,
        // Beside the huge pages what L1 and the files need.
        memory_mib: lab::Job::default().memory_mib.max(2 * hugepages + 3072),
        timeout: Duration::from_secs(120 + boots * patience),
        ..lab::Job::default()
    })?;
    step.done();
    ensure!(output.status == 0, "bench: the script failed in the lab:\n{}", output.console);
    Ok(Some(output))
}

/// Reads the results of one slot.
pub fn row(dir: &Path, index: usize, runs: u32, subject: &Subject, slot: &Slot) -> Result<Row> {
    let mut boots = Vec::new();
    for number in 0..runs {
        let read = |kind| {
            let path = dir.join(script::result(kind, index, number));
            fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let trace = read("trace").context("no trace was taken")?;
        match trace::parse(&trace, &slot.program) {
            Ok(boot) => boots.push(boot),
            Err(e) => {
                let (status, log) = (read("status")?, read("log")?);
                let lines: Vec<&str> = log.lines().collect();
                bail!(
                    "{}{e}; exit status {}; command: {}; the end of its output:\n{}",
                    subject.step.map(|s| format!("{s}: ")).unwrap_or_default(),
                    status.trim(),
                    slot.command,
                    lines[lines.len().saturating_sub(15)..].join("\n")
                );
            }
        }
    }
    let (counted, boots) = boots.split_first().context("no boots")?;
    Row::new(&subject.vmm, subject.step, boots, counted).context("no boots")
}
