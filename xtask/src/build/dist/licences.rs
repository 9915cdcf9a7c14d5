//! The licences of what is in the binaries.

use anyhow::{Context, Result, bail};
use duct::cmd;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::build::musl;
use crate::paths;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
}

/// Every crate that is linked into a full build, its licence and the text that its authors ship.
///
/// # Errors
/// A crate names no licence.
pub fn of_all(target: &str) -> Result<String> {
    let linked = linked(target)?;
    let words = ["metadata", "--format-version=1", "--filter-platform", target];
    let text = cmd("cargo", words).dir(paths::workspace()).read().context("cargo metadata")?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
    let mut page = "Crates that are linked into brisk, and their licences.\n".to_owned();
    // Many crates ship the same text: it stands here once.
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in metadata.packages {
        let id = format!("{} {}", package.name, package.version);
        if package.source.is_none() || !linked.contains(&id) {
            continue;
        }
        let Some(licence) = &package.license else { bail!("{id} names no licence") };
        writeln!(page, "  {id}: {licence}")?;
        for text in texts_of(package.manifest_path.parent().context("no directory")?)? {
            texts.entry(text).or_default().push(id.clone());
        }
    }
    page += "  The Rust standard library: MIT OR Apache-2.0\n";
    page += "  musl, in static binaries: MIT\n";
    page += "  The GNU C library, in binaries made with --static=glibc only: LGPL-2.1-or-later\n";
    texts.entry(musl::copyright()?).or_default().push("musl".to_owned());
    for (text, crates) in texts {
        write!(page, "\n{}\n{}\n\n{text}\n", "=".repeat(72), crates.join(", "))?;
    }
    Ok(page)
}

/// Name, version and licence of every crate that is linked into a full build.
///
/// # Errors
/// cargo failed.
pub fn list(target: &str) -> Result<BTreeMap<String, String>> {
    let linked = linked(target)?;
    let words = ["metadata", "--format-version=1", "--filter-platform", target];
    let text = cmd("cargo", words).dir(paths::workspace()).read().context("cargo metadata")?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
    let named = |package: Package| {
        let id = format!("{} {}", package.name, package.version);
        let ours = package.source.is_some() && linked.contains(&id);
        ours.then(|| (id, package.license.unwrap_or_default()))
    };
    Ok(metadata.packages.into_iter().filter_map(named).collect())
}

/// Names and versions of the crates in a full build, without what only runs in the compiler.
fn linked(target: &str) -> Result<BTreeSet<String>> {
    let words = "tree --quiet --package=brisk --edges=normal,no-proc-macro --prefix=none --target";
    let words = words.split(' ').chain([target]);
    let text = cmd("cargo", words).dir(paths::workspace()).read().context("cargo tree")?;
    let name = |line: &str| {
        let mut words = line.split_whitespace();
        Some(format!("{} {}", words.next()?, words.next()?.strip_prefix('v')?))
    };
    Ok(text.lines().filter_map(name).collect())
}

/// The texts in a crate's directory.
fn texts_of(dir: &Path) -> Result<Vec<String>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        path.is_file()
            && ["LICENSE", "LICENCE", "COPYING", "NOTICE"].iter().any(|n| name.starts_with(n))
    };
    let read = |path: PathBuf| Ok(fs::read_to_string(path)?.trim().replace("\r\n", "\n"));
    paths.into_iter().filter(named).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_and_nothing_else() {
        let page = of_all(crate::build::TARGET).unwrap();
        assert!(page.contains("  kvm-ioctls ") && page.contains("  libc "), "{page}");
        assert!(!page.contains("  syn ") && !page.contains("  proptest "));
        assert!(page.contains("Permission is hereby granted"));
        assert!(page.contains("Rich Felker"), "musl's notice");
    }
}
