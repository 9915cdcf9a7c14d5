//! The workloads that `--scenario` names.

use anyhow::{Result, bail};

use super::platform;
use super::workload::{Disk, Root, Step, Workload};
use crate::guest::kernel::Config;
use crate::guest::{Console, Kernel, stock};

/// The kernel of most.
const GUEST: Kernel = Kernel::Own(Config::Guest);

/// A boot from pmem over PCI, the talk's last step.
pub const PCI: Step = Step {
    name: Some("PCI"),
    args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --serial off --console tty \
           --transport pci --memory size=512M,hugepages=on",
    cmdline: "root=/dev/pmem0p1 console=hvc0 quiet",
    console: Console::Virtio,
    root: Root::Ext4Partition,
    disk: Disk::Pmem,
    hugepages: true,
};

/// The same by the ports 0xcf8 and 0xcfc.
pub const PORTS: Step = Step {
    name: Some("PCI by ports"),
    args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --serial off --console tty \
           --transport pci-ports --memory size=512M,hugepages=on",
    ..PCI
};

/// The talk's last step, with a kernel in the page cache's usual pages.
const LOADED: Step = Step {
    name: Some("tmpfs"),
    args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --console tty \
           --memory size=512M,hugepages=on",
    ..PCI
};

/// All scenarios.
pub const ALL: &[Workload] = &[
    Workload {
        name: "serial",
        about: "an initramfs and a serial console, 256 MiB, 1 vCPU",
        memory_mib: 256,
        features: &["serial", "coalesced-serial"],
        patch: None,
        kernel: GUEST,
        steps: &[Step {
            name: None,
            args: "--kernel {kernel} --initramfs {initramfs} --cmdline '{cmdline}' \
                   --serial file={serial} --memory size=256M",
            cmdline: "quiet console=ttyS0",
            console: Console::Serial,
            root: Root::Initramfs,
            disk: Disk::None,
            hugepages: false,
        }],
    },
    // The five commands of Rob Bradford's talk "How Fast Can We Go? Booting a Linux VM to Userspace
    // in 100ms and Beyond", with {disk} for jammy.raw.
    Workload {
        name: "talk",
        about: "the five commands of the talk, a partitioned ext4 image, 512 MiB, 1 vCPU",
        memory_mib: 512,
        features: &["serial", "coalesced-serial", "console", "block", "pmem", "hugepages"],
        patch: None,
        kernel: GUEST,
        steps: &[
            Step {
                name: Some("serial"),
                args: "--kernel {kernel} --disk path={disk} --cmdline '{cmdline}' --serial tty \
                       --console off --memory size=512M",
                cmdline: "root=/dev/vda1 console=ttyS0",
                console: Console::Serial,
                root: Root::Ext4Partition,
                disk: Disk::Block,
                hugepages: false,
            },
            Step {
                name: Some("virtio-console"),
                args: "--kernel {kernel} --disk path={disk} --cmdline '{cmdline}' --serial null \
                       --console tty --memory size=512M",
                cmdline: "root=/dev/vda1 console=hvc0",
                console: Console::Virtio,
                root: Root::Ext4Partition,
                disk: Disk::Block,
                hugepages: false,
            },
            Step {
                name: Some("quiet"),
                args: "--kernel {kernel} --disk path={disk} --cmdline '{cmdline}' --serial null \
                       --console tty --memory size=512M",
                cmdline: "root=/dev/vda1 console=hvc0 quiet",
                console: Console::Virtio,
                root: Root::Ext4Partition,
                disk: Disk::Block,
                hugepages: false,
            },
            Step {
                name: Some("pmem"),
                args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --serial null \
                       --console tty --memory size=512M",
                cmdline: "root=/dev/pmem0p1 console=hvc0 quiet",
                console: Console::Virtio,
                root: Root::Ext4Partition,
                disk: Disk::Pmem,
                hugepages: false,
            },
            Step {
                name: Some("hugepages"),
                args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --serial null \
                       --console tty --memory size=512M,hugepages=on",
                cmdline: "root=/dev/pmem0p1 console=hvc0 quiet",
                console: Console::Virtio,
                root: Root::Ext4Partition,
                disk: Disk::Pmem,
                hugepages: true,
            },
        ],
    },
    // The talk's last step with all that can be left out left out: the features of the scenario
    // `pmem-hugepages`, a kernel that is tuned for it, an image without partitions.
    Workload {
        name: "micro",
        about: "the tuned kernel, pmem and pages of 2 MiB, 128 MiB, 1 vCPU",
        memory_mib: 128,
        features: &["console", "pmem", "hugepages"],
        patch: None,
        kernel: Kernel::Own(Config::Micro),
        steps: &[
            MICRO,
            Step {
                name: Some("erofs"),
                cmdline: "root=/dev/pmem0 rootfstype=erofs rootflags=dax console=hvc0 quiet",
                root: Root::Erofs,
                ..MICRO
            },
            Step {
                name: Some("erofs, kernel on hugetlbfs"),
                args: "--kernel {hugetlbfs} --pmem file={disk} --cmdline '{cmdline}' --console tty \
                       --memory size=128M,hugepages=on",
                cmdline: "root=/dev/pmem0 rootfstype=erofs rootflags=dax console=hvc0 quiet",
                root: Root::Erofs,
                ..MICRO
            },
        ],
    },
    Workload {
        name: "loading",
        about: "the talk's last command, with the kernel's file in pages of 4 KiB and of 2 MiB",
        memory_mib: 512,
        features: &["console", "pmem", "hugepages"],
        patch: None,
        kernel: GUEST,
        steps: &[
            LOADED,
            Step {
                name: Some("tmpfs, huge=always"),
                args: "--kernel {huge-tmpfs} --pmem file={disk} --cmdline '{cmdline}' --console tty \
                       --memory size=512M,hugepages=on",
                ..LOADED
            },
            Step {
                name: Some("hugetlbfs"),
                args: "--kernel {hugetlbfs} --pmem file={disk} --cmdline '{cmdline}' --console tty \
                       --memory size=512M,hugepages=on",
                ..LOADED
            },
        ],
    },
    Workload {
        name: "pci",
        about: "a partitioned ext4 image as pmem over PCI, pages of 2 MiB, 512 MiB, 1 vCPU",
        memory_mib: 512,
        features: &["serial", "console", "pmem", "pci", "hugepages"],
        patch: None,
        kernel: GUEST,
        steps: &[PCI, PORTS],
    },
    Workload {
        name: "debian-cloud",
        about: "Debian's 6.12 for clouds and its modules, to a Debian on an EROFS partition, 512 MiB, \
                1 vCPU",
        memory_mib: 512,
        features: &["serial", "coalesced-serial", "bzimage", "block", "pmem", "pci"],
        patch: None,
        kernel: Kernel::Stock(&stock::CLOUD),
        steps: &[
            Step {
                name: Some("PCI, block"),
                args: "--kernel {kernel} --initramfs {initramfs} --disk path={disk},readonly=on \
                       --transport pci --cmdline '{cmdline}' --serial file={serial} \
                       --memory size=512M",
                cmdline: "root=/dev/vda1 console=ttyS0 quiet",
                console: Console::Serial,
                root: Root::Debian,
                disk: Disk::Block,
                hugepages: false,
            },
            Step {
                name: Some("PCI, pmem"),
                args: "--kernel {kernel} --initramfs {initramfs} --pmem \
                       file={disk},discard_writes=on --transport pci --cmdline '{cmdline}' \
                       --serial file={serial} --memory size=512M",
                cmdline: "root=/dev/pmem0p1 console=ttyS0 quiet",
                console: Console::Serial,
                root: Root::Debian,
                disk: Disk::Pmem,
                hugepages: false,
            },
            Step {
                name: Some("MMIO, pmem"),
                args: "--kernel {kernel} --initramfs {initramfs} --pmem \
                       file={disk},discard_writes=on --cmdline '{cmdline}' \
                       --serial file={serial} --memory size=512M",
                cmdline: "root=/dev/pmem0p1 console=ttyS0 quiet",
                console: Console::Serial,
                root: Root::Debian,
                disk: Disk::Pmem,
                hugepages: false,
            },
        ],
    },
    // "What about THP?", a question to the talk.
    Workload {
        name: "pages",
        about: "the talk's last command, with guest memory in pages of 4 KiB, by THP and of 2 MiB",
        memory_mib: 512,
        features: &["console", "pmem", "hugepages", "thp"],
        kernel: GUEST,
        patch: None,
        steps: &[
            Step { name: Some("4 KiB"), args: PAGES_4K, hugepages: false, ..LOADED },
            Step { name: Some("THP"), args: PAGES_THP, hugepages: false, ..LOADED },
            Step { name: Some("2 MiB"), ..LOADED },
        ],
    },
    Workload {
        name: "micro-initramfs",
        about: "the tuned kernel and an initramfs, no console, pages of 2 MiB, 128 MiB, 1 vCPU",
        memory_mib: 128,
        features: &["hugepages"],
        patch: None,
        kernel: Kernel::Own(Config::Micro),
        steps: &[Step {
            name: None,
            args: "--kernel {kernel} --initramfs {initramfs} --cmdline '{cmdline}' \
                   --memory size=128M,hugepages=on",
            cmdline: "quiet",
            root: Root::Initramfs,
            disk: Disk::None,
            ..MICRO
        }],
    },
    // The stopwatch has one CPU, on which the vCPUs take turns.
    Workload {
        name: "vcpus",
        about: "an initramfs and a serial console, and a pmem with 2 MiB pages, 512 MiB, 4 vCPUs",
        memory_mib: 512,
        features: &["serial", "coalesced-serial", "console", "pmem", "hugepages", "smp"],
        kernel: GUEST,
        patch: None,
        steps: &[
            Step {
                name: Some("serial"),
                args: "--kernel {kernel} --initramfs {initramfs} --cmdline '{cmdline}' \
                       --serial file={serial} --cpus boot=4 --memory size=512M",
                cmdline: "quiet console=ttyS0",
                console: Console::Serial,
                root: Root::Initramfs,
                disk: Disk::None,
                hugepages: false,
            },
            Step {
                name: Some("pmem"),
                args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --console tty \
                       --cpus boot=4 --memory size=512M,hugepages=on",
                ..LOADED
            },
        ],
    },
    // The same clock: what a further vCPU adds is all that both execute for it.
    Workload {
        name: "micro-smp",
        about: "the tuned kernel for several CPUs, EROFS on pmem, pages of 2 MiB, 128 MiB, 1, 2 and 4 vCPUs",
        memory_mib: 128,
        features: &["console", "pmem", "hugepages", "smp"],
        patch: None,
        kernel: Kernel::Own(Config::MicroSmp),
        steps: &[
            Step { name: Some("1 vCPU"), ..MICRO_SMP },
            Step {
                name: Some("2 vCPUs"),
                args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --console tty \
                       --memory size=128M,hugepages=on --cpus boot=2",
                ..MICRO_SMP
            },
            Step {
                name: Some("4 vCPUs"),
                args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --console tty \
                       --memory size=128M,hugepages=on --cpus boot=4",
                ..MICRO_SMP
            },
        ],
    },
    platform::SCENARIO,
];

const MICRO_SMP: Step = Step {
    cmdline: "root=/dev/pmem0 rootfstype=erofs rootflags=dax console=hvc0 quiet",
    root: Root::Erofs,
    ..MICRO
};

const PAGES_4K: &str = "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --console tty \
                        --memory size=512M";
const PAGES_THP: &str = "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --console tty \
                         --memory size=512M,thp=on";

pub const MICRO: Step = Step {
    name: Some("ext4"),
    args: "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --console tty \
           --memory size=128M,hugepages=on",
    cmdline: "root=/dev/pmem0 rootfstype=ext4 rootflags=dax console=hvc0 quiet",
    console: Console::Virtio,
    root: Root::Ext4,
    disk: Disk::Pmem,
    hugepages: true,
};

/// The scenario called `name`.
///
/// # Errors
/// There is none; the error lists those there are.
pub fn find(name: &str) -> Result<&'static Workload> {
    if let Some(scenario) = ALL.iter().find(|s| s.name == name) {
        return Ok(scenario);
    }
    let others = [
        (super::restore::NAME, super::restore::ABOUT),
        (super::bundle::NAME, super::bundle::ABOUT),
    ];
    let all = ALL.iter().map(|s| (s.name, s.about)).chain(others);
    let list: String = all.map(|(name, about)| format!("\n  {name}: {about}")).collect();
    bail!("--scenario {name}: there is no such scenario; there are:{list}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_or_listed() {
        assert_eq!(find("talk").unwrap().steps.len(), 5);
        let error = find("tallk").err().unwrap().to_string();
        assert!(
            error.contains("\n  serial: an initramfs") && error.contains("\n  talk:"),
            "{error}"
        );
    }

    #[test]
    fn arguments_fit_the_description() {
        for scenario in ALL {
            for step in scenario.steps {
                let size = format!("--memory size={}M", scenario.memory_mib);
                let fits = scenario.name == platform::SCENARIO.name || step.args.contains(&size);
                assert!(fits, "{}", step.args);
                assert_eq!(step.args.contains("hugepages=on"), step.hugepages);
                assert_eq!(step.args.contains("--disk"), step.disk == Disk::Block);
                assert_eq!(step.args.contains("--pmem"), step.disk == Disk::Pmem);
                let initramfs =
                    step.root == Root::Initramfs || matches!(scenario.kernel, Kernel::Stock(_));
                assert_eq!(step.root == Root::Initramfs, step.disk == Disk::None);
                assert_eq!(step.args.contains("{initramfs}"), initramfs);
                assert_eq!(scenario.steps.len() > 1, step.name.is_some());
            }
        }
        let pages = ["serial", "talk", "loading"].map(|name| find(name).unwrap().hugepages());
        assert_eq!(pages, [0, 256, 272]);
    }
}
