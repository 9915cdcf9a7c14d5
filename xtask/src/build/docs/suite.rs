//! The metrics that were recorded last, for the page of measurements.

use anyhow::Result;
use std::fmt::Write as _;

use super::thousands;
use crate::measure::metrics::collect::number;
use crate::measure::metrics::history::{self, METRICS};
use crate::measure::metrics::suite;

/// The section.
///
/// # Errors
/// Nothing was recorded.
pub fn section() -> Result<String> {
    let lines = history::read(&history::path())?;
    let mut text = "\n## The metrics\n\nWhat `cargo xtask metrics record` measured, each metric the last \
                    time, on the lab's instruction clock; times are virtual ms. Names are those of Cloud \
                    Hypervisor's suite where the thing is the same.\n\n\
                    | metric | what | with | value | set-up | guest | host | exits |\n\
                    |---|---|---|--:|--:|--:|--:|--:|\n"
        .to_owned();
    let mut newest = indexmap::IndexMap::new();
    for line in lines.iter().filter(|l| l.suite == METRICS && l.vmm == "brisk" && l.clock == "lab")
    {
        newest.extend(line.metrics.iter().map(|(name, metric)| (name.clone(), metric.clone())));
    }
    for (name, metric) in newest {
        let Some(value) = metric.value() else { continue };
        let unit = if metric.unit == "ms" { String::new() } else { format!(" {}", metric.unit) };
        let value = if value >= 10_000.0 { thousands(value.round() as u64) } else { number(value) };
        let parts = match metric.parts {
            Some(parts) => {
                parts.map(|part| format!(" {part:.2} |")).concat()
                    + &format!(" {} |", thousands(metric.count()))
            }
            None => "  |".repeat(4),
        };
        let (about, with) = (suite::about(&name), &metric.control);
        writeln!(text, "| `{name}` | {about} | {with} | {value}{unit} |{parts}")?;
    }
    Ok(text)
}
