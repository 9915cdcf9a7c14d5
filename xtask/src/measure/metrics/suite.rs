//! The table of metrics: what each is, and what it is measured with. Names are those of Cloud
//! Hypervisor's suite where the thing is the same.

use anyhow::{Context, Result};

use crate::measure::bench::scenario;
use crate::measure::bench::workload::{Disk, Root, Step, Workload};

/// A boot to userspace.
#[derive(Debug)]
pub struct BootMetric {
    /// The metric.
    pub name: &'static str,
    /// `bench --scenario`'s.
    scenario: &'static str,
    /// Its step, where it has several.
    step: Option<&'static str>,
    /// vCPUs.
    pub vcpus: u32,
    /// Whether `--quick` has it.
    pub quick: bool,
    /// A line for the page.
    pub about: &'static str,
}

/// All boots, in the order of the page.
pub const BOOTS: &[BootMetric] = &[
    boot("boot_time_ms", "serial", None, true, "initramfs and serial console"),
    boot("boot_time_talk_serial_ms", "talk", Some("serial"), true, "the talk's first step"),
    boot(
        "boot_time_talk_console_ms",
        "talk",
        Some("virtio-console"),
        true,
        "virtio-console in place of the UART",
    ),
    boot("boot_time_talk_quiet_ms", "talk", Some("quiet"), true, "and quiet"),
    boot("boot_time_pmem_ms", "talk", Some("pmem"), true, "and pmem in place of block"),
    boot(
        "boot_time_pmem_hugepages_ms",
        "talk",
        Some("hugepages"),
        true,
        "the talk's last step: 2 MiB pages",
    ),
    boot("boot_time_micro_ms", "micro", Some("ext4"), true, "the tuned kernel, ext4 on pmem"),
    boot(
        "boot_time_micro_erofs_ms",
        "micro",
        Some("erofs"),
        true,
        "the tuned kernel, EROFS on pmem",
    ),
    boot(
        "boot_time_micro_initramfs_ms",
        "micro-initramfs",
        None,
        true,
        "the tuned kernel, an initramfs, no console",
    ),
    boot(
        "boot_time_pages_4k_ms",
        "pages",
        Some("4 KiB"),
        false,
        "the last step, no UART, pages as the host gives them: by L1's default (always) transparent huge ones too",
    ),
    boot(
        "boot_time_pages_thp_ms",
        "pages",
        Some("THP"),
        false,
        "the same, transparent huge pages asked for by thp=on",
    ),
    boot(
        "boot_time_pages_2m_ms",
        "pages",
        Some("2 MiB"),
        false,
        "the same by 2 MiB pages of the pool",
    ),
    boot("boot_time_pci_ms", "pci", Some("PCI"), false, "console and pmem over PCI"),
    boot(
        "boot_time_debian_cloud_ms",
        "debian-cloud",
        Some("PCI, block"),
        false,
        "Debian's kernel for clouds",
    ),
    BootMetric {
        vcpus: 4,
        ..boot(
            "boot_time_4_vcpus_ms",
            "vcpus",
            Some("serial"),
            false,
            "initramfs and serial console, 4 vCPUs",
        )
    },
    BootMetric {
        vcpus: 4,
        ..boot(
            "boot_time_4_vcpus_pmem_ms",
            "vcpus",
            Some("pmem"),
            false,
            "pmem and 2 MiB pages, 4 vCPUs",
        )
    },
];

const fn boot(
    name: &'static str,
    scenario: &'static str,
    step: Option<&'static str>,
    quick: bool,
    about: &'static str,
) -> BootMetric {
    BootMetric { name, scenario, step, vcpus: 1, quick, about }
}

impl BootMetric {
    /// What is booted.
    ///
    /// # Errors
    /// The table is wrong, which a test sees.
    pub fn find(&self) -> Result<(&'static Workload, &'static Step)> {
        let scenario = scenario::find(self.scenario)?;
        let step = scenario.steps.iter().find(|step| step.name == self.step);
        Ok((scenario, step.with_context(|| format!("{} has no such step", self.scenario))?))
    }

    /// Memory, vCPUs, kernel and image, in words.
    pub fn control(&self, scenario: &Workload, step: &Step) -> String {
        let kernel = scenario.kernel.name();
        let image = match step.root {
            Root::Initramfs => "initramfs",
            Root::Ext4 | Root::Ext4Partition => "ext4",
            Root::Erofs => "EROFS",
            Root::Debian => "Debian on EROFS",
        };
        let behind = match step.disk {
            Disk::None => "",
            Disk::Block => " on block",
            Disk::Pmem => " on pmem",
        };
        let pages = match (step.hugepages, step.args.contains("thp=on")) {
            (true, _) => " in 2 MiB pages",
            (_, true) => " by THP",
            _ => "",
        };
        format!(
            "{} MiB{pages}, {} vCPU, {kernel} kernel, {image}{behind}",
            scenario.memory_mib, self.vcpus
        )
    }
}

/// The boot metric of this name.
///
/// # Errors
/// There is none; the error lists those there are.
pub fn find(name: &str) -> Result<&'static BootMetric> {
    BOOTS.iter().find(|metric| metric.name == name).with_context(|| {
        let names: Vec<&str> = BOOTS.iter().map(|metric| metric.name).collect();
        format!("{name}: no such metric of a boot; there are {}", names.join(", "))
    })
}

/// What the page says of a metric that is no boot.
pub fn about(name: &str) -> &'static str {
    match name {
        "system_calls_until_first_instruction" => "from brisk's exec, the talk's last step",
        "page_faults_until_first_instruction" => {
            "from brisk's exec, its own and the kernel's, the talk's last step"
        }
        "restore_latency_time_ms" => "a guest goes on from a snapshot, until its first mark",
        "restore_latency_time_working_set_ms" => {
            "the same from a tmpfs with huge pages, by a working set that was recorded"
        }
        "host_memory_idle_KiB" => "host memory of an idle VM beside its guest's",
        _ if name.starts_with("block_") => match name {
            _ if name.contains("random_read") => "fio, reads of 4 KiB anywhere, 32 at a time",
            _ if name.contains("random_write") => "fio, writes of 4 KiB anywhere, 32 at a time",
            _ if name.contains("read") => "fio, reads in order of 4 KiB, 32 at a time",
            _ => "fio, writes in order of 4 KiB, 32 at a time",
        },
        _ if name.starts_with("binary_bytes_") => "the static binary of a scenario of features.md",
        _ => BOOTS.iter().find(|metric| metric.name == name).map_or("", |metric| metric.about),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_a_boot_that_bench_knows() {
        for metric in BOOTS {
            let (scenario, step) = metric.find().unwrap();
            let cpus = step.args.contains(&format!("--cpus boot={}", metric.vcpus));
            assert_eq!(cpus, metric.vcpus > 1, "{}", metric.name);
            assert!(!step.places_kernel() && !metric.about.is_empty(), "{}", metric.name);
            assert!(metric.name.ends_with("_ms"));
            assert!(metric.control(scenario, step).contains("MiB"));
        }
        assert!(find("boot_time").unwrap_err().to_string().contains("boot_time_pmem_ms"));
    }
}
