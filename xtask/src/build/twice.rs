//! Whether a binary depends on nothing but its source: built from a copy elsewhere, it must be the
//! same bytes.

use anyhow::{Context, Result, ensure};
use duct::cmd;
use std::fs;
use std::path::Path;

use super::{Order, Product, make};
use crate::{cache, paths};

/// Builds `order` again from a copy of the source, in a target directory of its own.
///
/// # Errors
/// It does not build, or the bytes differ.
pub fn check(order: &Order<'_>, first: &Product) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("brisk-elsewhere-").tempdir()?;
    let source = dir.path().join("a/copy");
    copy(order.source, &source)?;
    let again = make(&Order { source: &source, target_dir: &dir.path().join("out"), ..*order })?;
    let sums = [first, &again].map(|product| cache::sum(&product.program));
    ensure!(
        sums[0] == sums[1],
        "built from {} the binary is another: {} {}",
        source.display(),
        sums[0],
        sums[1]
    );
    Ok(())
}

/// Copies what git knows or would add, as it is now.
fn copy(from: &Path, to: &Path) -> Result<()> {
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

/// Builds the smallest scenario twice, and one scenario by its features.
///
/// # Errors
/// Bytes differ.
pub fn check_usual() -> Result<u32> {
    let known = super::features::of_brisk()?.names();
    let (source, target_dir) = (paths::workspace(), &paths::target()?);
    let named = crate::build::scenario::find("pmem-hugepages", &known)?;
    let listed = super::adhoc("console,pmem,hugepages", &known)?;
    let order =
        |scenario| Order { source, target_dir, scenario, fixed: false, target: super::TARGET };
    let first = make(&order(&named))?;
    ensure!(make(&order(&listed))?.program == first.program, "--features and --scenario differ");
    check(&order(&named), &first)?;
    Ok(2)
}
