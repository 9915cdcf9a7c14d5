//! `cargo xtask bench`: where the time until the guest's userspace goes, for brisk and other VMMs
//! side by side.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::lab::On;
use crate::measure::metrics::history;
pub use boots::measure_all;
use boots::{
    Bench, Guest, LIMIT, Subject, execute_with, guest_files, measure, measure_setup, program, row,
};
pub use stats::Report;
pub use table::finish;
pub use vmm::Peer;

mod ab;
mod boots;
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
    /// with --fio, how, with commas between: ext4 (past the page cache, on a loop device of L1), smp (4
    /// vCPUs, a queue each), pci (brisk's disk is a PCI function); without, a tmpfs, 1 vCPU, MMIO
    #[argh(option, default = "fio::setting::Setting::default()")]
    fio_on: fio::setting::Setting,
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
        let report = fio::measure(args.fio_on)?;
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
