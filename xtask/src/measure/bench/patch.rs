//! Variants of brisk that only a comparison wants: patches for a copy of the source, so that nothing of
//! them is in the product.
//!
//! A change of the source may leave one behind: `cargo xtask test`, and `bench --check-patches` alone,
//! apply and compile each. To fix one, change the source as the patch would and keep `git diff -U1`.

use anyhow::{Context, Result, ensure};
use duct::cmd;
use std::fs;
use std::path::{Path, PathBuf};

use crate::build::{self, source};
use crate::paths;

/// One variant.
#[derive(PartialEq, Eq, Debug)]
pub struct Patch {
    name: &'static str,
    /// For `patch -p1`.
    text: &'static str,
}

/// A PCI bus number of eight bits, as others have it.
pub static BUSES: Patch =
    Patch { name: "256-buses", text: include_str!("patches/256-buses.patch") };
/// Routes in KVM's table for the vectors of MSI-X.
pub static ROUTES: Patch =
    Patch { name: "msix-routes", text: include_str!("patches/msix-routes.patch") };
/// Notifications to a thread.
pub static IOEVENTFD: Patch =
    Patch { name: "ioeventfd", text: include_str!("patches/ioeventfd.patch") };
/// The flag `--ab`.
pub static PLATFORM: Patch =
    Patch { name: "platform", text: include_str!("patches/platform.patch") };

static ALL: [&Patch; 4] = [&BUSES, &ROUTES, &IOEVENTFD, &PLATFORM];

impl Patch {
    /// Builds the variant with these features, as [`build::program`] does. Returns the program's path.
    ///
    /// # Errors
    /// The patch does not fit, or the source does not build with it.
    pub fn build(&self, features: &[&str]) -> Result<PathBuf> {
        let dir = directory()?;
        let source = dir.join("source");
        self.apply(&source)?;
        build::program_of(&source, &dir, &features.join(","), &format!("+{}", self.name))
    }

    /// Makes `source` a copy of the source with this patch.
    fn apply(&self, source: &Path) -> Result<()> {
        if source.exists() {
            fs::remove_dir_all(source).with_context(|| source.display().to_string())?;
        }
        source::copy(paths::workspace(), source)?;
        let output = cmd!("patch", "-p1", "--batch", "--fuzz=0", "--no-backup-if-mismatch")
            .dir(source)
            .stdin_bytes(self.text)
            .stderr_to_stdout()
            .stdout_capture()
            .unchecked()
            .run()
            .context("patch of package patch")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{}.patch does not fit:\n{said}", self.name);
        Ok(())
    }
}

/// Where variants are built: one place, so that what they depend on is compiled once.
fn directory() -> Result<PathBuf> {
    Ok(paths::target()?.join("patched"))
}

/// Applies each patch and compiles what comes of it. Returns how many there are.
///
/// # Errors
/// One does not fit, or does not compile.
pub fn check() -> Result<u32> {
    let dir = directory()?;
    let source = dir.join("source");
    for patch in ALL {
        patch.apply(&source)?;
        cmd!("cargo", "check", "--quiet", "--locked", "--package=brisk", "--lib")
            .dir(&source)
            .env("CARGO_TARGET_DIR", &dir)
            .run()
            .with_context(|| format!("with {}.patch", patch.name))?;
    }
    Ok(ALL.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_that_does_not_fit_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let text = "--- a/src/bus.rs\n+++ b/src/bus.rs\n@@ -1,1 +1,1 @@\n-no such line\n+x\n";
        let error = Patch { name: "wrong", text }.apply(&source).unwrap_err().to_string();
        assert!(error.starts_with("wrong.patch does not fit:\n"), "{error}");
    }
}
