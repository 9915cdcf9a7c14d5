//! What a disk serves, by `cargo xtask bench --fio --record`.

use anyhow::{Context, Result};
use std::fmt::Write as _;

use super::boots;
use crate::measure::metrics::history::Entry;

/// The section.
///
/// # Errors
/// The measurement is missing or not what `bench` writes.
pub fn section() -> Result<String> {
    let mut text = "\n## Requests to a disk\n\nBy fio in the guest, 4 KiB each, `guest.config`, one vCPU, \
                    virtio over MMIO: requests in a virtual millisecond of the stopwatch, beside QEMU's \
                    microvm with `aio=io_uring` in the same lab. The image is on a tmpfs: \
                    no request waits for a disk, so that both engines do it in the exit. Measured by `cargo xtask bench \
                    --fio --record`; then `cargo xtask docs`.\n\n\
                    | job | at a time | QEMU microvm | `engine=sync` | ratio | \
                    `engine=io_uring` | ratio |\n|---|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    table(&mut text, &boots::read("fio")?)?;
    Ok(text)
}

/// A line for each job and depth: an entry of QEMU's and two of brisk's, called `JOB, DEPTH, ENGINE`.
fn table(text: &mut String, rows: &[Entry]) -> Result<()> {
    for peer in rows.iter().filter(|row| row.vmm != "brisk") {
        let (what, _) = peer.name.rsplit_once(", ").context("no engine")?;
        let (job, depth) = what.rsplit_once(", ").context("no depth")?;
        let brisk = |engine: &str| {
            let name = format!("{what}, {engine}");
            let found = rows.iter().find(|row| row.vmm == "brisk" && row.name == name);
            boots::total(found.with_context(|| format!("no {name}"))?)
        };
        let (theirs, sync, ring) = (boots::total(peer)?, brisk("sync")?, brisk("io_uring")?);
        writeln!(
            text,
            "| {job} | {depth} | {theirs:.1} | {sync:.1} | {:.2} | {ring:.1} | {:.2} |",
            sync / theirs,
            ring / theirs
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::boots::tests::row;
    use super::*;

    #[test]
    fn a_line_for_each_job() {
        let row =
            |vmm: &str, engine: &str, per_ms| row(vmm, &format!("read, 32, {engine}"), per_ms, 0);
        let mut rows = vec![row("brisk", "io_uring", 15.0), row("QEMU microvm", "io_uring", 10.0)];
        let mut text = String::new();
        assert!(table(&mut text, &rows).is_err());
        rows.push(row("brisk", "sync", 40.0));
        let mut text = String::new();
        table(&mut text, &rows).unwrap();
        assert_eq!(text, "| read | 32 | 10.0 | 40.0 | 4.00 | 15.0 | 1.50 |\n");
    }
}
