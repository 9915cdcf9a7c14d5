//! What a bundle takes and weighs, by `cargo xtask bench --scenario bundle --record`.

use anyhow::{Context, Result};
use std::fmt::Write as _;

use super::boots::{step, times};
use super::thousands;
use crate::measure::bench::bundle::{ENDS, NAME, PARTS};
use crate::measure::metrics::history::{self, Entry, Line};

/// From the start to the end of a VM, as others published it.
const ELSEWHERE: &str = "For comparison, from launch to exit as published elsewhere: libkrun 310 ms, Firecracker \
                         808 ms. Those are real milliseconds of real machines, with other kernels and \
                         images; the clocks differ, so neither can be divided by the other.";

/// The section of features.md; nothing until it was measured.
///
/// # Errors
/// The history cannot be read.
pub fn section() -> Result<String> {
    of(&history::read(&history::path())?)
}

fn of(lines: &[Line]) -> Result<String> {
    if !lines.iter().any(|line| line.suite == NAME) {
        return Ok(String::new());
    }
    let rows = history::newest(lines, NAME)?;
    let mut text =
        "\n## A bundle\n\nThe example, `cargo xtask bundle --hello`: from its exec, virtual milliseconds; the \
         tuned kernel, 1 vCPU, 128 MiB, the file on a tmpfs (`cargo xtask bench --scenario bundle`).\n\n\
         | until | set-up | guest | host | total | exits |\n|---|--:|--:|--:|--:|--:|\n"
            .to_owned();
    for row in rows.iter().filter(|row| ENDS.iter().any(|(name, _)| *name == row.name)) {
        let [setup, guest, host, total] = times(row)?;
        let exits = thousands(row.metric.count());
        let step = step(row);
        writeln!(text, "| {step} | {setup:.2} | {guest:.2} | {host:.2} | {total:.2} | {exits} |")?;
    }
    writeln!(
        text,
        "\nThe exit status is there when the shell that waits for the process goes on. What the total is \
         beyond its parts is how the host's kernel takes the VM apart, most of it waiting.\n\n{ELSEWHERE}\n\n\
         It has {}.",
        bytes(&rows)?
    )?;
    Ok(text)
}

/// A sentence for the README.
///
/// # Errors
/// It was not measured.
pub fn sentence(lines: &[Line]) -> Result<String> {
    let rows = history::newest(lines, NAME)?;
    let total = |index: usize| -> Result<f64> {
        let name = ENDS[index].0;
        Ok(times(find(&rows, name)?)?[3])
    };
    Ok(format!(
        "The example, `cargo xtask bundle --hello`, has {}; on the clock of the figures above it is at its \
         workload's first instruction {:.1} ms after its exec, and its exit status with who started it after \
         {:.1} ([more](features.md#a-bundle)).\n",
        bytes(&rows)?,
        total(1)?,
        total(2)?
    ))
}

/// The whole and its parts.
fn bytes(rows: &[Entry]) -> Result<String> {
    let value = |name: &str| -> Result<String> {
        let value = find(rows, name)?.metric.value().context("no samples")?;
        Ok(thousands(value as u64))
    };
    let [all, brisk, kernel, init, image] = PARTS;
    Ok(format!(
        "{} bytes (brisk {}, kernel {}, init {}, image {})",
        value(all)?,
        value(brisk)?,
        value(kernel)?,
        value(init)?,
        value(image)?
    ))
}

fn find<'a>(rows: &'a [Entry], name: &str) -> Result<&'a Entry> {
    let mut found = rows.iter().filter(|row| row.vmm == "brisk" && row.name == name);
    found.next().with_context(|| format!("{NAME}, {name}: not measured"))
}

#[cfg(test)]
mod tests {
    use super::super::boots::tests::row;
    use super::*;

    #[test]
    fn nothing_before_it_was_measured() {
        assert_eq!(of(&[]).unwrap(), "");
    }

    #[test]
    fn every_part_is_named() {
        let rows: Vec<Entry> = PARTS.iter().map(|part| row("brisk", part, 1234.0, 0)).collect();
        let text = bytes(&rows).unwrap();
        assert!(text.starts_with("1,234 bytes (brisk 1,234, kernel 1,234, init "), "{text}");
        assert!(bytes(&rows[1..]).unwrap_err().to_string().contains("all: not measured"));
    }
}
