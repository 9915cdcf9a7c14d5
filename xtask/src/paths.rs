//! Where things are.

use anyhow::{Context, Result};
use std::env;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The workspace's directory: as `cargo xtask` says, which holds for a checkout that was moved or
/// shares its target directory with another one, too.
pub fn workspace() -> &'static Path {
    static XTASK: LazyLock<PathBuf> = LazyLock::new(|| {
        env::var_os("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into())
            .into()
    });
    XTASK.parent().unwrap_or(&XTASK)
}

/// cargo's target directory, absolute.
///
/// # Errors
/// The working directory is gone.
pub fn target() -> Result<PathBuf> {
    let dir = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    // cargo takes a relative one from the working directory, and its own from the workspace.
    if env::var_os("CARGO_TARGET_DIR").is_some() {
        return std::path::absolute(dir).context("the working directory");
    }
    Ok(workspace().join(dir))
}

/// A path as a value within one of brisk's flags: with a comma in it it is in quotes, and a quote is two.
pub fn flag(path: &str) -> String {
    match path.contains([',', '"']) {
        true => format!("\"{}\"", path.replace('"', "\"\"")),
        false => path.to_owned(),
    }
}
