//! A library that QEMU is started with, which mends its VMRUN.

use anyhow::{Context, Result};
use duct::cmd;
use std::fs;
use std::path::PathBuf;

use crate::cache::{Cache, Inputs};

/// What it mends, and how.
const SOURCE: &str = include_str!("../../lab/vmrun.c");

/// The library, made when it is not in the cache.
///
/// # Errors
/// There is no compiler, or the cache cannot be written.
pub fn ensure(cache: &Cache) -> Result<PathBuf> {
    let inputs = Inputs::new().with("source", SOURCE);
    let dir = cache.artifact("lab-vmrun", &inputs, |work, out| {
        let source = work.join("vmrun.c");
        fs::write(&source, SOURCE)?;
        cmd!("gcc", "-O2", "-shared", "-fPIC", "-o", out.join("vmrun.so"), source)
            .run()
            .context("cannot run gcc; try: cargo xtask setup")?;
        Ok(())
    })?;
    Ok(dir.join("vmrun.so"))
}
