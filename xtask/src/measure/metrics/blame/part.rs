//! What is measured of a boot: all of it, or a part.

use anyhow::{Context, Result, bail};

use crate::measure::metrics::check::steady;
use crate::measure::metrics::history::{Metric, PARTS};
use crate::measure::metrics::suite::{self, BootMetric};

/// What is measured of a boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The whole.
    Total,
    /// Of [`PARTS`].
    Of(usize),
    /// All but the timer's.
    Exits,
}

impl Part {
    /// Takes a name apart: the metric, and what of it.
    pub fn parse(name: &str) -> Result<(&'static BootMetric, Self)> {
        let (metric, part) = name.split_once('.').unwrap_or((name, ""));
        let metric = suite::find(metric)?;
        if let Some(index) = PARTS.iter().position(|known| *known == part) {
            return Ok((metric, Self::Of(index)));
        }
        match part {
            "" => Ok((metric, Self::Total)),
            "exits" => Ok((metric, Self::Exits)),
            _ => bail!("{name}: of a boot there are {}, exits", PARTS.join(", ")),
        }
    }

    pub fn of(self, metric: &Metric) -> Result<f64> {
        match self {
            Self::Total => metric.best().context("no samples"),
            Self::Of(index) => Ok(metric.parts.context("no parts")?[index]),
            Self::Exits => Ok(steady(metric) as f64),
        }
    }

    pub fn unit(self) -> &'static str {
        if self == Self::Exits { "exits" } else { "ms" }
    }

    /// What chance does to it, in its unit.
    pub fn noise(self, value: f64, floor: f64) -> f64 {
        match self {
            Self::Exits => 0.0,
            Self::Total => value * floor / 100.0,
            // A part's noise is that of the whole at most.
            Self::Of(_) => 0.05,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_by_name() {
        assert_eq!(Part::parse("boot_time_ms").unwrap().1, Part::Total);
        assert_eq!(Part::parse("boot_time_ms.guest").unwrap().1, Part::Of(1));
        assert_eq!(Part::parse("boot_time_ms.exits").unwrap().1, Part::Exits);
        assert!(Part::parse("boot_time_ms.x").err().unwrap().to_string().contains("set-up"));
        assert!(Part::parse("boot").is_err());
    }
}
