//! Several boots of one VMM as one row, and rows as JSON whose form is kept stable.

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

use super::pci;
use super::trace::Boot;

/// The result of a benchmark.
#[derive(Serialize, Debug)]
pub struct Report {
    /// `lab` (virtual milliseconds, 1 ns an instruction) or `host` (real ones).
    pub clock: &'static str,
    /// The scenario's name.
    pub scenario: String,
    /// One for each VMM and step.
    pub rows: Vec<Row>,
}

/// A VMM in one step of a scenario.
#[derive(Serialize, Debug)]
pub struct Row {
    /// `brisk` or the peer's name.
    pub vmm: String,
    /// The step's name, in scenarios that have steps.
    pub step: Option<String>,
    /// From exec to the first entry.
    pub setup_ms: Spread,
    /// In the guest.
    pub guest_ms: Spread,
    /// Between exits and entries.
    pub host_ms: Spread,
    /// From exec to the guest's userspace.
    pub total_ms: Spread,
    /// From exec to the guest kernel's first C code, where the kernel says so.
    pub kernel_ms: Option<Spread>,
    /// Exits by the CPU's reason, medians.
    pub exits: BTreeMap<String, Exits>,
    /// Exits to the VMM by kind and port or page.
    pub to_vmm: BTreeMap<String, u64>,
    /// Those of them that brisk's guest causes by PCI, in groups.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pci: BTreeMap<String, u64>,
    /// How many boots these figures are from.
    pub runs: usize,
}

/// Median, least and greatest of several values.
#[derive(Serialize, Debug, PartialEq, Clone, Copy)]
pub struct Spread {
    /// The middle value, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

/// Exits of one reason.
#[derive(Serialize, Debug, PartialEq, Clone, Copy)]
pub struct Exits {
    /// How many.
    pub count: u64,
    /// Milliseconds until the guest ran again.
    pub host_ms: f64,
}

impl Row {
    /// Sums up `boots`; `counted` is the boot whose exits to the VMM were traced. `None` when there
    /// are no boots.
    pub fn new(vmm: &str, step: Option<&str>, boots: &[Boot], counted: &Boot) -> Option<Self> {
        let of = |value: fn(&Boot) -> u64| Spread::of(boots.iter().map(value));
        let reasons: BTreeSet<&String> = boots.iter().flat_map(|b| b.exits.keys()).collect();
        let exits = reasons.into_iter().map(|reason| {
            let each = || boots.iter().map(|b| b.exits.get(reason).copied().unwrap_or_default());
            let count = median(each().map(|e| e.count)).unwrap_or_default().round();
            let host_ms = milliseconds(median(each().map(|e| e.host)).unwrap_or_default());
            // Counts of events are far below 2^53.
            (reason.clone(), Exits { count: count as u64, host_ms })
        });
        Some(Self {
            vmm: vmm.to_owned(),
            step: step.map(str::to_owned),
            setup_ms: of(|b| b.setup)?,
            guest_ms: of(|b| b.guest)?,
            host_ms: of(|b| b.host)?,
            total_ms: of(|b| b.total)?,
            kernel_ms: Spread::of(boots.iter().filter_map(|b| b.kernel)),
            exits: exits.collect(),
            to_vmm: counted.to_vmm.clone(),
            pci: if vmm == "brisk" { pci::groups(&counted.accesses) } else { BTreeMap::new() },
            runs: boots.len(),
        })
    }

    /// Exits of all reasons.
    pub fn all_exits(&self) -> u64 {
        self.exits.values().map(|e| e.count).sum()
    }
}

impl Spread {
    /// Of values in microseconds, in milliseconds. `None` when there are none.
    fn of(values: impl Iterator<Item = u64> + Clone) -> Option<Self> {
        Some(Self {
            median: milliseconds(median(values.clone())?),
            min: milliseconds(float(values.clone().min()?)),
            max: milliseconds(float(values.max()?)),
        })
    }
}

/// The middle value, or the mean of the two in the middle. `None` when there are no values.
fn median(values: impl Iterator<Item = u64>) -> Option<f64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(float(lower), float(upper)))
}

/// Milliseconds, rounded to the microseconds that the trace has.
fn milliseconds(microseconds: f64) -> f64 {
    microseconds.round() / 1000.0
}

/// Counts and microseconds of one boot are far below 2^53, so nothing is lost.
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::super::trace;
    use super::*;

    fn boot(total: u64, npf: Option<(u64, u64)>) -> Boot {
        let exits = npf.map(|(count, host)| ("npf".to_owned(), trace::Exits { count, host }));
        Boot { setup: 1, total, exits: exits.into_iter().collect(), ..Boot::default() }
    }

    #[test]
    fn medians() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([7].into_iter()), Some(7.0));
        assert_eq!(median([9, 1, 5].into_iter()), Some(5.0));
        assert_eq!(median([9, 1, 5, 4].into_iter()), Some(4.5));
    }

    #[test]
    fn a_row_of_boots() {
        assert!(Row::new("brisk", None, &[], &Boot::default()).is_none());
        let boots = [boot(3_000, Some((4, 10))), boot(1_500, None), boot(2_000, Some((3, 30)))];
        let row = Row::new("brisk", Some("quiet"), &boots, &boots[0]).unwrap();
        assert_eq!(row.total_ms, Spread { median: 2.0, min: 1.5, max: 3.0 });
        assert_eq!(row.exits["npf"], Exits { count: 3, host_ms: 0.01 });
        assert_eq!((row.all_exits(), row.runs), (3, 3));
        assert_eq!(row.kernel_ms, None);
    }

    /// Who reads the JSON relies on these names.
    #[test]
    fn json_is_stable() {
        let boots = [boot(2_000, Some((1, 5)))];
        let rows = vec![Row::new("brisk", None, &boots, &boots[0]).unwrap()];
        let report = Report { clock: "lab", scenario: "serial".to_owned(), rows };
        let zero = r#"{"median":0.0,"min":0.0,"max":0.0}"#;
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            format!(
                concat!(
                    r#"{{"clock":"lab","scenario":"serial","rows":[{{"vmm":"brisk","step":null,"#,
                    r#""setup_ms":{{"median":0.001,"min":0.001,"max":0.001}},"guest_ms":{0},"#,
                    r#""host_ms":{0},"total_ms":{{"median":2.0,"min":2.0,"max":2.0}},"#,
                    r#""kernel_ms":null,"exits":{{"npf":{{"count":1,"host_ms":0.005}}}},"#,
                    r#""to_vmm":{{}},"runs":1}}]}}"#
                ),
                zero
            )
        );
    }
}
