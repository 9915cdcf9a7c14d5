//! `cargo xtask size`: what each feature and scenario costs in bytes, and whether it may.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use tabled::builder::Builder;
use tabled::settings::{Alignment, Style, object::Columns};

use crate::build::docs;
use crate::build::docs::measured::{Cost, Linked, Measured};
use crate::build::flags::{VARIATIONS, Variation};
use crate::build::scenario::{self, Scenario};
use crate::build::{self, Libc, Order, features};
use crate::paths;
use crate::ui::Step;

/// Print what each feature costs in bytes, the difference to the last measurement that was
/// committed, and check the budgets.
#[derive(FromArgs)]
#[argh(subcommand, name = "size")]
pub struct Args {
    /// only the scenarios that have a budget
    #[argh(switch)]
    budgets: bool,
    /// also measure what the choices of the profile and the linker's flags gain, and write all to
    /// xtask/measured.json and features.md
    #[argh(switch)]
    save: bool,
}

/// The most bytes of a scenario's binary.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    dynamic: u64,
    r#static: u64,
}

/// What trials are made with.
const TRIED: &str = "pmem-hugepages";

/// Runs the task.
///
/// # Errors
/// Something does not build, or a budget is broken.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.budgets {
        check_budgets()?;
        return Ok(ExitCode::SUCCESS);
    }
    let last = Measured::read()?;
    let mut now = measure()?;
    println!("{}", table(&now, &last));
    if args.save {
        now.trials = trials()?;
        now.write()?;
        docs::write()?;
    }
    judge(&budgets()?, &now.scenarios)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the scenarios that have a budget. Returns how many binaries hold theirs.
///
/// # Errors
/// Something does not build, or a budget is broken.
pub fn check_budgets() -> Result<u32> {
    let budgets = budgets()?;
    let mut found = BTreeMap::new();
    let mut step = Step::counted("building what has a budget", budgets.len() as u64);
    for scenario in scenario::table().iter().filter(|s| budgets.contains_key(&s.name)) {
        let linked = both(scenario, &Variation::NONE)?;
        println!("{}: {} dynamic, {} static", scenario.name, linked.dynamic, linked.r#static);
        found.insert(scenario.name.clone(), linked);
        step.tick();
    }
    step.done();
    judge(&budgets, &found)?;
    Ok(2 * budgets.len() as u32)
}

fn budgets() -> Result<BTreeMap<String, Budget>> {
    let path = paths::workspace().join("xtask/budgets.toml");
    toml::from_str(&fs::read_to_string(&path)?).with_context(|| path.display().to_string())
}

fn judge(budgets: &BTreeMap<String, Budget>, found: &BTreeMap<String, Linked>) -> Result<()> {
    let mut broken = Vec::new();
    for (name, budget) in budgets {
        let linked =
            found.get(name).with_context(|| format!("budgets.toml: no scenario {name}"))?;
        for (kind, is, most) in [
            ("dynamic", linked.dynamic, budget.dynamic),
            ("static", linked.r#static, budget.r#static),
        ] {
            if is > most {
                broken.push(format!("{name}, {kind}: {is} bytes, {} over its budget", is - most));
            }
        }
    }
    ensure!(broken.is_empty(), "budgets of xtask/budgets.toml are broken:\n{}", broken.join("\n"));
    Ok(())
}

/// Bytes of a scenario's binary.
fn bytes(scenario: &Scenario, libc: Libc, variation: &Variation) -> Result<u64> {
    let (source, target_dir) = (paths::workspace(), &paths::target()?);
    let order = Order { source, target_dir, scenario, libc, target: build::TARGET };
    let product = build::make_varied(&order, variation);
    Ok(product.with_context(|| scenario.name.clone())?.program.len() as u64)
}

fn both(scenario: &Scenario, variation: &Variation) -> Result<Linked> {
    Ok(Linked {
        dynamic: bytes(scenario, Libc::Dynamic, variation)?,
        r#static: bytes(scenario, Libc::Musl, variation)?,
    })
}

/// Builds the core, each feature and each scenario.
fn measure() -> Result<Measured> {
    let known = features::of_brisk()?;
    let names = known.names();
    let scenarios = scenario::table();
    let total = known.single().len() + scenarios.len() + 1;
    let mut step = Step::counted("building each feature and scenario", total as u64);
    let usual = Variation::NONE;
    let mut now = Measured { core: both(&build::adhoc("", &names)?, &usual)?, ..Measured::new()? };
    step.tick();
    for feature in known.single() {
        let with = features::companion(&known, &feature)?;
        let both_names = with.iter().chain([&feature]).cloned().collect::<Vec<_>>().join(",");
        let alone = bytes(&build::adhoc(&both_names, &names)?, Libc::Dynamic, &usual)?;
        let below = match &with {
            Some(with) => bytes(&build::adhoc(with, &names)?, Libc::Dynamic, &usual)?,
            None => now.core.dynamic,
        };
        let dependencies = features::dependencies(&both_names, with.as_deref().unwrap_or(""))?;
        let over = alone.saturating_sub(below);
        now.features.insert(feature, Cost { alone, over, with, dependencies });
        step.tick();
    }
    for scenario in &scenarios {
        now.scenarios.insert(scenario.name.clone(), both(scenario, &usual)?);
        step.tick();
    }
    step.done();
    Ok(now)
}

/// What each choice of the profile and of the linker's flags gains: builds without it.
fn trials() -> Result<Vec<(String, Linked)>> {
    let table = scenario::table();
    let tried = table.iter().find(|s| s.name == TRIED).context("the scenario for trials")?;
    let shipped = both(tried, &Variation::NONE)?;
    let glibc = Linked { r#static: bytes(tried, Libc::Glibc, &Variation::NONE)?, ..shipped };
    let mut found = vec![("as shipped".to_owned(), shipped), ("glibc for musl".to_owned(), glibc)];
    let mut step = Step::counted("building with other choices", VARIATIONS.len() as u64);
    for variation in VARIATIONS {
        found.push((variation.what.to_owned(), both(tried, variation)?));
        step.tick();
    }
    step.done();
    Ok(found)
}

/// All sizes, with the differences to the last measurement.
fn table(now: &Measured, last: &Measured) -> String {
    let mut builder = Builder::new();
    builder.push_record(["", "dynamic", "over the core", "since last", "static", "since last"]);
    let since = |is: u64, was: Option<u64>| match was {
        Some(was) => format!("{:+}", is as i64 - was as i64),
        None => "new".to_owned(),
    };
    let over = |is: u64| format!("{:+}", is as i64 - now.core.dynamic as i64);
    let mut linked = |name: String, is: &Linked, was: Option<&Linked>| {
        builder.push_record([
            name,
            is.dynamic.to_string(),
            over(is.dynamic),
            since(is.dynamic, was.map(|w| w.dynamic)),
            is.r#static.to_string(),
            since(is.r#static, was.map(|w| w.r#static)),
        ]);
    };
    linked("the core".to_owned(), &now.core, Some(&last.core));
    for (name, is) in &now.scenarios {
        linked(format!("scenario {name}"), is, last.scenarios.get(name));
    }
    for (name, is) in &now.features {
        let was = last.features.get(name).map(|cost| cost.alone);
        let since = since(is.alone, was);
        let name = is.with.iter().fold(name.clone(), |name, with| format!("{name} with {with}"));
        let cells = [name, is.alone.to_string(), format!("+{}", is.over), since];
        builder.push_record(cells.into_iter().chain([String::new(), String::new()]));
    }
    let mut table = builder.build();
    table.with(Style::blank()).modify(Columns::new(1..), Alignment::right());
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_budgets_are_named() {
        let budgets = || {
            let text = "[full]\ndynamic = 10\nstatic = 20\n";
            toml::from_str::<BTreeMap<String, Budget>>(text).unwrap()
        };
        let found =
            |dynamic, r#static| BTreeMap::from([("full".to_owned(), Linked { dynamic, r#static })]);
        assert!(judge(&budgets(), &found(10, 20)).is_ok());
        let error = judge(&budgets(), &found(12, 20)).unwrap_err().to_string();
        assert!(error.ends_with("\nfull, dynamic: 12 bytes, 2 over its budget"), "{error}");
        assert!(judge(&budgets(), &found(10, 21)).is_err());
        assert!(judge(&budgets(), &BTreeMap::new()).is_err());
    }

    #[test]
    fn budgets_are_for_scenarios() {
        let names: Vec<String> = scenario::table().into_iter().map(|s| s.name).collect();
        let budgets = super::budgets().unwrap();
        assert!(["function", "full"].iter().all(|name| budgets.contains_key(*name)));
        assert!(budgets.keys().all(|name| names.contains(name)));
    }
}
