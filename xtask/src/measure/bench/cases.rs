//! Boots of several programs with several kernels in one L1: what the metrics and the search for a
//! regression are made of.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::script::{self, Besides, Place, Plan, Slot};
use super::trace::{self, Boot};
use super::vmm::{self, Filler, Peer};
use super::workload::{Step, Workload};
use super::{Guest, LIMIT, setup};
use crate::lab::{self, On, boot};

/// One command to boot.
pub struct Case {
    /// brisk, or a peer and its command.
    pub vmm: Vmm,
    /// What it is booted in.
    pub scenario: &'static Workload,
    /// The step of it.
    pub step: &'static Step,
    /// A kernel instead of the scenario's.
    pub kernel: Option<PathBuf>,
}

/// Whose command it is.
#[derive(Clone, PartialEq, Debug)]
pub enum Vmm {
    /// A brisk that was built.
    Brisk(PathBuf),
    /// Another.
    Peer(Peer),
}

/// What each case came to: its boots, or why there are none.
pub type Boots = Vec<Result<Vec<Boot>>>;

/// A file that several cases have, by where it is now.
#[derive(Default)]
struct Shared {
    names: BTreeMap<PathBuf, String>,
}

impl Shared {
    /// The file's name in the plan.
    fn name(&mut self, path: &Path, stem: &str) -> String {
        let next = self.names.len();
        self.names.entry(path.to_path_buf()).or_insert_with(|| format!("{stem}-{next}")).clone()
    }
}

/// Boots each case `boots` times and once more, which is not counted but has the exits to the VMM.
///
/// # Errors
/// A file cannot be made, or the lab failed. A case that did not boot is in the result.
pub fn run(cases: &[Case], boots: u32, on: On, append: &str) -> Result<Boots> {
    let staging = tempfile::Builder::new().prefix("brisk-bench-").tempdir_in("/dev/shm")?;
    let plan = plan(cases, boots + 1, on, Besides::Exits, append, staging.path())?;
    let output = execute(cases, &plan)?;
    let dir = output.as_ref().map_or(staging.path(), |output| &output.dir);
    let result = |(index, slot): (usize, &Slot)| -> Result<Vec<Boot>> {
        let boots =
            (0..=boots).map(|boot| one(dir, index, boot, slot)).collect::<Result<Vec<_>>>()?;
        let (first, mut counted) = (boots.first().context("no boots")?, boots[1..].to_vec());
        for boot in &mut counted {
            boot.to_vmm.clone_from(&first.to_vmm);
            boot.accesses.clone_from(&first.accesses);
        }
        Ok(counted)
    };
    Ok(plan.slots.iter().enumerate().map(result).collect())
}

/// What brisk does until the guest's first instruction.
///
/// # Errors
/// As [`run`], or the trace is not whole.
pub fn setup(case: Case, on: On) -> Result<setup::Sums> {
    let staging = tempfile::Builder::new().prefix("brisk-bench-").tempdir_in("/dev/shm")?;
    let cases = [case];
    let mut plan = plan(&cases, 1, on, Besides::Setup, "", staging.path())?;
    plan.slots.iter_mut().for_each(|slot| slot.command += setup::ARGUMENTS);
    let output = execute(&cases, &plan)?;
    let dir = output.as_ref().map_or(staging.path(), |output| &output.dir);
    let slot = plan.slots.first().context("no case")?;
    setup::sums(dir, 0, &slot.program)
}

fn one(dir: &Path, slot: usize, boot: u32, what: &Slot) -> Result<Boot> {
    let read = |kind| {
        let path = dir.join(script::result(kind, slot, boot));
        fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read("trace").context("no trace was taken")?;
    match trace::parse(&text, &what.program) {
        Ok(boot) => Ok(boot),
        Err(e) => {
            let log = read("log").unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(8)..].join("\n");
            bail!("{e}; command: {}; the end of its output:\n{end}", what.command)
        }
    }
}

fn plan(
    cases: &[Case],
    boots: u32,
    on: On,
    besides: Besides,
    append: &str,
    staging: &Path,
) -> Result<Plan> {
    let place = match on {
        On::Lab => Place::Lab(Vec::new()),
        On::Host => {
            boot::host_kvm().map_err(|why| anyhow::anyhow!("--on host: {why}"))?;
            Place::Host(staging.to_path_buf())
        }
    };
    let files = place.files();
    let mut shared = Shared::default();
    let mut own = std::collections::BTreeSet::new();
    let mut plan = Plan {
        slots: Vec::new(),
        boots,
        besides,
        limit: LIMIT,
        shared: Vec::new(),
        place,
        to_the_end: false,
        placer: None,
    };
    for case in cases {
        ensure!(!case.step.places_kernel(), "a kernel in huge pages is for bench");
        let disk = case.step.root.image();
        let guest = Guest { kernel: case.kernel.as_deref(), append };
        let mut names = [String::new(), String::new()];
        for (path, name) in super::guest_files(case.scenario, case.step, guest)? {
            match name {
                "vmlinux" => names[0] = shared.name(&path, "vmlinux"),
                "initramfs" => names[1] = shared.name(&path, "initramfs"),
                // Only peers of `bench` take it.
                "bzImage" => {}
                // An image: there is one of each kind.
                _ => {
                    shared.names.insert(path, name.to_owned());
                }
            }
        }
        let filler = Filler {
            files: &files,
            scenario: case.scenario,
            step: case.step,
            append,
            names: [&names[0], &names[1]],
        };
        let slot = match &case.vmm {
            Vmm::Brisk(program) => {
                let program = format!("{files}/{}", shared.name(program, "brisk"));
                let command = filler.fill(&vmm::brisk(&program, case.step))?;
                Slot { program, command, disk, prepare: None }
            }
            Vmm::Peer(peer) => {
                let command = peer.command(case.scenario, case.step);
                let command = command.with_context(|| format!("{} cannot do it", peer.name()))?;
                let command = filler.fill(&command)?;
                let (program, rest) = vmm::program(&command)?;
                own.extend(vmm::files(&program, rest)?);
                let program = program.to_string_lossy().into_owned();
                let command = format!("{} {rest}", lab::quote(&program));
                Slot { program, command, disk, prepare: None }
            }
        };
        plan.slots.push(slot);
    }
    if let Place::Lab(files) = &mut plan.place {
        files.extend(own);
    }
    plan.shared = shared.names.into_iter().collect();
    Ok(plan)
}

/// Runs the plan's script. Returns L1's output where it ran there.
fn execute(cases: &[Case], plan: &Plan) -> Result<Option<lab::Output>> {
    let hugepages = cases.iter().filter(|case| case.step.hugepages);
    let hugepages = hugepages.map(|case| case.scenario.memory_mib.div_ceil(2)).max().unwrap_or(0);
    let patience = cases.iter().map(|case| case.scenario.patience()).max().unwrap_or(0);
    super::execute_with(plan, lab::Mode::Stopwatch, hugepages, patience)
}
