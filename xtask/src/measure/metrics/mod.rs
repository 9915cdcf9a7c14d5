//! `cargo xtask metrics`: what is measured at every change, its history, and whose a change is.

use anyhow::Result;
use argh::FromArgs;
use std::path::PathBuf;
use std::process::ExitCode;

use super::bench::Peer;
use super::readme;
use crate::build::docs;
use crate::lab::On;
use collect::Extent;

mod backfill;
pub mod blame;
pub mod check;
pub mod collect;
mod edivisive;
pub mod history;
mod idle;
mod import;
mod noise;
mod page;
pub mod proof;
mod revision;

pub mod suite;

/// Watch performance: measure, record, compare, find the commit, draw the page.
#[derive(FromArgs)]
#[argh(subcommand, name = "metrics")]
pub struct Args {
    #[argh(subcommand)]
    task: Task,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Task {
    Run(Run),
    Record(Record),
    Check(check::Args),
    Noise(noise::Args),
    Blame(blame::Args),
    Page(page::Args),
    Import(import::Args),
    Prove(proof::Args),
    Backfill(backfill::Args),
}

/// Measure the suite and show it.
#[derive(FromArgs)]
#[argh(subcommand, name = "run")]
struct Run {
    /// only what fits in five minutes
    #[argh(switch)]
    quick: bool,
    /// lab (default): L1 and its instruction clock; host: this machine's KVM and real time
    #[argh(option, default = "On::Lab")]
    on: On,
    /// a metric of a boot to leave out, or block; any number of times
    #[argh(option)]
    without: Vec<String>,
    /// file for the result, as a line of the history
    #[argh(option)]
    json: Option<PathBuf>,
}

/// Measure the suite and append it to xtask/measured/history.jsonl.
#[derive(FromArgs)]
#[argh(subcommand, name = "record")]
struct Record {
    /// only what fits in five minutes
    #[argh(switch)]
    quick: bool,
    /// lab (default): L1 and its instruction clock; host: this machine's KVM and real time
    #[argh(option, default = "On::Lab")]
    on: On,
    /// a metric of a boot to leave out, or block; any number of times
    #[argh(option)]
    without: Vec<String>,
    /// another VMM instead of brisk, any number of times: NAME@VERSION='COMMAND' as for bench, or qemu
    #[argh(option)]
    peer: Vec<Peer>,
}

/// Runs the task.
///
/// # Errors
/// Something could not be built, measured, read or written.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.task {
        Task::Run(args) => {
            let line = collect::measure(extent(args.quick), args.on, &args.without)?;
            print!("{}", collect::render(&line));
            if let Some(path) = &args.json {
                std::fs::write(path, line.text()? + "\n")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Task::Record(args) => {
            let lines = match &args.peer[..] {
                [] => vec![collect::measure(extent(args.quick), args.on, &args.without)?],
                peers => collect::peers(peers, args.on)?,
            };
            for line in &lines {
                print!("{}", collect::render(line));
                history::append(&history::path(), line)?;
            }
            // The pages are of what is recorded.
            docs::write()?;
            readme::recorded()?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Check(args) => check::run(args),
        Task::Noise(args) => noise::run(args),
        Task::Prove(args) => proof::run(args),
        Task::Import(args) => import::run(args),
        Task::Page(args) => page::run(args),
        Task::Blame(args) => blame::run(args),
        Task::Backfill(args) => backfill::run(args),
    }
}

fn extent(quick: bool) -> Extent {
    if quick { Extent::Quick } else { Extent::Full }
}
