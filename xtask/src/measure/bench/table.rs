//! A report as tables for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Style};

use super::stats::{Report, Row, Spread};

/// Places of exits to the VMM that get a row; the rest are summed up.
const PLACES: usize = 12;

/// The report: one table of times, one of exits by reason, one of exits to the VMM.
pub fn render(report: &Report, about: &str) -> String {
    let clock = match report.clock {
        "lab" => "virtual ms, 1 ns an instruction",
        _ => "real ms",
    };
    let runs = report.rows.iter().map(|r| r.runs).max().unwrap_or(0);
    let mut text = format!("{}: {about}\n{clock}; ", report.scenario);
    let _ = writeln!(text, "median (least to greatest) of {runs}, after one that is not counted\n");
    text += &times(&report.rows);
    text += "\n\nexits until userspace, and ms of host mode, by reason\n\n";
    text += &by_reason(&report.rows);
    if report.rows.iter().any(|r| !r.to_vmm.is_empty()) {
        text += "\n\nexits to the VMM, by port or 4 KiB of addresses\n\n";
        text += &by_place(&report.rows);
    }
    text.push('\n');
    text
}

fn times(rows: &[Row]) -> String {
    let mut table = Builder::default();
    table.push_record([
        "VMM",
        "setup",
        "guest mode",
        "host mode",
        "total",
        "kernel after",
        "exits",
    ]);
    for row in rows {
        table.push_record([
            label(row),
            spread(&row.setup_ms),
            spread(&row.guest_ms),
            spread(&row.host_ms),
            spread(&row.total_ms),
            row.kernel_ms.as_ref().map_or_else(|| "-".to_owned(), |k| format!("{:.2}", k.median)),
            row.all_exits().to_string(),
        ]);
    }
    finish(table)
}

fn by_reason(rows: &[Row]) -> String {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, exits) in rows.iter().flat_map(|r| &r.exits) {
        *sums.entry(reason).or_default() += exits.count;
    }
    let mut table = head(rows, "reason");
    for reason in most_first(sums) {
        let cell = |row: &Row| match row.exits.get(reason) {
            Some(exits) => format!("{} ({:.2})", exits.count, exits.host_ms),
            None => "-".to_owned(),
        };
        table.push_record(std::iter::once(reason.to_owned()).chain(rows.iter().map(cell)));
    }
    let all = |row: &Row| format!("{} ({:.2})", row.all_exits(), row.host_ms.median);
    table.push_record(std::iter::once("all".to_owned()).chain(rows.iter().map(all)));
    finish(table)
}

fn by_place(rows: &[Row]) -> String {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (place, count) in rows.iter().flat_map(|r| &r.to_vmm) {
        *sums.entry(place).or_default() += count;
    }
    let places = most_first(sums);
    let shown = &places[..places.len().min(PLACES)];
    let mut table = head(rows, "place");
    for place in shown {
        let cell = |row: &Row| row.to_vmm.get(*place).map_or("-".to_owned(), u64::to_string);
        table.push_record(std::iter::once((*place).to_owned()).chain(rows.iter().map(cell)));
    }
    if places.len() > shown.len() {
        let rest = |row: &Row| {
            let others = row.to_vmm.iter().filter(|(p, _)| !shown.contains(&p.as_str()));
            others.map(|(_, count)| count).sum::<u64>().to_string()
        };
        table.push_record(std::iter::once("elsewhere".to_owned()).chain(rows.iter().map(rest)));
    }
    let all = |row: &Row| row.to_vmm.values().sum::<u64>().to_string();
    table.push_record(std::iter::once("all".to_owned()).chain(rows.iter().map(all)));
    finish(table)
}

fn head(rows: &[Row], first: &str) -> Builder {
    let mut table = Builder::default();
    table.push_record(std::iter::once(first.to_owned()).chain(rows.iter().map(label)));
    table
}

/// The table's text, in which all columns but the first are of numbers.
pub fn finish(table: Builder) -> String {
    let mut table = table.build();
    table.with(Style::markdown()).modify(Columns::new(1..), Alignment::right());
    table.to_string()
}

/// Name of a row.
fn label(row: &Row) -> String {
    match &row.step {
        Some(step) => format!("{}, {step}", row.vmm),
        None => row.vmm.clone(),
    }
}

fn spread(s: &Spread) -> String {
    format!("{:.2} ({:.2} to {:.2})", s.median, s.min, s.max)
}

fn most_first(sums: BTreeMap<&str, u64>) -> Vec<&str> {
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sums.into_iter().map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::super::trace::{Boot, Exits};
    use super::*;

    #[test]
    fn tables_have_every_row_and_reason() {
        let boot = Boot {
            total: 1234,
            exits: [("npf", 5), ("io", 7)]
                .map(|(r, count)| (r.to_owned(), Exits { count, host: 30 }))
                .into(),
            to_vmm: (0..14).map(|i| (format!("io {i:#x}"), i)).collect(),
            ..Boot::default()
        };
        let other = Boot { total: 99_000, ..Boot::default() };
        let rows =
            [("brisk", Some("quiet"), boot), ("other", None, other)].map(|(vmm, step, boot)| {
                Row::new(vmm, step, std::slice::from_ref(&boot), &boot).unwrap()
            });
        let report = Report { clock: "lab", scenario: "s".to_owned(), rows: rows.into() };
        let text = render(&report, "about it");
        for line in [
            "s: about it",
            "virtual ms, 1 ns an instruction; median (least to greatest) of 1, after one that is \
             not counted",
            "| io        |     7 (0.03) |        - |",
            "| npf       |     5 (0.03) |        - |",
            "| all       |    12 (0.00) | 0 (0.00) |",
            "| io 0xd    |           13 |     - |",
            "| elsewhere |            1 |     0 |",
            "| all       |           91 |     0 |",
        ] {
            let squeezed = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.lines().any(|l| squeezed(l) == squeezed(line)), "{line}\n{text}");
        }
        assert!(text.contains(" 1.23 (1.23 to 1.23) |"), "{text}");
    }
}
