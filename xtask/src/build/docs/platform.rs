//! What each choice of the platform is worth, by `cargo xtask bench --scenario platform --record`.

use anyhow::{Context, Result};
use std::fmt::Write as _;

use super::boots::{read, step, times};
use super::thousands;
use crate::measure::metrics::history::Entry;

/// The section.
///
/// # Errors
/// The measurement is missing or not what `bench` writes.
pub fn section() -> Result<String> {
    let mut text = "\n## What the platform costs the guest\n\nThe guest executes some things because of \
                    what brisk shows it. The boot from pmem with 2 MiB pages, 512 MiB, 1 vCPU and no \
                    UART, with one change in each row; 0.1 ms more or less is the length of \
                    the command line, or chance. Measured by `cargo xtask bench --scenario platform \
                    --record`; then `cargo xtask docs`. Each parameter on the \
                    command line is compared with the names of all parameters, so one that does nothing \
                    is left out. `noreplace-smp` is no default though it makes the boot shorter: a single CPU \
                    would keep its lock prefixes for as long as the guest lives.\n\n"
        .to_owned();
    text += "| platform | guest | host | total | difference | exits | difference |\n\
             |---|--:|--:|--:|--:|--:|--:|\n";
    table(&mut text, &read("platform")?)?;
    Ok(text)
}

/// A line for each step, with its difference to the first.
fn table(text: &mut String, rows: &[Entry]) -> Result<()> {
    let first = rows.first().context("no rows")?;
    let ([.., least], fewest) = (times(first)?, first.metric.count());
    for (index, row) in rows.iter().enumerate() {
        let ([_, guest, host, total], exits) = (times(row)?, row.metric.count());
        let (more, further) = match index {
            0 => (String::new(), String::new()),
            _ => {
                (signed(total - least), format!("{:+}", exits.cast_signed() - fewest.cast_signed()))
            }
        };
        let (name, exits) = (step(row), thousands(exits));
        let further = further.replace('-', "−");
        writeln!(
            text,
            "| {name} | {guest:.2} | {host:.2} | {total:.2} | {more} | {exits} | {further} |"
        )?;
    }
    Ok(())
}

fn signed(milliseconds: f64) -> String {
    format!("{milliseconds:+.2}").replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::super::boots::tests::row;
    use super::*;

    #[test]
    fn each_row_against_the_first() {
        let row = |step: &str, total: f64, npf: u64| row("brisk", step, total, npf);
        let rows = [row("as it is", 2.0, 500), row("a", 2.5, 400), row("b", 1.75, 501)];
        let mut text = String::new();
        table(&mut text, &rows).unwrap();
        let lines = [
            "| as it is | 2.00 | 2.00 | 2.00 |  | 1,500 |  |",
            "| a | 2.50 | 2.50 | 2.50 | +0.50 | 1,400 | −100 |",
            "| b | 1.75 | 1.75 | 1.75 | −0.25 | 1,501 | +1 |",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
        assert!(table(&mut text, &[]).is_err());
    }
}
