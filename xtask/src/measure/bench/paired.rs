//! `cargo xtask bench --ab NAME` for what the stopwatch cannot show, since it has one CPU: boots on two
//! CPUs, without and with the thing in turn, judged by the ratio of each two that follow one another,
//! for whatever else the machine does is in both.

use anyhow::{Context, Result};
use std::fs;
use tabled::builder::Builder;

use super::script::Besides;
use super::vmm::Peer;
use super::workload::Workload;
use super::{Bench, Guest, script, table, trace};
use crate::lab::{self, On};

/// One pair: microseconds from exec on, without and with.
type Pair = (u64, u64);

/// What ends the time that is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// The guest's first instruction; the rest of the boot is left out.
    Entry,
    /// The guest's userspace.
    Userspace,
}

/// Measures `scenario`, whose features are those with the thing, and `before` without it. Returns the
/// text for the user.
///
/// # Errors
/// Something could not be built, or a boot failed.
pub fn measure(
    scenario: &'static Workload,
    before: Peer,
    until: Until,
    pairs: u32,
    on: On,
) -> Result<String> {
    let brisk = super::program(scenario, &[])?;
    let mut bench = Bench::prepare(
        scenario,
        &brisk,
        pairs + 1,
        on,
        Besides::Exits,
        &[before],
        Guest::default(),
    )?;
    bench.mode = lab::Mode::Fast;
    let kernel = bench.staging.path().join("vmlinux");
    let replaced = bench.plan.shared.iter_mut().filter(|(_, name)| *name == "vmlinux");
    for (from, _) in replaced.filter(|_| until == Until::Entry) {
        fs::write(&kernel, ends_at_once(fs::read(&from)?)?)?;
        from.clone_from(&kernel);
    }
    let results = bench.execute()?;
    let read = |slot: usize, boot: u32| -> Result<u64> {
        let path = results.dir().join(script::result("trace", slot, boot));
        let text = fs::read(path).context("no trace was taken")?;
        let command = &bench.plan.slots[slot];
        let boot = trace::parse(&String::from_utf8_lossy(&text), &command.program);
        let boot = boot.with_context(|| command.command.clone())?;
        Ok(if until == Until::Entry { boot.setup } else { boot.total })
    };
    let mut rows = Vec::new();
    // First the program in all steps, then the one before it.
    let steps = scenario.steps.len();
    for (slot, step) in scenario.steps.iter().enumerate() {
        let pair = |boot| Ok((read(slot + steps, boot)?, read(slot, boot)?));
        let all = (1..=pairs).map(pair).collect::<Result<Vec<Pair>>>()?;
        rows.push((step.name.unwrap_or(scenario.name), all));
    }
    let clock = match on {
        On::Lab => {
            "the lab's fast mode, two CPUs; its milliseconds say nothing about a real machine"
        }
        On::Host => "real milliseconds",
    };
    let end = match until {
        Until::Entry => "the guest's first instruction",
        Until::Userspace => "the guest's userspace",
    };
    Ok(format!(
        "{}: {}\nfrom exec to {end}, {clock}; {pairs} pairs after one that is not counted\n\n{}\n",
        scenario.name,
        scenario.about,
        render(&rows)
    ))
}

/// The kernel with other first instructions: it says that it is in userspace, and powers off. QEMU's
/// software CPU would be slow to write, when the next boot is loaded, where instructions were run in
/// this one, and some ten times slower than the load itself.
fn ends_at_once(mut kernel: Vec<u8>) -> Result<Vec<u8>> {
    #[rustfmt::skip]
    const CODE: [u8; 12] = [
        0xb0, 0x60,             // mov al, 0x60
        0xe6, 0x80,             // out 0x80, al
        0x66, 0xba, 0x00, 0x06, // mov dx, 0x600
        0xb0, 0x34,             // mov al, 0x34
        0xee,                   // out dx, al
        0xf4,                   // hlt
    ];
    let number = |at: usize, len: usize| -> Option<u64> {
        let bytes = kernel.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    // e_entry, e_phoff, e_phnum; p_type, p_offset, p_paddr, p_filesz (ELF-64 Object File Format).
    let find = || {
        let (entry, headers) = (number(24, 8)?, number(32, 8)? as usize);
        (0..number(56, 2)? as usize).map(|index| headers + index * 56).find_map(|at| {
            let (offset, start, len) =
                (number(at + 8, 8)?, number(at + 24, 8)?, number(at + 32, 8)?);
            let inside = number(at, 4)? == 1 && (start..start + len).contains(&entry);
            inside.then(|| (offset + entry - start) as usize)
        })
    };
    let at = find().context("the kernel's entry is not in it")?;
    let to = kernel.get_mut(at..at + CODE.len()).context("the kernel ends at its entry")?;
    to.copy_from_slice(&CODE);
    Ok(kernel)
}

fn render(rows: &[(&str, Vec<Pair>)]) -> String {
    let mut table = Builder::default();
    table.push_record(["", "before", "after", "ratio", "half of the pairs within", "with gain"]);
    for (name, pairs) in rows {
        let ms = |of: fn(&Pair) -> u64| {
            let all = pairs.iter().map(|pair| of(pair) as f64 / 1000.0);
            format!("{:.2}", quantile(all, 0.5))
        };
        let ratios = || pairs.iter().map(|(before, after)| *after as f64 / *before as f64);
        let gains = pairs.iter().filter(|(before, after)| after < before).count();
        table.push_record([
            (*name).to_owned(),
            ms(|pair| pair.0),
            ms(|pair| pair.1),
            format!("{:.3}", quantile(ratios(), 0.5)),
            format!("{:.3} to {:.3}", quantile(ratios(), 0.25), quantile(ratios(), 0.75)),
            format!("{gains} of {}", pairs.len()),
        ]);
    }
    table::finish(table)
}

/// The value below which this share of all are.
fn quantile(values: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = share * values.len().saturating_sub(1) as f64;
    let below = values.get(at.floor() as usize).copied().unwrap_or(f64::NAN);
    let above = values.get(at.ceil() as usize).copied().unwrap_or(f64::NAN);
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_judged_one_by_one() {
        // The machine got ten times slower on the way, and each pair gained a fifth.
        let pairs = vec![(1_000, 800), (10_000, 8_000), (2_000, 1_600), (3_000, 2_400), (100, 110)];
        let text = render(&[("x", pairs)]);
        let line: Vec<&str> = text.lines().nth(2).unwrap().split('|').map(str::trim).collect();
        assert_eq!(line[1..7], ["x", "2.00", "1.60", "0.800", "0.800 to 0.800", "4 of 5"]);
    }
}
