//! `cargo xtask bench`: where the time until the guest's userspace goes, for brisk and other VMMs
//! side by side.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::cache::Cache;
use crate::guest::{Kernel, images, init, kernel};
use crate::lab::{On, boot};
use crate::measure::metrics::history;
use crate::{build, debian, lab};
use script::{Besides, Place, Plan, Slot};
pub use stats::{Report, Row};
pub use table::finish;
pub use vmm::Peer;
use vmm::{Filler, NAMES};
use workload::{Root, Step, Workload};

mod ab;
pub mod bundle;
pub mod cases;
pub mod fio;
mod paired;
pub mod patch;
pub mod pci;
mod platform;
pub mod restore;
pub mod scenario;
mod script;
pub mod setup;
pub mod stats;
mod table;
pub mod trace;
mod vmm;
pub mod workload;

/// Compare boot times: where the time until the guest's userspace goes, by the tracepoints of the
/// kernel below the VMMs.
#[derive(FromArgs)]
#[argh(subcommand, name = "bench")]
pub struct Args {
    /// what is measured (default serial); a name that is none lists those there are
    #[argh(option, default = "String::from(\"serial\")")]
    scenario: String,
    /// instead of a scenario, brisk without and with one thing: pio-fast-path, mcfg-one-bus, msix-skip,
    /// seccomp, snapshot, api, ioeventfd, coalesced-serial, async-loader or ioeventfd-two-cpus
    #[argh(option)]
    ab: Option<String>,
    /// a kernel of your own instead of the scenario's
    #[argh(option)]
    kernel: Option<PathBuf>,
    /// more parameters for the guest kernel's command line
    #[argh(option, default = "String::new()")]
    append: String,
    /// boots of each VMM, of which the first is not counted (default 5)
    #[argh(option, default = "5")]
    runs: u32,
    /// file for the results as JSON
    #[argh(option)]
    json: Option<PathBuf>,
    /// append the results to xtask/measured/history.jsonl, which the pages are made from
    #[argh(switch)]
    record: bool,
    /// another VMM, any number of times: qemu (microvm), qemu-q35, or NAME='COMMAND' with {{kernel}}
    /// {{bzimage}} {{initramfs}} {{disk}} {{serial}} {{memory}} {{cmdline}} {{args}} in it
    #[argh(option)]
    peer: Vec<Peer>,
    /// where brisk's own time goes until the guest's first instruction: instructions, system calls
    /// and page faults of each step
    #[argh(switch)]
    setup: bool,
    /// instead of boots, requests of 4 KiB to a disk: fio in the guest, brisk beside QEMU's microvm
    #[argh(switch)]
    fio: bool,
    /// instead of boots, requests of several vCPUs at once, by this brisk beside the program given,
    /// with features console, block, io-uring and smp; --runs pairs
    #[argh(option)]
    fio_smp: Option<PathBuf>,
    /// with --scenario restore: so many clones of a snapshot at once, instead of one after the other
    #[argh(option)]
    density: Option<u32>,
    /// measure nothing; apply and compile the patches that --ab and the scenario platform are built with
    #[argh(switch)]
    check_patches: bool,
    /// lab (default): L1 and its instruction clock; host: this machine's KVM and real time
    #[argh(option, default = "On::Lab")]
    on: On,
}

/// What the user wants the guest to have that the scenario does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Guest<'a> {
    /// A kernel instead of the scenario's.
    kernel: Option<&'a Path>,
    /// More parameters for the kernel's command line.
    append: &'a str,
}

/// What a slot of the plan is a measurement of.
struct Subject {
    vmm: String,
    step: Option<&'static str>,
}

/// Seconds, of the clock in which is measured, until a guest is given up.
const LIMIT: u32 = 20;

/// Runs the task.
///
/// # Errors
/// Something could not be built, or no VMM could be measured.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.check_patches {
        println!("{} patches fit and compile", patch::check()?);
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        args.density.is_none() || args.scenario == restore::NAME,
        "--density: with --scenario {}",
        restore::NAME
    );
    if args.scenario == restore::NAME {
        return restores(args);
    }
    if args.scenario == bundle::NAME {
        return bundled(args);
    }
    let scenario = scenario::find(&args.scenario)?;
    ensure!(args.runs >= 2, "--runs {}: the first is not counted, so at least 2", args.runs);
    if args.fio {
        ensure!(args.peer.is_empty() && args.on == On::Lab, "--fio: neither --peer nor --on host");
        let report = fio::measure()?;
        print!("{}", fio::render(&report));
        save(args.json.as_deref(), &report)?;
        if args.record {
            record(fio::lines(&report)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(before) = &args.fio_smp {
        print!("{}", fio::smp::measure(before, args.runs)?);
        return Ok(ExitCode::SUCCESS);
    }
    let guest = Guest { kernel: args.kernel.as_deref(), append: &args.append };
    if args.setup {
        ensure!(args.peer.is_empty() && args.json.is_none(), "--setup: neither --peer nor --json");
        print!("{}", measure_setup(scenario, args.runs, args.on, guest)?);
        return Ok(ExitCode::SUCCESS);
    }
    let as_it_is = args.ab.is_none() || guest == Guest::default();
    ensure!(as_it_is, "--ab: neither --kernel nor --append");
    if let Some(name) = &args.ab
        && let Some(text) = ab::pairs(name, args.runs, args.on)?
    {
        ensure!(
            args.peer.is_empty() && args.json.is_none(),
            "--ab {name}: neither --peer nor --json"
        );
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let (report, about) = match &args.ab {
        Some(name) => {
            ensure!(args.peer.is_empty(), "--ab: no --peer");
            let (report, failures, about) = ab::measure(name, args.runs, args.on)?;
            ((report, failures), about)
        }
        None => (measure(scenario, args.runs, &args.peer, args.on, guest)?, scenario.about),
    };
    print!(
        "{}",
        match report.0.scenario == platform::SCENARIO.name {
            true => platform::render(&report.0),
            false => table::render(&report.0, about),
        }
    );
    save(args.json.as_deref(), &report.0)?;
    if args.record {
        let suite = match &args.ab {
            Some(name) => format!("ab-{name}"),
            None => args.scenario.clone(),
        };
        record(history::of_report(&suite, &report.0)?)?;
    }
    for failure in &report.1 {
        eprintln!("xtask: bench: {failure}");
    }
    Ok(if report.1.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The example's bundle.
fn bundled(args: &Args) -> Result<ExitCode> {
    let plain = args.ab.is_none() && !args.setup && !args.fio && args.kernel.is_none();
    ensure!(
        plain && args.peer.is_empty() && args.on == On::Lab && args.runs >= 2,
        "--scenario {}: only --runs (2 at least), --json and --record",
        bundle::NAME
    );
    let measured = bundle::measure(args.runs)?;
    print!("{}\n{}", table::render(&measured.report, bundle::ABOUT), measured.bytes());
    save(args.json.as_deref(), &measured.report)?;
    if args.record {
        record(measured.lines()?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Snapshots, which are made before they are measured.
fn restores(args: &Args) -> Result<ExitCode> {
    let plain = args.ab.is_none() && !args.setup && !args.fio && args.kernel.is_none();
    let peers = args.peer.iter().all(|peer| *peer == Peer::Qemu);
    ensure!(
        plain && peers && args.on == On::Lab && args.runs >= 2,
        "--scenario {}: only --runs (2 at least), --peer qemu, --density, --json and --record",
        restore::NAME
    );
    if let Some(count) = args.density {
        print!("{}", restore::density(count)?);
        return Ok(ExitCode::SUCCESS);
    }
    let (report, failures) = restore::measure(args.runs, !args.peer.is_empty())?;
    print!("{}", table::render(&report, restore::ABOUT));
    save(args.json.as_deref(), &report)?;
    if args.record {
        record(history::of_report(restore::NAME, &report)?)?;
    }
    for failure in &failures {
        eprintln!("xtask: bench: {failure}");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// brisk as the scenario wants it, with more features.
fn program(scenario: &Workload, more: &[&str]) -> Result<PathBuf> {
    let features = [scenario.features, more].concat();
    match scenario.patch {
        Some(patch) => patch.build(&features),
        None => build::program(Some(&features)),
    }
}

/// Appends lines to the history.
fn record(lines: Vec<history::Line>) -> Result<()> {
    lines.iter().try_for_each(|line| history::append(&history::path(), line))?;
    crate::build::docs::write()
}

/// Writes a report to the file of `--json`, if there is one.
fn save(path: Option<&Path>, report: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let json = serde_json::to_string_pretty(report)? + "\n";
    fs::write(path, json).with_context(|| format!("--json {}", path.display()))
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
fn measure(
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
fn measure_setup(
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
struct Bench {
    scenario: &'static Workload,
    plan: Plan,
    subjects: Vec<Subject>,
    mode: lab::Mode,
    staging: tempfile::TempDir,
}

/// Where the results are.
enum Results<'a> {
    Lab(lab::Output),
    Host(&'a Path),
}

impl Results<'_> {
    fn dir(&self) -> &Path {
        match self {
            Self::Lab(output) => &output.dir,
            Self::Host(dir) => dir,
        }
    }
}

impl Bench {
    fn prepare(
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
    fn execute(&self) -> Result<Results<'_>> {
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
fn guest_files(
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
fn execute_with(
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
fn row(dir: &Path, index: usize, runs: u32, subject: &Subject, slot: &Slot) -> Result<Row> {
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
