//! Boot times for the page of measurements, from the history: of a scenario, which `cargo xtask readme`
//! or `cargo xtask bench --scenario NAME --record` adds, and of a technique, by `cargo xtask bench --ab
//! NAME --record`.

use anyhow::{Context, Result};
use std::fmt::Write as _;

use super::thousands;
use crate::measure::bench::pci::GROUPS;
use crate::measure::metrics::history::{self, Entry};

/// The scenarios, in the order of the table.
const SCENARIOS: [&str; 4] = ["serial", "talk", "loading", "micro"];
/// The techniques that were weighed.
const TECHNIQUES: [&str; 5] =
    ["mcfg-one-bus", "msix-skip", "pio-fast-path", "ioeventfd", "coalesced-serial"];

/// The section.
///
/// # Errors
/// A measurement is missing or not what `bench` writes.
pub fn section() -> Result<String> {
    let mut text = "\n## What the features gain\n\nVirtual milliseconds of the lab's stopwatch, in which each \
                    instruction of host and guest takes 1 ns; medians; brisk linked statically. \
                    Measured by `cargo xtask readme`, and techniques by `cargo xtask bench --ab NAME \
                    --record`; then `cargo xtask docs`.\n\n"
        .to_owned();
    text += "The boot from an initramfs with 256 MiB, then the talk's ladder with 512 MiB, where each \
             step keeps what the one before has: serial and block, virtio-console in place of the UART, \
             `quiet`, pmem in place of block, 2 MiB pages. `loading` is its last step, without a UART, with \
             the kernel's file in the page cache's 4 KiB pages, in a tmpfs's huge pages and, by `cargo xtask \
             place`, on a hugetlbfs. `micro` is the tuned kernel with 128 MiB.\n\n";
    text += "| scenario | step | set-up | guest | host | total | exits |\n|---|---|--:|--:|--:|--:|--:|\n";
    for name in SCENARIOS {
        boots(&mut text, name, &read(name)?)?;
    }
    text += "\nOne thing at a time, without it and with it:\n\n\
             | technique | boot | total without | with | exits without | with |\n\
             |---|---|--:|--:|--:|--:|\n";
    for name in TECHNIQUES {
        technique(&mut text, name, &read(&format!("ab-{name}"))?)?;
    }
    text += "\nDebian's 6.12 for clouds, as packed, with its modules in an initramfs, to a Debian on an \
             EROFS partition, 512 MiB; QEMU with the same files (`cargo xtask bench --scenario \
             debian-cloud --peer qemu --peer qemu-q35`):\n\n\
             | VMM | step | set-up | guest | host | total | exits |\n|---|---|--:|--:|--:|--:|--:|\n";
    for row in &read("debian-cloud")? {
        boot(&mut text, &row.vmm, row)?;
    }
    text += "\nWhat PCI costs until userspace, in exits to brisk, and why each group is left: a console \
             and a pmem, found by the enhanced configuration space, which the guest reads as memory, and \
             by ports (`cargo xtask bench --scenario pci`):\n\n";
    pci(&mut text, &read("pci")?)?;
    Ok(text)
}

/// What was measured last as `name`.
///
/// # Errors
/// Nothing was, or the history cannot be read.
pub(super) fn read(name: &str) -> Result<Vec<Entry>> {
    history::newest(&history::read(&history::path())?, name)
}

pub(super) fn step(row: &Entry) -> &str {
    if row.name == "boot" { "–" } else { &row.name }
}

/// Set-up, guest, host and total, in ms.
pub(super) fn times(row: &Entry) -> Result<[f64; 4]> {
    let [setup, guest, host] =
        row.metric.parts.with_context(|| format!("no parts of {}", row.name))?;
    Ok([setup, guest, host, total(row)?])
}

pub(super) fn total(row: &Entry) -> Result<f64> {
    row.metric.value().with_context(|| format!("no samples of {}", row.name))
}

fn exits(row: &Entry) -> String {
    thousands(row.metric.count())
}
/// A line for each step of brisk's; peers are the README's.
fn boots(text: &mut String, name: &str, rows: &[Entry]) -> Result<()> {
    for row in rows.iter().filter(|row| row.vmm == "brisk") {
        boot(text, name, row)?;
    }
    Ok(())
}

fn boot(text: &mut String, name: &str, row: &Entry) -> Result<()> {
    write!(text, "| {name} | {} |", step(row))?;
    for time in times(row)? {
        write!(text, " {time:.2} |")?;
    }
    writeln!(text, " {} |", exits(row))?;
    Ok(())
}

/// A line for each group of exits, a column for each step.
fn pci(text: &mut String, rows: &[Entry]) -> Result<()> {
    let line = |text: &mut String, name: &str, of: &dyn Fn(&Entry) -> String, why: &str| {
        let counts: String = rows.iter().map(|row| format!(" {} |", of(row))).collect();
        writeln!(text, "| {name} |{counts} {why} |")
    };
    line(text, "accesses", &|row| step(row).to_owned(), "why they are left")?;
    writeln!(text, "|---|{}---|", "--:|".repeat(rows.len()))?;
    for (name, why) in GROUPS {
        let count =
            |row: &Entry| row.metric.pci.get(name).map_or("–".to_owned(), |n| thousands(*n));
        line(text, name, &count, why)?;
    }
    let all = |row: &Entry| thousands(row.metric.pci.values().sum());
    line(text, "all", &all, "")?;
    Ok(())
}

/// A line for each boot: two rows of it, the first without.
fn technique(text: &mut String, name: &str, rows: &[Entry]) -> Result<()> {
    for (index, without) in rows.iter().enumerate() {
        let later = rows[index + 1..].iter().find(|row| step(row) == step(without));
        let Some(with) = later else { continue };
        let (boot, before, after) = (step(without), total(without)?, total(with)?);
        let (many, few) = (exits(without), exits(with));
        writeln!(text, "| {name} | {boot} | {before:.2} | {after:.2} | {many} | {few} |")?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::measure::metrics::history::Metric;

    /// A row whose times are all the same.
    pub(in super::super) fn row(vmm: &str, step: &str, total: f64, npf: u64) -> Entry {
        let metric = Metric {
            s: vec![total],
            parts: Some([total; 3]),
            exits: [("npf", npf), ("io", 1000)].map(|(r, n)| (r.to_owned(), (n, 0.1))).into(),
            ..Metric::default()
        };
        Entry { vmm: vmm.into(), name: step.into(), metric, ..Entry::default() }
    }

    #[test]
    fn a_line_for_each_step() {
        let mut text = String::new();
        boots(&mut text, "s", &[row("brisk", "a", 1.234, 5), row("QEMU", "a", 1.0, 5)]).unwrap();
        assert_eq!(text, "| s | a | 1.23 | 1.23 | 1.23 | 1.23 | 1,005 |\n");
        assert!(
            boots(&mut text, "s", &[Entry { vmm: "brisk".into(), ..Entry::default() }]).is_err()
        );
    }

    #[test]
    fn a_line_for_each_group_of_exits() {
        let mut text = String::new();
        let [(first, why), ..] = GROUPS;
        let mut rows = [row("brisk", "a", 1.0, 1), row("brisk", "b", 1.0, 1)];
        rows[0].metric.pci.insert(first.to_owned(), 1200);
        pci(&mut text, &rows).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "| accesses | a | b | why they are left |",
                "|---|--:|--:|---|",
                &*format!("| {first} | 1,200 | – | {why} |")
            ]
        );
        assert_eq!(
            (lines.len(), *lines.last().unwrap()),
            (3 + GROUPS.len(), "| all | 1,200 | 0 |  |")
        );
    }

    #[test]
    fn before_and_after_of_the_same_boot() {
        let mut text = String::new();
        let rows = [
            row("before", "a", 2.0, 9),
            row("before", "b", 4.0, 8),
            row("after", "a", 1.0, 0),
            row("after", "b", 3.0, 1),
        ];
        technique(&mut text, "t", &rows).unwrap();
        let lines =
            ["| t | a | 2.00 | 1.00 | 1,009 | 1,000 |", "| t | b | 4.00 | 3.00 | 1,008 | 1,001 |"];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    }
}
