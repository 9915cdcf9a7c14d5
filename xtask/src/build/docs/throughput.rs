//! What a disk serves, for features.md, from `xtask/measured/fio.json`, which `cargo xtask bench --fio
//! --json FILE` writes.

use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt::Write as _;

use super::boots;

/// The section.
///
/// # Errors
/// The measurement is missing or not what `bench` writes.
pub fn section() -> Result<String> {
    let mut text = "\n## Requests to a disk\n\nBy fio in the guest, 4 KiB each, `guest.config`, one vCPU, \
                    virtio over MMIO: requests in a virtual millisecond of the stopwatch, beside QEMU's \
                    microvm with `aio=io_uring` in the same lab. The image is on a tmpfs: \
                    no request waits for a disk, so that both engines do it in the exit. Measured by `cargo xtask bench \
                    --fio --json xtask/measured/fio.json`; then `cargo xtask docs`.\n\n\
                    | job | at a time | QEMU microvm | `engine=sync` | ratio | \
                    `engine=io_uring` | ratio |\n|---|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    table(&mut text, &boots::read("fio")?)?;
    Ok(text)
}

/// A line for each job and depth: a row of QEMU's and two of brisk's.
fn table(text: &mut String, report: &Value) -> Result<()> {
    let rows = report["rows"].as_array().context("no rows")?;
    for peer in rows.iter().filter(|row| row["vmm"] != "brisk") {
        let per_ms = |row: &Value| row["per_ms"].as_f64().context("no per_ms");
        let brisk = |engine: &str| {
            let same = |row: &&Value| {
                row["vmm"] == "brisk"
                    && row["engine"] == engine
                    && ["depth", "job"].iter().all(|key| row[key] == peer[key])
            };
            per_ms(rows.iter().find(same).with_context(|| format!("no row of {engine}"))?)
        };
        let (job, depth) = (peer["job"].as_str().context("no job")?, &peer["depth"]);
        let (theirs, sync, ring) = (per_ms(peer)?, brisk("sync")?, brisk("io_uring")?);
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
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_for_each_job() {
        let row = |vmm: &str, engine: &str, per_ms: f64| {
            json!({ "vmm": vmm, "engine": engine, "depth": 32, "job": "read",
                    "per_ms": per_ms })
        };
        let mut rows = vec![row("brisk", "io_uring", 15.0), row("QEMU microvm", "io_uring", 10.0)];
        let mut text = String::new();
        assert!(table(&mut text, &json!({ "rows": rows })).is_err());
        rows.push(row("brisk", "sync", 40.0));
        let mut text = String::new();
        table(&mut text, &json!({ "rows": rows })).unwrap();
        assert_eq!(text, "| read | 32 | 10.0 | 40.0 | 4.00 | 15.0 | 1.50 |\n");
    }
}
