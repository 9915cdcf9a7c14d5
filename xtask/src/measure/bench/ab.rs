//! `cargo xtask bench --ab NAME`: brisk without and with one of the talk's optimisations, side by
//! side.

use anyhow::{Result, bail};

use super::paired::{self, Until};
use super::patch::{self, Patch};
use super::scenario::{MICRO, PCI, PORTS};
use super::vmm::Peer;
use super::workload::{Disk, Root, Step, Workload};
use super::{Guest, Report};
use crate::build;
use crate::guest::kernel::Config;
use crate::guest::{Console, Kernel};
use crate::lab::{self, On};

/// One optimisation.
struct Ab {
    /// Features of the build without it.
    baseline: &'static [&'static str],
    /// What its source is changed by.
    patch: Option<&'static Patch>,
    /// What both boot; its features and patch are those of the build with it.
    scenario: Workload,
}

static ALL: [Ab; 9] = [
    Ab {
        baseline: &["serial", "console", "pmem", "pci", "hugepages"],
        patch: None,
        scenario: Workload {
            name: "pio-fast-path",
            about: "ports served in the vCPU loop, before the bus",
            memory_mib: 512,
            features: &["serial", "console", "pmem", "pci", "hugepages", "pio-fast-path"],
            patch: None,
            kernel: Kernel::Own(Config::Guest),
            steps: &[
                PORTS,
                Step {
                    name: Some("serial console"),
                    args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --serial tty \
                           --console off --memory size=512M,hugepages=on",
                    cmdline: "root=/dev/pmem0p1 console=ttyS0",
                    console: Console::Serial,
                    ..PCI
                },
            ],
        },
    },
    Ab {
        baseline: &["console", "pmem", "pci", "hugepages"],
        patch: Some(&patch::BUSES),
        scenario: Workload {
            name: "mcfg-one-bus",
            about: "MCFG and DSDT with one PCI bus for 256",
            memory_mib: 512,
            features: &["console", "pmem", "pci", "hugepages"],
            patch: None,
            kernel: Kernel::Own(Config::Guest),
            steps: &[PCI, PORTS],
        },
    },
    Ab {
        baseline: &["console", "block", "pmem", "pci", "hugepages"],
        patch: Some(&patch::ROUTES),
        scenario: Workload {
            name: "msix-skip",
            about: "the MSI-X table as memory, read when a message is sent, instead of an exit and a new \
                    table of routes for each write",
            memory_mib: 512,
            features: &["console", "block", "pmem", "pci", "hugepages"],
            patch: None,
            kernel: Kernel::Own(Config::Guest),
            steps: &[
                PCI,
                Step {
                    name: Some("PCI, block"),
                    args: "--kernel {kernel} --disk path={disk} --cmdline '{cmdline}' --console tty \
                           --transport pci --memory size=512M,hugepages=on",
                    cmdline: "root=/dev/vda1 console=hvc0 quiet",
                    disk: Disk::Block,
                    ..PCI
                },
            ],
        },
    },
    Ab {
        baseline: &["console", "pmem", "hugepages"],
        patch: None,
        scenario: Workload {
            name: "seccomp",
            about: SECCOMP,
            memory_mib: 128,
            features: &["console", "pmem", "hugepages", "seccomp"],
            patch: None,
            kernel: Kernel::Own(Config::Micro),
            steps: &[MICRO],
        },
    },
    Ab {
        baseline: &["console", "pmem", "hugepages", "boot-timer"],
        patch: None,
        scenario: Workload {
            name: "snapshot",
            about: "snapshots compiled in, and not asked for",
            memory_mib: 128,
            features: &["console", "pmem", "hugepages", "boot-timer", "snapshot"],
            patch: None,
            kernel: Kernel::Own(Config::Micro),
            steps: &[MICRO],
        },
    },
    Ab {
        baseline: &["console", "pmem", "hugepages"],
        patch: None,
        scenario: Workload {
            name: "api",
            about: "the API compiled in, and not asked for",
            memory_mib: 128,
            features: &["console", "pmem", "hugepages", "api"],
            patch: None,
            kernel: Kernel::Own(Config::Micro),
            steps: &[MICRO],
        },
    },
    Ab {
        baseline: &["serial", "pmem", "hugepages"],
        patch: None,
        scenario: Workload {
            name: "seccomp-exits",
            about: SECCOMP,
            memory_mib: 512,
            features: &["serial", "pmem", "hugepages", "seccomp"],
            patch: None,
            kernel: Kernel::Own(Config::Guest),
            steps: &[LOUD],
        },
    },
    Ab {
        baseline: &["console", "block", "pmem", "hugepages", "smp"],
        patch: None,
        scenario: Workload {
            name: "ioeventfd",
            about: IOEVENTFD,
            memory_mib: 512,
            features: &["console", "block", "pmem", "hugepages", "smp"],
            patch: Some(&patch::IOEVENTFD),
            kernel: Kernel::Own(Config::Guest),
            steps: &NOTIFY,
        },
    },
    Ab {
        baseline: &["serial", "pmem", "hugepages"],
        patch: None,
        scenario: Workload {
            name: "coalesced-serial",
            about: "bytes for the serial port kept by KVM while the driver wants no interrupts",
            memory_mib: 512,
            features: &["serial", "pmem", "hugepages", "coalesced-serial"],
            patch: None,
            kernel: Kernel::Own(Config::Guest),
            steps: &[
                LOUD,
                Step {
                    name: Some("quiet"),
                    cmdline: "root=/dev/pmem0p1 console=ttyS0 quiet",
                    ..LOUD
                },
            ],
        },
    },
];

const SECCOMP: &str = "no system call left but those that brisk needs while the guest runs";

/// A boot that prints all its messages on the serial port.
const LOUD: Step = Step {
    name: Some("serial console"),
    args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --serial tty \
           --memory size=512M,hugepages=on",
    cmdline: "root=/dev/pmem0p1 console=ttyS0",
    console: Console::Serial,
    ..PCI
};

const IOEVENTFD: &str =
    "queues notified by ioeventfd, which a thread waits for, instead of by an exit to the vCPU's";

/// Boots that notify: each line of a loud one is a notification, each read from a disk another.
const NOTIFY: [Step; 3] = [
    Step {
        name: Some("console"),
        args: "--kernel {kernel} --initramfs {initramfs} --cmdline '{cmdline}' --console tty \
               --memory size=512M,hugepages=on",
        cmdline: "console=hvc0",
        root: Root::Initramfs,
        disk: Disk::None,
        ..PCI
    },
    Step {
        name: Some("console and block"),
        args: "--kernel {kernel} --disk path={disk} --cmdline '{cmdline}' --console tty \
               --memory size=512M,hugepages=on",
        cmdline: "root=/dev/vda1 console=hvc0 quiet",
        disk: Disk::Block,
        ..PCI
    },
    Step {
        name: Some("console and pmem"),
        args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --console tty \
               --memory size=512M,hugepages=on",
        ..PCI
    },
];

/// What the stopwatch with its one CPU cannot show.
static PAIRED: [(Until, Ab); 2] = [
    (
        Until::Entry,
        Ab {
            baseline: &["serial", "hugepages"],
            patch: None,
            scenario: Workload {
                name: "async-loader",
                about: "kernel and initramfs loaded while the VM is made",
                memory_mib: 256,
                features: &["serial", "hugepages", "async-loader"],
                patch: None,
                kernel: Kernel::Own(Config::Guest),
                steps: &[
                    LOAD,
                    Step { name: Some("2 MiB pages"), args: LOAD_HUGE, hugepages: true, ..LOAD },
                ],
            },
        },
    ),
    (
        Until::Userspace,
        Ab {
            baseline: &["console", "block", "pmem", "hugepages", "smp"],
            patch: None,
            scenario: Workload {
                name: "ioeventfd-two-cpus",
                about: IOEVENTFD,
                memory_mib: 512,
                features: &["console", "block", "pmem", "hugepages", "smp"],
                patch: Some(&patch::IOEVENTFD),
                kernel: Kernel::Own(Config::Guest),
                steps: &NOTIFY,
            },
        },
    ),
];

const LOAD: Step = Step {
    name: Some("4 KiB pages"),
    args: "--kernel {kernel} --initramfs {initramfs} --cmdline '{cmdline}' --serial file={serial} \
           --memory size=256M",
    cmdline: "quiet console=ttyS0",
    console: Console::Serial,
    root: Root::Initramfs,
    disk: Disk::None,
    hugepages: false,
};

const LOAD_HUGE: &str = "--kernel {kernel} --initramfs {initramfs} --cmdline '{cmdline}' \
                         --serial file={serial} --memory size=256M,hugepages=on";

fn every() -> impl Iterator<Item = &'static Ab> {
    ALL.iter().chain(PAIRED.iter().map(|(_, ab)| ab))
}

/// Measures pairs of boots, where `name` is something that needs it.
///
/// # Errors
/// As [`paired::measure`].
pub fn pairs(name: &str, pairs: u32, on: On) -> Result<Option<String>> {
    let found = PAIRED.iter().find(|(_, ab)| ab.scenario.name == name);
    let Some((until, ab)) = found else { return Ok(None) };
    paired::measure(&ab.scenario, before(ab)?, *until, pairs, on).map(Some)
}

/// brisk without the optimisation, as if it were somebody else's.
fn before(ab: &Ab) -> Result<Peer> {
    let program = match ab.patch {
        Some(patch) => patch.build(ab.baseline)?,
        None => build::program(Some(ab.baseline))?,
    };
    let command = format!("{} {{args}}", lab::quote(&program.to_string_lossy()));
    Ok(Peer::Command("before".to_owned(), command))
}

/// Measures without and with the optimisation `name`. Returns what [`super::measure`] does, and a
/// line about it.
///
/// # Errors
/// There is no such optimisation, or as [`super::measure`].
pub fn measure(name: &str, runs: u32, on: On) -> Result<(Report, Vec<String>, &'static str)> {
    let Some(ab) = ALL.iter().find(|ab| ab.scenario.name == name) else {
        let known: Vec<&str> = every().map(|ab| ab.scenario.name).collect();
        bail!("--ab {name}: there is no such comparison; there are {}", known.join(", "));
    };
    let before = before(ab)?;
    let (mut report, failures) =
        super::measure(&ab.scenario, runs, &[before], on, Guest::default())?;
    for row in &mut report.rows {
        if row.vmm == "brisk" {
            "after".clone_into(&mut row.vmm);
        }
    }
    // Stable: the steps stay in order.
    report.rows.sort_by_key(|row| row.vmm != "before");
    Ok((report, failures, ab.scenario.about))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_differs_in_one_thing() {
        for ab in every() {
            let differing =
                ab.baseline.iter().filter(|f| !ab.scenario.features.contains(f)).count()
                    + ab.scenario.features.iter().filter(|f| !ab.baseline.contains(f)).count()
                    + usize::from(ab.patch != ab.scenario.patch);
            assert_eq!(differing, 1, "{}", ab.scenario.name);
        }
        let error = measure("no-such", 2, On::Lab).err().unwrap().to_string();
        assert!(error.ends_with("coalesced-serial, async-loader, ioeventfd-two-cpus"), "{error}");
    }
}
