//! `cargo xtask setup`: installs and builds all that the other tasks need.

use anyhow::Result;
use argh::FromArgs;
use std::process::ExitCode;

use crate::cache::Cache;
use crate::guest::{images, init, kernel, stock};
use crate::{debian, lab, space};

/// Install missing Debian packages, build guest kernels, images and the lab.
#[derive(FromArgs)]
#[argh(subcommand, name = "setup")]
pub struct Args {}

/// Runs the task.
pub fn run(_args: &Args) -> Result<ExitCode> {
    let cache = Cache::open()?;
    space::for_setup(&cache)?;
    everything(&cache)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that all packages and artifacts are there.
///
/// # Errors
/// A package cannot be installed or an artifact cannot be built.
pub fn everything(cache: &Cache) -> Result<()> {
    debian::ensure(&debian::ALL)?;
    debian::ensure(debian::ENGINES)?;
    lab::ensure(cache)?;
    init::ensure(cache)?;
    for (_, config) in kernel::Config::ALL {
        kernel::ensure(cache, config)?;
    }
    images::ensure(cache)?;
    stock::ALL.iter().try_for_each(|stock| stock.ensure(cache).map(drop))
}
