//! `cargo xtask bench --scenario platform`: what the guest does because of what brisk shows it, one
//! change at a time.

use std::fmt::Write as _;
use tabled::builder::Builder;

use super::stats::{Report, Row};
use super::workload::{Disk, Root, Step, Workload};
use super::{patch, table};
use crate::guest::kernel::Config;
use crate::guest::{Console, Kernel};

/// brisk's arguments: the guest's memory, and what is changed.
macro_rules! args {
    ($memory:literal, $change:literal) => {
        concat!(
            "--kernel {kernel} --pmem file={disk} --cmdline '{cmdline}' --console tty \
             --memory size=",
            $memory,
            ",hugepages=on ",
            $change
        )
    };
}

/// The guest's command line with more parameters.
macro_rules! line {
    ($words:literal) => {
        concat!("root=/dev/pmem0p1 console=hvc0 quiet", $words)
    };
}

const fn step(name: &'static str, args: &'static str, cmdline: &'static str) -> Step {
    Step {
        name: Some(name),
        args,
        cmdline,
        console: Console::Virtio,
        root: Root::Ext4Partition,
        disk: Disk::Pmem,
        hugepages: true,
    }
}

/// A row that brisk's arguments make different, or a parameter of the kernel's.
macro_rules! variant {
    ($name:literal, $args:literal) => {
        step($name, args!("512M", $args), line!(""))
    };
    ($name:literal, word $word:literal) => {
        step($name, args!("512M", ""), line!($word))
    };
}

/// The scenario. Its first step is the baseline, the others are variants.
pub const SCENARIO: Workload = Workload {
    name: "platform",
    about: "pmem and 2 MiB pages, 512 MiB, 1 vCPU, one change at a time",
    memory_mib: 4096,
    features: &["serial", "console", "pmem", "pci", "hugepages"],
    patch: Some(&patch::PLATFORM),
    kernel: Kernel::Own(Config::Guest),
    steps: &[
        variant!("as it is", ""),
        variant!("without `8250.nr_uarts=0`", "--ab without=8250"),
        variant!("without `pty.legacy_count=0`", "--ab without=pty"),
        variant!("a parameter that Linux does not know", word " brisk.nothing"),
        variant!("with `tsc=reliable`", word " tsc=reliable"),
        variant!("with `no_timer_check`", word " no_timer_check"),
        variant!("without `pci=off`", "--ab without=pci"),
        variant!("a UART, `--serial null`", "--serial null"),
        variant!("an IOAPIC with 24 pins", "--ab ioapic-24"),
        variant!("xAPIC: `nox2apic`", word " nox2apic"),
        variant!("no TSC_DEADLINE", "--ab no-tsc-deadline"),
        variant!("no KVM_FEATURE_NOP_IO_DELAY", "--ab io-delay"),
        variant!("IA32_ARCH_CAPABILITIES on AMD", "--ab arch-capabilities"),
        variant!("two levels of topology for one CPU", "--ab core-level"),
        variant!("empty CPUID leaves up to 0x1f and 0x80000022", "--ab empty-leaves"),
        variant!("no ACPI: `acpi=off`", word " acpi=off"),
        variant!("virtio over PCI", "--transport pci"),
        variant!("entry by PVH", "--boot-protocol pvh"),
        step("128 MiB", args!("128M", ""), line!("")),
        step("4 GiB", args!("4G", ""), line!("")),
        step("4 GiB without `swiotlb=noforce`", args!("4G", "--ab without=swiotlb"), line!("")),
        variant!("no asynchronous page faults: `no-kvmapf`", word " no-kvmapf"),
        variant!("lock prefixes left in: `noreplace-smp`", word " noreplace-smp"),
    ],
};

/// The report: each step's figures, and its difference to the first.
pub fn render(report: &Report) -> String {
    let mut text = format!("{}: {}\n", report.scenario, SCENARIO.about);
    let _ = writeln!(text, "virtual ms, medians, and the difference to the first row\n");
    let mut rows = Builder::default();
    rows.push_record(["", "set-up", "guest", "host", "total", "", "exits", ""]);
    let Some(first) = report.rows.first() else { return text };
    for row in &report.rows {
        let ms = |value: f64| format!("{value:.2}");
        let exits = |row: &Row| row.all_exits().cast_signed();
        rows.push_record([
            row.step.clone().unwrap_or_default(),
            ms(row.setup_ms.median),
            ms(row.guest_ms.median),
            ms(row.host_ms.median),
            ms(row.total_ms.median),
            format!("{:+.2}", row.total_ms.median - first.total_ms.median),
            exits(row).to_string(),
            format!("{:+}", exits(row) - exits(first)),
        ]);
    }
    text += &table::finish(rows);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::trace::Boot;
    use super::*;

    #[test]
    fn differences_to_the_first_row() {
        let row = |step, total| {
            let boot = Boot { total, ..Boot::default() };
            Row::new("brisk", Some(step), std::slice::from_ref(&boot), &boot).unwrap()
        };
        let rows = vec![row("as it is", 2_000), row("a", 2_500), row("b", 1_250)];
        let text = render(&Report { clock: "lab", scenario: "platform".to_owned(), rows });
        for wanted in ["| as it is |", "2.50 | +0.50 |", "1.25 | -0.75 |"] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
    }
}
