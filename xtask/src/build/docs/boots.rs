//! Boot times for features.md, from `xtask/measured/`: `NAME.json` of a scenario, which `cargo xtask
//! readme` or `cargo xtask bench --scenario NAME --json FILE` writes, and `ab-NAME.json` of a
//! technique, by `cargo xtask bench --ab NAME --json FILE`.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::thousands;
use crate::measure::bench::pci::GROUPS;
use crate::paths;

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
    let mut text = "\n## What they gain\n\nVirtual milliseconds of the lab's stopwatch, in which each \
                    instruction of host and guest takes 1 ns; medians; brisk linked statically. \
                    Measured by `cargo xtask readme`, and techniques by `cargo xtask bench --ab NAME \
                    --json xtask/measured/ab-NAME.json`; then `cargo xtask docs`.\n\n"
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
    for row in rows(&read("debian-cloud")?)? {
        let vmm = row["vmm"].as_str().context("no vmm")?;
        boot(&mut text, vmm, row)?;
    }
    text += "\nWhat PCI costs until userspace, in exits to brisk, and why each group is left: a console \
             and a pmem, found by the enhanced configuration space, which the guest reads as memory, and \
             by ports (`cargo xtask bench --scenario pci`):\n\n";
    pci(&mut text, &read("pci")?)?;
    Ok(text)
}

/// Keeps what `cargo xtask readme` measured, so that both texts have the same figures.
///
/// # Errors
/// The file cannot be written.
pub fn save(name: &str, report: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    fs::write(path(name), text).with_context(|| path(name).display().to_string())
}

fn path(name: &str) -> PathBuf {
    paths::workspace().join(format!("xtask/measured/{name}.json"))
}

/// What was measured as `name`.
///
/// # Errors
/// The file is missing or no JSON.
pub(super) fn read(name: &str) -> Result<Value> {
    let path = path(name);
    let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
}

pub(super) fn rows(report: &Value) -> Result<&Vec<Value>> {
    report["rows"].as_array().context("no rows")
}

pub(super) fn step(row: &Value) -> &str {
    row["step"].as_str().unwrap_or("–")
}

pub(super) fn median(row: &Value, key: &str) -> Result<f64> {
    row[key]["median"].as_f64().with_context(|| format!("no {key}"))
}

/// Exits of all reasons.
pub(super) fn count(row: &Value) -> Result<u64> {
    let reasons = row["exits"].as_object().context("no exits")?;
    Ok(reasons.values().filter_map(|reason| reason["count"].as_u64()).sum())
}

fn exits(row: &Value) -> Result<String> {
    Ok(thousands(count(row)?))
}

/// A line for each step of brisk's; peers are the README's.
fn boots(text: &mut String, name: &str, report: &Value) -> Result<()> {
    for row in rows(report)?.iter().filter(|row| row["vmm"] == "brisk") {
        boot(text, name, row)?;
    }
    Ok(())
}

fn boot(text: &mut String, name: &str, row: &Value) -> Result<()> {
    write!(text, "| {name} | {} |", step(row))?;
    for key in ["setup_ms", "guest_ms", "host_ms", "total_ms"] {
        write!(text, " {:.2} |", median(row, key)?)?;
    }
    writeln!(text, " {} |", exits(row)?)?;
    Ok(())
}

/// A line for each group of exits, a column for each step.
fn pci(text: &mut String, report: &Value) -> Result<()> {
    let rows = rows(report)?;
    let line = |text: &mut String, name: &str, of: &dyn Fn(&Value) -> String, why: &str| {
        let counts: String = rows.iter().map(|row| format!(" {} |", of(row))).collect();
        writeln!(text, "| {name} |{counts} {why} |")
    };
    line(text, "accesses", &|row| step(row).to_owned(), "why they are left")?;
    writeln!(text, "|---|{}---|", "--:|".repeat(rows.len()))?;
    for (name, why) in GROUPS {
        let count = |row: &Value| row["pci"][name].as_u64().map_or("–".to_owned(), thousands);
        line(text, name, &count, why)?;
    }
    let all = |row: &Value| {
        let groups = row["pci"].as_object().into_iter().flatten();
        thousands(groups.filter_map(|(_, count)| count.as_u64()).sum())
    };
    line(text, "all", &all, "")?;
    Ok(())
}

/// A line for each boot: two rows of it, the first without.
fn technique(text: &mut String, name: &str, report: &Value) -> Result<()> {
    let rows = rows(report)?;
    for (index, without) in rows.iter().enumerate() {
        let later = rows[index + 1..].iter().find(|row| step(row) == step(without));
        let Some(with) = later else { continue };
        let (boot, before, after) =
            (step(without), median(without, "total_ms")?, median(with, "total_ms")?);
        let (many, few) = (exits(without)?, exits(with)?);
        writeln!(text, "| {name} | {boot} | {before:.2} | {after:.2} | {many} | {few} |")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(step: &str, total: f64, npf: u64) -> Value {
        let ms = json!({ "median": total });
        json!({ "vmm": "brisk", "step": step, "setup_ms": ms, "guest_ms": ms, "host_ms": ms,
                "total_ms": ms, "exits": { "npf": { "count": npf }, "io": { "count": 1000 } } })
    }

    #[test]
    fn a_line_for_each_step() {
        let mut text = String::new();
        boots(&mut text, "s", &json!({ "rows": [row("a", 1.234, 5)] })).unwrap();
        assert_eq!(text, "| s | a | 1.23 | 1.23 | 1.23 | 1.23 | 1,005 |\n");
        assert!(boots(&mut text, "s", &json!({})).is_err());
    }

    #[test]
    fn a_line_for_each_group_of_exits() {
        let mut text = String::new();
        let [(first, why), ..] = GROUPS;
        let rows = [json!({ "step": "a", "pci": { first: 1200 } }), json!({ "step": "b" })];
        pci(&mut text, &json!({ "rows": rows })).unwrap();
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
        let rows = [row("a", 2.0, 9), row("b", 4.0, 8), row("a", 1.0, 0), row("b", 3.0, 1)];
        technique(&mut text, "t", &json!({ "rows": rows })).unwrap();
        let lines =
            ["| t | a | 2.00 | 1.00 | 1,009 | 1,000 |", "| t | b | 4.00 | 3.00 | 1,008 | 1,001 |"];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    }
}
