//! Whether a binary depends on nothing but its source: built from a copy elsewhere, it must be the
//! same bytes.

use anyhow::{Result, ensure};
use duct::cmd;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Libc, Order, Product, make, source};
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

/// Builds a brisk that has a fault planted in it, each way in which it is shipped: its own handler is
/// what says so.
///
/// # Errors
/// It does not build, or says something else.
pub fn check_last_words() -> Result<u32> {
    const BEGIN: &str = "    descriptors::fill_standard();\n";
    let known = super::features::of_brisk()?.names();
    let scenario = crate::build::scenario::find("function", &known)?;
    let dir = tempfile::Builder::new().prefix("brisk-fault-").tempdir()?;
    let source = dir.path().join("source");
    source::copy(paths::workspace(), &source)?;
    let main = source.join("src/lib.rs");
    let text = fs::read_to_string(&main)?;
    ensure!(text.contains(BEGIN), "brisk::main does not begin with {BEGIN}");
    let planted = "    assert!(arguments.is_empty(), \"planted\");\n    \
                   let many = vec![1_u8; isize::MAX as usize];\n    \
                   descriptors::say(&many.len().to_string());\n";
    fs::write(&main, text.replacen(BEGIN, &format!("{BEGIN}{planted}"), 1))?;
    let target_dir = &dir.path().join("target");
    let kinds = [Libc::Dynamic, Libc::Musl, Libc::Glibc];
    for libc in kinds {
        let order =
            Order { source: &source, target_dir, scenario: &scenario, libc, target: super::TARGET };
        let path = dir.path().join(format!("brisk-{}", libc.place()));
        fs::write(&path, make(&order)?.program)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        for (words, says) in [(&["--version"][..], "planted"), (&[], "brisk: no memory for ")] {
            let ran = cmd(&path, words).stderr_capture().unchecked().run()?;
            let text = String::from_utf8_lossy(&ran.stderr);
            ensure!(ran.status.code() == Some(1) && text.contains(says), "{libc:?}: {ran:?}");
            ensure!(!text.contains("RUST_BACKTRACE"), "{libc:?}: {text}");
        }
    }
    Ok(2 * kinds.len() as u32)
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
    let order = |scenario| Order {
        source,
        target_dir,
        scenario,
        libc: Libc::Dynamic,
        target: super::TARGET,
    };
    let first = make(&order(&named))?;
    ensure!(make(&order(&listed))?.program == first.program, "--features and --scenario differ");
    check(&order(&named), &first)?;
    Ok(2)
}
