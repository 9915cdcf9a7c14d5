//! Copies of the source.

use anyhow::{Context, Result};
use duct::cmd;
use std::fs;
use std::path::Path;

/// Copies what git knows or would add, as it is now.
///
/// # Errors
/// This is no checkout, or a file cannot be copied.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let words = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let list = cmd("git", words).dir(from).read().context("git ls-files")?;
    for name in list.lines() {
        let (from, to) = (from.join(name), to.join(name));
        if from.is_file() {
            fs::create_dir_all(to.parent().unwrap_or(&to))?;
            fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        }
    }
    Ok(())
}
