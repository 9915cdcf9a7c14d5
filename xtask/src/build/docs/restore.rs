//! When to boot and when to restore, by `cargo xtask bench --scenario restore --peer qemu --record`.

use anyhow::Result;
use std::fmt::Write as _;

use super::boots::{step, times};
use super::thousands;
use crate::measure::bench::restore::NAME;
use crate::measure::metrics::history::{self, Entry, Line};

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
    let mut text = "\n## Boot or restore\n\nFrom exec to a mark of the guest's, virtual milliseconds: the \
                    tuned kernel and EROFS on pmem, 1 vCPU, 128 MiB unless said otherwise; QEMU's \
                    microvm with the tests' kernel and an initramfs, marked by its kernel in a loop. \
                    Snapshot and image are on a tmpfs of small pages unless said otherwise; \"both\" is a \
                    working set and a tmpfs's huge pages. Python is Debian's, which has imported what a \
                    service needs (`xtask/guest/answer.py`) and reads a request from its console; its \
                    mark is behind its answer \
                    (`cargo xtask bench --scenario restore --peer qemu`).\n\n\
                    | VMM | start | set-up | total | exits |\n|---|---|--:|--:|--:|\n"
        .to_owned();
    for row in &rows {
        let [setup, .., total] = times(row)?;
        let exits = thousands(row.metric.count());
        writeln!(text, "| {} | {} | {setup:.2} | {total:.2} | {exits} |", row.vmm, step(row))?;
    }
    text += &advice(&rows)?;
    Ok(text)
}

/// What follows from the figures.
fn advice(rows: &[Entry]) -> Result<String> {
    let total = |name: &str| -> Result<Option<f64>> {
        let row = rows.iter().find(|row| row.vmm == "brisk" && row.name == name);
        Ok(row.map(times).transpose()?.map(|[.., total]| total))
    };
    let (boot, plain) = (total("boot")?, total("restore")?);
    let (Some(boot), Some(plain), Some(set)) = (boot, plain, total("restore, working set")?) else {
        return Ok(String::new());
    };
    let python = match (total("Python's answer: boot")?, total("Python's answer: both")?) {
        (Some(boot), Some(both)) => {
            format!(", Python's answer after {both:.1} ms for {boot:.0}")
        }
        _ => String::new(),
    };
    Ok(format!(
        "\nA guest that is restored is at its mark after {:.2} of the time of the shortest boot, {:.2} with a \
         working set, and what its workload does until it is ready is not done again{python}. So restore where many \
         guests start alike and soon, or where the workload takes long to be ready. Boot where guests \
         differ in kernel, command line, memory or CPUs, where hosts do, where nothing of one guest may be \
         known to another, or where a state file and its memory are more to look after than {:.1} ms are \
         worth. A hugetlbfs is no place for a snapshot: each page that is written to is a copy of 2 MiB. Of 100 \
         clones at once none fails, and each takes 430 KiB of the host's memory that are its own alone \
         (`cargo xtask bench --scenario restore --density 100`).\n",
        plain / boot,
        set / boot,
        boot - set
    ))
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
    fn what_follows_is_in_figures() {
        let rows = [
            row("brisk", "boot", 12.0, 9),
            row("brisk", "restore", 3.0, 9),
            row("brisk", "restore, working set", 2.4, 9),
        ];
        let text = advice(&rows).unwrap();
        for part in ["after 0.25 of", "0.20 with a working set", "than 9.6 ms"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(advice(&rows[..2]).unwrap(), "");
        assert!(!text.contains("Python"), "{text}");
        let python = [
            row("brisk", "Python's answer: boot", 2070.6, 9),
            row("brisk", "Python's answer: both", 5.76, 9),
        ];
        let text = advice(&[rows.as_slice(), &python].concat()).unwrap();
        assert!(
            text.contains("not done again, Python's answer after 5.8 ms for 2071. So"),
            "{text}"
        );
    }
}
