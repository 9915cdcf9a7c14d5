//! Whether a binary depends on nothing but its source: built from a copy elsewhere, it must be the
//! same bytes.

use anyhow::{Result, ensure};

use super::{Order, Product, make, source};
use crate::{cache, paths};

/// Builds `order` again from a copy of the source, in a target directory of its own.
///
/// # Errors
/// It does not build, or the bytes differ.
pub fn check(order: &Order<'_>, first: &Product) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("brisk-elsewhere-").tempdir()?;
    let source = dir.path().join("a/copy");
    source::copy(order.source, &source)?;
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

/// Builds the smallest scenario twice, and one scenario by its features.
///
/// # Errors
/// Bytes differ.
pub fn check_usual() -> Result<u32> {
    let known = super::features::of_brisk()?.names();
    let (source, target_dir) = (paths::workspace(), &paths::target()?);
    let named = crate::build::scenario::find("pmem-hugepages", &known)?;
    let listed = super::adhoc("console,pmem,hugepages,seccomp", &known)?;
    let order =
        |scenario| Order { source, target_dir, scenario, fixed: false, target: super::TARGET };
    let first = make(&order(&named))?;
    ensure!(make(&order(&listed))?.program == first.program, "--features and --scenario differ");
    check(&order(&named), &first)?;
    Ok(2)
}
