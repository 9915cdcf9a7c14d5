//! brisk beside other VMMs, with the same kernel parameters and with each one's own: most of the
//! lead of a serial boot is the parameters that brisk adds.

use anyhow::{Context, Result};
use std::fmt::Write as _;

use super::thousands;
use crate::measure::metrics::history::{self, Entry, Line, METRICS, Metric};

/// The suite of the lines with equal words.
pub const EQUAL: &str = "equal-parameters";
/// What brisk is called where it added no parameters.
pub const WITHOUT: &str = "boot_time_ms without its parameters";

/// The boots, by their metric, with what they are.
const BOOTS: [(&str, &str); 6] = [
    ("boot_time_ms", "serial console and initramfs, 256 MiB"),
    ("boot_time_pmem_hugepages_ms", "the talk's last step: pmem, 2 MiB pages, 512 MiB"),
    ("boot_time_micro_ms", "tuned kernel, ext4 on pmem, 2 MiB pages, 128 MiB"),
    ("boot_time_micro_erofs_ms", "tuned kernel, EROFS on pmem"),
    ("boot_time_micro_initramfs_ms", "tuned kernel, initramfs, no console"),
    ("boot_time_debian_cloud_ms", "Debian's 6.12 for clouds, PCI, block, 512 MiB"),
];

/// The table of all boots and VMMs.
///
/// # Errors
/// Nothing was recorded.
pub fn section() -> Result<String> {
    let lines = history::read(&history::path())?;
    let mut text = "\n## Against the others\n\nVirtual milliseconds until userspace, exits behind the \
                    comma where they were counted. Each VMM's kernel once had its own command line, and \
                    once the parameters that brisk adds by itself (`panic=-1 reboot=panic_warm \
                    8250.nr_uarts=1 pty.legacy_count=0`, and Firecracker's `i8042.*` off): the two columns \
                    of each, own and equal. What the parameters save is the kernel's doing, and any VMM's \
                    user can have it; what is left with equal parameters is the VMM's.\n\n"
        .to_owned();
    text += &table(&lines)?;
    text += "\nOn a serial boot with equal parameters, by who spends it: set-up and host mode are the VMM's, guest \
             mode is the kernel's work and what the platform makes it do.\n\n";
    text += &parts(&lines)?;
    Ok(text)
}

/// The serial boot by parts.
fn parts(lines: &[Line]) -> Result<String> {
    let (own, equal) = (history::newest(lines, METRICS)?, history::newest(lines, EQUAL)?);
    let mut text = "| VMM | parameters | set-up | guest mode | host mode | total |\n\
                    |---|---|--:|--:|--:|--:|\n"
        .to_owned();
    for entry in equal.iter().filter(|entry| entry.name == "boot_time_ms") {
        text += &line(entry, "brisk's")?;
    }
    for entry in equal.iter().filter(|entry| entry.name == WITHOUT) {
        text += &line(entry, "none")?;
    }
    for entry in own.iter().filter(|entry| entry.name == "boot_time_ms" && entry.vmm != "brisk") {
        text += &line(entry, "its own")?;
    }
    Ok(text)
}

/// A line of the table of a serial boot, which README.md has too.
///
/// # Errors
/// Nothing was measured.
pub fn line(entry: &Entry, words: &str) -> Result<String> {
    let total = entry.metric.value().context("no samples")?;
    let [setup, guest, host] = match entry.metric.parts {
        Some(parts) => parts.map(|part| format!("{part:.2}")),
        None => [const { String::new() }; 3],
    };
    let who = name(entry);
    Ok(format!("| {who} | {words} | {setup} | {guest} | {host} | {total:.2} |\n"))
}

fn table(lines: &[Line]) -> Result<String> {
    let (own, equal) = (history::newest(lines, METRICS)?, history::newest(lines, EQUAL)?);
    let brisk = equal.iter().find(|entry| entry.vmm == "brisk").context("no brisk")?;
    let mut others: Vec<&Entry> = Vec::new();
    for entry in own.iter().filter(|entry| entry.vmm != "brisk") {
        if !others.iter().any(|other| other.vmm == entry.vmm) {
            others.push(entry);
        }
    }
    let mut text = format!("| boot | {} |", name(brisk));
    for other in &others {
        write!(text, " {}, own | equal |", name(other))?;
    }
    text += "\n|---|--:|";
    text += &"--:|--:|".repeat(others.len());
    text.push('\n');
    for (metric, about) in BOOTS {
        let cell = |entries: &[Entry], vmm: &str| {
            let found = entries.iter().find(|e| e.vmm == vmm && e.name == metric);
            found.and_then(|entry| value(&entry.metric)).unwrap_or_else(|| "–".to_owned())
        };
        write!(text, "| {about} | {} |", cell(&equal, "brisk"))?;
        for other in &others {
            write!(text, " {} | {} |", cell(&own, &other.vmm), cell(&equal, &other.vmm))?;
        }
        text.push('\n');
    }
    Ok(text)
}

fn name(entry: &Entry) -> String {
    let version = if entry.vmm == "brisk" { entry.version.get(..7) } else { Some(&*entry.version) };
    format!("{} {}", entry.vmm, version.unwrap_or_default())
}

/// The time and the exits.
fn value(metric: &Metric) -> Option<String> {
    let exits = metric.count();
    let exits = if exits == 0 { String::new() } else { format!(", {}", thousands(exits)) };
    Some(format!("{:.2}{exits}", metric.value()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(suite: &str, vmm: &str, total: f64, exits: u64) -> Line {
        let metric = Metric {
            s: vec![total],
            parts: Some([1.0, 2.0, 3.0]),
            exits: if exits > 0 { [("all".to_owned(), (exits, 0.0))].into() } else { [].into() },
            ..Metric::default()
        };
        Line {
            suite: suite.into(),
            vmm: vmm.into(),
            version: "0123456789ab".into(),
            clock: "lab".into(),
            metrics: [("boot_time_ms".to_owned(), metric)].into(),
            ..Line::default()
        }
    }

    #[test]
    fn own_and_equal_words_stand_side_by_side() {
        let lines = [
            line(METRICS, "Other", 67.37, 1065),
            line(EQUAL, "brisk", 42.73, 525),
            line(EQUAL, "Other", 49.23, 0),
        ];
        let text = table(&lines).unwrap();
        assert!(
            text.starts_with("| boot | brisk 0123456 | Other 0123456789ab, own | equal |\n"),
            "{text}"
        );
        assert!(text.contains("| 42.73, 525 | 67.37, 1,065 | 49.23 |\n"), "{text}");
        let text = parts(&lines).unwrap();
        assert!(
            text.contains("| Other 0123456789ab | brisk's | 1.00 | 2.00 | 3.00 | 49.23 |"),
            "{text}"
        );
        assert!(
            text.contains("| Other 0123456789ab | its own | 1.00 | 2.00 | 3.00 | 67.37 |"),
            "{text}"
        );
        assert!(table(&[]).is_err());
    }
}
